"""What every training has in common: which clips it is for, the folder in which it can be interrupted, what it leaves.

`student` trains a small network from nothing, `heads` a new head on the embeddings of a converted model.
"""

import hashlib
import io
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from e2v_port import catalog, metrics
from e2v_port.config import DIMENSIONS
from e2v_port.corpora import SPLITS, Corpus, Utterance, split
from e2v_port.emotions import labels
from e2v_port.errors import CorpusError, TrainingError
from e2v_port.files import replacing

__all__ = ["SILENT", "Progress", "Task", "by_corpus", "choose", "load_state", "save_state", "threads", "working"]


@dataclass(frozen=True)
class Progress:
    """Whom a training tells how far it is.

    Attributes:
        say: Is given a line.
        bar: Is given a number of steps and what they are; what is called after each of them is entered.
    """

    say: Callable[[str], None]
    bar: Callable[[int, str], AbstractContextManager[Callable[[], None]]]


SILENT = Progress(lambda _: None, lambda _, __: nullcontext(lambda: None))


@dataclass(frozen=True)
class Task:
    """What is trained on, and what the outputs are to be.

    Attributes:
        corpora: As they were read.
        parts: The clips that can be used in `train` and `dev`; those of `test`, which no training touches.
        outputs: emotion2vec's names of the labels, in its order; or `arousal`, `dominance`, `valence`.
        seed: Of everything drawn.
        notes: What is worth knowing before the training, in whole sentences.
    """

    corpora: tuple[Corpus, ...]
    parts: Mapping[str, tuple[Utterance, ...]]
    outputs: tuple[str, ...]
    seed: int
    notes: tuple[str, ...]

    @property
    def dimensional(self) -> bool:
        """Whether the outputs are dimensions rather than labels."""
        return self.outputs == DIMENSIONS

    @property
    def licence(self) -> str:
        """What may be done with what is trained on these corpora: no more than with each of them."""
        names: dict[str, list[str]] = defaultdict(list)
        for corpus in self.corpora:
            names[corpus.licence or "licence not known here"].append(corpus.name)
        known = "; ".join(f"{', '.join(those)} ({licence})" for licence, those in names.items())
        closed = any("not for commercial use" in licence for licence in names)
        return f"{'non-commercial, ' if closed else ''}trained on {known}"

    def to_dict(self) -> dict[str, Any]:
        """Returns what the report and the comparison with an interrupted training need, as JSON holds it."""
        speakers = {
            part: {
                corpus.name: sorted({one.speaker for one in self.parts[part] if one.corpus == corpus.name})
                for corpus in self.corpora
            }
            for part in SPLITS
        }
        names = [(part, os.fsdecode(one.file), one.label, one.speaker) for part in SPLITS for one in self.parts[part]]
        targets = [one.dimensions and one.dimensions.to_dict() for part in SPLITS for one in self.parts[part]]
        return {
            "outputs": list(self.outputs),
            "seed": self.seed,
            "corpora": [
                {"name": corpus.name, "licence": corpus.licence, "labels": dict(corpus.mapping)}
                for corpus in self.corpora
            ],
            "clips": {part: len(self.parts[part]) for part in SPLITS},
            "speakers": speakers,
            "files": hashlib.sha256(json.dumps([names, targets]).encode()).hexdigest(),
        }


def choose(
    corpora: Sequence[Corpus],
    dev: Collection[str] = (),
    test: Collection[str] = (),
    *,
    dimensional: bool = False,
    seed: int = 0,
) -> Task:
    """Picks the clips of corpora that a model can be trained on and judged by.

    Args:
        corpora: At least one.
        dev: Speakers that decide when to stop; see `corpora.split`.
        test: Speakers to be left alone, likewise.
        dimensional: Whether dimensions are to be learned rather than labels.
        seed: Of the split and of the training.

    Raises:
        CorpusError: The corpora cannot be divided so, or leave too little to learn from.
    """
    parts = {part: tuple(one for one in ones) for part, ones in split(corpora, dev, test, seed).items()}
    names = ", ".join(corpus.name for corpus in corpora)
    if dimensional:
        parts = {part: tuple(one for one in ones if one.dimensions) for part, ones in parts.items()}
        if not any(parts.values()):
            raise CorpusError(f"{names}: no clip has arousal, dominance and valence: name a csv with these columns")
        outputs: tuple[str, ...] = DIMENSIONS
        notes = []
    else:
        learned = {one.label for one in parts["train"] if one.label}
        outputs = tuple(label for label in labels("emotion2vec") if label in learned)
        known = {part: tuple(one for one in ones if one.label in learned) for part, ones in parts.items()}
        notes = _notes(known, parts)
        parts = known
    if not parts["train"]:
        raise CorpusError(f"{names}: no speaker is left to train on: name fewer in --dev and --test")
    if len(outputs) < 2:
        raise CorpusError(f"{names}: all clips to train on are {outputs[0]}: a model needs two labels to tell apart")
    if not parts["dev"]:
        raise CorpusError(f"{names}: no speaker is left to decide when to stop: name some with --dev")
    return Task(tuple(corpora), parts, outputs, seed, tuple(notes))


