"""Dialogues for a speech language model: remarks in different tones of voice, each with a fitting reply.

    replies.py   what to answer to a tone of voice: taxonomy/replies.json
    prepare.py   corpora of labeled speech to remarks with replies, split and balanced
    features.py  what the encoders make of each remark, computed once and kept in files

docs/dialogue.md explains how to use them.
"""
