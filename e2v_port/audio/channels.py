"""Channels of a clip: which one is used, and what happens where their mix would not sound as they do."""

from collections.abc import Iterable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio.clip import Waveform
from e2v_port.audio.notes import Note
from e2v_port.errors import AudioError

__all__ = ["SILENCE", "Channel", "Downmix", "channel_name", "channel_number"]

Channel: TypeAlias = int | Literal["mix", "left", "right"]

SILENCE = 2 / 2**15 * 1.01  # range of samples that are zero or one 16-bit step off it, as of dither
_SPAN = 0.25  # seconds that are compared at a time
_SHORT = 1e-3  # seconds averaged for the comparison, below 500 Hz, where a voice is and two microphones hear the same
# Energy of the mix over that of channels that have nothing in common. Ten stereo recordings of music and birds (560 s)
# never fall below 0.33, two microphones 34 cm apart without an echo in 1 % of speech below 0.1; inverted channels are
# at 0, at 0.06 if one is 3 dB louder, and below 0.1 in 84 % of speech if one is 0.1 ms late as well. From 0.5 on,
# neither is the case any more.
_CANCELS, _ENDS = 0.1, 0.5
_QUIET = 1e-4  # of the energy: 40 dB below the loudest, as the noise of an open line is, and no voice beside another
_SOON = 10.0  # seconds after which a channel of a stream without sound is worth a note


def channel_number(channel: int | str) -> int | None:
    """Returns the number of a channel, from 1; None for the channels mixed.

    Args:
        channel: `mix`, `left` (1), `right` (2) or a number from 1, as a number or as text.

    Raises:
        AudioError: It is none of these.
    """
    known = {"mix": None, "left": 1, "right": 2}
    if isinstance(channel, str) and channel in known:
        return known[channel]
    if isinstance(channel, str) and channel.isascii() and channel.isdecimal() and len(channel) < 4:
        channel = int(channel)
    if isinstance(channel, bool) or not isinstance(channel, int) or channel < 1:
        raise AudioError(f"channel {channel!r:.40}: pass mix, left, right or a number from 1")
    return channel


def channel_name(number: int, channels: int) -> str:
    """Returns `left` or `right` for a channel of two, `channel N` otherwise."""
    return ("left", "right")[number - 1] if channels == 2 else f"channel {number}"


