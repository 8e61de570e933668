"""e2v convert, e2v export, e2v models, e2v accept, e2v doctor and e2v verify."""

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from e2v_port.cli.options import MODEL_OPTION, ModelName, Offline, agreed
from e2v_port.cli.output import PARTIAL_FAILURE, complain, fail, finish, print_table
from e2v_port.errors import E2VError

if TYPE_CHECKING:
    from e2v_port.checkpoints.catalog import KnownModel
    from e2v_port.parity.verify import Check

__all__ = ["accept", "convert", "doctor", "export", "models", "verify"]


Checkpoint = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="Known model, owner/name on a hub, checkpoint folder or .pt file."
    ),
]
Hub = Annotated[Literal["auto", "modelscope", "huggingface"], typer.Option(help="Hub to download from.")]
Revision = Annotated[
    str | None, typer.Option(metavar="NAME", help="Branch, tag or commit on the hub. Default: its main branch.")
]
StoredDtype = Annotated[
    Literal["float32", "float16", "bfloat16", "q8", "q4"],
    typer.Option(help="Type of the stored weights. q8 and q4 pack large matrices into 8 or 4 bits per number."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="Output folder. Default: the cache, where --model finds it.",
    ),
]
KeepNpz = Annotated[bool, typer.Option("--keep-npz", help="Keep the intermediate npz file.")]

Described = Annotated[
    Path | None,
    typer.Option(
        "--head",
        metavar="FILE",
        help="JSON file that describes the head of a fine-tuned model, or names its labels: see docs/models.md.",
    ),
]

Emotions = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Emotions to take from a model with a network for each (Empathic Insight), such as Anger,Sadness. "
        "Default: all.",
        show_default=False,
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="Encoder of such a model, named as for --model. Default: its own.", show_default=False
    ),
]


def convert(
    model: Checkpoint,
    hub: Hub = "auto",
    revision: Revision = None,
    dtype: StoredDtype = "float32",
    out: Out = None,
    keep_npz: KeepNpz = False,
    head: Described = None,
    emotions: Emotions = None,
    encoder: Encoder = None,
    offline: Offline = False,
) -> None:
    """Convert a checkpoint to model.safetensors and config.json."""
    from e2v_port.architectures.config import ModelConfig
    from e2v_port.models.convert import convert as convert_

    folder = convert_(
        model,
        hub=hub,
        revision=revision,
        dtype=dtype,
        out=out,
        keep_npz=keep_npz,
        head=head,
        emotions=None if emotions is None else [name.strip() for name in emotions.split(",")],
        encoder=encoder,
        offline=offline,
    )
    config = ModelConfig.read(folder)
    size = (folder / "model.safetensors").stat().st_size / 1e6
    gives = [f"{len(config.labels)} labels"] if config.labels else []
    gives += [f"further outputs: {', '.join(config.others)}"] if config.others else []
    print(
        f"{folder}: {config.dtype}, {size:.0f} MB, {'; '.join(gives) or 'no labels: embeddings only'}, "
        "verified bit by bit"
    )


def export(
    model: Annotated[str, MODEL_OPTION],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FOLDER", help="Output folder; for silero the output file.", show_default=False
        ),
    ],
    form: Annotated[Literal["onnx"], typer.Option("--format", help="Format of the file.")] = "onnx",
    dtype: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(help="Type of the weights in the file. int8 rounds the large matrices of transformers."),
    ] = "float32",
    opset: Annotated[int, typer.Option(metavar="N", help="Version of ONNX's operators, 18 to 23.")] = 18,
    offline: Offline = False,
) -> None:
    """Write a model as ONNX, for programs without this package.

    The folder holds model.onnx, its configuration and run.py, which judges a WAV with numpy and onnxruntime alone;
    --runtime onnx runs it here. --model silero writes the voice activity detector of this package, as a single file.
    See docs/onnx.md.
    """
    if model == "silero":
        if dtype != "float32":
            fail("silero is exported as float32 only: leave --dtype out")
        from e2v_port.export.vad import export_vad

        difference = export_vad(out, opset=opset)
        size = out.stat().st_size / 1e6
        print(f"{out}: float32, {size:.1f} MB; probabilities within {difference:.1e} of this package's")
        return
    from e2v_port.export.onnx_folder import export_onnx

    done = export_onnx(model, out, dtype=dtype, opset=opset, offline=offline)
    compared = ", ".join(done.compared)
    print(f"{out}: {dtype}, {done.bytes / 1e6:.1f} MB; {compared} within {done.difference:.1e} of this package's")


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Model to describe. Default: list all.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per model.")] = False,
    profiles: Annotated[bool, typer.Option("--profiles", help="List what each --profile chooses.")] = False,
) -> None:
    """List known and converted models, or show all about one."""
    from e2v_port.checkpoints import catalog

    if profiles:
        if name is not None or as_json:
            fail("--profiles lists all profiles: leave MODEL and --json out")
        _print_profiles()
        return

    rows = [_known_model(model) for model in catalog.known()]
    known = {row["id"] for row in rows}
    rows += [_local_model(converted) for converted in catalog.converted() if converted not in known]
    if name is not None:
        found = catalog.lookup(name)
        rows = [row for row in rows if row["id"] == (found.id if found else name)]
        if not rows:
            raise catalog.not_found(name)
    if as_json:
        import json

        for row in rows:
            print(json.dumps(row))
    elif name is not None:
        _print_model(rows[0])
    else:
        _print_models(rows)


