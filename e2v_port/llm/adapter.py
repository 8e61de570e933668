"""The adapter between frozen encoders and a language model: frames of speech in, embeddings that it reads out.

    semantic frames [T, s]  ->  averaged, standardized  ->  fusion  ->  stacked, projected  ->  tokens [N, words]
    emotion frames  [T, e]  ->  averaged, standardized  ---^
    speaker         [v]     ->  -------------------------- ^
                                                            mean of the tokens  ->  its own estimate  ->  tone token

Fusion is where tone and voice reach the words:

    frames      every semantic frame attends to all emotion frames and to the speaker, each a key of its own
    broadcast   emotion (its mean) and speaker are one vector. Attention over copies of one key gives that key's value
                whatever the query, so this adds the same vector to every frame
    prefix      they become a token of their own before those of the words, and no frame hears of them

The tone token is the last one: the language model's own embeddings of the names of the tones, each weighted by how
likely the adapter finds it. The language model knows these words, and need not learn from the replies what the tokens
before mean by a tone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from e2v_port.errors import CheckpointError

__all__ = [
    "FUSIONS",
    "Adapter",
    "AdapterConfig",
    "Fused",
    "Heard",
    "Statistics",
    "averaged",
    "gathered",
    "heard",
    "shortened",
]

Fusion = Literal["frames", "broadcast", "prefix"]
FUSIONS: tuple[Fusion, ...] = ("frames", "broadcast", "prefix")


@dataclass(frozen=True)
class AdapterConfig:
    """Sizes of an adapter.

    Attributes:
        semantic: Width of the frames of the encoder of what is said.
        words: Width of the embeddings of the language model.
        labels: Names of the emotions of its own estimate.
        emotion: Width of the frames of the encoder of how it is said; None to go without.
        speaker: Width of the embedding of who says it; None to go without.
        fusion: How these reach the words: `frames`, `broadcast` or `prefix`, see above.
        width: Width inside the fusion.
        heads: Heads of its attention.
        average: Neighboring frames that are averaged before anything else: 4 of 20 ms.
        stack: Averaged frames per token: 4 make a token of 320 ms, three a second.
        hidden: Width inside the projection.
        dropout: Share of values left out in training.
        tone_token: Whether the last token is the tone token, see above.
    """

    semantic: int
    words: int
    labels: tuple[str, ...]
    emotion: int | None = None
    speaker: int | None = None
    fusion: Fusion = "frames"
    width: int = 256
    heads: int = 4
    average: int = 4
    stack: int = 4
    hidden: int = 512
    dropout: float = 0.1
    tone_token: bool = True

    def __post_init__(self) -> None:
        """Raises CheckpointError for sizes that make no network."""
        sizes = [self.semantic, self.words, self.width, self.heads, self.average, self.stack, self.hidden]
        sizes += [size for size in (self.emotion, self.speaker) if size is not None]
        if not all(isinstance(size, int) and size > 0 for size in sizes) or self.width % self.heads:
            raise CheckpointError("sizes of an adapter must be positive, and its width a multiple of its heads")
        if self.fusion not in FUSIONS or not 0 <= self.dropout < 1 or len(self.labels) < 2:
            raise CheckpointError(f"no adapter has fusion {self.fusion!r}, or less than two labels")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads what `to_dict` wrote.

        Raises:
            CheckpointError: Something is missing, unknown or of the wrong kind.
        """
        try:
            names = values["labels"]
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise TypeError("labels are no list of names")
            return cls(**{**values, "labels": tuple(names)})
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"not the configuration of an adapter: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-compatible values."""
        return {**self.__dict__, "labels": list(self.labels)}


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of each feature in the training set, by encoder: what features are standardized by.

    Attributes:
        mean: By `semantic`, `emotion` and `speaker`: [width].
        deviation: The same.
    """

    mean: Mapping[str, NDArray[np.float32]]
    deviation: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Heard:
    """Features of a batch of clips, padded with zeros.

    Attributes:
        semantic: Averaged frames, [clips, frames, width].
        semantic_mask: Where they are true, [clips, frames].
        emotion: Averaged frames, [clips, frames, width]; None without that encoder.
        emotion_mask: Where they are true.
        speaker: Embeddings, [clips, width]; None without that encoder.
    """

    semantic: Tensor
    semantic_mask: Tensor
    emotion: Tensor | None
    emotion_mask: Tensor | None
    speaker: Tensor | None

    def to(self, device: torch.device | str) -> "Heard":
        """Returns the same on another device."""
        moved: list[Any] = [value if value is None else value.to(device) for value in self.__dict__.values()]
        return Heard(*moved)


@dataclass(frozen=True)
class Fused:
    """What the adapter makes of a batch.

    Attributes:
        tokens: Embeddings for the language model, [clips, tokens, words].
        mask: Where they are true, [clips, tokens]; true ones come first.
        pooled: Mean of the tokens of each clip but its tone token, [clips, words].
        emotions: Logits of its own estimate of the emotion, [clips, labels].
        meaning: What is said, as a vector that training aligns with the language model's states of the same words,
            [clips, words].
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor
    emotions: Tensor
    meaning: Tensor


