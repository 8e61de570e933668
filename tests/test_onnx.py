"""Exported models, as ONNX Runtime runs them: the numbers of this package, in every batch, or no numbers."""

import ast
import json
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from numpy.typing import NDArray
from typer.testing import CliRunner

import e2v_port
from e2v_port import cli
from e2v_port.architectures.base import Architecture, Readout
from e2v_port.architectures.config import Label, ModelConfig
from e2v_port.architectures.registry import FAMILIES, family_of
from e2v_port.converters import emotion2vec as emotion2vec_converter
from e2v_port.errors import CheckpointError, E2VError
from e2v_port.export import onnx_folder
from e2v_port.export.onnx_folder import OPSET, OPSETS, TOLERANCES, export_onnx
from e2v_port.parity.verify import test_clip as voice

onnx = pytest.importorskip("onnx", reason='onnx is not installed: pip install "e2v-port[onnx]"')
onnxruntime = pytest.importorskip("onnxruntime", reason='onnxruntime is not installed: pip install "e2v-port[onnx]"')

RATE = 16_000
WHISPER = replace(toys.WHISPER, num_labels=3)
GROUP = replace(toys.DIMENSIONAL, conv_norm="group", pre_norm=False, conv_bias=False, head_dim=0)
# Every kind of part that a family has, and every kind of readout.
CONFIGS: dict[str, Architecture] = {
    "emotion2vec": toys.TOY,
    "emotion2vec, few slopes": replace(toys.TOY, num_alibi_heads=3, head_dim=9),
    "emotion2vec, no head": toys.HEADLESS,
    "emotion2vec, mean": toys.TOY.read(Readout((1, 4), "mean")),
    "wav2vec2": toys.DIMENSIONAL,
    "wav2vec2, base": GROUP,
    "wav2vec2, deviation": toys.DIMENSIONAL.read(Readout((2,), "deviation")),
    "wav2vec2, no norm before the projection": replace(GROUP, projection_norm=False),
    "wavlm": toys.WAVLM,
    "wavlm, base": replace(toys.WAVLM, conv_norm="group", pre_norm=False, normalize=False, num_labels=4),
    "sensevoice": replace(toys.SENSEVOICE, others=()),
    "sensevoice, deviation": toys.SENSEVOICE.read(Readout((2, 5), "deviation")),
    "wav2small, deviation": toys.DEVIATION,
    "wav2small, gram": toys.GRAM,
    "ge2e": toys.GE2E,
    "ecapa": toys.ECAPA,
    "whisper": WHISPER,
    "whisper, normalized": replace(WHISPER, normalize=True),
    "whisper, attention": WHISPER.read(Readout((1, 2), "attention", heads=4)),
}
CLIPS = [voice()[start:end] for start, end in ((0, 20_000), (5_000, 5_400), (8_000, 40_000), (1_000, 9_007))]


def make(folder: Path, config: Architecture) -> Path:
    """Writes a converted folder with random weights like those of training."""
    if isinstance(config, type(toys.GRAM)):
        return toys.make_small(folder, config)
    names = ("arousal", "dominance", "valence") if config.num_labels == 3 and config.head_dim else ()
    labels = {"labels": tuple(Label(name, name, unused=False) for name in names)} if names else {}
    if config is toys.TOY:
        labels = {"labels": tuple(Label(f"label {i}", "", unused=i in {1, 5}) for i in range(config.num_labels))}
    return toys.make_random(folder, config, temperature=1.7, **labels)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: make(root / name, config) for name, config in CONFIGS.items()}


@pytest.fixture(scope="module")
def exported(models: dict[str, Path]) -> dict[str, Path]:
    """The same models, exported."""
    folders = {name: folder.with_name(f"{name} as ONNX") for name, folder in models.items()}
    for name, folder in models.items():
        export_onnx(folder, folders[name])
    return folders


def run(folder: Path, clips: list[NDArray[np.float32]], samples: list[int] | None = None) -> dict[str, Any]:
    """Runs one batch; the padding is noise."""
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    longest = max(map(len, clips))
    batch = np.random.default_rng(0).standard_normal((len(clips), longest)).astype(np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    counts = np.array(samples or [*map(len, clips)])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"waveform": batch, "samples": counts}), strict=True))


def close(found: Any, wanted: Any, tolerance: float = TOLERANCES["float32"]) -> bool:
    found, wanted = np.array(found), np.array(wanted)
    return found.shape == wanted.shape and bool(np.abs(found - wanted).max() <= tolerance * max(1, abs(wanted).max()))


