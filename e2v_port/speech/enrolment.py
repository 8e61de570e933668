"""Whose voice may be listened to: the one gate of the service."""

import unicodedata
from collections.abc import Iterable

__all__ = ["Enrolment", "as_read", "is_stranger", "letters"]

# Names that diarization gives to unknown voices, by their letters and digits.
_STRANGERS = {"other", "speakerunknown"}
# Cyrillic and Greek letters that look like those of these names, as capitals or small (Unicode TR 39, confusables).
_ALIKE = str.maketrans("оοтτһнηеεгѕрραакκυνпωԝсіιѵӏԁхχмμвβ", "ootthhheersppaakkunnwwciivldxxmmbb")
_FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10)))


class Enrolment:
    """Speakers who may be listened to.

    Names are compared as people read them: without regard to case, to the width or style of letters (NFKC), to
    characters that cannot be seen, and to the amount of white space. Names that diarization gives to unknown voices,
    `other` and `SPEAKER_UNKNOWN`, are never enrolled. They are recognized by their letters alone, so also as `Speaker
    unknown`, and with letters of another alphabet that look like theirs.

    Args:
        names: Names of the enrolled speakers; None for everybody but unknown voices.
    """

    def __init__(self, names: Iterable[str] | None) -> None:
        self._names = None if names is None else {as_read(name) for name in names} - {""}

    def admits(self, speaker: str | None) -> bool:
        """Returns whether the voice of a speaker may be listened to; None is a speaker without a name."""
        if speaker is not None and is_stranger(speaker):
            return False
        return self._names is None or (speaker is not None and as_read(speaker) in self._names)


def is_stranger(name: str) -> bool:
    """Returns whether a name is one that diarization gives to unknown voices, however it is spelled."""
    return letters(name) in _STRANGERS


def as_read(name: str) -> str:
    """Returns a name as people read it."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join("".join(char for char in folded if not _invisible(char)).split())


def letters(name: str) -> str:
    """Returns the letters and digits of a name, without accents, in the Latin alphabet where they look like it."""
    decomposed = unicodedata.normalize("NFKD", as_read(name))
    return "".join(char for char in decomposed if char.isalnum()).translate(_ALIKE)


def _invisible(char: str) -> bool:
    """Returns whether a character has no width: a control or format character, a variation selector, a filler."""
    unseen = unicodedata.category(char) in {"Cf", "Cc", "Cs", "Cn"} and not char.isspace()
    return unseen or char in _FILLERS
