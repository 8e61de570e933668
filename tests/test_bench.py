"""The benchmark measures what it says it does. How long things take is not tested."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
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

from e2v_port import bench, bench_report, flops, load, references
from e2v_port.config import ModelConfig
from e2v_port.converters import synthetic
from e2v_port.hubs import local
from e2v_port.runtimes import emotion2vec_torch, layers_torch, wav2small_torch

PLAN = bench.Plan(seconds=6, repeats=1, long_files=(), counts=(1, 2), sizes=())
# One worker for all of them, where the runner keeps groups together: several look at the same measurement.
pytestmark = pytest.mark.xdist_group("bench")

SAMPLES = 16_123  # an odd number of frames, and samples left over


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return toys.convert(toys.make(folder / "checkpoint"), folder / "model")


@pytest.fixture(scope="module")
def result(toy: Path) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LD_PRELOAD", raising=False)  # no library is compared with beside an OpenBLAS
        (found,) = bench.bench([str(toy)], runtime="cpu", dtypes=["float32"], plan=PLAN)
    return found


def counted(run) -> int:
    """What torch counts."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


# Operations


@pytest.mark.parametrize("kernel", [7, 8], ids=["odd", "even"])
def test_operations_of_emotion2vec_are_those_that_torch_counts_in_funasr(tmp_path, kernel):
    config = replace(toys.TOY, conv_pos_kernel=kernel)
    reference = references.FunASR(local(toys.make(tmp_path / "checkpoint", config)))
    assert flops.flops(config, SAMPLES) == counted(lambda: reference.stages(np.ones(SAMPLES, np.float32)))


@pytest.mark.parametrize("config", [synthetic.BASE, synthetic.LARGE], ids=["base", "large"])
def test_operations_of_full_size_emotion2vec(config, monkeypatch):
    monkeypatch.setattr(layers_torch, "FRAMES", 1 << 20)  # where blocks meet, some samples are counted twice
    with FakeTensorMode():
        model = emotion2vec_torch.Emotion2vec(config)
        samples = 400 + 248 * 320  # none left over, which blocks would leave out
        clip = torch.zeros(1, samples)
        assert flops.flops(config, samples) == counted(lambda: model(clip, [samples]))


@pytest.mark.parametrize("config", [toys.DIMENSIONAL, synthetic.AUDEERING], ids=["toy", "audeering"])
def test_operations_of_wav2vec2_are_those_that_torch_counts_in_transformers(config):
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
    parts = flops.flops_by_part(config, SAMPLES)
    assert sum(parts.values()) - parts["head"] == counted(lambda: model(clip))
    assert parts["head"] == 2 * config.head_dim * (config.embed_dim + config.num_labels)


@pytest.mark.parametrize("config", [toys.DEVIATION, toys.GRAM, synthetic.WAV2SMALL], ids=["deviation", "gram", "full"])
def test_operations_of_wav2small(config):
    model = wav2small_torch.Wav2small(config)
    assert flops.flops(config, SAMPLES) == counted(lambda: model(torch.zeros(1, SAMPLES), [SAMPLES]))


# The corpus


@pytest.mark.parametrize("seconds", [2, 17, 100.5])
def test_the_corpus_is_what_it_says(tmp_path, seconds):
    paths, about = bench.corpus(tmp_path, seconds)
    clips = [soundfile.read(path, dtype="float32") for path in paths]
    assert {rate for _, rate in clips} == {16_000}
    assert sum(len(clip) for clip, _ in clips) == seconds * 16_000 == about["seconds"] * 16_000
    lengths = [len(clip) / 16_000 for clip, _ in clips]
    assert (about["clips"], about["shortest"], about["longest"]) == (len(paths), min(lengths), max(lengths))
    assert min(lengths) >= 1
    assert max(lengths) <= 15
    assert all(clip.any() for clip, _ in clips)


def test_the_seed_decides_the_corpus(tmp_path):
    def samples(name: str, seed: int) -> list[bytes]:
        (tmp_path / name).mkdir()
        return [soundfile.read(path)[0].tobytes() for path in bench.corpus(tmp_path / name, 40, seed)[0]]

    assert samples("first", 3) == samples("second", 3)
    assert samples("third", 4) != samples("fourth", 5)


def test_the_corpus_is_cut_from_recordings_where_there_are(tmp_path, monkeypatch):
    recordings = tmp_path / "recordings" / "deep"
    recordings.mkdir(parents=True)
    (tmp_path / "recordings" / "notes.wav").write_text("no audio")
    soundfile.write(recordings / "one.wav", np.full(48_000, 0.25), 16_000)
    monkeypatch.setenv("E2V_TEST_AUDIO", str(tmp_path / "recordings"))
    paths, about = bench.corpus(tmp_path, 20)
    assert about["source"] == "1 recordings"
    for path in paths:
        assert np.unique(soundfile.read(path)[0]).tolist() == [0.25]


