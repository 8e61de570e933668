"""Stage 1: aligns the adapter with a frozen language model.

One linear layer must find the emotion in the mean of the adapter's tokens. Another must turn that mean into a vector
that is nearest to the language model's own states of the same words, among those of all words of the batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from e2v_port.dialogue.augment import masked, mixed
from e2v_port.dialogue.examples import Example, batches
from e2v_port.dialogue.recipe import Recipe
from e2v_port.llm.adapter import Adapter, Fused, gathered
from e2v_port.llm.language import Language
from e2v_port.training.task import seeded

__all__ = ["Aligning", "contrast", "one_cycle", "text_states"]


@dataclass
class Aligning:
    """An epoch by epoch training of the adapter.

    Attributes:
        adapter: The network, on the device to train on.
        recipe: The settings.
        train: The training clips.
        states: States of the language model for each distinct text, as of `text_states`.
        texts: Row of each text in `states`.
        load: Returns the features of a clip, `shortened`.
        curve: Mean losses of each epoch so far: `loss`, and its parts `emotion` and `align`.
    """

    adapter: Adapter
    recipe: Recipe
    train: Sequence[Example]
    states: Tensor
    texts: Mapping[str, int]
    load: Callable[[Example], Mapping[str, Any]]
    curve: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.optimizer = torch.optim.AdamW(self.adapter.parameters(), recipe.aligning_rate, weight_decay=0.05)
        self.steps = -(-len(self.train) // recipe.aligning_batch)  # of an epoch

    def epoch(self, advance: Callable[[], None] = lambda: None) -> None:
        """Trains one epoch; what is drawn depends on the seed and the number of the epoch alone."""
        draw = np.random.default_rng((self.recipe.seed, 1, len(self.curve)))
        with seeded(int(draw.integers(2**31))):
            self.adapter.train()
            sizes = [len(self.load(clip)["semantic"]) for clip in self.train]
            sums = {"loss": 0.0, "emotion": 0.0, "align": 0.0}
            for number, chosen in enumerate(batches(sizes, self.recipe.aligning_batch, draw)):
                losses = self._losses([self.train[index] for index in chosen], draw)
                self._step(losses["loss"], len(self.curve) * self.steps + number)
                for name, value in losses.items():
                    sums[name] += float(value.detach()) * len(chosen) / len(self.train)
                advance()
        self.curve.append(sums)

    def _losses(self, clips: Sequence[Example], draw: np.random.Generator) -> dict[str, Tensor]:
        recipe, config, device = self.recipe, self.adapter.config, self.states.device
        batch = gathered([masked(self.load(clip), recipe.masked, draw) for clip in clips], config).to(device)
        labels = torch.tensor([config.labels.index(clip.emotion) for clip in clips], device=device)
        targets = F.one_hot(labels, len(config.labels)).float()
        batch, targets = mixed(batch, targets, recipe.mixup, draw)
        fused = self.adapter(batch)
        emotion = F.cross_entropy(fused.emotions, targets)
        align = contrast(fused, [self.texts[clip.words] for clip in clips], self.states, recipe.temperature)
        loss = recipe.emotion_weight * emotion + recipe.align_weight * align
        return {"loss": loss, "emotion": emotion, "align": align}

    def _step(self, loss: Tensor, number: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.aligning_rate * one_cycle(number / (self.recipe.aligning * self.steps))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0)
        self.optimizer.step()


def text_states(language: Language, texts: Sequence[str]) -> Tensor:
    """Returns unit vectors of texts, [texts, words]: the language model's states, less what all of them share."""
    states = language.states(texts)
    return F.normalize(states - states.mean(0), dim=1).clone()  # a clone takes part in training; the states cannot


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
    targets = torch.tensor([distinct.index(text) for text in texts], device=states.device)
    return F.cross_entropy(cosines / temperature, targets)
