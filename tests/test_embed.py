"""The programs of docs/embed.md, in Python, JavaScript and C, print what this package says of the same clip."""

import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toys
from numpy.typing import NDArray

import e2v_port
from e2v_port.architectures.config import Label
from e2v_port.audio import load_audio
from e2v_port.export.onnx_folder import export_onnx

pytest.importorskip("onnx", reason='onnx is not installed: pip install "e2v-port[onnx]"')
onnxruntime = pytest.importorskip("onnxruntime", reason='onnxruntime is not installed: pip install "e2v-port[onnx]"')
pytestmark = pytest.mark.xdist_group("embed")

ROOT = Path(__file__).parents[1]
SPEECH = sorted((ROOT / "benchmarks" / "speech").glob("*.flac"))
# Where `make programs` puts what no package of the system holds.
NODE_MODULES = Path(sys.prefix) / "node" / "node_modules"
HEADERS = (Path("/usr/include/onnxruntime"), Path(sys.prefix) / "onnxruntime/usr/include/onnxruntime")
RATE = 16_000

Judge = Callable[[Path, Path], "subprocess.CompletedProcess[str]"]  # of an exported folder and a WAV


def code(language: str) -> str:
    """Returns the program in docs/embed.md that is in this language."""
    (program,) = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "docs/embed.md").read_text("utf-8"), re.M | re.S)
    return program


