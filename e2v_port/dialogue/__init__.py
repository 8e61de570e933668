"""Dialogues for a speech language model: remarks in different tones of voice, each with a fitting reply.

    replies.py   what to answer to a tone of voice: taxonomy/replies.json
    prepare.py   corpora of labeled speech to remarks with replies, split and balanced
    rewrite.py   replies in other words, by a language model at an endpoint
    features.py  what the encoders make of each remark, computed once and kept in files
    examples.py  all of that read back
    recipe.py    settings of the training
    augment.py   changed features in training
    align.py     stage 1: the adapter, with a frozen language model
    tune.py      stage 2: the adapter and the language model

docs/dialogue.md explains how to use them.
"""
