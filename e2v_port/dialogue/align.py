"""Stage 1: aligns the adapter with a frozen language model.

The emotion must be told from the mean of the adapter's tokens, by one linear layer; and the words must be told, by a
vector that is nearest to the language model's own states of the same words, among those of all words of the batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from e2v_port.dialogue.augment import masked, mixed
from e2v_port.dialogue.examples import Example, batches
from e2v_port.dialogue.recipe import Recipe
from e2v_port.llm.adapter import Adapter, Fused, heard

__all__ = ["Aligning", "contrast"]


@dataclass
class Aligning:
    """An epoch by epoch training of the adapter.

    Attributes:
        adapter: The network.
        recipe: The settings.
        train: The training clips.
        states: States of the language model for each distinct text, centered and of length 1, [texts, words].
        texts: Row of each text in `states`.
        load: Returns the features of a clip.
    """

    adapter: Adapter
    recipe: Recipe
    train: Sequence[Example]
    states: Tensor
    texts: Mapping[str, int]
    load: Callable[[Example], Mapping[str, Any]]

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.optimizer = torch.optim.AdamW(self.adapter.parameters(), recipe.aligning_rate, weight_decay=0.05)
        self.steps = -(-len(self.train) // recipe.aligning_batch)
        self.epochs = 0
        self.curve: list[dict[str, float]] = []

    def epoch(self, advance: Callable[[], None] = lambda: None) -> None:
        """Trains one epoch; what is drawn depends on the seed and the number of the epoch alone."""
        recipe = self.recipe
        draw = np.random.default_rng((recipe.seed, 1, self.epochs))
        torch.manual_seed(int(draw.integers(2**31)))
        self.adapter.train()
        labels = {name: number for number, name in enumerate(self.adapter.config.labels)}
        sizes = [len(self.load(clip)["semantic"]) for clip in self.train]
        sums = {"loss": 0.0, "emotion": 0.0, "align": 0.0}
        order = batches(sizes, recipe.aligning_batch, draw)
        for number, chosen in enumerate(order):
            clips = [self.train[index] for index in chosen]
            batch = heard([masked(self.load(clip), recipe.masked, draw) for clip in clips], self.adapter.config)
            emotions = F.one_hot(torch.tensor([labels[clip.emotion] for clip in clips]), len(labels)).float()
            batch, emotions = mixed(batch, emotions, recipe.mixup, draw)
            fused = self.adapter(batch)
            emotion = F.cross_entropy(fused.emotions, emotions)
            align = contrast(fused, [self.texts[clip.words] for clip in clips], self.states, recipe.temperature)
            loss = recipe.emotion_weight * emotion + recipe.align_weight * align
            self._step(loss, self.epochs * len(order) + number, recipe.aligning * len(order))
            for name, value in (("loss", loss), ("emotion", emotion), ("align", align)):
                sums[name] += float(value.detach()) * len(clips) / len(self.train)
            advance()
        self.epochs += 1
        self.curve.append(sums)

    def _step(self, loss: Tensor, number: int, total: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.aligning_rate * one_cycle(number / total)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0)
        self.optimizer.step()


def one_cycle(progress: float, warm_up: float = 0.1) -> float:
    """Returns the share of the highest learning rate: up in a tenth of all steps, then down to zero along a cosine.

    Args:
        progress: Share of the steps that are done.
        warm_up: Share of the steps before the highest rate.
    """
    if progress < warm_up:
        return (progress + 0.01) / (warm_up + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def contrast(fused: Fused, texts: Sequence[int], states: Tensor, temperature: float) -> Tensor:
    """Returns the contrastive loss: the words of each clip against the other words of the batch.

    The same words said twice are one candidate, not two that compete.

    Args:
        fused: What the adapter makes of the clips.
        texts: Row of the words of each clip in `states`.
        states: Unit vectors of texts, [texts, words].
        temperature: Divides the cosines.
    """
    distinct = sorted(set(texts))
    cosines = F.normalize(fused.meaning, dim=1) @ states[distinct].T
    return F.cross_entropy(cosines / temperature, torch.tensor([distinct.index(text) for text in texts]))