def run(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    # The BLAS that is preloaded for MLX starts threads, which Node complains about.
    variables = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run([*map(str, command)], env=variables, capture_output=True, encoding="utf-8", check=False)


def python_program(_: Path) -> Judge:
    """The program that every exported folder holds."""
    return lambda folder, file: run(sys.executable, folder / "run.py", file)


def node_program(place: Path) -> Judge:
    node = shutil.which("node")
    if node is None or not NODE_MODULES.is_dir():
        pytest.skip("Node with onnxruntime-node is missing: install Node 20 or newer with npm, then make programs")
    (place / "judge.mjs").write_text(code("js"), "utf-8")
    (place / "node_modules").symlink_to(NODE_MODULES)
    return lambda folder, file: run(node, place / "judge.mjs", folder, file)


def c_program(place: Path) -> Judge:
    """Compiled with the official header, linked with the library in the Python package."""
    compiler = shutil.which("cc")
    header = next((folder for folder in HEADERS if (folder / "onnxruntime_c_api.h").exists()), None)
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
    if compiler is None or header is None or library is None:
        pytest.skip("a C compiler or ONNX Runtime's header is missing: apt-get install gcc libonnxruntime-dev")
    (place / "judge.c").write_text(code("c"), "utf-8")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (place / name).symlink_to(library)
    strict = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
    names = ("-I", header, "-L", place, f"-Wl,-rpath,{place}", "-lonnxruntime")
    built = run(compiler, *strict, "-o", place / "judge", place / "judge.c", *names)
    assert built.returncode == 0, built.stderr
    return lambda folder, file: run(place / "judge", folder, file)


@pytest.fixture(scope="module", params=[python_program, node_program, c_program])
def judge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    program: Judge = request.param(tmp_path_factory.mktemp("program"))
    return program


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundled") / "model"
    export_onnx("bundled", folder)
    return folder


@pytest.fixture(scope="module")
def model() -> Iterator[e2v_port.Model]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("E2V_LICENCE", "accepted")
        yield e2v_port.load("bundled", runtime="cpu")


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def wav(content: bytes, *, form: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16) -> bytes:
    """Returns a WAV file as RIFF defines it, with a chunk of odd size before its samples, as editors write them."""
    size = channels * bits // 8
    head = struct.pack("<HHIIHH", form, channels, rate, rate * size, size, bits)
    return chunk(b"RIFF", b"WAVE" + chunk(b"fmt ", head) + chunk(b"LIST", b"odd") + chunk(b"data", content))


def samples(waveform: NDArray[np.float32]) -> bytes:
    return np.rint(waveform * 32767).astype("<i2").tobytes()


VOICE = samples(load_audio(SPEECH[0]))


def rows(answer: "subprocess.CompletedProcess[str]") -> dict[str, float]:
    """Returns the printed numbers by label, in the order in which they are printed."""
    assert (answer.returncode, answer.stderr) == (0, "")
    pairs = (line.split(" ", 1) for line in answer.stdout.splitlines())
    return {label: float(value) for value, label in pairs}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A sentence as a WAV."""
    file = tmp_path / "clip.wav"
    file.write_bytes(wav(VOICE))
    return file


@pytest.mark.parametrize("spoken", SPEECH, ids=lambda path: path.stem)
def test_the_numbers_are_those_of_this_package(
    judge: Judge, bundled: Path, model: e2v_port.Model, spoken: Path, tmp_path: Path
) -> None:
    file = tmp_path / "clip.wav"
    file.write_bytes(wav(samples(load_audio(spoken))))
    printed = judge(bundled, file)
    found, wanted = rows(printed), model.predict(file).scores
    digits = len(printed.stdout.split(" ", 1)[0]) - 2
    assert digits in {3, 6}
    assert found == pytest.approx(wanted, abs=1e-5 + 0.5 * 10**-digits)
    assert [*found] == sorted(wanted, key=wanted.__getitem__, reverse=True)


def test_names_of_labels_in_any_script_and_with_quotes(judge: Judge, clip: Path, tmp_path: Path) -> None:
    names = 'the "first"', "zwei Wörter", "back\\slash", "生气", "a, b"
    labels = tuple(Label(name, name, unused=False) for name in names)
    source = toys.make_small(tmp_path / "source", toys.DEVIATION, labels=labels)
    export_onnx(source, tmp_path / "model")
    wanted = e2v_port.load(source, runtime="cpu").predict(clip).scores
    assert rows(judge(tmp_path / "model", clip)) == pytest.approx(wanted, abs=6e-4)


def test_a_model_of_dimensions(judge: Judge, clip: Path, tmp_path: Path) -> None:
    labels = tuple(Label(name, name, unused=False) for name in ("arousal", "dominance", "valence"))
    source = toys.make_small(tmp_path / "source", replace(toys.DEVIATION, num_labels=3), labels=labels)
    export_onnx(source, tmp_path / "model")
    measured = e2v_port.load(source, runtime="cpu").dimensions(clip)
    wanted = {label.name: getattr(measured, label.name) for label in labels}
    assert rows(judge(tmp_path / "model", clip)) == pytest.approx(wanted, abs=6e-4)


REFUSED = {
    "silence": (wav(bytes(2 * RATE)), "cannot be judged: it is silent or too short"),
    "10 ms": (wav(VOICE[8000 : 8000 + 320]), "cannot be judged: it is silent or too short"),
    "no samples": (wav(b""), "cannot be judged: it is silent or too short"),
    "another rate": (wav(VOICE, rate=44_100), "must be mono, with 16-bit samples at 16000 Hz"),
    "two channels": (wav(VOICE, channels=2), "must be mono"),
    "24 bits": (wav(VOICE[:3000], bits=24), "must be mono, with 16-bit samples"),
    "too long": (wav(VOICE * (2 * 60 * RATE // len(VOICE) + 1)), "last at most 30 s"),  # as for every Whisper
    "cut off": (wav(VOICE)[:-1000], "is cut off"),
    "numbers of another kind": (wav(VOICE, form=3), "16-bit samples"),
    "only a head": (wav(VOICE)[:40], "WAV file"),
    "another format": (SPEECH[0].read_bytes(), "is not a WAV file"),
    "nothing": (b"", "is not a WAV file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_judged_is_one_line(judge: Judge, bundled: Path, tmp_path: Path, kind: str) -> None:
    content, why = REFUSED[kind]
    file = tmp_path / "clip.wav"
    file.write_bytes(content)
    answer = judge(bundled, file)
    assert (answer.returncode, answer.stdout) == (1, "")
    (line,) = answer.stderr.splitlines()
    assert line.startswith(f"{file}: ")
    assert why in line


def test_a_missing_file_is_one_line(judge: Judge, bundled: Path, tmp_path: Path) -> None:
    answer = judge(bundled, tmp_path / "none.wav")
    assert (answer.returncode, answer.stdout) == (1, "")
    (line,) = answer.stderr.splitlines()
    assert line.startswith(f"{tmp_path / 'none.wav'}: ")
    assert "no such file" in line.lower()
