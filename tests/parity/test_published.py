"""Vox-Profile and the Odyssey baselines: checkpoints of the published layout against the published forward pass."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import e2v_port
from e2v_port.architectures.config import ModelConfig
from e2v_port.audio import load_audio
from e2v_port.errors import CheckpointError
from e2v_port.export.onnx_folder import export_onnx
from e2v_port.models import devices
from e2v_port.parity import references, verify

if not references.installed("wavlm"):
    pytest.skip("transformers is not installed: pip install transformers", allow_module_level=True)
from parity import published

RUNTIMES = [name for name in devices.RUNTIMES if devices.unavailable(name) is None]
SECONDS = (0.5, 3.01, 8.0, 14.99)
LABELS = ("Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral")
DIMENSIONS = ("arousal", "dominance", "valence")


def whisper_with_lora():
    return published.VoxProfile(published.small_whisper(), labels=True, lora=True), ("whisper_large", True, True)


def whisper_of_dimensions():
    return published.VoxProfile(published.small_whisper(), labels=False), ("whisper_large", False, False)


def wavlm_of_labels():
    return published.VoxProfile(published.small_wavlm(), labels=True), ("wavlm_large", True, False)


def wavlm_of_dimensions():
    return published.VoxProfile(published.small_wavlm(), labels=False), ("wavlm_large", False, False)


def odyssey_of_labels():
    return published.Odyssey(published.small_wavlm(), len(LABELS)), LABELS


def odyssey_of_dimensions():
    return published.Odyssey(published.small_wavlm(), 3, layers=2), DIMENSIONS


CASES = {
    make.__name__: make
    for make in (
        whisper_with_lora,
        whisper_of_dimensions,
        wavlm_of_labels,
        wavlm_of_dimensions,
        odyssey_of_labels,
        odyssey_of_dimensions,
    )
}
by_case = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(f"published {name}")) for name in CASES]
)


def settings_of(about: tuple) -> dict:
    if isinstance(about[1], bool):
        kind, labels, lora = about
        return published.vox_profile_settings(kind, labels=labels, lora=lora)
    return published.odyssey_settings(about)


@pytest.fixture(scope="module")
def clips(speech: list[Path]) -> list[np.ndarray]:
    voice = np.resize(load_audio(speech[3]), 16_000 * 15)
    return [voice[: round(16_000 * seconds)] for seconds in SECONDS]


@pytest.fixture(scope="module")
def made(tmp_path_factory, clips):
    """Returns checkpoint, converted folder and what the published class makes of the clips."""
    root = tmp_path_factory.mktemp("published")

    @lru_cache
    def make(name: str) -> tuple[Path, Path, list[dict[str, np.ndarray]]]:
        model, about = CASES[name]()
        model = published.fill(model, seed=len(name))
        source = published.save(model, root / name, settings_of(about))
        return source, e2v_port.convert(source, out=root / f"{name} converted"), published.answers(model, clips)

    return make


@by_case
@pytest.mark.parametrize("runtime", [*RUNTIMES, "onnx"])
def test_outputs_equal_those_of_the_published_class(name, runtime, made, clips, tmp_path, record_property):
    _, folder, wanted = made(name)
    if runtime == "onnx":
        pytest.importorskip("onnxruntime")
        export_onnx(folder, tmp_path / "exported")
        folder = tmp_path / "exported"
    model = e2v_port.load(folder, runtime=runtime)
    results = list(model.each(clips, 16_000))
    worst = 0.0
    for clip, result, expected in zip(clips, results, wanted, strict=True):
        found = {}
        if not model.config.dimensional:
            found["logits"] = [*model.judge(result).logits.values()]
        if model.config.measures:
            measured = model.measure(result)
            found["dimensions"] = [getattr(measured, each) for each in DIMENSIONS]
        assert {*found} == {*expected}
        worst = max(worst, *(float(np.abs(np.array(found[key]) - expected[key]).max()) for key in found))
        single = model.embed(clip, 16_000)
        np.testing.assert_allclose(result[1].embedding, single, atol=2e-5)  # batches equal single clips
    record_property("parity", (name, runtime, "clips", {"outputs": worst}))
    assert worst < 5e-5


@by_case
def test_verify_finds_the_reference_of_the_layout(name, made, clips, monkeypatch):
    source, folder, _ = made(name)
    monkeypatch.setattr(verify, "test_clip", lambda: clips[1])
    rows, notes = verify.verify([e2v_port.load(folder, runtime="cpu")], checkpoint=source)
    checks = [row[0] for row in rows]
    assert [check.name for check in checks if not check.passed] == []
    assert {"frames", "pooled"} < {check.name for check in checks}
    assert {"logits", "dimensions"} & {check.name for check in checks}
    assert not any("no reference" in note for note in notes)


def test_labels_and_dimensions_have_their_published_names(made):
    names = [label.name for label in ModelConfig.read(made("whisper_with_lora")[1]).labels]
    assert names == ["Anger", "Contempt", "Disgust", "Fear", "Happiness", "Neutral", "Sadness", "Surprise", "Other"]
    names = [label.name for label in ModelConfig.read(made("odyssey_of_labels")[1]).labels]
    assert names == [*LABELS]
    assert ModelConfig.read(made("wavlm_of_dimensions")[1]).dimensional
    assert ModelConfig.read(made("wavlm_of_labels")[1]).others == {"dimensions": DIMENSIONS}


@pytest.mark.parametrize("name", ["whisper_with_lora", "odyssey_of_labels"])
def test_a_long_clip_runs_in_windows(name, made, clips):
    model = e2v_port.load(made(name)[1], runtime="cpu")
    long = np.resize(clips[3], 16_000 * 70)
    frames = model.embed(long, 16_000, granularity="frame")
    assert len(frames) == model.config.architecture.frames(len(long))
    assert np.isfinite(model.embed(long, 16_000)).all()


def test_lora_is_merged_once_whether_or_not_the_file_had_it_merged(made, clips, tmp_path):
    model, about = CASES["whisper_with_lora"]()
    model = published.fill(model, seed=1)
    apart = published.save(model, tmp_path / "apart", settings_of(about))
    wanted = published.answers(model, clips[:1])  # and merges it, as loralib does for inference
    merged = published.save(model, tmp_path / "merged", settings_of(about))
    name = "backbone_model.encoder.layers.3.fc1.weight"
    assert not np.array_equal(*(load_file(folder / "model.safetensors")[name].numpy() for folder in (apart, merged)))
    for source in (apart, merged):
        folder = e2v_port.convert(source, out=tmp_path / f"{source.name} converted")
        found = e2v_port.load(folder, runtime="numpy").predict(clips[0], 16_000)
        np.testing.assert_allclose([*found.logits.values()], wanted[0]["logits"], atol=5e-5)


def refusal(source: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        e2v_port.convert(source, out=source.with_name(f"{source.name} converted"))
    assert not source.with_name(f"{source.name} converted").exists()
    return str(error.value)


def test_what_cannot_be_known_is_refused(tmp_path):
    model, about = CASES["whisper_with_lora"]()
    model, settings = published.fill(model), settings_of(about)
    half = {name: value.half() for name, value in model.state_dict().items()}
    assert "16 bits" in refusal(published.save(model, tmp_path / "half", settings, **half))
    beginning = {"emotion_layer.0.weight": model.emotion_layer[0].weight * 0 + 0.01}
    assert "never trained" in refusal(published.save(model, tmp_path / "beginning", settings, **beginning))
    encoder = {name: None for name in model.state_dict() if name.startswith("backbone_model.encoder.conv1")}
    assert "backbone_model.encoder.conv1.weight" in refusal(published.save(model, tmp_path / "a", settings, **encoder))
    one = {"backbone_model.encoder.layers.3.fc1.lora_B": None}
    assert "lora_B" in refusal(published.save(model, tmp_path / "one", settings, **one))
    other = settings | {"pretrain_model": "whisper_tiny"}
    assert "whisper_tiny" in refusal(published.save(model, tmp_path / "Other", other))

    model, about = CASES["odyssey_of_labels"]()
    model, settings = published.fill(model), settings_of(about)
    assert "std" in refusal(published.save(model, tmp_path / "std", settings | {"std": None}))
    assert "id2label" in refusal(published.save(model, tmp_path / "names", settings | {"id2label": {}}))
    extra = {"ser_model.fc.0.4.weight": model.ser_model.fc[0][0].weight}
    assert "ser_model.fc.0.4.weight" in refusal(published.save(model, tmp_path / "extra", settings, **extra))
