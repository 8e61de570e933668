"""The examples in docs/service.md work on a real service; the deploy files name files and settings that exist."""

import configparser
import json
import plistlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from served import Served
from speechlm import toy_language, toy_model

from e2v_port.service.settings import Settings

pytestmark = pytest.mark.xdist_group("deploy")

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "docs" / "deploy"
DOCUMENT = (ROOT / "docs" / "service.md").read_text("utf-8")
DOCKERFILE = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text("utf-8"))
CURL = [
    line
    for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.S)
    for line in re.findall(r"^curl .*$", block.replace("\\\n", ""), re.M)
]
SRT = "1\n00:00:00,000 --> 00:00:01,400\n[ann]: Well.\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the files that the examples use."""
    folder = tmp_path_factory.mktemp("service")
    shutil.copy(ROOT / "benchmarks" / "speech" / "calm.flac", folder / "speech.flac")
    (folder / "speech.srt").write_text(SRT, "utf-8")
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    replies = toy_model(folder / "reply", toy_language(folder / "language"))
    with Served("--history", str(folder / "emotions.sqlite"), "--reply", str(replies)) as served:
        yield served.url


def test_every_curl_example_works(url: str, folder: Path) -> None:
    """They run in order: some switch emotion analysis off and on again."""
    assert len(CURL) > 15
    answers = {}
    for line in (line for line in CURL if "words=true" not in line):  # see test_service_words.py
        asked = line.replace("http://127.0.0.1:9101", url).replace("curl -s", "curl -sS --fail-with-body", 1)
        done = subprocess.run(asked, shell=True, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        answers[line] = done.stdout
    [plain] = [text for line, text in answers.items() if line.endswith("9101/v1/analyze") and "-F" not in line]
    [given] = [text for line, text in answers.items() if "segments=@" in line]
    assert json.loads(plain)["segments"][0]["emotion"]["primary"]
    assert json.loads(given)["segments"][0]["speaker"] == "ann"
    assert set(re.findall(r'"(\w+)":', DOCUMENT.split("A response (")[1].split("```")[1])) <= set(
        re.findall(r'"(\w+)":', plain)
    )
    [srt] = [text for line, text in answers.items() if "format=srt" in line]
    assert "-->" in srt
    [gone] = [text for line, text in answers.items() if "all=true" in line]
    assert json.loads(gone)["deleted"] > 0


def test_the_python_example_works(url: str, folder: Path) -> None:
    reply, example = re.findall(r"```python\n(.*?)```", DOCUMENT, re.S)
    program = example.replace("Client()", f"Client({url!r}, timeout=30)")
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"[\d.]+ [\d.]+ \w+\n", done.stdout)
    program = "from e2v_port.client import Client\n" + reply.replace("Client(", f"Client({url!r}, ")
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "'angry': " in done.stdout


def test_the_health_check_of_the_image_works(url: str, folder: Path) -> None:
    [check] = re.findall(r"^HEALTHCHECK .*? CMD (\[.*\])$", DOCKERFILE, re.M)
    python, *arguments = json.loads(check)
    assert python == "python"
    for address, healthy in (url, True), ("http://127.0.0.1:1", False):
        program = [argument.replace("http://127.0.0.1:9101", address) for argument in arguments]
        done = subprocess.run([sys.executable, *program], capture_output=True, check=False)
        assert (done.returncode == 0) == healthy


def test_settings_in_the_documents_exist() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "e2v_port", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": "", "NO_COLOR": "1", "TERM": "dumb"},
    ).stdout
    texts = [DOCUMENT, *(path.read_text("utf-8") for path in DEPLOY.iterdir())]
    named = {name.lower() for text in texts for name in re.findall(r"E2V_SERVE_([A-Z_]+[A-Z])", text)}
    assert named
    assert named <= set(Settings.model_fields)
    served = DOCUMENT.split("## Deployment")[0]
    options = set(re.findall(r"`(?:e2v serve )?(--[a-z-]+)", served)) - {"--format"}  # of e2v analyze
    assert {option for option in options if option not in help_text} == set()


def test_limits_in_the_document_are_the_defaults() -> None:
    table = DOCUMENT.split("## Limits and errors")[1].split("\n\n")[1]
    seen = set()
    for row in table.splitlines()[2:]:
        _, defaults, settings = row.strip("| ").split(" | ")
        names = re.findall(r"`(?:E2V_SERVE_|--)([A-Za-z_-]+)`", settings)
        numbers = [3600.0 if "1 h" in part else float(part.split()[0]) for part in defaults.split(";")]
        for name, number in zip(names, numbers, strict=True):
            field = name.lower().replace("-", "_")
            assert Settings.model_fields[field].default == number, name
            seen.add(field)
    assert len(seen) > 9


def test_the_image_is_built_from_files_that_exist() -> None:
    *_, final = DOCKERFILE.split("\nFROM ")
    build = DOCKERFILE.removesuffix(final)
    copied = {source for line in re.findall(r"^COPY (?!--from)(.*) \S+$", build, re.M) for source in line.split()}
    assert all((ROOT / source).exists() for source in copied)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    assert set(setuptools["package-dir"].values()) <= copied
    page = {f"page/{path.name}" for path in (ROOT / "e2v_port" / "service" / "page").iterdir()}
    patterns = setuptools["package-data"]["e2v_port.service"]
    assert page
    assert [name for name in sorted(page) if not any(fnmatch(name, pattern) for pattern in patterns)] == []
    [user] = re.findall(r"^USER (\d+):\d+$", final, re.M)
    assert int(user) > 0
    for tool in "apt-get", "pip install", "gcc":
        assert tool not in final
    assert "TOKEN=" not in "".join(re.findall(r"^(?:ENV|ARG) .*$", DOCKERFILE, re.M)), (
        "an image must not contain a secret"
    )


def test_the_unit_is_isolated() -> None:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "e2v.service", "utf-8")
    service = parser["Service"]
    assert service["ExecStart"].split()[1:] == ["serve"]
    expected = {"DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "LimitCORE": "0"}
    expected |= {
        "MemorySwapMax": "0",
        "KillMode": "mixed",
        "RestartPreventExitStatus": "2",
        "CapabilityBoundingSet": "",
    }
    assert expected.items() <= dict(service).items()
    assert int(service["TimeoutStopSec"]) > Settings.model_fields["drain_seconds"].default


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "e2v.service"
    text = (DEPLOY / "e2v.service").read_text("utf-8")
    unit.write_text(text.replace("/opt/e2v/bin/e2v", sys.executable), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "e2v.service" in line]) == (0, [])


def test_launchd_can_read_the_plist() -> None:
    job = plistlib.loads((DEPLOY / "org.e2v-port.serve.plist").read_bytes())
    assert job["Label"] == "org.e2v-port.serve"
    assert job["ProgramArguments"][1:] == ["serve"]
    assert all(isinstance(value, str) for value in job["EnvironmentVariables"].values())
    assert job["Umask"] == 0o077
    assert job["SoftResourceLimits"]["Core"] == job["HardResourceLimits"]["Core"] == 0
    assert job["ExitTimeOut"] > Settings.model_fields["drain_seconds"].default
