"""The clips that every contender runs: cut at random from recordings, the same for the same seed."""

from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.errors import AudioError

__all__ = ["cut", "write_piece"]

SHORTEST, LONGEST = 1.0, 15.0  # seconds
SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".opus"}


def cut(
    folder: Path, seconds: float, recordings: Path | None = None, *, seed: int = 0
) -> tuple[list[str], dict[str, Any]]:
    """Writes clips of 1 to 15 s (16 kHz, FLAC) with a total length of `seconds` into `folder`/clips.

    They are cut at random positions from the recordings, joined in random order.

    Args:
        folder: An existing folder.
        seconds: Total length, at least 2 s.
        recordings: Folder searched, with its subfolders, for audio. By default the clips are cut from the synthetic
            speech in the package.
        seed: Seed of the lengths, the order and the positions.

    Returns:
        The paths, and a description: source, count, seconds and seed.

    Raises:
        AudioError: No file in `recordings` can be read.
    """
    draw = np.random.default_rng(seed)
    lengths = _lengths(round(seconds * SAMPLING_RATE), draw)
    pool, source = _shipped() if recordings is None else _recorded(recordings, sum(lengths), draw)
    paths = [write_piece(pool, length, folder / "clips" / f"{i:04}.flac", draw) for i, length in enumerate(lengths)]
    return paths, {
        "source": source,
        "clips": len(paths),
        "seconds": sum(lengths) / SAMPLING_RATE,
        "shortest": min(lengths) / SAMPLING_RATE,
        "longest": max(lengths) / SAMPLING_RATE,
        "seed": seed,
    }


def _lengths(total: int, draw: np.random.Generator) -> list[int]:
    """Returns lengths in samples, drawn uniformly between the limits; the last one or two take the remainder."""
    shortest, longest = round(SHORTEST * SAMPLING_RATE), round(LONGEST * SAMPLING_RATE)
    lengths: list[int] = []
    while (left := total - sum(lengths)) > longest + shortest:
        lengths.append(int(draw.integers(shortest, longest + 1)))
    return [*lengths, left] if left <= longest else [*lengths, left // 2, left - left // 2]


def _shipped() -> tuple[Waveform, str]:
    """Returns the example of the service's page, which is in every installation, and its description."""
    with as_file(files("e2v_port.service").joinpath("page/example.flac")) as path:
        return load_audio(path), "the synthetic speech in the package"


def _recorded(folder: Path, samples: int, draw: np.random.Generator) -> tuple[Waveform, str]:
    """Returns recordings joined in random order, at least `samples` long where there are enough, and a description."""
    paths: Sequence[Path] = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    parts: list[Waveform] = []
    for i in draw.permutation(len(paths)):
        with suppress(AudioError):
            parts.append(load_audio(paths[i]))
        if sum(map(len, parts)) >= samples:
            break
    if not parts:
        raise AudioError(f"{folder}: no audio file can be read: pass a folder with {', '.join(sorted(SUFFIXES))}")
    return np.concatenate(parts), f"{len(parts)} recordings"


def write_piece(pool: Waveform, samples: int, path: Path, draw: np.random.Generator) -> str:
    """Writes a clip that starts at a random position of `pool`, which wraps around at its end."""
    path.parent.mkdir(exist_ok=True)
    start = int(draw.integers(len(pool)))
    piece = np.resize(np.roll(pool, -start), samples)
    soundfile.write(path, piece.clip(-1, 1), SAMPLING_RATE)
    return str(path)
