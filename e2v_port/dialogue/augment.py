"""Changes features in training, so that a model does not rely on any few of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from e2v_port.llm.adapter import Heard

__all__ = ["masked", "mixed"]


def masked(clip: Mapping[str, NDArray[Any]], share: float, draw: Generator) -> dict[str, NDArray[Any]]:
    """Returns a clip with one stretch of frames and one band of features zeroed in each kind of frames (SpecAugment).

    Args:
        clip: Features by encoder: `semantic` and `emotion` [frames, width], `speaker` [width], which is kept.
        share: Longest stretch, and widest band, as a share of all.
        draw: Decides which.
    """
    found = dict(clip)
    if share > 0:
        for name in ("semantic", "emotion"):
            if name in found:
                values = found[name].copy()
                for axis in (0, 1):
                    size = int(draw.uniform(0, share) * values.shape[axis])
                    start = int(draw.integers(values.shape[axis] - size + 1))
                    np.moveaxis(values, axis, 0)[start : start + size] = 0
                found[name] = values
    return found


def mixed(batch: Heard, targets: Tensor, alpha: float, draw: Generator) -> tuple[Heard, Tensor]:
    """Returns clips blended with other clips of their batch, and their targets blended alike (mixup).

    The longer part of each clip counts at least half, so that what is said stays that of the clip.

    Args:
        batch: The clips.
        targets: Probabilities of their emotions, [clips, labels].
        alpha: Both parameters of the beta distribution; 0 changes nothing.
        draw: Decides who is blended with whom.
    """
    if alpha == 0:
        return batch, targets
    share = float(draw.beta(alpha, alpha))
    share = max(share, 1 - share)
    other = torch.from_numpy(draw.permutation(len(targets)))

    def blend(values: Tensor | None) -> Tensor | None:
        return None if values is None else share * values + (1 - share) * values[other]

    semantic = blend(batch.semantic)
    assert semantic is not None
    return (
        replace(batch, semantic=semantic, emotion=blend(batch.emotion), speaker=blend(batch.speaker)),
        share * targets + (1 - share) * targets[other],
    )
