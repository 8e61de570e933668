"""The interface of a runtime."""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import Waveform

__all__ = ["Output", "Runtime"]

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Output:
    """Outputs for one clip, all float32.

    Attributes:
        embedding: Embedding of the whole clip, [dim]; for transformers the mean of the frames, or what their readout
            makes of them.
        logits: Logit of each label, including unused ones, [labels]; None for a model without a head.
        frames: Embedding of each frame, [frames, frame_dim], one every `config.architecture.hop` samples (50 a second
            for transformers); None unless requested.
        frame_logits: Outputs of the head for each frame by itself, [frames, labels], or for the second around it where
            the embedding has deviations. The head was trained on whole clips, so these show where in a clip an emotion
            lies rather than how certain it is. None without a head, or with one that takes whole clips only.
    """

    embedding: Vector
    logits: Vector | None
    frames: Vector | None
    frame_logits: Vector | None


class Runtime(Protocol):
    """A loaded network on one device, as `Model` uses it.

    Attributes:
        batch_seconds: Seconds of audio in a batch, padding included.
        readers: Number of clips that are read at the same time, ahead of the batches; 0 to read them one by one.
    """

    batch_seconds: float
    readers: int

    @property
    def at_once(self) -> int:
        """Number of batches that run at the same time."""

    def pool(self) -> Executor:
        """Returns the `at_once` threads that run the batches of all calls."""

    def compile(self) -> bool:
        """Makes batches faster, if that takes more than loading; returns whether they are."""

    def run(self, batch: Waveform, samples: list[int], *, frames: bool) -> list[Output]:
        """Runs a batch.

        Args:
            batch: Normalized clips [B, longest], padded with zeros.
            samples: Length of each clip.
            frames: Whether the outputs include their frames.

        Returns:
            One output per clip.
        """

    def layers(self, batch: Waveform, samples: list[int]) -> list[Vector]:
        """Runs a batch through a transformer.

        Args:
            batch: Same as for `run`.
            samples: Same as for `run`.

        Returns:
            For each clip, the outputs of all blocks for its frames, raw, in order: [blocks, frames, width].
        """

    def score(self, embedding: Vector, output: str = "") -> Vector:
        """Applies the head to embeddings [..., dim]: logits [..., labels], or a further output by name."""

    def stages(self, waveform: Waveform) -> dict[str, Vector]:
        """Runs one normalized clip [samples] and returns the value of every stage by name, in order."""
