"""Measures how far weights of fewer bits move the answers of a checkpoint, on recordings.

    python benchmarks/quantised.py CHECKPOINT CLIP... [--dtypes q8 q4 float16 bfloat16]

Each is compared with float32, on the CPU. Probabilities (of a model of dimensions: these) are told with how much they
differ between the clips, without which a difference says little, and embeddings as the share of that.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import e2v_port
from e2v_port.config import DTYPES, QUANTISED

CLEAR = 0.02  # a label that leads the second by less may change in any rounding


def main() -> None:
    """Converts, runs and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="as for e2v convert")
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--dtypes", nargs="+", choices=[*DTYPES[1:], *QUANTISED], default=[*QUANTISED])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # /tmp may be memory
        _, exact, embeddings = answers(arguments.checkpoint, arguments.clips, "float32", folder)
        spread = np.linalg.norm(embeddings - embeddings.mean(0))
        print(
            f"{len(exact)} clips; one clip differs from another by {exact.std(0).mean():.4f} (standard deviation)\n\n"
            "| stored as | size | largest difference | mean | labels changed, of clear ones | embeddings |\n"
            "|---|---|---|---|---|---|"
        )
        for dtype in arguments.dtypes:
            size, found, moved = answers(arguments.checkpoint, arguments.clips, dtype, folder)
            away = np.abs(found - exact)
            best = np.sort(exact, axis=1)
            clear = best[:, -1] - best[:, -2] > CLEAR
            changed = int((found.argmax(1) != exact.argmax(1))[clear].sum())
            share = np.linalg.norm(moved - embeddings) / spread
            print(
                f"| {dtype} | {size:.0f} MB | {away.max():.4f} | {away.mean():.5f} | {changed} of {clear.sum()} "
                f"| {share:.3f} |",
                flush=True,
            )


def answers(
    checkpoint: str, clips: list[str], dtype: str, folder: str
) -> tuple[float, NDArray[np.float64], NDArray[np.float32]]:
    """Returns the size of the converted file in MB, probabilities or dimensions [clips, N], embeddings [clips, D]."""
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
