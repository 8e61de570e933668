"""Calibrates a model on corpora that are all in its training, by models that were each trained without one of them.

    e2v train --corpus nemo=NEMO ... --out without-ravdess
    e2v train --corpus ravdess=RAVDESS ... --out without-nemo
    python benchmarks/calibration.py MODEL --fold without-ravdess ravdess=RAVDESS --fold without-nemo nemo=NEMO

`e2v evaluate --calibrate` needs corpora that the model never met. Where none is left over, its recipe is trained once
without each corpus; each of these models is run on all speakers of the corpus it lacks, and one temperature is fitted
on all of their answers, each corpus with the same weight. A table shows what the temperature of the others does to each
corpus. The temperature is stored in the config.json of MODEL.
"""

import argparse
from pathlib import Path

from e2v_port import load
from e2v_port.evaluation import calibration
from e2v_port.evaluation.evaluate import evaluate
from e2v_port.evaluation.readers import read


def main() -> None:
    """Fits and stores the temperature."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of the model to calibrate")
    parser.add_argument(
        "--fold",
        nargs=2,
        action="append",
        required=True,
        metavar=("FOLDER", "NAME=PATH"),
        help="a model that was trained without a corpus, and the corpus",
    )
    options = parser.parse_args()
    evaluations = {}
    for folder, spec in options.fold:
        corpus = read(spec)
        evaluations[corpus.name] = evaluate(load(Path(folder), runtime="cpu"), corpus.utterances)
        if calibration.familiar(evaluations):
            parser.error(f"{folder} was trained on {corpus.name}: pass a model that was trained without it")
    for name, each in calibration.leave_one_out(evaluations).items():
        print(f"{name}: temperature of the others {each.temperature:.3f}, ECE {each.before} -> {each.after}")
    temperature, before, after = calibration.temperature([*evaluations.values()])
    speakers = {clip.speaker for each in evaluations.values() for clip in each.clips}
    calibration.store_temperature(options.model, temperature, speakers)
    print(f"temperature {temperature:.3f} stored: negative log likelihood {before:.3f} -> {after:.3f}")


if __name__ == "__main__":
    main()
