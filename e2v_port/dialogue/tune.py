"""Stage 2: tunes the language model, by low-rank matrices, and the adapter together, on the replies."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from e2v_port.dialogue.align import one_cycle
from e2v_port.dialogue.augment import masked
from e2v_port.dialogue.examples import Example, batches
from e2v_port.dialogue.recipe import Recipe
from e2v_port.llm.adapter import Adapter, gathered
from e2v_port.llm.language import Language
from e2v_port.quiet import quiet
from e2v_port.training.task import seeded

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
    with quiet():  # peft asks transformers for what it calls deprecated
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
        adapter: On the same device; None if the language model gets text.
        recipe: The settings.
        train: The training clips.
        load: Returns the features of a clip, `shortened`.
        curve: Losses of each step so far: `text`, of the replies, and `emotion`, of the adapter's own estimate.
    """

    language: Language
    adapter: Adapter | None
    recipe: Recipe
    train: Sequence[Example]
    load: Callable[[Example], Mapping[str, Any]]
    curve: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        matrices = [p for p in self.language.model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": matrices, "highest": self.recipe.rate}]
        if self.adapter is not None:
            groups.append({"params": [*self.adapter.parameters()], "highest": self.recipe.adapter_rate})
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, self.recipe.rate, weight_decay=0.0)
        size = min(self.recipe.clips or len(self.train), len(self.train))
        self.size = size - size % self.recipe.batch or size
        self.per_epoch = -(-self.size // self.recipe.batch)

    @property
    def steps(self) -> int:
        """Steps that are done."""
        return len(self.curve)

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.recipe.tuning * self.per_epoch

    @property
    def settled(self) -> bool:
        """Whether no gradient waits for the next steps, so that weights and optimizer are the whole state."""
        return self.steps % self.recipe.accumulate == 0 or self.steps == self.total

    def order(self, epoch: int) -> list[list[int]]:
        """Returns the clips of each step of an epoch; they depend on the seed and its number alone.

        In a part of the clips, every tone has as many, as far as there are: a tone that only one corpus has is rare,
        and in a short training the language model would not learn what to reply to it.
        """
        draw = np.random.default_rng((self.recipe.seed, 2, epoch))
        drawn = draw.permutation(len(self.train))
        seen: Counter[str] = Counter()
        earlier = []  # clips of the same tone before each
        for index in drawn:
            earlier.append(seen[self.train[index].emotion])
            seen[self.train[index].emotion] += 1
        chosen = drawn[np.argsort(earlier, kind="stable")][: self.size]
        sizes = [_length(self.train[index]) for index in chosen]
        return [[int(chosen[i]) for i in step] for step in batches(sizes, self.recipe.batch, draw)]

    def step(self) -> dict[str, float]:
        """Trains one step and returns its losses; what is drawn depends on the seed and its number alone."""
        recipe = self.recipe
        epoch, number = divmod(self.steps, self.per_epoch)
        clips = [self.train[index] for index in self.order(epoch)[number]]
        draw = np.random.default_rng((recipe.seed, 3, self.steps))
        with seeded(int(draw.integers(2**31))):
            self.language.model.train()
            if self.adapter is not None:
                self.adapter.train()
            text, emotion = self._losses(clips, lambda clip: masked(self.load(clip), recipe.masked, draw))
            loss = (text + recipe.emotion_weight * emotion) / recipe.accumulate
            loss.backward()  # type: ignore[no-untyped-call]
        share = one_cycle(self.steps / self.total)
        self.curve.append({"text": float(text.detach()), "emotion": float(emotion.detach())})
        if self.settled:
            for group in self.optimizer.param_groups:
                group["lr"] = group["highest"] * share
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self.curve[-1]

    def loss(self, clips: Sequence[Example]) -> float:
        """Returns the mean loss of the replies to clips that are not trained on."""
        self.language.model.eval()
        if self.adapter is not None:
            self.adapter.eval()
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(clips), self.recipe.batch):
                some = clips[start : start + self.recipe.batch]
                total += float(self._losses(some, self.load)[0]) * len(some)
        return total / len(clips)

    def _losses(self, clips: Sequence[Example], load: Callable[[Example], Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
        """Returns the loss of the replies, and that of the adapter's estimate of the emotion."""
        language, device = self.language, self.language.device
        answers = [[*language.ids(clip.reply), language.tokenizer.eos_token_id] for clip in clips]
        prompts = [language.prompt(self.recipe.system, clip.context) for clip in clips]
        if self.adapter is None:
            remarks = [language.embed(language.ids(described(clip, self.recipe.hears))) for clip in clips]
            emotion = torch.zeros((), device=device)
        else:
            config = self.adapter.config
            fused = self.adapter(gathered([load(clip) for clip in clips], config).to(device))
            remarks = [tokens[mask] for tokens, mask in zip(fused.tokens, fused.mask, strict=True)]
            labels = torch.tensor([config.labels.index(clip.emotion) for clip in clips], device=device)
            emotion = F.cross_entropy(fused.emotions, labels)
        return language.loss(language.batch(prompts, remarks, answers)), emotion


def _length(clip: Example) -> int:
    """Returns about how long a clip is for the language model, in letters."""
    return sum(map(len, (clip.words, clip.reply, *(turn.content for turn in clip.context))))
