"""ECAPA-TDNN speaker encoders on all runtimes: against speechbrain's own classes, in batches, over long clips."""

import importlib.util
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from numpy.typing import NDArray
from speechbrain_standin import forget_lazy, stand_in

import e2v_port
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.checkpoints.checkpoint import gather, local
from e2v_port.converters import ecapa as ecapa_converter
from e2v_port.models import devices, long_clips
from e2v_port.parity import references, verify

RUNTIMES = [name for name in devices.RUNTIMES if devices.unavailable(name) is None]
SPEECH = sorted((Path(__file__).parents[2] / "benchmarks" / "speech").glob("*.flac"))
# Of the shape of the published one, narrower; one of other sizes; and the published one.
NARROW = replace(ecapa_converter.PUBLISHED, width=64, joined=96, squeezed=16, attended=24, embed_dim=20)
OTHER = replace(NARROW, bands=40, kernel=3, dilations=(3, 2, 5), scale=4, width=48)
SIZES = {"narrow": NARROW, "other": OTHER, "published": ecapa_converter.PUBLISHED}
NAMES = ["narrow", "other", pytest.param("published", marks=pytest.mark.xdist_group("ecapa"))]
needs_speechbrain = pytest.mark.skipif(
    importlib.util.find_spec("speechbrain") is None, reason="speechbrain is not installed: pip install speechbrain"
)


