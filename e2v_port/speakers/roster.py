"""Voices that are known by name: an embedding of each, never its audio, and the file that keeps them."""

import base64
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import Note
from e2v_port.errors import RosterError, cut, need, number, quoted
from e2v_port.files import printable, replacing
from e2v_port.models.model import Model
from e2v_port.speech.enrolment import as_read, is_stranger, letters

__all__ = ["LEAST_SECONDS", "Roster", "Voice", "default_path", "mean_of", "threshold_of"]

Vector = NDArray[np.float32]

# Least similarity at which 4 s of speech count as an enrolled voice, by the hash of the encoder's published weights.
_THRESHOLDS = {
    # Resemblyzer's pretrained.pt: see docs/enrolment.md, and benchmarks/verification.py.
    "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e": 0.82,
}
# How much lower or higher it is for other lengths, in seconds, so that as few other voices are accepted: the more is
# heard of two voices, the more alike they are.
_BY_LENGTH = {1.0: -0.085, 2.0: -0.02, 4.0: 0.0, 8.0: 0.025}
PIECE = 2.0
"""Longer speech is also compared in pieces of at least this length, in seconds: nobody else may speak in it."""
# How far such a piece may fall below the similarity that a voice needs: the speech of one person varies.
_FOREIGN = 0.12
LEAST_SECONDS = 5.0
ENOUGH_SECONDS = 10.0  # of speech that the figures in docs/enrolment.md are of
"""Least speech that a voice is enrolled from, in seconds. From 10 on it is told apart as well as it ever is: see
docs/enrolment.md."""

# Names that clips give to voices and channels nobody named: `speaker 2`, `SPEAKER_01`, `left`, `channel 3`.
_GIVEN_BY_PROGRAMS = re.compile(r"(speaker|channel|voice)[\s_-]*\d*|left|right|mix|unknown|nobody|none")
_LONGEST_NAME = 100
_FORMAT = "e2v-port voices 1"
_MOST_BYTES = 1 << 26  # of a file; a voice has 1.5 kB
_NO_ROSTER = "not a file of enrolled voices of this version: enroll them again with `e2v enroll`"


def default_path() -> Path:
    """Returns the file of the user's enrolled voices.

    `$E2V_VOICES` where it is set; otherwise `voices.json` in the user's data folder, `$XDG_DATA_HOME/e2v-port`, by
    default `~/.local/share/e2v-port` (`~/Library/Application Support/e2v-port` on macOS).

    Raises:
        RosterError: The user has no home folder.
    """
    if named := os.environ.get("E2V_VOICES"):
        return Path(named)
    if data_home := os.environ.get("XDG_DATA_HOME"):
        return Path(data_home, "e2v-port", "voices.json")
    inside = "Library/Application Support" if sys.platform == "darwin" else ".local/share"
    try:
        return Path.home() / inside / "e2v-port" / "voices.json"
    except RuntimeError as error:
        raise RosterError("no place for enrolled voices, since this user has no home: set E2V_VOICES") from error


def threshold_of(encoder: Model) -> float | None:
    """Returns the measured similarity from which a voice counts as an enrolled one; None for an unmeasured encoder."""
    return _THRESHOLDS.get(encoder.config.source.sha256)


def mean_of(embeddings: Sequence[Vector], seconds: Sequence[float] | None = None) -> Vector:
    """Returns the mean of embeddings as a vector of length 1.

    Args:
        embeddings: One or more vectors [dim] that are finite and not zero; each counts with length 1.
        seconds: Weight of each; by default all are equal.

    Returns:
        [dim], float32.

    Raises:
        RosterError: There is no embedding, or one is of another size, not finite or zero.
    """
    rows = [np.asarray(row, np.float64) for row in embeddings]
    if not rows or any(row.ndim != 1 or row.shape != rows[0].shape for row in rows):
        raise RosterError("embeddings of a voice must be one or more vectors of one size")
    lengths = [float(np.linalg.norm(row)) for row in rows]
    if not all(0 < length < math.inf for length in lengths):
        raise RosterError("an embedding of a voice is zero or not finite: leave that clip out")
    weights = [1.0] * len(rows) if seconds is None else [*map(float, seconds)]
    total = np.sum([w * row / length for w, row, length in zip(weights, rows, lengths, strict=True)], axis=0)
    length = float(np.linalg.norm(total))
    if not length > 0:
        raise RosterError("the embeddings of a voice cancel each other: enroll one voice at a time")
    return np.asarray(total / length, np.float32)


