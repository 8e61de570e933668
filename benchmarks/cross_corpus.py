"""Evaluates models on corpora that they were not trained on, and on unseen speakers of those that they were.

    python benchmarks/cross_corpus.py --corpus ravdess=FOLDER --corpus nemo=FOLDER --corpus emodb=FOLDER

Each model is tested on all speakers of the corpora that it never met, which come first, and on the test speakers of the
others. Speakers that it was trained on are never tested, whatever the arguments: what a model was trained on is stored
in it. The first figure is the UAR with answers limited to the labels of the corpus (closed), the second that with any
label of the model (open). The models are those in weights/, or those named.

--conditions also measures excerpts, a telephone line, a room, noise and babble. benchmarks/packing.py writes the same
figures into the cards of the models in weights/.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e2v_port import load
from e2v_port.evaluation.conditions import under_conditions
from e2v_port.evaluation.datasets import Corpus, Utterance
from e2v_port.evaluation.evaluate import evaluate
from e2v_port.evaluation.readers import read
from e2v_port.evaluation.report import COVERAGES, remaining_errors
from e2v_port.evaluation.results import Evaluation, Figure, plain
from e2v_port.evaluation.sounds import seen_in_training
from e2v_port.evaluation.splits import chosen
from e2v_port.files import replacing
from e2v_port.models.model import Model

WEIGHTS = Path(__file__).parents[1] / "weights"
TEST, ALL = "test speakers", "never trained on"
MOST = 1000  # clips of a corpus that are heard under conditions; of a larger one, those of the test speakers


def main() -> None:
    """Evaluates all models, prints a table for each, and writes all figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], metavar="MODEL", help="name in weights/, or a folder")
    parser.add_argument("--corpus", action="append", required=True, metavar="NAME=PATH", help="labeled corpus")
    parser.add_argument("--conditions", action="store_true", help="also under conditions")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="output file for the figures of all models")
    options = parser.parse_args()
    corpora = [read(spec) for spec in options.corpus]
    measured = {}
    for name in options.model or sorted(config.parent.name for config in WEIGHTS.glob("*/config.json")):
        folder = WEIGHTS / name if (WEIGHTS / name / "config.json").is_file() else Path(name)
        measured[name] = measure(load(folder, runtime="cpu"), corpora, conditions=options.conditions)
        print(f"\n{name}\n\n{accuracy(measured[name])}", flush=True)
    if options.out:
        with replacing(options.out) as partial:
            partial.write_text(json.dumps(measured, indent=1, allow_nan=False) + "\n", "utf-8", newline="\n")


def measure(model: Model, corpora: Sequence[Corpus], *, conditions: bool) -> dict[str, Any]:
    """Returns the figures of a model by corpus: those that it never met first, then those of its training.

    A corpus whose test speakers were in the training is left out.
    """
    held_out: dict[str, Any] = {}
    familiar: dict[str, Any] = {}
    for corpus in corpora:
        everyone, tested = list(corpus.utterances), chosen([corpus], "test")[corpus.name]
        if not knows(model, everyone, "train", "dev", "corpus"):
            small = len(everyone) <= MOST
            held_out[corpus.name] = {"what": ALL, **figures(model, everyone, conditions=conditions and small)}
            held_out[corpus.name]["test"] = figures(model, tested, conditions=conditions and not small)
        elif not knows(model, tested, "train", "dev"):
            familiar[corpus.name] = {"what": TEST, **figures(model, tested, conditions=conditions)}
        else:
            print(f"{corpus.name}: left out, {model} was trained on its test speakers", file=sys.stderr)
    return held_out | familiar


def knows(model: Model, clips: Sequence[Utterance], *parts: str) -> bool:
    """Returns whether any clip is known from one of the parts of `seen_in_training`."""
    seen = seen_in_training(model.config.trained_on, (), clips)
    return seen is not None and any(seen[part].clips for part in parts)


