"""The results of an evaluation: figures with their intervals, and the answer for every clip."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from e2v_port.emotions.estimates import Dimensions, Prediction
from e2v_port.errors import AudioError

__all__ = [
    "Answer",
    "Clip",
    "Condition",
    "Doubt",
    "Evaluation",
    "Figure",
    "Figures",
    "Group",
    "KnownVoices",
    "Risk",
    "Seen",
    "mean",
    "plain",
]

Answer: TypeAlias = Prediction | Dimensions | AudioError | None


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % bootstrap interval.

    Attributes:
        value: Value on all clips; NaN if undefined, such as the correlation with a constant.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Figures:
    """How often labels are right.

    Attributes:
        uar: Unweighted average recall: mean recall over the labels that have references.
        wa: Weighted accuracy: share of clips that are right.
        macro_f1: Mean F1 over the labels that have references.
        labels: Labels of the confusion matrix.
        confusion: Numbers of clips: a row for each reference, a column for each answer.
        recalls: Recall of each label that has references.
    """

    uar: Figure
    wa: Figure
    macro_f1: Figure
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    recalls: Mapping[str, float]


@dataclass(frozen=True)
class Seen:
    """Clips that are known from a training: by speakers of it, or with the same sound as a clip of it.

    Attributes:
        clips: Number of clips.
        speakers: Their speakers, by the name in the training where it has one.
    """

    clips: int
    speakers: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """How often labels are right for a part of the clips.

    Attributes:
        clips: Number of clips.
        speakers: Number of their speakers.
        resampled: Unit of the bootstrap, `speakers` or `clips`.
        closed: UAR if the model may only answer with labels that have references, in this part.
        open: UAR if it may answer with any of its labels.
    """

    clips: int
    speakers: int
    resampled: str
    closed: Figure
    open: Figure


@dataclass(frozen=True)
class Condition:
    """How often labels are right under a condition, such as a telephone line.

    Attributes:
        clips: Number of clips in the figures.
        changed: Number of clips that differ from the recordings; excerpts do only where the recording is longer.
        closed: UAR if the model may only answer with labels that have references.
        open: UAR if it may answer with any of its labels.
        change: Difference of the closed UAR from that of the same clips as recorded, resampled in pairs.
        ece: Expected calibration error of the open answers.
    """

    clips: int
    changed: int
    closed: Figure
    open: Figure
    change: Figure
    ece: Figure


@dataclass(frozen=True)
class KnownVoices:
    """How answers were adapted to each speaker, from other clips of that speaker; see docs/adaptation.md.

    Attributes:
        others: Number of other clips that each offset is learned from, without labels.
        adapted: Number of clips that were adapted.
        refused: Number of clips that were not, since the others could be a single mood.
        too_few: Number of clips that were not, since there are not as many others.
        closed: UAR of the same clips without that, if the model may only answer with labels that have references.
    """

    others: int
    adapted: int
    refused: int
    too_few: int
    closed: Figure | None


@dataclass(frozen=True)
class Risk:
    """How wrong the answers are that remain if the least confident ones are withheld.

    Attributes:
        aurc: Area under the risk-coverage curve; see `metrics.aurc`.
        curve: Share of clips that get an answer, share of these answers that are wrong, and the lowest confidence
            among them; at most 100 points, from few answers to all.
    """

    aurc: Figure
    curve: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Doubt:
    """How often the open answers are wrong with and without the note `uncertain` of a judgement.

    Attributes:
        certain: Number of answers without the note.
        certain_errors: Share of them that are wrong; NaN if there are none.
        uncertain: Number of answers with the note.
        uncertain_errors: Share of them that are wrong; NaN if there are none.
    """

    certain: int
    certain_errors: Figure
    uncertain: int
    uncertain_errors: Figure


@dataclass(frozen=True)
class Clip:
    """The reference and the model's answer for one clip.

    Attributes:
        file: Path of the audio.
        speaker: Speaker, as in the corpus.
        sex: Sex of the speaker, as in the corpus.
        original: Label as the corpus spells it.
        label: Label under emotion2vec's names; None without a counterpart.
        predicted: The model's label, of all it has; None if the clip was not run or could not be judged.
        scores: Probability of each label.
        logits: Raw outputs of the model by their original names: labels, or arousal, dominance and valence.
        dimensions: Listeners' ratings by name; None if there are none.
        error: Reason why the clip could not be read; None otherwise.
        language: Language of the clip, as in the corpus; None if unknown.
        uncertain: Whether a judgement by these scores alone has the note `uncertain`; None if the clip was not run.
        diarization: The rates of `diarization_errors` under each of the rules in `diarization`; None for a
            corpus that labels whole clips.
    """

    file: str
    speaker: str
    sex: str | None
    original: str
    label: str | None
    predicted: str | None = None
    scores: Mapping[str, float] | None = None
    logits: Mapping[str, float] | None = None
    dimensions: Mapping[str, float] | None = None
    error: str | None = None
    language: str | None = None
    uncertain: bool | None = None
    diarization: Mapping[str, Mapping[str, float]] | None = None


@dataclass(frozen=True)
class Evaluation:
    """The figures of a model on the clips of a corpus.

    Attributes:
        model: Name of the model.
        runtime: Runtime that ran it.
        temperature: Temperature it was run with.
        outputs: Label under emotion2vec's names of each label of the model.
        mapping: Label under emotion2vec's names of each label of the corpus.
        clips: All clips, in the order given.
        judged: Number of clips in the figures.
        speakers: Number of their speakers.
        resampled: Unit of the bootstrap, `speakers` or `clips`.
        open: Figures if the model may answer with any of its labels; None for a dimensional model, and for a corpus
            that says which emotion appears when.
        closed: Figures if the model may only answer with labels that have references.
        ece: Expected calibration error of the open answers.
        ece_scaled: Expected calibration error with a temperature; that of each half of the speakers (or clips) is
            fitted on the other half.
        reliability: Table [15, 3] of the open answers: for each bin the number of clips, the sum of their confidences,
            and the number that are right.
        by_speaker: Number of clips and UAR of the open answers for each speaker.
        by_sex: Figures for each sex.
        by_language: Figures for each language.
        risk: What remains wrong if the model only answers where it is confident; None for a dimensional model.
        doubt: How often answers are wrong with and without the note `uncertain`; None for a dimensional model.
        conditions: Figures under each condition, see `conditions`; empty unless asked for.
        impossible: Number of clips by label, for labels that the model lacks; not in the figures.
        uar_with_impossible: Open UAR if these clips counted as errors.
        unmapped: Number of clips by the corpus' label, for labels without a counterpart (an empty string means no
            label); they were not run.
        dimensions: `ccc`, `pearson` and `mae` of arousal, dominance and valence; empty for a model with labels.
        seen: Clips that the model was trained on (`train`), that its best epoch was chosen by (`dev`), that come from a
            corpus of its training but from other speakers (`corpus`), or that its temperature was fitted on
            (`calibration`); None if nothing is known about its training.
        known_voices: How the answers were adapted to each speaker; None if they were not.
        diarization: The mean of each rate of the clips under each of these rules; empty for a corpus that labels whole
            clips.
    """

    model: str
    runtime: str
    temperature: float
    outputs: Mapping[str, str]
    mapping: Mapping[str, str | None]
    clips: tuple[Clip, ...]
    judged: int
    speakers: int
    resampled: str
    open: Figures | None = None
    closed: Figures | None = None
    ece: Figure | None = None
    ece_scaled: Figure | None = None
    reliability: tuple[tuple[float, ...], ...] = ()
    by_speaker: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    by_sex: Mapping[str, Group] = field(default_factory=dict)
    by_language: Mapping[str, Group] = field(default_factory=dict)
    risk: Risk | None = None
    doubt: Doubt | None = None
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    impossible: Mapping[str, int] = field(default_factory=dict)
    uar_with_impossible: float | None = None
    unmapped: Mapping[str, int] = field(default_factory=dict)
    dimensions: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    seen: Mapping[str, Seen] | None = None
    known_voices: KnownVoices | None = None
    diarization: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[str, ...]:
        """Reasons why clips could not be read."""
        return tuple(clip.error for clip in self.clips if clip.error is not None)

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields as JSON-compatible values, with None for NaN."""
        values: dict[str, Any] = plain(asdict(self))
        return values


def plain(value: Any) -> Any:
    """Returns nested dicts, lists and numbers as JSON-compatible values, with None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def mean(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Returns the mean of each figure over several corpora, by name, e.g. `open_uar`. Each corpus counts equally."""
    rows = [_flat(evaluation) for evaluation in evaluations]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _flat(evaluation: Evaluation) -> dict[str, float]:
    if evaluation.open is None or evaluation.closed is None or evaluation.ece is None or evaluation.ece_scaled is None:
        rows = (evaluation.dimensions or evaluation.diarization).items()
        return {f"{name}_{key}": figure.value for name, figures in rows for key, figure in figures.items()}
    flat: dict[str, float] = {}
    for kind, figures in (("open", evaluation.open), ("closed", evaluation.closed)):
        flat |= {f"{kind}_{name}": getattr(figures, name).value for name in ("uar", "wa", "macro_f1")}
    flat |= {"ece": evaluation.ece.value, "ece_scaled": evaluation.ece_scaled.value}
    return {**flat, "aurc": evaluation.risk.aurc.value} if evaluation.risk else flat
