"""SenseVoice: sizes, stored tensors, operations, and the numbers that no checkpoint needs to store."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.base import Transformer
from e2v_port.architectures.shapes import Shape, is_size, linear, norm
from e2v_port.audio import SAMPLING_RATE

__all__ = [
    "COLUMN",
    "FFT",
    "FLOOR",
    "FULL_SCALE",
    "LANGUAGES",
    "PIECES",
    "PREEMPHASIS",
    "QUERIES",
    "TEXT",
    "WINDOW",
    "SensevoiceConfig",
    "filters",
    "hamming",
    "positions",
    "scales",
]

# Of Kaldi's filter banks as FunASR's WavFrontend asks for them, in samples at 16 kHz.
WINDOW = 400
COLUMN = 160  # step from one column of the spectrogram to the next
FFT = 512  # a window is filled up with zeros to the next power of two
FULL_SCALE = 1 << 15  # Kaldi's samples are those of 16-bit files
PREEMPHASIS = 0.97
LOWEST = 20.0  # lower edge of the first mel band, in Hz; the upper edge of the last is half the sampling rate
FLOOR = float(np.finfo(np.float32).eps)  # lowest power in a band

QUERIES = 4  # tokens in front of the frames, whose states become the tags: language, emotion, event, text form
LANGUAGES = {"zh": 3, "en": 4, "yue": 7, "ja": 11, "ko": 12}  # rows of the table of queries, as FunASR's `lid_dict`

# Files next to the weights, from which words are read: the layer that scores the vocabulary, `weight` [tokens, width]
# and `bias` [tokens] in float32; and the pieces of words that the tokens stand for, as sentencepiece stores them.
TEXT = "text.safetensors"
PIECES = "text.model"


@dataclass(frozen=True, kw_only=True)
class SensevoiceConfig(Transformer):
    """Sizes of one encoder of the kind of SenseVoiceSmall (arXiv 2407.04051), made of SAN-M blocks (arXiv 2006.01713).

    The embedding is made of the states of the four queries side by side. `depth` counts the blocks after the first and
    before the norm in the middle.

    Attributes:
        bands: Mel bands of the spectrogram.
        stacked: Columns of the spectrogram that one frame holds side by side, an odd number.
        step: Columns from one frame to the next.
        num_queries: Rows in the table of queries.
        queries: Rows of it that are put before the frames: language (0: detect it), emotion, event, and whether the
            text is written with punctuation and digits (14) or without (15, FunASR's default).
        tp_depth: Blocks after the norm in the middle.
        kernel: Tokens in a window of the convolution beside attention, an odd number.
    """

    waveform_eps: ClassVar[float] = 1e-7  # never used by a published model: FunASR's front end does not normalize
    half_precision: ClassVar[bool] = False  # with random weights, bfloat16 moves probabilities by up to 0.045

    bands: int
    stacked: int
    step: int
    num_queries: int
    queries: tuple[int, ...]
    tp_depth: int
    kernel: int

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = self.queries
        if len(rows) != QUERIES or not all(is_size(row, 0) and row < self.num_queries for row in rows):
            raise ValueError(f"queries is {rows!r}")
        for name in ("stacked", "kernel"):
            if not getattr(self, name) % 2:
                raise ValueError(f"{name} is {getattr(self, name)}, an even number")
        if self.readout is None and self.embed_dim % QUERIES:
            raise ValueError(f"an embedding of {self.embed_dim} numbers cannot come from {QUERIES} queries")

    @property
    def width(self) -> int:
        """Features of a token between the blocks."""
        return super().width if self.readout else self.embed_dim // QUERIES

    @property
    def inputs(self) -> int:
        """Features of a token before the first block."""
        return self.bands * self.stacked

    @property
    def joining(self) -> str:
        """How the windows of a long clip join into one embedding; see `Architecture`."""
        return super().joining if self.readout else "windows"

    @property
    def judges_frames(self) -> bool:
        """Whether the head can be applied to a part of a clip: never to states of queries, of which a clip has one."""
        return self.readout is not None and super().judges_frames

    @property
    def blocks(self) -> int:
        """Number of all blocks."""
        return 1 + self.depth + self.tp_depth

    @property
    def hop(self) -> int:
        """Samples from one frame to the next: 960, 60 ms."""
        return COLUMN * self.step

    def cut(self, blocks: int) -> Self:
        """Returns the architecture with this many blocks; see `Transformer`."""
        depth = min(self.depth, blocks - 1)
        bare = replace(self, embed_dim=QUERIES * self.width, readout=None, means=False, head=(), others=())
        return replace(bare, depth=depth, tp_depth=blocks - 1 - depth)

    def columns(self, samples: int) -> int:
        """Returns the number of columns in the spectrogram of a clip of this many samples: whole windows only."""
        return max((samples - WINDOW) // COLUMN + 1, 0)

    def frames(self, samples: int) -> int:
        """Returns the number of frames in a clip of this many samples: about 17 a second at 16 kHz."""
        return -(-self.columns(samples) // self.step)

    def tokens(self, samples: int) -> int:
        """Returns the number of tokens that the blocks process for such a clip: frames and queries."""
        return self.frames(samples) + QUERIES

    def tensors(self) -> dict[str, Shape]:
        """Returns name and shape of every stored tensor; see `Architecture`."""
        stored: dict[str, Shape] = {"cmvn.shift": (self.inputs,), "cmvn.scale": (self.inputs,)}
        stored["queries"] = (self.num_queries, self.inputs)
        stored |= self._block("first_blocks.0", self.inputs)
        for i in range(self.depth):
            stored |= self._block(f"blocks.{i}", self.width)
        if self.tp_depth:
            stored |= norm("after_norm", self.width)
        for i in range(self.tp_depth):
            stored |= self._block(f"tp_blocks.{i}", self.width)
        if self.finished:
            stored |= norm("tp_norm", self.width)
        return stored | self._readout_and_head()

    def _block(self, name: str, inputs: int) -> dict[str, Shape]:
        width = self.width
        return (
            norm(f"{name}.norm1", inputs)
            | linear(f"{name}.attn.q_proj", width, inputs)
            | linear(f"{name}.attn.k_proj", width, inputs)
            | linear(f"{name}.attn.v_proj", width, inputs)
            | {f"{name}.attn.memory.weight": (width, self.kernel, 1)}
            | linear(f"{name}.attn.out_proj", width, width)
            | norm(f"{name}.norm2", width)
            | linear(f"{name}.mlp.fc1", self.ffn_dim, width)
            | linear(f"{name}.mlp.fc2", width, self.ffn_dim)
        )

    def operations(self, samples: int) -> dict[str, int]:
        """Counts the operations of one clip by part; see `Architecture`."""
        tokens, width = self.tokens(samples), self.width
        counts = self._block_operations(samples)
        wider = 6 * tokens * width * (self.inputs - width)  # of queries, keys and values in the first block
        return {
            "spectrogram": 2 * self.columns(samples) * (FFT // 2 + 1) * self.bands,
            **counts,
            "attention": counts["attention"] + wider,
            "memory": self.blocks * 2 * tokens * self.kernel * width,
        }


def hamming() -> NDArray[np.float32]:
    """Returns Kaldi's Hamming window, [WINDOW]."""
    return np.hamming(WINDOW).astype(np.float32)


def filters(bands: int) -> NDArray[np.float32]:
    """Returns Kaldi's triangular filters from a power spectrum to mel bands (`mel-computations.cc`).

    They are evenly spaced and straight-sided on HTK's mel scale, 1127 ln(1 + f / 700 Hz), with a peak of 1. The highest
    bin of the spectrum belongs to none.

    Args:
        bands: Number of bands.

    Returns:
        [bands, FFT // 2 + 1].
    """
    edges = np.linspace(_mel(LOWEST), _mel(SAMPLING_RATE / 2), bands + 2)
    bins = _mel(np.arange(FFT // 2 + 1) * SAMPLING_RATE / FFT)
    left, top, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((bins - left) / (top - left), (right - bins) / (right - top))
    triangles[:, -1] = 0
    return np.maximum(triangles, 0).astype(np.float32)


def _mel(hz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    mel: NDArray[np.float64] = 1127 * np.log(1 + np.asarray(hz) / 700)
    return mel


def scales(width: int) -> NDArray[np.float32]:
    """Returns the angle from one position to the next of each sine, [width / 2].

    The wavelengths grow from 2 pi to 20 000 pi tokens (arXiv 1706.03762). All steps are in float32, as in FunASR's
    SinusoidalPositionEncoder.
    """
    half = width // 2
    found: NDArray[np.float32] = np.exp(np.arange(half, dtype=np.float32) * np.float32(-math.log(10_000) / (half - 1)))
    return found


def positions(tokens: int, width: int) -> NDArray[np.float32]:
    """Returns what is added to the tokens to mark their positions, [tokens, width]: the sines, then the cosines.

    Positions count from 1.
    """
    angles = np.arange(1, tokens + 1, dtype=np.float32)[:, None] * scales(width)
    return np.concatenate([np.sin(angles), np.cos(angles)], 1)
