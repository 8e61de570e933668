"""Compares models: runs all of them on the same clips of a corpus, with the labels that all of them have."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from e2v_port.architectures.config import ModelConfig
from e2v_port.emotions import taxonomy
from e2v_port.emotions.estimates import Prediction
from e2v_port.errors import AudioError, CorpusError, NoLabels
from e2v_port.evaluation import metrics, readers, sounds, splits
from e2v_port.evaluation.bootstrap import Bootstrap
from e2v_port.evaluation.comparison.pairs import Difference, difference
from e2v_port.evaluation.datasets import Corpus, Utterance, label_of
from e2v_port.evaluation.evaluate import check_unseen, choices, clip_of, run
from e2v_port.evaluation.metrics import Integers
from e2v_port.evaluation.results import Answer, Figure, Seen, plain
from e2v_port.models import devices
from e2v_port.models.load import load, weights_of

__all__ = ["Comparison", "Contender", "compare"]


@dataclass(frozen=True)
class Contender:
    """A model in a comparison.

    Attributes:
        model: Model, as it was named.
        runtime: Runtime that ran it.
        dtype: Type of its arithmetic.
        uar: Unweighted average recall on the clips that are compared.
        wa: Share of these clips that are right.
        macro_f1: Mean F1 over the labels.
        difference: Difference to the first model; None for the first itself.
        seconds: Seconds of computing per second of audio, from file to label, in batches, on the machine at hand.
        size: Size of the weights on disk, in bytes.
        ignored: Labels of the model that do not count.
        seen: Clips known from the training of the model, as in `Evaluation`.
    """

    model: str
    runtime: str
    dtype: str
    uar: Figure
    wa: Figure
    macro_f1: Figure
    difference: Difference | None
    seconds: float
    size: int
    ignored: tuple[str, ...]
    seen: Mapping[str, Seen] | None


@dataclass(frozen=True)
class Comparison:
    """Models on the same clips of a corpus.

    Attributes:
        clips: Number of clips that are compared.
        speakers: Number of their speakers.
        resampled: Unit of the bootstrap, `speakers` or `clips`.
        labels: Labels under emotion2vec's names that count: those that all models and some clips have.
        left_out: Number of clips by label, for other labels (an empty string means no label).
        errors: Reasons why clips could not be used, by at least one model.
        audio: Duration of the clips in seconds.
        contenders: The models, in the order given.
        notes: Remarks of the corpus' reader.
    """

    clips: int
    speakers: int
    resampled: str
    labels: tuple[str, ...]
    left_out: Mapping[str, int]
    errors: tuple[str, ...]
    audio: float
    contenders: tuple[Contender, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields as JSON-compatible values, with None for NaN."""
        values: dict[str, Any] = plain(asdict(self))
        return values


def compare(
    models: Sequence[str | Path],
    corpora: Sequence[str | Corpus],
    *,
    split: str = "test",
    labels: str | Sequence[str] | None = None,
    seen: bool = False,
    channel: int | str = "mix",
    runtime: str = "auto",
    dtype: str | None = None,
    seed: int = 0,
    offline: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Comparison]:
    """Runs models on the same clips, and compares each with the first.

    Only labels that all models have count: clips with others are left out, and each model gives the most probable one
    of the rest. A clip that one model cannot use is left out for all.

    Args:
        models: Two models or more, as for `e2v_port.load`.
        corpora: Corpora, or what `readers.read` takes, e.g. `ravdess=FOLDER`.
        split: Speakers to compare on: `train`, `dev`, `test` or `all`.
        labels: Labels to compare on, two or more that all models have, in the words of any label set; as one text, they
            are separated by commas. By default all that the models have in common.
        seen: Whether clips may be among those that a model was trained on, or that its best epoch was chosen by.
        channel: Channel of the clips, as for `Model.predict`.
        runtime: Runtime of all models, as for `e2v_port.load`.
        dtype: Type of the arithmetic of all models, as for `e2v_port.load`.
        seed: Seed of the bootstrap.
        offline: Never open a connection.
        advance: Called after each clip and model.

    Returns:
        A comparison for each corpus, by its name.

    Raises:
        ValueError: Fewer than two models.
        NoLabels: A model has no labels, or not those in `labels`.
        CorpusError: A corpus cannot be read, has no two labels that all models have, or has clips that a model was
            trained on, unless `seen`; no clip can be used by all models.
        ModelNotFound, DownloadError, CheckpointError, RuntimeUnavailable: See `e2v_port.load`.
    """
    if len(models) < 2:
        raise ValueError(f"{len(models)} model to compare: pass two or more")
    read = [each if isinstance(each, Corpus) else readers.read(each) for each in corpora]
    chosen = splits.chosen(read, split)
    # Whatever can be wrong is found before the first model runs.
    on = devices.choose(runtime, dtype)
    weights = [weights_of(model, on, offline=offline) for model in models]
    configs = [ModelConfig.read(path.parent) for path in weights]
    outputs = [_outputs(config, str(model)) for config, model in zip(configs, models, strict=True)]
    common = _common(outputs, labels.split(",") if isinstance(labels, str) else labels)
    kept = {name: [clip for clip in clips if clip.label in common] for name, clips in chosen.items()}
    known = {}
    for name, clips in kept.items():
        if len({clip.label for clip in clips}) < 2:
            raise CorpusError(
                f"{name}: nothing to compare: fewer than two of its labels are among those that count, as all models "
                f"have them ({', '.join(sorted(common)) or 'none'})"
            )
        known[name] = [_seen(config, str(model), clips, seen) for config, model in zip(configs, models, strict=True)]
    runs: dict[str, list[_Run]] = {name: [] for name in kept}
    for model in models:
        loaded = load(model, runtime=runtime, dtype=dtype, offline=offline)
        for name, clips in kept.items():
            _ = [*loaded.each([clips[0].file], channel=channel)]  # what happens once, such as compiling, is not timed
            began = time.perf_counter()
            answers = run(loaded, clips, channel=channel, advance=advance)
            runs[name].append(_Run(loaded.runtime, loaded.dtype, answers, time.perf_counter() - began))
    found = {}
    for corpus in read:
        left_out = Counter(clip.original for clip in chosen[corpus.name] if clip.label not in common)
        entries = [
            _Entry(str(model), path.stat().st_size, names, seen_, ran)
            for model, path, names, seen_, ran in zip(
                models, weights, outputs, known[corpus.name], runs[corpus.name], strict=True
            )
        ]
        found[corpus.name] = _comparison(
            kept[corpus.name], entries, common, left_out=left_out, notes=corpus.notes, seed=seed
        )
    return found


