"""Models and fusion: one judgement per waveform, from a categorical model, a dimensional model or both."""

import time
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from itertools import tee
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.runtime import Output
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.emotions import taxonomy
from e2v_port.emotions.adaptation import Offset, adapted, adapted_scores
from e2v_port.emotions.estimates import Dimensions, Prediction
from e2v_port.emotions.fusion import FusionSettings, fuse
from e2v_port.emotions.judgement import ADAPTED, Judgement
from e2v_port.errors import AudioError, NoLabels, need
from e2v_port.models.cache import OutputCache
from e2v_port.models.load import load
from e2v_port.models.model import Model
from e2v_port.prosody.noise import LEAST_SAMPLES, signal_to_noise

__all__ = ["CATEGORICAL", "DIMENSIONAL", "Judge", "JudgedWaveform"]

CATEGORICAL, DIMENSIONAL = "categorical", "dimensional"  # the kinds of models


@dataclass(frozen=True)
class JudgedWaveform:
    """Everything that the models estimate for one waveform.

    Attributes:
        duration: Length of the waveform, in seconds.
        prediction: Label and scores of the categorical model; None without a model that has labels.
        dimensions: Arousal, dominance and valence measured by the dimensional model, or by the categorical one if it
            measures them as well; None without either.
        judgement: Prediction and dimensions, fused; None if there are neither.
        embedding: Utterance embedding of the categorical model, or else of the dimensional one: [dim], float32.
        frame_scores: Probabilities of the labels for each frame, [frames, labels]; None unless requested.
        snr: Signal-to-noise ratio of the waveform in dB; None unless measured.
    """

    duration: float
    prediction: Prediction | None
    dimensions: Dimensions | None
    judgement: Judgement | None
    embedding: NDArray[np.float32]
    frame_scores: NDArray[np.float64] | None
    snr: float | None = None


class _Estimate(NamedTuple):
    """The result of one model for one waveform. It holds no frames: those of a batch would fill the memory."""

    duration: float
    embedding: NDArray[np.float32]
    prediction: Prediction | None = None
    dimensions: Dimensions | None = None
    frame_scores: NDArray[np.float64] | None = None


