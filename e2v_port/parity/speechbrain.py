"""The forward pass of speechbrain's emotion models: transformers' encoder between two layer norms, a linear layer.

It is that of speechbrain's classes `Wav2Vec2` and `WavLM` with `output_norm`, `Linear`, and the mean of
`StatisticsPooling` without the noise that it adds. speechbrain itself need not be installed.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.checkpoints.checkpoint import Checkpoint
from e2v_port.errors import CheckpointError, RuntimeUnavailable

__all__ = ["ENCODERS", "Head", "encoder", "prepare"]

# What transformers makes of the config.json of each encoder, beyond its own defaults.
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "facebook/wav2vec2-base": ("Wav2Vec2", {}),
    "microsoft/wavlm-large": (
        "WavLM",
        {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
        },
    ),
}


def encoder(checkpoint: Checkpoint) -> Any:
    """Returns the encoder of a checkpoint, an instance of transformers' class.

    Raises:
        RuntimeUnavailable: hyperparams.yaml names no known encoder.
        CheckpointError: The weights are not those of this encoder.
    """
    import torch
    import transformers

    assert checkpoint.config
    found = re.search(r"^wav2vec2_hub: *(\S+)", checkpoint.config.read_text("utf-8-sig"), re.M)
    kind, settings = ENCODERS.get(found[1] if found else "", ("", {}))
    if not kind:
        raise RuntimeUnavailable(f"{checkpoint.config} names none of the encoders {', '.join(ENCODERS)}")
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings))
    state: Mapping[str, Any] = torch.load(checkpoint.weights, map_location="cpu", weights_only=True)
    try:
        model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint.weights}: {' '.join(str(error).split())}") from error
    return model


def prepare(waveform: Any, **_: Any) -> dict[str, Any]:
    """Normalizes a waveform [samples]; called like a feature extractor of transformers."""
    import torch

    wav = torch.as_tensor(waveform)[None]
    return {"input_values": torch.nn.functional.layer_norm(wav, wav.shape[1:])}


class Head:
    """The norm of the frames and the linear layer.

    Args:
        checkpoint: Checkpoint with the weights of its head.

    Attributes:
        sums: Whether the hidden states of all layers are summed.
    """

    sums = False

    def __init__(self, checkpoint: Checkpoint) -> None:
        import torch

        assert checkpoint.head_weights
        self.state: dict[str, Any] = torch.load(checkpoint.head_weights, map_location="cpu", weights_only=True)

    def stages(self, states: Sequence[Any]) -> dict[str, NDArray[np.float32]]:
        """Returns what the head makes of the last hidden state of one clip [1, T, D], as `Heads.stages` does."""
        from torch.nn import functional

        refined = functional.layer_norm(states[-1], states[-1].shape[1:])
        pooled = refined.mean(1)
        bias = self.state.get("0.w.bias")
        logits = functional.linear(
            pooled, self.state["0.w.weight"].to(pooled), None if bias is None else bias.to(pooled)
        )
        found = {"refined": refined, "pooled": pooled, "logits": logits}
        return {name: value[0].float().cpu().numpy() for name, value in found.items()}
