"""e2v evaluate."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from e2v_port.cli.options import CORPUS_OPTION, DtypeName, ModelName, Offline, RuntimeName
from e2v_port.cli.output import complain, fail, finish, need_folder, print_table, progress_bar
from e2v_port.files import printable, replacing

if TYPE_CHECKING:
    from e2v_port import corpora, evaluation

__all__ = ["evaluate"]


def evaluate(
    model: ModelName = None,
    corpus: Annotated[list[str] | None, CORPUS_OPTION] = None,
    rows: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="What e2v corpus wrote of labelled clips, in place of model and corpus."),
    ] = None,
    split: Annotated[
        Literal["train", "dev", "test", "all"] | None,
        typer.Option(help="Which speakers; by default test, with --calibrate dev.", show_default=False),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit a temperature on them, and store it with the model.")
    ] = False,
    runtime: RuntimeName = "auto",
    dtype: DtypeName = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where to write evaluation.json and a picture.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what evaluation.json holds.")] = False,
    offline: Offline = False,
) -> None:
    """Say how often a model is right on a corpus of labelled speech."""
    part = split or ("dev" if calibrate else "test")
    if calibrate and part in {"test", "all"}:
        fail(f"--calibrate on {part} would make the figures of the test speakers worthless: take dev, or train")
    if out:
        need_folder("--out", out)
    if rows:
        if corpus or calibrate or split:
            fail("--rows hold their model and their clips: leave --corpus, --split and --calibrate out")
        _evaluate_rows(rows, out, as_json)
        return
    if not model or not corpus:
        fail(f"{'--corpus' if model else '--model'} is missing: name one, or --rows that e2v corpus wrote")
    from e2v_port import corpora, evaluation
    from e2v_port.model import load

    known = [corpora.read(spec) for spec in corpus]
    chosen = corpora.chosen(known, part)
    folder = _to_calibrate(model, offline) if calibrate else None
    loaded = load(model, runtime=runtime, dtype=dtype, offline=offline)
    if calibrate:
        loaded.need_labels()
    found: dict[str, evaluation.Evaluation] = {}
    with progress_bar(sum(map(len, chosen.values()))) as advance:
        for name, utterances in chosen.items():
            found[name] = evaluation.evaluate(loaded, utterances, advance=advance)
            for error in found[name].errors:
                complain(error)
    result: dict[str, Any] = {"model": model, "split": part, "corpora": {}, "mean": None, "calibration": None}
    for each in known:
        about = {"path": str(each.path), "licence": each.licence, "notes": list(each.notes)}
        result["corpora"][each.name] = about | found[each.name].to_dict()
    if len(found) > 1:
        result["mean"] = evaluation.mean(list(found.values()))
    if folder:
        hot, before, after = evaluation.temperature(list(found.values()))
        evaluation.store_temperature(folder, hot)
        result["calibration"] = {"temperature": hot, "nll_before": before, "nll_after": after, "folder": str(folder)}
    _tell_evaluation(result, known, found, out, as_json)


def _evaluate_rows(rows: Path, out: Path | None, as_json: bool) -> None:
    from e2v_port.corpus.report import evaluate as evaluate_

    known, found = evaluate_(rows)
    about = {"path": str(rows), "licence": "", "notes": []}
    corpora_ = {known.name: about | found.to_dict()}
    result = {"model": found.model, "split": "all", "corpora": corpora_, "mean": None, "calibration": None}
    _tell_evaluation(result, [known], {known.name: found}, out, as_json)


def _tell_evaluation(
    result: dict[str, Any],
    known: "list[corpora.Corpus]",
    found: "dict[str, evaluation.Evaluation]",
    out: Path | None,
    as_json: bool,
) -> None:
    if as_json:
        import json

        from e2v_port.evaluation import plain

        print(json.dumps(plain(result), allow_nan=False))
    else:
        _print_evaluation(result, known, found)
    if out:
        _write_evaluation(result, found, out)
    failed = sum(len(each.errors) for each in found.values())
    finish(failed + sum(each.judged for each in found.values()), failed)


def _to_calibrate(model: str, offline: bool) -> Path:
    """Returns the folder of a model whose config.json may be written."""
    from importlib.resources import files

    from e2v_port.conversion import folder_of

    folder = folder_of(model, offline=offline)
    package = Path(str(files("e2v_port.weights"))).resolve()
    if folder.resolve().is_relative_to(package):
        fail(f"--calibrate does not change what is in the package: copy {folder} elsewhere and name the copy")
    if not os.access(folder, os.W_OK):
        fail(f"--calibrate: {folder} cannot be written to: copy it elsewhere and name the copy")
    return folder


def _print_evaluation(
    result: dict[str, Any], known: "list[corpora.Corpus]", found: "dict[str, evaluation.Evaluation]"
) -> None:
    from e2v_port.evaluation import report

    for corpus in known:
        runtime = found[corpus.name].runtime
        print(f"{corpus.name}, {result['split']}: {result['model']} on {runtime}")
        for note in corpus.notes:
            print(f"note: {printable(note)}")
        for part in report(found[corpus.name]):
            if isinstance(part, str):
                print(printable(part))
            else:
                print_table([printable(cell) for cell in row] for row in part)
        print()
    if result["mean"]:
        print(f"mean of {len(known)} corpora")
        print_table([[name.replace("_", " "), f"{value:.3f}"] for name, value in result["mean"].items()])
    if calibration := result["calibration"]:
        print(
            f"temperature {calibration['temperature']:.3f} stored in {calibration['folder']}: negative log likelihood "
            f"{calibration['nll_before']:.3f} before, {calibration['nll_after']:.3f} after"
        )


def _write_evaluation(result: dict[str, Any], found: "dict[str, evaluation.Evaluation]", out: Path) -> None:
    import json
    from importlib.util import find_spec

    from e2v_port.evaluation import plain

    out.mkdir(exist_ok=True)
    with replacing(out / "evaluation.json") as partial:
        partial.write_text(json.dumps(plain(result), allow_nan=False, indent=1) + "\n", "utf-8", newline="\n")
    if not all(each.open for each in found.values()):
        return
    if find_spec("matplotlib") is None:
        print('no picture without matplotlib: pip install "e2v-port[plots]"', file=sys.stderr)
        return
    from e2v_port.plots import plot_evaluations

    with replacing(out / "evaluation.png") as partial:
        plot_evaluations(found, partial)
