"""Measures how far exports to ONNX are from this package, by model and type of the weights.

    python benchmarks/onnx_parity.py [MODEL ...] [--audio FOLDER] [--dtypes float32 float16 int8]

A model is one for `e2v export`, or the size of a full-size model with random weights (base, large, audeering). Each is
exported and run with ONNX Runtime, next to the converted model on torch's CPU in float32, on the synthetic clips in
benchmarks/speech or on those of a folder. Printed is the largest difference of any number of any clip, as a part of
the largest value where that exceeds 1.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import e2v_port
from e2v_port import seam
from e2v_port.architectures.config import ModelConfig
from e2v_port.converters.synthetic import sizes
from e2v_port.errors import AudioError, E2VError
from e2v_port.export.onnx_folder import TOLERANCES, export_onnx
from e2v_port.models.convert import folder_of
from e2v_port.models.model import Model

SPEECH = Path(__file__).parent / "speech"


def main() -> None:
    """Exports the models and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["bundled", "base"])
    parser.add_argument("--audio", type=Path, default=SPEECH, help="folder of WAV and FLAC files")
    parser.add_argument("--dtypes", nargs="+", choices=[*TOLERANCES], default=[*TOLERANCES])
    arguments = parser.parse_args()
    clips = sorted(map(str, (*arguments.audio.rglob("*.flac"), *arguments.audio.rglob("*.wav"))))
    print(f"{len(clips)} clips\n\n| model | weights | size | judgements | embeddings | frames |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in arguments.models:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as work:  # /tmp may be memory
            folder = _converted(name, Path(work))
            family = ModelConfig.read(folder).family
            wanted = outputs(e2v_port.load(folder, runtime="cpu", dtype="float32"), clips)
            for dtype in arguments.dtypes:
                row = _row(folder, Path(work) / "onnx", dtype, clips, wanted)
                print(f"| {name} ({family}) | {dtype} | {row} |", flush=True)


def _converted(name: str, work: Path) -> Path:
    if name not in sizes() or Path(name).exists():
        return folder_of(name)
    seam.make_checkpoint(name, work / "checkpoint")
    return e2v_port.convert(work / "checkpoint", out=work / "model", offline=True, note=lambda _: None)


def _row(folder: Path, out: Path, dtype: str, clips: list[str], wanted: "Outputs") -> str:
    try:
        done = export_onnx(folder, out, dtype=dtype)
    except E2VError as error:
        return f"refused: {error} | | |"
    found = outputs(e2v_port.load(out, runtime="onnx"), clips)
    cells = (f"{largest(*pair):.1e}" if pair[1] else "none" for pair in zip(found, wanted, strict=True))
    return f"{done.bytes / 1e6:.1f} MB | {' | '.join(cells)}"


Outputs = tuple[list[NDArray[np.float32]], list[NDArray[np.float32]], list[NDArray[np.float32]]]


def outputs(model: Model, clips: list[str]) -> Outputs:
    """Returns probabilities or dimensions (none for a model without a head), embeddings and frames of each clip."""
    judged, embeddings, frames = [], [], []
    for result in model.each(clips, frames=True):
        if isinstance(result, AudioError):
            raise result
        output = result[1]
        assert output.frames is not None
        embeddings.append(output.embedding)
        frames.append(output.frames)
        if model.config.dimensional:
            judged.append(np.array([*model.measure(result).to_dict().values()], np.float32))
        elif model.labels:
            judged.append(np.array([*model.judge(result).scores.values()], np.float32))
    return judged, embeddings, frames


def largest(found: Sequence[NDArray[np.float32]], wanted: Sequence[NDArray[np.float32]]) -> float:
    """Returns the largest difference, as a part of the largest value where that exceeds 1."""
    scale = max(1.0, *(float(np.abs(each).max()) for each in wanted))
    return max(float(np.abs(one - other).max()) for one, other in zip(found, wanted, strict=True)) / scale


if __name__ == "__main__":
    main()
