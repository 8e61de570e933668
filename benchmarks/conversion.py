"""Measures the time and the peak memory of a conversion, each half in its own process.

    python benchmarks/conversion.py [--sizes base large]

The checkpoints have full size and random weights. Those on the hubs also contain the state of the optimizer, which is
mapped but not read: with it base has 1118 MB, and the first half takes the same memory.
"""

import argparse
import os
import platform
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

import cold

MB = 1e6


def main() -> None:
    """Converts the checkpoints and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=("base", "large"), default=["base", "large"])
    arguments = parser.parse_args()
    print(
        f"{date.today()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, torch {version('torch')}\n\n"
        "| model | half | time | peak memory | weights | peak / weights |\n|---|---|---|---|---|---|"
    )
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:  # /tmp may be memory
            folder = Path(name)
            checkpoint, npz, model = folder / "checkpoint", folder / "model.npz", folder / "model"
            measure("synthetic", "--size", size, str(checkpoint))
            halves = {
                "1: .pt to npz": measure("checkpoint", str(checkpoint), str(npz)),
                "2: npz to safetensors": measure("weights", str(npz), str(model)),
            }
            weights = (model / "model.safetensors").stat().st_size
            for half, (seconds, peak) in halves.items():
                print(
                    f"| {size} | {half} | {seconds:.1f} s | {peak / MB:.0f} MB | {weights / MB:.0f} MB "
                    f"| {peak / weights:.2f} |",
                    flush=True,
                )


def measure(converter: str, *arguments: str) -> tuple[float, int]:
    """Runs a converter and returns its seconds and its peak resident memory in bytes.

    Pages of mapped files count, including those the system could reclaim.
    """
    return cold.measure([sys.executable, "-m", f"e2v_port.converters.{converter}", *arguments])


if __name__ == "__main__":
    main()
