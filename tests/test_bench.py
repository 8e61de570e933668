"""The benchmark is consistent and complete. Its times are not tested."""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import toys
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from e2v_port import cli, load
from e2v_port.architectures.config import ModelConfig
from e2v_port.bench import clips, contenders, measure, report, timing
from e2v_port.bench.plan import Plan
from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters import emotion2vec as emotion2vec_converter
from e2v_port.converters import ge2e as ge2e_converter
from e2v_port.converters import wav2small as wav2small_converter
from e2v_port.converters import wav2vec2 as wav2vec2_converter
from e2v_port.converters import whisper as whisper_converter
from e2v_port.errors import AudioError, RuntimeUnavailable
from e2v_port.parity import emotion2vec as emotion2vec_reference
from e2v_port.parity import whisper as whisper_reference
from e2v_port.runtimes import ecapa_torch, emotion2vec_torch, ge2e_torch, wav2small_torch, wavlm_torch

PLAN = Plan(seconds=6, repeats=1, long_files=(), counts=(1, 2), sizes=())
# One xdist worker for all of them, since several share the same measurement.
pytestmark = pytest.mark.xdist_group("bench")

SPEECH = Path(__file__).parents[1] / "benchmarks" / "speech"
SAMPLES = 16_123  # an odd number of frames, with a remainder


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return toys.convert(toys.make(folder / "checkpoint"), folder / "model")


@pytest.fixture(scope="module")
def result(toy: Path) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LD_PRELOAD", raising=False)  # with OpenBLAS preloaded no library is compared
        (measured,) = measure.bench([str(toy)], runtime="cpu", dtypes=["float32"], plan=PLAN)
    return measured


def counted(run) -> int:
    """Returns the operations that torch counts."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


# Operations


@pytest.mark.parametrize("kernel", [7, 8], ids=["odd", "even"])
def test_operations_of_emotion2vec_equal_the_count_of_torch_in_funasr(tmp_path, kernel):
    config = replace(toys.TOY, conv_pos_kernel=kernel)
    reference = emotion2vec_reference.FunASR(local(toys.make(tmp_path / "checkpoint", config)))
    assert config.flops(SAMPLES) == counted(lambda: reference.stages(np.ones(SAMPLES, np.float32)))


def test_operations_of_whisper_equal_the_count_of_torch_in_transformers(tmp_path):
    config = toys.WHISPER
    reference = whisper_reference.Transformers(local(whisper_converter.make(config, tmp_path)))
    spectrogram = config.operations(SAMPLES)["spectrogram"]  # which the reference makes before it counts
    features = np.ones((1, config.bands, config.columns(SAMPLES)))
    encoded = counted(lambda: reference.states(torch.from_numpy(features)))
    assert config.flops(SAMPLES) == spectrogram + encoded


def test_operations_of_wavlm_are_those_that_torch_counts():
    """In this package's network, whose gates are smaller than those of transformers."""
    model = wavlm_torch.Wavlm(toys.WAVLM)
    assert toys.WAVLM.flops(SAMPLES) == counted(lambda: model(torch.zeros(1, SAMPLES), [SAMPLES]))


@pytest.mark.parametrize("config", [emotion2vec_converter.BASE, emotion2vec_converter.LARGE], ids=["base", "large"])
def test_operations_of_full_size_emotion2vec(config):
    with FakeTensorMode():
        model = emotion2vec_torch.Emotion2vec(config)
        samples = 400 + 248 * 320
        clip = torch.zeros(1, samples)
        assert config.flops(samples) == counted(lambda: model(clip, [samples]))
    emotion2vec_torch.slopes.cache_clear()  # of this mode


@pytest.mark.parametrize("config", [toys.DIMENSIONAL, wav2vec2_converter.AUDEERING], ids=["toy", "audeering"])
def test_operations_of_wav2vec2_equal_the_count_of_torch_in_transformers(config):
    transformers = pytest.importorskip("transformers")
    dims, kernels, strides = zip(*config.conv_layers, strict=True)
    settings = transformers.Wav2Vec2Config(
        conv_dim=dims,
        conv_kernel=kernels,
        conv_stride=strides,
        conv_bias=True,
        feat_extract_norm="layer",
        hidden_size=config.embed_dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        intermediate_size=config.ffn_dim,
        num_conv_pos_embeddings=config.conv_pos_kernel,
        num_conv_pos_embedding_groups=config.conv_pos_groups,
        do_stable_layer_norm=True,
    )
    with torch.device("meta"):
        model = transformers.Wav2Vec2Model(settings).eval()
        clip = torch.zeros(1, SAMPLES)
    parts = config.operations(SAMPLES)
    assert sum(parts.values()) - parts["head"] == counted(lambda: model(clip))
    assert parts["head"] == 2 * config.head_dim * (config.embed_dim + config.num_labels)


