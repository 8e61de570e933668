"""Published checkpoints of their own layout, run stage by stage: transformers' encoder, the rest in plain torch.

The equations after the encoder are those of https://github.com/tiantiaf0627/vox-profile-release and of the code next to
3loi/SER-Odyssey-Baseline-WavLM-Categorical, as with transformers 4: there, the last of all hidden states has passed the
encoder's final norm.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import Waveform
from e2v_port.checkpoints.checkpoint import Checkpoint
from e2v_port.errors import AudioError, CheckpointError, RuntimeUnavailable
from e2v_port.parity import wav2vec2, whisper
from e2v_port.parity.heads import Heads
from e2v_port.parity.references import Tolerances, tensors
from e2v_port.quiet import quiet

__all__ = ["Odyssey", "VoxProfileWavLM", "VoxProfileWhisper"]

SECONDS = 15  # that Vox-Profile's Whisper takes
Tensors = Mapping[str, Any]


def _transformers() -> Any:
    with quiet():
        try:
            import transformers
        except ImportError as error:
            raise RuntimeUnavailable(
                f"transformers cannot be imported ({error}): pip install --upgrade transformers"
            ) from error
    return transformers


def _part(state: Tensors, prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value.float() for name, value in state.items() if name.startswith(prefix)}


def _wavlm(state: Tensors) -> Any:
    """Returns transformers' WavLM of the large kind with these weights; its sizes are those of the tensors."""
    library = _transformers()
    position = "encoder.pos_conv_embed.conv."
    for i, old in enumerate(("weight_g", "weight_v")):  # two names for the halves of the same weight norm
        if position + old in state:
            state = {k: v for k, v in state.items() if k != position + old} | {
                f"{position}parametrizations.weight.original{i}": state[position + old]
            }
    first = "encoder.layers.0"
    ffn_dim, width = state[f"{first}.feed_forward.intermediate_dense.weight"].shape
    _, share, kernel = state[f"{position}parametrizations.weight.original1"].shape
    config = library.WavLMConfig(
        hidden_size=width,
        num_hidden_layers=sum(name.endswith("final_layer_norm.weight") for name in state),
        num_attention_heads=state[f"{first}.attention.gru_rel_pos_const"].shape[1],
        intermediate_size=ffn_dim,
        conv_dim=[state[f"feature_extractor.conv_layers.{i}.conv.weight"].shape[0] for i in range(7)],
        conv_bias=False,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=kernel,
        num_conv_pos_embedding_groups=width // share,
    )
    model = library.WavLMModel(config)
    model.load_state_dict(state, strict="masked_spec_embed" in state)
    return model.eval()


def _linear(x: Any, state: Tensors, name: str) -> Any:
    from torch.nn.functional import linear

    return linear(x, state[f"{name}.weight"].flatten(1).to(x.dtype), state[f"{name}.bias"].to(x.dtype))


def _frames(x: Any, state: Tensors) -> Any:
    """Applies Vox-Profile's three convolutions of one frame."""
    x = _linear(x, state, "model_seq.0").relu()
    return _linear(_linear(x, state, "model_seq.3").relu(), state, "model_seq.6")


def _outputs(pooled: Any, state: Tensors, labels: bool) -> Any:
    """Returns Vox-Profile's logits, or arousal, dominance and valence."""
    import torch

    def out(name: str) -> Any:
        return _linear(_linear(pooled, state, f"{name}.0").relu(), state, f"{name}.2")

    if labels:
        return out("emotion_layer")
    return torch.sigmoid(torch.cat([out(f"{name}_layer") for name in ("arousal", "dominance", "valence")]))


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    if checkpoint.config is None:
        raise CheckpointError(f"{checkpoint.repository}: the reference needs the config.json of the checkpoint")
    found: dict[str, Any] = json.loads(checkpoint.config.read_text("utf-8"))
    return found


def _numpy(**values: Any) -> dict[str, NDArray[np.float32]]:
    return {name: value.float().numpy() for name, value in values.items()}