@dataclass(frozen=True, eq=False)
class Voice:
    """A voice that is enrolled. It is biometric data: delete it when it is no longer needed.

    Attributes:
        name: Name of the speaker.
        embedding: Mean of the embeddings of the speech, [dim], float32, of length 1.
        seconds: Speech that it was made from, in seconds.
        clips: Number of clips that held this speech.
        enrolled: Day on which it was enrolled, in UTC, such as 2026-05-31.
    """

    name: str
    embedding: Vector
    seconds: float
    clips: int
    enrolled: str


class Roster:
    """Voices that are known by name. Reading it from several threads is safe.

    Args:
        encoder: Name of the speaker encoder that made the embeddings.
        sha256: Hash of its published weights.
        threshold: Least cosine similarity at which 4 s of speech count as an enrolled voice, 0 to 1.
        voices: Voices, each with a name of its own.

    Raises:
        RosterError: Names are not allowed, or two are the same; or the embeddings differ in size.
        ValueError: The threshold is out of range.
    """

    def __init__(self, encoder: str, sha256: str, threshold: float, voices: Iterable[Voice] = ()) -> None:
        self.encoder, self.sha256 = encoder, sha256
        self.threshold = number("threshold", threshold, 0.0, 1.0)
        self._voices: dict[str, Voice] = {}
        for voice in voices:
            self._add(voice)

    @classmethod
    def of(cls, encoder: Model, threshold: float | None = None) -> Self:
        """Makes a roster without voices for a speaker encoder.

        Args:
            encoder: A model that embeds voices.
            threshold: Least similarity, as for `Roster`; by default the measured one of this encoder.

        Raises:
            RosterError: The model is no speaker encoder; or nothing was measured for it, and no threshold is given.
        """
        need("encoder", encoder, Model)
        source = encoder.config.source
        if not encoder.config.architecture.speakers:
            raise RosterError(f"{source.repository} is no speaker encoder: use bundled-voices")
        threshold = threshold_of(encoder) if threshold is None else threshold
        if threshold is None:
            raise RosterError(
                f"{source.repository}: no threshold was measured for this speaker encoder: give one (--threshold), "
                f"as benchmarks/verification.py measures it"
            )
        return cls(source.repository, source.sha256, threshold)

    def __len__(self) -> int:
        return len(self._voices)

    def __contains__(self, name: str) -> bool:
        return as_read(name) in self._voices

    def __repr__(self) -> str:
        return f"Roster({self.encoder}; {', '.join(self.names) or 'nobody'})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the voices, in the order they were enrolled."""
        return tuple(voice.name for voice in self._voices.values())

    @property
    def voices(self) -> tuple[Voice, ...]:
        """The voices, in the order they were enrolled."""
        return tuple(self._voices.values())

    def voice(self, name: str) -> Voice:
        """Returns the voice of a name.

        Raises:
            RosterError: Nobody of this name is enrolled.
        """
        if name not in self:
            raise RosterError(f"nobody named {quoted(name)} is enrolled: {', '.join(self.names) or 'nobody is'}")
        return self._voices[as_read(name)]

    def limited(self, names: Iterable[str]) -> "Roster":
        """Returns a roster of some of the voices.

        Raises:
            RosterError: Nobody of one of these names is enrolled.
        """
        return Roster(self.encoder, self.sha256, self.threshold, [self.voice(name) for name in names])

    def enroll(
        self, name: str, embeddings: Sequence[Vector], seconds: Sequence[float], *, clips: int | None = None
    ) -> list[Note]:
        """Enrolls a voice, or replaces the one of this name.

        Args:
            name: Name of the speaker: any but those that programs give to unknown voices, such as `speaker 1`. Names
                are compared as people read them, without regard to case and blanks.
            embeddings: Embeddings of stretches of the speech, each [dim].
            seconds: Speech in each, in seconds.
            clips: Number of clips that held it; by default one for each embedding.

        Returns:
            Notes on what looks wrong: `little_speech`, `replaced`, `several_voices` and `enrolled_twice`.

        Raises:
            RosterError: The name is not allowed, the speech is too short, or the embeddings are of another size.
        """
        total = math.fsum(seconds)
        if total < LEAST_SECONDS:
            raise RosterError(
                f"{quoted(name)}: {total:.1f} s of speech are too little to know a voice by: give at least "
                f"{LEAST_SECONDS:g} s, better {ENOUGH_SECONDS:g}"
            )
        checked = _checked_name(name)
        embedding = mean_of(embeddings, seconds)
        known = self._voices.get(as_read(checked))
        notes = []
        if total < ENOUGH_SECONDS:
            text = (
                f"{total:.1f} s of speech are little: from {ENOUGH_SECONDS:g} s on, the voice is recognized more often"
            )
            notes.append(Note("little_speech", text))
        if known:
            kept = float(known.embedding @ embedding) if known.embedding.shape == embedding.shape else 0.0
            unlike = "" if kept >= self.needed(total) else ", a voice that sounds different"
            notes.append(Note("replaced", f"{known.name} was enrolled on {known.enrolled} and is replaced{unlike}"))
        notes += self._several(checked, embeddings, seconds)
        voice = Voice(checked, embedding, total, len(embeddings) if clips is None else clips, f"{datetime.now(UTC):%F}")
        others = [other for other in self._voices.values() if other is not known]
        self._check_size(voice, others)
        for other in others:
            if (alike := float(other.embedding @ embedding)) >= self.needed(total):
                text = f"{checked} sounds like {other.name}, who is enrolled (similarity {alike:.2f}): "
                notes.append(Note("enrolled_twice", f"{text}recordings of one may count as the other"))
        self._voices[as_read(checked)] = voice
        return notes

    def _several(self, name: str, embeddings: Sequence[Vector], seconds: Sequence[float]) -> list[Note]:
        """Returns a note if the speech falls into two groups that do not sound like one voice."""
        usable = [
            (mean_of([each]), length) for each, length in zip(embeddings, seconds, strict=True) if length >= PIECE
        ]
        if len(usable) < 2:
            return []
        rows = np.stack([row for row, _ in usable])
        ends = np.unravel_index(np.argmin(rows @ rows.T), (len(rows), len(rows)))  # the two that are least alike
        nearer = np.argmax(rows @ rows[[*ends]].T, axis=1)
        groups = [[pair for pair, end in zip(usable, nearer, strict=True) if end == side] for side in (0, 1)]
        if not all(groups):
            return []
        spans = [sum(length for _, length in group) for group in groups]
        one, other = (mean_of([row for row, _ in group], [length for _, length in group]) for group in groups)
        alike = float(one @ other)
        if alike >= self.needed(min(spans)) - _FOREIGN:
            return []
        parts = (
            f"{spans[0]:.1f} s and {spans[1]:.1f} s of the speech do not sound like one voice (similarity {alike:.2f})"
        )
        return [Note("several_voices", f"{parts}: check that nobody but {name} speaks in it")]

    def delete(self, name: str) -> Voice:
        """Deletes a voice and returns it.

        Raises:
            RosterError: Nobody of this name is enrolled.
        """
        voice = self.voice(name)
        del self._voices[as_read(name)]
        return voice

    def needed(self, seconds: float) -> float:
        """Returns the similarity from which speech of a length counts as an enrolled voice.

        Args:
            seconds: Length of the speech without its pauses, in seconds.
        """
        if self.sha256 not in _THRESHOLDS:
            return self.threshold
        lengths = np.log2([*_BY_LENGTH])
        return self.threshold + float(np.interp(math.log2(max(seconds, 1e-3)), lengths, [*_BY_LENGTH.values()]))

    def identify(
        self, embedding: Vector, seconds: float = 4.0, pieces: Sequence[Vector] = ()
    ) -> tuple[str | None, float]:
        """Returns whose voice an embedding is, and how similar it is to that voice.

        Args:
            embedding: Embedding of speech, [dim], by the encoder of this roster.
            seconds: Length of that speech without its pauses, in seconds.
            pieces: Embeddings of pieces of that speech, of `PIECE` seconds or more.

        Returns:
            The name of the most similar voice and the cosine similarity, -1 to 1. None in place of the name where the
            similarity is below what the length of the speech needs, where two voices are about as similar, or where
            one of the pieces is clearly of another voice: never just the nearest name.

        Raises:
            RosterError: The embedding is of another size, not finite or zero.
        """
        if not self._voices:
            return None, -1.0
        heard = mean_of([embedding])
        self._check_size(Voice("", heard, 0.0, 0, ""), self._voices.values())
        alike = sorted(((float(voice.embedding @ heard), voice.name) for voice in self._voices.values()), reverse=True)
        best, name = alike[0]
        certain = best >= self.needed(seconds) and (len(alike) == 1 or best - alike[1][0] >= _MARGIN)
        certain = certain and not any(self.foreign(name, piece) for piece in pieces)
        return (name if certain else None), best

    def foreign(self, name: str, piece: Vector, seconds: float = PIECE) -> bool:
        """Returns whether `PIECE` seconds of speech or more are clearly of another voice than the one of a name.

        Args:
            name: Name of an enrolled voice.
            piece: Embedding of the speech, [dim].
            seconds: Length of the speech; from twice `PIECE` on, half the distance is clear.
        """
        clear = _FOREIGN / 2 if seconds >= 2 * PIECE else _FOREIGN
        return float(self.voice(name).embedding @ mean_of([piece])) < self.needed(seconds) - clear

    def check(self, encoder: Model) -> None:
        """Raises RosterError unless the voices were enrolled with this speaker encoder."""
        source = encoder.config.source
        if source.sha256 != self.sha256:
            raise RosterError(
                f"the voices were enrolled with {self.encoder} and cannot be compared by {source.repository}: use that "
                f"encoder (--speaker-model), or enroll them again"
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of the file: strings and numbers, the embeddings as base64 of little-endian float32."""
        return {
            "format": _FORMAT,
            "encoder": self.encoder,
            "sha256": self.sha256,
            "threshold": self.threshold,
            "voices": [
                {
                    "name": voice.name,
                    "enrolled": voice.enrolled,
                    "seconds": round(voice.seconds, 3),
                    "clips": voice.clips,
                    "embedding": base64.b64encode(voice.embedding.astype("<f4").tobytes()).decode(),
                }
                for voice in self.voices
            ],
        }

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Makes a roster from the result of `to_dict`.

        Raises:
            RosterError: The values are not those of a roster of this version.
        """
        try:
            if values["format"] != _FORMAT or {*values} != {"format", "encoder", "sha256", "threshold", "voices"}:
                raise RosterError(_NO_ROSTER)
            encoder, sha256 = values["encoder"], values["sha256"]
            voices = [_voice(each) for each in values["voices"]]
            if not (isinstance(values["voices"], list) and isinstance(encoder, str) and isinstance(sha256, str)):
                raise RosterError(_NO_ROSTER)
            return cls(encoder, sha256, values["threshold"], voices)
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise RosterError(_NO_ROSTER) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the voices to a JSON file that only its owner can read, completely or not at all.

        A file that exists keeps its permissions.

        Raises:
            OSError: The folder does not exist, or cannot be written to.
        """
        with replacing(Path(path)) as partial:
            partial.touch(0o600)
            partial.write_text(json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a file written by `save`.

        Raises:
            RosterError: The file cannot be read, or is not a roster of this version.
        """
        try:
            with Path(path).open("rb") as file:
                return cls.from_dict(json.loads(file.read(_MOST_BYTES)))
        except OSError as error:
            why = f"cannot be read ({error.strerror}): enroll a voice with `e2v enroll NAME FILE`"
            raise RosterError(f"{cut(os.fsdecode(path))}: {why}") from error
        except (RosterError, ValueError, RecursionError) as error:
            why = str(error) if isinstance(error, RosterError) else _NO_ROSTER
            raise RosterError(f"{cut(os.fsdecode(path))}: {why}") from error

    def _add(self, voice: Voice) -> None:
        name = _checked_name(voice.name)
        if name in self:
            raise RosterError(f"{quoted(name)} is in the roster twice: delete one")
        self._check_size(voice, self._voices.values())
        self._voices[as_read(name)] = replace(voice, name=name)

    @staticmethod
    def _check_size(voice: Voice, others: Iterable[Voice]) -> None:
        if any(other.embedding.shape != voice.embedding.shape for other in others):
            raise RosterError("embeddings of different sizes cannot be compared: they are of different encoders")


_MARGIN = 0.02


def _checked_name(name: str) -> str:
    """Returns a name without blanks around it; raises RosterError for one that would be taken for another."""
    need("name", name, str)
    name = " ".join(name.split())
    read = as_read(name)
    if not read or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise RosterError(f"{quoted(name)} is no name: give one of 1 to {_LONGEST_NAME} printable characters")
    # Also in letters of another alphabet; a small Greek nu looks like a v, a capital one like an N.
    looks = (read, letters(name), letters(read.replace("ν", "v")))
    if is_stranger(name) or any(map(_GIVEN_BY_PROGRAMS.fullmatch, looks)):
        raise RosterError(f"{printable(name)} is what unknown voices and channels are called: give another name")
    return name


def _voice(values: Any) -> Voice:
    if {*values} != {"name", "enrolled", "seconds", "clips", "embedding"}:
        raise RosterError(_NO_ROSTER)
    embedding = np.frombuffer(base64.b64decode(values["embedding"], validate=True), "<f4").astype(np.float32)
    name, enrolled, clips = values["name"], values["enrolled"], values["clips"]
    seconds = number("seconds", values["seconds"], 0.0)
    datetime.strptime(enrolled, "%Y-%m-%d")
    if not isinstance(name, str) or type(clips) is not int or not abs(float(np.linalg.norm(embedding)) - 1) < 1e-3:
        raise RosterError(_NO_ROSTER)
    return Voice(name, embedding, seconds, clips, enrolled)
