"""Training: a small network from scratch, or a head on embeddings or layers of a converted model.

    task.py          the clips and the outputs to learn; progress; resuming
    recipe.py        settings of the network from scratch
    augmentation.py  changes to a waveform on its way to a recording
    telephony.py     codecs of telephones and calls
    clips.py         the clips and their augmented copies, on disk
    teacher.py       what a converted model makes of the clips
    network.py       the network in training
    scratch.py       trains it
    head.py          trains a head for an existing model
    features.py      what it learns from, computed once and kept in files
    pooling.py       its readout of layers, with weights and attention to learn
    objective.py     its loss and its figures
    finetuning.py    trains the last blocks of the model with it
    report.py        the report of either

docs/training.md explains how to use them.
"""
