"""Measures how much quantization changes the answers of a checkpoint, on recordings.

    python benchmarks/quantized.py CHECKPOINT CLIP... [--dtypes q8 q4 float16 bfloat16]

Each type is compared with float32, on the CPU. For scale, the standard deviation of the probabilities (or dimensions)
across the clips is printed; changes of embeddings are relative to their spread across the clips.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import e2v_port
from e2v_port.architectures.config import DTYPES
from e2v_port.architectures.quantization import QUANTIZED

CLEAR = 0.02  # a smaller lead of the best label may be lost to rounding


def main() -> None:
    """Converts the checkpoint, runs the clips and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="checkpoint as for e2v convert")
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--dtypes", nargs="+", choices=[*DTYPES[1:], *QUANTIZED], default=[*QUANTIZED])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # /tmp may be memory
        _, exact, embeddings = answers(arguments.checkpoint, arguments.clips, "float32", folder)
        spread = np.linalg.norm(embeddings - embeddings.mean(0))
        print(
            f"{len(exact)} clips; standard deviation across clips {exact.std(0).mean():.4f}\n\n"
            "| stored as | size | largest difference | mean | labels changed, of the clear ones | embeddings |\n"
            "|---|---|---|---|---|---|"
        )
        for dtype in arguments.dtypes:
            size, results, moved = answers(arguments.checkpoint, arguments.clips, dtype, folder)
            changes = np.abs(results - exact)
            best = np.sort(exact, axis=1)
            clear = best[:, -1] - best[:, -2] > CLEAR
            changed = int((results.argmax(1) != exact.argmax(1))[clear].sum())
            share = np.linalg.norm(moved - embeddings) / spread
            print(
                f"| {dtype} | {size:.0f} MB | {changes.max():.4f} | {changes.mean():.5f} | {changed} of {clear.sum()} "
                f"| {share:.3f} |",
                flush=True,
            )


def answers(
    checkpoint: str, clips: list[str], dtype: str, folder: str
) -> tuple[float, NDArray[np.float64], NDArray[np.float32]]:
    """Returns the size of the converted file in MB, the probabilities or dimensions [clips, N] and the embeddings."""
    converted = e2v_port.convert(checkpoint, dtype=dtype, out=Path(folder) / dtype, note=lambda _: None)
    model = e2v_port.load(converted, runtime="cpu")
    results: list[Any] = [*model.each(clips)]
    if model.config.dimensional:
        rows = [[*model.measure(result).to_dict().values()] for result in results]
    else:
        rows = [[*model.judge(result).scores.values()] for result in results]
    size = (converted / "model.safetensors").stat().st_size / 1e6
    return size, np.array(rows), np.array([output.embedding for _, output in results])


if __name__ == "__main__":
    main()