def heard(clips: Sequence[Mapping[str, NDArray[Any]]], config: AdapterConfig) -> Heard:
    """Puts the features of clips into a batch; what the adapter does not use is left out.

    Args:
        clips: Features by encoder, as of `Encoders.of`.
        config: The adapter.

    Raises:
        CheckpointError: Features are missing or of another width than the adapter's.
    """
    return gathered([shortened(clip, config.average) for clip in clips], config)


def shortened(clip: Mapping[str, NDArray[Any]], average: int) -> dict[str, NDArray[Any]]:
    """Returns the features of a clip with its frames averaged, which is all that an adapter reads of them.

    Args:
        clip: Features by encoder.
        average: Neighboring frames that become one.
    """
    return {
        name: values if values.ndim == 1 else averaged(values, average).astype(np.float16)
        for name, values in clip.items()
    }


def gathered(clips: Sequence[Mapping[str, NDArray[Any]]], config: AdapterConfig) -> Heard:
    """Returns the batch of `heard`, of clips that are `shortened` already.

    Raises:
        CheckpointError: As `heard`.
    """
    wanted = {"semantic": config.semantic, "emotion": config.emotion, "speaker": config.speaker}
    for clip in clips:
        for name, width in wanted.items():
            if width is not None and (name not in clip or clip[name].shape[-1] != width):
                found = clip[name].shape[-1] if name in clip else "none"
                raise CheckpointError(
                    f"the adapter reads {width} {name} features, these have {found}: use the encoders it was made with"
                )
    semantic, semantic_mask = _padded([clip["semantic"] for clip in clips])
    emotion = emotion_mask = speaker = None
    if config.emotion is not None:
        emotion, emotion_mask = _padded([clip["emotion"] for clip in clips])
    if config.speaker is not None:
        speaker = torch.from_numpy(np.stack([clip["speaker"] for clip in clips]).astype(np.float32))
    return Heard(semantic, semantic_mask, emotion, emotion_mask, speaker)


def averaged(frames: NDArray[Any], number: int) -> NDArray[np.float32]:
    """Returns the means of every `number` neighboring frames [T, width]; the last may be of fewer."""
    starts = np.arange(0, len(frames), number)
    sums = np.add.reduceat(frames.astype(np.float32), starts, axis=0)
    return (sums / np.diff([*starts, len(frames)])[:, None]).astype(np.float32)


def _padded(frames: Sequence[NDArray[Any]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, frames))
    values = torch.zeros(len(frames), longest, frames[0].shape[-1])
    mask = torch.zeros(len(frames), longest, dtype=torch.bool)
    for row, clip in enumerate(frames):
        values[row, : len(clip)] = torch.from_numpy(clip.astype(np.float32))
        mask[row, : len(clip)] = True
    return values, mask


