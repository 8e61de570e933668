"""The documents match the program: help texts, links, commands, tables and line lengths."""

import ast
import doctest
import importlib
import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import typer

import e2v_port
from e2v_port import cli
from e2v_port.checkpoints import catalog
from e2v_port.converters import emotion2vec, wav2vec2, wavlm
from e2v_port.emotions import taxonomy
from e2v_port.emotions.estimates import DIMENSIONS
from e2v_port.parity.verify import PROBABILITY_TOLERANCE

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
COMMANDS = ROOT / "docs" / "cli.md"
JSON = ROOT / "docs" / "json.md"
TAXONOMY = ROOT / "docs" / "taxonomy.md"
MODELS = ROOT / "docs" / "models.md"
SCHEMA = ROOT / "e2v_port" / "analysis" / "schema.json"
HELP = re.compile(r"(<!-- help.*?-->\n).*?(<!-- /help -->)", re.S)
FIELDS = re.compile(r"(<!-- schema.*?-->\n).*?(<!-- /schema -->)", re.S)
LABELS = re.compile(r"(<!-- labels.*?-->\n).*?(<!-- /labels -->)", re.S)
KNOWN = re.compile(r"(<!-- models.*?-->\n).*?(<!-- /models -->)", re.S)
FOLDERS = (ROOT, *(ROOT / name for name in ("docs", "examples", "benchmarks/speech")), *ROOT.glob("weights/*/"))
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in folder.glob("*.md"))


def tracked() -> list[str]:
    """Returns every Markdown file that git tracks; without git, the documents."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return DOCUMENTS
    listed = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(name for name in listed.stdout.split("\0") if name and (ROOT / name).exists())


def reference() -> str:
    """Returns the help of the program and of every command as Markdown, at a width of 80 columns."""
    commands = [name.split() for name in _commands(typer.main.get_command(cli.app))]
    script = f"""if True:
        import sys
        from e2v_port.cli import main
        for command in {[[], *commands]}:
            sys.argv = ["e2v", *command, "--help"]
            print("\\f", end="")
            try:
                main()
            except SystemExit as end:
                assert not end.code
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "80", "PATH": "", "NO_COLOR": "1", "TERM": "dumb"},
    )
    parts = []
    for name, text in zip(["", *map(" ".join, commands)], done.stdout.split("\f")[1:], strict=True):
        title = f"## e2v {name}\n\n" if name else ""
        parts.append(f"{title}```text\n$ e2v {name + ' ' if name else ''}--help\n{text.strip()}\n```\n")
    return "\n".join(parts)


def field_lists() -> str:
    """Returns the objects of the JSON Schema as Markdown, with a list of the fields of each."""
    schema = json.loads(SCHEMA.read_text("utf-8"))
    parts = []
    for name, definition in schema["$defs"].items():
        parts.append(f"\n## {name}\n\n{textwrap.fill(definition['description'], 120)}\n")
        if required := definition.get("required") if "allOf" in definition else None:
            base = definition["allOf"][0]["$ref"].rpartition("/")[2]
            added = ", ".join(f"`{field}`" for field in required)
            always = f"All fields of [{base}](#{base}), including {added}."
            parts.append(f"\n{textwrap.fill(always, 120)}\n")
        if properties := definition.get("properties"):
            parts.append("\n")
            for field, about in properties.items():
                item = f"- `{field}` ({_type(about)}{_range(about)}): {about['description']}"
                parts.append(textwrap.fill(item, 120, subsequent_indent="  ", break_on_hyphens=False) + "\n")
    return "".join(parts) + "\n"


