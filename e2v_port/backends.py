"""What listens to a voice: a model, its prosody, or both; which of these can run here, and what if they cannot."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

from e2v_port import catalog, context, devices
from e2v_port.analysis import JudgedSegment, each
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.emotions import Dimensions
from e2v_port.errors import AudioError, E2VError, NoLabels, RuntimeUnavailable
from e2v_port.fusion import FusionSettings, Judgement, fuse
from e2v_port.model import Model, load
from e2v_port.prosody import Baseline, ProsodicJudgement, judge, measure
from e2v_port.segments import Segment

__all__ = ["BACKENDS", "Backend", "available_backends", "opened"]

BACKENDS = ("bundled", "emotion2vec", "prosodic", "hybrid")

_PROSODY = 0.3  # its share of the dimensions of `hybrid`; the rest is the model's


def available_backends(runtime: str = "auto") -> dict[str, str | None]:
    """Tells what can listen on this machine. Nothing is loaded or downloaded.

    Args:
        runtime: For the models, as for `load`.

    Returns:
        For each of `bundled`, `emotion2vec`, `prosodic` and `hybrid`: None if it can; else why not, and what to do
        about it, in one line.
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
        return "the model of the package is not there: install the package again, from its wheel"
    return None


def _converted_emotion2vec() -> str | None:
    known = (model.id for model in catalog.known() if model.family == "emotion2vec" and model.labels)
    return next((name for name in known if catalog.find(name)), None)


@dataclass(frozen=True)
class Backend:
    """What listens, ready to run. May be used from several threads at once.

    Attributes:
        name: One of `BACKENDS`, or the family of a model of another kind.
        categorical: Gives labels; None without a model.
        dimensional: Measures arousal, dominance and valence, if there is such a model.
        fallback: Why it is not the one that was asked for; None if it is.
    """

    name: str
    categorical: Model | None
    dimensional: Model | None
    fallback: str | None = None

    @property
    def by_prosody(self) -> bool:
        """Whether what it says depends on the prosody."""
        return self.name in {"prosodic", "hybrid"}

    def judge(
        self,
        parts: Iterable[tuple[Segment, Waveform]],
        settings: FusionSettings,
        baselines: Mapping[str | None, Baseline],
        *,
        measured: bool,
    ) -> list[JudgedSegment]:
        """Judges segments; all of those that can be judged go through the models together.

        Args:
            parts: Each with its waveform [samples], float32, 16 kHz.
            settings: Of the judgement.
            baselines: Of speakers.
            measured: Whether to measure the prosody, too, where nothing depends on it.

        Raises:
            AudioError: A waveform cannot be used.
        """
        parts = list(parts)
        spoken = [waveform for segment, waveform in parts if segment.quality in {"normal", "low_confidence"}]
        told = self._told(spoken, settings)
        found = []
        for segment, waveform in parts:
            place = (segment.start, segment.end, segment.quality, segment.speaker, segment.text)
            judged = JudgedSegment(*place, None)
            if segment.quality in {"normal", "low_confidence"}:
                if said := next(told):
                    judged = replace(judged, judgement=said.judgement, prediction=said.prediction)
                if measured or self.by_prosody:
                    judged = self._measured(judged, waveform, settings, baselines.get(segment.speaker))
            found.append(judged)
        return found

    def _told(self, waveforms: list[Waveform], settings: FusionSettings) -> Iterator[JudgedSegment | None]:
        """What the models say of each; None where there are none."""
        if self.categorical is None or not waveforms:
            yield from repeat(None, len(waveforms))
            return
        for result in each(
            waveforms,
            model=self.categorical,
            dimensional=self.dimensional,
            sampling_rate=SAMPLING_RATE,
            whole=True,
            fusion=settings,
        ):
            if isinstance(result, AudioError):
                raise result
            yield result.segments[0]

    def _measured(
        self, judged: JudgedSegment, waveform: Waveform, settings: FusionSettings, baseline: Baseline | None
    ) -> JudgedSegment:
        prosody = measure(waveform)
        opinion = judge(prosody, baseline)
        judged = replace(judged, prosody=prosody, reasons=opinion.reasons)
        if self.name == "prosodic":
            return replace(judged, judgement=_alone(opinion, judged.duration, settings))
        return replace(judged, judgement=self._mixed(judged, opinion, settings)) if self.name == "hybrid" else judged

    def _mixed(self, judged: JudgedSegment, opinion: ProsodicJudgement, settings: FusionSettings) -> Judgement:
        assert self.categorical is not None
        assert judged.judgement is not None
        model, told = judged.dimensions, judged.judgement
        if model is None:  # labels of the model's own, from which none follow
            return replace(told, dimensions=opinion.dimensions, dimensions_from="prosody")
        shares = [(model.to_dict(), 1 - _PROSODY), (opinion.dimensions.to_dict(), _PROSODY)]
        mixed = Dimensions(**{name: sum(values[name] * share for values, share in shares) for name in shares[0][0]})
        if judged.dimensions_from == "labels":  # mostly another form of these, so that nothing follows
            return replace(told, dimensions=mixed, dimensions_from="labels and prosody")
        label_set = context.label_set(self.categorical.labels)
        told = fuse(judged.prediction, mixed, judged.duration, settings, label_set=label_set)
        return replace(told, sources=(*told.sources, "prosodic"), dimensions_from="model and prosody")


