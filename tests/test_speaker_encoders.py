"""The speaker encoder in the package: its origin, whom it tells apart, and that it is no model of emotions."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import e2v_port
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.checkpoints import catalog
from e2v_port.errors import CheckpointError, NoLabels
from e2v_port.models import devices

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "weights" / "bundled-voices"
RUNTIMES = [name for name in devices.RUNTIMES if devices.unavailable(name) is None]
SENTENCES = (
    "The meeting will begin at nine, and everybody is expected to be there.",
    "I would rather walk home through the rain than wait for the last bus.",
    "Please put the books back on the shelf where you have found them.",
)
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@pytest.fixture(scope="module")
def published() -> Path:
    """pretrained.pt of the package Resemblyzer, from which the model was converted."""
    found = importlib.util.find_spec("resemblyzer")
    if found is None or found.origin is None:
        pytest.skip("Resemblyzer is not installed: pip install Resemblyzer==0.1.4")
    return Path(found.origin).with_name("pretrained.pt")


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], NDArray[np.float32]]:
    """Two synthetic voices, each of which says the same three sentences."""
    folder = tmp_path_factory.mktemp("voices")
    found = {}
    for name, options in {"low": ("en-gb", "-p", "20"), "high": ("en-us+f3", "-p", "80")}.items():
        for number, sentence in enumerate(SENTENCES):
            path = folder / f"{name}-{number}.wav"
            subprocess.run(["espeak-ng", "-v", *options, "-w", path, sentence], check=True)
            found[name, number] = load_audio(path)
    return found


def test_it_needs_numpy_alone_and_no_network() -> None:
    program = """if True:
        import socket, sys
        class Refused:
            def find_spec(self, name, *_):
                if name.partition(".")[0] in {"torch", "mlx", "onnxruntime"}:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Refused())
        socket.socket.connect = None
        import numpy as np, e2v_port
        model = e2v_port.load("bundled-voices", offline=True)
        clip = np.random.default_rng(0).standard_normal(40_000).astype(np.float32)
        embedding = model.embed(clip, 16_000)
        print(model.runtime, model.dtype, embedding.shape, embedding.dtype, float(embedding @ embedding))"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    runtime, dtype, dim, kind, length = done.stdout.replace("(", "").replace(",)", "").split()
    assert (runtime, dtype, dim, kind) == ("numpy", "float32", "256", "float32")
    assert float(length) == pytest.approx(1, abs=1e-6)


@needs_espeak
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_voice_is_nearer_to_itself_than_to_another(
    runtime: str, voices: dict[tuple[str, int], NDArray[np.float32]]
) -> None:
    """Whatever is said, and however loud."""
    model = e2v_port.load("bundled-voices", runtime=runtime)
    clips = [np.float32((1.0, 0.05, 0.3)[number]) * clip for (_, number), clip in voices.items()]
    embeddings = dict(zip(voices, model.embed(clips, SAMPLING_RATE), strict=True))
    similar: dict[bool, list[float]] = {True: [], False: []}
    for one, other in combinations(voices, 2):
        similar[one[0] == other[0]].append(float(embeddings[one] @ embeddings[other]))
    assert min(similar[True]) > max(similar[False])


@needs_espeak
def test_its_16_bits_give_the_embeddings_of_resemblyzer(
    published: Path, voices: dict[tuple[str, int], NDArray[np.float32]]
) -> None:
    from e2v_port.checkpoints.checkpoint import local
    from e2v_port.parity import references

    reference = references.reference("ge2e")
    assert reference is not None
    original = reference(local(published))
    for runtime in RUNTIMES:
        model = e2v_port.load("bundled-voices", runtime=runtime)
        for clip in [*voices.values()][::3]:
            assert float(model.embed(clip, SAMPLING_RATE) @ original.stages(clip)["pooled"]) > 0.9999


def test_it_is_what_the_converter_makes_of_resemblyzers_file(published: Path, tmp_path: Path) -> None:
    from e2v_port.converters.ge2e import bundle

    bundle(published, tmp_path)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_another_file_does_not_become_it(tmp_path: Path) -> None:
    from e2v_port.converters import ge2e

    source = ge2e.make(ge2e.PUBLISHED, tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match=r"not the pretrained.pt of Resemblyzer 0\.1\.4"):
        ge2e.bundle(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_its_card_has_its_origin_license_and_command() -> None:
    known = catalog.lookup("bundled-voices")
    assert known is not None
    card = (FOLDER / "README.md").read_text("utf-8")
    source = json.loads((FOLDER / "config.json").read_text("utf-8"))["source"]
    for each in known.accuracy:
        rate = each.figure.split()[-1]
        assert re.search(rf"^\| 3 \|.* {rate} ", card, re.M), each
    for fact in (source["sha256"], "Resemblyzer", "python -m e2v_port.converters.ge2e", known.licence, known.data):
        assert fact in " ".join(card.split()), fact
    assert known.sha256["pretrained.pt"] == (source["sha256"],)
    assert (FOLDER / "LICENSE").read_text("utf-8").split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert (FOLDER / "model.safetensors").stat().st_size < 3_000_000


def test_nobody_takes_it_for_a_model_of_emotions() -> None:
    clip = ROOT / "benchmarks" / "speech" / "calm.flac"
    model = e2v_port.load("bundled-voices", runtime="numpy")
    line = "bundled-voices is a speaker encoder: it says who speaks, and knows no emotions"
    for call in (lambda: model.predict(clip), lambda: e2v_port.analyze(clip, model="bundled-voices", runtime="numpy")):
        with pytest.raises(NoLabels, match=line):
            call()
    program = [sys.executable, "-m", "e2v_port", "analyze", str(clip), "--model", "bundled-voices", "-r", "numpy"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    (error,) = done.stderr.splitlines()
    assert line in error
