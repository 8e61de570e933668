"""Writes a model as one ONNX file: waveforms in, judgements out, for any number of clips of any lengths."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from onnx import (
    TensorProto,
    ValueInfoProto,
    checker,
    external_data_helper,
    helper,
    numpy_helper,
    save_model,
)

from e2v_port.architectures.base import Architecture
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.registry import FAMILIES
from e2v_port.audio import MAX_AMPLITUDE, MIN_SAMPLES
from e2v_port.audio.channels import SILENCE
from e2v_port.errors import E2VError

from .layers_onnx import Array, Graph, Network, Value

__all__ = ["info", "save", "write_onnx"]

LARGEST = 2**31 - 2**24  # bytes of weights inside the file: protobuf reads no message of 2 GiB
BYTES_INSIDE = 1024  # larger ones move out of a file that would be too large


def write_onnx(
    path: Path,
    config: ModelConfig,
    read: Callable[[str], Array],
    *,
    dtype: str,
    opset: int,
    metadata: dict[str, str],
) -> None:
    """Writes the file, with its weights beside it in PATH.data if they are too large for one file.

    Args:
        path: File to write.
        config: Configuration of the model.
        read: Returns a stored tensor by name, in float32.
        dtype: Type of the weights in the file: `float32`, `float16` or `int8`.
        opset: Version of ONNX's operators.
        metadata: Texts to store in the file.

    Raises:
        E2VError: There is no graph for the family.
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: The file is not valid ONNX.
    """
    architecture = config.architecture
    graph = Graph(
        read,
        frozenset(name for name, shape in architecture.tensors().items() if architecture.packable(name, shape)),
        dtype,
    )
    outputs = _model(config, graph)
    unused = set(architecture.tensors()) - graph.used
    assert not unused, f"the graph leaves out {', '.join(sorted(unused))}"
    used = sum(not label.unused for label in config.labels)
    widths: dict[str, list[Any]] = {
        "probabilities": ["batch", used],
        "logits": ["batch", used],
        "dimensions": ["batch", architecture.num_labels],
        "embedding": ["batch", architecture.embed_dim],
        "frames": ["batch", "frames", architecture.frame_dim],
        **{branch.name: ["batch", branch.rows] for branch in architecture.others},
    }
    save(
        path,
        graph,
        outputs,
        [info("waveform", ["batch", "samples"]), info("samples", ["batch"], TensorProto.INT64)],
        [info(name, widths[name]) if name in widths else info(name, ["batch"], TensorProto.INT64) for name in outputs],
        name=config.family,
        opset=opset,
        metadata=metadata,
    )


def _model(config: ModelConfig, g: Graph) -> dict[str, Value]:
    """Writes everything between the inputs and the outputs, and returns those by name."""
    architecture = config.architecture
    network = _network(config.family)(architecture, g)
    waveform, samples, void, silent = _prepared(architecture, g)
    frames, lengths, embedding = network.forward(waveform, samples)
    valid = g.valid(lengths, frames.size(1)).axes(2)
    outputs = {
        "embedding": embedding + void,
        "frames": g.where(valid, frames, 0.0) + void.axes(1),
        "lengths": lengths,
    }
    for branch in architecture.others:
        outputs[branch.name] = g.steps(embedding, branch.steps, f"head.others.{branch.name}") + void
    if not config.labels:
        return outputs
    logits = g.steps(embedding, architecture.head_steps, "head") + void
    if config.dimensional:
        return {"dimensions": logits} | outputs
    used = [row for row, label in enumerate(config.labels) if not label.unused]
    if len(used) < len(config.labels):
        logits = g.node("Gather", logits, g.constant(used), kind="float", axis=1)
    logits = g.where(silent, np.nan, logits)
    probabilities = g.node("Softmax", logits / config.temperature, kind="float", axis=1)
    return {"probabilities": probabilities, "logits": logits} | outputs


def _network(family: str) -> type[Network]:
    twin = f"e2v_port.runtimes.{family}_onnx"
    try:
        found: type[Network] = getattr(import_module(twin), FAMILIES[family].network)
    except ModuleNotFoundError as error:
        if error.name != twin:
            raise
        raise E2VError(
            f"models of the family {family} cannot be written as ONNX: there is no {family}_onnx.py"
        ) from None
    return found


def _prepared(architecture: Architecture, g: Graph) -> tuple[Value, Value, Value, Value]:
    """Writes the checks and the first steps of a model.

    Returns:
        Clips as the network takes them, [B, S]; samples of each, [B]; NaN for each clip that cannot be judged and 0
        for the others, [B, 1]; whether a clip is silent, [B, 1].
    """
    waveform, given = g.input("waveform", "float"), g.input("samples", "int")
    # The sign says whether a clip is normalized already: an input of its own would be one more for every caller.
    samples, prepared = given.apply("Abs"), given.axes(1) < 0
    valid = g.valid(samples, waveform.size(1))
    lowest, highest = g.where(valid, waveform, np.inf).lowest(1), g.where(valid, waveform, -np.inf).highest(1)
    x = g.where(valid, waveform, 0.0)
    count = samples.axes(1)  # [B, 1]
    loud = (-lowest).at_least(highest)
    # A normalized click in silence is as high as it is rare.
    limit = g.where(prepared, g.constant(np.inf), MAX_AMPLITUDE)
    fits = (-count <= -_fewest(architecture)) & (count <= waveform.size(1)) & (loud <= limit)
    total = x.sum(1)  # NaN or infinite if any sample is
    void = g.where(fits, total * 0.0, np.nan)
    if architecture.normalize:
        number = count.to("float")
        centered = g.where(valid, x - total / number, 0.0)
        scale = ((centered * centered).sum(1) / number + architecture.waveform_eps).apply("Sqrt")
        x = g.where(prepared, x, centered / scale)
    # Also where every clip is too short to be judged: the network fails on less, instead of giving NaN.
    missing = (-waveform.size(1) + max(architecture.shortest, _fewest(architecture))).at_least(0)
    x = x.pad(0, 0, 0, missing)
    if architecture.shortest:
        samples = samples.at_least(architecture.shortest)
    return x, samples, void, (highest - lowest <= SILENCE) & ~prepared


def _fewest(architecture: Architecture) -> int:
    """Returns the samples of the shortest clip that can be judged."""
    return next(count for count in range(MIN_SAMPLES, 1 << 20) if architecture.frames(count) >= 1)


def save(
    path: Path,
    graph: Graph,
    outputs: dict[str, Value],
    takes: list[ValueInfoProto],
    gives: list[ValueInfoProto],
    *,
    name: str,
    opset: int,
    metadata: dict[str, str],
) -> None:
    """Writes a finished graph, with its weights beside it in PATH.data if they are too large for one file.

    Args:
        path: File to write.
        graph: The graph; its arrays are gone afterwards.
        outputs: Results by the names they get in the file.
        takes: Names, types and shapes of the inputs.
        gives: Those of the outputs.
        name: Name of the graph.
        opset: Version of ONNX's operators.
        metadata: Texts to store in the file: `source` and `converter` among them.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: The file is not valid ONNX.
    """
    too_large = sum(array.nbytes for array in graph.arrays.values()) > LARGEST
    renamed = {value.name: name for name, value in outputs.items()}
    for node in graph.nodes:
        node.output[:] = [renamed.get(name, name) for name in node.output]
        node.input[:] = [renamed.get(name, name) for name in node.input]
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            name,
            takes,
            gives,
            [numpy_helper.from_array(graph.arrays.pop(name), name) for name in [*graph.arrays]],
            doc_string=metadata["source"],
        ),
        producer_name="e2v-port",
        producer_version=metadata["converter"].removeprefix("e2v-port "),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
    )
    helper.set_model_props(model, metadata)
    if too_large:
        external_data_helper.convert_model_to_external_data(
            model, location=f"{path.name}.data", size_threshold=BYTES_INSIDE
        )
    save_model(model, path)
    checker.check_model(path, full_check=True)  # with the shapes of all results


def info(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    """Returns name, type and shape of an input or output; sizes with the same name are equal."""
    return helper.make_tensor_value_info(name, kind, shape)
