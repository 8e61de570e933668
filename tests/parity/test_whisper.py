"""All runtimes of Whisper's encoder against transformers: the same weights, the same clips, every stage."""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import toys

import e2v_port
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.whisper import WhisperConfig, positions
from e2v_port.audio import load_audio
from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters import whisper as whisper_converter
from e2v_port.models import devices
from e2v_port.parity import references, verify
from e2v_port.parity import whisper as whisper_reference
from parity.holding import held
from parity.references import CLIPS

pytestmark = pytest.mark.skipif(
    not references.installed("whisper"), reason="transformers is not installed: pip install transformers"
)

RUNTIMES = [name for name in devices.RUNTIMES if devices.unavailable(name) is None]
CASES = {
    "whisper-toy": toys.WHISPER,
    "whisper-128-bands": replace(toys.WHISPER, bands=128, embed_dim=40, num_heads=5, depth=2, ffn_dim=120),
    "whisper-padded": replace(toys.WHISPER, num_heads=2, depth=1, pad=True),  # to 30 s
    "whisper-base": whisper_converter.BASE,
}
BY_CASE = [
    pytest.param(name, clip, marks=pytest.mark.xdist_group(name))
    for name in CASES
    for clip in (CLIPS if not CASES[name].pad else ("voice-2", "400-samples"))
]
# Of an odd and an even number of columns, and of every number of samples beyond the last window's center.
LENGTHS = [400, 479, 480, 481, 559, 560, 639, 640, 799, 801, 4000, 16_001]


def pad(folder: Path) -> Path:
    """Makes a converted folder fill its clips up to 30 s, as docs/port.md says."""
    settings = json.loads((folder / "config.json").read_text())
    settings["architecture"]["pad"] = True
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("whisper")

    @lru_cache
    def make(name: str) -> Path:
        return whisper_converter.make(CASES[name], root / name, seed=len(name))

    return make


@pytest.fixture(scope="session")
def reference(checkpoints, speech):
    @held(maxsize=1)
    def model(name: str) -> whisper_reference.Transformers:
        return whisper_reference.Transformers(local(checkpoints(name)))

    @held(maxsize=1)
    def stages(name: str, clip: str) -> dict[str, np.ndarray]:
        waveform = CLIPS[clip](speech)
        if CASES[name].pad:
            waveform = np.pad(waveform, (0, 480_000 - len(waveform)))
        return model(name).stages(waveform)

    return stages