def figures(model: Model, clips: Sequence[Utterance], *, conditions: bool) -> dict[str, Any]:
    """Returns the figures of a model on clips as JSON-compatible values."""
    evaluation = evaluate(model, clips)
    return summary(under_conditions(model, clips, evaluation) if conditions else evaluation)


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Returns the figures of an evaluation, without its clips: values with the ends of their intervals."""
    assert evaluation.open
    assert evaluation.closed
    assert evaluation.ece
    assert evaluation.risk
    assert evaluation.doubt
    groups = {"by_sex": evaluation.by_sex, "by_language": evaluation.by_language}
    values: dict[str, Any] = plain(
        {
            "clips": evaluation.judged,
            "speakers": evaluation.speakers,
            "resampled": evaluation.resampled,
            "closed_uar": rounded(evaluation.closed.uar),
            "uar": rounded(evaluation.open.uar),
            "wa": rounded(evaluation.open.wa),
            "macro_f1": rounded(evaluation.open.macro_f1),
            "ece": rounded(evaluation.ece),
            "aurc": rounded(evaluation.risk.aurc),
            "errors": {f"{share:.0%}": round(remaining_errors(evaluation.risk, share), 4) for share in COVERAGES},
            "certain": [evaluation.doubt.certain, *rounded(evaluation.doubt.certain_errors)],
            "uncertain": [evaluation.doubt.uncertain, *rounded(evaluation.doubt.uncertain_errors)],
            "labels": list(evaluation.open.labels),
            "confusion": [list(row) for row in evaluation.open.confusion],
            "by_speaker": {name: [clips, round(uar, 4)] for name, (clips, uar) in evaluation.by_speaker.items()},
            **{
                key: {name: [each.clips, each.speakers, rounded(each.closed)] for name, each in found.items()}
                for key, found in groups.items()
            },
            "conditions": {
                name: {"changed": each.changed, "closed_uar": rounded(each.closed), "change": rounded(each.change)}
                for name, each in evaluation.conditions.items()
            },
        }
    )
    return values


def rounded(figure: Figure) -> list[float]:
    """Returns the value and the ends of the interval with four digits."""
    return [round(value, 4) for value in (figure.value, figure.low, figure.high)]


# ---- tables in Markdown


def accuracy(corpora: Mapping[str, Any]) -> str:
    """Returns the main figures of each corpus."""
    kinds = {"closed_uar": "UAR, labels of the corpus", "uar": "UAR, any label", "ece": "ECE"}
    rows = [
        [
            f"{title(name)}, {each['what']}",
            f"{each['clips']}, {each['speakers']}",
            *(_figure(each[kind]) for kind in kinds),
        ]
        for name, each in corpora.items()
    ]
    return table(["corpus", "clips, speakers", *kinds.values()], rows)


def groups(corpora: Mapping[str, Any]) -> str:
    """Returns the closed UAR by sex."""
    rows = []
    for name, each in corpora.items():
        cells = [_figure(each["by_sex"][sex][2]) if sex in each["by_sex"] else "" for sex in ("female", "male")]
        rows.append([title(name), ", ".join(each["by_language"]), *cells])
    return table(["corpus", "language", "women", "men"], rows)


def conditions_table(corpora: Mapping[str, Any]) -> str:
    """Returns the closed UAR as recorded, and how much each condition changes it."""
    measured = {title(name): each for name, each in corpora.items() if each["conditions"]}
    tested = {f"{title(name)}, {TEST}": each["test"] for name, each in corpora.items() if "test" in each}
    measured |= {name: each for name, each in tested.items() if each["conditions"]}
    names = dict.fromkeys(condition for each in measured.values() for condition in each["conditions"])
    rows = [["as recorded", *(_figure(each["closed_uar"]) for each in measured.values())]]
    for condition in names:
        cells = [each["conditions"][condition] for each in measured.values()]
        rows.append(
            [condition, *(_change(each["change"]) if each["changed"] else "no clip is longer" for each in cells)]
        )
    return table(["", *measured], rows)


def confidence(corpora: Mapping[str, Any]) -> str:
    """Returns the share of wrong answers among the most confident ones, and by the note `uncertain`."""
    shares = [f"{share:.0%}" for share in COVERAGES]
    rows = []
    for name, each in corpora.items():
        notes = [each[note][:2] for note in ("certain", "uncertain")]
        cells = [f"{wrong:.2f} ({clips})" if clips else "" for clips, wrong in notes]
        rows.append([title(name), *(f"{each['errors'][share]:.2f}" for share in shares), *cells, _figure(each["aurc"])])
    return table(["wrong among", *(f"top {share}" for share in shares), "no note", "`uncertain`", "AURC"], rows)


def confusion(name: str, each: Mapping[str, Any]) -> str:
    """Returns the confusion matrix of a corpus."""
    rows = [[label, *map(str, row)] for label, row in zip(each["labels"], each["confusion"], strict=True) if sum(row)]
    return table([f"{title(name)}: reference below, answer on the right", *each["labels"]], rows)


def title(name: str) -> str:
    """Returns the usual spelling of the name of a corpus."""
    return {"emodb": "EmoDB", "emogator": "EmoGator", "nemo": "nEMO", "ravdess": "RAVDESS"}.get(name, name)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    first, *others = (
        f"| {' | '.join(line)} |\n".replace("|  |", "| |").replace("|  |", "| |") for line in [head, *rows]
    )
    return "".join([first, "|" + "---|" * len(head) + "\n", *others])


def _figure(values: Sequence[float]) -> str:
    return str(Figure(*values))


def _change(values: Sequence[float]) -> str:
    return f"{values[0]:+.3f} [{values[1]:+.3f}, {values[2]:+.3f}]"


if __name__ == "__main__":
    main()
