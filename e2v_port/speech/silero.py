"""Speech probabilities, from silero-vad's network."""

from functools import cache
from importlib.resources import files
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from e2v_port.audio import Waveform
from e2v_port.errors import E2VError
from e2v_port.host import fork_safe_lock
from e2v_port.speech.level import Gain

__all__ = ["FRAME_SAMPLES", "TENSORS", "SpeechProbabilities", "read_weights", "speech_probabilities"]

Array: TypeAlias = NDArray[np.float32]
State: TypeAlias = tuple[Array, Array]  # of the LSTM: output and cells

FRAME_SAMPLES = 512  # 32 ms: the frame that silero judges
_CONTEXT = 64  # samples before the frame, which silero sees too
_BLOCK = 512 * FRAME_SAMPLES  # samples run at once: 16 s, so that memory does not grow with the clip

_WINDOW, _HOP, _BINS = 256, 128, 129  # of the short-time Fourier transform: samples, samples, frequencies
_HIDDEN = 128  # units of the LSTM
_CHANNELS = (_BINS, 128, 64, 64, _HIDDEN)  # before, between and after the convolutions, each over 3 windows

TENSORS: dict[str, tuple[int, ...]] = {
    "stft": (2 * _BINS, 1, _WINDOW),
    **{f"conv{i}.weight": (_CHANNELS[i + 1], _CHANNELS[i], 3) for i in range(4)},
    **{f"conv{i}.bias": (_CHANNELS[i + 1],) for i in range(4)},
    **{f"lstm.weight_{kind}": (4 * _HIDDEN, _HIDDEN) for kind in ("ih", "hh")},
    **{f"lstm.bias_{kind}": (4 * _HIDDEN,) for kind in ("ih", "hh")},
    "output.weight": (1, _HIDDEN, 1),
    "output.bias": (1,),
}
"""Names and shapes in weights/silero/model.safetensors, all of float32."""

# BLAS shares large products among all cores, which then wait for each other, at worst for those that other threads
# use. So products are made in pieces that it computes on one core; they take hardly longer.
_TILE = 8  # frames in a product
_LARGEST = (1 << 19) - 1  # multiplications in a product of matrices
_ROWS = 64  # of a matrix of 128 columns in a product with a vector


