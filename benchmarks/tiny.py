"""Trains and calibrates the tiny models; `python benchmarks/packing.py WORK` puts them into the package.

    python benchmarks/tiny.py bundled-tiny --corpus emodb=FOLDER --teacher WORK/bundled \\
        --unlabelled FOLDER --unlabelled FOLDER --calibrate ravdess=FOLDER --calibrate nemo=FOLDER --work WORK
    python benchmarks/tiny.py bundled-tiny-nc --corpus ravdess=FOLDER --corpus nemo=FOLDER --teacher WORK/bundled-nc \\
        --unlabelled FOLDER --unlabelled FOLDER --calibrate emodb=FOLDER --work WORK

Equivalent to these commands, with the settings below:

    e2v train --corpus ... --teacher ... --unlabelled ... --threads 1 --licence "..." --out WORK/NAME
    (the floor of its spectrogram raised in config.json)
    e2v evaluate --model WORK/NAME --corpus ... --split dev --calibrate

The last one takes corpora that the model was not trained on.

An existing WORK/NAME is not trained again; an interrupted training is resumed.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from e2v_port import load
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.wav2small import Wav2smallConfig
from e2v_port.checkpoints.catalog import is_converted
from e2v_port.evaluation import calibration, datasets, readers, splits
from e2v_port.evaluation.evaluate import evaluate
from e2v_port.training import scratch, task, teacher
from e2v_port.training.recipe import Recipe

# Raised after the training, which uses the floor of the published wav2small. Next to a pure tone float32 cannot resolve
# such a low floor, so runtimes would disagree; the higher one also improves the dev figures a little. The best of 1e-8
# to 1e-4.
FLOOR = 1e-4

# EmoDB has 350 clips and ten sentences: an epoch is short, and most is learned from unlabeled speech.
RECIPES = {
    "bundled-tiny": Recipe(
        copies=8, unlabelled_copies=1, unlabelled=0.6, teaching=0.5, epochs=240, patience=240, warm_up=0.1
    ),
    "bundled-tiny-nc": Recipe(copies=5, unlabelled_copies=1, unlabelled=0.35, teaching=0.5, epochs=25, warm_up=0.1),
}
LICENCES = {"bundled-tiny": "MIT", "bundled-tiny-nc": "CC BY-NC-SA 4.0: not for commercial use"}


def train(name: str, corpora: Sequence[datasets.Corpus], model: Path, folders: Sequence[Path], out: Path) -> None:
    """Trains with the recipe of a name, on one thread, and prints each epoch to stderr."""
    scratch.train(
        task.choose(corpora),
        out,
        RECIPES[name],
        teacher=teacher.find(model, runtime="cpu"),
        unlabelled=[file for folder in folders for file in teacher.recordings(folder)],
        licence=LICENCES[name],
        number_of_threads=1,
        progress=task.Progress(lambda line: print(line, file=sys.stderr, flush=True), task.SILENT.bar),
    )


def raise_floor(folder: Path) -> None:
    """Sets the floor in the config.json of a trained model."""
    config = ModelConfig.read(folder)
    assert isinstance(config.architecture, Wav2smallConfig)
    config = replace(config, architecture=replace(config.architecture, floor=FLOOR))
    (folder / "config.json").write_text(config.to_json(), "utf-8")


def main() -> None:
    """Trains unless there is a model already, and calibrates on the development speakers of other corpora."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--corpus", action="append", required=True, metavar="NAME=PATH", help="trained on")
    parser.add_argument("--teacher", type=Path, required=True, metavar="MODEL", help="model that teaches")
    parser.add_argument(
        "--unlabelled", type=Path, action="append", default=[], metavar="FOLDER", help="speech without labels"
    )
    parser.add_argument("--calibrate", action="append", required=True, metavar="NAME=PATH", help="corpus apart")
    parser.add_argument("--work", type=Path, required=True, metavar="WORK", help="working folder")
    options = parser.parse_args()
    folder = options.work / options.name
    if not is_converted(folder):
        corpora = [readers.read(spec) for spec in options.corpus]
        train(options.name, corpora, options.teacher, options.unlabelled, folder)
    raise_floor(folder)
    calibration.store_temperature(folder, 1.0)
    model = load(folder, runtime="cpu")
    clips = splits.chosen([readers.read(spec) for spec in options.calibrate], "dev")
    dev = [evaluate(model, some) for some in clips.values()]
    temperature, before, after = calibration.temperature(dev)
    speakers = {clip.speaker for some in clips.values() for clip in some}
    calibration.store_temperature(folder, temperature, speakers)
    print(f"temperature {temperature:.3f}: negative log likelihood on them {before:.3f} -> {after:.3f}")


if __name__ == "__main__":
    main()
