"""Answers without emotions: what they say, and how judgements are removed from one."""

from collections.abc import Mapping
from typing import Any

__all__ = ["NO_REPLIES", "NO_REPLY", "NO_TEXT", "NO_WORDS", "OFF", "unjudged"]

NO_REPLIES = "this service does not reply: start it with --reply FOLDER (see e2v dialogue train)"
NO_REPLY = "emotion analysis is switched off, and a reply depends on it: switch it on"
NO_TEXT = "language belongs to words: add words=true, or leave it out"
NO_WORDS = "this service reads no words: start it with --words MODEL"
OFF = "emotion analysis is switched off"  # reason in answers


def unjudged(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Removes every trace of an emotion from an answer, for an analysis that was switched off in the meantime."""
    return {
        **{name: value for name, value in answer.items() if name != "turns"},  # which end where an emotion changes
        "reason": OFF,
        "context": "",
        "segments": [{**segment, "emotion": None} for segment in answer["segments"]],
        "boundaries": None if answer["boundaries"] is None else [],
    }