@pytest.fixture(scope="session")
def whisper(checkpoints):
    @held(maxsize=2)
    def load(name: str, runtime: str, dtype: str = "float32") -> e2v_port.Model:
        folder = checkpoints(name).with_name(f"{name}-{dtype}")
        if not folder.exists():
            e2v_port.convert(checkpoints(name), dtype=dtype, out=folder)
            if CASES[name].pad:
                pad(folder)
        return e2v_port.load(folder, runtime=runtime)

    return load


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("name", "clip"), BY_CASE)
def test_every_stage_equals_transformers(name, clip, runtime, reference, whisper, speech, record_property):
    model = whisper(name, runtime)
    found = model.stages(CLIPS[clip](speech), 16_000)
    checks = verify.compare(model, reference(name, clip), found)
    record_property("parity", (name, runtime, clip, {check.name: check.difference for check in checks}))
    stages = ["waveform", "spectrogram", "conv_layers.0", "conv_layers.1", "positions"]
    stages += [f"blocks.{i}" for i in range(CASES[name].depth)]
    assert [check.name for check in checks] == [*stages, "frames", "pooled"]
    off = [f"{check.name} {check.difference:.1e} > {check.tolerance:.0e}" for check in checks if not check.passed]
    assert not off, f"first off: {off[0]}; all: {off}"


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["whisper-toy", "whisper-128-bands"])
def test_the_spectrogram_of_any_length_is_that_of_transformers(name, runtime, whisper, speech):
    from transformers import WhisperFeatureExtractor

    prepare = WhisperFeatureExtractor(feature_size=CASES[name].bands)
    model, voice = whisper(name, runtime), np.resize(load_audio(speech[1])[8000:], max(LENGTHS))
    for samples in LENGTHS:
        clip = voice[:samples]
        wanted = prepare(clip, sampling_rate=16_000, padding=False, return_tensors="np")["input_features"][0].T
        found = model.stages(clip, 16_000)
        np.testing.assert_allclose(found["spectrogram"], wanted, atol=1e-4, rtol=0)
        assert CASES[name].columns(samples) == len(wanted)
        assert CASES[name].frames(samples) == len(found["frames"]) == -(-len(wanted) // 2)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_padded_clip_is_what_whole_transformers_gives(runtime, tmp_path, whisper, speech):
    """transformers' own program, on a checkpoint that it wrote itself, decoder and all."""
    from transformers import WhisperConfig as Settings
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    toy = toys.WHISPER
    sizes = {"d_model": toy.width, "encoder_layers": toy.depth, "encoder_attention_heads": toy.num_heads}
    sizes |= {"decoder_layers": 1, "decoder_attention_heads": 6, "decoder_ffn_dim": 32, "vocab_size": 60}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    settings = Settings(**sizes, **tokens, encoder_ffn_dim=toy.ffn_dim, num_mel_bins=80, suppress_tokens=None)
    original = WhisperForConditionalGeneration(settings).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in original.named_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
            if name.endswith("encoder.embed_positions.weight"):
                parameter.copy_(torch.from_numpy(positions(*parameter.shape)))
    original.save_pretrained(tmp_path / "checkpoint")
    prepare = WhisperFeatureExtractor()
    prepare.save_pretrained(tmp_path / "checkpoint")
    clips = [load_audio(speech[1])]
    values = prepare(clips, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.inference_mode():
        wanted = original.model.encoder(values)[0].numpy()

    model = e2v_port.load(pad(e2v_port.convert(tmp_path / "checkpoint", out=tmp_path / "model")), runtime=runtime)
    frames = model.embed(clips, 16_000, granularity="frame")
    np.testing.assert_allclose(frames, wanted, atol=1e-4, rtol=0)
    np.testing.assert_allclose(model.embed(clips, 16_000), wanted.mean(1), atol=5e-5, rtol=0)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["whisper-toy", "whisper-128-bands"])
def test_a_batch_of_mixed_lengths_equals_single_clips(name, runtime, whisper, speech):
    model = whisper(name, runtime)
    clips = [CLIPS[clip](speech) for clip in CLIPS if clip not in {"30-seconds", "voice-1"}]
    clips += [clips[0][-samples:] for samples in LENGTHS]  # 1 to 3 columns apart: in one batch
    clips.append(1e-3 * clips[0][: 160 * 20 + 159])
    clips[-1][-100:] *= 1e5  # after the last window: loud in the dropped column, which a batch has
    frames = model.embed(clips, 16_000, granularity="frame")
    for clip, together, whole in zip(clips, model.embed(clips, 16_000), frames, strict=True):
        np.testing.assert_allclose(together, model.embed(clip, 16_000), atol=2e-5, rtol=0)
        np.testing.assert_allclose(whole, model.embed(clip, 16_000, granularity="frame"), atol=1e-4, rtol=0)
        assert len(whole) == model.config.architecture.frames(len(clip))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "q8"])
def test_fewer_bits_change_little(dtype, runtime, tmp_path, speech):
    config = replace(toys.WHISPER, embed_dim=64, num_heads=4, ffn_dim=128)
    checkpoint = whisper_converter.make(config, tmp_path / "checkpoint")
    exact = e2v_port.load(e2v_port.convert(checkpoint, out=tmp_path / "exact"), runtime="cpu").embed(speech[:3])
    folder = e2v_port.convert(checkpoint, dtype=dtype, out=tmp_path / dtype)
    for one, other in zip(exact, e2v_port.load(folder, runtime=runtime).embed(speech[:3]), strict=True):
        assert 0 < np.abs(one - other).max() < 0.02 * np.abs(one).max()


@pytest.mark.parametrize("name", ["whisper-toy", "whisper-padded"])
def test_what_is_longer_than_30_s_runs_in_windows_of_30_s(name, whisper, speech):
    model = whisper(name, "cpu")
    clip = np.resize(load_audio(speech[3]), 31 * 16_000)
    frames = model.embed(clip, 16_000, granularity="frame")
    assert len(frames) == model.config.architecture.frames(len(clip)) == 1550
    first = model.embed(clip[:480_000], 16_000, granularity="frame")
    assert len(first) == 1500
    assert np.abs(frames[:700] - first[:700]).mean() < 0.05 * np.abs(first).mean()
    np.testing.assert_allclose(model.embed(clip, 16_000), frames.mean(0), atol=2e-5, rtol=0)


