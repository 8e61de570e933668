"""The torch and MLX twins stay twins: the same classes, methods and lines, so that a diff shows only the frameworks.

The numpy twin runs one clip at a time, and so has fewer methods and other lines, but the same classes.

Run this file as a program to print the shares of equal lines.
"""

import ast
import re
from difflib import SequenceMatcher
from pathlib import Path

import pytest

RUNTIMES = Path(__file__).parents[1] / "runtimes"
PAIRS = sorted(path.name.removesuffix("_mlx.py") for path in RUNTIMES.glob("*_mlx.py"))
LEAST = 0.65  # share of equal lines

# The dictionary between the frameworks, from torch to MLX.
DICTIONARY = {
    r"_torch\b": "_mlx",
    r"\bTensor\b": "mx.array",
    r"\btorch\.": "mx.",
    r"\bforward\(": "__call__(",
    r"\bF\.(gelu|relu)\(": r"nn.\1(",
    r"\bF\.scaled_dot": "mx.fast.scaled_dot",
    r"\battn_mask=": "mask=",
    r"\.to\(": ".astype(",
    r"\.float\(\)": ".astype(mx.float32)",
    r"\bdim=": "axis=",
    r"\bkeepdim=": "keepdims=",
    r"\bself\.values\b": "self['values']",  # a module of MLX is a dict, which has a method of this name
    r"\bnn\.ModuleList\((\[.*\])\)": r"\1",
}


def lines(path: Path) -> list[str]:
    """Returns the statements of a module, one per line, without comments, docstrings, imports and indentation."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            body[:] = body[1:] or [ast.Pass()]
    tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    return [line.strip() for line in ast.unparse(tree).splitlines() if line]


def renamed(line: str) -> str:
    for pattern, replacement in DICTIONARY.items():
        line = re.sub(pattern, replacement, line)
    return line


def equal_lines(family: str) -> float:
    """Returns the share of lines of both twins that the other has, in the same order, after renaming: 0 to 1."""
    torch, mlx = (lines(RUNTIMES / f"{family}_{framework}.py") for framework in ("torch", "mlx"))
    return SequenceMatcher(None, list(map(renamed, torch)), mlx, autojunk=False).ratio()


@pytest.mark.parametrize("family", PAIRS)
def test_twins_differ_by_their_frameworks_alone(family: str) -> None:
    share = equal_lines(family)
    print(f"{family}: {share:.2f} of the lines are equal")
    assert share >= LEAST


def names(path: Path) -> list[str]:
    """Returns the classes of a module and their methods, in order."""
    classes = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
    return [
        name.replace("__call__", "forward")
        for node in classes
        for name in [node.name, *(part.name for part in node.body if isinstance(part, ast.FunctionDef))]
    ]


@pytest.mark.parametrize("family", PAIRS)
def test_twins_have_the_same_classes_and_methods_in_the_same_order(family: str) -> None:
    assert names(RUNTIMES / f"{family}_torch.py") == names(RUNTIMES / f"{family}_mlx.py")


def methods(path: Path) -> dict[str, list[str]]:
    """Returns the methods of each class of a module, both in order."""
    classes = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
    return {
        node.name: [part.name.replace("__call__", "forward") for part in node.body if isinstance(part, ast.FunctionDef)]
        for node in classes
    }


@pytest.mark.parametrize("family", PAIRS)
def test_the_numpy_twin_has_the_same_classes_in_the_same_order(family: str) -> None:
    torch, numpy = (methods(RUNTIMES / f"{family}_{framework}.py") for framework in ("torch", "numpy"))
    own = {"Linear", "LayerNorm"} if family == "layers" else set()  # which the frameworks have
    assert [name for name in numpy if name not in own] == [*torch]
    for name in torch:
        assert numpy[name] == [method for method in torch[name] if method in numpy[name]], name
        assert not {"__init__", "forward", "mix", "begin"} & {*torch[name]} - {*numpy[name]}, name


def test_every_network_has_its_twins() -> None:
    for framework in ("torch", "numpy"):
        networks = {path.name.removesuffix(f"_{framework}.py") for path in RUNTIMES.glob(f"*_{framework}.py")}
        assert networks == set(PAIRS)


if __name__ == "__main__":
    for pair in PAIRS:
        print(f"{pair:12} {equal_lines(pair):.2f}")
