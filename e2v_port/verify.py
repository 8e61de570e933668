"""Holds a converted model against its reference, stage by stage, and against outputs that others published."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_port import catalog, hubs, references
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.config import ModelConfig, Source
from e2v_port.errors import E2VError, ModelNotFound, RuntimeUnavailable
from e2v_port.model import Model, softmax

__all__ = [
    "Check",
    "bar",
    "checkpoint_of",
    "compare",
    "known_model",
    "published",
    "test_clip",
    "verify",
]

Stages = Mapping[str, NDArray[np.float32]]

# Largest absolute difference from the reference that float32 may show, by runtime: what another order of the
# same sums makes of logits of a few units. Measured on the CPU: 3e-6 with torch, 9e-6 with MLX.
LOGIT_BARS = {"cpu": 2e-5, "mlx": 5e-5, "cuda": 1e-4, "mps": 1e-4}
HIDDEN_BAR = 1e-4
# Of a Fourier transform, float32 leaves few digits in bands 90 dB below the loudest, which a logarithm shows. What is
# behind it sees a part of that, the outputs none. Measured on 30 s of speech: 0.011 dB, and 1e-3 behind it.
DECIBEL_BAR = 0.05
BEHIND_DECIBELS_BAR = 5e-3
# 16 bits move logits by tenths. What must hold is the answer.
PROBABILITY_BAR = 0.01


@dataclass(frozen=True)
class Check:
    """One row of a verdict.

    Attributes:
        name: The stage.
        difference: Largest absolute difference from the reference.
        bar: What it may be; infinite for a stage that is shown but does not count.
    """

    name: str
    difference: float
    bar: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the bar (not a number never is)."""
        return self.difference <= self.bar


def verify(
    models: Sequence[Model], clip: Path | None = None, checkpoint: Path | None = None
) -> tuple[list[tuple[Check, ...]], list[str]]:
    """Holds one converted model against all there is to compare it with.

    Args:
        models: The model, loaded on one or more runtimes.
        clip: What to compare on; by default `test_clip`.
        checkpoint: As for `checkpoint_of`.

    Returns:
        Rows with a Check for each of `models`; and why a comparison was not made, a line each.

    Raises:
        AudioError: The clip cannot be used.
        E2VError: The reference cannot run `checkpoint`; without one named, that is a reason among those returned.
    """
    waveform = load_audio(clip) if clip else test_clip()
    config = models[0].config
    rows: list[tuple[Check, ...]] = []
    notes = []
    try:
        library, reference_class = references.REFERENCES[config.family]
        if not references.installed(config.family):
            raise RuntimeUnavailable(f"{library} is not installed: pip install {library.lower()}")
        reference = reference_class(checkpoint_of(config, checkpoint)).stages(waveform)
    except E2VError as error:
        if checkpoint:
            raise
        notes.append(f"no reference: {error}")
    else:
        columns = [compare(model, reference, model.stages(waveform, SAMPLING_RATE)) for model in models]
        rows += zip(*columns, strict=True)

    known = known_model(config.source)
    if known is None or not known.published:
        notes.append(f"no published outputs are known for {config.source.repository}")
    for output in known.published if known else ():
        signal = output.signal(clip)
        if signal is None:
            notes.append(f"not compared with published outputs: pass --audio with {output.clip}")
        else:
            rows.append(tuple(published(model, output, signal) for model in models))
    return rows, notes


def bar(stage: str, runtime: str, config: ModelConfig) -> float:
    """Returns how far a stage of a model may be off in float32; in 16 bits only probabilities count."""
    if stage in {"probabilities", "dimensions"}:
        return LOGIT_BARS[runtime] if config.dtype == "float32" else PROBABILITY_BAR
    if config.dtype != "float32":
        return math.inf
    hidden = BEHIND_DECIBELS_BAR if config.family == "wav2small" else HIDDEN_BAR
    return {"waveform": HIDDEN_BAR, "spectrogram": DECIBEL_BAR, "logits": LOGIT_BARS[runtime]}.get(stage, hidden)


