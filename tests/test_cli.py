"""The command line as users see it: output, errors, exit codes, and files left on disk."""

import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import toys
import typer
from loopback_hub import LoopbackHub
from safetensors.numpy import load_file, save_file

import e2v_port
from e2v_port import cli, npz
from e2v_port.analysis.output import formats
from e2v_port.architectures.config import ModelConfig
from e2v_port.checkpoints import catalog
from e2v_port.cli import messages
from e2v_port.emotions.fusion import fuse
from e2v_port.models import devices
from e2v_port.parity import references, verify
from e2v_port.speech.segment import SegmentSettings

E2V = Path(sys.executable).with_name("e2v")
ESCAPE = "\x1b"
KNOWN = [model.id for model in catalog.known()]
WEIGHTS = Path(str(files("e2v_port.weights")))
HIDDEN = ("E2V_", "XDG_", "HF_", "HUGGING", "MODELSCOPE", "TTY_", "FORCE_COLOR", "NO_COLOR", "PYTHONI", "PYTHONU")
UNAVAILABLE = "cuda" if sys.platform == "darwin" else "mps"

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals, named pipes and terminals of POSIX")
with_funasr = [
    pytest.mark.xdist_group("verify"),  # one worker imports FunASR
    pytest.mark.skipif(not references.installed("emotion2vec"), reason="FunASR is not installed: pip install funasr"),
]


# ---- models and clips


@dataclass
class Toys:
    """Checkpoints and converted models that no test changes."""

    folder: Path
    source: Path = field(init=False)
    model: Path = field(init=False)
    headless: Path = field(init=False)
    dimensional: Path = field(init=False)

    def __post_init__(self) -> None:
        self.source = toys.make(self.folder / "checkpoint")
        self.model = toys.convert(self.source, self.folder / "model")
        self.headless = toys.convert(toys.make(self.folder / "pretrained", toys.HEADLESS), self.folder / "headless")
        self.dimensional = toys.convert(toys.make_dimensional(self.folder / "wav2vec2"), self.folder / "dimensional")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    return Toys(tmp_path_factory.mktemp("toys"))


def tone(path: Path, seconds: float = 0.5, rate: int = 16_000) -> str:
    at = np.arange(round(seconds * rate)) / rate
    with path.open("wb") as file:  # soundfile only takes names in UTF-8
        soundfile.write(file, 0.3 * np.sin(2 * np.pi * (200 + 90 * seconds) * at) * np.sin(9 * at), rate, format="WAV")
    return str(path)


@pytest.fixture
def clips(tmp_path: Path) -> list[str]:
    return [tone(tmp_path / "a.wav", 0.4), tone(tmp_path / "b.wav", 1.1, 22_050)]


@dataclass
class Mixture:
    """Clips mixed with files that are not audio, some with names that are hard to print."""

    files: list[str]
    good: list[str]
    shown: list[str]  # names of the good ones as printed
    bad: dict[str, str]  # error by file


@pytest.fixture
def mixture(tmp_path: Path) -> Mixture:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "notes.wav").write_text("not a recording")
    (tmp_path / "two\nlines.txt").write_text("not a recording")
    tone(tmp_path / "short.wav", 0.01)
    (tmp_path / "folder").mkdir()
    names = ["plain.wav", "with  space.wav", "grüße 声.wav", "new\nline.wav"]
    shown = [*names[:3], "'new\\nline.wav'"]
    with suppress(OSError):  # macOS rejects such names
        tone(tmp_path / os.fsdecode(b"bytes \xff.wav"))
        names.append("bytes \udcff.wav")
        shown.append("'bytes \\udcff.wav'")
    for i, name in enumerate(names):
        tone(tmp_path / name, 0.3 + 0.2 * i)
    bad = {
        "missing.wav": "No such file",
        "folder": "Is a directory",
        "notes.wav": "not audio",
        "empty.wav": "0 bytes",
        "short.wav": "too short",
        "two\nlines.txt": "not audio",
    }
    wrong = iter(bad)
    files = [file for name in names for file in (name, next(wrong))] + list(wrong)
    return Mixture(files, names, shown, bad)


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(HIDDEN)}
    return kept | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "E2V_OFFLINE": "1", "TERM": "xterm"} | more


