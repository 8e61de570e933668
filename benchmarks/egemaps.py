"""A classic baseline: openSMILE's eGeMAPS and a support vector machine, trained and tested on the same speakers.

    pip install opensmile scikit-learn
    python benchmarks/egemaps.py --corpus ravdess=FOLDER --corpus nemo=FOLDER --unseen emodb=FOLDER --out egemaps.json

The features are 88 functionals per clip (eGeMAPSv02, Eyben et al. 2016, doi:10.1109/TAFFC.2015.2457417), standardized
by the training clips. Kernel, C and class weights are those with the best mean UAR on the development speakers. One
machine is trained on all corpora, and one on each. Each is tested on the test speakers of every corpus, and on all
speakers of corpora that no machine was trained on. The figures are those of `e2v evaluate`.

openSMILE's license permits only private use, research and teaching, so neither the package nor its tests depend on it.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import opensmile
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.emotions.estimates import Prediction
from e2v_port.evaluation.datasets import SPLITS, Corpus, Utterance
from e2v_port.evaluation.evaluate import compare
from e2v_port.evaluation.readers import read
from e2v_port.evaluation.results import Evaluation, mean
from e2v_port.evaluation.splits import split
from e2v_port.files import replacing

GRID = [
    {"kernel": kernel, "C": c, "class_weight": weight}
    for kernel, strengths in (("linear", (0.001, 0.01, 0.1, 1.0)), ("rbf", (0.3, 1.0, 3.0, 10.0, 30.0)))
    for c in strengths
    for weight in (None, "balanced")
]

Features = dict[str, NDArray[np.float64]]


def main() -> None:
    """Reads the corpora, extracts features, trains and tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", action="append", required=True, metavar="NAME=PATH", help="trained and tested on")
    parser.add_argument("--unseen", action="append", default=[], metavar="NAME=PATH", help="tested on, all speakers")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="output file for all figures")
    parser.add_argument("--features", type=Path, metavar="FILE.npz", help="cache of the features")
    options = parser.parse_args()
    corpora, unseen = [read(spec) for spec in options.corpus], [read(spec) for spec in options.unseen]
    parts = split(corpora)
    features = extract([u for corpus in [*corpora, *unseen] for u in corpus.utterances], options.features)
    tests = [(corpus, [u for u in parts["test"] if u.corpus == corpus.name]) for corpus in corpora]
    tests += [(corpus, list(corpus.utterances)) for corpus in unseen]
    training = [corpora, *([corpus] for corpus in corpora if len(corpora) > 1)]
    results = [baseline(names_of(chosen), parts, tests, features) for chosen in training]
    if options.out:
        with replacing(options.out) as partial:
            partial.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def names_of(corpora: Sequence[Corpus]) -> list[str]:
    """Returns the names of corpora."""
    return [corpus.name for corpus in corpora]


def extract(utterances: Sequence[Utterance], cache: Path | None) -> Features:
    """Returns the functionals of each file, [88], from the cache where possible."""
    features: Features = {}
    if cache and cache.is_file():
        with np.load(cache) as stored:
            features = dict(zip(stored["files"].tolist(), stored["features"], strict=True))
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    missing = [utterance.file for utterance in utterances if str(utterance.file) not in features]
    for i, file in enumerate(missing):
        if i % 500 == 0:
            print(f"extracting features: {i} of {len(missing)}", file=sys.stderr)
        features[str(file)] = smile.process_signal(load_audio(file), SAMPLING_RATE).to_numpy()[0]
    if cache and missing:
        with replacing(cache) as partial, open(partial, "wb") as opened:
            np.savez(opened, files=list(features), features=np.stack(list(features.values())))
    return features


def baseline(
    trained_on: list[str],
    parts: dict[str, list[Utterance]],
    tests: Sequence[tuple[Corpus, list[Utterance]]],
    features: Features,
) -> dict[str, Any]:
    """Trains a machine on some corpora, prints its figures on all tests, and returns them for JSON."""
    train, dev, _ = ([u for u in parts[part] if u.corpus in trained_on and u.label] for part in SPLITS)
    candidates = [fitted(settings, train, features) for settings in GRID]
    scores = [
        mean([tested(machine, [u for u in dev if u.corpus == name], features) for name in trained_on])["open_uar"]
        for machine in candidates
    ]
    best = int(np.argmax(scores))
    chosen = ", ".join(f"{key} {value}" for key, value in GRID[best].items())
    print(f"\ntrained on {' and '.join(trained_on)}: {len(train)} clips; {chosen}; UAR on dev {scores[best]:.3f}")
    print(f"{'tested on':22}{'clips':>6}  {'UAR [95 %]':24}{'UAR, closed':24}{'WA':24}{'macro-F1':24}")
    rows = {}
    for corpus, utterances in tests:
        evaluation = tested(candidates[best], utterances, features)
        assert evaluation.open is not None
        assert evaluation.closed is not None
        figures = (evaluation.open.uar, evaluation.closed.uar, evaluation.open.wa, evaluation.open.macro_f1)
        name = corpus.name if corpus.name in trained_on else f"{corpus.name}, not in training"
        print(f"{name:22}{evaluation.judged:6}  {''.join(f'{figure!s:24}' for figure in figures)}")
        rows[corpus.name] = {key: value for key, value in evaluation.to_dict().items() if key != "clips"}
    return {"trained_on": trained_on, "settings": GRID[best], "uar_on_dev": scores[best], "tests": rows}


def fitted(settings: dict[str, Any], train: Sequence[Utterance], features: Features) -> Pipeline:
    """Returns a machine trained with some settings."""
    machine = make_pipeline(StandardScaler(), SVC(**settings, cache_size=500))
    return machine.fit([features[str(u.file)] for u in train], [u.label for u in train])


def tested(machine: Pipeline, utterances: Sequence[Utterance], features: Features) -> Evaluation:
    """Compares the answers of a machine with the labels; its distances to the planes serve as logits."""
    known = [utterance for utterance in utterances if utterance.label]
    labels = [str(label) for label in machine.classes_]
    answers: list[Prediction | None] = [None] * len(utterances)
    distances = machine.decision_function([features[str(utterance.file)] for utterance in known])
    rows = iter(distances.tolist())
    for i, utterance in enumerate(utterances):
        if utterance.label:
            logits = dict(zip(labels, next(rows), strict=True))
            total = sum(map(math.exp, logits.values()))
            scores = {label: math.exp(logit) / total for label, logit in logits.items()}
            label = max(scores, key=scores.__getitem__)
            answers[i] = Prediction(label, scores[label], scores, logits, 0.0)
    return compare(utterances, answers, labels, model="eGeMAPS", runtime="scikit-learn")


if __name__ == "__main__":
    main()
