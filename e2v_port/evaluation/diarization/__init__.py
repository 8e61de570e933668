"""Which emotion appears when: annotations with times, and the error rate on them.

error_rate.py   EDER, of one clip and of a model on many
zed.py          the Zaion Emotion Dataset, and annotations in its form
"""
