"""Blocks of any sampling rate and number of channels -> checked mono blocks at 16 kHz."""

from typing import Any

import numpy as np
import soxr
from numpy.ma import is_masked  # here: a lazy import would hold a lock when another thread forks
from numpy.typing import NDArray

from e2v_port.audio.channels import Downmix
from e2v_port.audio.clip import MAX_AMPLITUDE, MAX_CHANNELS, MIN_SAMPLES, SAMPLING_RATE, Waveform
from e2v_port.errors import AudioError, quoted

__all__ = ["Mixer", "check_dtype", "check_rate", "check_size", "to_float"]

# Each limit lies beyond any recording of speech and bounds the work that a false header can cause.
_RATES = (1_000, 768_000)  # Hz; at 1 Hz, 500 samples would become 8 million
_MAX_SECONDS = 6 * 3600  # 1.4 GB as a waveform; a FLAC file of 7 MB can hold more

_FULL_SCALE = {"i1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31, "u1": 2.0**7}


def check_rate(rate: Any) -> int:
    """Returns a sampling rate as an int, whose products cannot overflow as those of numpy's do.

    Raises:
        AudioError: It is no whole number, or outside 1 to 768 kHz.
    """
    try:
        whole = int(rate) if int(rate) == rate else None
    except (TypeError, ValueError, OverflowError):  # of a list, of "8k" or NaN, of infinity
        whole = None
    if whole is None:
        raise AudioError(f"a rate of {quoted(rate)}: pass a whole number of Hz, as in sampling_rate=16000")
    check_size(whole, 1, 0)
    return whole


def check_dtype(array: Any) -> NDArray[Any]:
    """Returns samples as a plain array.

    Raises:
        AudioError: They are no array, partly masked, or of a type without a known full scale.
    """
    if not isinstance(array, np.ndarray):
        raise AudioError(
            f"samples as a {type(array).__name__}: pass a numpy array, as np.asarray(list), "
            "tensor.detach().cpu().numpy() or np.frombuffer(bytes, 'int16') return it"
        )
    if is_masked(array):
        raise AudioError("masked samples: replace them, as in array.filled(0), or cut them out")
    if array.dtype.kind != "f" and array.dtype.str[1:] not in _FULL_SCALE:
        raise AudioError(f"{array.dtype} samples: pass floats in [-1, 1], int8, int16, int32 or uint8")
    return np.asarray(array)


def check_size(rate: int, channels: int, frames: int) -> None:
    """Raises AudioError for a rate, a number of channels or a length beyond the limits."""
    if not _RATES[0] <= rate <= _RATES[1]:
        raise AudioError(f"a rate of {quoted(rate)} Hz is outside {_RATES[0]} to {_RATES[1]} Hz: pass the true one")
    if channels > MAX_CHANNELS:
        raise AudioError(f"{channels} channels are more than {MAX_CHANNELS}: mix them down or pick some")
    if frames > _MAX_SECONDS * rate:
        raise AudioError(f"longer than {_MAX_SECONDS // 3600} hours: cut it into parts")


def to_float(block: NDArray[Any]) -> Waveform:
    """Scales samples of any accepted type to full scale 1."""
    if block.dtype == np.float32:
        return block
    kind = block.dtype.str[1:]
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which is refused later
        floats = block.astype(np.float32)
    if kind == "u1":
        floats -= 128
    return floats / np.float32(_FULL_SCALE.get(kind, 1))


class Mixer:
    """Checks, mixes down and resamples the blocks [frames, channels] of a clip, of at least one frame each.

    Attributes:
        rate: Sampling rate of the blocks, in Hz.
        frames: Number of frames added so far.
        downmix: Choice of the channel, and what it has noticed.

    Args:
        rate: Sampling rate of the blocks, in Hz.
        channel: Channel to use, from 1; None for the mean of all.
        resample: Whether to resample to 16 kHz.
        live: Whether the clip is still being recorded, see `Downmix`.
    """

    def __init__(self, rate: int, channel: int | None = None, *, resample: bool = True, live: bool = False) -> None:
        self.rate, self.frames, self._samples = rate, 0, 0
        self.downmix = Downmix(rate, channel, live=live)
        unchanged = rate == SAMPLING_RATE or not resample
        self._resample = resample
        self._stream = None if unchanged else soxr.ResampleStream(rate, SAMPLING_RATE, 1, "float32", "HQ")

    def add(self, block: Waveform) -> Waveform:
        """Returns the samples that a block [frames, channels] adds; the resampler holds a few milliseconds back.

        Raises:
            AudioError: The block has samples that are not finite, or beyond 100 times full scale, or no channel of
                this number. It is not added. Or with it, the clip is longer than 6 hours.
        """
        peak = max(abs(float(block.min())), abs(float(block.max())))  # NaN if any sample is
        if not peak <= MAX_AMPLITUDE:
            where = f"between {self.frames / self.rate:.1f} and {(self.frames + len(block)) / self.rate:.1f} s"
            if np.isfinite(peak):
                raise AudioError(f"samples up to {peak:.3g} {where}: full scale is 1, so divide by theirs")
            raise AudioError(f"samples that are not finite (NaN or infinity) {where}: cut or repair it")
        mono = self.downmix.add(block)
        self.frames += len(block)
        return self._counted(self._stream.resample_chunk(mono) if self._stream else mono)

    def finish(self) -> Waveform:
        """Returns the samples that the resampler held back."""
        rest = np.empty(0, np.float32)
        return self._counted(self._stream.resample_chunk(rest, last=True) if self._stream else rest)

    def _counted(self, part: Waveform) -> Waveform:
        self._samples += len(part)
        return part

    def check_length(self) -> None:
        """Raises AudioError for a clip that has ended and is shorter than 25 ms."""
        # When resampled, it is the number that soxr would return.
        samples = self._samples if self._resample else round(self._samples * SAMPLING_RATE / self.rate)
        if samples < MIN_SAMPLES:
            raise AudioError(
                f"too short at {samples / 16:.1f} ms ({samples} samples at 16 kHz): "
                f"pass at least {MIN_SAMPLES / 16:.0f} ms ({MIN_SAMPLES} samples)"
            )
