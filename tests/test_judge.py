"""Judging waveforms: against the models and the fusion by themselves."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toys

import e2v_port
from e2v_port.analysis.judge import Judge, JudgedWaveform
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.emotions.fusion import FusionSettings, fuse
from e2v_port.errors import AudioError, NoLabels
from e2v_port.models.model import Model
from e2v_port.prosody.noise import signal_to_noise

CLOSE = 2e-5
SETTINGS = FusionSettings(uncertain=0.9)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    sources = {
        "model": toys.make(root / "a"),
        "dimensional": toys.make_dimensional(root / "b"),
        "headless": toys.make(root / "c", toys.HEADLESS),
    }
    return {name: toys.convert(source, root / name) for name, source in sources.items()}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Model]:
    return {name: e2v_port.load(folder, runtime="cpu") for name, folder in folders.items()}


@pytest.fixture(scope="module")
def waveforms() -> list[Waveform]:
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.1, samples).astype(np.float32) for samples in (16_000, 48_000, 9_000, 30_001)]


def good(results: list[JudgedWaveform | AudioError]) -> list[JudgedWaveform]:
    assert not any(isinstance(result, AudioError) for result in results)
    return [result for result in results if isinstance(result, JudgedWaveform)]


@pytest.mark.parametrize("kinds", [("model",), ("dimensional",), ("model", "dimensional")])
def test_a_judgement_is_the_fusion_of_what_each_model_gives(
    models: dict[str, Model], waveforms: list[Waveform], kinds: tuple[str, ...]
) -> None:
    model, dimensional = (models[kind] if kind in kinds else None for kind in ("model", "dimensional"))
    judge = Judge(model, dimensional, SETTINGS)
    both = good(judge.all(waveforms)), good([*judge.each(iter(waveforms))]), [judge.one(each) for each in waveforms]
    for found in both:
        for result, waveform in zip(found, waveforms, strict=True):
            assert result.duration == len(waveform) / SAMPLING_RATE
            assert (result.prediction is None, result.dimensions is None) == (model is None, dimensional is None)
            if model:
                scores = model.predict(waveform, SAMPLING_RATE).scores
                assert result.prediction.scores == pytest.approx(scores, abs=CLOSE)
            if dimensional:
                measured = dimensional.dimensions(waveform, SAMPLING_RATE).to_dict()
                assert result.dimensions.to_dict() == pytest.approx(measured, abs=CLOSE)
            estimates = result.prediction, result.dimensions, result.duration, SETTINGS
            assert result.judgement == fuse(*estimates, snr=result.snr)
            assert result.snr == (None if found is both[1] else signal_to_noise(waveform))
            embedding = (model or dimensional).embed(waveform, SAMPLING_RATE)
            np.testing.assert_allclose(result.embedding, embedding, atol=1e-4)
            assert result.frame_scores is None


def test_a_model_without_a_head_gives_embeddings(models: dict[str, Model], waveforms: list[Waveform]) -> None:
    for dimensional in None, models["dimensional"]:
        for result in good(Judge(models["headless"], dimensional).all(waveforms)):
            assert result.prediction is None
            assert (result.judgement is None) == (dimensional is None)
            assert result.embedding.shape == (models["headless"].embed_dim,)


def test_frames_are_scored_where_that_is_asked_for(models: dict[str, Model], waveforms: list[Waveform]) -> None:
    judge = Judge(models["model"], models["dimensional"])
    for found in judge.all(waveforms, frames=True), [*judge.each(waveforms, frames=True)]:
        for result, waveform in zip(good(found), waveforms, strict=True):
            frames = models["model"].config.architecture.frames(len(waveform))
            assert result.frame_scores.shape == (frames, len(models["model"].labels))
            np.testing.assert_allclose(result.frame_scores.sum(1), 1)


def test_a_waveform_that_cannot_be_used_stops_no_other(models: dict[str, Model], waveforms: list[Waveform]) -> None:
    bad = [waveforms[0], np.full(16_000, np.nan, np.float32), waveforms[1]]
    judge = Judge(models["model"], models["dimensional"])
    for found in judge.all(bad), [*judge.each(bad)]:
        assert [isinstance(result, AudioError) for result in found] == [False, True, False]
    with pytest.raises(AudioError, match="not finite"):
        judge.one(bad[1])


def test_time_is_added_up_by_stage(models: dict[str, Model], waveforms: list[Waveform]) -> None:
    seconds: dict[str, float] = {}
    judge = Judge(models["model"], models["dimensional"])
    judge.all(waveforms, seconds=seconds)
    once = dict(seconds)
    assert list(once) == ["categorical", "dimensional", "fusion"]
    judge.all(waveforms, seconds=seconds)
    assert all(seconds[stage] > once[stage] > 0 for stage in once)


def test_a_stream_of_waveforms_is_not_kept(folders: dict[str, Path]) -> None:
    """A few windows of each model are in memory at a time."""
    judge = Judge.load(folders["model"], folders["dimensional"], runtime="cpu")
    for model in judge.models.values():
        model.window_seconds = 10.0
    held, count = 60, 120
    alive: list[weakref.ref[Waveform]] = []

    def clips() -> Iterator[Waveform]:
        for seed in range(count):
            clip = np.random.default_rng(seed).normal(0, 0.1, SAMPLING_RATE).astype(np.float32)
            alive.append(weakref.ref(clip))
            yield clip
            del clip

    most = 0
    for result in judge.each(clips()):
        assert isinstance(result, JudgedWaveform)
        most = max(most, sum(each() is not None for each in alive))
    assert len(alive) == count
    assert most <= held


def test_another_prediction_gets_its_own_judgement(models: dict[str, Model], waveforms: list[Waveform]) -> None:
    judge = Judge(models["model"], models["dimensional"])
    result = judge.one(waveforms[0])
    label = next(label for label in result.prediction.scores if label != result.prediction.label)
    prediction = replace(result.prediction, label=label, confidence=result.prediction.scores[label])
    changed = judge.with_prediction(result, prediction)
    assert (changed.prediction, changed.dimensions) == (prediction, result.dimensions)
    assert changed.judgement == fuse(prediction, result.dimensions, result.duration)
    assert changed.judgement.primary == label


def test_models_of_another_kind(folders: dict[str, Path], models: dict[str, Model]) -> None:
    with pytest.raises(ValueError, match="no model given"):
        Judge(None)
    for make in Judge, Judge.load:
        with pytest.raises(NoLabels, match="not labels"):
            make(models["dimensional"])
        with pytest.raises(NoLabels, match="does not predict arousal"):
            make(models["model"], models["model"])
    with pytest.raises(NoLabels, match="no classification head"):
        Judge.load(folders["headless"], "nothing/there", offline=True)
