"""All runtimes of wav2vec2, HuBERT and WavLM against transformers: the same weights, the same clips, every stage."""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import e2v_port
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.wavlm import WavlmConfig, buckets
from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters import wav2vec2 as wav2vec2_converter
from e2v_port.converters import wavlm as wavlm_converter
from e2v_port.models import devices
from e2v_port.parity import references, verify
from e2v_port.parity import wav2vec2 as wav2vec2_reference
from e2v_port.runtimes.fast import onednn
from parity.holding import held
from parity.references import CLIPS, SIX_HEADS

pytestmark = pytest.mark.skipif(
    not references.installed("wav2vec2"), reason="transformers is not installed: pip install transformers"
)

RUNTIMES = [name for name in devices.RUNTIMES if devices.unavailable(name) is None]
LARGE_TOY = replace(
    wav2vec2_converter.AUDEERING,
    conv_layers=SIX_HEADS.conv_layers,
    embed_dim=48,
    head_dim=48,
    num_heads=6,
    depth=3,
    ffn_dim=96,
    conv_pos_kernel=16,
    conv_pos_groups=4,
)
BASE_TOY = replace(LARGE_TOY, conv_norm="group", pre_norm=False, conv_bias=False, conv_pos_kernel=7)
NO_HEAD = replace(LARGE_TOY, num_labels=0, head_dim=0)
TOY_SIZES = {
    name: getattr(NO_HEAD, name)
    for name in ("conv_layers", "embed_dim", "num_heads", "depth", "ffn_dim", "conv_pos_kernel", "conv_pos_groups")
}
CASES = {
    "wav2vec2-large-toy": LARGE_TOY,  # LayerNorm after every convolution, norm before the halves of a block
    "wav2vec2-base-toy": BASE_TOY,
    "wav2vec2-no-head": replace(NO_HEAD, normalize=False, norm_eps=1e-3),
    "audeering": wav2vec2_converter.AUDEERING,
    "hubert-large-toy": NO_HEAD,
    "hubert-base-toy": replace(BASE_TOY, num_labels=0, head_dim=0),
    "distilhubert-toy": replace(BASE_TOY, num_labels=0, head_dim=0, depth=2, projection_norm=False),
    "wavlm-large-toy": replace(wavlm_converter.LARGE, **TOY_SIZES),
    "wavlm-base-toy": replace(
        wavlm_converter.BASE, **TOY_SIZES | {"conv_pos_kernel": 7}, conv_bias=True, num_buckets=30, max_distance=90
    ),
    "hubert-large": wav2vec2_converter.LARGE,
    "wavlm-large": wavlm_converter.LARGE,
}
BATCHES = ("wav2vec2-large-toy", "wav2vec2-base-toy", "distilhubert-toy", "wavlm-large-toy", "wavlm-base-toy")
FEW = ("voice-2", "400-samples")  # the other clips test what all models here have in common


def clips_of(name: str) -> list[str]:
    """Names of the clips that a case is compared on."""
    if "wav2vec2" in name or name == "audeering":
        return [*CLIPS]
    return [*FEW, "30-seconds"] if "wavlm" in name or not name.endswith("toy") else [*FEW]


BY_CASE = [pytest.param(name, clip, marks=pytest.mark.xdist_group(name)) for name in CASES for clip in clips_of(name)]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("wav2vec2")

    @lru_cache
    def make(name: str) -> Path:
        config, parametrized = CASES[name], name.endswith("large-toy")
        if isinstance(config, WavlmConfig):
            return wavlm_converter.make(config, root / name, parametrized=parametrized)
        kind = "hubert" if "hubert" in name else "wav2vec2"
        return wav2vec2_converter.make(config, root / name, parametrized=parametrized, kind=kind)

    return make


@pytest.fixture(scope="session")
def reference(checkpoints, speech):
    @held(maxsize=1)
    def model(name: str) -> wav2vec2_reference.Transformers:
        return wav2vec2_reference.Transformers(local(checkpoints(name)))

    @held(maxsize=1)
    def stages(name: str, clip: str) -> dict[str, np.ndarray]:
        return model(name).stages(CLIPS[clip](speech))

    return stages


