"""Stage 2: tunes the language model, by low-rank matrices, and the adapter together, on the replies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from e2v_port.dialogue.align import one_cycle
from e2v_port.dialogue.augment import masked
from e2v_port.dialogue.examples import Example, batches
from e2v_port.dialogue.recipe import Recipe
from e2v_port.llm.adapter import Adapter, heard
from e2v_port.llm.language import Language

__all__ = ["Tuning", "described", "low_rank"]


def low_rank(language: Language, rank: int, alpha: int) -> None:
    """Adds low-rank matrices to every linear layer of a language model but its last; only they can be trained.

    Args:
        language: Changed in place.
        rank: Of the matrices.
        alpha: Their product counts `alpha / rank`.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    language.model = get_peft_model(language.model, config)


def described(clip: Example, hears: str, label: str | None = None) -> str:
    """Returns a remark as text, for models without an adapter.

    Args:
        clip: The remark.
        hears: `words` or `label`.
        label: Name of the emotion in place of the clip's own.
    """
    return clip.words if hears == "words" else f"{clip.words} (tone: {label or clip.emotion})"


@dataclass
class Tuning:
    """A step by step training of both.

    Attributes:
        language: With low-rank matrices.
        adapter: None if the language model gets text.
        recipe: The settings.
        train: The training clips.
        load: Returns the features of a clip.
    """

    language: Language
    adapter: Adapter | None
    recipe: Recipe
    train: Sequence[Example]
    load: Callable[[Example], Mapping[str, Any]]

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.language.model.parameters() if p.requires_grad]
        if self.adapter is not None:
            self.parameters += list(self.adapter.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, self.recipe.rate, weight_decay=0.0)
        size = min(self.recipe.clips or len(self.train), len(self.train))
        self.size = size - size % self.recipe.batch or size
        self.per_epoch = -(-self.size // self.recipe.batch)
        self.steps = 0
        self.curve: list[dict[str, float]] = []

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.recipe.tuning * self.per_epoch

    def order(self, epoch: int) -> list[list[int]]:
        """Returns the clips of each step of an epoch; they depend on the seed and its number alone."""
        draw = np.random.default_rng((self.recipe.seed, 2, epoch))
        chosen = draw.permutation(len(self.train))[: self.size]
        sizes = [len(self.train[index].words) + len(self.train[index].reply) for index in chosen]
        return [[int(chosen[i]) for i in step] for step in batches(sizes, self.recipe.batch, draw)]

    def step(self) -> dict[str, float]:
        """Trains one step and returns its losses."""
        recipe = self.recipe
        epoch, number = divmod(self.steps, self.per_epoch)
        clips = [self.train[index] for index in self.order(epoch)[number]]
        draw = np.random.default_rng((recipe.seed, 3, self.steps))
        torch.manual_seed(int(draw.integers(2**31)))
        self.language.model.train()
        answers = [[*self.language.ids(clip.reply), self.language.tokenizer.eos_token_id] for clip in clips]
        prompts = [self.language.prompt(recipe.system, clip.context) for clip in clips]
        emotion = torch.zeros(())
        if self.adapter is None:
            remarks = [self.language.embed(self.language.ids(described(clip, recipe.hears))) for clip in clips]
        else:
            self.adapter.train()
            fused = self.adapter(
                heard([masked(self.load(clip), recipe.masked, draw) for clip in clips], self.adapter.config)
            )
            remarks = [tokens[mask] for tokens, mask in zip(fused.tokens, fused.mask, strict=True)]
            labels = [self.adapter.config.labels.index(clip.emotion) for clip in clips]
            emotion = F.cross_entropy(fused.emotions, torch.tensor(labels))
        text = self.language.loss(self.language.batch(prompts, remarks, answers))
        loss = text + recipe.emotion_weight * emotion
        (loss / recipe.accumulate).backward()
        if (self.steps + 1) % recipe.accumulate == 0 or self.steps + 1 == self.total:
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.rate * one_cycle(self.steps / self.total)
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.steps += 1
        self.curve.append({"text": float(text.detach()), "emotion": float(emotion.detach())})
        return self.curve[-1]
