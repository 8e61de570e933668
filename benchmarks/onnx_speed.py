"""Measures ONNX Runtime beside torch, numpy and FunASR's own export, in one run.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/onnx_speed.py [--model MODEL] [--rounds 5]

A model is one for `e2v export`, or the size of a full-size model with random weights; by default emotion2vec base. All
run the same clips from memory, on one thread, in turns whose order is reversed each round: one clip of 4 s, 8 clips of
4 s, and 12 clips of 1 to 8 s. Printed are medians, and how many times as fast as torch each is. FunASR's export takes
clips of one length, so it runs a mixed batch clip by clip; it needs onnxscript (pip install onnxscript), and is left
out with a line where it cannot be made.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import e2v_port
from e2v_port import seam
from e2v_port.architectures.config import ModelConfig
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.bench.timing import ratio, take_turns
from e2v_port.converters.synthetic import sizes
from e2v_port.errors import E2VError
from e2v_port.export.onnx_folder import export_onnx
from e2v_port.models.convert import folder_of
from e2v_port.models.model import Model
from e2v_port.quiet import quiet

SPEECH = Path(__file__).parent / "speech"
Run = Callable[[list[Waveform]], object]


def main() -> None:
    """Exports the model, times all contenders and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="base")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1" or os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        sys.exit("set OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1: all are measured on one thread")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as work:  # /tmp may be memory
        contenders = _contenders(arguments.model, Path(work))
        print("| clips | runtime | seconds | times torch |\n|---|---|---|---|")
        for title, clips in _clips().items():
            tasks = {name: partial(run, clips) for name, run in contenders.items()}
            take_turns(tasks, 1)
            seconds = take_turns(tasks, arguments.rounds)
            for contender, times in seconds.items():
                faster = ratio(times, seconds["torch"])
                print(f"| {title} | {contender} | {statistics.median(times):.3f} | {faster:.2f} |", flush=True)


def _clips() -> dict[str, list[Waveform]]:
    pool = np.concatenate([load_audio(file) for file in sorted(SPEECH.glob("*.flac"))])
    draw = np.random.default_rng(0)

    def cut(seconds: float) -> Waveform:
        return np.roll(pool, -int(draw.integers(len(pool))))[: round(seconds * SAMPLING_RATE)]

    return {
        "one of 4 s": [cut(4)],
        "8 of 4 s": [cut(4) for _ in range(8)],
        "12 of 1 to 8 s": [cut(seconds) for seconds in draw.uniform(1, 8, 12)],
    }


def _contenders(name: str, work: Path) -> dict[str, Run]:
    checkpoint = work / "checkpoint"
    made = name in sizes() and not Path(name).exists()
    if made:
        seam.make_checkpoint(name, checkpoint)
        folder = e2v_port.convert(checkpoint, out=work / "model", offline=True, note=lambda _: None)
    else:
        folder = folder_of(name)
    found: dict[str, Run] = {
        "torch": _run(e2v_port.load(folder, runtime="cpu", dtype="float32")),
        "numpy": _run(e2v_port.load(folder, runtime="numpy")),
    }
    for dtype in ("float32", "int8"):
        try:
            export_onnx(folder, work / dtype, dtype=dtype)
        except E2VError as error:
            print(f"ONNX Runtime, {dtype}: left out: {error}")
        else:
            found[f"ONNX Runtime, {dtype}"] = _run(e2v_port.load(work / dtype, runtime="onnx"))
    if made and ModelConfig.read(folder).family == "emotion2vec":
        try:
            found["ONNX Runtime, FunASR's export"] = _funasr(checkpoint, work / "funasr")
        except Exception as error:  # of FunASR, torch's exporter or ONNX Runtime
            print(f"FunASR's export: left out: {' '.join(str(error).split())[:200]}")
    return found


def _run(model: Model) -> Run:
    return lambda clips: [*model.each(clips, SAMPLING_RATE)]


def _funasr(checkpoint: Path, out: Path) -> Run:
    """Exports a checkpoint with FunASR: normalized frames of clips of one length, without pooling and head."""
    from onnxruntime import InferenceSession, SessionOptions

    with quiet():
        from funasr import AutoModel

        model: Any = AutoModel(model=str(checkpoint), disable_update=True, device="cpu")
        model.export(type="onnx", quantize=False, output_dir=str(out))
    file = out / "emotion2vec"  # without a suffix; its weights are in emotion2vec.data
    options = SessionOptions()
    options.intra_op_num_threads = 1
    session = InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(clips: list[Waveform]) -> object:
        if len({len(clip) for clip in clips}) == 1:
            return session.run(None, {given.name: np.stack(clips)})
        return [session.run(None, {given.name: clip[None]}) for clip in clips]

    run([np.zeros(32_000, np.float32)])  # other lengths than the one it was traced with
    return run


if __name__ == "__main__":
    main()
