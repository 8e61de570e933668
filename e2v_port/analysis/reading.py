"""The words of a clip: read on each channel, and shared out to its segments."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2v_port.analysis.sounds import Sounds
from e2v_port.audio import Note
from e2v_port.errors import E2VError, cut, quoted
from e2v_port.speech.segment import Segment
from e2v_port.transcribe import load as readers
from e2v_port.transcribe.words import WINDOW, Reader, Transcript, Word, doubts, passages, shared_out

__all__ = ["Reading", "opened", "read"]


@dataclass(frozen=True)
class Reading:
    """The words of a clip.

    Attributes:
        words: Words of each segment that may be read, by its number, as the recognizer writes them.
        transcripts: How each channel was read, by its number; None stands for the mix.
        notes: What must be known about the words.
    """

    words: dict[int, tuple[Word, ...]]
    transcripts: dict[int | None, Transcript]
    notes: list[Note]

    @property
    def transcript(self) -> Transcript:
        """How the words were read: on the first channel with any, else on the first."""
        transcripts = [*self.transcripts.values()]
        return next((each for each in transcripts if each.language is not None), transcripts[0])

    @property
    def languages(self) -> dict[int | None, str | None]:
        """Language of the words on each channel; None where it is in doubt."""
        return {channel: each.certain_language for channel, each in self.transcripts.items()}


def opened(words: str | Path | Reader | None, language: str | None, offline: bool) -> Reader | None:
    """Returns the recognizer of words: a loaded one, or that of a name or folder; None where no words are wanted.

    Raises:
        ValueError: A language without words, or for a loaded recognizer.
        TypeError: It is no recognizer.
        E2VError: See `e2v_port.transcribe.load`.
    """
    if words is None:
        if language is not None:
            raise ValueError("language= belongs to words=: pass both, or leave it out")
        return None
    if isinstance(words, str | Path):
        return readers.load(words, language=language, offline=offline)
    if language is not None:
        raise ValueError("a loaded recognizer has its language: leave language= out")
    if not hasattr(words, "read"):
        raise TypeError(f"words must be the name or folder of a recognizer, or a loaded one, not {quoted(words)}")
    return words


def read(sounds: Sounds, segments: Sequence[Segment], reader: Reader, language: str | None = None) -> Reading:
    """Reads the words of each channel by itself, so that nobody's words end up in another's segments.

    Args:
        sounds: The channels of the clip.
        segments: All segments of the clip, in order of time; strangers among them are not read.
        reader: The recognizer.
        language: Code of the language; None for the reader's own, or else to detect it on each channel.

    Raises:
        E2VError: What runs the recognizer failed.
    """
    found: dict[int, tuple[Word, ...]] = {}
    transcripts: dict[int | None, Transcript] = {}
    languages = []
    for channel, sound in sounds.by_channel.items():
        numbers = [i for i, segment in enumerate(segments) if segment.channel == channel]
        own = [segments[i] for i in numbers]
        # The mix holds every channel, and so the strangers of each.
        others = [each for each in segments if each.quality == "not_enrolled" and None in {channel, each.channel}]
        parts = passages([*own, *others], WINDOW)
        try:
            words, transcripts[channel] = reader.read(sound.waveform, parts, language=language)
        except RuntimeError as error:  # of CTranslate2 and MLX, such as a GPU without memory
            why = cut(" ".join(str(error).split()), 200)
            raise E2VError(f"{reader.name} could not read the words ({why}): use a smaller model, or none") from error
        if words and (heard := transcripts[channel].language):
            languages.append(heard)
        found |= {numbers[i]: part for i, part in shared_out(words, own).items()}
    return Reading(found, transcripts, doubts(found, segments, languages))
