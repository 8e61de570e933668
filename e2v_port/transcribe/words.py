"""Words with their times, and the segments they belong to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from e2v_port.audio import Note, Waveform
from e2v_port.errors import E2VError
from e2v_port.seconds import seconds
from e2v_port.speech.segment import Segment

__all__ = ["HEARD", "LOOPED", "WINDOW", "Reader", "Transcript", "Word", "doubts", "passages", "shared_out", "takes"]

WINDOW = 30.0  # seconds that Whisper reads at once, and the longest clips that SenseVoice was trained on
LOOPED = (
    2.4  # compression ratio above which Whisper repeats itself (Radford et al. 2022, 4.5): noise or tones, no words
)
HEARD = {"normal", "low_confidence", "too_short"}  # qualities of segments whose words may be read


@dataclass(frozen=True)
class Word:
    """A word of a transcript.

    Attributes:
        start: Start in seconds, from the start of the clip.
        end: End in seconds.
        text: The word with its punctuation.
        probability: Probability that the recognizer gives it, 0 to 1; None for a given word without one.
    """

    start: float
    end: float
    text: str
    probability: float | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the `word` object of the JSON dialect."""
        return {
            "start": seconds(self.start),
            "end": seconds(self.end),
            "text": self.text,
            "probability": self.probability,
        }


@dataclass(frozen=True)
class Transcript:
    """How the words of a clip were read.

    Attributes:
        model: Name or folder of the recognizer.
        language: Code of the language, such as `en`; None where nothing was read.
        language_probability: Probability that the recognizer gives this language, 0 to 1; None where it was asked for
            or nothing was read.
    """

    model: str
    language: str | None
    language_probability: float | None

    @property
    def certain_language(self) -> str | None:
        """The language; None where it was detected with a probability of less than one half."""
        certain = self.language_probability is None or self.language_probability >= 0.5
        return self.language if certain else None


class Reader(Protocol):
    """A loaded recognizer of words: what `e2v_port.transcribe.load` returns, and whatever else reads in this way."""

    @property
    def name(self) -> str:
        """Name or folder of the model."""

    def read(
        self, waveform: Waveform, passages: Sequence[tuple[float, float]], *, language: str | None = None
    ) -> tuple[tuple[Word, ...], Transcript]:
        """Reads the words in passages of a clip, and nothing outside of them. Safe to call from several threads.

        Args:
            waveform: [samples], float32, 16 kHz, of the whole clip.
            passages: Start and end of each part to read, in seconds, in order and apart.
            language: Code of the language in this clip; None for the reader's own, or else to detect it.

        Returns:
            All words in order, with times from the start of the clip and within it, their texts with a space in front
            where one belongs. And how they were read.

        Raises:
            E2VError: The model does not know the language, even if there are no passages.
        """


def takes(reader: Reader, language: str) -> bool:
    """Returns whether a reader can read a clip in a language."""
    try:
        reader.read(np.empty(0, np.float32), (), language=language)
    except E2VError:
        return False
    return True


def passages(segments: Sequence[Segment], longest: float) -> list[tuple[float, float]]:
    """Returns the parts of a clip to read, from first to last: segments with the pauses between them.

    A recognizer takes about as long for a second as for its whole window, so that neighbors share one. Where the time
    of a speaker who is not enrolled is cut out of the segments, each is read by itself.

    Args:
        segments: Segments of one channel, by their start; where strangers of other channels are heard in it, these too.
        longest: Length of the window in seconds. A longer segment is a passage of its own.

    Returns:
        Start and end of each part in seconds.
    """
    barred = any(segment.quality == "not_enrolled" for segment in segments)
    parts: list[tuple[float, float]] = []
    for segment in segments:
        if segment.quality not in HEARD:
            continue
        start, end = parts[-1] if parts else (0.0, 0.0)
        overlaps = segment.start < end
        if parts and (overlaps or not barred) and max(end, segment.end) - start <= longest:
            parts[-1] = start, max(end, segment.end)
        else:
            parts.append((max(segment.start, end), max(segment.end, end)))
    return [(start, end) for start, end in parts if end > start]


def shared_out(words: Sequence[Word], segments: Sequence[Segment]) -> dict[int, tuple[Word, ...]]:
    """Returns the words of each segment that may be read, by its number.

    A word belongs to the segment that holds most of it, of two equal ones to the later; outside of all, as where speech
    fades, to the nearest one. No word is lost, and none occurs twice.

    Args:
        words: Words of one channel in order, as the recognizer writes them, some with a space in front.
        segments: Segments of that channel.
    """
    heard = [i for i, segment in enumerate(segments) if segment.quality in HEARD]
    found: dict[int, list[Word]] = {i: [] for i in heard}
    for word in words:

        def fit(i: int, word: Word = word) -> tuple[float, float]:
            segment = segments[i]
            return min(word.end, segment.end) - max(word.start, segment.start), segment.start

        if heard:
            found[max(heard, key=fit)].append(word)
    return {i: tuple(own) for i, own in found.items()}


def doubts(words: Mapping[int, Sequence[Word]], segments: Sequence[Segment], languages: Sequence[str]) -> list[Note]:
    """Returns what must be known about the words of a clip: speech in which none was read, and several languages.

    Args:
        words: Words of each segment, by its number.
        segments: All segments of the clip.
        languages: Language of each channel in which anything was read.
    """
    notes = []
    empty = [i for i, own in words.items() if not own and segments[i].quality != "too_short"]
    if empty:
        first = ", ".join(f"{segments[i].start:.2f} s" for i in empty[:3])
        more = ", ..." if len(empty) > 3 else ""
        notes.append(Note("no_words", f"no words were read in {len(empty)} segments of speech, from {first}{more}"))
    if len({*languages}) > 1:
        named = ", ".join(dict.fromkeys(languages))
        notes.append(
            Note("languages", f"the channels were read as {named}: if they share one, name it with --language")
        )
    return notes