def _print_profiles() -> None:
    """Prints what each profile chooses, and which of its licenses were not accepted yet."""
    from e2v_port.checkpoints import consent
    from e2v_port.models.profiles import PROFILES

    for each in PROFILES.values():
        print(each.name)
        facts = [
            ("for", each.purpose),
            ("model", each.model),
            ("dimensional", each.dimensional or "none"),
            ("dtype", each.dtype or "as stored"),
            ("words", each.words or "none"),
            ("timeout", f"{each.timeout:g} s"),
        ]
        missing = consent.lacking(filter(None, (each.model, each.dimensional)))
        facts += [("accept", f"{one.title} of {one.model}: {one.terms}") for one in missing]
        for heading, text in facts:
            print(textwrap.fill(f"{heading:13}{text}", 80, initial_indent="  ", subsequent_indent=" " * 15))


_MOST_LABELS = 9  # listed one by one; more are counted


def _print_models(rows: list[dict[str, Any]]) -> None:
    """Prints a few lines about each model, within 80 columns, then the folders searched."""
    from e2v_port.checkpoints import catalog

    for row in rows:
        size = [] if row["bytes"] is None else [f"{row['bytes'] / 1e6:.1f} MB"]
        languages = [", ".join(row["languages"])] if row["languages"] else []
        facts = [f"{_millions(row['parameters'])} parameters", *size, *languages, _state(row)]
        print(row["id"])
        for text in ("; ".join(facts), _gives(row, _MOST_LABELS), row["licence"]):
            print(textwrap.fill(text, 80, initial_indent="  ", subsequent_indent="    "))
    print()
    print("languages: those of the labeled speech a model was trained on, where known")
    print("e2v models MODEL: its training data and published accuracy")
    print(f"folders: {', '.join(map(str, catalog.roots()))}")


def _print_model(row: dict[str, Any]) -> None:
    """Prints all that is known about a model."""
    stored = "" if row["bytes"] is None else f"; {_megabytes(row['bytes'])} on the disk"
    facts = [
        ("parameters", _millions(row["parameters"])),
        ("memory", f"about {_megabytes(4 * row['parameters'])} in float32{stored}"),
        ("embedding", f"{row['dimensions']} numbers"),
        ("gives", _gives(row)),
        ("languages", ", ".join(row["languages"]) or "not known here"),
        ("data", row["data"] or "not known here"),
        *(("accuracy", f"{each['figure']} on {each['test_set']} ({each['source']})") for each in row["accuracy"]),
        ("license", row["licence"]),
        ("here", _state(row) if row["converted"] is None else f"{_state(row)}: {row['converted']}"),
    ]
    print(row["id"])
    if not row["accuracy"]:
        facts.append(("accuracy", "no published figure known here"))
    for heading, text in facts:
        print(textwrap.fill(f"{heading:11}{text}", 80, initial_indent="  ", subsequent_indent=" " * 13))


def _gives(row: dict[str, Any], most: int | None = None) -> str:
    """Names the labels and the further outputs of a model; more labels than `most` are counted."""
    labels = row["labels"]
    parts = [f"{len(labels)} labels"] if most and len(labels) > most else labels
    return ", ".join([*parts, *row["outputs"]]) or ("embeddings of voices" if row["speakers"] else "embeddings")


def _state(row: dict[str, Any]) -> str:
    return "not converted" if row["converted"] is None else "bundled" if row["bundled"] else "converted"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.{0 if size >= 1e8 else 1 if size >= 1e6 else 2}f} MB"


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.{0 if parameters >= 1e6 else 1 if parameters >= 1e5 else 2}f} million"