def test_every_family_is_here() -> None:
    assert {family_of(config).name for config in CONFIGS.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_gets_the_numbers_of_this_package(
    models: dict[str, Path], exported: dict[str, Path], name: str
) -> None:
    model = e2v_port.load(models[name], runtime="cpu")
    found = run(exported[name], CLIPS)
    assert close(found["embedding"], model.embed(CLIPS, RATE))
    for frames, length, wanted in zip(
        found["frames"], found["lengths"], model.embed(CLIPS, RATE, granularity="frame"), strict=True
    ):
        assert close(frames[:length], wanted)
        assert not frames[length:].any()
    if model.config.dimensional:
        wanted = [[getattr(each, label) for label in model.labels] for each in model.dimensions(CLIPS, RATE)]
        assert close(found["dimensions"], wanted)
    elif model.labels:
        predictions = model.predict(CLIPS, RATE)
        assert close(found["logits"], [[*each.logits.values()] for each in predictions])
        assert close(found["probabilities"], [[*each.scores.values()] for each in predictions])
    given = {"frames", "lengths", "embedding"}
    assert set(found) - given == (
        {"dimensions"} if model.config.dimensional else {"probabilities", "logits"} if model.labels else set()
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_a_clip_gets_the_same_numbers_alone(exported: dict[str, Path], name: str) -> None:
    together = run(exported[name], CLIPS)
    for i, clip in enumerate(CLIPS):
        alone = run(exported[name], [clip])
        length = alone["lengths"][0]
        assert together["lengths"][i] == length
        for output in set(alone) - {"lengths"}:
            both = together[output][i], alone[output][0]
            assert close(*(each[:length] for each in both) if output == "frames" else both, tolerance=2e-5)


def test_thirty_seconds_filled_up_with_silence(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", replace(WHISPER, pad=True))
    export_onnx(folder, tmp_path / "onnx")
    found = run(tmp_path / "onnx", CLIPS[:1])
    assert close(found["embedding"], e2v_port.load(folder, runtime="cpu").embed(CLIPS[:1], RATE))


def test_a_minute_far_from_zero_is_normalized_like_a_second(models: dict[str, Path], exported: dict[str, Path]) -> None:
    minute = np.tile(voice(), 20) + np.float32(0.3)
    name = "wav2small, deviation"
    wanted = e2v_port.load(models[name], runtime="cpu").embed([minute], RATE)
    assert close(run(exported[name], [minute])["embedding"], wanted)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_rounded_weights_move_no_probability_by_more_than_their_tolerance(
    models: dict[str, Path], tmp_path: Path, name: str, dtype: str
) -> None:
    if dtype == "int8" and name.startswith("wav2small"):
        with pytest.raises(E2VError, match=r"no matrix to round.*use float32 or float16"):
            export_onnx(models[name], tmp_path / "onnx", dtype=dtype)
        assert not (tmp_path / "onnx").exists()
        return
    export_onnx(models[name], tmp_path / "onnx", dtype=dtype)
    whole = export_onnx(models[name], tmp_path / "whole")
    rounded = sum(file.stat().st_size for file in (tmp_path / "onnx").iterdir())
    assert rounded < whole.bytes
    found, wanted = run(tmp_path / "onnx", CLIPS), run(tmp_path / "whole", CLIPS)
    judged = next(iter(wanted))  # probabilities, dimensions or the embedding
    assert close(found[judged], wanted[judged], TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_rounded_weights_give_the_same_label_to_clear_clips(
    models: dict[str, Path], exported: dict[str, Path], tmp_path: Path, dtype: str
) -> None:
    draw = np.random.default_rng(0)
    clips = [
        (level * draw.standard_normal(8_000) + np.sin(draw.uniform(0.01, 0.4) * np.arange(8_000))).astype(np.float32)
        for level in draw.uniform(0, 2, 100)
    ]
    export_onnx(models["emotion2vec"], tmp_path / "onnx", dtype=dtype)
    wanted = run(exported["emotion2vec"], clips)["probabilities"]
    first, second = np.sort(wanted, 1)[:, :-3:-1].T
    clear = first - second > TOLERANCES[dtype]
    same = run(tmp_path / "onnx", clips)["probabilities"].argmax(1) == wanted.argmax(1)
    assert clear.any()
    assert same[clear].mean() >= 0.99


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "q8", "q4"])
def test_a_model_stored_in_fewer_bits_is_exported_with_the_numbers_it_has(tmp_path: Path, dtype: str) -> None:
    wide = replace(toys.TOY, embed_dim=64, num_heads=8, num_alibi_heads=8, ffn_dim=192)
    emotion2vec_converter.make(wide, tmp_path / "checkpoint")
    folder = toys.convert(tmp_path / "checkpoint", tmp_path / "model", dtype=dtype)
    export_onnx(folder, tmp_path / "onnx")
    wanted = e2v_port.load(folder, runtime="cpu", dtype="float32").embed(CLIPS, RATE)
    assert close(run(tmp_path / "onnx", CLIPS)["embedding"], wanted)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(
    "name", ["emotion2vec", "wav2vec2, base", "sensevoice", "wav2small, gram", "whisper, attention"]
)
def test_every_opset_is_valid_and_runs(models: dict[str, Path], tmp_path: Path, name: str, opset: int) -> None:
    export_onnx(models[name], tmp_path / "onnx", opset=opset)
    model = onnx.load(tmp_path / "onnx" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", opset)]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    shapes = {
        each.name: [size.dim_param or size.dim_value for size in each.type.tensor_type.shape.dim]
        for each in (*inferred.graph.input, *inferred.graph.output)
    }
    sizes = CONFIGS[name]
    labels = sum(not label.unused for label in ModelConfig.read(models[name]).labels)
    assert shapes == {
        "waveform": ["batch", "samples"],
        "samples": ["batch"],
        "probabilities": ["batch", labels],
        "logits": ["batch", labels],
        "embedding": ["batch", sizes.embed_dim],
        "frames": ["batch", "frames", sizes.frame_dim],
        "lengths": ["batch"],
    }


# --- no number where there is no judgement


def test_a_clip_that_cannot_be_judged_gets_no_number(exported: dict[str, Path]) -> None:
    spoiled = CLIPS[0].copy()
    spoiled[100] = np.nan
    infinite = CLIPS[0].copy()
    infinite[100] = np.inf
    clips = [CLIPS[0], CLIPS[0][:399], spoiled, infinite, CLIPS[0] * 32768, CLIPS[0], CLIPS[0], CLIPS[0]]
    samples = [len(CLIPS[0]), 399, *[len(CLIPS[0])] * 3, 0, -5, len(CLIPS[0]) + 1]
    for name, folder in exported.items():
        found = run(folder, clips, samples)
        for output in set(found) - {"lengths"}:
            assert np.isfinite(found[output][0]).all(), (name, output)
            assert np.isnan(found[output][1:]).all(), (name, output)


@pytest.mark.parametrize("samples", [0, 1, 159, 399])
def test_a_clip_below_25_ms_alone_gets_no_number(exported: dict[str, Path], samples: int) -> None:
    for name, folder in exported.items():
        found = run(folder, [CLIPS[0][:samples]])
        for output in set(found) - {"lengths"}:
            assert np.isnan(found[output]).all(), (name, output)


def test_silence_has_no_probabilities(exported: dict[str, Path]) -> None:
    dither = np.random.default_rng(0).choice(np.float32([0, 1, -1]) / 32768, 16_000)
    clips = [CLIPS[0], np.zeros(16_000, np.float32), np.full(16_000, 0.3, np.float32), dither]
    found = run(exported["whisper"], clips)
    for output in ("probabilities", "logits"):
        assert np.isfinite(found[output][0]).all()
        assert np.isnan(found[output][1:]).all()
    assert np.isfinite(found["embedding"]).all()


def test_whisper_fails_for_clips_that_it_has_no_positions_for(exported: dict[str, Path]) -> None:
    with pytest.raises(Exception, match=r"broadcast|dimension"):
        run(exported["whisper"], [np.tile(voice(), 11)])


# --- the folder


def test_the_file_says_what_it_is(models: dict[str, Path], exported: dict[str, Path]) -> None:
    for name, folder in exported.items():
        config = ModelConfig.read(models[name])
        about = onnxruntime.InferenceSession(folder / "model.onnx").get_modelmeta().custom_metadata_map
        assert json.loads(about["labels"]) == [label.name for label in config.labels if not label.unused]
        assert float(about["temperature"]) == config.temperature
        assert (about["license"], about["source"]) == (config.licence, config.source.repository)
        assert ModelConfig.read(folder) == config
        head = ["head.safetensors"] if config.labels else []
        assert {file.name for file in folder.iterdir()} == {"config.json", "model.onnx", "run.py", *head}


def write_wav(path: Path, clip: NDArray[np.float32], rate: int = RATE, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(np.rint(clip * 32767).astype("<i2"), channels).tobytes())
    return path


def judge(folder: Path, wav: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, folder / "run.py", wav], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["emotion2vec", "emotion2vec, no head", "wav2vec2"])
def test_the_program_beside_it_judges_a_wav(
    models: dict[str, Path], exported: dict[str, Path], tmp_path: Path, name: str
) -> None:
    wav = write_wav(tmp_path / "clip.wav", voice() / 2)
    answer = judge(exported[name], wav)
    assert answer.stderr == ""
    model = e2v_port.load(models[name], runtime="cpu")
    if not model.labels:
        assert close(json.loads(answer.stdout), model.embed(wav))
        return
    rows = [line.split(" ", 1) for line in answer.stdout.splitlines()]
    if model.config.dimensional:
        measured = model.dimensions(wav)
        wanted = {label: getattr(measured, label) for label in model.labels}
    else:
        wanted = model.predict(wav).scores
    assert {label: float(value) for value, label in rows} == pytest.approx(wanted, abs=6e-4)
    assert [label for _, label in rows] == sorted(wanted, key=wanted.__getitem__, reverse=True)


def test_the_program_beside_it_refuses_what_it_cannot_judge(exported: dict[str, Path], tmp_path: Path) -> None:
    folder = exported["whisper"]
    for clip, rate, channels, why in (
        (voice(), 8_000, 1, "16-bit samples at 16000 Hz, and last at most 30 s"),
        (voice(), RATE, 2, "must be mono"),  # two channels can cancel each other
        (np.zeros(16_000, np.float32), RATE, 1, "silent"),
        (np.tile(voice(), 11), RATE, 1, "last at most 30 s"),
    ):
        answer = judge(folder, write_wav(tmp_path / "clip.wav", clip / 2, rate, channels))
        assert (answer.returncode, answer.stdout) == (1, "")
        assert why in answer.stderr


def test_the_program_beside_it_is_short_and_needs_two_libraries(exported: dict[str, Path]) -> None:
    text = (exported["whisper"] / "run.py").read_text("utf-8")
    assert len(text.splitlines()) < 40
    tree = ast.walk(ast.parse(text))
    names = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    assert names - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


def test_weights_too_large_for_one_file_lie_beside_it(
    models: dict[str, Path], exported: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from e2v_port.runtimes import onnx_graph

    monkeypatch.setattr(onnx_graph, "LARGEST", 1000)
    export_onnx(models["whisper"], tmp_path / "onnx")
    inside = (tmp_path / "onnx" / "model.onnx").stat().st_size
    beside = (tmp_path / "onnx" / "model.onnx.data").stat().st_size
    assert inside < beside
    found, wanted = run(tmp_path / "onnx", CLIPS), run(exported["whisper"], CLIPS)
    assert all((found[output] == wanted[output]).all() for output in wanted)
    export_onnx(models["whisper"], tmp_path / "onnx")  # an export of this kind is replaced, too


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs with another activation than the network has."""
    from e2v_port.runtimes.layers_onnx import Graph

    monkeypatch.setattr(Graph, "gelu", lambda _, x: x.apply("Relu"))


@pytest.mark.usefixtures("wrong")
def test_an_export_that_differs_is_not_written(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(E2VError, match=r"differs from this package's results by .* nothing was written"):
        export_onnx(models["whisper"], tmp_path / "onnx")
    assert [*tmp_path.iterdir()] == []


def test_an_earlier_export_is_replaced_and_nothing_else(
    models: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "onnx"
    export_onnx(models["whisper"], folder)
    export_onnx(models["wav2vec2"], folder)
    before = (folder / "model.onnx").read_bytes()
    assert ModelConfig.read(folder).family == "wav2vec2"
    request.getfixturevalue("wrong")
    with pytest.raises(E2VError, match="nothing was written"):
        export_onnx(models["whisper"], folder)
    assert (folder / "model.onnx").read_bytes() == before
    (folder / "notes.txt").write_text("mine")
    for other in (folder, models["whisper"]):
        with pytest.raises(CheckpointError, match="name another folder"):
            export_onnx(models["wav2vec2"], other)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_converted_model_is_not_taken_for_an_export_nor_the_reverse(
    exported: dict[str, Path], tmp_path: Path
) -> None:
    toys.make(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="holds more than a converted model"):
        toys.convert(tmp_path / "checkpoint", exported["whisper"])
    assert (exported["whisper"] / "model.onnx").is_file()


def test_an_export_is_not_loaded_as_a_model(exported: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="an export to ONNX: use runtime='onnx', or pass the model"):
        e2v_port.load(exported["whisper"])


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_a_missing_library_is_named_with_its_extra(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setattr(onnx_folder, "find_spec", lambda name: None if name == library else True)
    with pytest.raises(E2VError, match=rf'needs {library},.*"e2v-port\[onnx\]"'):
        export_onnx(models["whisper"], tmp_path / "onnx")


def test_the_command_line_exports(models: dict[str, Path], tmp_path: Path) -> None:
    line = ["export", "--model", str(models["wav2vec2"]), "--format", "onnx", "--out", str(tmp_path / "onnx")]
    done = CliRunner().invoke(cli.app, [*line, "--dtype", "float16", "--opset", "20"])
    assert done.exit_code == 0, done.output
    assert "float16" in done.output
    assert "dimensions within" in done.output
    for wrong in (["--opset", str(OPSETS[-1] + 1)], ["--opset", str(OPSET - 1)]):
        failed = CliRunner().invoke(cli.app, [*line, *wrong])
        assert isinstance(failed.exception, E2VError)
        assert f"{OPSETS[0]} to {OPSETS[-1]}" in str(failed.exception)
