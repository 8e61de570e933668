"""`runtime="onnx"`: exported models give what converted ones give, wherever sound is judged, or one clear line."""

import json
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from test_onnx import CLIPS, CONFIGS, RATE, make
from typer.testing import CliRunner

import e2v_port
from e2v_port import cli
from e2v_port.corpus.run import run
from e2v_port.errors import AudioError, CheckpointError, E2VError, ModelNotFound, RuntimeUnavailable
from e2v_port.export.onnx_folder import export_onnx
from e2v_port.models import devices
from e2v_port.parity.verify import test_clip as voice

onnxruntime = pytest.importorskip("onnxruntime", reason='onnxruntime is not installed: pip install "e2v-port[onnx]"')
pytest.importorskip("onnx", reason='onnx is not installed: pip install "e2v-port[onnx]"')

SPEECH = sorted((Path(__file__).parents[1] / "benchmarks" / "speech").glob("*.flac"))
# One of each way to normalize, to join windows and to score frames.
NAMES = [
    "emotion2vec",
    "emotion2vec, no head",
    "wav2vec2, deviation",
    "wav2small, gram",
    "ge2e",
    "ecapa",
    "whisper",
    "whisper, normalized",
    "whisper, attention",
]
WINDOWED = NAMES[2:6] + NAMES[7:]  # normalized in every way that windows are joined