def _known_model(model: "KnownModel") -> dict[str, Any]:
    """Returns the row of a model of the manifest."""
    from e2v_port.checkpoints import catalog

    folder = catalog.find(model.id)
    return {
        "id": model.id,
        "parameters": model.parameters,
        "dimensions": model.embed_dim,
        "labels": list(model.labels),
        "outputs": list(model.outputs),
        "speakers": model.speakers,
        "languages": list(model.languages),
        "data": model.data,
        "accuracy": [asdict(each) for each in model.accuracy],
        "licence": model.licence,
        "bundled": model.bundled,
        "converted": str(folder) if folder else None,
        "bytes": (folder / "model.safetensors").stat().st_size if folder else None,
    }


def _local_model(name: str) -> dict[str, Any]:
    """Returns the row of a converted model that is not a known one."""
    from e2v_port.architectures import tensors
    from e2v_port.architectures.config import ModelConfig
    from e2v_port.checkpoints import catalog

    folder = catalog.find(name)
    assert folder is not None
    config = ModelConfig.read(folder)
    return {
        "id": name,
        "parameters": tensors.parameters(config.architecture),
        "dimensions": config.architecture.embed_dim,
        "labels": [label.name for label in config.labels if not label.unused],
        "outputs": list(config.others),
        "speakers": config.architecture.speakers,
        "languages": [],
        "data": "",
        "accuracy": [],
        "licence": config.licence,
        "bundled": False,
        "converted": str(folder),
        "bytes": (folder / "model.safetensors").stat().st_size,
    }


def doctor() -> None:
    """Show what this machine can run, and why not the rest."""
    import platform

    from e2v_port.architectures.registry import FAMILIES
    from e2v_port.audio import ffmpeg
    from e2v_port.checkpoints import catalog, hubs
    from e2v_port.checkpoints.clients import CLIENTS
    from e2v_port.models import devices
    from e2v_port.parity import references
    from e2v_port.version import __version__

    table = [
        ["component", "state"],
        ["e2v-port", __version__],
        ["Python", f"{platform.python_version()} on {platform.platform()}"],
    ]
    for runtime in (*devices.RUNTIMES, *devices.PROVIDERS):
        reason = devices.unavailable(runtime)
        table.append([f"runtime {runtime}", f"no: {reason}" if reason else f"yes: {devices.describe(runtime)}"])
    table.append(["runtime auto", f"uses {devices.choose('auto')}"])
    needed = "not installed, and needed for M4A, WebM, MP4 and the like"
    table.append(["FFmpeg", "installed" if ffmpeg.installed() else f'{needed}: pip install "e2v-port[media]"'])
    families: dict[str, list[str]] = {}  # by the library of their reference
    for family in FAMILIES:
        reference = references.reference(family)
        if reference is not None and reference.library != "torch":  # which has rows of its own
            families.setdefault(reference.library, []).append(family)
    for library, names in families.items():
        state = "installed" if references.installed(names[0]) else "not installed"
        needed = f"needed only by `e2v verify`, as the reference of {', '.join(names)}"
        table.append([library, f"{state}: {needed}"])
    network = "never used (E2V_OFFLINE)" if hubs.offline_by_environment() else "used to download models"
    if lacking := [client.title for client in CLIENTS.values() if not client.installed()]:
        network += f'; no client for {", ".join(lacking)}: pip install "e2v-port[hub]"'
    table.append(["network", network])
    table += [["weights", str(root) if root.is_dir() else f"{root} (does not exist yet)"] for root in catalog.roots()]
    converted = ", ".join(catalog.converted()) or "no model yet: e2v convert --model iic/emotion2vec_plus_base"
    table.append(["converted", converted])
    bundled = (model.id for model in catalog.known() if model.bundled)
    table += [[name, str(catalog.find(name) or "missing: reinstall e2v-port from its wheel")] for name in bundled]
    print_table(table)


def verify(
    model: ModelName = None,
    runtime: Annotated[
        str,
        typer.Option("--runtime", "-r", metavar="NAME", help="Runtime to compare, or all available."),
    ] = "all",
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Original checkpoint, if it has moved since its conversion."),
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Audio file to compare on. Default: a synthetic clip.")
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Repository or checkpoint that the weights are said to come from, e.g. openai/whisper-base: every "
            "tensor is compared with it.",
        ),
    ] = None,
    offline: Offline = False,
) -> None:
    """Compare converted models with their reference implementations.

    The references are FunASR and transformers, where installed, and published outputs. Without --model, all
    converted models are compared.
    """
    from e2v_port.checkpoints import catalog
    from e2v_port.models import devices

    if (checkpoint or origin) and not model:
        fail(f"--{'checkpoint' if checkpoint else 'origin'} needs --model: it belongs to one model")
    names = [model] if model else catalog.converted()
    if not names:
        fail("no model is converted on this machine: run e2v convert --model iic/emotion2vec_plus_base")
    runtimes = (
        [name for name in devices.RUNTIMES if devices.unavailable(name) is None] if runtime == "all" else [runtime]
    )
    failed = different = 0
    for name in names:
        try:
            different += not _verify(name, runtimes, checkpoint, audio, origin, offline)
        except E2VError as error:
            failed += 1
            complain(str(error))
    finish(len(names), failed)
    if different:
        raise typer.Exit(PARTIAL_FAILURE)