def test_without_recordings_the_corpus_is_cut_from_the_projects_own_clips_or_made(tmp_path, monkeypatch):
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("E2V_TEST_AUDIO", str(tmp_path / "none"))
    assert "benchmarks/speech" in bench.corpus(tmp_path, 5)[1]["source"]
    monkeypatch.setattr(bench, "SPEECH", tmp_path / "none")
    assert "no recordings" in bench.corpus(tmp_path, 5)[1]["source"]


# What is measured


def test_ratios_are_of_medians():
    assert bench.ratio([1.0, 2.0, 90.0], [80.0, 4.0, 10.0]) == 5


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
        assert sum(row["stages"].values()) == pytest.approx(row["seconds"], rel=0.5)
        assert all(row["stages"][name] > 0 for name in ("decode", "convolutions", "positions", "attention", "MLP"))


def test_all_contenders_do_the_same_job(result):
    (model,) = result["models"]
    assert [row["compared_with"] for row in model["throughput"]] == ["FunASR", None]
    assert 0 < model["throughput"][0]["difference"] < 2e-5


def test_nothing_is_left_out(result):
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


def test_the_page_shows_every_figure(result, tmp_path):
    bench_report.save(result, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "bench.json").read_text("utf-8")) == result
    page = (tmp_path / "new" / "bench.md").read_text("utf-8")
    assert page == bench_report.render(result)
    (model,) = result["models"]
    for row in model["throughput"]:
        assert re.search(rf"^\| {row['name']} \| {row['rate']:.1f} \|", page, re.M)
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 9
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
    assert [path.name for path in sorted((tmp_path / "new").iterdir())] == ["bench.json", "bench.md"]


def test_the_document_has_one_place_for_the_page():
    text = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text("utf-8")
    assert len(re.findall(r"<!-- bench.*?<!-- /bench -->", text, re.S)) == 1


def test_what_failed_is_told_on_the_page(result):
    broken = json.loads(json.dumps(result))
    for part in ("cold_start", "memory"):
        row = broken["models"][0][part][0]
        broken["models"][0][part][0] = {"name": row["name"], "failed": f"no {part} | today"}
    page = bench_report.render(broken)
    for part in ("cold_start", "memory"):
        assert f"no {part} / today" in page


def test_transformers_is_given_the_same_job(tmp_path):
    folder = toys.convert(toys.make_dimensional(tmp_path / "checkpoint"), tmp_path / "model")
    paths, _ = bench.corpus(tmp_path, 20)
    peer = bench._peer(ModelConfig.read(folder), "cpu")
    ours = bench._ours(load(folder, runtime="cpu"), "e2v")
    assert peer.name == "transformers"
    for theirs, own in zip(peer.answer(paths), ours.answer(paths), strict=True):
        np.testing.assert_allclose(own, theirs, atol=2e-5)


def test_a_model_that_no_library_has_is_measured_alone(monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    plan = bench.Plan(seconds=2, repeats=1, long_files=(3,), counts=(1,), sizes=())
    (found,) = bench.bench(["bundled"], runtime="cpu", dtypes=["float32", "auto"], plan=plan)
    (model,) = found["models"]
    assert model["peer"] is None
    assert [row["name"] for row in model["throughput"]] == ["e2v float32"]
    assert "no library has wav2small" in " ".join(model["notes"])
    assert "auto is float32 here" in " ".join(model["notes"])
    assert "no library has wav2small" in bench_report.render(found)
    (long,) = model["long_files"]
    assert (long["clip"], long["name"]) == (3, "e2v float32")
    assert 1e7 < long["peak_bytes"] < 8e9


def test_a_library_that_is_not_installed_is_told_of(toy, monkeypatch):
    monkeypatch.setitem(references.REFERENCES, "emotion2vec", ("NoSuchLibrary", references.FunASR))
    with pytest.raises(bench.RuntimeUnavailable, match="not installed"):
        bench._peer(ModelConfig.read(toy), "cpu")


def test_the_threads_are_set_back_after_funasr(toy):
    threads = torch.get_num_threads()
    peer = bench._peer(ModelConfig.read(toy), "cpu")
    peer.answer([str(bench.SPEECH / "calm.flac")])
    assert torch.get_num_threads() == threads


def test_peak_memory_is_that_of_the_process_alone():
    ballast = np.ones(100_000_000)  # 800 MB; ru_maxrss would count them
    program = "from e2v_port import bench; print(bench._peak_memory())"
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
                process.send_signal(signal.SIGINT)
                break
        process.stderr.read()
    assert process.returncode == 128 + signal.SIGINT
    assert not out.exists()
    assert [path.name for path in temporary.iterdir() if path.name.startswith("e2v")] == []
