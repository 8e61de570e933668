"""e2v evaluate and e2v compare."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from e2v_port.cli.options import CORPUS_OPTION, ChannelName, DtypeName, LabelNames, ModelName, Offline, RuntimeName
from e2v_port.cli.output import complain, fail, finish, model_or_bundled, need_folder, print_table, progress_bar
from e2v_port.files import packaged, printable, replacing

if TYPE_CHECKING:
    from e2v_port.evaluation.comparison.compare import Comparison
    from e2v_port.evaluation.datasets import Corpus
    from e2v_port.evaluation.report import Part
    from e2v_port.evaluation.results import Evaluation

__all__ = ["compare", "evaluate"]


Rows = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Evaluate the rows that `e2v corpus` wrote of labeled clips, instead of running a model."
    ),
]
Split = Annotated[
    Literal["train", "dev", "test", "all"] | None,
    typer.Option(help="Speakers to evaluate on. Default: test, or dev with --calibrate.", show_default=False),
]
Calibrate = Annotated[
    bool,
    typer.Option(
        "--calibrate",
        help="Fit a temperature to these clips and store it with the model. Pass corpora that it was not trained on.",
    ),
]
Conditions = Annotated[
    bool,
    typer.Option(
        "--conditions", help="Also measure excerpts of 1 to 5 s, a telephone line, a room, white noise and babble."
    ),
]
AdaptFrom = Annotated[
    int,
    typer.Option(
        "--adapt",
        min=0,
        metavar="N",
        help="Adapt to each voice, from N other clips of the speaker, without their labels. See docs/adaptation.md.",
    ),
]
SeenToo = Annotated[
    bool,
    typer.Option("--seen", help="Allow clips that the model was trained on or chosen by."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FOLDER", help="Output folder for evaluation.json, report.html and a picture."),
]


def evaluate(
    model: ModelName = None,
    corpus: Annotated[list[str] | None, CORPUS_OPTION] = None,
    rows: Rows = None,
    split: Split = None,
    conditions: Conditions = False,
    calibrate: Calibrate = False,
    adapt: AdaptFrom = 0,
    channel: ChannelName = "mix",
    runtime: RuntimeName = "auto",
    dtype: DtypeName = None,
    labels: LabelNames = None,
    out: Out = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the content of evaluation.json.")] = False,
    seen: SeenToo = False,
    offline: Offline = False,
) -> None:
    """Measure how often a model is right on labeled speech.

    With zed, for how long it is right (EDER). Without --model, the bundled model is used.
    """
    part = split or ("dev" if calibrate else "test")
    if calibrate and part in {"test", "all"}:
        fail(f"--calibrate --split {part} would use up the test speakers: calibrate on dev or train")
    if out:
        need_folder("--out", out)
    if rows:
        if corpus or calibrate or split or conditions or adapt:
            others = "--corpus, --split, --conditions, --adapt and --calibrate"
            fail(f"--rows already name their model and clips: leave out {others}")
        _evaluate_rows(rows, out, as_json)
        return
    if not corpus:
        fail("--corpus is missing: pass it, or pass --rows written by `e2v corpus`")
    if adapt and (calibrate or conditions):
        fail("--adapt changes the answers that --calibrate and --conditions are about: leave one of them out")
    if labels and calibrate:
        fail("--calibrate fits the temperature of all labels: leave --labels out")
    seen = seen or part in {"train", "dev"}  # asked for by name; the report says so
    _evaluate_model(
        model, corpus, part, conditions, calibrate, adapt, seen, channel, runtime, dtype, labels, out, as_json, offline
    )


def _evaluate_model(
    named: str | None,
    corpus: list[str],
    part: str,
    conditions: bool,
    calibrate: bool,
    adapt: int,
    seen: bool,
    channel: str,
    runtime: str,
    dtype: str | None,
    labels: str | None,
    out: Path | None,
    as_json: bool,
    offline: bool,
) -> None:
    from e2v_port.evaluation import evaluate as evaluation_evaluate
    from e2v_port.evaluation import readers, results, splits
    from e2v_port.evaluation.conditions import CONDITIONS, under_conditions
    from e2v_port.models.load import load

    corpora = [readers.read(spec) for spec in corpus]
    if (conditions or calibrate) and any(corpus.kind == "zed" for corpus in corpora):
        fail(f"--{'calibrate' if calibrate else 'conditions'} needs clips with one label each: leave out zed")
    clips = splits.chosen(corpora, part)
    model = model_or_bundled(named)
    folder = _to_calibrate(model, offline) if calibrate else None
    loaded = load(model, runtime=runtime, dtype=dtype, labels=labels, offline=offline)
    if calibrate or conditions:
        loaded.need_labels()
    evaluations: dict[str, Evaluation] = {}
    runs = 1 + len(CONDITIONS) if conditions else 1
    with progress_bar(runs * sum(map(len, clips.values()))) as advance:
        for name, utterances in clips.items():
            evaluation = evaluation_evaluate.evaluate(
                loaded, utterances, seen=seen, channel=channel, adapt=adapt, advance=advance
            )
            for error in evaluation.errors:
                complain(error)
            if conditions:
                evaluation = under_conditions(loaded, utterances, evaluation, channel=channel, advance=advance)
            evaluations[name] = evaluation
    result: dict[str, Any] = {
        "model": model,
        "limited_to": loaded.limited_to,
        "split": part,
        "corpora": {},
        "mean": None,
        "calibration": None,
    }
    for each in corpora:
        about = {"path": str(each.path), "licence": each.licence, "notes": list(each.notes)}
        result["corpora"][each.name] = about | evaluations[each.name].to_dict()
    if len(evaluations) > 1:
        result["mean"] = results.mean(list(evaluations.values()))
    sections = _sections(result, corpora, evaluations)
    if folder:
        result["calibration"], sections["calibration"] = _calibrate(folder, evaluations)
    _show(result, sections, evaluations, out, as_json)


def _calibrate(folder: Path, evaluations: "dict[str, Evaluation]") -> "tuple[dict[str, Any], list[Part]]":
    """Fits and stores a temperature; returns the values of the JSON and the lines of the report."""
    from dataclasses import asdict

    from e2v_port.evaluation import calibration
    from e2v_port.evaluation.report import left_out_table

    hot, before, after = calibration.temperature(list(evaluations.values()))
    speakers = {clip.speaker for each in evaluations.values() for clip in each.clips}
    calibration.store_temperature(folder, hot, speakers)
    left_out = calibration.leave_one_out(evaluations)
    familiar = calibration.familiar(evaluations)
    values = {
        "temperature": hot,
        "nll_before": before,
        "nll_after": after,
        "folder": str(folder),
        "left_out": {name: asdict(each) for name, each in left_out.items()},
        "familiar": familiar,
    }
    lines: list[Part] = [left_out_table(left_out)] if left_out else []
    lines.append(
        f"temperature {hot:.3f} stored in {folder}: negative log likelihood {before:.3f} before, {after:.3f} after"
    )
    if familiar:
        warning = (
            f"the model was trained on {', '.join(familiar)}, so only speakers are held out: on a corpus that it never "
            f"met, its confidence will be too high; calibrate on corpora that it was not trained on"
        )
        print(f"warning: {printable(warning)}", file=sys.stderr)
        lines.append(warning)
    return values, lines


def _evaluate_rows(rows: Path, out: Path | None, as_json: bool) -> None:
    from e2v_port.corpus.report import evaluate as evaluate_

    corpus, evaluation = evaluate_(rows)
    corpora = {corpus.name: {"path": str(rows), "licence": "", "notes": list(corpus.notes)} | evaluation.to_dict()}
    result = {
        "model": evaluation.model,
        "limited_to": None,
        "split": "all",
        "corpora": corpora,
        "mean": None,
        "calibration": None,
    }
    evaluations = {corpus.name: evaluation}
    _show(result, _sections(result, [corpus], evaluations), evaluations, out, as_json)


def _sections(
    result: dict[str, Any], corpora: "list[Corpus]", evaluations: "dict[str, Evaluation]"
) -> "dict[str, list[Part]]":
    """Returns the lines and tables of the report by their headings."""
    from e2v_port.evaluation.report import report

    sections: dict[str, list[Part]] = {}
    for corpus in corpora:
        heading = f"{corpus.name}, {result['split']}: {result['model']} on {evaluations[corpus.name].runtime}"
        notes = list(corpus.notes)
        if result["limited_to"]:
            notes.append(f"answers limited to {', '.join(result['limited_to'])}")
        sections[heading] = [*(f"note: {note}" for note in notes), *report(evaluations[corpus.name])]
    if result["mean"]:
        rows = [[name.replace("_", " "), f"{value:.3f}"] for name, value in result["mean"].items()]
        sections[f"mean of {len(corpora)} corpora"] = [[["figure", "mean"], *rows]]
    return sections


def _show(
    result: dict[str, Any],
    sections: "dict[str, list[Part]]",
    evaluations: "dict[str, Evaluation]",
    out: Path | None,
    as_json: bool,
) -> None:
    """Prints and writes a result, and exits with the code for its errors."""
    if as_json:
        import json

        from e2v_port.evaluation.results import plain

        print(json.dumps(plain(result), allow_nan=False))
    else:
        for heading, parts in sections.items():
            print(printable(heading))
            for part in parts:
                if isinstance(part, str):
                    print(printable(part))
                else:
                    print_table([printable(cell) for cell in row] for row in part)
            print()
    if out:
        _write_evaluation(result, sections, evaluations, out)
    failed = sum(len(each.errors) for each in evaluations.values())
    finish(failed + sum(each.judged for each in evaluations.values()), failed)


def _to_calibrate(model: str, offline: bool) -> Path:
    """Returns the folder of a model, whose config.json can be written."""
    from e2v_port.models.convert import folder_of

    folder = folder_of(model, offline=offline)
    package = packaged("e2v_port.weights").resolve()
    if folder.resolve().is_relative_to(package):
        fail(f"--calibrate cannot change a bundled model: copy {folder} elsewhere and pass the copy as --model")
    if not os.access(folder, os.W_OK):
        fail(f"--calibrate: {folder} is read-only: copy it elsewhere and pass the copy as --model")
    return folder


def _write_evaluation(
    result: dict[str, Any], sections: "dict[str, list[Part]]", evaluations: "dict[str, Evaluation]", out: Path
) -> None:
    import json

    from e2v_port.evaluation.report import page
    from e2v_port.evaluation.results import plain

    out.mkdir(exist_ok=True)
    picture = out / "evaluation.png" if _draw(evaluations, out) else None
    texts = {
        "evaluation.json": json.dumps(plain(result), allow_nan=False, indent=1) + "\n",
        "report.html": page(f"{result['model']}: evaluation", sections, picture.read_bytes() if picture else None),
    }
    for name, text in texts.items():
        with replacing(out / name) as partial:
            partial.write_text(text, "utf-8", errors="backslashreplace", newline="\n")


def _draw(evaluations: "dict[str, Evaluation]", out: Path) -> bool:
    """Draws evaluation.png where there are labels and matplotlib; returns whether it did."""
    from importlib.util import find_spec

    if not all(each.open for each in evaluations.values()):
        return False
    if find_spec("matplotlib") is None:
        print('evaluation.png is not drawn without matplotlib: pip install "e2v-port[plots]"', file=sys.stderr)
        return False
    from e2v_port.evaluation.plots import plot_evaluations

    with replacing(out / "evaluation.png") as partial:
        plot_evaluations(evaluations, partial)
    return True


Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Models to compare, two or more; each is compared with the first. Named as for `e2v evaluate`.",
        show_default=False,
    ),
]
SplitCompared = Annotated[Literal["train", "dev", "test", "all"], typer.Option(help="Speakers to compare on.")]
LabelsCompared = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="NAMES",
        help="Labels to compare on, such as angry,happy,neutral,sad. Default: all that the models have in common.",
        show_default=False,
    ),
]
SeenByAny = Annotated[bool, typer.Option("--seen", help="Allow clips that a model was trained on or chosen by.")]
ComparisonOut = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FOLDER", help="Output folder for comparison.json, comparison.md and a picture."
    ),
]


def compare(
    model: Models,
    corpus: Annotated[list[str], CORPUS_OPTION],
    split: SplitCompared = "test",
    labels: LabelsCompared = None,
    channel: ChannelName = "mix",
    runtime: RuntimeName = "auto",
    dtype: DtypeName = None,
    out: ComparisonOut = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the content of comparison.json.")] = False,
    seen: SeenByAny = False,
    offline: Offline = False,
) -> None:
    """Compare models on the same clips: accuracy, time and size.

    Only labels that all models have count.
    """
    from e2v_port.evaluation import readers, splits
    from e2v_port.evaluation.comparison import compare as comparing
    from e2v_port.evaluation.comparison import report

    if len(model) < 2:
        fail("only one --model: pass --model again for each model to compare it with")
    if out:
        need_folder("--out", out)
    corpora = [readers.read(spec) for spec in corpus]
    clips = sum(map(len, splits.chosen(corpora, split).values()))
    with progress_bar(len(model) * clips) as advance:
        comparisons = comparing.compare(
            model,
            corpora,
            split=split,
            labels=labels,
            seen=seen or split in {"train", "dev"},  # asked for by name; the report says so
            channel=channel,
            runtime=runtime,
            dtype=dtype,
            offline=offline,
            advance=advance,
        )
    errors = [error for comparison in comparisons.values() for error in comparison.errors]
    for error in errors:
        complain(error)
    result = {"split": split, "corpora": {name: found.to_dict() for name, found in comparisons.items()}}
    if as_json:
        import json

        print(json.dumps(result, allow_nan=False))
    else:
        for line in report.lines(comparisons):
            print(printable(line))
        print()
        print_table([printable(cell) for cell in row] for row in report.table(comparisons))
    if out:
        _write_comparison(result, comparisons, out)
    finish(len(errors) + sum(found.clips for found in comparisons.values()), len(errors))


def _write_comparison(result: dict[str, Any], comparisons: "dict[str, Comparison]", out: Path) -> None:
    import json
    from importlib.util import find_spec

    from e2v_port.evaluation.comparison.report import markdown

    out.mkdir(exist_ok=True)
    texts = {
        "comparison.json": json.dumps(result, allow_nan=False, indent=1) + "\n",
        "comparison.md": markdown(comparisons, f"Comparison, {result['split']}"),
    }
    for name, text in texts.items():
        with replacing(out / name) as partial:
            partial.write_text(text, "utf-8", errors="backslashreplace", newline="\n")
    if find_spec("matplotlib") is None:
        print('comparison.png is not drawn without matplotlib: pip install "e2v-port[plots]"', file=sys.stderr)
        return
    from e2v_port.evaluation.plots import plot_comparisons

    with replacing(out / "comparison.png") as partial:
        plot_comparisons(comparisons, partial)
