"""The implementations a converted model is held against, run stage by stage on the CPU."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from e2v_port import hubs
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.errors import CheckpointError, RuntimeUnavailable

__all__ = ["REFERENCES", "FunASR", "Reference", "Transformers", "Wav2small", "installed", "quiet"]

Stages = Mapping[str, NDArray[np.float32]]


class Reference(Protocol):
    """A model built and filled by its own library from an unconverted checkpoint."""

    def __init__(self, checkpoint: hubs.Checkpoint) -> None: ...

    def stages(self, waveform: Waveform) -> Stages:
        """Runs one clip and returns the value of every stage, under the names that `Model.stages` uses."""


class _Hooks:
    """Keeps what modules return, first of the batch, as float32 arrays under given names."""

    def __init__(self) -> None:
        self.found: dict[str, NDArray[np.float32]] = {}
        self._handles: list[Any] = []

    def keep(self, name: str, module: Any, pick: Callable[[Any], Any] = lambda output: output) -> None:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            self.found[name] = pick(output)[0].float().numpy().copy()

        self._handles.append(module.register_forward_hook(hook))

    def keep_input(self, name: str, module: Any, pick: Callable[[Any], Any]) -> None:
        def hook(_module: Any, inputs: Any) -> None:
            self.found[name] = pick(inputs)[0].float().numpy().copy()

        self._handles.append(module.register_forward_pre_hook(hook))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


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
        with quiet():
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
        """Runs one clip; see `Reference`."""
        import torch
        from torch.nn import functional

        model = self.model
        encoder = model.modality_encoders["AUDIO"]

        def bias(inputs: Any) -> Any:
            # Features, padding mask, bias, scale. Heads without a slope are not in the bias.
            return functional.pad(inputs[2], (0, 0, 0, 0, 0, model.cfg.num_heads - inputs[2].shape[1]))

        hooks = _Hooks()
        for i, layer in enumerate(encoder.local_encoder.conv_layers):
            hooks.keep(f"conv_layers.{i}", layer, lambda output: output.mT)
        hooks.keep("projection", encoder.project_features)
        for i, layer in enumerate([*encoder.relative_positional_encoder][1:-1]):
            hooks.keep(f"positions.{i}", layer, lambda output: output.mT)
        hooks.keep_input("bias", encoder.context_encoder, bias)
        hooks.keep("context_norm", encoder.context_encoder.norm)
        for i, block in enumerate(encoder.context_encoder.blocks):
            hooks.keep(f"context_blocks.{i}", block, lambda output: output[0])
        for i, block in enumerate(model.blocks):
            hooks.keep(f"blocks.{i}", block, lambda output: output[0])
        found = hooks.found
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
            hooks.remove()
        return found


class Transformers:
    """transformers' Wav2Vec2Model from an unconverted checkpoint's folder, and the head of audeering's model card.

    Raises:
        CheckpointError: The checkpoint has no config.json, which transformers cannot do without.
        RuntimeUnavailable: transformers cannot be imported.
    """

    def __init__(self, checkpoint: hubs.Checkpoint) -> None:
        if checkpoint.config is None:
            raise CheckpointError(f"{checkpoint.repository}: transformers needs the config.json of the checkpoint")
        folder = checkpoint.weights.parent
        with quiet():
            try:
                from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model
            except ImportError as error:
                raise RuntimeUnavailable(
                    f"transformers cannot be imported ({error}): pip install --upgrade transformers"
                ) from error

            from_pretrained: Any = Wav2Vec2Model.from_pretrained
            self.model = from_pretrained(folder, local_files_only=True)
            self.prepare = Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)
        self.model.eval().float()
        state = _tensors(checkpoint)
        self.head = {name: tensor.float() for name, tensor in state.items() if name.startswith("classifier.")}

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `Reference`."""
        import torch
        from torch.nn import functional

        model, head = self.model, self.head
        hooks = _Hooks()
        for i, layer in enumerate(model.feature_extractor.conv_layers):
            hooks.keep(f"conv_layers.{i}", layer, lambda output: output.mT)
        hooks.keep("projection", model.feature_projection, lambda output: output[0])
        hooks.keep("positions", model.encoder.pos_conv_embed)
        for i, block in enumerate(model.encoder.layers):
            hooks.keep(f"blocks.{i}", block, lambda output: output if isinstance(output, torch.Tensor) else output[0])
        found = hooks.found
        try:
            with torch.inference_mode():
                prepared = self.prepare(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")
                source = prepared["input_values"]
                found["waveform"] = source[0].numpy().copy()
                frames = model(source)[0]
                found["frames"] = frames[0].numpy()
                pooled = frames.mean(dim=1)
                found["pooled"] = pooled[0].numpy()
                if head:
                    x = functional.linear(pooled, head["classifier.dense.weight"], head["classifier.dense.bias"])
                    weight, bias = head["classifier.out_proj.weight"], head["classifier.out_proj.bias"]
                    found["logits"] = functional.linear(torch.tanh(x), weight, bias)[0].numpy()
        finally:
            hooks.remove()
        return found


class Wav2small:
    """The forward pass of wav2small's model card in float64, on an unconverted checkpoint's own tensors.

    No library has this model. Here the Fourier transform is the stored convolution and the batch norms are layers of
    torch, so that what the conversion makes of them is compared, too.
    """

    def __init__(self, checkpoint: hubs.Checkpoint) -> None:
        self.state = {name: tensor.double() for name, tensor in _tensors(checkpoint).items()}
        settings = json.loads(checkpoint.config.read_text("utf-8")) if checkpoint.config else {}
        self.hop: int = settings.get("hop", self.state["vgg7.spectrogram_extractor.conv_real.weight"].shape[2] // 2)

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `Reference`."""
        import torch
        from torch.nn import functional

        def keep(name: str, value: torch.Tensor) -> None:
            found[name] = value.float().numpy()

        state = self.state
        found: dict[str, NDArray[np.float32]] = {}
        x = torch.from_numpy(waveform).double()
        x = x - x.mean()
        x = x / torch.sqrt((x * x).mean() + 1e-7)
        keep("waveform", x)
        front = "vgg7.spectrogram_extractor"
        real, imag = (
            functional.conv1d(x[None, None], state[f"{front}.conv_{part}.weight"], stride=self.hop)
            for part in ("real", "imag")
        )
        power = (real**2 + imag**2)[0].T @ state["vgg7.logmel_extractor.melW"]  # [T, bands]
        x = 10 * torch.log10(power.clamp_min(state["vgg7.logmel_extractor.amin"].item()))
        keep("spectrogram", x)
        x = x[None, None]  # [1, 1, T, bands]
        for i in range(1, 8):
            layer = f"vgg7.l{i}"
            x = functional.conv2d(x, state[f"{layer}.conv.weight"], padding=1)
            mean, variance = state[f"{layer}.norm.running_mean"], state[f"{layer}.norm.running_var"]
            x = functional.batch_norm(x, mean, variance, state[f"{layer}.norm.weight"], state[f"{layer}.norm.bias"])
            x = functional.relu(x)
            keep(f"layers.{i - 1}", x[0].permute(1, 2, 0))
            if i == 3:
                x = functional.max_pool2d(x, 3, stride=2, padding=1)
        values = functional.conv2d(x, state["vgg7.lin.weight"], state["vgg7.lin.bias"])
        weights = functional.conv2d(x, state["vgg7.sof.weight"], state["vgg7.sof.bias"]).softmax(2)
        columns = values[0].transpose(0, 1)  # [T, channels, bands]
        keep("frames", torch.cat([columns, torch.bmm(columns, columns.mT)], 2).flatten(1))
        x = (values * weights).sum(2)
        x = torch.cat([x, torch.bmm(x, x.mT)], 2).flatten(1)
        keep("pooled", x[0])
        if "adv.weight" in state:
            keep("logits", functional.linear(x, state["adv.weight"], state["adv.bias"])[0])
        return found


def _tensors(checkpoint: hubs.Checkpoint) -> dict[str, Any]:
    if checkpoint.weights.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(checkpoint.weights)
    import torch

    state: dict[str, Any] = torch.load(checkpoint.weights, map_location="cpu", weights_only=True)
    return state


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps back a library's lines about every tensor, and its warnings about the libraries it imports."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# Each family, the library its reference is built with (its package has the name in lower case), and the reference.
REFERENCES: dict[str, tuple[str, type[Reference]]] = {
    "emotion2vec": ("FunASR", FunASR),
    "wav2vec2": ("transformers", Transformers),
    "wav2small": ("torch", Wav2small),
}


def installed(family: str) -> bool:
    """Tells whether a family's reference can be compared with."""
    return find_spec(REFERENCES[family][0].lower()) is not None
