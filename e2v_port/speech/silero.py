"""Speech probabilities, from silero-vad's network."""

from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from e2v_port.audio import Waveform
from e2v_port.host import fork_safe_lock, own_settings
from e2v_port.speech.level import Gain
from e2v_port.speech.silero_weights import read_weights

if TYPE_CHECKING:
    import torch

    State: TypeAlias = tuple[torch.Tensor, torch.Tensor]

__all__ = ["FRAME_SAMPLES", "SpeechProbabilities", "speech_probabilities"]

FRAME_SAMPLES = 512  # 32 ms: the frame that silero judges
_CONTEXT = 64  # samples before the frame, which silero sees too
_BLOCK = 512 * FRAME_SAMPLES  # samples run at once: 16 s, so that memory does not grow with the clip

_HOP, _BINS = 128, 129  # of the short-time Fourier transform: samples, frequencies
_STRIDES = (1, 2, 2, 1)  # of the convolutions
_HIDDEN = 128  # units of the LSTM


def speech_probabilities(waveform: Waveform, max_gain: float = 0.0) -> NDArray[np.float32]:
    """Computes the probability of speech in each frame, with silero-vad on the CPU.

    Takes about 1 ms per second of audio, and memory for 16 s at a time. May be called from several threads at once.

    silero does not hear quiet speech, so frames that `Gain` raises are heard a second time, raised, and that answer
    counts. All others have the answers that they have without any gain.

    Args:
        waveform: [samples], float32, 16 kHz.
        max_gain: Most that quiet sound is raised, in dB; 0 for silero's own answers.

    Returns:
        [ceil(samples / 512)], float32, 0 to 1: frame i begins at sample 512 i; the last one is padded with zeros.

    Raises:
        E2VError: The weights of silero-vad are missing or not those of a known version.
    """
    source = SpeechProbabilities(max_gain)
    blocks = (waveform[at : at + _BLOCK] for at in range(0, len(waveform), _BLOCK))
    return np.concatenate([np.empty(0, np.float32), *map(source.push, blocks)])


class SpeechProbabilities:
    """The results of `speech_probabilities` for a waveform that arrives in parts.

    The length of the parts may change the last bits: probabilities differ by less than 1e-4.

    Args:
        max_gain: Most that quiet sound is raised, in dB.

    Raises:
        E2VError: The weights of silero-vad are missing or not those of a known version.
    """

    def __init__(self, max_gain: float = 0.0) -> None:
        self._network = _network()
        self._gain = Gain(max_gain)
        self._context = np.zeros(_CONTEXT, np.float32)
        self._state: State | None = None
        self._raised: State | None = None  # after the frames that were raised

    def push(self, waveform: Waveform) -> NDArray[np.float32]:
        """Adds the next part.

        Args:
            waveform: [samples], float32, 16 kHz; whole frames of 512 samples, except for the last part, which is
                padded with zeros.

        Returns:
            [ceil(samples / 512)], float32, 0 to 1.
        """
        samples = np.concatenate([self._context, waveform, np.zeros(-len(waveform) % FRAME_SAMPLES, np.float32)])
        self._context = samples[-_CONTEXT:]
        frames = sliding_window_view(samples, _CONTEXT + FRAME_SAMPLES)[::FRAME_SAMPLES]
        probabilities, self._state = self._network.probabilities(frames, self._state)
        factors = self._gain.push(frames[:, _CONTEXT:])
        quiet = factors > 1
        if quiet.any():
            raised = frames[quiet] * factors[quiet, None]
            heard, self._raised = self._network.probabilities(raised, self._raised)
            probabilities[quiet] = np.maximum(probabilities[quiet], heard)
        return probabilities


_loading = fork_safe_lock()


def _network() -> "_Network":
    with _loading:
        return _Network.load()


class _Network:
    """silero-vad's network for 16 kHz.

    silero's own code runs one frame at a time and keeps a state between calls. Here all frames of a block run at once,
    which is ten times as fast and needs no lock.
    """

    def __init__(self) -> None:
        import torch

        with own_settings(inference=False):
            self._weights = {name: torch.from_numpy(array) for name, array in read_weights().items()}
            # On "meta" no random numbers are drawn, so that the caller's seed stays as it was.
            self._lstm = torch.nn.LSTM(_HIDDEN, _HIDDEN, device="meta")
            lstm = {f"{name[5:]}_l0": tensor for name, tensor in self._weights.items() if name.startswith("lstm.")}
            self._lstm.load_state_dict(lstm, assign=True)

    @classmethod
    @cache
    def load(cls) -> "_Network":
        return cls()

    def probabilities(self, frames: NDArray[np.float32], state: "State | None") -> "tuple[NDArray[np.float32], State]":
        """Runs the network from a state.

        Args:
            frames: [frames, 576]: 64 samples of context, then the frame.
            state: State after the frames before; None at the start.

        Returns:
            Probabilities [frames], and the state after them.
        """
        import torch
        from torch.nn import functional

        weights = self._weights
        with own_settings():
            padded = functional.pad(torch.tensor(frames), (0, _CONTEXT), mode="reflect")[:, None]  # [T, 1, 640]
            spectrum = functional.conv1d(padded, weights["stft"], stride=_HOP)  # [T, 258, 4]
            x = torch.sqrt(spectrum[:, :_BINS] ** 2 + spectrum[:, _BINS:] ** 2)  # [T, 129, 4]
            for i, stride in enumerate(_STRIDES):
                x = functional.conv1d(x, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], stride, padding=1)
                x = functional.relu(x)
            hidden, state = self._lstm(x.squeeze(-1), state)  # [T, 128]
            output = weights["output.weight"].squeeze(-1), weights["output.bias"]
            return torch.sigmoid(functional.linear(functional.relu(hidden), *output))[:, 0].numpy(), state
