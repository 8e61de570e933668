"""silero-vad's network for 16 kHz as an ONNX graph, like e2v_port/speech/silero.py.

Dimensions: B recordings, S samples, T frames of 512 samples, H units of the LSTM.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from e2v_port.speech.silero import FRAME_SAMPLES

from .layers_onnx import Array, Graph, Value
from .onnx_graph import info, save

__all__ = ["write_vad"]

CONTEXT = 64  # samples before the frame, which the network sees too
STEP, BINS = 128, 129  # of the short-time Fourier transform: samples, frequencies
UNITS = 128
STRIDES = (1, 2, 2, 1)


def write_vad(path: Path, weights: Mapping[str, Array], *, opset: int, metadata: dict[str, str]) -> None:
    """Writes the file.

    Args:
        path: File to write.
        weights: Tensors by name, in torch's layouts, as `e2v_port.speech` reads them.
        opset: Version of ONNX's operators.
        metadata: Texts to store in the file.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: The file is not valid ONNX.
    """
    g = Graph(weights.__getitem__, frozenset(), "float32")
    x = frames(g, g.input("waveform", "float"), g.input("context", "float"))  # [B, T, 576]
    state = g.input("state", "float")
    encoded = encode(g, magnitudes(g, x.reshape(-1, CONTEXT + FRAME_SAMPLES)))  # [B T, H]
    steps = g.node("Reshape", encoded, g.join([x.size(0), x.size(1), g.constant([UNITS])], 0), kind="float")
    before = state.cut(0, 0, 1), state.cut(0, 1, 2)
    hidden, output, cells = g.lstm(steps.permute(1, 0, 2), *before, recurrent(g), UNITS)
    logits = hidden.apply("Relu").permute(1, 0, 2) @ g.constant(g.read("output.weight").reshape(UNITS, 1))
    outputs = {
        "probabilities": (logits + g.weight("output.bias")).without(2).apply("Sigmoid"),
        "next_state": g.join([output, cells], 0),
        "next_context": x.cut(1, -1, LAST).cut(2, -CONTEXT, LAST).without(1),
    }
    unused = set(weights) - g.used
    assert not unused, f"the graph leaves out {', '.join(sorted(unused))}"
    save(
        path,
        g,
        outputs,
        [
            info("waveform", ["batch", "samples"]),
            info("state", [2, "batch", UNITS]),
            info("context", ["batch", CONTEXT]),
        ],
        [
            info("probabilities", ["batch", "frames"]),
            info("next_state", [2, "batch", UNITS]),
            info("next_context", ["batch", CONTEXT]),
        ],
        name="silero",
        opset=opset,
        metadata=metadata,
    )


def recurrent(g: Graph) -> list[Value]:
    """Returns the weights of the LSTM as ONNX has them; they are stored as torch has them."""

    def gates(part: str) -> Array:
        entry, forget, new, out = np.split(g.read(f"lstm.{part}"), 4)
        return np.concatenate([entry, out, forget, new])

    biases = np.concatenate([gates("bias_ih"), gates("bias_hh")])
    return [g.constant(part[None]) for part in (gates("weight_ih"), gates("weight_hh"), biases)]


LAST = 2**63 - 1  # as the end of a cut: all that follows


def frames(g: Graph, waveform: Value, context: Value) -> Value:
    """Writes each frame of waveforms [B, S] after the 64 samples before it, [B, T, 576]; the last is filled up."""
    missing = -waveform.size(1) + (waveform.size(1) + (FRAME_SAMPLES - 1)) // FRAME_SAMPLES * FRAME_SAMPLES
    own = waveform.pad(0, 0, 0, missing).reshape(0, -1, FRAME_SAMPLES)
    before = g.join([context.axes(1), own.cut(1, 0, -1).cut(2, -CONTEXT, LAST)], 1)
    return g.join([before, own], 2)


def magnitudes(g: Graph, x: Value) -> Value:
    """Writes the spectra of the four windows of each frame, [N, 576] -> [N, 129, 4]."""
    size = CONTEXT + FRAME_SAMPLES
    mirrored = g.node("Gather", x, g.constant([*range(size - 2, size - 2 - CONTEXT, -1)]), kind="float", axis=1)
    waves = g.node("Conv", g.join([x, mirrored], 1).axes(1), g.weight("stft"), kind="float", strides=[STEP])
    real, imaginary = waves.cut(1, 0, BINS), waves.cut(1, BINS, 2 * BINS)
    return (real * real + imaginary * imaginary).apply("Sqrt")


def encode(g: Graph, x: Value) -> Value:
    """Writes the convolutions, of which a single column is left, [N, 129, 4] -> [N, H]."""
    for i, stride in enumerate(STRIDES):
        weight, bias = g.weight(f"conv{i}.weight"), g.weight(f"conv{i}.bias")
        x = g.node("Conv", x, weight, bias, kind="float", strides=[stride], pads=[1, 1]).apply("Relu")
    return x.without(2)