@pytest.fixture(scope="session")
def wav2vec2(checkpoints):
    @held(maxsize=2)
    def load(name: str, runtime: str, dtype: str = "float32") -> e2v_port.Model:
        folder = checkpoints(name).with_name(f"{name}-{dtype}")
        if not folder.exists():
            e2v_port.convert(checkpoints(name), dtype=dtype, out=folder)
        return e2v_port.load(folder, runtime=runtime)

    return load


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("name", "clip"), BY_CASE)
def test_every_stage_equals_transformers(name, clip, runtime, reference, wav2vec2, speech, record_property):
    model = wav2vec2(name, runtime)
    found = model.stages(CLIPS[clip](speech), 16_000)
    checks = verify.compare(model, reference(name, clip), found)
    record_property("parity", (name, runtime, clip, {check.name: check.difference for check in checks}))
    case = CASES[name]
    assert len(checks) == 1 + len(case.conv_layers) + 2 + case.depth + 2 + bool(model.labels)
    off = [f"{check.name} {check.difference:.1e} > {check.tolerance:.0e}" for check in checks if not check.passed]
    assert not off, f"first off: {off[0]}; all: {off}"


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in BATCHES])
def test_a_batch_of_mixed_lengths_equals_single_clips(name, runtime, wav2vec2, speech):
    model = wav2vec2(name, runtime)
    clips = [CLIPS[clip](speech) for clip in CLIPS if clip != "30-seconds"]
    for together, clip in zip(model.embed(clips, 16_000), clips, strict=True):
        np.testing.assert_allclose(together, model.embed(clip, 16_000), atol=2e-5, rtol=0)
    for together, clip in zip(model.dimensions(clips, 16_000) if model.labels else (), clips, strict=False):
        alone = model.dimensions(clip, 16_000).to_dict()
        assert together.to_dict() == pytest.approx(alone, abs=2e-5)
    frames = model.embed(clips, 16_000, granularity="frame")
    for together, clip in zip(frames, clips, strict=True):
        np.testing.assert_allclose(together, model.embed(clip, 16_000, granularity="frame"), atol=1e-4, rtol=0)


@pytest.mark.xdist_group("audeering")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_move_dimensions_little(dtype, wav2vec2, speech_folder):
    clips = sorted(path for path in speech_folder.glob("emodb_*.flac") if path.stem != "emodb_timeline")
    clips = clips[:: 7 if onednn.available("bfloat16") else 20]  # slow without products in 16 bits
    exact = wav2vec2("audeering", "cpu").dimensions(clips)
    model = wav2vec2("audeering", "cpu", dtype)
    for rounded in (model.dimensions(clips), [model.dimensions(clip) for clip in clips]):
        worst = max(
            abs(value - found.to_dict()[name])
            for clip, found in zip(exact, rounded, strict=True)
            for name, value in clip.to_dict().items()
        )
        assert 0 < worst <= verify.PROBABILITY_TOLERANCE


def test_dimensions_are_the_raw_outputs(reference, wav2vec2, speech):
    """No sigmoid, and arousal, dominance, valence in the order of the checkpoint."""
    raw = reference("wav2vec2-large-toy", "voice-1")["logits"]
    found = wav2vec2("wav2vec2-large-toy", "cpu").dimensions(speech[0])
    np.testing.assert_allclose([found.arousal, found.dominance, found.valence], raw, atol=2e-5)
    assert min(raw) < 0 or max(raw) > 1, "these weights should give what a sigmoid cannot"