def long() -> NDArray[np.float32]:
    """More than a minute, far from zero, with a silent part: every window has a level of its own."""
    parts = [np.tile(voice(), 16), np.zeros(4 * RATE, np.float32), 0.2 * np.tile(voice(), 6)]
    return np.concatenate(parts).astype(np.float32) + np.float32(0.2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Converted folder and export of each model."""
    root = tmp_path_factory.mktemp("onnx")
    found = {}
    for name in NAMES:
        found[name] = make(root / name, CONFIGS[name]), root / f"{name} exported"
        export_onnx(*found[name])
    return found


@pytest.mark.parametrize("name", NAMES)
def test_clips_and_windows_get_the_numbers_of_the_converted_model(
    folders: dict[str, tuple[Path, Path]], name: str
) -> None:
    converted, exported = folders[name]
    click = np.zeros(5 * RATE, np.float32)
    click[1_000] = 1.0  # normalized, 283 times as high as the rest
    clips = [*CLIPS, click, *([long()] if name in WINDOWED else [])]
    ours = e2v_port.load(exported, runtime="onnx")
    assert (ours.runtime, ours.dtype) == ("onnx", "float32")
    torchs = e2v_port.load(converted, runtime="cpu")
    assert ours.labels == torchs.labels
    pairs = zip(*(model.each(clips, RATE, frames=True) for model in (ours, torchs)), strict=True)
    for one, other in pairs:
        assert not isinstance(one, AudioError)
        assert not isinstance(other, AudioError)
        assert one[0] == other[0]
        for field, wanted in vars(other[1]).items():
            found = getattr(one[1], field)
            if wanted is None:
                assert found is None
            else:
                assert (found.shape, found.dtype) == (wanted.shape, np.float32)
                assert np.abs(found - wanted).max() <= 5e-5 * max(1, np.abs(wanted).max()), field


def test_predictions_and_dimensions(folders: dict[str, tuple[Path, Path]]) -> None:
    ours, torchs = (
        e2v_port.load(folder, runtime=runtime)
        for folder, runtime in zip(reversed(folders["emotion2vec"]), ("onnx", "cpu"), strict=True)
    )
    for one, other in zip(ours.predict(CLIPS, RATE), torchs.predict(CLIPS, RATE), strict=True):
        assert [*one.scores] == [*other.scores]
        assert [*one.scores.values()] == pytest.approx([*other.scores.values()], abs=2e-5)
    measured = e2v_port.load(folders["wav2vec2, deviation"][1], runtime="onnx").dimensions(CLIPS[0], RATE)
    wanted = e2v_port.load(folders["wav2vec2, deviation"][0], runtime="cpu").dimensions(CLIPS[0], RATE)
    assert [*measured.to_dict().values()] == pytest.approx([*wanted.to_dict().values()], abs=5e-5)


def test_silence_is_refused_as_on_every_runtime(folders: dict[str, tuple[Path, Path]]) -> None:
    with pytest.raises(AudioError, match="silen"):
        e2v_port.load(folders["whisper"][1], runtime="onnx").predict(np.zeros(RATE, np.float32), RATE)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, exported."""
    folder = tmp_path_factory.mktemp("bundled") / "onnx"
    export_onnx("bundled", folder)
    return folder


def test_the_command_line_analyzes_with_it(bundled: Path) -> None:
    found = []
    for model, runtime in (("bundled", "cpu"), (str(bundled), "onnx")):
        line = ["analyze", "--model", model, "--runtime", runtime, "--format", "json", str(SPEECH[0])]
        done = CliRunner().invoke(cli.app, line)
        assert done.exit_code == 0, done.output
        found.append([segment["emotion"]["e2v_scores"] for segment in json.loads(done.stdout)["segments"]])
    assert found[0]
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_a_corpus_runs_with_it(bundled: Path, tmp_path: Path) -> None:
    found = []
    (tmp_path / "clips").mkdir()
    for file in SPEECH[:2]:
        (tmp_path / "clips" / file.name).write_bytes(file.read_bytes())
    for model, runtime in (("bundled", "cpu"), (str(bundled), "onnx")):
        run(str(tmp_path / "clips"), tmp_path / runtime, model=model, runtime=runtime, workers=1)
        files = sorted((tmp_path / runtime).rglob("*.parquet"))
        found.append([row["primary"] for file in files for row in pq.read_table(file).to_pylist()])
    assert len(found[0]) == 2
    assert found[0] == found[1]


def test_what_an_export_lacks_is_said_in_one_line(folders: dict[str, tuple[Path, Path]]) -> None:
    model = e2v_port.load(folders["emotion2vec"][1], runtime="onnx")
    with pytest.raises(E2VError, match="does not return the outputs of its blocks: use the model"):
        model.layers(CLIPS[0], RATE)
    with pytest.raises(E2VError, match="does not return its stages: use the model"):
        model.stages(CLIPS[0], RATE)


def test_a_model_that_is_not_exported_names_the_command(folders: dict[str, tuple[Path, Path]]) -> None:
    for model in (str(folders["emotion2vec"][0]), "bundled", "no/such model"):
        with pytest.raises(ModelNotFound, match=r"e2v export --model .* --out FOLDER, then pass FOLDER"):
            e2v_port.load(model, runtime="onnx")


def test_another_type_is_refused(folders: dict[str, tuple[Path, Path]]) -> None:
    with pytest.raises(RuntimeUnavailable, match="onnx computes in float32 only"):
        e2v_port.load(folders["whisper"][1], runtime="onnx", dtype="bfloat16")
    assert e2v_port.load(folders["whisper"][1], runtime="onnx", dtype="auto").dtype == "float32"


def test_a_provider_that_is_not_there_is_never_replaced(folders: dict[str, tuple[Path, Path]]) -> None:
    here = set(onnxruntime.get_available_providers())
    missing = {name: found for name, found in devices.PROVIDERS.items() if found.provider not in here}
    assert missing  # no ONNX Runtime has all
    for name, found in missing.items():
        with pytest.raises(RuntimeUnavailable, match=rf"{name} is not available: .* has no {found.provider}: pip"):
            e2v_port.load(folders["whisper"][1], runtime=name)


def test_a_damaged_export_is_named(folders: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    source = folders["whisper"][1]
    for name in ("config.json", "run.py", "model.onnx"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"head\.safetensors cannot be read .*export the model again"):
        e2v_port.load(tmp_path, runtime="onnx")
    (tmp_path / "head.safetensors").write_bytes((folders["emotion2vec"][1] / "head.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"head\.safetensors does not belong to this model"):
        e2v_port.load(tmp_path, runtime="onnx")
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"model\.onnx cannot be loaded .*export the model again"):
        e2v_port.load(tmp_path, runtime="onnx")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
def test_a_forked_process_is_refused_instead_of_hanging(folders: dict[str, tuple[Path, Path]]) -> None:
    model = e2v_port.load(folders["whisper"][1], runtime="onnx")
    queue = multiprocessing.get_context("fork").Queue()

    def embed() -> None:
        try:
            model.embed(CLIPS[0], RATE)
        except RuntimeUnavailable as error:
            queue.put(str(error))

    process = multiprocessing.get_context("fork").Process(target=embed)
    process.start()
    assert "load the model in this process" in queue.get(timeout=60)
    process.join()


def test_doctor_lists_every_provider() -> None:
    done = CliRunner().invoke(cli.app, ["doctor"])
    assert done.exit_code == 0, done.output
    for name in devices.PROVIDERS:
        assert f"runtime {name} " in done.output


def test_toys_cover_the_ways_to_join() -> None:
    assert {CONFIGS[name].joining for name in WINDOWED} == {"mean", "deviation", "windows"}
    assert any(CONFIGS[name].normalize for name in WINDOWED)
    assert any(CONFIGS[name].speakers for name in WINDOWED)