def _compared_with(origin: str, model: str, offline: bool) -> "list[Check]":
    """Compares the weights of a model with those of its origin, which is converted to the same dtype if necessary."""
    from e2v_port.architectures.config import ModelConfig
    from e2v_port.checkpoints import catalog
    from e2v_port.models.convert import convert, folder_of
    from e2v_port.parity.origin import compare

    folder = folder_of(model, offline=offline)
    dtype = ModelConfig.read(folder).dtype
    found = catalog.find(origin if dtype == "float32" else f"{origin}-{dtype}")
    return compare(folder, found or convert(origin, dtype=dtype, offline=offline))


def _verify(
    model: str, runtimes: list[str], checkpoint: Path | None, audio: Path | None, origin: str | None, offline: bool
) -> bool:
    """Prints the table and the verdict of one model, and returns whether it equals its reference."""
    from e2v_port.models.load import load
    from e2v_port.parity import verify

    loaded = [load(model, runtime=name, offline=offline) for name in runtimes]
    rows, notes = verify.verify(loaded, audio, checkpoint)
    if origin:
        rows += [tuple([check] * len(loaded)) for check in _compared_with(origin, model, offline)]
    if not rows:
        raise E2VError(f"{model}: nothing to compare with: {'; '.join(notes)}")
    table = [["largest difference", *(each.runtime for each in loaded), "tolerance"]]
    for row in rows:
        tolerances = dict.fromkeys(
            "-" if check.tolerance == float("inf") else f"{check.tolerance:.0e}" for check in row
        )
        marks = [f"{check.difference:.1e}{'' if check.passed else ' !'}" for check in row]
        table.append([row[0].name, *marks, ", ".join(tolerances)])
    print_table(table)
    for note in notes:
        print(note)
    off = [check.name for row in rows for check in row if not check.passed]
    total = sum(map(len, rows))
    verdict = "equal within tolerance"
    if off:
        verdict = f"NOT EQUAL: {len(off)} of {total} exceed their tolerance, first {off[0]}"
    print(f"{model}: {verdict}", flush=True)
    return not off


LicensedNames = Annotated[
    list[str] | None, typer.Argument(metavar="MODEL", help="Models whose licenses you accept.", show_default=False)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Accept without asking, in scripts.")]
ListAccepted = Annotated[bool, typer.Option("--list", help="List what was accepted, with the date.")]
Withdraw = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Take back what was accepted for a model.", show_default=False)
]


def accept(
    models: LicensedNames = None, yes: Yes = False, listing: ListAccepted = False, withdraw: Withdraw = None
) -> None:
    """Accept licenses that restrict the use of models, for --profile.

    Shows each license with what it restricts and where its text is, and asks. What is accepted is remembered with its
    date and hash in the user's folder of settings.
    """
    from e2v_port.checkpoints import consent
    from e2v_port.checkpoints.licenses import restriction

    if sum((bool(models), listing, withdraw is not None)) != 1:
        fail("name models, or pass --list or --withdraw MODEL: one of the three")
    if listing:
        _print_accepted()
    elif withdraw is not None:
        print(f"{withdraw}: {'withdrawn' if consent.withdraw(withdraw) else 'was not accepted'}")
    else:
        found = [(name, restriction(name)) for name in dict.fromkeys(models or ())]
        for name, terms in found:
            if terms is None:
                print(f"{name}: its license allows any use, nothing to accept")
        restricted = [terms for _, terms in found if terms]
        if restricted and not yes and not agreed(restricted):
            fail("not accepted (--yes accepts without a terminal)")
        if restricted:
            consent.accept(restricted)
            for each in restricted:
                print(f"accepted: {each.model}: {each.licence} ({each.link})")


def _print_accepted() -> None:
    from e2v_port.checkpoints import consent
    from e2v_port.checkpoints.licenses import restriction

    rows = []
    for each in consent.accepted().values():
        try:
            now = restriction(each.model)
        except E2VError:
            now = None
        current = "in force" if now and now.sha256 == each.sha256 else "out of date: accept it again"
        rows.append([each.model, each.licence, each.date, current])
    if not rows:
        print("nothing accepted yet")
        return
    print_table([["model", "license", "accepted", "state"], *rows])
