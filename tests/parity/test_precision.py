"""16 bits give float32's answers, and batches give those of single clips, at full size and on real speech."""

import numpy as np
import pytest

import e2v_port
from e2v_port.models import devices
from e2v_port.parity import verify
from e2v_port.runtimes.fast import onednn

RUNTIMES = [name for name in devices.RUNTIMES if devices.unavailable(name) is None]
pytestmark = pytest.mark.xdist_group("base")


@pytest.fixture(scope="module")
def clips(speech_folder):
    return sorted(path for path in speech_folder.glob("emodb_*.flac") if path.stem != "emodb_timeline")


@pytest.fixture(scope="module")
def exact(loaded, clips):
    return loaded("base", "cpu").predict(clips)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_sixteen_bits_change_no_answer(runtime, dtype, loaded, clips, exact):
    # MLX multiplies 16-bit matrices on a CPU one number at a time, and so does torch on older CPUs: there, a few clips.
    slow = {"mlx": 40, "cpu": 1 if onednn.available("bfloat16") else 8}
    few = slice(None, None, slow.get(runtime, 1))
    found = loaded("base", runtime, dtype).predict(clips[few])
    scores = np.array([[*prediction.scores.values()] for prediction in exact[few]])
    rounded = np.array([[*prediction.scores.values()] for prediction in found])
    assert np.abs(scores - rounded).max() <= verify.PROBABILITY_TOLERANCE
    best = np.sort(scores, axis=1)
    clear = best[:, -1] - best[:, -2] > 0.02
    assert clear.any()
    same = scores.argmax(axis=1) == rounded.argmax(axis=1)
    assert same[clear].mean() >= 0.995


def test_a_batch_cast_at_load_changes_no_answer(folders, clips, exact, speech_folder):
    """The way of `--dtype`: in bfloat16, alone and among clips of other lengths."""
    model = e2v_port.load(folders("base")[1], runtime="cpu", dtype="bfloat16")
    few = slice(None, None, 9 if onednn.available("bfloat16") else 20)
    long = speech_folder / "librivox_idle_hour_john_clare.flac"
    scores = np.array([[*prediction.scores.values()] for prediction in exact[few]])
    for found in (model.predict([long, *clips[few]])[1:], [model.predict(clip) for clip in clips[few]]):
        rounded = np.array([[*prediction.scores.values()] for prediction in found])
        assert 0 < np.abs(scores - rounded).max() <= verify.PROBABILITY_TOLERANCE


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_batch_of_mixed_lengths_equals_single_clips(runtime, loaded, clips, speech_folder):
    model = loaded("base", runtime)
    mixed = [*clips[:4], speech_folder / "librivox_idle_hour_john_clare.flac", speech_folder / "emotion2vec_test.wav"]
    batch, singles = model.predict(mixed), [model.predict(clip) for clip in mixed]
    for together, alone in zip(batch, singles, strict=True):
        np.testing.assert_allclose([*together.logits.values()], [*alone.logits.values()], atol=2e-5, rtol=0)
    frames = model.embed(mixed, granularity="frame")
    for together, clip in zip(frames, mixed, strict=True):
        np.testing.assert_allclose(together, model.embed(clip, granularity="frame"), atol=1e-4, rtol=0)
