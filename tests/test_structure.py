"""The house stands: imports point down, in no circle of files or of folders, and every folder is installed."""

import ast
import re
import textwrap
import tomllib
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from e2v_port import seam
from e2v_port.architectures.registry import FAMILIES
from e2v_port.models import devices

ROOT = Path(__file__).parents[1]
# Where each folder of the checkout lies in the installed package.
FOLDERS = {"e2v_port": "e2v_port", "converters": "e2v_port.converters", "runtimes": "e2v_port.runtimes"}
LARGEST_FOLDER = 14  # modules: "about a dozen"
SEAM = "e2v_port.seam"


@cache
def modules() -> dict[str, Path]:
    """Every module by the name it is imported by."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [part for part in path.relative_to(ROOT / folder).with_suffix("").parts if part != "__init__"]
            found[".".join([package, *parts])] = path
    return found


@cache
def imports() -> dict[str, frozenset[str]]:
    """The modules that each module imports: at its top, in functions, for the type checker, or by name in a string."""
    return {name: frozenset(_imported(name, path)) for name, path in modules().items()}


def _imported(name: str, path: Path) -> set[str]:
    found = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in modules() else base)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            found |= {text.value for text in ast.walk(node) if isinstance(text, ast.Constant)}
    return {module for module in found if module in modules() and module != name}


def room(module: str) -> str:
    """The folder of a module: `speech` for `e2v_port.speech.detect`; for one on the ground floor its own name."""
    parts = module.split(".")[1:]
    path = modules()[module]
    return parts[0] if len(parts) > 1 or (path.name == "__init__.py" and parts) else module


def circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(node) for node in error.args[1]]
    return []


# e2v_port/__init__.py and the seam name what lies above them and import it on first use: that is what they are for.
DOORS = {"e2v_port", SEAM}
# From the ground up: a folder imports from those before it, never from one after it. Modules of the ground floor, which
# lie in e2v_port/ itself, import no folder at all.
FLOORS = (
    "unpickling",
    "audio",
    "emotions",
    "speech",
    "prosody",
    "expression",
    "architectures",
    "checkpoints",
    "converters",
    "runtimes",
    "models",
    "transcribe",
    "speakers",
    "llm",
    "analysis",
    "live",
    "parity",
    "export",
    "evaluation",
    "training",
    "corpus",
    "service",
    "bench",
    "cli",
)


def test_no_circle_of_files() -> None:
    graph = {name: set(found - DOORS) for name, found in imports().items() if name not in DOORS}
    assert circle(graph) == []


def test_imports_point_down() -> None:
    height = {name: number for number, name in enumerate(FLOORS)}
    assert set(height) == {room(name) for name in modules() if room(name) not in modules()}
    upwards = [
        f"{name} imports {target}"
        for name, found in imports().items()
        for target in found - DOORS
        if name not in DOORS and height.get(room(target), -1) > height.get(room(name), -1)
    ]
    # `python -m e2v_port` is the command line.
    assert [arrow for arrow in upwards if not arrow.startswith("e2v_port.__main__ ")] == []


@pytest.mark.parametrize("folder", ["converters", "runtimes"])
def test_only_the_seam_reaches_what_is_mapped_into_the_package(folder: str) -> None:
    package = FOLDERS[folder]
    inside = {
        name for name in modules() if name.startswith("e2v_port.") and room(name) not in {"converters", "runtimes"}
    }
    users = {name for name in inside if any(target.startswith(package) for target in imports()[name])}
    assert users <= {SEAM}


def test_every_folder_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    there = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert set(listed) - {"e2v_port.taxonomy", "e2v_port.weights"} == there
    assert len(listed) == len(set(listed))


def test_no_folder_is_crowded() -> None:
    names: dict[Path, set[str]] = defaultdict(set)
    for path in modules().values():
        if path.name != "__init__.py":
            name = re.sub("_(torch|mlx|numpy|onnx)$", "", path.stem)  # twins count as one
            names[path.parent].add("a family" if name in FAMILIES else name)  # and so do families: one file for each
    assert {str(folder): len(found) for folder, found in names.items() if len(found) > LARGEST_FOLDER} == {}


def test_every_folder_says_what_it_is_for() -> None:
    rooms = [path for path in modules().values() if path.name == "__init__.py"]
    silent = [str(path) for path in rooms if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert silent == []


def test_the_seam_shows_the_type_checker_what_it_imports() -> None:
    declared = {}
    for node in ast.walk(ast.parse(modules()[SEAM].read_text("utf-8"))):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            for line in node.body:
                if isinstance(line, ast.ImportFrom) and line.module:
                    home = line.module.removeprefix("e2v_port.")
                    declared |= {alias.asname or alias.name: home for alias in line.names}
    loaders = {name for name, home in declared.items() if f"e2v_port.{home}.{name}" in modules()}
    assert {name: home for name, home in declared.items() if name not in loaders} == seam._HOME
    assert {f"e2v_port.runtimes.{name}" for name in loaders} == {
        f"e2v_port.runtimes.{name}" for name in (*devices.RUNTIMES.values(), "onnx_runtime")
    }
    assert set(seam._HOME) <= set(seam.__all__)
    for name, home in seam._HOME.items():
        tree = ast.parse(modules()[f"e2v_port.{home}"].read_text("utf-8"))
        assert name in {getattr(node, "name", None) for node in tree.body}


MARGIN = " " * 15


def house() -> str:
    """Returns the folders as docs/architecture.md draws them: from the roof down, with purpose and imports."""
    below: dict[str, set[str]] = defaultdict(set)
    for name, found in imports().items():
        if name not in DOORS:
            below[room(name)] |= {room(target) for target in found - DOORS} & set(FLOORS) - {room(name)}
    lines: list[str] = []
    for name in reversed(FLOORS):
        docstring = ast.get_docstring(ast.parse(modules()[f"e2v_port.{name}"].read_text("utf-8"))) or ""
        under = ", ".join(other for other in reversed(FLOORS) if other in below[name])
        lines += textwrap.wrap(
            docstring.partition("\n")[0], 120, initial_indent=f"{name:<15}", subsequent_indent=MARGIN
        )
        if under:
            lines += textwrap.wrap(f"imports {under}", 120, initial_indent=MARGIN, subsequent_indent=MARGIN)
    return "\n".join(lines)


def test_the_drawing_of_the_folders_is_true() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert f"```text\n{house()}\n```" in page