def clips(name: str) -> dict[str, NDArray[np.float32]]:
    speech = [load_audio(path) for path in SPEECH[:2]]
    shortest = SIZES[name].shortest
    return {
        "speech": speech[0][:40_000],
        "other-speech": speech[1][8_000:25_001],
        "shortest": speech[0][9_000 : 9_000 + shortest],
        "silence": np.zeros(8_000, np.float32),
        "very-quiet": 1e-3 * speech[1][:20_000],
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """Returns the checkpoint and the converted folder of a case."""
    root = tmp_path_factory.mktemp("ecapa")

    @lru_cache
    def make(name: str, dtype: str = "float32") -> tuple[Path, Path]:
        source = ecapa_converter.make(SIZES[name], root / name, seed=len(name))
        return source, e2v_port.convert(source, out=root / f"{name}-{dtype}", dtype=dtype)

    return make


@pytest.fixture(scope="module")
def load(made):
    return lru_cache(lambda name, runtime: e2v_port.load(made(name)[1], runtime=runtime))


@pytest.fixture(scope="module")
def speechbrain():
    """Lets speechbrain be imported, and leaves nothing of it that is imported on the first look."""
    stand_in()
    yield
    forget_lazy()


@pytest.fixture(scope="module")
def reference(made, speechbrain: None):
    @lru_cache
    def stages(name: str, clip: str) -> dict[str, NDArray[np.float32]]:
        return references.reference("ecapa")(local(made(name)[0])).stages(clips(name)[clip])

    return stages


@needs_speechbrain
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("clip", ["speech", "other-speech", "shortest", "silence", "very-quiet"])
@pytest.mark.parametrize("name", NAMES)
def test_every_stage_equals_speechbrain(name: str, clip: str, runtime: str, load, reference, record_property) -> None:
    wanted = reference(name, clip)
    found = load(name, runtime).stages(clips(name)[clip], SAMPLING_RATE)
    off = {stage: float(np.abs(found[stage] - value).max()) for stage, value in wanted.items()}
    record_property("parity", (f"ecapa-{name}", runtime, clip, off))
    checks = verify.compare(load(name, runtime), wanted, found)
    assert [check for check in checks if not check.passed] == []
    assert {"spectrogram", "features", "first", "blocks.2", "frames", "statistics", "pooled"} <= {*off}


@needs_speechbrain
def test_embeddings_of_two_clips_differ_far_more_than_the_runtimes_do(reference) -> None:
    one, other = (reference("narrow", clip)["pooled"] for clip in ("speech", "other-speech"))
    assert np.abs(one - other).max() > 1e-2


@needs_speechbrain
def test_verify_compares_with_speechbrain(made, speechbrain: None) -> None:
    source, folder = made("narrow")
    rows, _ = verify.verify([e2v_port.load(folder, runtime="cpu")], checkpoint=source)
    assert [row[0].name for row in rows][-1] == "pooled"
    assert all(check.passed for row in rows for check in row)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_batch_of_mixed_lengths_equals_single_clips(runtime: str, load) -> None:
    """Each clip is mirrored at its own end, where speechbrain's batches are mirrored at the end of the longest."""
    model = load("other", runtime)
    speech = load_audio(SPEECH[0])
    batch = [speech[2_000 : 2_000 + samples] for samples in (400, 639, 800, 959, 960, 9_001, 24_000)]
    frames = model.embed(batch, SAMPLING_RATE, granularity="frame")
    for clip, together, pooled in zip(batch, frames, model.embed(batch, SAMPLING_RATE), strict=True):
        alone = model.embed(clip, SAMPLING_RATE, granularity="frame")
        assert together.shape == alone.shape == (max(len(clip) // 160, 5) + 1, OTHER.joined)
        np.testing.assert_allclose(together, alone, atol=1e-4 * np.abs(alone).max(), rtol=0)
        np.testing.assert_allclose(pooled, model.embed(clip, SAMPLING_RATE), atol=1e-5, rtol=0)
        assert np.linalg.norm(pooled) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_long_clip_runs_in_windows_of_about_the_same_embedding(
    runtime: str, load, monkeypatch: pytest.MonkeyPatch
) -> None:
    speech = np.concatenate([load_audio(path) for path in SPEECH])
    clip = np.resize(speech, 70 * SAMPLING_RATE)
    model = load("narrow", runtime)
    windows = model.embed(clip, SAMPLING_RATE)
    assert np.linalg.norm(windows) == pytest.approx(1, abs=1e-6)
    monkeypatch.setattr(long_clips, "LONGEST", 100 * SAMPLING_RATE)
    assert float(windows @ model.embed(clip, SAMPLING_RATE)) > 0.99


def test_a_folder_converts_with_all_its_files_and_a_file_alone_with_a_note(made, tmp_path: Path) -> None:
    """The hub's folder also has a classifier, means of embeddings and labels; nobody needs them."""
    source, folder = made("narrow")
    for name in ("embedding_model.ckpt", "hyperparams.yaml"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    torch.save({"weight": torch.ones(7205, 20)}, tmp_path / "classifier.ckpt")
    torch.save({"count": 3, "glob_mean": torch.ones(20)}, tmp_path / "mean_var_norm_emb.ckpt")
    (tmp_path / "label_encoder.txt").write_text("'id10001' => 0\n================\n'starting_index' => 0\n")
    whole = e2v_port.convert(tmp_path, out=tmp_path / "out")
    assert (whole / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    (tmp_path / "hyperparams.yaml").unlink()
    notes: list[str] = []
    alone = e2v_port.convert(tmp_path / "embedding_model.ckpt", out=tmp_path / "alone", note=notes.append)
    assert any("no hyperparams.yaml: mel bands and dilations" in note for note in notes)
    assert (alone / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_no_more_than_two_files_come_from_the_hub() -> None:
    names = {"classifier.ckpt", "config.json", "embedding_model.ckpt", "hyperparams.yaml", "label_encoder.txt"}
    fetched = []

    def find(name: str) -> Path | None:
        if name in names:
            fetched.append(name)
        return Path(name) if name in names else None

    found, missing, _ = gather(find, optional=False)
    assert found == {"config": Path("hyperparams.yaml"), "weights": Path("embedding_model.ckpt")}
    assert missing == []
    assert {*fetched} == {"embedding_model.ckpt", "hyperparams.yaml"}


def test_a_file_is_read_with_the_hyperparams_beside_it(made) -> None:
    source, folder = made("other")
    single = e2v_port.convert(source / "embedding_model.ckpt", out=source.with_name("single"))
    assert e2v_port.load(single).config.architecture == e2v_port.load(folder).config.architecture


REFUSED = {
    "another norm": (("norm_type: sentence", "norm_type: global"), "norm_type of InputNormalization is 'global'"),
    "deviations": (("    std_norm: False\n\nembedding", "\nembedding"), "lacks std_norm"),
    "derivatives": (("<n_mels>\n\nmean", "<n_mels>\n    deltas: True\n\nmean"), "deltas of Fbank is True"),
    "another class": (("ECAPA_TDNN.ECAPA_TDNN", "Xvector.Xvector"), "supported: ECAPA_TDNN"),
    "an activation": (("    res2net", "    activation: !name:torch.nn.LeakyReLU\n    res2net"), "activation"),
    "no context": (("    res2net", "    global_context: False\n    res2net"), "global_context of ECAPA_TDNN is False"),
    "other bands": (("input_size: !ref <n_mels>", "input_size: 40"), "80 mel bands for an input of 40"),
    "another kernel": (("[5, 3, 3, 3, 1]", "[5, 3, 5, 3, 1]"), "only 3 in the blocks"),
    "a dilated first layer": (("dilations: [1, 2", "dilations: [2, 2"), "the first and the last must be 1"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_hyperparams_that_are_not_computed_are_refused(kind: str, made, tmp_path: Path) -> None:
    source, _ = made("narrow")
    (old, new), message = REFUSED[kind]
    text = (source / "hyperparams.yaml").read_text("utf-8")
    assert old in text
    (tmp_path / "hyperparams.yaml").write_text(text.replace(old, new, 1), "utf-8")
    (tmp_path / "embedding_model.ckpt").write_bytes((source / "embedding_model.ckpt").read_bytes())
    with pytest.raises(e2v_port.CheckpointError, match=message):
        e2v_port.convert(tmp_path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensors_that_are_not_computed_are_refused(made, tmp_path: Path) -> None:
    """Such as the shortcut of blocks with different numbers of channels."""
    source, _ = made("narrow")
    state = torch.load(source / "embedding_model.ckpt", weights_only=True)
    state["blocks.2.shortcut.conv.weight"] = torch.ones(64, 64, 1)
    state["blocks.1.tdnn1.norm.norm.running_var"].neg_()
    torch.save(state, tmp_path / "embedding_model.ckpt")
    with pytest.raises(e2v_port.CheckpointError, match=r"blocks\.2\.shortcut.*matches no rule"):
        e2v_port.convert(tmp_path / "embedding_model.ckpt", out=tmp_path / "out")
    del state["blocks.2.shortcut.conv.weight"]
    torch.save(state, tmp_path / "embedding_model.ckpt")
    with pytest.raises(e2v_port.CheckpointError, match=r"not finite as float32: blocks\.0\.before\.norm"):
        e2v_port.convert(tmp_path / "embedding_model.ckpt", out=tmp_path / "out")


def test_packed_weights_give_nearly_the_same_embeddings(made, load) -> None:
    packed = made("narrow", "q8")[1]
    clip = clips("narrow")["speech"]
    exact = load("narrow", "numpy").embed(clip, SAMPLING_RATE)
    for runtime in toys.CASTING[:1]:
        assert 0.999 < float(e2v_port.load(packed, runtime=runtime).embed(clip, SAMPLING_RATE) @ exact) < 1