@dataclass(frozen=True)
class _Run:
    """Answers of a model for all clips, and the seconds that they took."""

    runtime: str
    dtype: str
    answers: Sequence[Answer]
    seconds: float


@dataclass(frozen=True)
class _Entry:
    """What a contender is made of; `outputs` has what each label of the model counts as."""

    model: str
    size: int
    outputs: Mapping[str, str]
    seen: Mapping[str, Seen] | None
    run: _Run


def _outputs(config: ModelConfig, model: str) -> dict[str, str]:
    """Returns what each label of a model counts as."""
    labels = [label.name for label in config.labels if not label.unused]
    if config.dimensional or not labels:
        raise NoLabels(f"{model} has no labels to compare: pass models with labels")
    return {name: label_of(name) or name for name in labels}


def _common(outputs: Sequence[Mapping[str, str]], wanted: Sequence[str] | None) -> set[str]:
    """Returns the labels that count, under emotion2vec's names."""
    common = set.intersection(*({*each.values()} for each in outputs))
    if wanted is None:
        return common
    chosen = {label_of(name.strip()) or name.strip() for name in wanted}
    if lacking := sorted(chosen - common):
        have = ", ".join(sorted(common)) or "none"
        raise NoLabels(f"{', '.join(lacking)}: not all models have this label: choose among {have}")
    return chosen


def _seen(config: ModelConfig, model: str, clips: Sequence[Utterance], allowed: bool) -> dict[str, Seen] | None:
    """Returns which clips are known from the training of a model; an error if they are not allowed."""
    known = sounds.seen_in_training(config.trained_on, config.calibrated_on, clips)
    if not allowed:
        check_unseen(model, known, len(clips))
    return known


def _comparison(
    clips: Sequence[Utterance],
    entries: Sequence[_Entry],
    common: set[str],
    *,
    left_out: Mapping[str, int],
    notes: tuple[str, ...],
    seed: int,
) -> Comparison:
    """Compares the answers of all models for the clips that all of them can use."""
    used: list[tuple[Utterance, tuple[Answer, ...]]] = []
    errors = []
    audio = 0.0
    for clip, row in zip(clips, zip(*(entry.run.answers for entry in entries), strict=True), strict=True):
        if failed := [answer for answer in row if isinstance(answer, AudioError)]:
            errors.append(str(failed[0]))
        elif isinstance(row[0], Prediction):
            used.append((clip, row))
            audio += row[0].duration
    if not used:
        raise CorpusError(f"nothing to compare: no clip can be used; the first error is: {errors[0]}")
    present = {clip.label for clip, _ in used}
    labels = tuple(label for label in taxonomy.labels("emotion2vec") if label in present & common)
    bootstrap = Bootstrap([clip.speaker for clip, _ in used], seed)
    contenders: list[Contender] = []
    first: Integers | None = None
    for i, entry in enumerate(entries):
        judged = [clip_of(clip, row[i], entry.outputs) for clip, row in used]
        truth, _, given, _ = choices(judged, labels)
        each = metrics.each_confusion(truth, given, len(labels))
        whole, draws = each.sum(0), bootstrap.draws(each)
        contenders.append(
            Contender(
                model=entry.model,
                runtime=entry.run.runtime,
                dtype=entry.run.dtype,
                uar=bootstrap.figure(metrics.uar, whole, draws),
                wa=bootstrap.figure(metrics.wa, whole, draws),
                macro_f1=bootstrap.figure(metrics.macro_f1, whole, draws),
                difference=None if first is None else difference(truth, first, given, len(labels), bootstrap),
                seconds=entry.run.seconds / audio,
                size=entry.size,
                ignored=tuple(name for name, label in entry.outputs.items() if label not in labels),
                seen=entry.seen,
            )
        )
        first = given if first is None else first
    return Comparison(
        clips=len(used),
        speakers=bootstrap.speakers,
        resampled=bootstrap.resampled,
        labels=labels,
        left_out=dict(left_out),
        errors=tuple(errors),
        audio=audio,
        contenders=tuple(contenders),
        notes=notes,
    )
