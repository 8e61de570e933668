"""Both runtimes of the convolutional networks: against the published forward pass, and against SciPy."""

import json
from dataclasses import replace
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import scipy.special
import torch
import toys
from safetensors.torch import load_file, save_file

import e2v_port
from e2v_port.architectures.wav2small import Wav2smallConfig
from e2v_port.audio import mel_filters
from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters import wav2small as wav2small_converter
from e2v_port.models import devices
from e2v_port.parity import verify
from e2v_port.parity import wav2small as wav2small_reference
from parity.references import CLIPS

RUNTIMES = [name for name in devices.RUNTIMES if devices.unavailable(name) is None]
BARS = {"cpu": 2e-5, "numpy": 2e-5, "mlx": 5e-5, "cuda": 1e-4, "mps": 1e-4}  # of outputs
CASES = {
    "deviation": toys.DEVIATION,
    "gram": toys.GRAM,
    "no-residual": replace(toys.DEVIATION, residual=False),
    "no-band-norm": replace(toys.GRAM, band_norm=False, head_dim=0),
    "one-stage": replace(toys.DEVIATION, bands=18, stages=((4, 4),), normalize=False, head_dim=0, num_labels=0),
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint of the published shape."""
    return wav2small_converter.make(wav2small_converter.PUBLISHED, tmp_path_factory.mktemp("wav2small") / "published")


@pytest.fixture(scope="session")
def folders(checkpoint):
    """Returns the converted folder of a case, or of the published shape."""

    @lru_cache
    def make(name: str, dtype: str = "float32") -> Path:
        folder = checkpoint.with_name(f"{name}-{dtype}")
        if name == "published":
            return e2v_port.convert(checkpoint, dtype=dtype, out=folder)
        return toys.make_small(folder, CASES[name], seed=len(name), dtype=dtype)

    return make


@pytest.fixture(scope="session")
def loaded(folders):
    @lru_cache
    def load(name: str, runtime: str, dtype: str = "float32") -> e2v_port.Model:
        return e2v_port.load(folders(name, dtype), runtime=runtime)

    return load


@pytest.fixture(scope="session")
def reference(folders, checkpoint, speech):
    """Returns a clip and all stages of a case, by functions that others wrote, in float64."""

    @cache
    def stages(name: str, clip: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        # The logarithm would show the rounding errors of a transform of silence: noise 40 dB below full scale.
        waveform = CLIPS[clip](speech)[:24_000]
        waveform = waveform + 1e-2 * np.random.default_rng(1).standard_normal(len(waveform)).astype(np.float32)
        if name == "published":
            return waveform, wav2small_reference.Wav2small(local(checkpoint)).stages(waveform)
        stored = load_file(folders(name) / "model.safetensors")
        return waveform, by_scipy(CASES[name], {key: value.double().numpy() for key, value in stored.items()}, waveform)

    return stages


def by_scipy(config: Wav2smallConfig, weights: dict[str, np.ndarray], clip: np.ndarray) -> dict[str, np.ndarray]:
    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = clip.astype(np.float64)
    if config.normalize:
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-7)
    found = {"waveform": x}
    x = np.pad(x, (0, max(config.window - len(x), 0)))
    hann = scipy.signal.get_window("hann", config.window)
    overlap = config.window - config.step
    _, _, spectrum = scipy.signal.stft(x, 1, hann, config.window, overlap, boundary=None, padded=False)
    power = np.abs(spectrum * hann.sum()) ** 2  # SciPy divides by the sum of the window
    x = 10 * np.log10(np.maximum(power.T @ weights["mel"].T, config.floor))
    found["spectrogram"] = x = scipy.signal.detrend(x, axis=0, type="constant") if config.band_norm else x
    x = x[None]  # [channels, time, bands]
    layers = enumerate(chain.from_iterable(config.stages))
    for number, stage in enumerate(config.stages):
        if number:
            x = scipy.ndimage.maximum_filter(x, (1, 3, 3), mode="constant", cval=-np.inf)[:, ::2, ::2]
        for _, (i, channels) in zip(stage, layers, strict=False):
            weight, bias = np.moveaxis(weights[f"layers.{i}.weight"], 3, 1), weights[f"layers.{i}.bias"]
            y = np.stack([scipy.signal.correlate(np.pad(x, [(0, 0), (1, 1), (1, 1)]), w, "valid")[0] for w in weight])
            y += bias[:, None, None]
            x = np.maximum(x + y if config.residual and len(x) == channels else y, 0)
            found[f"layers.{i}"] = np.moveaxis(x, 0, 2)
    if config.pooling == "gram":
        values = linear("pooling.values", found[f"layers.{i}"]).swapaxes(1, 2)  # [time, width, bands]
        attention = linear("pooling.weights", found[f"layers.{i}"]).swapaxes(1, 2)
        mean = np.average(values, axis=0, weights=scipy.special.softmax(attention, axis=0))
        found["frames"] = np.stack([np.hstack([v, np.inner(v, v)]).ravel() for v in values])
        found["pooled"] = np.hstack([mean, np.inner(mean, mean)]).ravel()
    else:
        values = np.maximum(linear("pooling.values", np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)), 0)
        attention = scipy.special.softmax(linear("pooling.weights", values), axis=0)
        mean = np.average(values, axis=0, weights=attention)
        variance = np.average((values - mean) ** 2, axis=0, weights=attention)
        found["frames"] = np.hstack([values, np.full_like(values, 1e-5**0.5)])
        found["pooled"] = np.hstack([mean, np.sqrt(variance + 1e-5)])
    if config.num_labels and config.head_dim:
        found["logits"] = linear("head.out", np.tanh(linear("head.dense", found["pooled"])))
    elif config.num_labels:
        found["logits"] = linear("head", found["pooled"])
    return found


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("clip", ["voice-1", "voice-4", "400-samples", "clipped"])
@pytest.mark.parametrize("name", [*CASES, "published"])
def test_every_stage_equals_the_reference(name, clip, runtime, reference, loaded, record_property):
    waveform, wanted = reference(name, clip)
    found = loaded(name, runtime).stages(waveform, 16_000)
    assert {stage: value.shape for stage, value in found.items()} == {
        stage: value.shape for stage, value in wanted.items()
    }
    off = {stage: float(np.abs(found[stage] - value).max()) for stage, value in wanted.items()}
    record_property("parity", (f"wav2small-{name}", runtime, clip, off))
    for stage, difference in off.items():
        # Decibels and the gram of a matrix have elements of some hundreds.
        scale = 1 if stage == "logits" else max(1, np.abs(wanted[stage]).max())
        assert difference <= BARS[runtime] * scale, stage


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("clip", CLIPS)
def test_verify_finds_a_converted_checkpoint_equal(clip, runtime, loaded, checkpoint, speech):
    """Digital silence, and 30 s of speech with its pauses, among the clips."""
    model, waveform = loaded("published", runtime), CLIPS[clip](speech)
    stages = wav2small_reference.Wav2small(local(checkpoint)).stages(waveform)
    checks = verify.compare(model, stages, model.stages(waveform, 16_000))
    assert [check.name for check in checks if not check.passed] == []
    assert checks[-1].name == "dimensions"
    assert checks[-1].tolerance <= BARS[runtime]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", [*CASES, "published"])
def test_a_batch_of_mixed_lengths_equals_single_clips(name, runtime, loaded, speech):
    model = loaded(name, runtime)
    clips = [clip(speech)[:40_000] for key, clip in CLIPS.items() if key != "silence"]
    clips += [clips[0][:samples] for samples in (415, 416, 639, 640, 641, 799, 800, 801)]
    frames = model.embed(clips, 16_000, granularity="frame")
    outputs = [output for _, output in model.each(clips, 16_000)]
    for clip, together, output in zip(clips, frames, outputs, strict=True):
        assert len(together) == model.config.architecture.frames(len(clip))
        alone = model.embed(clip, 16_000, granularity="frame")
        ((_, single),) = model.each([clip], 16_000)
        ((_, again),) = model.each([clip], 16_000)
        scale = max(1, np.abs(alone).max())
        np.testing.assert_allclose(together, alone, atol=1e-4 * scale, rtol=0)
        np.testing.assert_allclose(output.embedding, single.embedding, atol=2e-5 * scale, rtol=0)
        assert np.array_equal(single.embedding, again.embedding)
        if output.logits is not None:
            np.testing.assert_allclose(output.logits, single.logits, atol=2e-5, rtol=0)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["deviation", "gram", "published"])
def test_sixteen_bits_change_little(name, dtype, runtime, loaded, speech):
    """The front end in 16 bits would move the spectrogram by decibels."""
    exact, rounded = loaded(name, "cpu"), loaded(name, runtime, dtype)
    for clip in ("voice-1", "voice-3", "400-samples"):
        waveform = CLIPS[clip](speech)[:40_000]
        one, other = exact.stages(waveform, 16_000), rounded.stages(waveform, 16_000)
        spectrogram = np.abs(one["spectrogram"] - other["spectrogram"])
        assert spectrogram.max() < 0.1
        spread = {"bfloat16": 0.03, "float16": 0.005}[dtype]
        assert 0 < np.abs(one["logits"] - other["logits"]).max() < spread * max(1, np.abs(one["pooled"]).max())


@pytest.mark.parametrize("name", ["deviation", "gram"])
def test_training_moves_every_weight_and_autocast_little(name, folders):
    """The torch twin is what is trained: under autocast, front end, pooling and head stay in float32."""
    from e2v_port.runtimes.wav2small_torch import Wav2small

    model = Wav2small(CASES[name])
    model.load_state_dict(load_file(folders(name) / "model.safetensors"))
    samples = [16_000, 9_000, 400]
    waveform = torch.from_numpy(np.random.default_rng(2).standard_normal((3, 16_000)).astype(np.float32))
    exact = model(waveform, samples)
    with torch.autocast("cpu", torch.bfloat16):
        spectrogram, lengths = model.spectrogram(waveform, samples)
        frames, pooled, logits = model.network(spectrogram, lengths)
    assert {frames.dtype, pooled.dtype, logits.dtype, spectrogram.dtype} == {torch.float32}
    assert 0 < (logits - exact[2]).abs().max() < 0.05 * exact[1].abs().max()
    exact[2].square().sum().backward()
    assert all(torch.any(parameter.grad != 0) for parameter in model.parameters())


def test_the_mel_bands_are_those_of_librosa():
    filters = pytest.importorskip("librosa").filters
    for bands, window, low, high in ((26, 64, 0, 8000), (64, 640, 50, 7600), (40, 400, 1200, 8000), (5, 512, 0, 900)):
        wanted = filters.mel(sr=16_000, n_fft=window, n_mels=bands, fmin=low, fmax=high)
        np.testing.assert_allclose(mel_filters(bands, window, low, high), wanted, atol=1e-8, rtol=1e-5)


def changed(checkpoint: Path, folder: Path, change) -> Path:
    folder.mkdir()
    (folder / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


FRONT, LOGMEL = "vgg7.spectrogram_extractor", "vgg7.logmel_extractor"
REFUSED = {
    "another window": (lambda t: t[f"{FRONT}.conv_real.weight"].mul_(0.5), "not the Fourier transform of a Hann"),
    "another sign": (lambda t: t[f"{FRONT}.conv_imag.weight"].neg_(), "not the Fourier transform of a Hann"),
    "half a transform": (
        lambda t: t.pop(f"{FRONT}.conv_imag.weight"),
        "needs one vgg7.*conv_imag",
    ),
    "another floor": (lambda t: t[f"{LOGMEL}.amin"].fill_(1e-5), "amin is"),
    "half a norm": (lambda t: t.pop("vgg7.l3.norm.running_var"), "needs one vgg7.l3.norm.running_var"),
    "a norm of another size": (lambda t: t.update({"vgg7.l3.norm.bias": torch.ones(1)}), "cannot become layers.2.w"),
    "a variance below zero": (lambda t: t["vgg7.l2.norm.running_var"].neg_(), "not finite as float32: layers.1.weight"),
    "a larger kernel": (lambda t: t.update({"vgg7.lin.weight": torch.ones(13, 13, 3, 3)}), "cannot become pooling.v"),
    "a missing layer": (
        lambda t: [t.pop(name) for name in [*t] if ".l7." in name],
        "wav2small.*layers.6",
    ),
    "four outputs": (lambda t: t.update({"adv.weight": torch.ones(4, 338), "adv.bias": torch.ones(4)}), "4 outputs"),
    "another tensor": (lambda t: t.update({"vgg7.l8.weight": torch.ones(3)}), "vgg7.l8.weight.*matches no rule"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_checkpoint_that_is_not_computed_is_refused(kind, checkpoint, tmp_path):
    change, message = REFUSED[kind]
    source = changed(checkpoint, tmp_path / "changed", change)
    with pytest.raises(e2v_port.CheckpointError, match=message):
        e2v_port.convert(source, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_constants_may_be_absent(checkpoint, tmp_path, loaded):
    """Files without the constants of the front end, and without a config.json, are the same model."""

    def change(tensors):
        for name in [*tensors]:
            if name.startswith(FRONT) or name.endswith(("amin", "num_batches_tracked")):
                del tensors[name]

    source = changed(checkpoint, tmp_path / "changed", change)
    (source / "config.json").unlink()
    notes: list[str] = []
    folder = e2v_port.convert(source / "model.safetensors", out=tmp_path / "out", note=notes.append)
    model = e2v_port.load(folder, runtime="cpu")
    assert any("half a window" in note for note in notes)
    clip = verify.test_clip()
    assert model.dimensions(clip, 16_000) == loaded("published", "cpu").dimensions(clip, 16_000)


def test_verify_reports_why_a_trained_model_has_no_reference(folders, loaded):
    rows, notes = verify.verify([loaded("deviation", "cpu")])
    assert rows == []
    assert "trained by e2v, not converted" in notes[0]


def test_the_step_is_that_of_config_json(checkpoint, tmp_path):
    source = changed(checkpoint, tmp_path / "changed", lambda _: None)
    settings = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(settings | {"hop": 16}))
    model = e2v_port.load(e2v_port.convert(source, out=tmp_path / "out"), runtime="cpu")
    clip = verify.test_clip()
    checks = verify.compare(
        model,
        wav2small_reference.Wav2small(local(source)).stages(clip),
        model.stages(clip, 16_000),
    )
    assert all(check.passed for check in checks)
    assert model.config.architecture.hop == 32
