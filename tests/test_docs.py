"""The documents say what the program does."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from e2v_port.converters import emotion2vec, wav2vec2

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- help.*?-->\n```\n).*?(```\n<!-- /help -->)", re.S)


def help_text() -> str:
    """What the program prints, at a width of 80 columns."""
    parts = []
    for command in ([], ["analyze"], ["convert"]):
        done = subprocess.run(
            [sys.executable, "-m", "e2v_port", *command, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={"COLUMNS": "80", "PATH": "", "NO_COLOR": "1", "TERM": "dumb"},
        )
        parts.append(f"$ e2v {' '.join([*command, '--help'])}\n{done.stdout.strip()}\n")
    return "\n".join(parts)


def test_the_readme_shows_the_help_of_the_program() -> None:
    """Run this file as a program to write it anew."""
    found = BLOCK.search(README.read_text("utf-8"))
    assert found
    assert found[0] == found[1] + help_text() + found[2]


@pytest.mark.parametrize("family", [emotion2vec.FAMILY, wav2vec2.FAMILY], ids=lambda family: family.name)
def test_every_rename_is_in_the_document(family) -> None:
    text = (ROOT / "docs" / "port.md").read_text("utf-8")
    for rule in family.rules:
        source = rule.source.replace("[d2v_model.]", "").replace("[wav2vec2.]", "")
        source = source.replace("modality_encoders.AUDIO.", "A.")
        # The blocks and the two parts of a layer share a row.
        stem = re.sub(r"\.(weight|bias|weight_v|parametrizations\..*)$|\{\*\}$", "", source)
        last = stem.split(".")[-1]
        assert stem in text or f".{last}" in text, rule.source


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_commands_of_the_readme_exist() -> None:
    for target in re.findall(r"^make (\w+)", README.read_text("utf-8"), re.M):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    text = README.read_text("utf-8")
    README.write_text(BLOCK.sub(lambda found: found[1] + help_text() + found[2], text), "utf-8")
