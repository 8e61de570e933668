"""Compares a converted model with its reference, stage by stage, and with published outputs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.config import ModelConfig, Source
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.checkpoints import catalog, hubs
from e2v_port.checkpoints.checkpoint import Checkpoint, local
from e2v_port.emotions.estimates import softmax
from e2v_port.errors import E2VError, ModelNotFound, RuntimeUnavailable
from e2v_port.models.long_clips import filled
from e2v_port.models.model import Model
from e2v_port.parity import references

__all__ = [
    "Check",
    "checkpoint_of",
    "compare",
    "known_model",
    "published",
    "test_clip",
    "tolerance",
    "verify",
]

Stages = Mapping[str, NDArray[np.float32]]

# Largest absolute difference of logits from the reference in float32, by runtime: the effect of another order of the
# same sums on logits of a few units. Measured on the CPU: 3e-6 with torch, 9e-6 with MLX.
LOGIT_TOLERANCES = {"cpu": 2e-5, "numpy": 2e-5, "mlx": 5e-5, "cuda": 1e-4, "mps": 1e-4}
WAVEFORM_TOLERANCE = 1e-4
# 16 bits move logits by tenths, so only probabilities are compared. Measured with bfloat16, on random weights and full
# size: 0.012 (docs/benchmarks.md) and 0.010 (docs/port.md).
PROBABILITY_TOLERANCE = 0.02


@dataclass(frozen=True)
class Check:
    """One row of a comparison.

    Attributes:
        name: Name of the stage.
        difference: Largest absolute difference from the reference.
        tolerance: Largest difference that passes; infinite for a stage that is shown but does not count.
    """

    name: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; never for one that is not a number."""
        return self.difference <= self.tolerance


def verify(
    models: Sequence[Model], clip: Path | None = None, checkpoint: Path | None = None
) -> tuple[list[tuple[Check, ...]], list[str]]:
    """Compares one converted model with its reference and with published outputs.

    Args:
        models: The model, loaded on one or more runtimes.
        clip: Clip to compare on; by default `test_clip`.
        checkpoint: Unconverted checkpoint; by default the one the model was converted from.

    Returns:
        Rows with a Check for each of `models`; and a line for each comparison that was not made, with the reason.

    Raises:
        AudioError: The clip cannot be used.
        E2VError: The reference cannot run `checkpoint`. Without one given, that is one of the returned reasons.
    """
    config = models[0].config
    waveform = filled(load_audio(clip) if clip else test_clip(), config.architecture)
    rows: list[tuple[Check, ...]] = []
    notes = []
    try:
        kind = references.reference(config.family)
        if kind is None:
            raise RuntimeUnavailable(f"no other implementation of {config.family} is known")
        if not references.installed(config.family):
            package = {"torch": '"e2v-port[torch]"'}.get(kind.library, kind.library.lower())
            raise RuntimeUnavailable(f"{kind.library} is not installed: pip install {package}")
        source = checkpoint_of(config, checkpoint)
        kind = references.reference_of(config.family, source) or kind
        reference = kind(source).stages(waveform)
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


def tolerance(stage: str, runtime: str, config: ModelConfig, largest: float = 0.0) -> float:
    """Returns the tolerance of a stage. It is finite in float32; in 16 bits, for probabilities and dimensions only.

    Args:
        stage: Name of the stage.
        runtime: Name of the runtime.
        config: Configuration of the model.
        largest: Largest absolute value of the stage.
    """
    if stage in {"probabilities", "dimensions"}:
        return LOGIT_TOLERANCES[runtime] if config.dtype == "float32" else PROBABILITY_TOLERANCE
    if config.dtype != "float32":
        return math.inf
    kind = references.reference(config.family)
    family = kind.tolerances if kind else references.Tolerances()
    stages = {"waveform": WAVEFORM_TOLERANCE, "logits": LOGIT_TOLERANCES[runtime], **family.stages}
    return stages.get(stage, max(family.hidden, family.share * largest))