class Downmix:
    """Turns the blocks [frames, channels] of a clip into one channel, and notices what that does to its sound.

    The mix is the mean of the channels. In parts where it cancels, the louder channel is used instead.

    Attributes:
        channels: Number of channels; 0 until the first block.

    Args:
        rate: Sampling rate of the blocks, in Hz.
        number: Channel to use, from 1; None for the mix.
        live: Whether the clip is still being recorded. Channels that have been silent so far are then left out of the
            mean, and silence is worth a note only after 10 s.
    """

    def __init__(self, rate: int, number: int | None, *, live: bool = False) -> None:
        self.channels = 0
        self._rate, self._number, self._live = rate, number, live
        self._frames = self._cancelled = 0
        self._taken: dict[int, None] = {}  # channels used where the mix cancels, from 0

    def _begin(self, channels: int) -> None:
        """Starts over with blocks of this many channels."""
        if self._number is not None and self._number > channels:
            has = "1 channel" if channels == 1 else f"{channels} channels"
            raise AudioError(f"no channel {self._number} in a clip of {has}: pass one that it has, or mix")
        self.channels = channels
        self._lowest, self._highest = np.full(channels, np.inf), np.full(channels, -np.inf)
        self._loudest = np.zeros(channels)  # largest mean square of a span
        self._recent = np.zeros(channels + 1)  # energy of each channel and of the mix in about the last span
        self._most = 0.0
        self._instead: int | None = None  # channel used at the moment, from 0

    def add(self, block: Waveform) -> Waveform:
        """Returns the samples [frames] of a block, in memory of their own.

        Raises:
            AudioError: The clip has no such channel.
        """
        if block.shape[1] != self.channels:
            self._begin(block.shape[1])
        self._frames += len(block)
        self._ranges(block)
        if self._number is not None or self.channels == 1:
            return block[:, (self._number or 1) - 1].copy()
        # The mean: block.mean(axis=1) takes three times as long as this, more than decoding.
        mono: Waveform = np.einsum("fc->f", block) / (self._sounding() if self._live else self.channels)
        step = max(round(_SPAN * self._rate), 1)
        for start in range(0, len(block), step):
            self._compare(block[start : start + step])
            if self._instead is not None:
                part = mono[start : start + step]
                part[:] = block[start : start + step, self._instead]
                self._cancelled += len(part)
                self._taken[self._instead] = None
        return mono

    def _ranges(self, block: Waveform) -> None:
        """Follows the range of the samples of channels that have been silent so far."""
        for i in np.flatnonzero(~(self._highest - self._lowest > SILENCE)):
            self._lowest[i] = min(self._lowest[i], block[:, i].min())
            self._highest[i] = max(self._highest[i], block[:, i].max())

    def _compare(self, part: Waveform) -> None:
        """Decides whether the channels cancel in a part of a block, from it and about as much before it."""
        rows = np.ascontiguousarray(part.T)  # sums over neighbors in memory take half the time
        squares = np.einsum("cf,cf->c", rows, rows) / len(part)
        width = max(round(_SHORT * self._rate), 1)
        short = rows[:, : len(part) // width * width].reshape(self.channels, -1, width)
        low = np.einsum("csw->sc", short) / width if short.size else part
        offset = low.mean(axis=0)
        self._loudest = np.maximum(self._loudest, squares - offset * offset)
        both = np.column_stack([low, low.mean(axis=1)]) - np.append(offset, offset.mean())
        self._recent *= 0.25 ** (len(part) / (_SPAN * self._rate))
        self._recent += np.einsum("sc,sc->c", both, both) * width
        *each, mixed = self._recent
        self._most = max(self._most, *each)
        if max(each) <= _QUIET * self._most:  # noise between words decides nothing
            return
        ratio = mixed * self.channels**2 / sum(each)
        if self._instead is None and ratio < _CANCELS:
            self._instead = int(np.argmax(each))
        elif ratio > _ENDS:
            self._instead = None

    def _sounding(self) -> int:
        """Returns the number of channels that are not silent so far; all of them if none is."""
        return int((~self.silent).sum()) or self.channels

    @property
    def silent(self) -> NDArray[np.bool_]:
        """Whether each channel is silent: its samples are equal, but for the last bit of 16, as dither is."""
        return ~(self._highest - self._lowest > SILENCE) if self.channels else np.zeros(0, bool)

    @property
    def _unheard(self) -> NDArray[np.bool_]:
        """Whether each channel of a mix is silent or 40 dB below the loudest throughout."""
        quiet: NDArray[np.bool_] = self._loudest <= _QUIET * self._loudest.max(initial=0.0)
        return self.silent | quiet

    @property
    def gain(self) -> float:
        """Factor that makes the mix as loud as the channels in which there is sound; 1 if that is all of them."""
        unheard = np.zeros(0, bool) if self._number is not None or self.channels < 2 else self._unheard
        return 1.0 if unheard.all() or self._cancelled else self.channels / int((~unheard).sum())

    @property
    def notes(self) -> list[Note]:
        """What must be known about the sound so far."""
        early = self._live and self._frames < _SOON * self._rate
        if not self.channels or (early and not self._cancelled):
            return []
        if self._number is not None or self.channels == 1:
            where = "" if self.channels == 1 else f" in channel {self._number}"
            silent = bool(self.silent[(self._number or 1) - 1])
            return [Note("silence", f"silence: no sound above the last bit{where}")] if silent else []
        if self.silent.all():
            return [Note("silence", "silence: no sound above the last bit in any channel")]
        notes = []
        if self._cancelled:
            where = f"{_named(self._taken)} used"
            if self._cancelled < self._frames:
                spent, total = self._cancelled / self._rate, self._frames / self._rate
                where += f" where they do, for {spent:.1f} of {total:.1f} s"
            notes.append(Note("channels_cancel", f"the channels cancel each other when mixed: {where}"))
        unheard = self._unheard
        if unheard.any() and not unheard.all() and not early:
            text = f"{_named(np.flatnonzero(unheard))} silent: only {_named(np.flatnonzero(~unheard))} used"
            notes.append(Note("silent_channel", text))
        return notes


def _named(channels: Iterable[int]) -> str:
    """Returns `channel 1 is` or `channels 1, 2 and 3 are`, of channels counted from 0."""
    *others, last = (str(i + 1) for i in channels)
    return f"channels {', '.join(others)} and {last} are" if others else f"channel {last} is"
