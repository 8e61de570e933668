"""Corpora that encode speaker and emotion in the names of their files."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from e2v_port.emotions import taxonomy
from e2v_port.errors import CorpusError
from e2v_port.evaluation.datasets import Utterance, label_of, published
from e2v_port.evaluation.readers.findings import count_files
from e2v_port.evaluation.readers.tables import rows

__all__ = ["AUDIO", "known_as", "read_crema_d", "read_emodb", "read_emogator", "read_ravdess"]

AUDIO = {".wav", ".flac", ".ogg", ".mp3", ".opus"}

# Modality 03 (audio only), channel 01 (speech), emotion, intensity, sentence, repetition, actor.
_RAVDESS = re.compile(r"03-01-(?P<code>0[1-8])-(?P<intensity>0[12])-(?P<sentence>0[12])-0[12]-(?P<speaker>[0-9]{2})")
# Speaker, sentence, emotion, version; other copies have a prefix.
_EMODB = re.compile(r"(?:emodb_)?(?P<speaker>[0-9]{2})(?P<sentence>[ab][0-9]{2})(?P<code>[WLEAFTN])[a-z]?")
# Actor, sentence, emotion, intensity.
_CREMA_D = re.compile(
    r"(?P<speaker>[0-9]{4})_(?P<sentence>[A-Z]{3})_(?P<code>ANG|DIS|FEA|HAP|NEU|SAD)_(?P<intensity>[A-Z]{1,2})", re.I
)
# Contributor, category, repetition.
_EMOGATOR = re.compile(r"(?P<speaker>[0-9]{6})-(?P<code>0[1-9]|[12][0-9]|30)-[123]")
# Speaker, emotion, sentence; the table of the corpus has them too.
_NEMO = re.compile(r"(?P<speaker>[A-Z]{2}0)_(?:anger|fear|happiness|sadness|surprised|neutral)_[0-9]+")
# Session with the letter of who wears the markers, dialog, who speaks, turn.
_IEMOCAP = re.compile(r"(?P<speaker>Ses0[1-5])[FM]_(?:impro|script)[0-9]{2}[a-z0-9_]*_(?P<who>[FM])[A-Z]*[0-9]+")
_PATTERNS = {
    "ravdess": _RAVDESS,
    "emodb": _EMODB,
    "crema-d": _CREMA_D,
    "emogator": _EMOGATOR,
    "nemo": _NEMO,
    "iemocap": _IEMOCAP,
}
_EXAMPLES = {
    "ravdess": "03-01-05-01-01-01-22.wav",
    "emodb": "03a01Fa.wav",
    "crema-d": "1001_DFA_ANG_XX.wav",
    "emogator": "000001-03-1.mp3",
}


def read_ravdess(folder: Path) -> tuple[list[Utterance], list[str]]:
    """Reads files named `03-01-EE-II-SS-RR-AA.wav`; actors with odd numbers are men."""
    return _read("ravdess", folder, lambda actor: "male" if int(actor) % 2 else "female")


def read_emodb(folder: Path) -> tuple[list[Utterance], list[str]]:
    """Reads files named `03a01Fa.wav`."""
    return _read("emodb", folder, published()["corpora"]["emodb"]["sexes"].get)


def read_emogator(folder: Path) -> tuple[list[Utterance], list[str]]:
    """Reads files named `000001-03-1.mp3`."""
    return _read("emogator", folder, lambda _: None)


def read_crema_d(folder: Path) -> tuple[list[Utterance], list[str]]:
    """Reads files named `1001_DFA_ANG_XX.wav`, and the sexes of the actors from `VideoDemographics.csv`."""
    sexes = _crema_d_sexes(folder)
    utterances, notes = _read("crema-d", folder, sexes.get)
    if not sexes:
        notes.append("VideoDemographics.csv is missing: the actors' sexes are unknown")
    return utterances, notes


def known_as(file: Path) -> str | None:
    """Returns the speaker of a published corpus that a file's name names, e.g. `emodb/03`; None if it names none."""
    for kind, pattern in _PATTERNS.items():
        if match := re.search(rf"(?<![0-9A-Za-z]){pattern.pattern}(?![0-9A-Za-z])", file.stem, pattern.flags):
            return f"{kind}/{match['speaker']}{match.groupdict().get('who', '')}"
    return None


def _read(kind: str, folder: Path, sex_of: Callable[[str], str | None]) -> tuple[list[Utterance], list[str]]:
    """Reads a corpus that encodes speaker and emotion in its file names."""
    about = published()["corpora"][kind]
    codes: dict[str, str] = about["codes"]
    label_set = kind if kind in taxonomy.label_sets() else None
    utterances, others = [], 0
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() not in AUDIO or file.name.startswith("."):
            continue
        if not (match := _PATTERNS[kind].fullmatch(file.stem)):
            others += 1
            continue
        original = codes[match["code"].upper()]
        speaker, rest = match["speaker"], match.groupdict()
        utterances.append(
            Utterance(
                file=file,
                label=label_of(original, label_set),
                original=original,
                speaker=f"{kind}/{speaker}",
                sex=sex_of(speaker),
                corpus=kind,
                dimensions=None,
                split=None,
                language=about.get("language"),
                text=_meaning(about.get("sentences", {}), rest.get("sentence")),
                intensity=_meaning(about.get("intensities", {}), rest.get("intensity")),
            )
        )
    if not utterances:
        example = _EXAMPLES[kind]
        raise CorpusError(f"{kind}={folder}: no file is named like {example}: pass the folder that holds such files")
    notes = [f"{count_files(others)} of other kinds or names left out"] if others else []
    return utterances, notes


def _meaning(codes: Mapping[str, str], code: str | None) -> str | None:
    """Returns what a code in a file's name stands for, in upper or lower case; None if that is not known."""
    return None if code is None else codes.get(code) or codes.get(code.upper())


def _crema_d_sexes(folder: Path) -> dict[str, str]:
    for table in (folder / "VideoDemographics.csv", folder.parent / "VideoDemographics.csv"):
        if table.is_file():
            read = rows(table, ",", ("ActorID", "Sex"))
            return {row["ActorID"]: row["Sex"].lower() for _, row in read if row["Sex"].lower() in {"female", "male"}}
    return {}