def test_every_dialect_gives_the_same_model(checkpoints, tmp_path, speech):
    """Both names of the weight norm, with and without the prefix, as pickle and as safetensors."""
    folder = checkpoints("wav2vec2-large-toy")
    clip = speech[1]
    expected = e2v_port.load(e2v_port.convert(folder, out=tmp_path / "first"), runtime="cpu").dimensions(clip)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    renamed = {
        name.replace("parametrizations.weight.original0", "weight_g")
        .replace("parametrizations.weight.original1", "weight_v")
        .removeprefix("wav2vec2."): tensor
        for name, tensor in state.items()
    }
    assert renamed.keys() != state.keys()
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (other / name).write_bytes((folder / name).read_bytes())
    save_file({name: tensor.contiguous() for name, tensor in renamed.items()}, other / "model.safetensors")
    assert e2v_port.load(e2v_port.convert(other, out=tmp_path / "second"), runtime="cpu").dimensions(clip) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"add_adapter": True}, "add_adapter is True"),
        ({"num_attention_heads": 7}, "cannot be shared"),
        ({"intermediate_size": 95}, "must be"),
        ({"feat_extract_norm": "batch"}, "conv_norm is 'batch'"),
        ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm is True"),
        ({"model_type": "data2vec-audio"}, "only 'wav2vec2' or 'hubert' is supported"),
    ],
)
def test_a_configuration_that_is_not_computed_is_refused(change, message, checkpoints, tmp_path):
    folder = checkpoints("wav2vec2-large-toy")
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in folder.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    settings = json.loads((folder / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(e2v_port.CheckpointError, match=message):
        e2v_port.convert(changed, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_half_a_weight_norm_is_refused(checkpoints, tmp_path):
    folder = checkpoints("wav2vec2-large-toy")
    changed = tmp_path / "changed"
    changed.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (changed / name).write_bytes((folder / name).read_bytes())
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    gone = next(name for name in state if name.endswith("original0"))
    torch.save({name: tensor for name, tensor in state.items() if name != gone}, changed / "pytorch_model.bin")
    with pytest.raises(e2v_port.CheckpointError, match=r"original1.*needs.*original0.*missing positions\.weight"):
        e2v_port.convert(changed, out=tmp_path / "out")


def test_what_a_dimensional_model_is_not_asked_for(wav2vec2, speech):
    clip = speech[1]
    with pytest.raises(e2v_port.NoLabels, match="use dimensions"):
        wav2vec2("wav2vec2-large-toy", "cpu").predict(clip)
    with pytest.raises(e2v_port.NoLabels, match="does not predict arousal"):
        wav2vec2("wav2vec2-no-head", "cpu").dimensions(clip)


@pytest.mark.parametrize(("number", "furthest"), [(320, 800), (30, 90), (33, 128), (8, 3)])
def test_distances_are_in_the_buckets_of_transformers(number, furthest):
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    apart = torch.arange(-3 * furthest, 3 * furthest + 1)
    wanted = WavLMAttention(8, 2, num_buckets=number, max_distance=furthest)._relative_positions_bucket(apart)
    found = buckets(number, furthest)[np.clip(apart.numpy(), -furthest, furthest) + furthest]
    assert found.tolist() == wanted.tolist()


def test_buckets_that_cover_no_distance_are_refused(checkpoints, tmp_path):
    settings = json.loads((checkpoints("wavlm-base-toy") / "config.json").read_text())
    for path in checkpoints("wavlm-base-toy").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"max_bucket_distance": 7}))
    with pytest.raises(e2v_port.CheckpointError, match="30 buckets do not cover distances of up to 7 frames"):
        e2v_port.convert(tmp_path, out=tmp_path / "out")


@pytest.mark.parametrize(("name", "normalize"), [("wavlm-large-toy", True), ("wavlm-base-toy", False)])
def test_without_a_preprocessor_the_published_models_say_what_is_normalized(name, normalize, checkpoints, tmp_path):
    for file in ("config.json", "pytorch_model.bin"):
        (tmp_path / file).write_bytes((checkpoints(name) / file).read_bytes())
    notes = []
    folder = e2v_port.convert(tmp_path, out=tmp_path / "out", note=notes.append)
    assert ModelConfig.read(folder).architecture.normalize is normalize
    assert any("no preprocessor_config.json" in note for note in notes)


def test_models_converted_before_there_was_hubert_still_load(checkpoints, tmp_path, speech):
    folder = e2v_port.convert(checkpoints("wav2vec2-base-toy"), out=tmp_path / "old")
    expected = e2v_port.load(folder, runtime="cpu").dimensions(speech[1])
    settings = json.loads((folder / "config.json").read_text())
    del settings["architecture"]["projection_norm"]
    (folder / "config.json").write_text(json.dumps(settings))
    assert e2v_port.load(folder, runtime="cpu").dimensions(speech[1]) == expected


def test_a_reference_without_the_weights_of_the_file_is_refused(checkpoints, tmp_path):
    """transformers fills what it does not find with random numbers."""
    for path in checkpoints("wavlm-large-toy").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    gone = "encoder.layers.1.attention.gru_rel_pos_const"
    del state[f"wavlm.{gone}"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(e2v_port.CheckpointError, match=f"did not load {gone}"):
        wav2vec2_reference.Transformers(local(tmp_path))
