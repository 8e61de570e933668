"""Parts shared by all kinds of training: the clips, the progress, and the hidden folder it is resumed from."""

import hashlib
import io
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from e2v_port import seam
from e2v_port.architectures.config import TrainedOn
from e2v_port.emotions.estimates import DIMENSIONS
from e2v_port.emotions.taxonomy import labels
from e2v_port.errors import CorpusError, TrainingError
from e2v_port.evaluation import metrics
from e2v_port.evaluation.datasets import SPLITS, Corpus, Utterance
from e2v_port.evaluation.sounds import trained_on, without_copies
from e2v_port.evaluation.splits import split
from e2v_port.files import replacing
from e2v_port.host import fork_safe_lock

__all__ = [
    "COPIES",
    "EPOCHS",
    "SILENT",
    "WEIGHTS",
    "Progress",
    "Task",
    "by_corpus",
    "check_readable",
    "choose",
    "load_state",
    "save_state",
    "seeded",
    "working",
]

# Mixed into the seed, so that draws for different purposes are independent.
COPIES, EPOCHS, WEIGHTS = range(3)

_drawing = fork_safe_lock()  # torch has a single generator for initialization and dropout


@dataclass(frozen=True)
class Progress:
    """Callbacks that receive the progress of a training.

    Attributes:
        say: Receives a line of text.
        bar: Receives the number of steps and their description; returns a context manager whose value is called after
            each step.
    """

    say: Callable[[str], None]
    bar: Callable[[int, str], AbstractContextManager[Callable[[], None]]]


SILENT = Progress(lambda _: None, lambda _, __: nullcontext(lambda: None))


@dataclass(frozen=True)
class Task:
    """The clips to learn from and the outputs to learn.

    Attributes:
        corpora: The corpora.
        parts: The usable clips of `train` and `dev`, and those of `test`, which no training touches.
        outputs: Labels under emotion2vec's names and in its order, or `arousal`, `dominance` and `valence`.
        seed: Random seed.
        notes: Remarks to read before the training, as sentences.
        trained_on: Who the model is trained on, to be stored with it.
        sounds: Hash of the sound of each clip, see `evaluation.sounds`; empty for one that cannot be read.
    """

    corpora: tuple[Corpus, ...]
    parts: Mapping[str, tuple[Utterance, ...]]
    outputs: tuple[str, ...]
    seed: int
    notes: tuple[str, ...]
    trained_on: TrainedOn
    sounds: Mapping[str, tuple[bytes, ...]]

    @property
    def dimensional(self) -> bool:
        """Whether the outputs are dimensions rather than labels."""
        return self.outputs == DIMENSIONS

    @property
    def licence(self) -> str:
        """License of weights trained on these corpora, as restrictive as the strictest of theirs."""
        names: dict[str, list[str]] = defaultdict(list)
        for corpus in self.corpora:
            names[corpus.licence or "license unknown"].append(corpus.name)
        known = "; ".join(f"{', '.join(group)} ({licence})" for licence, group in names.items())
        closed = any("not for commercial use" in licence for licence in names)
        return f"{'non-commercial, ' if closed else ''}trained on {known}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON-compatible values for the report and for the comparison with an interrupted training."""
        speakers = {
            part: {
                corpus.name: sorted({clip.speaker for clip in self.parts[part] if clip.corpus == corpus.name})
                for corpus in self.corpora
            }
            for part in SPLITS
        }
        clips = [(part, clip) for part in SPLITS for clip in self.parts[part]]
        names = [(part, os.fsdecode(clip.file), clip.label, clip.speaker) for part, clip in clips]
        targets = [clip.dimensions and clip.dimensions.to_dict() for _, clip in clips]
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
    """Selects the clips for training and development.

    Args:
        corpora: One or more corpora.
        dev: Speakers of the development set, which decides when to stop; see `splits.split`.
        test: Speakers of the test set, which training never touches; see `splits.split`.
        dimensional: Whether to learn dimensions instead of labels.
        seed: Seed of the split and of the training.

    Raises:
        CorpusError: The corpora cannot be split this way, or leave too little to learn from.
    """
    apart, sounds, copies = without_copies(split(corpora, dev, test, seed))
    sound_of = {id(clip): sound for part in SPLITS for clip, sound in zip(apart[part], sounds[part], strict=True)}
    parts = {part: tuple(clips) for part, clips in apart.items()}
    names = ", ".join(corpus.name for corpus in corpora)
    if dimensional:
        parts = {part: tuple(clip for clip in clips if clip.dimensions) for part, clips in parts.items()}
        if not any(parts.values()):
            raise CorpusError(f"{names}: no clip has arousal, dominance and valence: pass a csv with these columns")
        outputs: tuple[str, ...] = DIMENSIONS
        notes = []
    else:
        learned = {clip.label for clip in parts["train"] if clip.label}
        outputs = tuple(label for label in labels("emotion2vec") if label in learned)
        known = {part: tuple(clip for clip in clips if clip.label in learned) for part, clips in parts.items()}
        notes = _notes(known, parts)
        parts = known
    if not parts["train"]:
        raise CorpusError(f"{names}: no speaker is left to train on: list fewer in --dev and --test")
    if len(outputs) < 2:
        raise CorpusError(f"{names}: all training clips are {outputs[0]}: add clips with a second label")
    if not parts["dev"]:
        raise CorpusError(f"{names}: no speaker is left for development: list some with --dev")
    heard = {part: tuple(sound_of[id(clip)] for clip in parts[part]) for part in SPLITS}
    remembered = trained_on(parts, heard)
    notes = [*_moved(corpora, remembered, seed), *copies, *notes]
    return Task(tuple(corpora), parts, outputs, seed, tuple(notes), remembered, heard)


