"""Makes a checkpoint of a published architecture in the format of its library, with random weights.

    python -m e2v_port.converters.synthetic --size base FOLDER

For demonstrations, benchmarks and tests where no published weights can be had: the arithmetic is that of the real
model, its labels mean nothing.
"""

import argparse
from pathlib import Path

from e2v_port.architectures.registry import FAMILIES

from .rules import Converter, converter

__all__ = ["make_checkpoint", "sizes"]


def sizes() -> dict[str, Converter]:
    """Returns the converter of every size that can be made, by the name of the size."""
    return {size: found for found in map(converter, FAMILIES) for size in found.sizes}


def make_checkpoint(size: str, folder: Path, *, seed: int = 0) -> Path:
    """Writes a checkpoint folder as a hub would have it.

    Args:
        size: One of `sizes`.
        folder: Where to write it.
        seed: Random seed of the weights.

    Returns:
        The folder.
    """
    found = sizes()[size]
    return found.make(found.sizes[size], folder, seed=seed)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="e2v_port.converters.synthetic", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=[*sizes()], default="base")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_checkpoint(arguments.size, arguments.folder, seed=arguments.seed)
    print(f"{arguments.folder} written: random weights, its labels mean nothing")


if __name__ == "__main__":
    main()