class Adapter(nn.Module):
    """The network. `forward` takes a `Heard` and gives a `Fused`."""

    tones: Tensor

    def __init__(self, config: AdapterConfig, loudness: float = 1.0) -> None:
        """Makes an adapter with random weights.

        Args:
            config: Its sizes.
            loudness: Root mean square of the language model's own embeddings, which its tokens start with.
        """
        super().__init__()
        self.config = config
        self.semantic = _Standard(config.semantic, config.width)
        self.emotion = _Standard(config.emotion, config.width) if config.emotion else None
        self.speaker = _Standard(config.speaker, config.width) if config.speaker else None
        sources = sum(source is not None for source in (self.emotion, self.speaker))
        self.fusion: nn.Module | None = None
        self.prefix: nn.Module | None = None
        if sources and config.fusion == "frames":
            self.fusion = _Attention(config)
        elif sources and config.fusion == "broadcast":
            self.fusion = _Broadcast(sources * config.width, config)
        elif sources:
            self.prefix = nn.Sequential(
                nn.Linear(sources * config.width, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.words)
            )
        self.projection = nn.Sequential(
            nn.LayerNorm(config.stack * config.width),
            nn.Linear(config.stack * config.width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.words),
        )
        self.norm = nn.LayerNorm(config.words)
        nn.init.constant_(self.norm.weight, loudness)
        self.classifier = nn.Sequential(nn.LayerNorm(config.words), nn.Linear(config.words, len(config.labels)))
        self.meaning = nn.Sequential(nn.LayerNorm(config.words), nn.Linear(config.words, config.words))
        if config.tone_token:
            self.register_buffer("tones", torch.zeros(len(config.labels), config.words))

    def name_tones(self, embeddings: Tensor) -> None:
        """Stores the language model's embeddings of the names of the labels, [labels, words], for the tone token."""
        if self.config.tone_token:
            self.tones.copy_(embeddings)

    def standardize(self, statistics: Statistics) -> None:
        """Stores what features are standardized by."""
        for name in ("semantic", "emotion", "speaker"):
            if (part := getattr(self, name)) is not None:
                part.mean.copy_(torch.from_numpy(statistics.mean[name]))
                part.deviation.copy_(torch.from_numpy(statistics.deviation[name]))

    def forward(self, batch: Heard) -> Fused:
        """Returns tokens, and what training reads of them."""
        frames = self.semantic(batch.semantic)
        voice = None if self.speaker is None or batch.speaker is None else self.speaker(batch.speaker)
        tone = None if self.emotion is None or batch.emotion is None else self.emotion(batch.emotion)
        if isinstance(self.fusion, _Attention):
            frames = self.fusion(frames, tone, batch.emotion_mask, voice)
        elif self.fusion is not None:
            frames = self.fusion(frames, _vector(tone, batch.emotion_mask, voice))
        tokens, mask = self._stacked(frames, batch.semantic_mask)
        tokens = self.projection(tokens)
        if self.prefix is not None:
            tokens = torch.cat([self.prefix(_vector(tone, batch.emotion_mask, voice))[:, None], tokens], dim=1)
            mask = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)
        tokens = self.norm(tokens) * mask[..., None]
        pooled = _mean(tokens, mask)
        emotions = self.classifier(pooled)
        if self.config.tone_token:
            tokens, mask = _appended(tokens, mask, emotions.softmax(1) @ self.tones)
        return Fused(tokens, mask, pooled, emotions, self.meaning(pooled))

    def _stacked(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Puts neighboring frames side by side: a token is true if any of its frames is; false frames are zeros."""
        stack = self.config.stack
        lacking = -frames.shape[1] % stack
        frames = nn.functional.pad(frames * mask[..., None], (0, 0, 0, lacking))
        mask = nn.functional.pad(mask, (0, lacking))
        return frames.reshape(len(frames), -1, stack * frames.shape[2]), mask.reshape(len(mask), -1, stack).any(2)


class _Standard(nn.Module):
    """Standardizes features by the training set and brings them to the width of the fusion."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.linear = nn.Linear(features, width)

    def forward(self, values: Tensor) -> Tensor:
        found: Tensor = self.linear((values - self.mean) / self.deviation)
        return found


class _Attention(nn.Module):
    """Semantic frames attend to emotion frames and the speaker; S + attention, as in a transformer before its norm."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.keys_norm = nn.LayerNorm(config.width)
        self.attention = nn.MultiheadAttention(config.width, config.heads, config.dropout, batch_first=True)

    def forward(self, frames: Tensor, tone: Tensor | None, tone_mask: Tensor | None, voice: Tensor | None) -> Tensor:
        keys, masks = [], []
        if tone is not None and tone_mask is not None:
            keys.append(tone)
            masks.append(tone_mask)
        if voice is not None:
            keys.append(voice[:, None])
            masks.append(torch.ones(len(voice), 1, dtype=torch.bool, device=voice.device))
        values = self.keys_norm(torch.cat(keys, dim=1))
        ignored = ~torch.cat(masks, dim=1)
        added, _ = self.attention(self.norm(frames), values, values, key_padding_mask=ignored, need_weights=False)
        summed: Tensor = frames + added
        return summed


class _Broadcast(nn.Module):
    """Adds one vector of emotion and speaker to every frame: attention over copies of one key, without its detour."""

    def __init__(self, features: int, config: AdapterConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.value = nn.Linear(features, config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, frames: Tensor, vector: Tensor) -> Tensor:
        summed: Tensor = frames + self.out(self.value(self.norm(vector)))[:, None]
        return summed


def _appended(tokens: Tensor, mask: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Puts one more token [clips, words] after the true ones of each clip."""
    here = nn.functional.one_hot(mask.sum(1), mask.shape[1] + 1).bool()
    tokens = nn.functional.pad(tokens, (0, 0, 0, 1))
    mask = nn.functional.pad(mask, (0, 1))
    return torch.where(here[..., None], last[:, None].to(tokens.dtype), tokens), mask | here


def _vector(tone: Tensor | None, tone_mask: Tensor | None, voice: Tensor | None) -> Tensor:
    parts = [] if tone is None or tone_mask is None else [_mean(tone, tone_mask)]
    return torch.cat([*parts, *([] if voice is None else [voice])], dim=1)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean of the true ones of values [clips, n, width], in any order of what is padded."""
    weights = mask.to(values.dtype)[..., None]
    found: Tensor = (values * weights).sum(1) / weights.sum(1)
    return found
