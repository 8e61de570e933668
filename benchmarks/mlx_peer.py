"""Measures MLX beside funasr-mlx, which runs FunASR's emotion2vec on it: one command for a Mac.

    pip install ".[torch]" funasr-mlx && python benchmarks/mlx_peer.py --out FOLDER

Both run the size of plus_large, with random weights, on MLX's default device: Metal on a Mac; on Linux a CPU, where
`LD_PRELOAD=libopenblas.so.0` belongs before the command. This package runs in float32, as its peer does, and on a GPU
also in float16, which MLX multiplies very slowly on a CPU. FOLDER gets bench.json and bench.md, as from `e2v bench
--out`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx

from e2v_port.bench import funasr_mlx, measure, report
from e2v_port.bench.plan import Plan


def main() -> None:
    """Measures, prints the report and writes it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="folder for bench.json and bench.md")
    parser.add_argument("--seconds", type=float, default=120.0, help="total length of the clips (default: 120)")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions, in turns (default: 5)")
    parser.add_argument("--size", default="large", help="large, the size of plus_large, or base (default: large)")
    arguments = parser.parse_args()
    if not funasr_mlx.installed():
        sys.exit("error: funasr-mlx is not installed: pip install funasr-mlx")
    dtypes = ("float32", "float16") if mx.default_device().type == mx.DeviceType.gpu else ("float32",)
    plan = Plan(arguments.seconds, arguments.rounds, (60,), (1, 10), (arguments.size,))
    result: dict[str, Any] = {}
    for result in measure.bench(runtime="mlx", dtypes=dtypes, plan=plan, note=note):
        result["command"] = f"python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}".strip()
        if arguments.out:
            report.save(result, arguments.out)
    print(report.render(result), end="")


def note(line: str) -> None:
    """Prints what is measured now."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