def speech_probabilities(waveform: Waveform, max_gain: float = 0.0) -> NDArray[np.float32]:
    """Computes the probability of speech in each frame, with silero-vad's network, in numpy and on one core.

    Takes 1 to 2 ms per second of audio, and memory for 16 s at a time. May be called from several threads at once.

    silero does not hear quiet speech, so frames that `Gain` raises are heard a second time, raised, and that answer
    counts. All others have the answers that they have without any gain.

    Args:
        waveform: [samples], float32, 16 kHz.
        max_gain: Most that quiet sound is raised, in dB; 0 for silero's own answers.

    Returns:
        [ceil(samples / 512)], float32, 0 to 1: frame i begins at sample 512 i; the last one is padded with zeros.

    Raises:
        E2VError: The package's copy of the weights is missing or damaged.
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
        E2VError: The package's copy of the weights is missing or damaged.
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


def read_weights() -> dict[str, Array]:
    """Reads weights/silero/model.safetensors.

    Returns:
        The arrays of `TENSORS`.

    Raises:
        E2VError: The file is missing, damaged or another one.
    """
    path = files("e2v_port.weights").joinpath("silero", "model.safetensors")
    try:
        found: dict[str, Array] = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise E2VError(f"{path} cannot be read ({error}): install e2v-port again") from error
    if {name: array.shape for name, array in found.items()} != TENSORS:
        raise E2VError(f"{path} is not the file that converters/silero.py writes: install e2v-port again")
    return found


class _Network:
    """silero-vad's network for 16 kHz, in numpy.

    silero's own code runs one frame at a time and keeps a state between calls. Here all frames of a block run at once,
    apart from the recurrent half of the LSTM, on one core and without a lock.
    """

    def __init__(self) -> None:
        weights = read_weights()
        taps = [weights[f"conv{i}.weight"].transpose(2, 1, 0) for i in range(4)]  # [3, channels in, channels out]
        self._stft = _pieces(weights["stft"][:, 0].T, 4)
        self._first = _pieces(np.concatenate(taps[0], axis=1), 4)
        self._second = _pieces(np.concatenate(taps[1]), 2)
        # The third sees padding to its left, the fourth on both sides.
        self._third = _pieces(np.concatenate(taps[2][1:]), 1)
        self._fourth = _pieces(taps[3][1], 1)
        self._biases = [weights[f"conv{i}.bias"] for i in range(4)]
        self._input = _pieces(_gates(weights["lstm.weight_ih"]).T, 1)
        self._input_bias = _gates(weights["lstm.bias_ih"] + weights["lstm.bias_hh"])
        self._recurrent = _gates(weights["lstm.weight_hh"]).reshape(-1, _ROWS, _HIDDEN)
        self._output, self._output_bias = weights["output.weight"].reshape(_HIDDEN), weights["output.bias"]

    @classmethod
    @cache
    def load(cls) -> "_Network":
        return cls()

    def probabilities(self, frames: Array, state: State | None) -> tuple[Array, State]:
        """Runs the network from a state.

        Args:
            frames: [frames, 576]: 64 samples of context, then the frame.
            state: State after the frames before; None at the start.

        Returns:
            Probabilities [frames], and the state after them.
        """
        with np.errstate(under="ignore"):  # a host program may have numpy raise
            encoded = self._encode(self._magnitudes(frames))[: len(frames)]
            hidden, state = self._lstm(encoded, state)
            logits = np.einsum("th,h->t", np.maximum(hidden, 0), self._output) + self._output_bias
            return _sigmoid(logits), state

    def _magnitudes(self, frames: Array) -> Array:
        """Returns the spectra of the four windows of each frame, of silence to fill the last tile: [frames, 4, 129]."""
        count = len(frames)
        padded = np.zeros((count + -count % _TILE, _CONTEXT + FRAME_SAMPLES + _CONTEXT), np.float32)
        padded[:count, :-_CONTEXT] = frames
        padded[:count, -_CONTEXT:] = frames[:, -2 : -2 - _CONTEXT : -1]  # reflected
        windows = sliding_window_view(padded, _WINDOW, axis=1)[:, ::_HOP]
        squares = np.square(_product(windows, self._stft))
        magnitudes: Array = np.sqrt(squares[..., :_BINS] + squares[..., _BINS:])
        return magnitudes

    def _encode(self, magnitudes: Array) -> Array:
        """Runs the convolutions and the half of the LSTM that is not recurrent: [frames, 512]."""
        count, length, _ = magnitudes.shape
        # Stride 1: the products of all positions with all taps are added where they belong.
        before, at, after = np.moveaxis(_product(magnitudes, self._first).reshape(count, length, 3, -1), 2, 0)
        padded = np.zeros((count, 1 + length, at.shape[-1]), np.float32)  # on the left, for the second convolution
        x = np.add(at, self._biases[0], out=padded[:, 1:])
        x[:, 1:] += before[:, :-1]
        x[:, :-1] += after[:, 1:]
        np.maximum(x, 0, out=x)
        # Stride 2, of positions that lie one after the other in memory.
        width = at.shape[-1]
        x = sliding_window_view(padded.reshape(count, -1), 3 * width, axis=1)[:, :: 2 * width]
        for matrix, bias in zip((self._second, self._third, self._fourth), self._biases[1:], strict=True):
            x = _product(x, matrix)
            x += bias
            x = np.maximum(x, 0, out=x).reshape(count, 1, -1)
        return (_product(x, self._input) + self._input_bias)[:, 0]

    def _lstm(self, encoded: Array, state: State | None) -> tuple[Array, State]:
        """Runs the recurrent half of the LSTM, and returns its outputs [frames, 128] and the state after them."""
        hidden = np.empty((len(encoded), _HIDDEN), np.float32)
        # Rows: the output, input and forget gates, what is added to the cells, and the cells.
        table = np.zeros((5, _HIDDEN), np.float32)
        gates, sums, cells = table[:3], table[:4].reshape(-1), table[4]
        products = table[:4].reshape(-1, _ROWS)
        output = np.zeros(_HIDDEN, np.float32)
        if state:
            output, cells[:] = state
        for row, result in zip(encoded, hidden, strict=True):
            np.matmul(self._recurrent, output, out=products)
            np.add(sums, row, out=sums)
            np.tanh(sums, out=sums)
            _from_tanh(gates)
            new, old = table[1:3] * table[3:]
            np.add(new, old, out=cells)
            output = np.multiply(gates[0], np.tanh(cells), out=result)
        return hidden, (output.copy(), cells.copy())


def _sigmoid(x: Array) -> Array:
    return _from_tanh(np.tanh(x / 2))


def _from_tanh(x: Array) -> Array:
    """Turns tanh(x / 2) into the sigmoid of x, in place."""
    x *= 0.5
    x += 0.5
    return x


def _gates(rows: Array) -> Array:
    """Returns rows of an LSTM's parameters in the order of `_lstm`; those of sigmoids are halved, for `_from_tanh`."""
    entry, forget, cells, output = np.split(rows, 4)
    return np.concatenate([output / 2, entry / 2, forget / 2, cells])


def _pieces(matrix: Array, rows: int) -> Array:
    """Cuts a matrix [in, out] into the fewest equal pieces for `_product`, where a frame has that many rows."""
    inputs, outputs = matrix.shape
    fitting = (n for n in range(1, outputs + 1) if outputs % n == 0 and _TILE * rows * matrix.size // n <= _LARGEST)
    return np.ascontiguousarray(matrix.reshape(inputs, next(fitting), -1).swapaxes(0, 1))


def _product(x: Array, pieces: Array) -> Array:
    """Multiplies rows [frames, rows, in] of whole tiles with a matrix: [frames, rows, out]."""
    frames, rows, inputs = x.shape
    count, _, width = pieces.shape
    product = np.empty((frames // _TILE, _TILE * rows, count, width), np.float32)
    np.matmul(x.reshape(-1, 1, _TILE * rows, inputs), pieces, out=product.swapaxes(1, 2))
    return product.reshape(frames, rows, count * width)
