"""The Zaion Emotion Dataset: which emotion appears when in each clip (Wang et al. 2023, arXiv 2306.12991)."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from e2v_port.errors import CorpusError, quoted
from e2v_port.evaluation.datasets import Event, Utterance, label_of

__all__ = ["read_zed"]

_FOLDER = "datafolder"  # stands for the folder of the corpus in the paths of ZED.json


def read_zed(folder: Path) -> tuple[list[Utterance], list[str]]:
    """Lists the clips of ZED.json, which the folder holds.

    It is an object of clips by name, as speechbrain's recipe ZaionEmotionDataset reads it:

        {"spk1_1": {"wav": "datafolder/spk1_1.wav", "duration": 5.4, "transcription": "...",
                    "emotion": [{"emo": "angry", "start": 1.016, "end": 5.4}]}}

    The sound outside of the annotated emotions is neutral. The speaker of a clip is its name without the number at its
    end. All clips are for testing. The duration is taken from the sound, not from this file.

    Args:
        folder: Folder with ZED.json.

    Returns:
        The clips, and no remarks: what cannot be read is an error.

    Raises:
        CorpusError: ZED.json is missing or of another form; the message names the clip.
    """
    table = folder / "ZED.json"
    try:
        clips = json.loads(table.read_text("utf-8-sig"))
    except OSError as error:
        raise CorpusError(
            f"zed={folder}: ZED.json cannot be read ({error.strerror or error}): pass its folder"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{table}: not JSON ({error}): download it again") from error
    if not isinstance(clips, dict) or not clips:
        raise CorpusError(f"{table}: not an object of clips by name: use the file of the corpus")
    utterances = []
    for name, clip in sorted(clips.items()):
        try:
            utterances.append(_utterance(folder, name, clip))
        except (KeyError, TypeError, ValueError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise CorpusError(f"{table}, {name}: {why}: correct this clip or delete it") from error
    return utterances, []


def _utterance(folder: Path, name: str, clip: Any) -> Utterance:
    """Returns a clip; raises KeyError, TypeError or ValueError if its entry is invalid."""
    events = sorted((_event(entry) for entry in clip["emotion"]), key=lambda event: event.start)
    for event, following in pairwise(events):
        if following.start < event.end:
            raise ValueError(f"two emotions from {following.start} to {event.end} s, where only one has a place")
    wav = clip["wav"]
    if not isinstance(wav, str):
        raise TypeError(f"wav is {quoted(wav)}, not a path")
    return Utterance(
        file=Path(wav.replace(_FOLDER, str(folder), 1)) if _FOLDER in wav else folder / wav,
        label=None,  # of the clip as a whole
        original="",
        speaker=f"zed/{re.sub(r'_[0-9]+$', '', name)}",
        sex=None,
        corpus="zed",
        dimensions=None,
        split="test",
        events=tuple(events),
    )


def _event(entry: Any) -> Event:
    label = label_of(entry["emo"])
    start, end = float(entry["start"]), float(entry["end"])
    if label is None:
        raise ValueError(f"no emotion is known as {quoted(entry['emo'])}")
    if not (0 <= start < end and math.isfinite(end)):
        raise ValueError(f"an emotion from {start} to {end} s")
    return Event(start, end, label)