class Judge:
    """Judges waveforms with one model or two. Safe to use from several threads.

    Args:
        categorical: Model that gives labels; one without a head gives embeddings alone. One that measures arousal,
            dominance and valence as well is used for both in one pass, unless `dimensional` is given.
        dimensional: Model that measures arousal, dominance and valence. At least one of the two is needed.
        fusion: Settings of the fusion; the default ones if None.

    Attributes:
        models: The models by kind, `categorical` before `dimensional`.
        label_set: Name of the label set of the categorical model; None for labels of its own.
        fusion: Settings of the fusion.

    Raises:
        ValueError: Neither model is given.
        NoLabels: A model is of another kind than it is used as.
    """

    def __init__(
        self, categorical: Model | None, dimensional: Model | None = None, fusion: FusionSettings | None = None
    ) -> None:
        kinds = {CATEGORICAL: categorical, DIMENSIONAL: dimensional}
        self.models = {kind: model for kind, model in kinds.items() if model}
        if not self.models:
            raise ValueError("no model given: pass a categorical model, a dimensional model or both")
        if categorical and categorical.config.dimensional:
            categorical.need_labels()
        if dimensional:
            dimensional.need_dimensions()
        labels = categorical.labels if categorical else ()
        self.label_set = taxonomy.label_set_of(labels) if labels else None
        self.fusion = fusion or FusionSettings()

    @classmethod
    def load(
        cls,
        model: str | Path | Model | None,
        dimensional: str | Path | Model | None = None,
        fusion: FusionSettings | None = None,
        *,
        runtime: str = "auto",
        dtype: str | None = None,
        labels: str | Iterable[str] | None = None,
        offline: bool = False,
    ) -> "Judge":
        """Loads the models that are not loaded yet, and checks that each is of the kind it is used as.

        Args:
            model: Model that gives labels: a name or folder for `load`, or a loaded model.
            dimensional: Model that measures arousal, dominance and valence, in the same forms.
            fusion: Settings of the fusion.
            runtime: Runtime of the models to load, as for `load`.
            dtype: Type of their arithmetic, as for `load`.
            labels: Labels that the answers of `model` are limited to, as for `Model.limited`; by default all of them.
            offline: Whether to never open a connection.

        Raises:
            NoLabels: A model is of another kind, or `model` does not have the `labels`.
            TypeError: A model is neither a name, a path nor a loaded model.
            E2VError: See `load`.
        """
        for name, given in (("model", model), ("dimensional", dimensional)):
            need(name, given, str, Path, Model, None)
        if isinstance(model, str | Path):
            model = load(model, runtime=runtime, dtype=dtype, offline=offline)
        if model:
            model.need_labels()  # before the other one is downloaded
        if labels is not None:
            if model is None:
                raise NoLabels("no model that gives labels is named, so that there are none to choose among")
            model = model.limited(labels)
        if isinstance(dimensional, str | Path):
            dimensional = load(dimensional, runtime=runtime, dtype=dtype, offline=offline)
        return cls(model, dimensional, fusion)

    def one(self, waveform: Waveform) -> JudgedWaveform:
        """Judges one waveform.

        Args:
            waveform: [samples], float32, 16 kHz.

        Raises:
            AudioError: The waveform cannot be used.
        """
        [result] = self.all([waveform])
        if isinstance(result, AudioError):
            raise result
        return result

    def all(
        self,
        waveforms: Sequence[Waveform],
        *,
        frames: bool = False,
        seconds: MutableMapping[str, float] | None = None,
        cache: OutputCache | None = None,
    ) -> list[JudgedWaveform | AudioError]:
        """Judges waveforms that are in memory: all of them with one model, then all of them with the other.

        Args:
            waveforms: Each [samples], float32, 16 kHz. They are batched by length.
            frames: Whether to score frames as well, with the categorical model.
            seconds: Where to add the time spent, under the kind of each model and under `fusion`.
            cache: Outputs that are not computed again; those that are computed are added.

        Returns:
            For each waveform, in order, its result or the AudioError that stopped it.
        """
        seconds = {} if seconds is None else seconds
        started = time.perf_counter()

        def spent(stage: str) -> None:
            nonlocal started
            now = time.perf_counter()
            seconds[stage] = seconds.get(stage, 0.0) + now - started
            started = now

        estimates = []
        for kind in self.models:
            runs = None
            if cache:
                runs = cache.each(self.models[kind], waveforms, frames=frames and kind == CATEGORICAL)
            estimates.append([*self._estimates(kind, waveforms, frames, runs)])
            spent(kind)
        results = [
            self._joined(found, waveform)
            for waveform, found in zip(waveforms, zip(*estimates, strict=True), strict=True)
        ]
        spent("fusion")
        return results

    def each(self, waveforms: Iterable[Waveform], *, frames: bool = False) -> Iterator[JudgedWaveform | AudioError]:
        """Judges any number of waveforms as they come: both models run on those that are in memory.

        Waveforms are taken a few batches ahead and dropped as soon as both models have run on them. Unlike `all`, their
        noise is not measured.

        Args:
            waveforms: Same as for `all`.
            frames: Same as for `all`.

        Yields:
            For each waveform, in order, its result or the AudioError that stopped it.
        """
        feeds = tee(waveforms, len(self.models))
        streams = [self._estimates(kind, feed, frames) for kind, feed in zip(self.models, feeds, strict=True)]
        for found in zip(*streams, strict=True):
            yield self._joined(found)

    def with_prediction(self, result: JudgedWaveform, prediction: Prediction) -> JudgedWaveform:
        """Returns a result with another prediction of the categorical model, and the judgement that follows from it.

        It has no note `noisy`: such a prediction is that of a window of ongoing speech, too short to measure noise in.
        """
        judgement = self.fuse(prediction, result.dimensions, result.duration)
        if result.judgement and ADAPTED in result.judgement.notes:
            judgement = replace(judgement, notes=(*judgement.notes, ADAPTED))
        return replace(result, prediction=prediction, judgement=judgement, snr=None)

    def adapted(self, result: JudgedWaveform, offset: Offset) -> JudgedWaveform:
        """Returns a result with the offset of its speaker taken off, and the judgement that follows, which says so."""
        if offset.reason or result.prediction is None:
            return result
        model, scores = self.models[CATEGORICAL], result.frame_scores
        temperature = model.config.temperature
        prediction = adapted(result.prediction, offset, temperature)
        judgement = self.fuse(prediction, result.dimensions, result.duration, result.snr)
        return replace(
            result,
            prediction=prediction,
            judgement=replace(judgement, notes=(*judgement.notes, ADAPTED)),
            frame_scores=None if scores is None else adapted_scores(scores, model.labels, offset, temperature),
        )

    def fuse(
        self,
        prediction: Prediction | None,
        dimensions: Dimensions | None,
        duration: float,
        snr: float | None = None,
    ) -> Judgement:
        """Fuses estimates under the settings and the label set of this judge: see `e2v_port.emotions.fusion.fuse`."""
        return fuse(prediction, dimensions, duration, self.fusion, label_set=self.label_set, snr=snr)

    def _estimates(
        self,
        kind: str,
        waveforms: Iterable[Waveform],
        frames: bool,
        runs: Iterator[tuple[float, Output] | AudioError] | None = None,
    ) -> Iterator[_Estimate | AudioError]:
        """Yields the estimates of one model, from outputs that were made already if they are given."""
        model = self.models[kind]
        frames = frames and kind == CATEGORICAL
        for result in model.each(waveforms, SAMPLING_RATE, frames=frames) if runs is None else runs:
            if isinstance(result, AudioError):
                yield result
                continue
            duration, output = result
            estimate = _Estimate(duration, output.embedding)
            if kind == DIMENSIONAL:
                estimate = estimate._replace(dimensions=model.measure(result))
            elif model.labels:
                estimate = estimate._replace(prediction=model.judge(result))
                if model.config.measures and DIMENSIONAL not in self.models:
                    estimate = estimate._replace(dimensions=model.measure(result))
            if frames:
                estimate = estimate._replace(frame_scores=model.frame_scores(output))
            yield estimate

    def _joined(
        self, estimates: Sequence[_Estimate | AudioError], waveform: Waveform | None = None
    ) -> JudgedWaveform | AudioError:
        """Puts the results of the models for one waveform together and fuses them; with it, its noise is measured."""
        found: list[_Estimate] = []
        for estimate in estimates:
            if isinstance(estimate, AudioError):
                return estimate
            found.append(estimate)
        duration, embedding = found[0].duration, found[0].embedding
        prediction = next((estimate.prediction for estimate in found if estimate.prediction), None)
        dimensions = next((estimate.dimensions for estimate in found if estimate.dimensions), None)
        snr = None
        if waveform is not None and len(waveform) >= LEAST_SAMPLES:
            snr = signal_to_noise(waveform)
        judgement = self.fuse(prediction, dimensions, duration, snr) if prediction or dimensions else None
        return JudgedWaveform(duration, prediction, dimensions, judgement, embedding, found[0].frame_scores, snr)