def _notes(known: Mapping[str, Sequence[Utterance]], parts: Mapping[str, Sequence[Utterance]]) -> list[str]:
    notes = []
    unused = Counter(one.original for ones in parts.values() for one in ones) - Counter(
        one.original for ones in known.values() for one in ones
    )
    if unused:
        shown = ", ".join(f"{label or 'no label'} ({count})" for label, count in unused.items())
        notes.append(f"clips without a label that can be learned are left out: {shown}")
    speakers = defaultdict(set)
    for one in known["train"]:
        speakers[one.label].add(one.speaker)
    for label, those in speakers.items():
        if len(those) == 1:
            notes.append(f"only {min(those)} is {label} in training: the model may learn the voice instead")
    return notes


@contextmanager
def working(out: Path, settings: Mapping[str, Any], restart: bool) -> Iterator[Path]:
    """Gives the hidden folder in which a training keeps what it needs to go on after it was interrupted.

    It lies beside `out` as `.NAME.training`, stays if an exception leaves the block, and is deleted at the end.

    Args:
        out: The folder the model will be written to.
        settings: All that the result depends on, as JSON holds it.
        restart: Whether to begin anew, whatever was there, and to replace a model that is there.

    Raises:
        TrainingError: `out` holds something, or what was interrupted had other settings.
    """
    out = out.resolve()
    folder = out.parent / f".{out.name}.training"
    if not import_module("e2v_port.converters.weights").may_replace(out):
        raise TrainingError(f"{out} exists and is more than a converted model: name another folder, or move it away")
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    elif catalog.is_converted(out) and not folder.is_dir():
        raise TrainingError(f"{out} is a model already: name another folder, or replace it with --restart")
    told = folder / "settings.json"
    settings = json.loads(json.dumps(settings))
    if told.is_file():
        before = json.loads(told.read_text("utf-8"))
        if other := [name for name in settings | before if settings.get(name) != before.get(name)]:
            raise TrainingError(
                f"{out}: a training with other settings ({', '.join(other)}) was interrupted here: repeat its command "
                f"to go on, or begin anew with --restart"
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(told) as partial:
            partial.write_text(json.dumps(settings, indent=2), "utf-8")
    yield folder
    shutil.rmtree(folder)


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Writes tensors, numbers and texts; the file appears whole or not at all.

    Raises:
        OSError: The disk is full; torch alone would make a RuntimeError of it.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def load_state(path: Path) -> dict[str, Any] | None:
    """Returns what `save_state` wrote; None where there is nothing yet."""
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


@contextmanager
def threads(number: int | None) -> Iterator[int]:
    """Limits how many threads torch computes with; None for as many as it takes by itself. Gives their number."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def by_corpus(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], corpora: Sequence[str], labels: int
) -> dict[str, dict[str, Any]]:
    """Returns UAR and confusion matrix of each corpus.

    Args:
        truth: [clips], indices of labels.
        predicted: [clips], likewise.
        corpora: Names, [clips].
        labels: How many there are.
    """
    found = {}
    for name in dict.fromkeys(corpora):
        own = np.array([corpus == name for corpus in corpora])
        matrix = metrics.confusion(truth[own], predicted[own], labels)
        found[name] = {"uar": float(metrics.uar(matrix)), "confusion": matrix.astype(int).tolist()}
    return found