def run(*arguments: str | Path, folder: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Runs the installed `e2v` in a folder, with a strict encoder for stdout, as in most terminals."""
    variables = {"PYTHONIOENCODING": "utf-8:strict"} | more.pop("variables", {})
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.run(
        [E2V, *arguments],
        cwd=folder,
        env=environment(folder, **variables),
        encoding="utf-8",
        timeout=300,
        check=False,
        **streams,
    )


@dataclass
class Answer:
    """Result of one call of the command line in this process."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The only line on stderr."""
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        assert self.err.endswith("\n")
        return line

    @property
    def lines(self) -> list[str]:
        assert not self.err
        return self.out.splitlines()


Call = Callable[..., Answer]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Runs the command line in this process, which has imported torch, in a folder and a cache of its own."""
    for name in os.environ:
        if name.startswith(HIDDEN):
            monkeypatch.delenv(name)
    monkeypatch.setenv("E2V_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def calling(*arguments: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["e2v", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, int)
        return Answer(end.value.code, *capsys.readouterr())

    yield calling
    signal.signal(signal.SIGTERM, before)


def headline(prediction: e2v_port.Prediction, dimensions: e2v_port.Dimensions | None = None) -> str:
    """Returns how `--whole` shows a label: with its probability before fusion, or in words of doubt."""
    judgement = fuse(prediction, dimensions, prediction.duration)
    return judgement.words if judgement.doubtful else f"{prediction.label} {prediction.confidence:.3f}"


# ---- start and help


def test_help_loads_no_library() -> None:
    code = """
import sys
from e2v_port.cli import app, main
for command in ([], *([each.callback.__name__] for each in app.registered_commands)):
    sys.argv = ["e2v", *command, "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0
heavy = {"torch", "numpy", "mlx", "soundfile", "huggingface_hub", "modelscope_hub", "funasr"}
print(len(app.registered_commands), *heavy & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *helps, loaded = done.stdout.splitlines()
    commands = sum(line.startswith("Usage: e2v") for line in helps) - 1
    assert commands >= 6
    assert loaded == str(commands)


def test_version_by_both_entry_points(tmp_path: Path) -> None:
    module = subprocess.run([sys.executable, "-m", "e2v_port", "--version"], capture_output=True, text=True, check=True)
    script = run("--version", folder=tmp_path)
    assert module.stdout == script.stdout == f"e2v-port {e2v_port.__version__}\n"
    assert script.returncode == 0


def test_without_a_command_there_is_help(call: Call) -> None:
    answer = call()
    assert (answer.code, answer.out) == (2, "")
    assert "Usage: e2v" in answer.err


@pytest.mark.parametrize(
    "line",
    [
        "analyse",
        "analyze",
        "analyze a.wav --nope",
        "analyze a.wav --runtime x",
        "analyze a.wav --dtype x",
        "analyze a.wav --format x",
        "analyze a.wav --out x.csv",
        "analyze a.wav --plot x.txt",
        "analyze a.wav --channel middle",
        "analyze a.wav --channel 0",
        "analyze a.wav --segments nope.srt",
        "analyze a.wav --model nope",
        "embed a.wav -m bundled -o x.txt",
        "embed a.wav -m bundled -o x.npz --granularity x",
        "convert --dtype int8 -m x",
        "convert -m bundled --hub x",
        "convert -m nope",
        "train",
        "train --corpus x --out y",
        "train --corpus ravdess=/nope --out y",
        "evaluate",
        "evaluate --model bundled --corpus x",
        "evaluate --model bundled --corpus ravdess=/nope --split x",
        "evaluate --rows /nope",
        "corpus",
        "corpus /nope --out y",
        "corpus a.wav --out y --engine x",
        "report /nope",
        "serve --port x",
        "serve --port 99999",
        "listen /nope.wav",
        "listen a.wav --backend x",
        "express",
        "express hello --as x",
        "verify nope",
        "doctor x",
    ],
)
def test_a_wrong_option_is_one_line_that_names_the_remedy(line: str, call: Call) -> None:
    answer = call(*line.split())
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert len(answer.err) < 600
    assert ":" in answer.err.removeprefix("error: ")  # what is wrong: what to do


def test_every_option_has_a_help_text_in_whole_sentences() -> None:
    group = typer.main.get_command(cli.app)
    for name, command in group.commands.items():
        assert command.help
        assert not command.get_short_help_str(limit=68).endswith("..."), name  # as in the list of commands
        for parameter in command.params:
            text = parameter.help or ""
            assert re.fullmatch(r"([A-Z]|utterance: ).*\.", text), (name, parameter.name)


# ---- messages of the library


def test_records_and_warnings_are_shown_as_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Only while a command runs: afterwards the host's logging and warnings are as before."""
    library = logging.getLogger("e2v_port")

    def report() -> None:
        logging.getLogger("e2v_port.models").info("downloading %s", "a\nmodel")
        logging.getLogger("e2v_port.models").debug("a detail")
        logging.getLogger("another.library").info("its own business")
        warnings.warn("two\nlines", stacklevel=1)

    before = (library.level, [*library.handlers], warnings.showwarning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with messages.showing_messages():
            report()
    assert capsys.readouterr() == ("", "downloading a model\nwarning: two lines\n")
    assert (library.level, [*library.handlers], warnings.showwarning) == before


# ---- analyze


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_analyze_answers_for_the_good_files(encoding: str, mixture: Mixture, toy: Toys, tmp_path: Path) -> None:
    variables = {"PYTHONIOENCODING": f"{encoding}:strict"}
    done = run(
        "analyze", "--whole", *mixture.files, "--model", toy.model, "-r", "cpu", folder=tmp_path, variables=variables
    )
    assert done.returncode == 1
    expected = e2v_port.load(toy.model, runtime="cpu").predict([tmp_path / name for name in mixture.good])
    assert len({round(prediction.confidence, 3) for prediction in expected}) == len(expected)
    for line, name, prediction in zip(done.stdout.splitlines(), mixture.shown, expected, strict=True):
        ranked = sorted(prediction.scores.items(), key=lambda item: item[1], reverse=True)
        scores = "  ".join(f"{label} {score:.3f}" for label, score in ranked)
        printed = name.encode(encoding, "backslashreplace").decode(encoding)
        assert line == f"{printed}: {headline(prediction)}  [{scores}]"
    for line, (name, reason) in zip(done.stderr.splitlines(), mixture.bad.items(), strict=True):
        shown = name if name.isprintable() else ascii(name)
        assert line.startswith(f"error: {shown}: ")
        assert reason in line


def test_analyze_as_json(mixture: Mixture, toy: Toys, tmp_path: Path) -> None:
    variables = {"E2V_MODEL": str(toy.model)}
    done = run("analyze", "--whole", "--json", "-r", "cpu", *mixture.files, folder=tmp_path, variables=variables)
    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["file"] for row in rows] == mixture.files
    for row in rows:
        if row["file"] in mixture.bad:
            assert row.keys() == {"file", "error"}
            assert mixture.bad[row["file"]] in row["error"]
    found = [row for row in rows if row["file"] in mixture.good]
    predictions = e2v_port.load(toy.model, runtime="cpu").predict([tmp_path / name for name in mixture.good])
    for row, prediction in zip(found, predictions, strict=True):
        (segment,) = row["segments"]
        assert (segment["start"], segment["end"]) == (0, row["duration"])
        assert segment["end"] == pytest.approx(prediction.duration, abs=1e-6)
        assert segment["emotion"]["primary"] == prediction.label
        assert segment["emotion"]["e2v_scores"] == pytest.approx(dict(prediction.scores), abs=1e-5)
    assert len(done.stderr.splitlines()) == len(mixture.bad)


@pytest.mark.parametrize("runtime", toys.RUNTIMES)
def test_analyze_on_a_runtime(runtime: str, call: Call, toy: Toys, clips: list[str]) -> None:
    (row,) = map(json.loads, call("analyze", "--whole", clips[0], "-m", toy.model, "-r", runtime, "--json").lines)
    expected = e2v_port.load(toy.model, runtime=runtime).predict(clips[0])
    assert row["segments"][0]["emotion"]["e2v_scores"] == pytest.approx(dict(expected.scores))


def test_analyze_with_nothing_but_bad_files(call: Call, toy: Toys) -> None:
    answer = call("analyze", "no.wav", "nor this.wav", "-m", toy.model)
    assert (answer.code, answer.out) == (2, "")
    assert [line.split(": ")[:2] for line in answer.err.splitlines()] == [
        ["error", "no.wav"],
        ["error", "nor this.wav"],
    ]


@pytest.mark.parametrize("command", [["analyze", "a.wav"], ["embed", "a.wav", "-o", "x.npz"], ["verify"]])
def test_an_unknown_model(command: list[str], call: Call) -> None:
    answer = call(*command, "-m", "iic/emotion2vec_plus_bse", "-r", "cpu")
    assert (answer.code, answer.out) == (2, "")
    assert "did you mean iic/emotion2vec_plus_base?" in answer.error
    assert "e2v models lists the known ones" in answer.error


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        (UNAVAILABLE, rf"runtime {UNAVAILABLE} is not available: .+: .*\b(use|needs|install)\b.*"),
        ("tpu", "unknown runtime tpu: use auto, cuda, mps, mlx, cpu, numpy, onnx(, onnx:(cuda|coreml|directml)){3}"),
    ],
)
def test_a_runtime_that_cannot_run(runtime: str, message: str, call: Call, toy: Toys) -> None:
    answer = call("analyze", "a.wav", "-m", toy.model, "--runtime", runtime)
    assert (answer.code, answer.out) == (2, "")
    assert re.fullmatch(f"error: {message}", answer.error)


def test_labels_of_a_model_without_a_head(call: Call, toy: Toys) -> None:
    answer = call("analyze", "not read, so not missed.wav", "-m", toy.headless)
    assert (answer.code, answer.out) == (2, "")
    assert "has no classification head" in answer.error
    assert "embed" in answer.error


# ---- analyze: without --model


@pytest.fixture
def shipped() -> str:
    return str(Path(__file__).parents[1] / "benchmarks" / "speech" / "calm.flac")


def test_the_model_in_the_package_answers(shipped: str, tmp_path: Path) -> None:
    """With nothing converted or downloaded, and nothing on stderr: its license asks for no note."""
    (tmp_path / "bundled").mkdir()  # must not be mistaken for the model
    done = run("analyze", shipped, "-r", "cpu", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    head, columns, *rows, foot = done.stdout.splitlines()
    assert head.startswith(f"{shipped}  2.72 s  bundled on cpu")
    assert columns.split()[-3:] == ["A", "D", "V"]
    assert len(rows) >= 1
    assert foot.startswith("~ derived from the labels")
    (tmp_path / "bundled").rmdir()
    named = run("analyze", shipped, "-r", "cpu", "-m", "bundled", folder=tmp_path)
    assert (named.returncode, named.stdout, named.stderr) == (0, done.stdout, "")
    assert list(tmp_path.iterdir()) == []


EMOTIONAL = [model for model in catalog.known() if model.bundled and model.labels]


@pytest.mark.parametrize("model", EMOTIONAL, ids=lambda model: model.id)
def test_every_model_in_the_package_answers(model: catalog.KnownModel, shipped: str, call: Call) -> None:
    answer = call("analyze", shipped, "-r", "cpu", "-m", model.id, "--json")
    (row,) = map(json.loads, answer.out.splitlines())
    assert [(used["name"], used["licence"]) for used in row["models"]] == [(model.id, model.licence)]
    assert row["segments"][0]["emotion"]["e2v_scores"].keys() == set(model.labels)
    assert call("analyze", shipped, "-r", "cpu", "-m", model.id).out.startswith(f"{shipped}  2.72 s  {model.id} on cpu")


# A program in which `others` cannot be imported.
REFUSED = """
class Refused:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in others:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refused())
"""


@pytest.mark.parametrize("runtime", toys.RUNTIMES)
def test_an_answer_loads_no_more_than_it_needs(runtime: str, shipped: str, tmp_path: Path) -> None:
    """Imports of these libraries, seconds in all, would be most of the time to the first result.

    A runtime answers where the libraries of the others cannot be imported.
    """
    code = f"""
import sys
runtime, file, *others = sys.argv[1:]
{REFUSED}
from e2v_port.cli import main
sys.argv = ["e2v", "analyze", file, "-r", runtime, "--json"]
try:
    main()
except SystemExit as end:
    assert end.code in (0, None)
heavy = {{"torch._dynamo", "sympy", "scipy", "sklearn", "matplotlib", "torchaudio", "transformers", "funasr"}}
hubs = {{"requests", "httpx", "yaml"}}
print(*(heavy | hubs | {{"rich", *others}}) & set(sys.modules), file=sys.stderr)
"""
    extras = {"av", "huggingface_hub", "modelscope_hub", "silero_vad"}
    others = extras | {"torch", "mlx"} - {{"mlx": "mlx", "numpy": "numpy"}.get(runtime, "torch")}
    command = [sys.executable, "-c", code, runtime, shipped, *others]
    variables = environment(tmp_path)
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert done.stderr.split() == []
    found = json.loads(done.stdout)
    assert [model["runtime"] for model in found["models"]] == [runtime]
    assert found["segments"][0]["emotion"]


@pytest.mark.parametrize(
    ("command", "library", "extra"),
    [
        ("train --out new", "torch", "torch"),
        ("train --out new", "av", "media"),
        ("probe --model bundled", "torch", "torch"),
        ("bench --quick", "torch", "torch"),
    ],
)
def test_what_needs_an_extra_says_so(command: str, library: str, extra: str, shipped: str, tmp_path: Path) -> None:
    clips = zip(
        ("bright", "calm", "low", "quick"), 2 * ("angry", "sad"), ("train", "train", "dev", "test"), strict=True
    )
    rows = [f"{Path(shipped).with_name(name)}.flac,{label},{name},{split}" for name, label, split in clips]
    (tmp_path / "clips.csv").write_text("\n".join(["file,label,speaker,split", *rows]))
    corpus = [] if command.startswith("bench") else ["--corpus", "csv=clips.csv"]
    code = f"import sys\nothers = [{library!r}]\n{REFUSED}\nfrom e2v_port.cli import main\nsys.argv[0] = 'e2v'\nmain()"
    line = [sys.executable, "-c", code, *command.split(), *corpus]
    done = subprocess.run(
        line, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    remedy = f'which is not installed: pip install "e2v-port[{extra}]"'
    assert done.stderr.splitlines()[-1] == f"error: this needs {library}, {remedy}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("runtime", toys.RUNTIMES)
def test_the_model_in_the_package_in_every_format(runtime: str, shipped: str, call: Call) -> None:
    (row,) = map(json.loads, call("analyze", shipped, "-r", runtime, "--frames", "--json").lines)
    assert [(model["name"], model["runtime"]) for model in row["models"]] == [("bundled", runtime)]
    assert {part["emotion"]["avd_from"] for part in row["segments"] if part["emotion"]} == {"labels"}
    assert row["boundaries"]
    (whole,) = map(json.loads, call("analyze", shipped, "-r", runtime, "--whole", "--json").lines)
    assert whole.keys() == row.keys()
    assert sum(whole["segments"][0]["emotion"]["e2v_scores"].values()) == pytest.approx(1)
    for form in formats.FORMATS:
        assert call("analyze", shipped, "-r", runtime, "-f", form).out


def test_the_model_in_the_package_is_found_last(
    shipped: str, call: Call, toy: Toys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(*arguments: str) -> str:
        (row,) = map(json.loads, call("analyze", shipped, *arguments, "-r", "cpu", "--json").out.splitlines())
        return str(row["models"][0]["name"])

    assert name("-m", "bundled") == "bundled"
    for place in ("cache/e2v-port", "weights", "."):  # the cache, $E2V_WEIGHTS, the path
        described(toy.model, tmp_path / place / "bundled", repository=place)
        if place == "weights":
            monkeypatch.setenv("E2V_WEIGHTS", str(tmp_path / "weights"))
        assert name("-m", "bundled") == place
    shutil.rmtree(tmp_path / "bundled")
    assert name() == "weights"


def test_the_model_in_the_package_is_not_converted(call: Call, tmp_path: Path) -> None:
    answer = call("convert", "-m", "bundled")
    assert (answer.code, answer.error) == (
        2,
        "error: bundled comes converted, in the package: there is no checkpoint to convert",
    )
    answer = call("verify", "-m", "bundled", "-r", "cpu")
    assert (answer.code, answer.out) == (2, "")
    (error,) = (line for line in answer.err.splitlines() if line.startswith("error: "))
    assert error.startswith("error: bundled: nothing to compare with: ")
    assert not (tmp_path / "cache").exists()


def test_embeddings_of_the_model_in_the_package(call: Call, shipped: str) -> None:
    assert call("embed", shipped, "-m", "bundled", "-r", "cpu", "-o", "x.npz").code == 0
    known = catalog.lookup("bundled")
    assert known is not None
    with np.load("x.npz") as found:
        assert found[shipped].shape == (known.embed_dim,)


# ---- analyze: timelines and formats


@pytest.fixture
def jfk(speech_folder: Path) -> str:
    return str(speech_folder / "jfk.flac")


@pytest.fixture
def both(toy: Toys) -> list[str]:
    return ["-m", str(toy.model), "-d", str(toy.dimensional), "-r", "cpu"]


def test_the_timeline(call: Call, both: list[str], jfk: str, clips: list[str]) -> None:
    answer = call("analyze", jfk, clips[0], "no.wav", *both)
    assert answer.code == 1
    assert answer.error.startswith("error: no.wav: ")
    head, columns, *rows, blank, other, reason, end = answer.out.splitlines()
    found = e2v_port.analyze(jfk, model=both[1], dimensional=both[3], runtime="cpu")
    assert head.startswith(f"{jfk}  11.00 s  ")
    assert head.count(" on cpu") == 2
    assert columns.split()[:4] == ["start", "end", "emotion", "conf"]
    for row, part in zip(rows, found.segments, strict=True):
        assert part.judgement is not None
        start = f"{part.start:.2f} {part.end:.2f} {part.judgement.words} {part.confidence:.3f} "
        assert " ".join(row.split()).startswith(start)
    assert "█" in answer.out
    assert ESCAPE not in answer.out
    assert other.startswith(f"{clips[0]}  0.40 s  ")
    assert (blank, reason, end) == ("", "no speech found", "")


def test_a_file_without_speech_is_no_failure(call: Call, both: list[str], clips: list[str]) -> None:
    answer = call("analyze", *clips, *both, "--json")
    assert answer.code == 0
    assert [(row["file"], row["segments"], row["reason"]) for row in map(json.loads, answer.lines)] == [
        (clip, [], "no speech found") for clip in clips
    ]


def everything(terminal: int) -> str:
    """Returns all that was written to a terminal; one read gives 4 kB at most."""
    parts = []
    with suppress(BlockingIOError):
        while part := os.read(terminal, 100_000):
            parts.append(part)
    return b"".join(parts).decode()


@posix
@pytest.mark.parametrize(
    ("variables", "coloured", "bar"),
    [
        ({"COLORTERM": "truecolor"}, True, "█"),
        ({"COLORTERM": "truecolor", "NO_COLOR": "1", "PYTHONIOENCODING": "ascii"}, False, "#"),
    ],
)
def test_colours_on_a_terminal(
    variables: dict[str, str], coloured: bool, bar: str, both: list[str], jfk: str, tmp_path: Path
) -> None:
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    try:
        done = run("analyze", jfk, *both, folder=tmp_path, stdout=theirs, variables=variables)
        shown = everything(ours)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, done.stderr) == (0, "")
    assert (f"{ESCAPE}[38;2;" in shown) == coloured
    assert bar in shown
    assert len({"█", "#"} & set(shown)) == 1


@pytest.mark.parametrize("form", list(formats.FORMATS))
def test_formats(form: str, call: Call, both: list[str], jfk: str, tmp_path: Path) -> None:
    printed = call("analyze", jfk, *both, "--format", form)
    written = call("analyze", jfk, *both, "-f", form, "--out", "there")
    assert printed.code == written.code == 0
    assert written.lines == []
    text = (tmp_path / "there").read_text("utf-8")
    for each in (printed.out, text):
        if form.startswith("json"):
            assert [part["end"] for part in json.loads(each)["segments"]][-1] <= 11
        else:
            assert "\n" in each
    if not form.startswith("json"):  # JSON includes timings
        assert text == printed.out
    assert [entry.name for entry in tmp_path.iterdir()] == ["there"]


def test_several_files_in_one_format(call: Call, both: list[str], jfk: str, clips: list[str], tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("an older result")
    answer = call("analyze", jfk, "no.wav", clips[0], *both, "-f", "csv", "-o", "old.csv")
    assert (answer.code, answer.out) == (1, "")
    rows = (tmp_path / "old.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows} == {"file", jfk}
    (tmp_path / "old.csv").write_text("an older result")
    assert call("analyze", "no.wav", *both, "-f", "csv", "-o", "old.csv").code == 2
    assert (tmp_path / "old.csv").read_text() == "an older result"


def test_a_plot(call: Call, both: list[str], jfk: str, tmp_path: Path) -> None:
    answer = call("analyze", jfk, *both, "--plot", "here.png", "--frames")
    assert answer.code == 0
    assert answer.lines[0].startswith(jfk)
    assert any(line.split()[:3] == ["start", "end", "inside"] for line in answer.lines)
    assert (tmp_path / "here.png").read_bytes().startswith(b"\x89PNG")
    assert {entry.name for entry in tmp_path.iterdir()} <= {"here.png", "cache"}  # the cache is of fonts


def test_given_segments(call: Call, both: list[str], jfk: str, tmp_path: Path) -> None:
    (tmp_path / "a.rttm").write_text("SPEAKER jfk 1 0.5 3.0 <NA> <NA> John <NA> <NA>\n")
    (row,) = map(json.loads, call("analyze", jfk, *both, "--segments", "a.rttm", "--json").lines)
    assert [(part["start"], part["end"], part["speaker"]) for part in row["segments"]] == [(0.5, 3.5, "John")]
    (tmp_path / "a.rttm").write_text("SPEAKER jfk 1 0.5 30.0 <NA> <NA> John <NA> <NA>\n")
    answer = call("analyze", jfk, *both, "--segments", "a.rttm")
    assert answer.code == 2
    assert "beyond the end of the clip" in answer.error


def test_whole_files(call: Call, both: list[str], clips: list[str]) -> None:
    loaded, measuring = (e2v_port.load(folder, runtime="cpu") for folder in (both[1], both[3]))
    for file, row in zip(
        clips, map(json.loads, call("analyze", "--whole", *clips, *both[2:], "--json").lines), strict=True
    ):
        assert row["file"] == file
        (segment,) = row["segments"]
        assert (segment["emotion"]["primary"], segment["emotion"]["avd_from"]) == (None, "model")
        assert segment["emotion"]["avd_scores"] == pytest.approx(measuring.dimensions(file).to_dict(), abs=1e-5)
    expected, values = loaded.predict(clips[0]), measuring.dimensions(clips[0])
    (line,) = call("analyze", "--whole", clips[0], *both).lines
    measured = f"arousal {values.arousal:.3f}  dominance {values.dominance:.3f}  valence {values.valence:.3f}"
    shown = headline(expected, values)
    assert line.startswith(f"{clips[0]}: {shown}  {measured}  [{expected.label} ")
    (row,) = map(json.loads, call("analyze", "--whole", clips[0], *both, "-f", "jsonl").lines)
    assert [part["emotion"]["primary"] for part in row["segments"]] == [expected.label]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "docx"], "unknown format docx: use json, jsonl, csv, turns, md, vtt, srt, textgrid, audacity, rttm"),
        (["b.wav", "-f", "srt"], "--format srt holds one file, not 2: .*or use json, jsonl, csv, turns, md, rttm"),
        (["-o", "x.csv"], "--out x.csv: add a --format"),
        (["-f", "csv", "-o", "nowhere/x.csv"], "--out nowhere/x.csv: nowhere is not a writable folder"),
        (["-f", "csv", "-o", "folder"], "--out folder: is a folder, not a file"),
        (["-f", "csv", "--json"], "--json and --format contradict each other.*"),
        (["b.wav", "--segments", "a.rttm"], "--segments a.rttm describes one file, not 2: .*"),
        (["--whole", "--segments", "a.rttm"], "--segments and --whole contradict each other: .*"),
        (["b.wav", "--plot", "x.png"], "--plot x.png shows one file, not 2: analyze them one at a time"),
        (["--plot", "x.docx"], r"--plot x.docx: not a picture: use the suffix \.png, \.svg, \.pdf"),
        (["--plot", "nowhere/x.png"], "--plot nowhere/x.png: nowhere is not a writable folder"),
        (["--max-gain", "61"], r"--max-gain must be from 0 to 60 dB, not 61\.0"),
        (["--speech-threshold", "1"], r"--speech-threshold must be between 0 and 1, not 1\.0"),
    ],
)
def test_analyze_refuses(arguments: list[str], message: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    # No such model exists: a different error shows that options are checked first.
    answer = call("analyze", "a.wav", *arguments, "-m", "no-such-model")
    assert (answer.code, answer.out) == (2, "")
    assert re.fullmatch(f"error: {message}", answer.error)


def test_settings_of_speech_detection(call: Call, toy: Toys, clips: list[str]) -> None:
    def settings(*arguments: str) -> dict[str, Any]:
        (line,) = call("analyze", clips[0], "-m", toy.model, "--json", *arguments).lines
        found: dict[str, Any] = json.loads(line)["settings"]["segments"]
        return found

    usual = settings()
    assert usual == asdict(SegmentSettings())
    given = settings("--max-gain", "0", "--speech-threshold", "0.7")
    assert given == usual | {"max_gain": 0.0, "speech_threshold": 0.7}


def test_which_emotion_appears_when(call: Call, shipped: str) -> None:
    rows = [line.split() for line in call("analyze", shipped, "--diarize", "-f", "rttm").lines]
    spans = e2v_port.load("bundled").diarize(shipped)
    assert [(float(row[3]), row[7]) for row in rows] == [(pytest.approx(s.start, abs=1e-6), s.label) for s in spans]
    assert call("analyze", shipped, "--diarize", "--frames").error == (
        "error: --diarize is about each frame of the whole file: leave out --frames"
    )


def test_frames_of_a_model_without_labels(call: Call, both: list[str]) -> None:
    assert (
        call("analyze", "a.wav", *both[2:], "--frames").error
        == "error: --frames needs labels: name a model that gives them with --model"
    )
    answer = call("analyze", "a.wav", "-m", both[3], "-r", "cpu")
    assert answer.code == 2
    assert "predicts arousal, dominance and valence, not labels" in answer.error


# ---- terminals, pipes and signals


@posix
def test_progress_on_a_terminal(toy: Toys, clips: list[str], tmp_path: Path) -> None:
    import termios

    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    os.set_blocking(ours, False)
    arguments = ("analyze", "--whole", *clips, "-m", toy.model, "-r", "cpu")
    try:
        with (tmp_path / "out.txt").open("w") as out:
            assert run(*arguments, folder=tmp_path, stdout=out, stderr=theirs).returncode == 0
        bar = everything(ours)
        assert run(*arguments, folder=tmp_path, stdout=theirs, stderr=theirs).returncode == 0
        both = everything(ours)
    finally:
        os.close(ours)
        os.close(theirs)
    results = (tmp_path / "out.txt").read_text()
    assert "analyzing" in bar
    assert "0/2" in bar
    assert ESCAPE not in results
    assert [line.split(":")[0] for line in results.splitlines()] == clips
    assert "analyzing" in both
    for line in results.splitlines():
        assert len(line) > 80
        assert f"{line}\r\n" in both  # not wrapped at the edge of the terminal


@posix
def test_a_reader_that_leaves(toy: Toys, clips: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        for arguments in (["models"], ["analyze", "--whole", *clips, "-m", str(toy.model), "-r", "cpu"]):
            done = run(*arguments, folder=tmp_path, stdout=writer)
            assert (done.returncode, done.stderr) == (1, "")
    finally:
        os.close(writer)


@posix
def test_nowhere_to_write_to(toy: Toys, clips: list[str], tmp_path: Path) -> None:
    analyze = ["analyze", "--whole", *clips, "-m", str(toy.model), "-r", "cpu"]
    for arguments in (["models"], analyze) if Path("/dev/full").exists() else ():
        with open("/dev/full", "w") as full:
            done = run(*arguments, folder=tmp_path, stdout=full)
        assert (done.returncode, done.stderr) == (2, f"error: standard output: {os.strerror(errno.ENOSPC)}\n")

    def closing(stream: int) -> subprocess.CompletedProcess[str]:
        shell = ["sh", "-c", f'exec "$0" embed a.wav -m x -o x.txt {stream}>&-', E2V]
        return subprocess.run(
            shell, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False
        )

    done = closing(1)
    assert (done.returncode, done.stderr) == (
        2,
        "error: standard output is closed: redirect it to a file or to /dev/null\n",
    )
    done = closing(2)
    assert (done.returncode, done.stdout) == (2, "")  # no error in the results


@posix
def test_stopped_half_way(toy: Toys, clips: list[str], tmp_path: Path) -> None:
    """The second clip is a pipe without a writer, so that reading it interrupts the work half way."""
    stopped = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        folder = tmp_path / number.name
        folder.mkdir()
        os.mkfifo(folder / "pipe")
        (folder / "old.npz").write_text("an older result")
        arguments = ["embed", clips[0], "pipe", "-m", str(toy.model), "-r", "cpu", "-o"]
        for out in ("old.npz", "new.npz") if number == signal.SIGKILL else ("old.npz",):
            process = subprocess.Popen(
                [E2V, *arguments, out], cwd=folder, env=environment(folder), stderr=subprocess.PIPE, text=True
            )
            deadline = time.monotonic() + 180
            while True:
                try:
                    pipe = os.open(folder / "pipe", os.O_WRONLY | os.O_NONBLOCK)
                    break
                except OSError:  # no reader yet
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            process.send_signal(number)
            _, err = process.communicate(timeout=180)
            os.close(pipe)
            stopped[number] = (process.returncode, err)
        assert (folder / "old.npz").read_text() == "an older result"
        left = {entry.name for entry in folder.iterdir()}
        assert {name for name in left if not name.startswith(".")} == {"old.npz", "pipe"}
        assert number == signal.SIGKILL or left == {"old.npz", "pipe"}
    assert stopped == {signal.SIGINT: (130, ""), signal.SIGTERM: (143, ""), signal.SIGKILL: (-9, "")}


# ---- embed


@pytest.mark.parametrize("granularity", ["utterance", "frame"])
def test_embed(granularity: Any, mixture: Mixture, call: Call, toy: Toys) -> None:
    files = ["./plain.wav", *mixture.files, "plain.wav"]
    answer = call("embed", *files, "-m", toy.headless, "-r", "cpu", "-o", "out.npz", "--granularity", granularity)
    assert (answer.code, answer.out) == (1, "")
    assert [line.split(": ")[1].strip("'") for line in answer.err.splitlines()] == [
        name.replace("\n", "\\n") for name in mixture.bad
    ]
    names = ["./plain.wav", *mixture.good]
    with np.load("out.npz") as found:
        assert list(found) == [name.replace("\udcff", "\\udcff") for name in names]
        arrays = [found[key] for key in found]
    expected = e2v_port.load(toy.headless, runtime="cpu").embed([*names], granularity=granularity)
    for array, embedding in zip(arrays, expected, strict=True):
        assert array.dtype == np.float32
        assert array.shape == embedding.shape
        assert array.shape[-1:] == (toys.TOY.embed_dim,)
        np.testing.assert_allclose(array, embedding, atol=1e-5, rtol=0)
    assert all(array.ndim == (1 if granularity == "utterance" else 2) for array in arrays)


def test_embed_with_nothing_but_bad_files(call: Call, toy: Toys, tmp_path: Path) -> None:
    (tmp_path / "old.npz").write_text("an older result")
    for out in ("old.npz", "new.npz"):
        answer = call("embed", "no.wav", "-m", toy.model, "-o", out)
        assert answer.code == 2
        assert "no.wav" in answer.error
    assert [entry.name for entry in tmp_path.iterdir()] == ["old.npz"]
    assert (tmp_path / "old.npz").read_text() == "an older result"


@posix
def test_embed_on_a_full_disk(toy: Toys, clips: list[str], tmp_path: Path) -> None:
    import resource

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))

    (tmp_path / "old.npz").write_text("an older result")
    before = sorted(tmp_path.iterdir())
    arguments = ("embed", *clips, "-m", toy.model, "-r", "cpu", "-o", "old.npz", "--granularity", "frame")
    done = run(*arguments, folder=tmp_path, preexec_fn=fill)
    assert (done.returncode, done.stderr) == (2, f"error: old.npz: {os.strerror(errno.EFBIG)}\n")
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "old.npz").read_text() == "an older result"


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("nowhere/x.npz", "nowhere is not a writable folder"),
        ("file.npz/x.npz", "file.npz is not a writable folder"),
        ("x.npy", "name an .npz file"),
        ("folder.npz", "name an .npz file"),
    ],
)
def test_embed_into_what_cannot_be_written(out: str, reason: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file.npz").touch()
    # No such model exists: a different error shows that options are checked first.
    answer = call("embed", "a.wav", "-m", "no-such-model", "-o", out)
    assert answer.code == 2
    assert answer.error == f"error: --out {out}: {reason}"


def test_npz_has_the_permissions_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with npz.writing(tmp_path / "x.npz") as add:
        add("a", np.zeros(1))
    assert (tmp_path / "x.npz").stat().st_mode == (tmp_path / "other").stat().st_mode


# ---- convert


def test_convert_to_the_default_place(call: Call, toy: Toys, clips: list[str], tmp_path: Path) -> None:
    source = shutil.copytree(toy.source, tmp_path / "mine")
    answer = call("convert", "--model", source, "--keep-npz")
    assert answer.code == 0
    (line,) = answer.lines
    assert re.fullmatch(r".+: float32, \d+ MB, 9 labels, verified bit by bit", line)
    folder = Path(line.split(": ")[0])
    assert folder.is_relative_to(tmp_path / "cache")
    assert {entry.name for entry in folder.iterdir()} == {"config.json", "model.safetensors", "model.npz"}
    by_source, by_folder = (
        call("analyze", "--whole", *clips, "-m", model, "-r", "cpu").lines for model in (source, folder)
    )  # .lines asserts an empty stderr: nothing was converted again
    assert by_source == by_folder


def test_convert_on_first_use(call: Call, toy: Toys, clips: list[str], tmp_path: Path) -> None:
    source = shutil.copytree(toy.source, tmp_path / "mine")
    first, second = (call("analyze", "--whole", clips[0], "-m", source, "-r", "cpu") for _ in range(2))
    assert first.code == second.code == 0
    assert first.err == f"{source} is not converted yet: converting it once\n"
    assert second.err == ""
    assert first.out == second.out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_is_that_of_the_library(dtype: str, call: Call, toy: Toys, clips: list[str]) -> None:
    options = ("-m", toy.model, "-r", "cpu", "--dtype", dtype)
    model = e2v_port.load(toy.model, runtime="cpu", dtype=dtype)
    (line,) = call("analyze", *options, "--whole", "--json", clips[0]).lines
    assert json.loads(line)["segments"][0]["emotion"]["e2v_scores"] == dict(model.predict(clips[0]).scores)
    assert call("embed", *options, "--out", "out.npz", clips[0]).code == 0
    with np.load("out.npz") as stored:
        np.testing.assert_array_equal(stored[clips[0]], model.embed(clips[0]))


def test_an_unknown_dtype_is_reported_before_anything_is_loaded(call: Call, clips: list[str]) -> None:
    answer = call("analyze", "-m", "absent", "--dtype", "int4", clips[0])
    assert answer.code == 2
    assert "unknown dtype int4: use auto, float32" in answer.error


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_convert_a_file_to_a_folder(dtype: str, call: Call, toy: Toys, tmp_path: Path) -> None:
    answer = call("convert", "-m", toy.source / "model.pt", "--dtype", dtype, "--out", "here")
    assert answer.code == 0
    assert answer.lines[0].startswith(f"here: {dtype}, ")
    assert {entry.name for entry in tmp_path.iterdir()} == {"here"}
    assert {entry.name for entry in (tmp_path / "here").iterdir()} == {"config.json", "model.safetensors"}
    assert ModelConfig.read(tmp_path / "here").dtype == dtype


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["-m", "unsafe"], [f"{os.name}.system", "would run code", "model.pt"]),
        (["-m", "someone/never-published"], ["not on this machine", "offline", "pass its folder"]),
        (["-m", "someone/never-published", "--hub", "huggingface"], ["not on this machine", "Hugging Face"]),
        (["-m", "nothing"], ["nothing: not a known model", "e2v models lists the known ones"]),
        (["-m", "empty"], ["empty: ", "model.pt", "in this folder"]),
    ],
)
def test_convert_refuses(arguments: list[str], messages: list[str], call: Call, toy: Toys, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(toy.source, tmp_path / "unsafe")
    torch.save({"model": Malicious()}, tmp_path / "unsafe" / "model.pt")
    answer = call("convert", *arguments, "--out", "here")
    assert (answer.code, answer.out) == (2, "")
    assert all(message in answer.error for message in messages)
    assert {entry.name for entry in tmp_path.iterdir()} == {"empty", "unsafe"}


# ---- models and doctor


def test_models(call: Call, toy: Toys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2V_WEIGHTS", str(tmp_path / "weights"))
    shutil.copytree(toy.model, tmp_path / "weights" / "iic" / "emotion2vec_plus_base")
    tokens = ["生气/angry", "unuse_0", "开心/happy"]
    source = toys.make(tmp_path / "source", replace(toys.TOY, num_labels=len(tokens)), tokens=tokens)
    mine = toys.convert(source, tmp_path / "weights" / "local" / "mine")

    rows = {row["id"]: row for row in map(json.loads, call("models", "--json").lines)}
    assert rows.keys() == {*KNOWN, "local/mine"}
    emotion2vec = ("base", "base_finetuned", "plus_seed", "plus_base", "plus_large")
    assert {f"iic/emotion2vec_{name}" for name in emotion2vec} < rows.keys()
    keys = {"id", "parameters", "dimensions", "labels", "languages", "licence", "bundled", "converted", "bytes"}
    assert all(row.keys() == keys | {"outputs", "speakers", "data", "accuracy"} for row in rows.values())
    bundled = [name for name in rows if rows[name]["bundled"]]
    assert [*rows][: len(bundled)] == bundled == sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))
    here = {*bundled, "iic/emotion2vec_plus_base", "local/mine"}
    assert {name for name in rows if rows[name]["converted"]} == here
    assert all((rows[name]["bytes"] is not None) == (name in here) for name in rows)
    assert rows["local/mine"]["bytes"] == (mine / "model.safetensors").stat().st_size
    assert Path(rows["local/mine"]["converted"]).samefile(mine)
    assert rows["local/mine"]["labels"] == ["angry", "happy"]
    assert rows["iic/emotion2vec_base"]["labels"] == []
    assert rows["iic/emotion2vec_plus_large"]["parameters"] > 160e6
    tensors = load_file(mine / "model.safetensors")
    assert rows["local/mine"]["parameters"] == sum(tensor.size for tensor in tensors.values())

    lines = call("models").lines
    assert max(map(len, lines[: lines.index("")])) <= 80
    shown = {block[0]: block[1:] for block in re.findall(r"^(\S+)((?:\n .*)+)", "\n".join(lines), re.M)}
    shown = {name: " ".join(block[0].split()) for name, block in shown.items()}
    assert shown.keys() == rows.keys()
    for name, block in shown.items():
        there = "bundled" if rows[name]["bundled"] else "converted"
        assert f"; {there if rows[name]['converted'] else 'not converted'} " in block
        assert block.endswith(rows[name]["licence"])
        assert ", ".join(rows[name]["languages"]) in block
        assert (" MB; " in block) == bool(rows[name]["converted"])
        millions = float(block.split()[0])
        assert millions == pytest.approx(rows[name]["parameters"] / 1e6, abs=0.5, rel=0.2)
        assert millions > 0
        assert (", ".join([*rows[name]["labels"], *rows[name]["outputs"]]) or "embeddings") in block
        assert ("embeddings of voices" in block) == rows[name]["speakers"]
    assert any(line.startswith("folders: ") and str(tmp_path / "weights") in line for line in lines)


