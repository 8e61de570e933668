"""Evaluation: corpora of labeled speech, and how often a model is right on them.

    datasets.py     corpora and their clips; labels under emotion2vec's names
    readers/        the clips of a corpus, from its files or a csv
    splits.py       train, dev and test, by speaker
    sounds.py       copies of a recording, and clips known from a training
    metrics.py      recall, F1, calibration error, risk and coverage, concordance
    bootstrap.py    confidence intervals
    results.py      the figures of a model on a corpus
    calibration.py  temperature scaling, on corpora left out
    evaluate.py     a model and a corpus to results
    comparison/     several models on the same clips
    conditions.py   excerpts, a telephone, a room, noise, other voices
    diarization.py  which emotion appears when: the error rate
    probe.py        which layer of a model carries the labels
    report.py, plots.py

docs/evaluation.md explains the figures.
"""
