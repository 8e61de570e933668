"""Which clips have the same sound: copies of a recording in two sets, and clips that a model was trained on."""

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from e2v_port.architectures.config import TrainedOn
from e2v_port.audio import AudioStream
from e2v_port.errors import AudioError
from e2v_port.evaluation.datasets import Utterance
from e2v_port.evaluation.results import Seen

__all__ = ["seen_in_training", "sounds", "trained_on", "without_copies"]

_BYTES = 8  # of a hash: among a million clips, two equal ones by chance have a probability of 3e-8
_SHOWN = 3


def sounds(clips: Sequence[Utterance]) -> list[bytes]:
    """Returns a hash of the samples of each clip; empty for one that cannot be read.

    Samples are rounded to 16 bits at their own rate. So a recording is found again under another name, in another
    corpus and in another lossless format. It is not found after it was cut, amplified, resampled or compressed.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [*pool.map(_sound, (clip.file for clip in clips))]


def _sound(file: Path) -> bytes:
    hashed = hashlib.sha256()
    try:
        with AudioStream(file, resample=False) as stream:
            for block in stream:
                hashed.update(np.rint(block * 32768).astype("<i4").data)
            hashed.update(str(stream.rate).encode())
    except AudioError:
        return b""
    return hashed.digest()[:_BYTES]


def without_copies(
    parts: Mapping[str, Sequence[Utterance]],
) -> tuple[dict[str, list[Utterance]], dict[str, list[bytes]], list[str]]:
    """Leaves out clips of `train` that sound the same as clips of `dev` or `test`, and clips of `dev` as of `test`.

    Returns:
        The remaining clips of each part, their sounds, and a note for each part that lost clips.
    """
    kept: dict[str, list[Utterance]] = {}
    heard: dict[str, list[bytes]] = {}
    firsts: dict[bytes, tuple[str, Utterance]] = {}
    notes = []
    for part in ("test", "dev", "train"):
        pairs = [*zip(parts[part], sounds(parts[part]), strict=True)]
        copies = [(clip, *firsts[sound]) for clip, sound in pairs if sound in firsts]
        remaining = [(clip, sound) for clip, sound in pairs if sound not in firsts]
        kept[part], heard[part] = [clip for clip, _ in remaining], [sound for _, sound in remaining]
        firsts.update({sound: (part, clip) for clip, sound in remaining if sound})
        if copies:
            named = ", ".join(
                f"{clip.corpus}: {clip.file.name} = {first.corpus}: {first.file.name}, in {where}"
                for clip, where, first in copies[:_SHOWN]
            )
            more = f" and {len(copies) - _SHOWN} more" if len(copies) > _SHOWN else ""
            notes.append(f"clips left out of {part}, since another set has the same recording: {named}{more}")
    return {part: kept[part] for part in parts}, heard, notes


def trained_on(parts: Mapping[str, Sequence[Utterance]], heard: Mapping[str, Sequence[bytes]]) -> TrainedOn:
    """Returns what is stored with a model of the clips it was trained on."""
    speakers = {part: tuple(sorted(set().union(*map(_names, parts[part])))) for part in ("train", "dev")}
    clips = {part: base64.b64encode(b"".join(sorted({*heard[part]}))).decode() for part in ("train", "dev")}
    return TrainedOn(speakers["train"], speakers["dev"], clips["train"], clips["dev"])


def seen_in_training(
    known: Sequence[TrainedOn], calibrated_on: Sequence[str], clips: Sequence[Utterance]
) -> dict[str, Seen] | None:
    """Returns which clips a model was trained on or chosen by, by their speakers and their sounds.

    A speaker is also recognized by the file's name (`Utterance.known_as`): the clips of a published corpus are known
    in any folder, table and format, cut and amplified.

    Args:
        known: Who the model was trained on, as in its config.json.
        calibrated_on: Speakers that its temperature was fitted on, as there.
        clips: Clips to look for.

    Returns:
        The clips in `train` and in `dev` of the training; those in `corpus`, of other speakers of the same corpora; and
        those in `calibration`. None if nothing is known about training and calibration.
    """
    if not known and not calibrated_on:
        return None
    heard = sounds(clips) if any(each.train_clips or each.dev_clips for each in known) else [b""] * len(clips)
    found = {
        "train": _matching(clips, heard, [each.train for each in known], [each.train_clips for each in known]),
        "dev": _matching(clips, heard, [each.dev for each in known], [each.dev_clips for each in known]),
        "calibration": _matching(clips, heard, [calibrated_on], []),
    }
    familiar = {corpus for each in known for corpus in each.corpora}
    found["corpus"] = {
        i: min(_names(clip))
        for i, clip in enumerate(clips)
        if i not in found["train"] | found["dev"] and {name.partition("/")[0] for name in _names(clip)} & familiar
    }
    return {part: Seen(len(speakers), tuple(sorted({*speakers.values()}))) for part, speakers in found.items()}


def _names(clip: Utterance) -> set[str]:
    """Returns the names of a clip's speaker: in its corpus, and in the published corpus that its file is from."""
    return {clip.speaker, clip.known_as or clip.speaker}


def _matching(
    clips: Sequence[Utterance], heard: Sequence[bytes], names: Sequence[Sequence[str]], stored: Sequence[str]
) -> dict[int, str]:
    """Returns the positions of the clips that are known, each with the name its speaker is known by."""
    speakers = {speaker for listed in names for speaker in listed}
    data = b"".join(base64.b64decode(each) for each in stored)
    hashes = {data[at : at + _BYTES] for at in range(0, len(data), _BYTES)}
    found = {}
    for i, (clip, sound) in enumerate(zip(clips, heard, strict=True)):
        known = _names(clip) & speakers
        if known or sound in hashes:
            found[i] = min(known, default=clip.speaker)
    return found