def test_positions_are_those_of_transformers():
    """OpenAI's float16 holds no more digits than the difference of the two. A model of 15 s has all digits."""
    from transformers.models.whisper.modeling_whisper import sinusoids

    for width in (384, 1280):
        wanted = sinusoids(1500, width)
        np.testing.assert_allclose(positions(1500, width), wanted, atol=4e-4, rtol=0)
        half = replace(toys.WHISPER, embed_dim=width, num_heads=2, fixed_frames=750)
        np.testing.assert_allclose(half.positions(750), wanted[:750], atol=1e-4, rtol=0)


REFUSED = {
    "another activation": ({"activation_function": "relu"}, {}, "activation_function is 'relu'"),
    "scaled": ({"scale_embedding": True}, {}, "scale_embedding is True"),
    "another length": ({"max_source_positions": 750}, {}, "max_source_positions is 750"),
    "heads": ({"encoder_attention_heads": 7}, {}, "cannot be shared"),
    "another width": ({"encoder_ffn_dim": 95}, {}, "must be"),
    "fewer blocks": ({"encoder_layers": 2}, {}, "unexpected blocks.2"),
    "another window": ({}, {"n_fft": 512}, "n_fft is 512"),
    "other bands": ({}, {"feature_size": 64}, "feature_size is 64; only 80"),
    "no size": ({"d_model": None}, {}, "does not have the sizes of a Whisper"),
}


def changed(checkpoint: Path, folder: Path, settings=(), processor=(), tensors=()) -> Path:
    folder.mkdir()
    for name, change in (("config.json", settings), ("preprocessor_config.json", processor)):
        (folder / name).write_text(json.dumps(json.loads((checkpoint / name).read_text()) | dict(change)))
    state = torch.load(checkpoint / "pytorch_model.bin", weights_only=True)
    torch.save(state | dict(tensors), folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("kind", REFUSED)
def test_settings_that_are_not_computed_are_refused(kind, checkpoints, tmp_path):
    settings, processor, message = REFUSED[kind]
    source = changed(checkpoints("whisper-toy"), tmp_path / "changed", settings, processor)
    with pytest.raises(e2v_port.CheckpointError, match=message):
        e2v_port.convert(source, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.encoder.embed_positions.weight", torch.zeros(1500, 48), "differ by 1 from the sines"),
        ("model.encoder.embed_positions.weight", torch.full((1500, 48), torch.nan), "differ by nan from the sines"),
        ("model.encoder.layers.0.self_attn.k_proj.bias", torch.zeros(48), "unexpected blocks.0.attn.k_proj.bias"),
        ("projector.weight", torch.zeros(256, 48), r"no known head has the tensors projector\.weight \[256, 48\]"),
    ],
    ids=["other positions", "no numbers", "a bias", "a head"],
)
def test_tensors_that_are_not_computed_are_refused(name, value, message, checkpoints, tmp_path):
    source = changed(checkpoints("whisper-toy"), tmp_path / "changed", tensors={name: value})
    with pytest.raises(e2v_port.CheckpointError, match=message):
        e2v_port.convert(source, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_dialect_gives_the_same_model(checkpoints, tmp_path):
    """With the prefix of the whole model and without; and the encoder alone is all that is kept."""
    state = torch.load(checkpoints("whisper-toy") / "pytorch_model.bin", weights_only=True)
    other = changed(checkpoints("whisper-toy"), tmp_path / "other")
    renamed = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    torch.save(renamed | {"decoder.layer_norm.weight": torch.ones(48)}, other / "pytorch_model.bin")
    first, second = (
        e2v_port.convert(source, out=tmp_path / f"{i}") / "model.safetensors"
        for i, source in enumerate((checkpoints("whisper-toy"), other))
    )
    assert first.read_bytes() == second.read_bytes()
    config = ModelConfig.read(second.parent).architecture
    assert isinstance(config, WhisperConfig)
    assert config == toys.WHISPER