def compare(model: Model, reference: Stages, found: Stages) -> list[Check]:
    """Returns one row per stage of the reference, and one for the probabilities of a model with labels.

    Args:
        model: Model that is compared.
        reference: Stages of the reference implementation.
        found: Stages of `Model.stages`, for the same clip.

    Raises:
        ValueError: The two differ in stages or shapes.
    """
    if {name: x.shape for name, x in reference.items()} != {name: x.shape for name, x in found.items()}:
        raise ValueError(f"stages differ: {sorted(reference)} and {sorted(found)}")
    rows = {name: float(np.abs(reference[name] - found[name]).max()) for name in found}
    largest = {name: float(np.abs(reference[name]).max()) for name in found}
    if model.config.dimensional:  # not probabilities, but on the same scale
        rows["dimensions"] = rows.pop("logits")
    elif model.labels:
        used = [i for i, label in enumerate(model.config.labels) if not label.unused]
        probabilities = [softmax(stages["logits"][used], model.config.temperature) for stages in (reference, found)]
        rows["probabilities"] = float(np.abs(probabilities[0] - probabilities[1]).max())
    return [
        Check(name, difference, tolerance(name, model.runtime, model.config, largest.get(name, 0.0)))
        for name, difference in rows.items()
    ]


def checkpoint_of(config: ModelConfig, given: Path | None) -> Checkpoint:
    """Returns the unconverted checkpoint of a model, without downloading anything.

    Args:
        config: Configuration of the converted model.
        given: Folder or .pt file to use instead of searching for the checkpoint.

    Raises:
        ModelNotFound: The checkpoint is not on this machine, is not the file that was converted, or does not exist.
    """
    source = config.source
    if not source.sha256:
        raise ModelNotFound("the model was trained by e2v, not converted: it has no checkpoint")
    remedy = "pass the checkpoint it was converted from as --checkpoint, or convert it again"
    try:
        if given is not None or source.hub == "local":
            checkpoint = local(given or Path(source.repository))
        else:
            checkpoint = _cached(source)
    except E2VError as error:
        raise ModelNotFound(f"{error}; {remedy}") from error
    if checkpoint.sha256() != source.sha256:
        raise ModelNotFound(f"{checkpoint.weights} is not the file that was converted: {remedy}")
    return checkpoint


def _cached(source: Source) -> Checkpoint:
    """Returns the downloaded checkpoint from the cache of its hub."""
    if source.hub == "huggingface":
        return hubs.download(source.repository, hub="huggingface", revision=source.revision, offline=True)
    # Older caches of ModelScope have no revision; the hash shows whether it is the same file.
    revision = None if source.revision == "master" else source.revision
    return hubs.download(source.repository, hub="modelscope", revision=revision, offline=True)


def known_model(source: Source) -> catalog.KnownModel | None:
    """Returns the known model that weights belong to, by their repository or else by their hash."""
    by_hash = (model for model in catalog.known() if source.sha256 in chain.from_iterable(model.sha256.values()))
    return catalog.lookup(source.repository) or next(by_hash, None)


def published(model: Model, output: catalog.Published, signal: Waveform) -> Check:
    """Compares a model's outputs with published ones.

    Args:
        model: Known model.
        output: Published output of the model.
        signal: Samples [samples] at 16 kHz, from `output.signal`.

    Returns:
        The largest difference of the outputs; of the probabilities if logits are published and the model has 16 bits.
    """
    expected = np.array(output.outputs)
    name = f"published {output.name}"
    if model.config.dimensional:
        found = model.dimensions(signal, SAMPLING_RATE).to_dict()
        difference = np.abs(np.array([found[label] for label in model.labels]) - expected).max()
        lowest = 0.0 if model.config.dtype == "float32" else PROBABILITY_TOLERANCE
        return Check(name, float(difference), max(output.tolerance, lowest))
    logits = np.array([*model.predict(signal, SAMPLING_RATE).logits.values()])
    if model.config.dtype != "float32":
        return Check(name, float(np.abs(softmax(logits, 1.0) - softmax(expected, 1.0)).max()), PROBABILITY_TOLERANCE)
    return Check(name, float(np.abs(logits - logits[0] - expected).max()), output.tolerance)


def test_clip() -> Waveform:
    """Returns 3 s that resemble a voice: a gliding tone with overtones in syllables, and breath between them."""
    at = np.arange(3 * SAMPLING_RATE) / SAMPLING_RATE
    pitch = 140 + 40 * np.sin(2 * np.pi * 0.7 * at)  # Hz
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLING_RATE
    voice = sum(np.sin(n * phase) / n for n in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * 2.3 * at), 0, 1)
    breath = np.random.default_rng(0).standard_normal(len(at))
    clip: Waveform = (0.2 * voice * syllables + 0.003 * breath).astype(np.float32)
    return clip
