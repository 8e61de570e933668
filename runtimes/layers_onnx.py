"""Layers that several architectures share, as nodes of an ONNX graph: what layers_torch.py is in torch.

Dimensions: B clips, S samples, T frames, C channels, D features per frame, H heads, E extra tokens.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from e2v_port.architectures.base import VARIANCE, Transformer, WaveformTransformer
from e2v_port.architectures.heads import NORM_EPS, Step

__all__ = ["Array", "Encoder", "Graph", "Network", "Value", "WaveformEncoder"]

Array = NDArray[Any]
Scalar = bool | int | float
KINDS = {"float": np.float32, "int": np.int64, "bool": np.bool_}
INT8 = 127  # largest magnitude of a packed number; -128 is not used, so that zero is in the middle


class Value:
    """A result in a graph, with the operators of an array. Numbers become constants of its own type.

    Attributes:
        graph: Graph that computes it.
        name: Name there.
        kind: `float` (float32), `int` (int64) or `bool`.
    """

    def __init__(self, graph: "Graph", name: str, kind: str) -> None:
        self.graph, self.name, self.kind = graph, name, kind

    def _with(self, operation: str, other: "Value | Scalar", kind: str = "") -> "Value":
        return self.graph.node(operation, self, self.graph.of(other, self.kind), kind=kind or self.kind)

    def __add__(self, other: "Value | Scalar") -> "Value":
        return self._with("Add", other)

    def __sub__(self, other: "Value | Scalar") -> "Value":
        return self._with("Sub", other)

    def __mul__(self, other: "Value | Scalar") -> "Value":
        return self._with("Mul", other)

    def __truediv__(self, other: "Value | Scalar") -> "Value":
        return self._with("Div", other)

    def __floordiv__(self, other: "Value | Scalar") -> "Value":
        """Divides integers; the quotient of a negative one is rounded towards zero."""
        return self._with("Div", other)

    def __matmul__(self, other: "Value") -> "Value":
        return self._with("MatMul", other)

    def __lt__(self, other: "Value | Scalar") -> "Value":
        return self._with("Less", other, "bool")

    def __le__(self, other: "Value | Scalar") -> "Value":
        return self._with("LessOrEqual", other, "bool")

    def __and__(self, other: "Value") -> "Value":
        return self._with("And", other)

    def __invert__(self) -> "Value":
        return self.graph.node("Not", self, kind="bool")

    def __neg__(self) -> "Value":
        return self.graph.node("Neg", self, kind=self.kind)

    def at_least(self, other: "Value | Scalar") -> "Value":
        return self._with("Max", other)

    def at_most(self, other: "Value | Scalar") -> "Value":
        return self._with("Min", other)

    def apply(self, function: str) -> "Value":
        """Applies a function of one argument, such as `Sqrt`."""
        return self.graph.node(function, self, kind=self.kind)

    def to(self, kind: str) -> "Value":
        code = helper.np_dtype_to_tensor_dtype(np.dtype(KINDS[kind]))
        return self if kind == self.kind else self.graph.node("Cast", self, kind=kind, to=code)

    def size(self, axis: int) -> "Value":
        """Returns the size of an axis, [1]."""
        return self.graph.node("Shape", self, kind="int", start=axis, end=axis + 1)

    def axes(self, *axes: int) -> "Value":
        """Inserts axes of size one at these places of the result."""
        return self.graph.node("Unsqueeze", self, self.graph.constant(axes), kind=self.kind)

    def without(self, axis: int) -> "Value":
        """Removes an axis of size one."""
        return self.graph.node("Squeeze", self, self.graph.constant([axis]), kind=self.kind)

    def permute(self, *order: int) -> "Value":
        return self.graph.node("Transpose", self, kind=self.kind, perm=order)

    def reshape(self, *shape: int) -> "Value":
        """Returns another shape: 0 keeps the size of the axis at that place, -1 takes what is left."""
        return self.graph.node("Reshape", self, self.graph.constant(shape), kind=self.kind)

    def cut(self, axis: int, start: "Value | int", end: "Value | int") -> "Value":
        """Returns a part of an axis."""
        bounds = [each if isinstance(each, Value) else self.graph.constant([each]) for each in (start, end)]
        return self.graph.node("Slice", self, *bounds, self.graph.constant([axis]), kind=self.kind)

    def pad(self, *pads: "Value | int") -> "Value":
        """Adds zeros at the start of every axis and at the end of every axis: all starts, then all ends."""
        parts = [each if isinstance(each, Value) else self.graph.constant([each]) for each in pads]
        return self.graph.node("Pad", self, self.graph.join(parts, 0), kind=self.kind)

    def sum(self, *axes: int) -> "Value":
        """Sums over axes, which keep a size of one; so do the two below."""
        return self._reduce("ReduceSum", axes)

    def highest(self, *axes: int) -> "Value":
        return self._reduce("ReduceMax", axes)

    def lowest(self, *axes: int) -> "Value":
        return self._reduce("ReduceMin", axes)

    def _reduce(self, operation: str, axes: Sequence[int]) -> "Value":
        return self.graph.node(operation, self, self.graph.constant(axes), kind=self.kind)


class Graph:
    """An ONNX graph as it grows.

    Args:
        read: Returns a stored tensor by name, in float32.
        packed: Names of the matrices that are stored in 8 bits.
        dtype: Type of the stored weights: `float32`, `float16` or `int8`. All arithmetic is in float32.

    Attributes:
        nodes: Nodes, in the order of the computation.
        arrays: Constants and weights by name.
        used: Names of the stored tensors that were read.
    """

    def __init__(self, read: Callable[[str], Array], packed: frozenset[str], dtype: str) -> None:
        self._read, self._packed, self._dtype = read, packed, dtype
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.nodes: list[NodeProto] = []
        self.arrays: dict[str, Array] = {}
        self.used: set[str] = set()

    def node(self, operation: str, *inputs: Value | None, kind: str, **attributes: Any) -> Value:
        """Adds a node and returns its result."""
        name = f"{operation}_{len(self.nodes)}"
        names = [each.name if each else "" for each in inputs]
        self.nodes.append(helper.make_node(operation, names, [name], name=name, **attributes))
        return Value(self, name, kind)

    def input(self, name: str, kind: str) -> Value:
        return Value(self, name, kind)

    def of(self, value: Value | Scalar, kind: str) -> Value:
        return value if isinstance(value, Value) else self.constant(np.array(value, KINDS[kind]))

    def constant(self, value: Any) -> Value:
        """Returns a constant: integers become int64, other numbers float32."""
        array = np.asarray(value)
        kind = {"i": "int", "b": "bool"}.get(array.dtype.kind, "float")
        array = np.ascontiguousarray(array, KINDS[kind]).reshape(array.shape)
        key = kind, array.shape, array.tobytes()
        if key not in self._constants:
            self._constants[key] = f"constant_{len(self._constants)}"
            self.arrays[self._constants[key]] = array
        return Value(self, self._constants[key], kind)

    def read(self, name: str) -> Array:
        """Returns a stored tensor, for arithmetic that is done once, when the graph is written."""
        self.used.add(name)
        return self._read(name)

    def weight(self, name: str, *order: int) -> Value:
        """Returns a stored tensor, with its axes in another order if one is given."""
        array = self.read(name)
        array = np.ascontiguousarray(array.transpose(order) if order else array)
        if self._dtype == "int8" and name in self._packed:
            # The axis of the outputs is the first of a stored matrix.
            return self._unpacked(name, array, order.index(0) if order else 0)
        if self._dtype == "float32" or array.ndim < 2:
            self.arrays[name] = array
            return Value(self, name, "float")
        self.arrays[name] = array.astype(np.float16)
        return self.node("Cast", Value(self, name, "float"), kind="float", to=TensorProto.FLOAT)

    def _unpacked(self, name: str, array: Array, axis: int) -> Value:
        """Stores 8 bits per number, and a scale for all that leads to one output."""
        others = tuple(each for each in range(array.ndim) if each != axis)
        scales = np.maximum(np.abs(array).max(others), np.finfo(np.float32).tiny) / np.float32(INT8)
        numbers = np.rint(array / np.expand_dims(scales, others))
        self.arrays[name], self.arrays[f"{name}.scales"] = numbers.astype(np.int8), scales.astype(np.float32)
        parts = Value(self, name, "int"), Value(self, f"{name}.scales", "float")
        return self.node("DequantizeLinear", *parts, kind="float", axis=axis)

    def join(self, values: Sequence[Value], axis: int) -> Value:
        return self.node("Concat", *values, kind=values[0].kind, axis=axis)

    def where(self, condition: Value, one: Value | Scalar, other: Value | Scalar) -> Value:
        """Returns `one` where the condition holds, else `other`; one of them may be a number."""
        kind = next(each.kind for each in (one, other) if isinstance(each, Value))
        return self.node("Where", condition, self.of(one, kind), self.of(other, kind), kind=kind)

    def count(self, start: Value | int, end: Value | int) -> Value:
        """Returns the integers from `start` to one before `end`; a Value is [1]."""
        bounds = [each.without(0) if isinstance(each, Value) else self.constant(each) for each in (start, end)]
        return self.node("Range", *bounds, self.constant(1), kind="int")

    def valid(self, lengths: Value, size: Value) -> Value:
        """Returns which of the frames belong to each clip: [B] lengths and [1] size to [B, T] booleans."""
        return self.count(0, size).axes(0) < lengths.axes(1)

    def linear(self, x: Value, name: str, *, bias: bool = True) -> Value:
        x = x @ self.weight(f"{name}.weight", 1, 0)
        return x + self.weight(f"{name}.bias") if bias else x

    def norm(self, x: Value, name: str, eps: float) -> Value:
        """Normalizes the last axis."""
        parts = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", x, *parts, kind="float", axis=-1, epsilon=eps)

    def convolve(self, x: Value, name: str, *, bias: bool, **attributes: Any) -> Value:
        """Convolves [B, C, T] or [B, C, T, F]. Stored kernels are [out, kernel, in]; ONNX has [out, in, kernel]."""
        rank = self.read(f"{name}.weight").ndim
        weight = self.weight(f"{name}.weight", 0, rank - 1, *range(1, rank - 1))
        return self.node("Conv", x, weight, self.weight(f"{name}.bias") if bias else None, kind="float", **attributes)

    def lstm(
        self, x: Value, output: Value | None, cells: Value | None, weights: Sequence[Value], size: int
    ) -> tuple[Value, Value, Value]:
        """Runs an LSTM of H = `size` over [T, B, C] from a state, each of [1, B, H]; None for zeros.

        The weights are those of inputs [1, 4 H, C] and of outputs [1, 4 H, H], and the biases of both [1, 8 H], with
        the gates in ONNX's order: input, output, forget, cells.

        Returns:
            Outputs [T, B, H], and the state after them: the last output and the cells, [1, B, H] each.
        """
        outputs = self.node("LSTM", x, *weights, None, output, cells, kind="float", hidden_size=size)
        node = self.nodes[-1]
        last, after = f"{outputs.name}_output", f"{outputs.name}_cells"
        node.output.extend([last, after])
        return outputs.without(1), Value(self, last, "float"), Value(self, after, "float")

    def spectrum(self, x: Value, window: int, step: int, shape: Array | None = None) -> Value:
        """Returns the power of each window of a shape [window], by default Hann's: [B, window // 2 + 1, T] for [B, S].

        The Fourier transform is a convolution with sines and cosines, which every provider has.
        """
        at, bins = np.arange(window), window // 2 + 1
        angles = 2 * np.pi * (np.arange(bins)[:, None] * at % window) / window
        shape = 0.5 - 0.5 * np.cos(2 * np.pi * at / window) if shape is None else shape
        waves = np.concatenate([np.cos(angles), -np.sin(angles)]) * shape
        parts = self.node("Conv", x.axes(1), self.constant(waves[:, None]), kind="float", strides=[step])
        real, imaginary = parts.cut(1, 0, bins), parts.cut(1, bins, 2 * bins)
        return real * real + imaginary * imaginary

    def decibels(self, power: Value, lowest: float, factor: float) -> Value:
        """Returns `factor` times the base-10 logarithm of a power of at least `lowest`."""
        return power.at_least(lowest).apply("Log") * (factor / math.log(10))

    def gelu(self, x: Value) -> Value:
        return x * ((x / math.sqrt(2)).apply("Erf") + 1.0) * 0.5

    def steps(self, x: Value, steps: Iterable[Step], part: str, valid: Value | None = None) -> Value:
        """Writes operations of a readout or a head, as `architectures.heads.Step` says.

        Args:
            x: Embeddings [B, C], or frames [B, T, C].
            steps: The operations.
            part: Name of the part of the model that they belong to.
            valid: Which of the frames belong to each clip, [B, T, 1]; None for embeddings.
        """
        for step in steps:
            name = f"{part}.{step.name}" if step.name else part
            if step.op == "linear":
                x = self.linear(x, name, bias=step.bias)
            elif step.op == "norm":
                x = self.norm(x, name, NORM_EPS)
            elif step.op == "clip_norm":
                assert valid is not None
                x = self.scale_clips(x, valid)
            else:
                x = self.gelu(x) if step.op == "gelu" else x.apply(step.op.capitalize())
        return x

    def scale_clips(self, x: Value, valid: Value) -> Value:
        """Scales each clip [B, T, C] to zero mean and unit variance over its frames and features together."""
        count = valid.to("float").sum(1) * x.size(2).to("float")  # [B, 1, 1]
        # One axis after the other: ONNX Runtime's sum over both loses three digits over the numbers of 60 s.
        x = x - self.where(valid, x, 0.0).sum(1).sum(2) / count
        variance = self.where(valid, x * x, 0.0).sum(1).sum(2) / count
        return x / (variance + NORM_EPS).apply("Sqrt")


class Network(ABC):
    """A network of one family, written into a graph."""

    def __init__(self, config: Any, graph: Graph) -> None:
        self.config, self.graph = config, graph

    @abstractmethod
    def forward(self, waveform: Value, samples: Value) -> tuple[Value, Value, Value]:
        """Writes the network.

        Args:
            waveform: Normalized clips, zero after each clip's end, [B, S].
            samples: Samples of each clip, [B].

        Returns:
            Frames [B, T, D], undefined after a clip's end; the number of frames of each clip, [B]; embeddings [B,
            embed_dim].
        """


class Encoder(Network):
    """The frame of every transformer: `begin`, the blocks, `finish` or a readout, and pooling.

    Attributes:
        extra: Number of tokens in front of the frames.
    """

    config: Transformer
    extra = 0

    def forward(self, waveform: Value, samples: Value) -> tuple[Value, Value, Value]:
        x, lengths, bias = self.begin(waveform, samples)
        read = self.config.readout
        layers = read.layers if read else (self.config.blocks,)
        states, last = [self.frames(x)] if 0 in layers else [], x
        for number, name in enumerate(self.blocks(), 1):
            last = self.block(last, bias, name)
            if number in layers:
                states.append(self.frames(last))
        if self.config.finished:
            states = [*states[:-1], self.finish(self.frames(last))]
        frames = self.combine(states)
        if read and read.steps:
            valid = self.graph.valid(lengths, frames.size(1)).axes(2)  # [B, T, 1]
            frames = self.graph.steps(frames, read.steps, "readout.steps", valid)
        return frames, lengths, self.pool(frames, lengths)

    @abstractmethod
    def begin(self, waveform: Value, samples: Value) -> tuple[Value, Value, Value]:
        """Returns the tokens [B, E+T, D] of the first block, the frames of each clip [B], and the bias of attention."""

    @abstractmethod
    def block(self, x: Value, bias: Value, name: str) -> Value:
        """Writes one block."""

    def blocks(self) -> list[str]:
        """Returns the names of all blocks, in order."""
        return [f"blocks.{i}" for i in range(self.config.depth)]

    def norm(self, x: Value, name: str) -> Value:
        return self.graph.norm(x, name, self.config.norm_eps)

    def frames(self, x: Value) -> Value:
        return x.cut(1, self.extra, np.iinfo(np.int64).max) if self.extra else x

    def finish(self, x: Value) -> Value:
        """Returns the frames of a model without a readout, from the last block's output for them."""
        return x

    def mask(self, valid: Value) -> Value:
        """Returns the bias of attention that hides the frames after each clip's end, [B, 1, 1, T]."""
        return self.graph.where(valid, self.graph.constant(0.0), -math.inf).axes(1, 2)

    def attention(self, x: Value, bias: Value, name: str, *, key_bias: bool = True) -> Value:
        g, heads, width = self.graph, self.config.num_heads, self.config.width
        shape = 0, 0, heads, width // heads
        q = g.linear(x, f"{name}.q_proj").reshape(*shape).permute(0, 2, 1, 3)  # [B, H, N, D/H]
        k = g.linear(x, f"{name}.k_proj", bias=key_bias).reshape(*shape).permute(0, 2, 3, 1)  # [B, H, D/H, N]
        v = g.linear(x, f"{name}.v_proj").reshape(*shape).permute(0, 2, 1, 3)
        scores = (q * (width // heads) ** -0.5) @ k + bias
        weights = g.node("Softmax", scores, kind="float", axis=-1)
        return g.linear((weights @ v).permute(0, 2, 1, 3).reshape(0, 0, width), f"{name}.out_proj")

    def mlp(self, x: Value, name: str) -> Value:
        return self.graph.linear(self.graph.gelu(self.graph.linear(x, f"{name}.fc1")), f"{name}.fc2")

    def combine(self, states: Sequence[Value]) -> Value:
        """Returns the weighted sum of the outputs of blocks; a single one unchanged."""
        if len(states) == 1:
            return states[0]
        weights = np.exp(self.graph.read("readout.weights").astype(np.float64))
        weights /= weights.sum()
        total = states[0] * float(weights[0])
        for state, weight in zip(states[1:], weights[1:], strict=True):
            total = total + state * float(weight)
        return total

    def pool(self, frames: Value, lengths: Value) -> Value:
        """Returns the embeddings [B, embed_dim] of frames [B, T, D]."""
        g, read = self.graph, self.config.readout
        kind = read.pooling if read else "mean"
        if kind == "flatten":
            flat = self.config.frames(self.config.shortest) * self.config.frame_dim
            return g.linear(frames.reshape(0, flat), "readout.flatten")
        valid = g.valid(lengths, frames.size(1)).axes(2)  # [B, T, 1]
        if read and read.heads:
            scored = g.linear(frames, "readout.scores").apply("Tanh") if kind == "statistics" else frames
            scores = g.where(valid, g.linear(scored, "readout.attention", bias=False), -math.inf)  # [B, T, heads]
            share = self.config.frame_dim // read.heads
            spread = np.repeat(np.eye(read.heads, dtype=np.float32), share, 1)  # each head's weight, for its features
            weights = g.node("Softmax", scores, kind="float", axis=1) @ g.constant(spread)  # [B, T, D]
        else:
            weights = valid.to("float") / lengths.to("float").axes(1, 2)
        x = g.where(valid, frames, 0.0)
        mean = (x * weights).sum(1)  # [B, 1, D]
        if kind == "mean":
            return mean.without(1)
        distance = x - mean
        variance = (distance * distance * weights).sum(1)
        deviation = (variance.at_least(VARIANCE) if kind == "statistics" else variance + VARIANCE).apply("Sqrt")
        return g.join([mean, deviation], 2).without(1)


class WaveformEncoder(Encoder):
    """An encoder that begins with convolutions on the waveform."""

    config: WaveformTransformer
    conv_eps: ClassVar[float] = 1e-5  # of the norms after convolutions

    def extract(
        self, waveform: Value, samples: Value, norm_of: Callable[[int], str], bias: bool
    ) -> tuple[Value, Value]:
        """Writes the convolutions on [B, S].

        Args:
            waveform: Same as for `forward`.
            samples: Same as for `forward`.
            norm_of: Returns the norm after a convolution: `layer`, `group`, or empty for none.
            bias: Whether the convolutions have a bias.

        Returns:
            [B, T, C] and the number of frames of each clip, [B].
        """
        g, lengths, x = self.graph, samples, waveform.axes(1)  # [B, C, T] between the convolutions
        for i, (_, kernel, stride) in enumerate(self.config.conv_layers):
            lengths = (lengths - kernel) // stride + 1
            name = f"conv_layers.{i}"
            x = g.convolve(x, name, bias=bias, strides=[stride])
            if norm_of(i) == "layer":
                x = g.norm(x.permute(0, 2, 1), f"{name}.norm", self.conv_eps).permute(0, 2, 1)
            elif norm_of(i):
                x = self.over_time(x, lengths, f"{name}.norm")
            x = g.gelu(x)
        return x.permute(0, 2, 1), lengths

    def over_time(self, x: Value, lengths: Value, name: str) -> Value:
        """Scales each channel of each clip [B, C, T] to zero mean and unit variance over the clip's own frames."""
        g = self.graph
        counts = lengths.to("float").axes(1, 2)
        valid = g.valid(lengths, x.size(2)).axes(1)  # [B, 1, T]
        distance = x - g.where(valid, x, 0.0).sum(2) / counts
        own = g.where(valid, distance, 0.0)
        variance = (own * own).sum(2) / counts
        gain, shift = (g.weight(f"{name}.{part}").axes(1) for part in ("weight", "bias"))
        return distance / (variance + self.conv_eps).apply("Sqrt") * gain + shift

    def positions(self, x: Value, name: str) -> Value:
        """Convolves [B, T, D] over time in groups, and keeps the length."""
        kernel, groups = self.config.conv_pos_kernel, self.config.conv_pos_groups
        pads = [kernel // 2, kernel // 2]
        y = self.graph.convolve(x.permute(0, 2, 1), name, bias=True, group=groups, pads=pads).permute(0, 2, 1)
        return y if kernel % 2 else y.cut(1, 0, x.size(1))  # an even kernel yields one frame too many