def label_lists() -> str:
    """Returns the classes of labels as a Markdown table, then each label set with the class of each label."""
    table = taxonomy.table("labels")
    lines = ["| class | polarity | compound | main emotions of the 26 |", "|---|---|---|---|"]
    for name, row in table["classes"].items():
        main = ", ".join(f"{emotion} {weight:.2f}" for emotion, weight in [*row["weights"].items()][:3])
        lines.append(f"| `{name}` | {row['polarity'] or 'either'} | {row['compound'] or '-'} | {main} |")
    lines.append("")
    for name, found in table["label_sets"].items():
        groups: dict[str, list[str]] = {}
        for label, meaning in found["labels"].items():
            groups.setdefault(meaning, []).append(label)
        meanings = ", ".join(
            meaning if [*map(str.casefold, labels)] == [meaning] else f"{meaning} ({', '.join(labels)})"
            for meaning, labels in groups.items()
        )
        item = f"- `{name}`: {meanings}. Source: {found['source']}."
        lines.append(textwrap.fill(item, 120, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(lines) + "\n\n"


def model_lists() -> str:
    """Returns the known models as a Markdown table, then what is published about each."""
    lines = ["| model | million parameters | gives | license |", "|---|---|---|---|"]
    alike: dict[str, list[str]] = {}  # names of models by what is published about them
    for model in catalog.known():
        labels = [f"{len(model.labels)} labels"] if model.labels else []
        if {*model.labels} == {*DIMENSIONS}:
            labels = ["arousal, dominance, valence"]
        outputs = [*labels, *model.outputs] or ["embeddings of voices" if model.speakers else "embeddings"]
        licence = re.split("[:(]", model.licence)[0].strip()
        lines.append(f"| `{model.id}` | {model.parameters / 1e6:.3g} | {', '.join(outputs)} | {licence} |")
        figures = [f"{each.figure} on {each.test_set} ({each.source})" for each in model.accuracy]
        known = {
            "Labels": ", ".join(model.labels),
            "Further outputs": ", ".join(model.outputs),
            "Training data": model.data,
            "Languages of labels": ", ".join(model.languages),
            "License": model.licence,
            "Published": "; ".join(figures),
        }
        text = " ".join(f"{name}: {fact}." for name, fact in known.items() if fact)
        alike.setdefault(text, []).append(f"`{model.id}`")
    facts = [
        textwrap.fill(f"- {', '.join(names)}. {text}", 120, subsequent_indent="  ", break_on_hyphens=False)
        for text, names in alike.items()
    ]
    return "\n".join([*lines, "", *facts]) + "\n\n"


def _type(about: dict[str, Any]) -> str:
    """Returns the type of a field: names, values or a link to the object."""
    if "const" in about:
        return f"`{json.dumps(about['const'])}`"
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    if "anyOf" in about or "allOf" in about:
        return " or ".join(_type(choice) for choice in about.get("anyOf") or about["allOf"])
    if "enum" in about:
        return ", ".join("null" if value is None else f"`{value}`" for value in about["enum"])
    types = about["type"] if isinstance(about["type"], list) else [about["type"]]
    inner = f" of {_type(about['items'])}" if "items" in about else ""
    return " or ".join(kind + (inner if kind == "array" else "") for kind in types)


def _range(about: dict[str, Any]) -> str:
    """Returns the range and the unit of a number."""
    low, high = about.get("minimum"), about.get("maximum")
    span = [f"{low} to {high}"] if low is not None and high is not None else []
    unit = [about["unit"]] if about.get("unit", "probability") != "probability" else []
    return "".join(f", {part}" for part in (*span, *unit))


def test_the_fields_of_the_json_are_those_of_the_schema() -> None:
    """Run this file as a program to rewrite the lists."""
    block = FIELDS.search(JSON.read_text("utf-8"))
    assert block
    assert block[0] == block[1] + field_lists() + block[2]


def test_the_label_sets_are_those_of_the_taxonomy() -> None:
    """Run this file as a program to rewrite them."""
    block = LABELS.search(TAXONOMY.read_text("utf-8"))
    assert block
    assert block[0] == block[1] + label_lists() + block[2]


def test_the_known_models_are_those_of_the_manifest() -> None:
    """Run this file as a program to rewrite them."""
    block = KNOWN.search(MODELS.read_text("utf-8"))
    assert block
    assert block[0] == block[1] + model_lists() + block[2]


def test_the_command_reference_shows_the_help_of_the_program() -> None:
    """Run this file as a program to rewrite the reference."""
    block = HELP.search(COMMANDS.read_text("utf-8"))
    assert block
    assert block[0] == block[1] + reference() + block[2]


def test_what_sixteen_bits_may_change_is_said_alike_and_holds_every_measurement() -> None:
    texts = {name: (ROOT / name).read_text("utf-8") for name in [*DOCUMENTS, "e2v_port/models/load.py"]}
    said = {
        (name, float(number))
        for name, text in texts.items()
        for number in re.findall(
            r"(?:probabilit(?:y|ies)[^.|]{0,30}(?:less|more) than|tolerance (?:of|is)|\(tolerance) (0\.0\d+)",
            " ".join(text.split()),
        )
    }
    assert {name for name, _ in said} >= {
        "docs/start.md",
        "docs/numbers.md",
        "docs/benchmarks.md",
        "docs/port.md",
        "e2v_port/models/load.py",
    }
    assert {number for _, number in said} == {PROBABILITY_TOLERANCE}
    measured = re.findall(r"differ from FunASR's by up to (0\.\d+)", texts["docs/benchmarks.md"])
    measured += re.findall(r"\| (?:float16|bfloat16|q8) \| \d+ MB \| (0\.\d+) \|", texts["docs/port.md"])
    assert len(measured) == 5
    assert max(map(float, measured)) < PROBABILITY_TOLERANCE


@pytest.mark.parametrize("family", [emotion2vec, wav2vec2, wavlm])
def test_every_rename_is_in_the_document(family) -> None:
    text = (ROOT / "docs" / "port.md").read_text("utf-8")
    for rule in family.RULES:
        source = re.sub(r"\[\w+\.\]", "", rule.source)  # prefixes that may be absent
        source = source.replace("modality_encoders.AUDIO.", "A.")
        # The blocks and the two parts of a layer share a row.
        stem = re.sub(r"\.(weight|bias|weight_v|parametrizations\..*)$|\{\*\}$", "", source)
        last = stem.split(".")[-1]
        assert stem in text or f".{last}" in text, rule.source


def test_the_python_reference_has_every_public_name() -> None:
    shown = re.findall(r"^::: e2v_port\.(\w+)$", (ROOT / "docs" / "api.md").read_text("utf-8"), re.M)
    assert sorted(shown) == sorted({*e2v_port.__all__} - {"__version__"})


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_examples_of_the_documents_run(document: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs the examples that have a prompt and its output."""
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(ROOT / document), module_relative=False)
    assert result.failed == 0


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_programs_of_the_documents_use_what_exists(document: str) -> None:
    for program in re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text("utf-8"), re.M | re.S):
        for node in ast.walk(ast.parse(program)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "e2v_port":
                names = {*dir(importlib.import_module(node.module))}
                folder = ROOT / Path(*node.module.split("."))
                modules = {path.stem for path in [*folder.glob("*.py"), *folder.glob("*/")]}
                assert {name.name for name in node.names} <= names | modules, program
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "e2v_port":
                assert node.attr in e2v_port.__all__, program


def _commands(group: Any, above: str = "") -> dict[str, Any]:
    """Returns every command by its name, those inside groups as `group command`."""
    found = {}
    for name, command in group.commands.items():
        found[f"{above}{name}"] = command
        found |= _commands(command, f"{name} ") if hasattr(command, "commands") else {}
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_of_the_documents_exist(document: str) -> None:
    options = {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in _commands(typer.main.get_command(cli.app)).items()
    }
    text = (ROOT / document).read_text("utf-8")
    for command, line in re.findall(r"^ *(?:\$ )?e2v ((?:dialogue )?\w+)( .*|)$", text, re.M):
        assert command in options, line
        shown = re.findall(r"(?<!\S)(--[a-z][a-z-]*|-[a-z])(?!\S)", line.split("#")[0])
        assert {*shown} <= options[command] | {"--help"}, (command, line)


@pytest.mark.parametrize("document", tracked())
def test_no_line_is_longer_than_120_columns(document: str) -> None:
    lines = (ROOT / document).read_text("utf-8").splitlines()
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)#]+)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_make_targets_of_the_documents_exist(document: str) -> None:
    for target in re.findall(r"^make ([a-z]+)", (ROOT / document).read_text("utf-8"), re.M):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    text = COMMANDS.read_text("utf-8")
    COMMANDS.write_text(HELP.sub(lambda block: block[1] + reference() + block[2], text), "utf-8")
    text = JSON.read_text("utf-8")
    JSON.write_text(FIELDS.sub(lambda block: block[1] + field_lists() + block[2], text), "utf-8")
    text = TAXONOMY.read_text("utf-8")
    TAXONOMY.write_text(LABELS.sub(lambda block: block[1] + label_lists() + block[2], text), "utf-8")
    text = MODELS.read_text("utf-8")
    MODELS.write_text(KNOWN.sub(lambda block: block[1] + model_lists() + block[2], text), "utf-8")
