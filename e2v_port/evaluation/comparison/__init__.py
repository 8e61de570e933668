"""Several models on the same clips: which is right more often, how sure that is, and what it costs.

pairs.py      two models: the difference of their figures, McNemar's test
compare.py    runs the models
report.py     the comparison as one table, for a terminal and as Markdown
"""
