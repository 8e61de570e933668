"""Runs models on a set of dialogues."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from e2v_port.dialogue.align import text_states
from e2v_port.dialogue.examples import Example
from e2v_port.dialogue.replies import LABELS
from e2v_port.dialogue.scoring.written import Run
from e2v_port.dialogue.tune import described
from e2v_port.errors import AudioError, CheckpointError, CorpusError
from e2v_port.evaluation.datasets import label_of
from e2v_port.files import replacing
from e2v_port.llm import language, stored
from e2v_port.llm.adapter import Adapter, heard
from e2v_port.llm.speech import answers, placed
from e2v_port.models import devices
from e2v_port.models.load import load, weights_of

__all__ = ["TRUE", "Contender", "answer", "contenders", "key", "labels_of"]

TRUE = "true label"
_BATCH = 32  # clips
_LABELS = "labels.json"


@dataclass(frozen=True)
class Contender:
    """A model, and what it is given.

    Attributes:
        name: Name in tables.
        folder: Folder of the model.
        hears: `speech`, `words` or `label`.
        labels: Where the labels are from that a model with `hears` of `label` reads: `true label`, or the name of an
            emotion model; empty for other models.
    """

    name: str
    folder: Path
    hears: str
    labels: str = ""


def contenders(folders: Sequence[Path], labels_of: str | None = None) -> list[Contender]:
    """Returns the models of folders, in their order, named by their folders.

    A model that reads a label appears with the true one, an upper bound, and before that with the one of `labels_of`.

    Args:
        folders: Folders of `e2v dialogue train`.
        labels_of: Name of an emotion model; None for true labels alone.

    Raises:
        CheckpointError: A folder holds no speech language model, or two have one name.
    """
    found = []
    for folder in folders:
        name, hears = folder.resolve().name, stored.read(folder).hears
        if hears != "label":
            found.append(Contender(name, folder, hears))
            continue
        for source in [*([labels_of] if labels_of else []), TRUE]:
            found.append(Contender(f"{name} ({source})", folder, hears, source))
    names = [each.name for each in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CheckpointError(f"two models are named {twice}: rename the folder of one")
    return found


def labels_of(
    model: str,
    examples: Sequence[Example],
    folder: Path,
    *,
    runtime: str = "auto",
    offline: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> list[str]:
    """Returns the emotion that a model of this package hears in each clip, of those that have replies.

    They are kept in `labels.json` under the name and the hash of the model: where all clips are in there, no audio is
    read.

    Args:
        model: The model, named as for `e2v_port.load`.
        examples: The clips.
        folder: Folder for that file.
        runtime: Runtime of the model.
        offline: Never open a connection.
        advance: Called after each clip.

    Raises:
        CorpusError: The audio of a clip cannot be read.
        E2VError: The model cannot be loaded, or has no labels.
    """
    file = folder / _LABELS
    chosen = devices.choose(runtime)
    with weights_of(model, chosen, offline=offline).open("rb") as weights:
        entry = f"{model} {hashlib.file_digest(weights, 'sha256').hexdigest()}"
    try:
        known: dict[str, dict[str, str]] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        found = dict(known.get(entry, {}))
    except (ValueError, AttributeError) as error:
        raise CorpusError(f"{file}: damaged ({error}): remove it and evaluate again") from error
    lacking = [example.audio for example in examples if str(example.audio) not in found]
    if lacking:
        loaded = load(model, runtime=runtime, offline=offline)
        for start in range(0, len(lacking), _BATCH):
            some = lacking[start : start + _BATCH]
            try:
                predictions = loaded.predict(list(some))
            except AudioError as error:
                raise CorpusError(
                    f"{error}: the labels of {model} need the audio, or {_LABELS} of an earlier evaluation in {folder}"
                ) from error
            for audio, prediction in zip(some, predictions, strict=True):
                scores: dict[str, float] = {}
                for name, score in prediction.scores.items():
                    if (label := label_of(name)) in LABELS:
                        scores[str(label)] = scores.get(str(label), 0) + score
                found[str(audio)] = max(scores, key=lambda label: scores[label])
                advance()
        with replacing(file) as partial:
            partial.write_text(json.dumps({**known, entry: found}, indent=1) + "\n", "utf-8")
    return [found[str(example.audio)] for example in examples]


def answer(
    contender: Contender,
    examples: Sequence[Example],
    labels: Sequence[str] | None = None,
    *,
    name: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    limit: int = 60,
    temperature: float = 0.0,
    seed: int = 0,
    offline: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> Run:
    """Runs a model on a set: its words as it says them, before any check of safety.

    Args:
        contender: The model.
        examples: The set.
        labels: Labels that the model reads, one per clip, if it hears `label`.
        name: Hub name or folder of the language model, in place of the one that the model names.
        device: Where the language model computes, as for `SpeechLM.load`.
        dtype: Type of its weights, as there.
        limit: Most tokens of an answer.
        temperature: 0 for the most likely words; above, they are drawn, see `language.Chance`.
        seed: Seed of what is drawn; each clip has draws of its own.
        offline: Never open a connection.
        advance: Called after each clip.

    Raises:
        CheckpointError: The model cannot be loaded.
        CorpusError, E2VError: Features are missing or damaged, see `Example.load`.
    """
    model = stored.read(contender.folder)
    device, dtype = placed(device, dtype)
    words = language.load(
        name or model.language["name"],
        revision=None if name else model.language["revision"] or None,
        device=device,
        dtype=dtype,
        offline=offline,
    )
    known = tuple(dict.fromkeys(example.words for example in examples))
    hearing = _Hearing(words, known) if contender.hears == "speech" else None  # before the next line changes the model
    adapter = stored.merged(model, words)
    if dtype == "int8":
        words.pack()
    replies: dict[int, str] = {}
    texts = None if hearing else _texts(contender, examples, labels)
    for batch in _batches(examples, texts, alone=temperature > 0):
        indices = [group[0] for group in batch]
        some = [examples[index] for index in indices]
        remarks: list[Mapping[str, Any] | str]
        if adapter is not None and hearing is not None:
            clips = [example.load() for example in some]
            hearing.add(indices, clips, adapter)
            remarks = list(clips)
        else:
            remarks = list(_texts(contender, some, labels and [labels[index] for index in indices]))
        found: list[list[int]] = [[] for _ in some]
        contexts = [example.context for example in some]
        draws = [np.random.default_rng((seed, index)) for index in indices]
        chance = language.Chance.of(temperature, draws)
        for step in answers(
            words, adapter, remarks, system=model.system, contexts=contexts, limit=limit, chance=chance
        ):
            for ids, token in zip(found, step, strict=True):
                if token is not None:
                    ids.append(token)
        for group, ids in zip(batch, found, strict=True):
            for index in group:
                replies[index] = words.text(ids)
                advance()
    order = range(len(examples))
    return Run(
        contender.name,
        contender.hears,
        key(contender, examples, labels, name=name, dtype=dtype, limit=limit, temperature=temperature, seed=seed),
        tuple(replies[index] for index in order),
        tuple(hearing.tones[index] for index in order) if hearing else None,
        tuple(hearing.nearest[index] for index in order) if hearing else None,
    )


class _Hearing:
    """Collects what an adapter hears: its own estimate of the emotion and, by a probe, the words.

    The probe chooses those words whose states in the language model, as it was before it was tuned, are nearest to
    `Fused.meaning`, among all that are said in the set. Training aligned these two, see `dialogue.align`.
    """

    def __init__(self, words: language.Language, known: tuple[str, ...]) -> None:
        self._states = text_states(words, known)
        self._known = known
        self._device = words.device
        self.tones: dict[int, str] = {}
        self.nearest: dict[int, str] = {}

    def add(self, indices: Sequence[int], clips: Sequence[Mapping[str, Any]], adapter: Adapter) -> None:
        """Runs the adapter on the features of clips."""
        with torch.inference_mode():
            fused = adapter(heard(clips, adapter.config).to(self._device))
            nearest = (F.normalize(fused.meaning.float(), dim=1) @ self._states.T).argmax(1)
        for index, emotion, text in zip(indices, fused.emotions.argmax(1), nearest, strict=True):
            self.tones[index] = adapter.config.labels[int(emotion)]
            self.nearest[index] = self._known[int(text)]


def _texts(contender: Contender, examples: Sequence[Example], labels: Sequence[str] | None) -> list[str]:
    """Returns what a model without an adapter reads."""
    each = labels if labels is not None else [example.emotion for example in examples]
    return [described(example, contender.hears, label) for example, label in zip(examples, each, strict=True)]


def _batches(examples: Sequence[Example], texts: Sequence[str] | None, *, alone: bool) -> list[list[list[int]]]:
    """Returns batches of groups of clips, by length; the clips of a group read the same, and get one answer.

    Args:
        examples: The clips.
        texts: What is read; None if speech is heard.
        alone: Whether each clip is a group of its own, since answers to the same text differ.
    """
    groups: dict[Any, list[int]] = {}
    sizes: dict[Any, int] = {}
    for index, example in enumerate(examples):
        same = index if texts is None or alone else (texts[index], example.context)
        groups.setdefault(same, []).append(index)
        sizes[same] = len(texts[index]) if texts is not None else _size(example.features)
    ordered = [groups[same] for same in sorted(groups, key=lambda same: sizes[same])]
    return [ordered[start : start + _BATCH] for start in range(0, len(ordered), _BATCH)]


def _size(features: Path | None) -> int:
    return features.stat().st_size if features and features.is_file() else 0


def key(
    contender: Contender,
    examples: Sequence[Example],
    labels: Sequence[str] | None,
    *,
    name: str | None,
    dtype: str,
    limit: int,
    temperature: float,
    seed: int,
) -> str:
    """Returns a hash of everything that the answers of `answer` depend on."""
    chance = (temperature, seed) if temperature else None
    hashed = hashlib.sha256(repr([contender.name, labels, name, dtype, limit, chance, *examples]).encode())
    for file in ("config.json", stored.WEIGHTS):
        hashed.update((contender.folder / file).read_bytes())
    return hashed.hexdigest()
