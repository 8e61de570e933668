"""Makes dialogues of corpora: each clip is a remark, and its tone of voice decides the reply.

A reply must not be predictable from the words alone, or a language model would learn to ignore the voice. So each
sentence occurs equally often in every tone of its corpus, in each of the three sets by itself.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.dialogue.replies import LABELS, context, reply, topic_of
from e2v_port.errors import AudioError, CorpusError
from e2v_port.evaluation.datasets import SPLITS, Corpus, Utterance
from e2v_port.evaluation.sounds import without_copies
from e2v_port.evaluation.splits import split
from e2v_port.files import replacing
from e2v_port.transcribe.words import WINDOW, Reader

__all__ = ["Dialogues", "Remark", "balanced", "prepare", "write"]

SHEET = "datasheet.md"


@dataclass(frozen=True)
class Remark:
    """What somebody says, how, and what the answer is.

    Attributes:
        clip: The clip, with its label, speaker and text.
        reply: The answer.
        features: Name of the file with its features, relative to the folder of the dialogues; None without any.
    """

    clip: Utterance
    reply: str
    features: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns a row of `train.jsonl`, `dev.jsonl` or `test.jsonl`."""
        clip = self.clip
        return {
            "audio_path": str(clip.file),
            "transcript": clip.text,
            "emotion_label": clip.label,
            "intensity": clip.intensity,
            "assistant_reply": self.reply,
            # The same whatever the tone: that of all remarks in which this speaker says this sentence.
            "context": context(f"{clip.speaker}/{_plain(clip.text)}"),
            "corpus": clip.corpus,
            "speaker": clip.speaker,
            "sex": clip.sex,
            "language": clip.language,
            "features": self.features,
        }


@dataclass(frozen=True)
class Dialogues:
    """Remarks with replies, in three sets.

    Attributes:
        parts: Remarks of `train`, `dev` and `test`; nobody speaks in two of them.
        corpora: The corpora that they are from.
        notes: What was left out, as sentences.
        rewriter: Name of the language model that rewrote the replies; None if they are as they were written.
    """

    parts: Mapping[str, Sequence[Remark]]
    corpora: tuple[Corpus, ...]
    notes: tuple[str, ...]
    rewriter: str | None = None


def prepare(
    corpora: Sequence[Corpus],
    *,
    dev: Collection[str] = (),
    test: Collection[str] = (),
    reader: Reader | None = None,
    balance: bool = True,
    step: Callable[[], None] = lambda: None,
) -> Dialogues:
    """Makes dialogues of corpora.

    Args:
        corpora: Corpora of labeled clips, with distinct names.
        dev: Development speakers, as for `evaluation.splits.split`.
        test: Test speakers, in the same form.
        reader: Recognizer for clips whose words the corpus does not give; without one, they are left out.
        balance: Whether each sentence must occur equally often in every tone of its corpus. Spontaneous speech has no
            sentence twice: without balance, its words may give the tone away, and the notes say so.
        step: Called after each clip that is read.

    Raises:
        CorpusError: A speaker would be in two sets, or a set would be empty.
    """
    parts, _, copies = without_copies(split(corpora, dev, test))
    notes = [note for corpus in corpora for note in corpus.notes] + copies
    _check_speakers(parts)
    found: dict[str, list[Remark]] = {}
    for part in SPLITS:
        labeled = [clip for clip in parts[part] if clip.label in LABELS]
        if lost := len(parts[part]) - len(labeled):
            notes.append(f"{part}: {lost} clips without one of the labels {', '.join(LABELS)} left out")
        clips = _with_words(part, labeled, reader, notes, step)
        if balance:
            kept = balanced(clips)
            if len(kept) < len(clips):
                notes.append(f"{part}: {len(clips) - len(kept)} of {len(clips)} clips left out for balance")
            clips = kept
        if not clips:
            remedy = "leave balance out, or add a corpus in which each sentence is said in several tones"
            raise CorpusError(f"no clip is left for {part} ({'; '.join(notes[-2:])}): {remedy}")
        found[part] = [Remark(clip, _reply(clip)) for clip in clips]
    if not balance:
        notes.append("not balanced: the words of a remark may give its tone away")
    return Dialogues(found, tuple(corpora), tuple(notes))


