"""e2v probe."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from e2v_port.cli.options import CORPUS_OPTION, MODEL_OPTION, ChannelName, DtypeName, Offline, RuntimeName
from e2v_port.cli.output import complain, finish, need_folder, print_table, progress_bar
from e2v_port.files import printable, replacing

if TYPE_CHECKING:
    from e2v_port.evaluation.probe import Probe

__all__ = ["probe"]

PoolingName = Annotated[
    Literal["mean", "deviation"],
    typer.Option("--pooling", help="What a classifier sees of a layer: its mean over time, or mean and deviation."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FOLDER", help="Output folder for probe.json and a picture."),
]


def probe(
    model: Annotated[str, MODEL_OPTION],
    corpus: Annotated[list[str], CORPUS_OPTION],
    pooling: PoolingName = "deviation",
    channel: ChannelName = "mix",
    runtime: RuntimeName = "auto",
    dtype: DtypeName = None,
    out: Out = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the content of probe.json.")] = False,
    offline: Offline = False,
) -> None:
    """Show which layer of a model carries the labels of a corpus.

    Test speakers are left out, so that a layer can be chosen and tested on them.
    """
    from e2v_port.evaluation import probe as evaluation_probe
    from e2v_port.evaluation import readers, splits
    from e2v_port.models.load import load

    if out:
        need_folder("--out", out)
    corpora = [readers.read(spec) for spec in corpus]
    parts = splits.split(corpora)
    kept = [*parts["train"], *parts["dev"]]
    clips = {each.name: [clip for clip in kept if clip.corpus == each.name] for each in corpora}
    loaded = load(model, runtime=runtime, dtype=dtype, offline=offline)
    probes: dict[str, Probe] = {}
    with progress_bar(sum(map(len, clips.values()))) as advance:
        for name, utterances in clips.items():
            probes[name] = evaluation_probe.probe(loaded, utterances, pooling=pooling, channel=channel, advance=advance)
            for error in probes[name].errors:
                complain(error)
    result = {name: found.to_dict() for name, found in probes.items()}
    if as_json:
        import json

        from e2v_port.evaluation.results import plain

        print(json.dumps(plain(result), allow_nan=False))
    else:
        for name, found in probes.items():
            _print(name, found)
    if out:
        _write(result, probes, out)
    failed = sum(len(found.errors) for found in probes.values())
    finish(failed + sum(found.clips for found in probes.values()), failed)


def _print(name: str, found: "Probe") -> None:
    labels = ", ".join(f"{label} {count}" for label, count in found.labels.items())
    print(f"{name}: {found.model} on {found.runtime}, {found.pooling} of each layer")
    print(f"{found.clips} clips by {found.speakers} speakers in {found.folds} groups: {labels}")
    if found.unmapped:
        left = ", ".join(f"{printable(label) or 'no label'} {count}" for label, count in found.unmapped.items())
        print(f"left out, without a label that a model has: {left}")
    if found.seen:
        print(f"the model was trained on or chosen by {found.seen} of these clips: its layers are flattered")
    rows = [["layer", "UAR", "to the best layer", ""]]
    for each in found.layers:
        best = each.layer == found.best
        bar = "#" * round(40 * each.uar.value)
        rows.append([str(each.layer), str(each.uar), "best" if best else str(each.to_best), bar])
    print_table(rows)
    print(f"95 % intervals, {found.resampled} resampled; chance is {1 / len(found.labels):.3f}")
    print()


def _write(result: dict[str, Any], probes: "dict[str, Probe]", out: Path) -> None:
    import json
    from importlib.util import find_spec

    from e2v_port.evaluation.results import plain

    out.mkdir(exist_ok=True)
    with replacing(out / "probe.json") as partial:
        partial.write_text(json.dumps(plain(result), allow_nan=False, indent=1) + "\n", "utf-8", newline="\n")
    if find_spec("matplotlib") is None:
        print('probe.png is not drawn without matplotlib: pip install "e2v-port[plots]"', file=sys.stderr)
        return
    from e2v_port.evaluation.plots import plot_probes

    with replacing(out / "probe.png") as partial:
        plot_probes(probes, partial)