def compare(model: Model, reference: Stages, found: Stages) -> list[Check]:
    """Returns one row per stage of the reference, and one for the probabilities of a model with labels.

    Args:
        model: Whose stages they are.
        reference: Of the reference implementation.
        found: Of `Model.stages`, for the same clip.

    Raises:
        ValueError: The two have not the same stages of the same shapes.
    """
    if {name: x.shape for name, x in reference.items()} != {name: x.shape for name, x in found.items()}:
        raise ValueError(f"stages differ: {sorted(reference)} and {sorted(found)}")
    rows = {name: float(np.abs(reference[name] - found[name]).max()) for name in found}
    if model.config.dimensional:  # probabilities they are not, but of the same scale
        rows["dimensions"] = rows.pop("logits")
    elif model.labels:
        used = [i for i, label in enumerate(model.config.labels) if not label.unused]
        probabilities = [softmax(stages["logits"][used], model.config.temperature) for stages in (reference, found)]
        rows["probabilities"] = float(np.abs(probabilities[0] - probabilities[1]).max())
    return [Check(name, difference, bar(name, model.runtime, model.config)) for name, difference in rows.items()]


def checkpoint_of(config: ModelConfig, given: Path | None) -> hubs.Checkpoint:
    """Returns the unconverted checkpoint that a model was made of; nothing is downloaded.

    Args:
        config: Of the converted model.
        given: A folder or .pt file to take instead of looking for it.

    Raises:
        ModelNotFound: It is not on this machine, or is another file than the one converted; or there is none.
    """
    source = config.source
    if not source.sha256:
        raise ModelNotFound("the model was trained by e2v, not converted: there is no checkpoint of it")
    remedy = "pass the checkpoint it was converted from as --checkpoint, or convert it again"
    try:
        if given is not None or source.hub == "local":
            checkpoint = hubs.local(given or Path(source.repository))
        else:
            checkpoint = _cached(source)
    except E2VError as error:
        raise ModelNotFound(f"{error}; {remedy}") from error
    with checkpoint.weights.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != source.sha256:
            raise ModelNotFound(f"{checkpoint.weights} is not the file that was converted: {remedy}")
    return checkpoint


def _cached(source: Source) -> hubs.Checkpoint:
    """Returns what was downloaded from a hub, from its cache."""
    if source.hub == "huggingface":
        return hubs.download(source.repository, hub="huggingface", revision=source.revision, offline=True)
    # Older caches of ModelScope do not know their revision. The hash will tell whether it is the one.
    revision = None if source.revision == "master" else source.revision
    return hubs.download(source.repository, hub="modelscope", revision=revision, offline=True)


def known_model(source: Source) -> catalog.KnownModel | None:
    """Returns the known model that weights are of, by their repository or, if they came another way, by their hash."""
    by_hash = (model for model in catalog.known() if source.sha256 in chain.from_iterable(model.sha256.values()))
    return catalog.lookup(source.repository) or next(by_hash, None)


def published(model: Model, output: catalog.Published, signal: Waveform) -> Check:
    """Compares a model's outputs with published ones.

    Args:
        model: A known model.
        output: What is published for it.
        signal: [samples] at 16 kHz, from `output.signal`.

    Returns:
        The largest difference of the outputs, or of probabilities where logits are published and the model has 16 bits.
    """
    expected = np.array(output.outputs)
    name = f"published {output.name}"
    if model.config.dimensional:
        found = model.dimensions(signal, SAMPLING_RATE).to_dict()
        difference = np.abs(np.array([found[label] for label in model.labels]) - expected).max()
        lowest = 0.0 if model.config.dtype == "float32" else PROBABILITY_BAR
        return Check(name, float(difference), max(output.tolerance, lowest))
    logits = np.array([*model.predict(signal, SAMPLING_RATE).logits.values()])
    if model.config.dtype != "float32":
        return Check(name, float(np.abs(softmax(logits, 1.0) - softmax(expected, 1.0)).max()), PROBABILITY_BAR)
    return Check(name, float(np.abs(logits - logits[0] - expected).max()), output.tolerance)


def test_clip() -> Waveform:
    """Returns 3 s that behave like a voice: a gliding tone with overtones in syllables, and breath between them."""
    at = np.arange(3 * SAMPLING_RATE) / SAMPLING_RATE
    pitch = 140 + 40 * np.sin(2 * np.pi * 0.7 * at)  # Hz
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLING_RATE
    voice = sum(np.sin(n * phase) / n for n in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * 2.3 * at), 0, 1)
    breath = np.random.default_rng(0).standard_normal(len(at))
    clip: Waveform = (0.2 * voice * syllables + 0.003 * breath).astype(np.float32)
    return clip
