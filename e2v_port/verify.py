"""Holds a converted model against FunASR, stage by stage, and against outputs that others published."""

import contextlib
import hashlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port import catalog, hubs
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.config import ModelConfig, Source
from e2v_port.errors import CheckpointError, E2VError, ModelNotFound, RuntimeUnavailable
from e2v_port.model import Model

__all__ = [
    "Check",
    "FunASR",
    "bar",
    "checkpoint_of",
    "compare",
    "funasr_installed",
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
        E2VError: FunASR cannot run `checkpoint`; without one named, that is a reason among those returned.
    """
    waveform = load_audio(clip) if clip else test_clip()
    config = models[0].config
    rows: list[tuple[Check, ...]] = []
    notes = []
    try:
        if not funasr_installed():
            raise RuntimeUnavailable("FunASR is not installed: pip install funasr")
        reference = FunASR(checkpoint_of(config, checkpoint)).stages(waveform)
    except E2VError as error:
        if checkpoint:
            raise
        notes.append(f"no reference: {error}")
    else:
        columns = [compare(model, reference, model.stages(waveform, SAMPLING_RATE)) for model in models]
        rows += zip(*columns, strict=True)

    known = known_model(config.source)
    if known is None or known.published is None:
        notes.append(f"no published outputs are known for {config.source.repository}")
    else:
        row = [check for model in models if clip and (check := published(model, clip))]
        if row:
            rows.append(tuple(row))
        else:
            notes.append(f"not compared with published outputs: pass --audio with {known.published.clip}")
    return rows, notes


def bar(stage: str, runtime: str, dtype: str) -> float:
    """Returns how far a stage may be off in float32; in 16 bits only probabilities count."""
    if stage == "probabilities":
        return LOGIT_BARS[runtime] if dtype == "float32" else PROBABILITY_BAR
    if dtype != "float32":
        return math.inf
    return LOGIT_BARS[runtime] if stage == "logits" else HIDDEN_BAR


def compare(model: Model, reference: Stages, found: Stages) -> list[Check]:
    """Returns one row per stage of the reference, and one for the probabilities of a model with labels.

    Args:
        model: Whose stages they are.
        reference: Of the reference implementation.
        found: Of `Model.stages`, for the same clip.

    Raises:
        ValueError: The two have not the same stages of the same shapes.
    """
    dtype = model.config.dtype
    if {name: x.shape for name, x in reference.items()} != {name: x.shape for name, x in found.items()}:
        raise ValueError(f"stages differ: {sorted(reference)} and {sorted(found)}")
    rows = {name: float(np.abs(reference[name] - found[name]).max()) for name in found}
    if model.labels:
        used = [i for i, label in enumerate(model.config.labels) if not label.unused]
        probabilities = [_softmax(stages["logits"][used]) for stages in (reference, found)]
        rows["probabilities"] = float(np.abs(probabilities[0] - probabilities[1]).max())
    return [Check(name, difference, bar(name, model.runtime, dtype)) for name, difference in rows.items()]


def _softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    normalised: NDArray[np.float64] = powers / powers.sum()
    return normalised


class FunASR:
    """FunASR's own model, built and filled by FunASR from an unconverted checkpoint, on the CPU.

    Raises:
        CheckpointError: The checkpoint has no config.yaml, which FunASR cannot do without.
        RuntimeUnavailable: FunASR, or something it needs, cannot be imported.
    """

    def __init__(self, checkpoint: hubs.Checkpoint) -> None:
        if checkpoint.config is None:
            raise CheckpointError(f"{checkpoint.repository}: FunASR needs the config.yaml of the checkpoint")
        import yaml

        settings = yaml.safe_load(checkpoint.config.read_text("utf-8"))
        settings["model_conf"]["norm_eps"] = float(settings["model_conf"]["norm_eps"])  # YAML reads 1e-05 as text
        tokens = checkpoint.tokens.read_text("utf-8").split() if checkpoint.tokens else []
        with _quiet():
            try:
                from funasr.models.emotion2vec.model import Emotion2vec
                from funasr.train_utils.load_pretrained_model import load_pretrained_model
            except ImportError as error:
                raise RuntimeUnavailable(
                    f"FunASR cannot be imported ({error}): pip install --upgrade funasr"
                ) from error

            self.model = Emotion2vec(model_conf=settings["model_conf"], vocab_size=len(tokens) or -1)
            load_pretrained_model(str(checkpoint.weights), self.model, scope_map=list(settings.get("scope_map") or []))
        self.model.eval().float()

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip and returns the value of every stage, under the names that `Model.stages` uses."""
        import torch
        from torch.nn import functional

        model, found = self.model, {}
        encoder = model.modality_encoders["AUDIO"]
        hooks = []

        def keep(name: str, module: Any, pick: Callable[[Any], Any]) -> None:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                found[name] = pick(output)[0].float().numpy().copy()

            hooks.append(module.register_forward_hook(hook))

        def keep_bias(_module: Any, inputs: Any) -> None:
            bias = inputs[2]  # features, padding mask, bias, scale; heads without a slope are not in it
            plain = model.cfg.num_heads - bias.shape[1]
            found["bias"] = functional.pad(bias, (0, 0, 0, 0, 0, plain))[0].numpy().copy()

        for i, layer in enumerate(encoder.local_encoder.conv_layers):
            keep(f"conv_layers.{i}", layer, lambda output: output.mT)
        keep("projection", encoder.project_features, lambda output: output)
        for i, layer in enumerate([*encoder.relative_positional_encoder][1:-1]):
            keep(f"positions.{i}", layer, lambda output: output.mT)
        hooks.append(encoder.context_encoder.register_forward_pre_hook(keep_bias))
        keep("context_norm", encoder.context_encoder.norm, lambda output: output)
        for i, block in enumerate(encoder.context_encoder.blocks):
            keep(f"context_blocks.{i}", block, lambda output: output[0])
        for i, block in enumerate(model.blocks):
            keep(f"blocks.{i}", block, lambda output: output[0])
        try:
            with torch.inference_mode():
                source = torch.from_numpy(waveform)
                if model.cfg.normalize:
                    source = functional.layer_norm(source, source.shape)
                found["waveform"] = source.numpy().copy()
                frames = model.extract_features(source[None], padding_mask=None)["x"]
                pooled = frames.mean(dim=1)
                found["pooled"] = pooled[0].numpy()
                if model.proj is not None:
                    found["logits"] = model.proj(pooled)[0].numpy()
        finally:
            for hook in hooks:
                hook.remove()
        return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back FunASR's lines about every tensor, and its warnings about the libraries it imports."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def checkpoint_of(config: ModelConfig, given: Path | None) -> hubs.Checkpoint:
    """Returns the unconverted checkpoint that a model was made of; nothing is downloaded.

    Args:
        config: Of the converted model.
        given: A folder or .pt file to take instead of looking for it.

    Raises:
        ModelNotFound: It is not on this machine, or is another file than the one converted.
    """
    source = config.source
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


def published(model: Model, clip: Path) -> Check | None:
    """Compares a model's answer for a clip with the published one.

    Args:
        model: A known model.
        clip: The clip the published outputs belong to.

    Returns:
        The largest difference of the logits relative to the first label's, or in 16 bits of the probabilities;
        None where nothing is published for this model, or not for this clip.
    """
    known = known_model(model.config.source)
    if known is None or known.published is None:
        return None
    if hashlib.sha256(clip.read_bytes()).hexdigest() != known.published.clip_sha256:
        return None
    found = np.array([*model.predict(clip).logits.values()])
    expected = np.array(known.published.relative_logits)
    if model.config.dtype != "float32":
        difference = np.abs(_softmax(found) - _softmax(expected)).max()
        return Check("published probabilities", float(difference), PROBABILITY_BAR)
    difference = np.abs(found - found[0] - expected).max()
    return Check("published logits", float(difference), known.published.tolerance)


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


def funasr_installed() -> bool:
    """Tells whether FunASR can be compared with."""
    return find_spec("funasr") is not None
