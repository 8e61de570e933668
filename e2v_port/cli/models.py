"""e2v convert, e2v models, e2v doctor, e2v verify."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from e2v_port.cli.options import ModelName, Offline
from e2v_port.cli.output import PARTIAL_FAILURE, complain, fail, finish, print_table
from e2v_port.errors import E2VError

__all__ = ["convert", "doctor", "models", "verify"]


def convert(
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="MODEL", help="Known model, owner/name on a hub, folder or .pt file."),
    ],
    hub: Annotated[Literal["auto", "modelscope", "huggingface"], typer.Option(help="Where to download from.")] = "auto",
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch, tag or commit on the hub; by default its main branch.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16", "q8", "q4"],
        typer.Option(help="Of the stored weights; q8 and q4 pack the large matrices, 8 or 4 bits a number."),
    ] = "float32",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Where to write; by default where --model finds it."),
    ] = None,
    keep_npz: Annotated[bool, typer.Option("--keep-npz", help="Keep the npz between the two halves.")] = False,
    offline: Offline = False,
) -> None:
    """Convert a checkpoint to model.safetensors and config.json."""
    from e2v_port.config import ModelConfig
    from e2v_port.conversion import convert as convert_

    folder = convert_(model, hub=hub, revision=revision, dtype=dtype, out=out, keep_npz=keep_npz, offline=offline)
    config = ModelConfig.read(folder)
    size = (folder / "model.safetensors").stat().st_size / 1e6
    labels = f"{len(config.labels)} labels" if config.labels else "no labels: embeddings only"
    print(f"{folder}: {config.dtype}, {size:.0f} MB, {labels}, read back and equal bit by bit")


def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """List the known models and what is converted on this machine."""
    from e2v_port import catalog
    from e2v_port.config import DIMENSIONS

    rows: list[dict[str, Any]] = [
        {
            "id": model.id,
            "parameters": model.parameters,
            "dimensions": model.embed_dim,
            "labels": list(model.labels),
            "licence": model.licence,
            "converted": str(catalog.find(model.id) or "") or None,
        }
        for model in catalog.known()
    ]
    known = {row["id"] for row in rows}
    rows += [_own_model(name) for name in catalog.converted() if name not in known]
    if as_json:
        import json

        for row in rows:
            print(json.dumps(row))
        return
    table = [["model", "parameters", "width", "gives", "licence", "converted"]]
    sets: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        kind = "dimensions" if set(row["labels"]) == set(DIMENSIONS) else "labels"
        gives = f"{len(row['labels'])} {kind}" if row["labels"] else "embeddings"
        converted = "in the package" if row["id"] == catalog.BUNDLED else "yes" if row["converted"] else "no"
        table.append(
            [row["id"], _millions(row["parameters"]), str(row["dimensions"]), gives, row["licence"], converted]
        )
        if row["labels"]:
            sets.setdefault(tuple(row["labels"]), []).append(row["id"])
    print_table(table)
    print()
    for labels, names in sets.items():
        print(f"{', '.join(labels)}: {', '.join(names)}")
    print(f"folders: {', '.join(map(str, catalog.roots()))}")


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.{0 if parameters >= 1e6 else 1 if parameters >= 1e5 else 2}f} million"


def _own_model(name: str) -> dict[str, Any]:
    """Returns the row of a converted model that is not in the manifest."""
    from e2v_port import catalog, layout
    from e2v_port.config import ModelConfig

    folder = catalog.find(name)
    assert folder is not None
    config = ModelConfig.read(folder)
    return {
        "id": name,
        "parameters": layout.parameters(config.architecture),
        "dimensions": config.architecture.embed_dim,
        "labels": [label.name for label in config.labels if not label.unused],
        "licence": config.licence,
        "converted": str(folder),
    }


def doctor() -> None:
    """Say what this machine can run, and why not the rest."""
    import platform

    from e2v_port import __version__, catalog, devices, hubs, references

    table = [
        ["what", "state"],
        ["e2v-port", __version__],
        ["Python", f"{platform.python_version()} on {platform.platform()}"],
    ]
    for runtime in devices.RUNTIMES:
        reason = devices.unavailable(runtime)
        table.append([f"runtime {runtime}", f"no: {reason}" if reason else f"yes: {devices.describe(runtime)}"])
    table.append(["runtime auto", f"takes {devices.choose('auto')}"])
    for family, (library, _) in references.REFERENCES.items():
        if library == "torch":  # told of above
            continue
        state = "installed" if references.installed(family) else "not installed"
        table.append([library, f"{state}: `e2v verify` compares {family} with it, nothing else needs it"])
    network = "never used (E2V_OFFLINE)" if hubs.offline_by_environment() else "used to download models"
    table.append(["network", network])
    table += [["weights", str(root) if root.is_dir() else f"{root} (does not exist yet)"] for root in catalog.roots()]
    converted = ", ".join(catalog.converted()) or "no model yet: e2v convert --model iic/emotion2vec_plus_base"
    table.append(["converted", converted])
    table.append([catalog.BUNDLED, str(catalog.find(catalog.BUNDLED) or "missing: install e2v-port again")])
    print_table(table)


def verify(
    model: ModelName = None,
    runtime: Annotated[
        str, typer.Option("--runtime", "-r", metavar="NAME", help="One runtime, or all that this machine has.")
    ] = "all",
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Unconverted checkpoint, if it has moved since the conversion."),
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Clip to compare on; by default one made for it.")
    ] = None,
    offline: Offline = False,
) -> None:
    """Compare converted models, by default all, with their references.

    These are FunASR and transformers, where they are installed, and published outputs.
    """
    from e2v_port import catalog, devices

    if checkpoint and not model:
        fail("--checkpoint belongs to one model: name it with --model")
    names = [model] if model else catalog.converted()
    if not names:
        fail("no model is converted on this machine: e2v convert --model iic/emotion2vec_plus_base")
    runtimes = (
        [name for name in devices.RUNTIMES if devices.unavailable(name) is None] if runtime == "all" else [runtime]
    )
    failed = different = 0
    for name in names:
        try:
            different += not _verify(name, runtimes, checkpoint, audio, offline)
        except E2VError as error:
            failed += 1
            complain(str(error))
    finish(len(names), failed)
    if different:
        raise typer.Exit(PARTIAL_FAILURE)


def _verify(model: str, runtimes: list[str], checkpoint: Path | None, audio: Path | None, offline: bool) -> bool:
    """Prints the table and the verdict of one model, and tells whether it is equal."""
    from e2v_port import verify
    from e2v_port.model import load

    loaded = [load(model, runtime=name, offline=offline) for name in runtimes]
    rows, notes = verify.verify(loaded, audio, checkpoint)
    if not rows:
        raise E2VError(f"{model}: nothing to compare with: {'; '.join(notes)}")
    table = [["largest difference", *(each.runtime for each in loaded), "bar"]]
    for row in rows:
        bars = dict.fromkeys("-" if check.bar == float("inf") else f"{check.bar:.0e}" for check in row)
        marks = [f"{check.difference:.1e}{'' if check.passed else ' !'}" for check in row]
        table.append([row[0].name, *marks, ", ".join(bars)])
    print_table(table)
    for note in notes:
        print(note)
    off = [check.name for row in rows for check in row if not check.passed]
    total = sum(map(len, rows))
    verdict = f"NOT EQUAL: {len(off)} of {total} exceed their bar, first {off[0]}" if off else "equal within the bars"
    print(f"{model}: {verdict}", flush=True)
    return not off
