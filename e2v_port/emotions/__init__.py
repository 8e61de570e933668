"""The meaning of a judgement: the 26 emotions, fusion of two models, changes within a segment, trends over minutes.

Pure: nothing here reaches a model.
"""