def _alone(opinion: ProsodicJudgement, duration: float, settings: FusionSettings) -> Judgement:
    told = fuse(None, opinion.dimensions, duration, settings)
    return replace(
        told,
        confidence=opinion.confidence,
        notes=told.notes + (("uncertain",) if opinion.confidence < settings.uncertain else ()),
        sources=("prosodic",),
        dimensions_from="prosody",
    )


def opened(
    backend: str | None,
    model: str | Path | Model | None,
    dimensional: str | Path | Model | None,
    *,
    fallback: bool,
    **options: Any,
) -> Backend:
    """Loads a backend, or what takes its place. Arguments and errors are those of `EmotionDetector`.

    Args:
        backend: Its name.
        model: Gives labels.
        dimensional: Measures arousal, dominance and valence.
        fallback: Whether something else may listen.
        options: `runtime`, `dtype` and `offline`, as for `load`.
    """
    if backend not in {None, *BACKENDS}:
        raise ValueError(f"no backend is called {backend!r}: use one of {', '.join(BACKENDS)}")
    if backend == "prosodic" and not (model is None and dimensional is None):
        raise ValueError("the backend prosodic uses no model: leave model= and dimensional= out")
    if backend == "bundled" and model is not None:
        raise ValueError("the backend bundled has its model: leave model= or backend= out")
    if backend is None and model is None:
        backend = "bundled"
    try:
        return _loaded(backend, model, dimensional, options)
    except NoLabels:
        raise
    except E2VError as error:
        if not fallback:
            raise
        why = f"{backend or model} cannot be used: {error}"
    nearest = "hybrid" if backend == "hybrid" else "bundled"
    try:
        found = _loaded(nearest, None, None, {**options, "runtime": "auto", "dtype": None})
    except E2VError:
        found = Backend("prosodic", None, None)
    return replace(found, fallback=why)


def _loaded(
    backend: str | None,
    model: str | Path | Model | None,
    dimensional: str | Path | Model | None,
    options: Mapping[str, Any],
) -> Backend:
    if backend == "prosodic":
        return Backend(backend, None, None)
    if model is None:
        if backend is not None and (reason := _missing(backend, options["runtime"])):
            raise RuntimeUnavailable(f"the backend {backend} cannot run here: {reason}")
        model = _converted_emotion2vec() if backend == "emotion2vec" else catalog.BUNDLED
    assert model is not None
    categorical = model if isinstance(model, Model) else load(model, **options)
    categorical.need_labels()
    family, name = categorical.config.family, categorical.config.source.repository
    if backend == "emotion2vec" and family != backend:
        raise ValueError(f"{name} is no emotion2vec model, its family is {family}: leave backend= out")
    if isinstance(dimensional, str | Path):
        dimensional = load(dimensional, **options)
    if dimensional:
        dimensional.need_dimensions()
    own = catalog.BUNDLED if name == catalog.BUNDLED else family
    return Backend(backend or own, categorical, dimensional)