def _moved(corpora: Sequence[Corpus], known: TrainedOn, seed: int) -> list[str]:
    """Names speakers that `e2v evaluate` tests on by default, but this training does not keep apart."""
    try:
        tested = {clip.speaker for clip in split(corpora, seed=seed)["test"]}
    except CorpusError:  # too few speakers for a default split
        return []
    return [
        f"test speakers of the default split, used for {part} here: {', '.join(sorted(tested & {*speakers}))}"
        for part, speakers in (("training", known.train), ("development", known.dev))
        if tested & {*speakers}
    ]


def _notes(known: Mapping[str, Sequence[Utterance]], parts: Mapping[str, Sequence[Utterance]]) -> list[str]:
    notes = []
    unused = Counter(clip.original for clips in parts.values() for clip in clips) - Counter(
        clip.original for clips in known.values() for clip in clips
    )
    if unused:
        shown = ", ".join(f"{label or 'no label'} ({count})" for label, count in unused.items())
        notes.append(f"clips whose label cannot be learned are left out: {shown}")
    speakers = defaultdict(set)
    for clip in known["train"]:
        speakers[clip.label].add(clip.speaker)
    for label, names in speakers.items():
        if len(names) == 1:
            notes.append(f"all {label} training clips are by {min(names)}: the model may learn the voice instead")
    return notes


def check_readable(task: Task, targets: NDArray[Any], progress: Progress) -> None:
    """Checks that the readable training clips are enough to learn from, and names labels that none of them has.

    Args:
        task: The task.
        targets: Indices of labels [clips], or dimensions [clips, 3], of the readable training clips.
        progress: Receives the names.

    Raises:
        TrainingError: All clips have the same label, or there is a single clip with dimensions.
    """
    if task.dimensional:
        if len(targets) < 2:
            raise TrainingError("a single training clip can be read, which has no correlation: see the lines above")
        return
    missing = [label for i, label in enumerate(task.outputs) if i not in targets]
    if len(missing) > len(task.outputs) - 2:
        raise TrainingError("the training clips that can be read all have the same label: see the lines above")
    if missing:
        progress.say(f"no training clip of {', '.join(missing)} can be read: the model will hardly ever answer that")


@contextmanager
def working(
    out: Path, settings: Mapping[str, Any], restart: bool, names: tuple[str, ...] | None = None
) -> Iterator[Path]:
    """Provides the hidden folder that holds the state of an unfinished training.

    The folder is `.NAME.training` next to `out`. It is deleted at the end, unless an exception leaves the block after
    something was written to it.

    Args:
        out: Folder the model will be written to.
        settings: Everything the result depends on, as JSON-compatible values.
        restart: Whether to discard an interrupted training and replace an existing model.
        names: Names of the files of a model, as for `may_replace`; by default those of a converted one.

    Raises:
        TrainingError: `out` is in use, or the interrupted training had other settings.
    """
    out = out.resolve()
    folder = out.parent / f".{out.name}.training"
    if not (seam.may_replace(out, names) if names else seam.may_replace(out)):
        raise TrainingError(f"{out} exists and is more than a converted model: pass another folder, or move it away")
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    elif (out / "config.json").is_file() and not folder.is_dir():
        raise TrainingError(f"{out} is already a model: pass another folder, or replace it with --restart")
    stored = folder / "settings.json"
    settings = json.loads(json.dumps(settings))
    if stored.is_file():
        before = json.loads(stored.read_text("utf-8"))
        if other := [name for name in settings | before if settings.get(name) != before.get(name)]:
            raise TrainingError(
                f"{out}: a training with other settings ({', '.join(other)}) was interrupted here: repeat its command "
                f"to resume it, or discard it with --restart"
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(stored) as partial:
            partial.write_text(json.dumps(settings, indent=2), "utf-8")
    try:
        yield folder
    except BaseException:
        if os.listdir(folder) == [stored.name]:  # there is nothing to resume
            shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's random numbers inside the block, and restores the state of those on the CPU after it.

    Blocks in other threads wait, so that trainings in one process do not disturb each other.
    """
    with _drawing:
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed_all(seed)
        try:
            yield
        finally:
            torch.set_rng_state(before)


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Writes tensors, numbers and strings; the file appears complete or not at all.

    Raises:
        OSError: The disk is full. torch itself would raise a RuntimeError.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with replacing(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def load_state(path: Path) -> dict[str, Any] | None:
    """Returns the state that `save_state` wrote; None if there is none yet."""
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def by_corpus(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], corpora: Sequence[str], labels: int
) -> dict[str, dict[str, Any]]:
    """Returns the UAR and the confusion matrix of each corpus.

    Args:
        truth: Indices of the true labels, [clips].
        predicted: Indices of the predicted labels, [clips].
        corpora: Name of the corpus of each clip.
        labels: Number of labels.
    """
    figures = {}
    for name in dict.fromkeys(corpora):
        inside = np.array([corpus == name for corpus in corpora])
        matrix = metrics.confusion(truth[inside], predicted[inside], labels)
        figures[name] = {"uar": float(metrics.uar(matrix)), "confusion": matrix.astype(int).tolist()}
    return figures
