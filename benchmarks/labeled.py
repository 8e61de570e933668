"""The arguments of benchmarks that test a model on corpora of labeled speech."""

import argparse
from pathlib import Path

from e2v_port import load
from e2v_port.evaluation.datasets import Utterance
from e2v_port.evaluation.readers import read
from e2v_port.evaluation.splits import chosen
from e2v_port.models.model import Model

__all__ = ["model_and_clips"]


def model_and_clips(description: str | None) -> tuple[Model, dict[str, list[Utterance]]]:
    """Reads the command line, and returns the model and, by corpus, the clips that have one of its labels.

    They are those of the test speakers of a `--corpus`, and of all speakers of an `--unseen` one.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled", help="name or folder of the model")
    parser.add_argument("--corpus", action="append", default=[], metavar="NAME=PATH", help="corpus, test speakers")
    parser.add_argument("--unseen", action="append", default=[], metavar="NAME=PATH", help="corpus, all speakers")
    options = parser.parse_args()
    if not (options.corpus or options.unseen):
        parser.error("pass a corpus with --corpus or --unseen")
    model = load(Path(options.model) if Path(options.model).is_dir() else options.model)
    clips: dict[str, list[Utterance]] = {}
    for specs, part in ((options.corpus, "test"), (options.unseen, "all")):
        if specs:
            clips |= chosen([read(spec) for spec in specs], part)
    return model, {name: [clip for clip in found if clip.label in model.labels] for name, found in clips.items()}
