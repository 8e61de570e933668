"""Types of clips and waveforms, and names of clips for messages."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from e2v_port.errors import AudioError, cut, quoted
from e2v_port.files import printable

__all__ = [
    "MAX_AMPLITUDE",
    "MAX_CHANNELS",
    "MIN_SAMPLES",
    "SAMPLING_RATE",
    "Clip",
    "Waveform",
    "check_clips",
    "clip_name",
    "naming_clip",
]

Clip: TypeAlias = str | os.PathLike[str] | BinaryIO | NDArray[Any]
Waveform: TypeAlias = NDArray[np.float32]

SAMPLING_RATE = 16_000  # Hz, the rate of every model here
MIN_SAMPLES = 400  # 25 ms: the receptive field of the convolutions; a shorter clip has no frame
MAX_CHANNELS = 64
# Full scale is 1. Float recordings exceed it, but not by 40 dB: such a clip is in units of int16, or garbage whose
# square can overflow in a model's normalization.
MAX_AMPLITUDE = 100.0


def clip_name(clip: Clip) -> str:
    """Returns the name of a clip in errors and results.

    Args:
        clip: A clip, as in `load_audio`.

    Returns:
        A path as given; a file object's `name` if that is a string; otherwise its type: "array", "BytesIO".
    """
    if isinstance(clip, str | os.PathLike):
        return os.fsdecode(clip)
    if isinstance(clip, np.ndarray):
        return "array"
    name = getattr(clip, "name", None)
    return name if isinstance(name, str) else type(clip).__name__


def check_clips(clips: object) -> None:
    """Raises TypeError for one clip in place of several, such as a path, whose letters would be taken for clips."""
    single = isinstance(clips, str | bytes | os.PathLike) or hasattr(clips, "read") or getattr(clips, "ndim", 2) < 2
    if single or not isinstance(clips, Iterable):
        raise TypeError(f"clips must be several clips, not {quoted(clips)}: pass a list, as in [clip]")


@contextmanager
def naming_clip(clip: Clip) -> Iterator[None]:
    """Puts the name of the clip in front of an error's message.

    Raises:
        AudioError: The error raised inside, or an OSError raised inside, with the clip's name.
    """
    try:
        yield
        return
    except AudioError as error:
        why, cause = str(error), error.__cause__
    except OSError as error:
        why, cause = f"cannot be read ({error.strerror or error}): pass a readable file", error
    name = clip_name(clip)
    raise AudioError(f"{cut(printable(name) or ascii(name))}: {why}") from cause
