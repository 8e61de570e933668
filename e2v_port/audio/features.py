"""The first steps of a model: normalization and mel filters."""

import math
from collections.abc import Iterable
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio.clip import SAMPLING_RATE, Waveform

__all__ = ["Moments", "mel_filters", "normalize"]


class Moments(NamedTuple):
    """Mean and variance of a clip.

    Attributes:
        samples: Number of samples.
        mean: Mean of all samples.
        variance: Biased variance of all samples.
    """

    samples: int
    mean: np.float64
    variance: np.float64

    @classmethod
    def of(cls, blocks: Iterable[Waveform]) -> Self:
        """Computes the moments of a clip from its blocks.

        Sums in float64, by the update of Chan, Golub and LeVeque (1979), which loses no digits.
        """
        samples, mean, squares = 0, np.float64(0), np.float64(0)  # squares of deviations from the mean
        for block in blocks:
            before, samples = samples, samples + len(block)
            block_mean = block.mean(dtype=np.float64)
            deviation = block - block_mean
            step = block_mean - mean
            squares += (deviation * deviation).sum() + step * step * before * len(block) / samples
            mean += step * len(block) / samples
        return cls(samples, mean, squares / samples)


def normalize(waveform: Waveform, epsilon: float, moments: Moments | None = None) -> Waveform:
    """Scales a clip to zero mean and unit variance: (x - mean) / sqrt(variance + epsilon).

    Mean and biased variance are summed in float64, so that they are the same on every runtime and for every length.

    Args:
        waveform: [samples], float32.
        epsilon: Constant added to the variance; keeps silence finite.
        moments: Moments of the whole clip, if `waveform` is a part of it.

    Returns:
        [samples], float32.
    """
    _, mean, variance = moments or Moments.of([waveform])
    normalized: Waveform = ((waveform - mean) * (1 / np.sqrt(variance + epsilon))).astype(np.float32)
    return normalized


def mel_filters(bands: int, window: int, lowest: float, highest: float) -> NDArray[np.float32]:
    """Returns triangular filters from a power spectrum to mel bands, evenly spaced on the mel scale.

    The scale is Slaney's (Auditory Toolbox, Interval Research Technical Report 1998-010): linear below 1 kHz, with
    three mel per 200 Hz; logarithmic above, with 27 mel per factor of 6.4. The area of each triangle is 1 over Hz.
    Both are the defaults of `librosa.filters.mel`.

    Args:
        bands: Number of bands.
        window: Length of the analysis window, in samples.
        lowest: Lower edge of the first band, in Hz.
        highest: Upper edge of the last band, in Hz.

    Returns:
        [bands, window // 2 + 1].
    """
    knee, below, above = 1000.0, 3 / 200, 27 / math.log(6.4)
    first, last = (hz * below if hz < knee else knee * below + above * math.log(hz / knee) for hz in (lowest, highest))
    mel = np.linspace(first, last, bands + 2)
    edges = np.where(mel < knee * below, mel / below, knee * np.exp((mel - knee * below) / above))  # Hz
    bins = np.arange(window // 2 + 1) * SAMPLING_RATE / window
    left, top, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((bins - left) / (top - left), (right - bins) / (right - top))
    filters: NDArray[np.float32] = (np.maximum(triangles, 0) * 2 / (right - left)).astype(np.float32)
    return filters
