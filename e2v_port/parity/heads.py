"""The forward passes of transformers' classes for classification and of published model cards, in plain torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.errors import RuntimeUnavailable

__all__ = ["Heads"]


ENCODERS = ("wav2vec2.", "hubert.", "wavlm.", "model.", "encoder.", "feature_extractor.", "feature_projection.")
UNUSED = ("masked_spec_embed", "decoder.", "proj_out.", "lm_head.", "quantizer.", "project_q.", "project_hid.")


class Heads:
    """The heads of one checkpoint.

    Args:
        state: Tensors of the checkpoint.

    Attributes:
        sums: Whether the hidden states of all layers are summed.

    Raises:
        RuntimeUnavailable: No published forward pass has its tensors.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.tensors = {name: x for name, x in state.items() if not name.startswith((*ENCODERS, *UNUSED))}
        self.sums = "layer_weights" in self.tensors
        layers = {name.rpartition(".")[0] for name in self.tensors} - {""}
        self.projects = layers == {"projector", "classifier"}
        self.out = "output" if "classifier.output" in layers else "out_proj"
        two = {"classifier.dense", f"classifier.{self.out}"}
        speakers = {f"{part}.{layer}" for part in ("age", "gender") for layer in ("dense", "out_proj")}
        self.main = self.projects or layers == two
        if layers and not self.main and layers != speakers:
            raise RuntimeUnavailable(f"no forward pass is published for the head {', '.join(sorted(self.tensors))}")

    def stages(self, states: Sequence[Any]) -> dict[str, NDArray[np.float32]]:
        """Returns what the heads make of the hidden states of one clip.

        Args:
            states: Hidden states of transformers [1, T, D]: the input of the first block and the output of each, the
                last after the final norm.

        Returns:
            `pooled` [D], the mean over time; and `logits` [labels], where there are labels or dimensions.
        """
        import torch

        frames = states[-1]
        if self.sums:
            shares = torch.softmax(self.tensors["layer_weights"].to(frames), -1)
            frames = (torch.stack([*states]) * shares[:, None, None, None]).sum(0)
        found = {"pooled": frames[0].mean(0).float().cpu().numpy()}
        if self.main:
            found["logits"] = self._logits(frames)[0].float().cpu().numpy()
        return found

    def _logits(self, frames: Any) -> Any:
        import torch

        if self.projects:
            return self._linear("classifier", self._linear("projector", frames).mean(1))
        hidden = torch.tanh(self._linear("classifier.dense", frames.mean(1)))
        return self._linear(f"classifier.{self.out}", hidden)

    def _linear(self, name: str, x: Any) -> Any:
        from torch.nn.functional import linear

        return linear(x, *(self.tensors[f"{name}.{part}"].to(x) for part in ("weight", "bias")))