def test_a_model_is_described(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2V_WEIGHTS", str(tmp_path))
    for known in catalog.known():
        lines = call("models", known.id).lines
        assert lines[0] == known.id
        assert max(map(len, lines)) <= 80
        text = " ".join(" ".join(lines).split())
        for fact in (known.licence, known.data or "not known here", *known.labels, *known.outputs, *known.languages):
            assert fact in text
        for each in known.accuracy:
            assert f"{each.figure} on {each.test_set} ({each.source})" in text
        assert ("no published figure" in text) == (not known.accuracy)
        [row] = map(json.loads, call("models", known.id, "--json").lines)
        assert row["data"] == known.data
        assert row["accuracy"] == [asdict(each) for each in known.accuracy]
    assert call("models", "emotion2vec_plus_base").lines[0] == "iic/emotion2vec_plus_base"
    assert "did you mean iic/emotion2vec_plus_base? " in call("models", "emotion2vec_plus_bass").error


def test_doctor_without_mlx(tmp_path: Path) -> None:
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx" / "__init__.py").touch()
    (tmp_path / "mlx" / "core.py").write_text("raise ImportError('no library of linear algebra')\n")
    done = run("doctor", folder=tmp_path, variables={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")
    states = dict(re.split(r" {2,}", line, maxsplit=1) for line in done.stdout.splitlines())
    assert states["e2v-port"] == e2v_port.__version__
    assert states["runtime mlx"].startswith("no: MLX cannot be imported (no library of linear algebra): pip install ")
    assert states["runtime numpy"] == f"yes: numpy {np.__version__}, one clip at a time"
    assert states["runtime cpu"] == f"yes: torch {torch.__version__}, {torch.get_num_threads()} threads"
    for runtime, available in (
        ("cuda", torch.cuda.is_available()),
        ("mps", torch.backends.mps.is_available()),
    ):
        assert re.match(r"yes: torch \S+" if available else r"no: .+: .+", states[f"runtime {runtime}"])
    assert states["runtime auto"] == f"uses {'cuda' if torch.cuda.is_available() else 'cpu'}"
    assert states["network"] == "never used (E2V_OFFLINE)"
    assert states["converted"].startswith("no model yet: e2v convert")
    for model in catalog.known():
        if model.bundled:
            assert Path(states[model.id]).samefile(WEIGHTS / model.id)


# ---- verify


def altered(model: Path, folder: Path, tensor: str) -> Path:
    """Copies a converted model; one weight of it is not what it was."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    weights[tensor].flat[0] += 1
    save_file(weights, folder / "model.safetensors", {"format": "mlx"})
    return folder


def described(model: Path, folder: Path, **source: str) -> Path:
    """Copies a converted model and changes the source that its config.json names."""
    if model != folder:
        shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["source"] |= source
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def table_of(lines: list[str]) -> dict[str, list[str]]:
    return {cells[0]: cells[1:] for line in lines if len(cells := re.split(r" {2,}", line)) > 1}


class TestAgainstFunASR:
    pytestmark = with_funasr

    def test_every_runtime(self, call: Call, toy: Toys, clips: list[str]) -> None:
        answer = call("verify", "-m", toy.model, "--audio", clips[1])
        assert answer.code == 0
        assert answer.lines[-1] == f"{toy.model}: equal within tolerance"
        assert answer.lines[-2] == f"no published outputs are known for {toy.source}"
        table = table_of(answer.lines)
        runtimes = [runtime for runtime in devices.RUNTIMES if runtime in table["largest difference"]]
        assert "cpu" in runtimes
        assert table["largest difference"] == [*runtimes, "tolerance"]
        blocks = [f"blocks.{i}" for i in range(toys.TOY.depth)]
        assert [*table][-6:] == [*blocks, "pooled", "logits", "probabilities"]
        for cells in table.values():
            assert len(cells) == len(runtimes) + 1
        # More than zero: two computations were compared, not one with itself.
        assert 0 < float(table["logits"][runtimes.index("cpu")]) <= 2e-5

    def test_all_converted_models(self, call: Call, toy: Toys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("E2V_WEIGHTS", str(tmp_path))
        altered(toy.model, tmp_path / "local" / "a", "blocks.1.mlp.fc1.weight")
        toys.convert(toy.source, tmp_path / "local" / "b", dtype="float16")
        toys.convert(toy.source, tmp_path / "local" / "c", dtype="bfloat16")
        answer = call("verify", "-r", "cpu")
        assert answer.code == 1
        _, first, half, brain = answer.out.split("largest difference")
        assert re.search(r"local/a: NOT EQUAL: \d of \d\d exceed their tolerance, first blocks\.1\n", first)
        marked = [stage for stage, cells in table_of(first.splitlines()).items() if cells[0].endswith("!")]
        assert marked == ["blocks.1", "blocks.2", "pooled", "logits", "probabilities"]
        for name, text in (("b", half), ("c", brain)):
            assert f"local/{name}: equal within tolerance\n" in text
            table = table_of(text.splitlines())
            assert [stage for stage, cells in table.items() if cells[1] == "-"] == [*table][1:-1]
            assert table["probabilities"][1] == "2e-02"
            assert float(table["logits"][0]) > 1e-4  # more than the tolerance of float32

    def test_a_checkpoint_that_has_moved(self, call: Call, toy: Toys, tmp_path: Path) -> None:
        source = shutil.copytree(toy.source, tmp_path / "before")
        model = toys.convert(source, tmp_path / "model")
        moved = source.rename(tmp_path / "after")
        answer = call("verify", "-m", model, "-r", "cpu")
        assert (answer.code, answer.out) == (2, "")
        assert f"{source}: no such file or folder" in answer.error
        assert "--checkpoint" in answer.error
        answer = call("verify", "-m", model, "-r", "cpu", "--checkpoint", moved)
        assert answer.code == 0
        another = toys.make(tmp_path / "another", seed=1)
        answer = call("verify", "-m", model, "-r", "cpu", "--checkpoint", another)
        assert (answer.code, answer.out) == (2, "")
        assert f"{another / 'model.pt'} is not the file that was converted" in answer.error

    def test_a_part_of_it_is_missing(self, call: Call, toy: Toys, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "funasr.models.emotion2vec.model", None)
        answer = call("verify", "-m", toy.model, "-r", "cpu")
        assert (answer.code, answer.out) == (2, "")
        assert "nothing to compare with" in answer.error
        assert "FunASR cannot be imported (" in answer.error


@pytest.fixture
def without_funasr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "funasr", None)


@pytest.mark.usefixtures("without_funasr")
def test_verify_without_funasr(call: Call, toy: Toys) -> None:
    answer = call("verify", "-m", toy.model, "-r", "cpu")
    assert (answer.code, answer.out) == (2, "")
    assert "nothing to compare with" in answer.error
    assert "FunASR is not installed: pip install funasr" in answer.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: no model is converted on this machine: run e2v convert --model iic/emotion2vec_plus_base"),
        (["--checkpoint", "x"], "error: --checkpoint needs --model: it belongs to one model"),
    ],
)
def test_verify_without_a_model(arguments: list[str], message: str, call: Call) -> None:
    answer = call("verify", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.error == message


def test_verify_with_a_bad_clip(call: Call, toy: Toys) -> None:
    answer = call("verify", "-m", toy.model, "-r", "cpu", "--audio", "no.wav")
    assert (answer.code, answer.out) == (2, "")
    assert answer.error.startswith("error: no.wav: ")


@pytest.mark.usefixtures("without_funasr")
def test_verify_with_published_outputs(
    call: Call, toy: Toys, clips: list[str], recordings: Path, tmp_path: Path
) -> None:
    clip = recordings / "emotion2vec_test.wav"
    known = catalog.lookup("iic/emotion2vec_plus_large")
    assert known is not None
    (output,) = known.published

    other = e2v_port.load(described(toy.model, tmp_path / "base", repository="iic/emotion2vec_plus_base"))
    claimed = e2v_port.load(described(toy.model, tmp_path / "large", repository="emotion2vec/emotion2vec_plus_large"))
    assert not verify.known_model(other.config.source).published  # type: ignore[union-attr]
    assert output.signal(Path(clips[0])) is None
    assert output.signal(None) is None
    signal = output.signal(clip)
    assert signal is not None
    check = verify.published(claimed, output, signal)
    logits = claimed.predict(clip).logits
    relative = [logit - logits["angry"] for logit in logits.values()]
    assert check.difference == pytest.approx(np.abs(np.subtract(relative, output.outputs)).max())
    assert check.difference > 10
    assert not check.passed
    answer = call("verify", "-m", tmp_path / "large", "-r", "cpu", "--audio", clip)
    assert answer.code == 1
    assert answer.lines[-1].endswith("large: NOT EQUAL: 1 of 1 exceed their tolerance, first published logits")

    # A head that gives what was published, and something more to every label: known by its hash alone.
    exact = described(toy.model, tmp_path / "exact", sha256=known.sha256["model.pt"][0])
    weights = load_file(exact / "model.safetensors")
    weights["head.bias"] += np.array(output.outputs, np.float32) - [*logits.values()] + 3
    save_file(weights, exact / "model.safetensors", {"format": "mlx"})
    answer = call("verify", "-m", exact, "-r", "cpu", "--audio", clip)
    assert answer.code == 0
    assert answer.lines[-2] == "no reference: FunASR is not installed: pip install funasr"
    assert float(table_of(answer.lines)["published logits"][0]) < 1e-4
    # A named checkpoint must be compared: published outputs are no substitute.
    assert call("verify", "-m", exact, "-r", "cpu", "--audio", clip, "--checkpoint", toy.source).code == 2
    unheard = call("verify", "-m", exact, "-r", "cpu", "--audio", clips[0])
    assert unheard.code == 2
    assert f"pass --audio with {output.clip}" in unheard.error


def test_verify_with_published_outputs_in_16_bits(call: Call, toy: Toys, recordings: Path, tmp_path: Path) -> None:
    clip = recordings / "emotion2vec_test.wav"
    folder = toys.convert(toy.source, tmp_path / "half", dtype="bfloat16")
    model = e2v_port.load(described(folder, folder, repository="iic/emotion2vec_plus_large"), runtime="cpu")
    known = verify.known_model(model.config.source)
    assert known is not None
    (output,) = known.published
    signal = output.signal(clip)
    assert signal is not None
    check = verify.published(model, output, signal)
    # The published answer is angry, beyond doubt.
    assert check.difference == pytest.approx(1 - model.predict(clip).scores["angry"], abs=1e-6)
    expected = ("published logits", verify.PROBABILITY_TOLERANCE, False)
    assert (check.name, check.tolerance, check.passed) == expected


HUB_SCRIPT = """
import json, sys
from pathlib import Path
from e2v_port import convert
from e2v_port.architectures.config import ModelConfig
from e2v_port.checkpoints import hubs
from e2v_port.parity import verify

for hub, revision in json.loads(sys.argv[1]):
    folder = Path(f"{hub}-{revision}")
    if not folder.exists():
        convert("someone/toy", hub=hub, revision=revision, out=folder)
    source = ModelConfig.read(folder).source
    found = verify.checkpoint_of(ModelConfig.read(folder), None)
    assert (found.hub, found.revision) == (source.hub, source.revision) == (hub, source.revision)
    print(found.weights)
"""


def test_the_checkpoint_of_a_model_from_a_hub(toy: Toys, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in toy.source.iterdir()}
    # On Hugging Face the revision first: had the main branch been there before, either would do.
    asked = [["modelscope", None], ["modelscope", "v2"], ["huggingface", "v2"], ["huggingface", None]]

    def script(url: str, *cases: list[str | None]) -> list[Path]:
        variables = environment(
            tmp_path,
            HF_HOME=str(tmp_path / "huggingface"),
            HF_ENDPOINT=url,
            MODELSCOPE_CACHE=str(tmp_path / "modelscope"),
            MODELSCOPE_HOME=str(tmp_path / "modelscope-home"),
            MODELSCOPE_ENDPOINT=url,
            E2V_OFFLINE="0",
        )
        command = [sys.executable, "-c", HUB_SCRIPT, json.dumps(cases)]
        done = subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return [Path(line) for line in done.stdout.splitlines()]

    with LoopbackHub({"someone/toy": files}, branches=("main", "master", "v2")) as server:
        found = script(server.url, *asked)
        requests = server.requests.copy()
        assert script(server.url, *asked) == found
        assert server.requests == requests
    assert all(path.read_bytes() == files["model.pt"] for path in found)
    assert {path.relative_to(tmp_path).parts[0] for path in found[:2]} == {"modelscope"}
    assert {path.relative_to(tmp_path).parts[0] for path in found[2:]} == {"huggingface"}

    # Downloads of an older ModelScope do not record their revision.
    shutil.rmtree(tmp_path / "modelscope")
    older = shutil.copytree(toy.source, tmp_path / "modelscope" / "models" / "someone" / "toy")
    assert script("http://127.0.0.1:9", asked[0]) == [older / "model.pt"]