class Odyssey(wav2vec2.Transformers):
    """A baseline of the Odyssey 2024 challenge.

    Raises:
        CheckpointError: It has no config.json, or is not on WavLM large.
        RuntimeUnavailable: transformers cannot be imported.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        settings = _settings(checkpoint)
        if settings["ssl_type"] != "microsoft/wavlm-large":
            raise CheckpointError(f"{checkpoint.repository}: the reference is written for WavLM large alone")
        self.state = tensors(checkpoint)
        self.model = _wavlm(_part(self.state, "ssl_model."))
        self.heads = Heads({})  # none of transformers
        self.prepare = _scaling(settings["mean"], settings["std"])

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `Reference`."""
        import torch
        from torch.nn.functional import layer_norm

        found = super().stages(waveform)
        found["waveform"] = waveform
        state, x = _part(self.state, ""), torch.from_numpy(found["frames"])
        scores = torch.tanh(_linear(x, state, "pool_model.sap_linear")) @ state["pool_model.attention"]
        weights = torch.softmax(scores, 0)  # [T, 1]
        mean = (x * weights).sum(0)
        pooled = torch.cat([mean, ((x**2 * weights).sum(0) - mean**2).clamp_min(1e-5).sqrt()])
        x = pooled
        for i in range(sum(name.startswith("ser_model.fc.") for name in state) // 4):
            x = _linear(x, state, f"ser_model.fc.{i}.0")
            x = layer_norm(x, x.shape, state[f"ser_model.fc.{i}.1.weight"], state[f"ser_model.fc.{i}.1.bias"]).relu()
        return found | _numpy(pooled=pooled, logits=_linear(x, state, "ser_model.out.0"))


def _scaling(mean: float, deviation: float) -> Callable[..., Any]:
    import torch

    def scale(waveform: Waveform, **_options: Any) -> dict[str, Any]:
        scaled = (waveform.astype(np.float64) - mean) / (deviation + 1e-6)
        return {"input_values": torch.from_numpy(scaled.astype(np.float32))[None]}

    return scale


class VoxProfileWavLM(wav2vec2.Transformers):
    """WavLM of Vox-Profile.

    Raises:
        CheckpointError: It has no config.json.
        RuntimeUnavailable: transformers cannot be imported.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.labels = "predict_gender" not in _settings(checkpoint)
        self.state = tensors(checkpoint)
        self.model = _wavlm(_part(self.state, "backbone_model."))
        self.heads = Heads({})  # none of transformers
        self.prepare = _transformers().Wav2Vec2FeatureExtractor(do_normalize=True)

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `Reference`."""
        import torch

        found = super().stages(waveform)
        blocks = [found[f"blocks.{i}"] for i in range(len(self.model.encoder.layers) - 1)]
        states = [found["projection"] + found["positions"], *blocks, found["frames"]]
        weights = torch.softmax(self.state["weights"].float(), 0)
        chosen = torch.from_numpy(np.stack(states[-len(weights) :]))
        refined = _frames(torch.tensordot(weights, chosen, 1), self.state)
        pooled = refined.mean(0)
        return found | _numpy(refined=refined, pooled=pooled, logits=_outputs(pooled, self.state, self.labels))


class VoxProfileWhisper(whisper.Transformers):
    """Whisper of Vox-Profile, in float64 after the spectrogram.

    Raises:
        CheckpointError: It has no config.json.
        RuntimeUnavailable: transformers cannot be imported.
    """

    tolerances: ClassVar[Tolerances] = whisper.Transformers.tolerances

    def __init__(self, checkpoint: Checkpoint) -> None:
        library = _transformers()
        self.labels = "predict_gender" not in _settings(checkpoint)
        self.state = {name: value.double() for name, value in tensors(checkpoint).items()}
        encoder = {
            name.removeprefix("backbone_model.encoder."): value
            for name, value in self.state.items()
            if name.startswith("backbone_model.encoder.")
        }
        for name in [name.removesuffix(".lora_A") for name in encoder if name.endswith(".lora_A")]:
            down, up = encoder.pop(f"{name}.lora_A"), encoder.pop(f"{name}.lora_B")
            frozen = encoder[f"{name}.weight"]
            if frozen.equal(frozen.half().double()):  # as OpenAI published it; else LoRA is in it already
                encoder[f"{name}.weight"] = frozen + up @ down / len(down)
        width, bands, _ = encoder["conv1.weight"].shape
        config = library.WhisperConfig(
            d_model=width,
            encoder_layers=sum(name.endswith(".fc1.weight") for name in encoder),
            encoder_attention_heads=width // 64,
            encoder_ffn_dim=len(encoder["layers.0.fc1.weight"]),
            num_mel_bins=bands,
            max_source_positions=50 * SECONDS,
        )
        self.model = library.models.whisper.modeling_whisper.WhisperEncoder(config).double()
        self.model.load_state_dict(encoder)
        self.model.eval()
        self.prepare = library.WhisperFeatureExtractor(feature_size=bands)
        self.heads = Heads({})

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `Reference`.

        Raises:
            AudioError: The clip is longer than 15 s, beyond which the published code cuts it off.
        """
        import torch

        missing = 16_000 * SECONDS - len(waveform)
        if missing < 0:
            raise AudioError("Vox-Profile's Whisper takes 15 s at most: choose a shorter clip")
        found = super().stages(np.pad(waveform, (0, missing)))
        found["waveform"] = waveform
        length = (len(waveform) // 160 - 1) // 2 + 1
        refined = _frames(torch.from_numpy(found["frames"][:length]).double(), self.state)
        pooled = refined.mean(0)
        return found | _numpy(refined=refined, pooled=pooled, logits=_outputs(pooled, self.state, self.labels))