@pytest.mark.parametrize(
    "config", [toys.DEVIATION, toys.GRAM, wav2small_converter.PUBLISHED], ids=["deviation", "gram", "full"]
)
def test_operations_of_wav2small(config):
    model = wav2small_torch.Wav2small(config)
    assert config.flops(SAMPLES) == counted(lambda: model(torch.zeros(1, SAMPLES), [SAMPLES]))


@pytest.mark.parametrize("config", [toys.GE2E, ge2e_converter.PUBLISHED], ids=["toy", "published"])
def test_operations_of_ge2e(config):
    model = ge2e_torch.Ge2e(config)
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)  # so that the LSTM runs, and is counted, product by product
    try:
        assert config.flops(SAMPLES) == counted(lambda: model(torch.zeros(1, SAMPLES), [SAMPLES]))
    finally:
        torch._C._set_mkldnn_enabled(before)


def test_operations_of_ecapa():
    model = ecapa_torch.Ecapa(toys.ECAPA)
    assert toys.ECAPA.flops(SAMPLES) == counted(lambda: model(torch.zeros(1, SAMPLES), [SAMPLES]))


# The clips


@pytest.mark.parametrize("seconds", [2, 17, 100.5])
def test_the_clips_match_their_description(tmp_path, seconds):
    paths, about = clips.cut(tmp_path, seconds)
    read = [soundfile.read(path, dtype="float32") for path in paths]
    assert {rate for _, rate in read} == {16_000}
    assert sum(len(clip) for clip, _ in read) == seconds * 16_000 == about["seconds"] * 16_000
    lengths = [len(clip) / 16_000 for clip, _ in read]
    assert (about["clips"], about["shortest"], about["longest"]) == (len(paths), min(lengths), max(lengths))
    assert min(lengths) >= 1
    assert max(lengths) <= 15
    assert all(clip.any() for clip, _ in read)


def test_the_seed_determines_the_clips(tmp_path):
    def samples(name: str, seed: int) -> list[bytes]:
        (tmp_path / name).mkdir()
        return [soundfile.read(path)[0].tobytes() for path in clips.cut(tmp_path / name, 40, seed=seed)[0]]

    assert samples("first", 3) == samples("second", 3)
    assert samples("third", 4) != samples("fourth", 5)


def test_the_clips_are_cut_from_given_recordings(tmp_path):
    recordings = tmp_path / "recordings" / "deep"
    recordings.mkdir(parents=True)
    (tmp_path / "recordings" / "notes.wav").write_text("no audio")
    soundfile.write(recordings / "one.wav", np.full(48_000, 0.25), 16_000)
    paths, about = clips.cut(tmp_path, 20, tmp_path / "recordings")
    assert about["source"] == "1 recordings"
    for path in paths:
        assert np.unique(soundfile.read(path)[0]).tolist() == [0.25]