def balanced(clips: Sequence[Utterance]) -> list[Utterance]:
    """Returns as many clips as possible of which each sentence occurs equally often with every label of its corpus.

    Which of several clips are kept depends on their names alone. The rest keep their order.

    Args:
        clips: Clips with texts and labels.
    """
    labels: dict[str, set[str | None]] = defaultdict(set)
    groups: dict[tuple[str, str], dict[str | None, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
    for clip in clips:
        labels[clip.corpus].add(clip.label)
        groups[clip.corpus, _plain(clip.text)][clip.label].append(clip)
    kept: set[Utterance] = set()
    for (corpus, _), by_label in groups.items():
        least = min(len(by_label.get(label, ())) for label in labels[corpus])
        for same in by_label.values():
            kept.update(sorted(same, key=lambda clip: _order(clip.file.name))[:least])
    return [clip for clip in clips if clip in kept]


def write(dialogues: Dialogues, folder: Path) -> None:
    """Writes `train.jsonl`, `dev.jsonl`, `test.jsonl` and the datasheet to a folder, each complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in SPLITS:
        rows = "".join(json.dumps(remark.to_dict(), ensure_ascii=False) + "\n" for remark in dialogues.parts[part])
        with replacing(folder / f"{part}.jsonl") as partial:
            partial.write_text(rows, "utf-8", newline="\n")
    with replacing(folder / SHEET) as partial:
        partial.write_text(_sheet(dialogues), "utf-8", newline="\n")


def _plain(text: str | None) -> str:
    """Returns a sentence without case and punctuation, as it is heard."""
    return " ".join("".join(char if char.isalnum() else " " for char in (text or "").casefold()).split())


def _order(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _reply(clip: Utterance) -> str:
    assert clip.label is not None
    assert clip.text is not None
    return reply(clip.label, clip.intensity, topic_of(clip.corpus, clip.text), f"{clip.speaker}/{clip.file.name}")


def _check_speakers(parts: Mapping[str, Sequence[Utterance]]) -> None:
    heard: dict[str, str] = {}
    for part in SPLITS:
        for clip in parts[part]:
            if heard.setdefault(clip.speaker, part) != part:
                raise CorpusError(
                    f"{clip.speaker} is in {heard[clip.speaker]} and in {part}, where nobody may be heard twice: name "
                    "the speakers of dev and of test"
                )


def _with_words(
    part: str, clips: Iterable[Utterance], reader: Reader | None, notes: list[str], step: Callable[[], None]
) -> list[Utterance]:
    """Returns the clips whose words are known, or can be read."""
    found, silent, unreadable = [], 0, 0
    for clip in clips:
        text = clip.text
        if text is None and reader is not None:
            try:
                text = _read(clip.file, reader)
            except AudioError:
                unreadable += 1
                continue
            finally:
                step()
        if text:
            found.append(replace(clip, text=text))
        else:
            silent += 1
    if silent:
        remedy = "" if reader else ": a recognizer can read them"
        notes.append(f"{part}: {silent} clips whose words are not known left out{remedy}")
    if unreadable:
        notes.append(f"{part}: {unreadable} clips that cannot be read left out")
    return found


def _read(file: Path, reader: Reader) -> str | None:
    waveform = load_audio(file)
    length = len(waveform) / SAMPLING_RATE
    passages = [(start, min(start + WINDOW, length)) for start in _starts(length)]
    words, _ = reader.read(waveform, passages)
    return "".join(word.text for word in words).strip() or None


def _starts(length: float) -> list[float]:
    return [i * WINDOW for i in range(max(1, -(-int(length) // int(WINDOW))))]


def _sheet(dialogues: Dialogues) -> str:
    """Returns the datasheet: what is in the set, where it is from and what it is for."""
    lines = [
        "# Datasheet",
        "",
        "Short spoken remarks, each with a reply that fits its tone, to train and test a speech language model.",
        "",
        "## Sources",
        "",
        "| corpus | license | clips |",
        "|---|---|---|",
    ]
    counts = Counter(remark.clip.corpus for part in SPLITS for remark in dialogues.parts[part])
    for corpus in dialogues.corpora:
        lines.append(f"| {corpus.name} | {corpus.licence or 'not known'} | {counts[corpus.name]} |")
    lines += [
        "",
        "The audio stays where it is; rows name it. A model trained on these clips is bound by their licenses.",
        "",
        "## Sets",
        "",
        f"| set | speakers | women | men | {' | '.join(LABELS)} |",
        f"|{'---|' * (4 + len(LABELS))}",
    ]
    for part in SPLITS:
        clips = [remark.clip for remark in dialogues.parts[part]]
        voices = {clip.speaker: clip.sex for clip in clips}
        sexes = Counter(voices.values())
        labels = Counter(clip.label for clip in clips)
        cells = [len(voices), sexes["female"], sexes["male"], *(labels[label] for label in LABELS)]
        lines.append(f"| {part} | {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "Nobody speaks in two sets, and no recording is in two.",
        "",
        "## Words and tone",
        "",
        *_chance(dialogues),
    ]
    lines += ["", "## Replies", ""]
    lines += [
        "Replies are put together from sentences written by hand for this purpose, by label, intensity and, where it",
        "is known, what the sentence is about (`taxonomy/replies.json` of e2v-port). Nobody said them. They are in",
        "English, whatever the language of the remark. Acted emotions are clearer than those of daily life.",
    ]
    if dialogues.rewriter:
        lines += [
            "",
            f"The language model `{dialogues.rewriter}` rewrote them, one at a time, from the written reply and its",
            "label; `rewrites.jsonl` has each with its original. Where its answer broke a rule, the original was kept.",
        ]
    rows = [remark.to_dict() for part in SPLITS for remark in dialogues.parts[part]]
    lines += ["", "## Context", ""]
    lines += [
        f"In {sum(bool(row['context']) for row in rows)} of {len(rows)} rows something was said before the remark: a",
        "few turns that fit any tone, written for this purpose as well. A speaker who says a sentence in several",
        "tones has the same context each time, so that it does not give the tone away.",
    ]
    if dialogues.notes:
        lines += ["", "## Left out", "", *(f"- {note}" for note in dialogues.notes)]
    return "\n".join(lines) + "\n"


def _chance(dialogues: Dialogues) -> list[str]:
    """Returns how often the label could be guessed from the sentence alone, by corpus, and by chance."""
    lines = ["| set | corpus | sentences | guessed from the sentence | by chance |", "|---|---|---|---|---|"]
    for part in SPLITS:
        for corpus in dialogues.corpora:
            clips = [remark.clip for remark in dialogues.parts[part] if remark.clip.corpus == corpus.name]
            if not clips:
                continue
            said: dict[str, Counter[str | None]] = defaultdict(Counter)
            for clip in clips:
                said[_plain(clip.text)][clip.label] += 1
            best = sum(max(labels.values()) for labels in said.values()) / len(clips)
            chance = 1 / len({clip.label for clip in clips})
            lines.append(f"| {part} | {corpus.name} | {len(said)} | {best:.1%} | {chance:.1%} |")
    return lines
