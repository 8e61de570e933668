"""Backends of the live voice: models, prosody or both; which of them can run here, and what replaces the others."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

from e2v_port.analysis.judge import Judge, JudgedWaveform
from e2v_port.analysis.judged import JudgedSegment, graded, placed
from e2v_port.analysis.voices import Voices
from e2v_port.audio import Waveform
from e2v_port.checkpoints import catalog
from e2v_port.emotions.estimates import Dimensions
from e2v_port.emotions.fusion import FusionSettings, fuse
from e2v_port.emotions.judgement import ADAPTED, Judgement
from e2v_port.errors import AudioError, E2VError, NoLabels, RuntimeUnavailable, quoted
from e2v_port.live.follower import Steady
from e2v_port.models import devices
from e2v_port.models.model import Model
from e2v_port.prosody.baseline import Baseline
from e2v_port.prosody.judge import ProsodicJudgement, judge
from e2v_port.prosody.measure import Prosody, measure
from e2v_port.speech.segment import Segment

__all__ = ["BACKENDS", "Backend", "available_backends", "opened"]

BACKENDS = ("bundled", "emotion2vec", "prosodic", "hybrid")

_PROSODY = 0.3  # share of the prosody in the dimensions of `hybrid`; the rest is the model's


def available_backends(runtime: str = "auto") -> dict[str, str | None]:
    """Reports which backends can run on this machine. Nothing is loaded or downloaded.

    Args:
        runtime: Runtime of the models, as for `load`.

    Returns:
        For each of `bundled`, `emotion2vec`, `prosodic` and `hybrid`, None if it can run; otherwise the reason and the
        remedy, in one line.
    """
    return {name: _missing(name, runtime) for name in BACKENDS}


def _missing(backend: str, runtime: str) -> str | None:
    if backend == "prosodic":
        return None
    try:
        devices.choose(runtime)
    except RuntimeUnavailable as error:
        return str(error)
    if backend == "emotion2vec" and _converted_emotion2vec() is None:
        return (
            "no emotion2vec model with labels has been converted on this machine: "
            "e2v convert --model iic/emotion2vec_plus_base"
        )
    if backend != "emotion2vec" and catalog.find(catalog.BUNDLED) is None:
        return f"{catalog.BUNDLED} is part of the package but missing: reinstall e2v-port from its wheel"
    return None


def _converted_emotion2vec() -> str | None:
    known = (model.id for model in catalog.known() if model.family == "emotion2vec" and model.labels)
    return next((name for name in known if catalog.find(name)), None)


@dataclass(frozen=True)
class Backend:
    """A backend that is ready to run. Safe to use from several threads.

    Attributes:
        name: One of `BACKENDS`; for a model of another kind its name, if it is bundled, or else its family.
        judge: Loaded models and their fusion; None for `prosodic`.
        fusion: Settings of the fusion.
        fallback: Reason why this is not the backend that was asked for; None if it is.
    """

    name: str
    judge: Judge | None
    fusion: FusionSettings
    fallback: str | None = None

    @property
    def needs_prosody(self) -> bool:
        """Whether its judgements depend on the prosody."""
        return self.name in {"prosodic", "hybrid"}

    def judge_all(
        self,
        parts: Sequence[tuple[Segment, Waveform]],
        baselines: Mapping[str | None, Baseline],
        *,
        measured: bool,
        steady: Steady | None = None,
        voices: Voices | None = None,
    ) -> list[JudgedSegment]:
        """Judges segments; those that can be judged go through the models together.

        Args:
            parts: Segments, each with its waveform: [samples], float32, 16 kHz.
            baselines: Baselines by speaker.
            measured: Whether to measure the prosody also where no judgement depends on it.
            steady: Replaces each prediction of the categorical model before it is fused.
            voices: Voices to adapt to, which learn from segments, one after the other, but not from windows (`steady`).

        Raises:
            AudioError: A waveform cannot be used.
        """
        judgeable = [waveform for segment, waveform in parts if segment.quality in {"normal", "low_confidence"}]
        results = self._results(judgeable)
        found = []
        for segment, waveform in parts:
            judged = placed(segment)
            if segment.quality in {"normal", "low_confidence"}:
                prosody = measure(waveform) if measured or self.needs_prosody else None
                result = next(results)
                if voices and result:
                    result = voices.adapted(segment.speaker, result, hear=steady is None)
                judged = self._judged(judged, result, prosody, baselines.get(segment.speaker), steady)
            found.append(judged)
        return found

    def _results(self, waveforms: list[Waveform]) -> Iterator[JudgedWaveform | None]:
        """Yields the result of the models for each waveform; None without models."""
        if self.judge is None or not waveforms:
            yield from repeat(None, len(waveforms))
            return
        for result in self.judge.all(waveforms):
            if isinstance(result, AudioError):
                raise result
            yield result

    def _judged(
        self,
        judged: JudgedSegment,
        result: JudgedWaveform | None,
        prosody: Prosody | None,
        baseline: Baseline | None,
        steady: Steady | None,
    ) -> JudgedSegment:
        opinion = judge(prosody, baseline) if prosody else None
        if opinion:
            judged = replace(judged, prosody=prosody, reasons=opinion.reasons)
        if result is None:
            assert opinion is not None
            assert prosody is not None
            snr = None if steady else prosody.quality.snr
            judgement = _by_prosody(opinion, judged.duration, self.fusion, snr)
            return replace(judged, judgement=judgement, quality=graded(judged.quality, judgement))
        assert self.judge is not None
        if steady and result.prediction:
            result = self.judge.with_prediction(result, steady(result.prediction))
        if self.name == "hybrid":
            assert opinion is not None
            result = replace(result, judgement=_mixed(self.judge, result, opinion))
        quality = graded(judged.quality, result.judgement)
        return replace(judged, judgement=result.judgement, prediction=result.prediction, quality=quality)


def _by_prosody(opinion: ProsodicJudgement, duration: float, settings: FusionSettings, snr: float | None) -> Judgement:
    judgement = fuse(None, opinion.dimensions, duration, settings, snr=snr)
    return replace(
        judgement,
        notes=judgement.notes + (("uncertain",) if opinion.confidence < settings.uncertain else ()),
        sources=("prosodic",),
        dimensions_from="prosody",
    )


def _mixed(models: Judge, result: JudgedWaveform, opinion: ProsodicJudgement) -> Judgement:
    """Mixes the dimensions of the models with those of the prosody."""
    judgement = result.judgement
    assert judgement is not None
    if judgement.dimensions is None:  # labels of the model's own, from which none follow
        return replace(judgement, dimensions=opinion.dimensions, dimensions_from="prosody")
    shares = [(judgement.dimensions.to_dict(), 1 - _PROSODY), (opinion.dimensions.to_dict(), _PROSODY)]
    mixed = Dimensions(**{name: sum(values[name] * share for values, share in shares) for name in shares[0][0]})
    if result.dimensions is None:  # mostly another form of the labels, so nothing may follow from them
        return replace(judgement, dimensions=mixed, dimensions_from="labels and prosody")
    notes = judgement.notes
    judgement = models.fuse(result.prediction, mixed, result.duration, result.snr)
    if ADAPTED in notes:
        judgement = replace(judgement, notes=(*judgement.notes, ADAPTED))
    return replace(judgement, sources=(*judgement.sources, "prosodic"), dimensions_from="model and prosody")


def opened(
    backend: str | None,
    model: str | Path | Model | None,
    dimensional: str | Path | Model | None,
    fusion: FusionSettings,
    *,
    fallback: bool,
    **options: Any,
) -> Backend:
    """Loads a backend, or the one that replaces it. Errors are those of `EmotionDetector`.

    Args:
        backend: Name of the backend, as for `EmotionDetector`.
        model: Model that gives labels, as for `EmotionDetector`.
        dimensional: Model that measures arousal, dominance and valence, as for `EmotionDetector`.
        fusion: Settings of the fusion.
        fallback: Whether another backend may replace one that cannot run.
        options: `runtime`, `dtype`, `labels` and `offline`, as for `load`.
    """
    if backend not in {None, *BACKENDS}:
        raise ValueError(f"unknown backend {quoted(backend)}: use one of {', '.join(BACKENDS)}")
    if backend == "prosodic" and not (model is None and dimensional is None):
        raise ValueError("the backend prosodic uses no model: leave model= and dimensional= out")
    if backend == "prosodic" and options["labels"] is not None:
        raise ValueError("the backend prosodic gives no labels to choose among: leave labels= out")
    if backend == "bundled" and model is not None:
        raise ValueError("the backend bundled brings its model: leave model= or backend= out")
    if backend is None and model is None:
        backend = "bundled"
    try:
        return _loaded(backend, model, dimensional, fusion, options)
    except NoLabels:
        raise
    except E2VError as error:
        if not fallback:
            raise
        why = f"{backend or model} cannot be used: {error}"
    nearest = "hybrid" if backend == "hybrid" else "bundled"
    try:
        replacement = _loaded(nearest, None, None, fusion, {**options, "runtime": "auto", "dtype": None})
    except E2VError:
        replacement = Backend("prosodic", None, fusion)
    return replace(replacement, fallback=why)


def _loaded(
    backend: str | None,
    model: str | Path | Model | None,
    dimensional: str | Path | Model | None,
    fusion: FusionSettings,
    options: Mapping[str, Any],
) -> Backend:
    if backend == "prosodic":
        return Backend(backend, None, fusion)
    if model is None:
        if backend is not None and (reason := _missing(backend, options["runtime"])):
            raise RuntimeUnavailable(f"the backend {backend} cannot run here: {reason}")
        model = _converted_emotion2vec() if backend == "emotion2vec" else catalog.BUNDLED
    judging = Judge.load(model, dimensional, fusion, **options)
    config = judging.models["categorical"].config
    family, name = config.family, config.source.repository
    if backend == "emotion2vec" and family != backend:
        raise ValueError(f"{name} is not an emotion2vec model but of the family {family}: leave backend= out")
    known = catalog.lookup(name)
    return Backend(backend or (known.id if known and known.bundled else family), judging, fusion)
