"""Whole corpora to Parquet tables: `e2v corpus`, see docs/corpora.md. Needs `pip install "e2v-port[batch]"`.

    sources.py -> folder.py -> machine.py or cluster.py -> decoding.py -> rows.py         -> folder.py -> report.py
    clips         shards       one machine, or Ray         segments       models, Parquet    files        figures

`run.run` runs all of it. Nothing is imported here, since every decoding process would have to wait for it.
"""