def test_a_folder_without_recordings_is_an_error(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(AudioError, match="no audio file can be read: pass a folder"):
        clips.cut(tmp_path, 5, tmp_path / "none")


def test_an_installed_package_brings_its_speech(tmp_path):
    """As installed from a wheel: only the package in a folder, nothing of the checkout next to it."""
    site = tmp_path / "site"
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    shipped = project["tool"]["setuptools"]["package-data"]["e2v_port.service"]
    assert any(Path("page/example.flac").match(pattern) for pattern in shipped)
    shutil.copytree(root / "e2v_port", site / "e2v_port", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("converters", "runtimes", "taxonomy", "weights"):
        shutil.copytree(root / folder, site / "e2v_port" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from e2v_port.bench import clips\n"
        "assert Path(clips.__file__).is_relative_to(sys.argv[1]), clips.__file__\n"
        "from e2v_port.audio import load_audio\n"
        "from e2v_port.speech.detect import detect\n"
        "paths, about = clips.cut(Path(sys.argv[1]), 20)\n"
        "print(about['source']); print(sum(len(detect(load_audio(path))) for path in paths))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "E2V_TEST_AUDIO"}}
    command = [sys.executable, "-c", program, str(site)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    source, segments = done.stdout.splitlines()
    assert source == "the synthetic speech in the package"
    assert int(segments) > 0


# Measurements


def test_ratios_use_medians():
    assert timing.ratio([1.0, 2.0, 90.0], [80.0, 4.0, 10.0]) == 5


def test_the_figures_follow_from_the_times(result):
    (model,) = result["models"]
    ours, theirs = model["throughput"][:-1], model["throughput"][-1]
    assert [row["name"] for row in model["throughput"]] == ["e2v float32", "FunASR"]
    for row in model["throughput"]:
        median = statistics.median(row["seconds"])
        assert row["rate"] * median == pytest.approx(result["corpus"]["seconds"])
        assert row["flops_per_second"] * median == pytest.approx(row["flops"])
    for row in ours:
        assert row["ratio"] == pytest.approx(row["rate"] / theirs["rate"])
        assert row["of_peak"] == pytest.approx(row["flops_per_second"] / row["peak"])
    assert theirs["ratio"] is None
    for row in model["growth"]:
        assert row["per_audio_second"] * 5 * row["clips"] == pytest.approx(statistics.median(row["seconds"]))
    for row in model["stages"]:
        assert sum(row["stages"].values()) == pytest.approx(row["seconds"])
        assert all(row["stages"][name] > 0 for name in ("decode", "convolutions", "positions", "attention", "MLP"))
        assert min(row["stages"].values()) >= 0


def test_all_contenders_give_the_same_answers(result):
    (model,) = result["models"]
    assert [row["compared_with"] for row in model["throughput"]] == ["FunASR", None]
    assert 0 < model["throughput"][0]["difference"] < 2e-5


def test_all_measurements_are_present(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    (model,) = result["models"]
    names = {"e2v float32", "FunASR"}
    assert {(row["clip"], row["name"]) for row in model["latency"]} == {(s, n) for s in (1, 4, 10) for n in names}
    for part in ("load", "cold_start", "memory"):
        assert {row["name"] for row in model[part]} == names
        assert [row for row in model[part] if "failed" in row] == []
    assert [row["clips"] for row in model["growth"]] == [1, 2]
    assert len(result["start"]) == 2
    assert all(1e6 < row["peak_bytes"] < 8e9 for row in model["memory"])
    assert result["machine"]["threads"] == torch.get_num_threads()


def test_onnx_runtime_is_measured_on_an_export(toy, monkeypatch):
    pytest.importorskip("onnx", reason='onnx is not installed: pip install "e2v-port[onnx]"')
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    (measured,) = measure.bench([str(toy)], runtime="onnx", dtypes=["float32"], plan=PLAN)
    (model,) = measured["models"]
    ours, peer = model["throughput"]
    assert peer["name"] == "FunASR"
    assert ours["difference"] < 1e-4
    assert not any("failed" in row for part in ("cold_start", "memory") for row in model[part])
    with pytest.raises(RuntimeUnavailable, match=r"ONNX Runtime on the CPU|not available"):
        next(measure.bench([str(toy)], runtime="onnx:cuda", plan=PLAN))


def test_the_page_shows_every_figure(result, tmp_path):
    report.save(result, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "bench.json").read_text("utf-8")) == result
    page = (tmp_path / "new" / "bench.md").read_text("utf-8")
    assert page == report.render(result)
    (model,) = result["models"]
    for row in model["throughput"]:
        assert re.search(rf"^\| {row['name']} \| {row['rate']:.1f} \|", page, re.M)
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 9
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
    assert [path.name for path in sorted((tmp_path / "new").iterdir())] == ["bench.json", "bench.md"]


def test_the_document_has_one_place_for_the_results():
    text = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text("utf-8")
    assert len(re.findall(r"<!-- bench.*?<!-- /bench -->", text, re.S)) == 1


def test_the_page_shows_failures(result):
    broken = json.loads(json.dumps(result))
    for part in ("cold_start", "memory"):
        row = broken["models"][0][part][0]
        broken["models"][0][part][0] = {"name": row["name"], "failed": f"no {part} | today"}
    page = report.render(broken)
    for part in ("cold_start", "memory"):
        assert f"no {part} / today" in page


def test_transformers_gives_the_same_answers(tmp_path):
    folder = toys.convert(toys.make_dimensional(tmp_path / "checkpoint"), tmp_path / "model")
    paths, _ = clips.cut(tmp_path, 20)
    peer = contenders.peer(ModelConfig.read(folder), "cpu")
    ours = contenders.e2v(load(folder, runtime="cpu"), "e2v")
    assert peer.name == "transformers"
    for expected, answer in zip(peer.answer(paths), ours.answer(paths), strict=True):
        np.testing.assert_allclose(answer, expected, atol=2e-5)


@toys.needs_mlx
def test_funasr_mlx_gives_the_same_answers(toy, tmp_path):
    pytest.importorskip("funasr_mlx", reason="funasr-mlx is not installed: pip install funasr-mlx")
    config = ModelConfig.read(toy)
    assert contenders.has_mlx(config)
    paths, _ = clips.cut(tmp_path, 20)
    peer = contenders.peer(config, "mlx")
    ours = contenders.e2v(load(toy, runtime="mlx"), "e2v")
    assert peer.name == "funasr-mlx"
    for expected, answer in zip(peer.answer(paths), ours.answer(paths), strict=True):
        np.testing.assert_allclose(answer, expected, atol=2e-5)


def test_a_model_without_a_library_is_measured_alone(monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    plan = Plan(seconds=2, repeats=1, long_files=(3,), counts=(1,), sizes=())
    (measured,) = measure.bench(["bundled-tiny"], runtime="cpu", dtypes=["float32", "auto"], plan=plan)
    (model,) = measured["models"]
    assert model["peer"] is None
    assert [row["name"] for row in model["throughput"]] == ["e2v float32"]
    assert "no library has wav2small" in " ".join(model["notes"])
    assert "auto is float32 here" in " ".join(model["notes"])
    assert "no library has wav2small" in report.render(measured)
    (long,) = model["long_files"]
    assert (long["clip"], long["name"]) == (3, "e2v float32")
    assert 1e7 < long["peak_bytes"] < 8e9


def test_sizes_are_those_that_can_be_made(capsys, monkeypatch):
    cases = {"--size huge": "unknown size huge: use base", "--model bundled --size base": "pass --model or --size"}
    for options, words in cases.items():
        monkeypatch.setattr("sys.argv", ["e2v", "bench", *options.split()])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 2
        assert words in capsys.readouterr().err


def test_a_missing_library_is_an_error(toy, monkeypatch):
    monkeypatch.setattr(emotion2vec_reference.FunASR, "library", "NoSuchLibrary")
    with pytest.raises(RuntimeUnavailable, match="not installed"):
        contenders.peer(ModelConfig.read(toy), "cpu")


def test_funasr_does_not_change_the_threads(toy):
    threads = torch.get_num_threads()
    peer = contenders.peer(ModelConfig.read(toy), "cpu")
    peer.answer([str(SPEECH / "calm.flac")])
    assert torch.get_num_threads() == threads


def test_peak_memory_excludes_the_parent():
    ballast = np.ones(100_000_000)  # 800 MB, which ru_maxrss would include
    program = "from e2v_port.processes import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 10e6 < int(done.stdout) < ballast.nbytes / 2


def test_an_interruption_leaves_nothing(toy, tmp_path):
    temporary, out = tmp_path / "temporary", tmp_path / "out"
    temporary.mkdir()
    command = [sys.executable, "-m", "e2v_port", "bench", "--model", str(toy), "--quick", "--out", str(out)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stderr:
            if "throughput" in line:
                break
        ended = threading.Thread(target=process.stderr.read)
        ended.start()
        while ended.is_alive():  # repeated, as a library may ignore an interrupt inside its callbacks
            process.send_signal(signal.SIGINT)
            ended.join(20)
    assert process.returncode == 128 + signal.SIGINT
    assert not out.exists()
    assert [path.name for path in temporary.iterdir() if path.name.startswith("e2v")] == []
