"""The library as its users see it: load, predict, embed, and their errors."""

import contextlib
import importlib
import io
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
import toys
from torch.nn import functional

import e2v_port
from e2v_port.architectures.base import Architecture
from e2v_port.checkpoints import catalog
from e2v_port.converters import wav2vec2 as wav2vec2_converter
from e2v_port.converters import wavlm as wavlm_converter
from e2v_port.errors import AudioError, CheckpointError, E2VError, ModelNotFound, NoLabels, RuntimeUnavailable
from e2v_port.models import devices
from e2v_port.models.load import load
from e2v_port.models.model import Model
from e2v_port.parity.verify import PROBABILITY_TOLERANCE
from e2v_port.runtimes.fast import onednn

BASE = "iic/emotion2vec_plus_base"
TOKENS = ["生气/angry", "unuse_0", "unuse_1", "开心/happy", "中立/neutral", "unuse_2", "难过/sad", "unuse_3", "<unk>"]
TOLERANCE = 2e-5  # of a batch against its clips one by one, float32


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("E2V_WEIGHTS", raising=False)
    monkeypatch.setenv("E2V_OFFLINE", "1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Converted models: two of the same sizes, one with unused labels, one without a head."""
    root = tmp_path_factory.mktemp("models")
    made = {
        "one": {},
        "two": {"seed": 2},
        "unused": {"tokens": TOKENS},
        "headless": {"config": toys.HEADLESS, "prefix": ""},
    }
    return {
        name: toys.convert(toys.make(root / f"{name} checkpoint", **options), root / name)
        for name, options in made.items()
    }


@pytest.fixture(scope="module", params=toys.RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(folders: dict[str, Path], runtime: str) -> Model:
    return load(folders["one"], runtime=runtime)


@pytest.fixture(scope="module")
def headless(folders: dict[str, Path], runtime: str) -> Model:
    return load(folders["headless"], runtime=runtime)


@pytest.fixture(scope="module")
def speech(speech_folder: Path) -> list[Path]:
    """Recordings of 1 to 3 s."""
    return sorted(speech_folder.glob("emodb_*.flac"))[:6]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def logits(model: Model, clip: Any) -> list[float]:
    return list(model.predict(clip, 16_000).logits.values())


def message_of(error: type[E2VError], call: Callable[[], Any]) -> str:
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable(), "one line"
    return message


# --- load


def test_a_converted_folder_is_loaded(folders: dict[str, Path], model: Model, runtime: str) -> None:
    assert model.runtime == runtime
    assert model.labels == catalog.lookup(BASE).labels
    assert model.embed_dim == toys.TOY.embed_dim
    assert runtime in repr(model)
    assert str(folders["one"].with_name("one checkpoint")) in repr(model)


@pytest.mark.parametrize("as_file", [False, True], ids=["folder", ".pt file"])
def test_a_checkpoint_is_converted_once(
    tmp_path: Path, folders: dict[str, Path], caplog: pytest.LogCaptureFixture, as_file: bool
) -> None:
    caplog.set_level("INFO", "e2v_port")
    source = toys.make(tmp_path / "checkpoint")
    given = source / "model.pt" if as_file else source
    wanted = logits(load(folders["one"], runtime="cpu"), noise(4000))

    assert logits(load(given, runtime="cpu"), noise(4000)) == wanted
    assert f"{given} is not converted yet" in caplog.text
    caplog.clear()
    [stored] = tmp_path.glob("cache/e2v-port/local/*/model.safetensors")
    written = stored.stat().st_mtime_ns

    assert logits(load(str(given), runtime="cpu"), noise(4000)) == wanted
    assert caplog.messages == []
    assert stored.stat().st_mtime_ns == written

    toys.make(source, seed=2)
    assert logits(load(given, runtime="cpu"), noise(4000)) == logits(
        load(folders["two"], runtime="cpu"), noise(4000)
    ), "a changed checkpoint is another model"


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        ("wav2vec2", "preprocessor_config.json", ('"do_normalize": true', '"do_normalize":false')),
        ("wav2vec2", "config.json", ('"1": "dominance"', '"1": "DOMINANCE"')),
        ("emotion2vec", "tokens.txt", ("angry", "wrath")),
        ("emotion2vec", "config.yaml", ("normalize: true", "normalize: null")),
    ],
)
def test_a_change_of_any_file_is_another_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, name: str, change: tuple[str, str]
) -> None:
    """Even one that keeps size and time."""
    source = (toys.make if kind == "emotion2vec" else toys.make_dimensional)(tmp_path / "checkpoint")
    load(source, runtime="cpu")
    caplog.set_level("INFO", "e2v_port")
    path = source / name
    before, text = path.stat(), path.read_text("utf-8")
    assert change[0] in text, text
    path.write_text(text.replace(*change), "utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    with contextlib.suppress(CheckpointError):  # another model or an error, but never the one from before
        load(source, runtime="cpu")
    assert f"{source} is not converted yet" in caplog.text


def test_a_name_is_searched_in_the_named_folder_then_in_the_cache(
    tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = noise(4000)
    one, two = (logits(load(folders[name], runtime="cpu"), clip) for name in ("one", "two"))
    assert one != two
    monkeypatch.setenv("E2V_WEIGHTS", str(tmp_path / "weights"))
    shutil.copytree(folders["two"], tmp_path / "cache" / "e2v-port" / BASE)
    for name in (BASE, "emotion2vec_plus_base", "emotion2vec/emotion2vec_plus_base"):
        assert logits(load(name, runtime="cpu"), clip) == two
    shutil.copytree(folders["one"], tmp_path / "weights" / BASE)
    shutil.copytree(folders["two"], tmp_path / "weights" / f"{BASE}-float16")
    assert logits(load(BASE, runtime="cpu"), clip) == one
    assert logits(load(f"{BASE}-float16", runtime="cpu"), clip) == two
    monkeypatch.delenv("E2V_WEIGHTS")
    assert logits(load(BASE, runtime="cpu"), clip) == two


def test_the_cache_is_in_the_home_folder_unless_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert catalog.destination(BASE) == tmp_path / ".cache" / "e2v-port" / BASE
    monkeypatch.setattr(sys, "platform", "darwin")
    assert catalog.destination(BASE, "float16") == tmp_path / "Library/Caches/e2v-port" / f"{BASE}-float16"


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("emotion2vec_plus_bse", BASE),
        ("iic/emotion2vec-plus-large", "iic/emotion2vec_plus_large"),
        ("my_modle", "me/my_model"),
        ("wav2vec2", None),
        ("../absent/../clip", None),
        ("x" * 5000, None),
        ("a/b/c", None),
    ],
    ids=lambda name: str(name)[:20],
)
def test_an_unknown_name_is_guessed_and_what_lists_the_known_ones_is_named(
    tmp_path: Path, folders: dict[str, Path], name: str, guess: str | None
) -> None:
    for folder in ("my_model", ".my_model.partial-x"):  # the second is what a killed conversion may leave
        shutil.copytree(folders["one"], tmp_path / "cache/e2v-port/me" / folder)
    message = message_of(ModelNotFound, lambda: load(name, runtime="cpu"))
    assert "e2v models lists the known ones" in message
    assert "partial" not in message
    assert (f"did you mean {guess}?" in message) if guess else ("did you mean" not in message)


def rewritten(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    def apply(path: Path) -> None:
        tensors = safetensors.torch.load_file(path)
        change(tensors)
        safetensors.torch.save_file(tensors, path)

    return apply


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(16))


DAMAGED: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "missing": (rewritten(lambda t: t.pop("head.bias")), ["missing head.bias [9]"]),
    "extra": (rewritten(lambda t: t.update(novel=torch.ones(2))), ["unexpected novel [2]"]),
    "misshapen": (
        rewritten(lambda t: t.update(alibi_scale=torch.ones(1, 6), extra_tokens=torch.ones(240))),
        ["alibi_scale is [1, 6], must be [6]", "extra_tokens is [240], must be [5, 48]"],
    ),
    "another type": (
        rewritten(lambda t: t.update({"head.bias": t["head.bias"].half()})),
        ["head.bias is stored as F16, must be F32"],
    ),
    "trailing data": (append, ["cannot be read"]),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size - 4), ["cannot be read"]),
    "empty": (lambda path: os.truncate(path, 0), ["cannot be read"]),
    "crowded": (
        rewritten(lambda t: t.update({f"novel.{i}": torch.ones(0) for i in range(10_000)})),
        ["not a model of this kind"],
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_weights_are_refused(tmp_path: Path, folders: dict[str, Path], runtime: str, kind: str) -> None:
    folder = Path(shutil.copytree(folders["one"], tmp_path / "model"))
    damage, words = DAMAGED[kind]
    damage(folder / "model.safetensors")
    message = message_of(CheckpointError, lambda: load(folder, runtime=runtime))
    assert str(folder) in message
    assert all(part in message for part in words), message


# --- predict


def test_every_form_of_a_clip_gives_the_same_prediction(tmp_path: Path, model: Model) -> None:
    samples = noise(12_000)
    path = tmp_path / "clip.wav"
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    found = model.predict(samples, sampling_rate=16_000)
    for clip in (path, str(path), io.BytesIO(path.read_bytes())):
        assert model.predict(clip) == found
    [in_list] = model.predict([path])
    assert in_list == found
    assert model.predict((path,)) == [found]
    assert model.predict([]) == []
    assert found.duration == len(samples) / 16_000


def test_scores_are_the_softmax_of_the_labels_in_use(folders: dict[str, Path], runtime: str) -> None:
    model = load(folders["unused"], runtime=runtime)
    clip = noise(8000)
    [(_, output)] = model.each([clip], 16_000)
    masked = torch.from_numpy(output.logits).double()
    masked[[token.startswith("unuse") for token in TOKENS]] = -math.inf
    wanted = [score for score in masked.softmax(0).tolist() if score]
    found = model.predict(clip, 16_000)
    assert list(found.scores) == list(found.logits) == ["angry", "happy", "neutral", "sad", "unknown"]
    assert tuple(found.scores) == model.labels
    assert list(found.scores.values()) == pytest.approx(wanted, abs=1e-12)
    assert sum(found.scores.values()) == pytest.approx(1, abs=1e-12)
    assert found.scores[found.label] == found.confidence == max(found.scores.values())


def test_the_temperature_divides_the_logits(tmp_path: Path, folders: dict[str, Path], runtime: str) -> None:
    folder = shutil.copytree(folders["one"], tmp_path / "calibrated")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"temperature": 2.5}), "utf-8")
    clip = noise(9000)
    plain, calibrated = (load(each, runtime=runtime).predict(clip, 16_000) for each in (folders["one"], folder))
    assert calibrated.logits == plain.logits
    expected = torch.softmax(torch.tensor([*plain.logits.values()], dtype=torch.float64) / 2.5, 0)
    assert [*calibrated.scores.values()] == pytest.approx(expected.tolist(), abs=1e-12)
    assert calibrated.label == plain.label


HEADS: dict[str, Architecture] = {
    "emotion2vec": replace(toys.TOY, head_dim=13),
    "wav2vec2": replace(toys.DIMENSIONAL, head_dim=0),
    "wav2small": replace(toys.DEVIATION, head_dim=0),
    "wav2small with a hidden layer": toys.DEVIATION,
}


@pytest.mark.parametrize("name", HEADS)
def test_either_kind_of_head_sits_on_every_family(tmp_path: Path, runtime: str, name: str) -> None:
    config = replace(HEADS[name], num_labels=4)
    draw = np.random.default_rng(4)
    arrays = {key: draw.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) for key, shape in config.tensors().items()}
    model = load(toys.store(tmp_path / "model", config, arrays), runtime=runtime)
    ((_, output),) = model.each([noise(9000)], 16_000, frames=True)
    assert output.logits is not None
    assert output.frames is not None
    head = {key.removeprefix("head."): torch.from_numpy(array) for key, array in arrays.items() if "head." in key}
    x = torch.from_numpy(np.vstack([output.embedding, output.frames])).double()
    if config.head_dim:
        x = torch.tanh(functional.linear(x, head["dense.weight"], head["dense.bias"]))
        head = {part: head[f"out.{part}"] for part in ("weight", "bias")}
    expected = functional.linear(x, head["weight"], head["bias"]).numpy()
    np.testing.assert_allclose(output.logits, expected[0], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(output.frame_logits, expected[1:], rtol=1e-6, atol=1e-5)


def test_a_prediction_serializes_and_prints(model: Model) -> None:
    found = model.predict(noise(8000), 16_000)
    values = json.loads(json.dumps(found.to_dict()))
    assert values == {
        "label": found.label,
        "confidence": found.confidence,
        "scores": dict(found.scores),
        "logits": dict(found.logits),
        "duration": 0.5,
    }
    assert repr(found).startswith(f"Prediction({found.label} {found.confidence:.3f}; ")


def test_a_batch_of_any_lengths_equals_its_clips_one_by_one(model: Model, speech: list[Path]) -> None:
    clips = [*speech, noise(400), 1e-3 * noise(16_000), noise(720), noise(40_001)]
    together = model.predict(clips, 16_000)
    frames = model.embed(clips, 16_000, granularity="frame")
    means = model.embed(clips, 16_000)
    assert len(together) == len(frames) == len(means) == len(clips)
    for clip, prediction, rows, mean in zip(clips, together, frames, means, strict=True):
        alone = model.predict(clip, 16_000)
        assert prediction.duration == alone.duration
        wanted = np.array(list(alone.logits.values()))
        np.testing.assert_allclose(list(prediction.logits.values()), wanted, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(
            rows, model.embed(clip, 16_000, granularity="frame"), rtol=0, atol=TOLERANCE, strict=True
        )
        np.testing.assert_allclose(mean, model.embed(clip, 16_000), rtol=0, atol=TOLERANCE, strict=True)


def test_the_same_clip_twice_is_identical(model: Model, speech: list[Path]) -> None:
    assert model.predict(speech[0]) == model.predict(speech[0])
    assert model.predict(speech) == model.predict(speech)
    np.testing.assert_array_equal(*(model.embed(speech[0], granularity="frame") for _ in range(2)))


def frames_of(samples: int) -> int:
    """The number of frames of a clip, counted by torch's convolution."""
    x = torch.zeros(1, 1, samples)
    for _, kernel, stride in toys.TOY.conv_layers:
        x = torch.nn.functional.conv1d(x, torch.zeros(1, 1, kernel), stride=stride)
    return x.shape[2]


@pytest.mark.parametrize("samples", [400, 719, 720, 16_000])
def test_embeddings_have_their_shapes(model: Model, samples: int) -> None:
    clip = noise(samples)
    frames = model.embed(clip, 16_000, granularity="frame")
    mean = model.embed(clip, 16_000)
    assert frames.shape == (frames_of(samples), model.embed_dim)
    assert mean.shape == (model.embed_dim,)
    assert frames.dtype == mean.dtype == np.float32
    np.testing.assert_allclose(mean, frames.astype(np.float64).mean(0), rtol=1e-6, atol=1e-6)


def test_another_granularity_is_refused(model: Model) -> None:
    with pytest.raises(ValueError, match="'utterance' or 'frame', not 'word'"):
        model.embed(noise(400), 16_000, granularity="word")


def test_each_goes_on_after_a_bad_clip_and_keeps_the_order(tmp_path: Path, model: Model) -> None:
    (tmp_path / "text.wav").write_text("hello")
    bad = {1: tmp_path / "absent.wav", 3: noise(399), 4: np.full(800, np.nan, np.float32), 6: tmp_path / "text.wav"}
    clips = [bad.get(i, noise(9000 - 1000 * i, seed=i)) for i in range(8)]
    found = list(model.each(clips, 16_000))
    assert [i for i, result in enumerate(found) if isinstance(result, AudioError)] == list(bad)
    assert "absent.wav" in str(found[1])
    for clip, result in zip(clips, found, strict=True):
        if not isinstance(result, AudioError):
            assert result[0] == len(clip) / 16_000
            np.testing.assert_allclose(result[1].embedding, model.embed(clip, 16_000), rtol=0, atol=TOLERANCE)
    with pytest.raises(AudioError, match=r"absent\.wav"):
        model.predict(clips, 16_000)


def test_each_reads_clips_as_they_are_needed(folders: dict[str, Path]) -> None:
    model = load(folders["one"], runtime="cpu")
    clip = noise(160_000)
    found = list(islice(model.each(cycle([clip]), 16_000), 3))
    assert [duration for duration, _ in found] == [10.0] * 3


def test_each_reads_no_more_than_one_window_ahead(folders: dict[str, Path]) -> None:
    model = load(folders["one"], runtime="cpu")
    read = 0

    def clips() -> Iterator[np.ndarray]:
        nonlocal read
        while True:
            read += 1
            yield noise(160_000)

    results = model.each(clips(), 16_000)
    for given in range(1, 30):
        next(results)
        assert read <= given + 2 * math.ceil(model.window_seconds / 10)
    results.close()


def test_batches_that_run_at_once_leave_the_threads_as_they_were(folders: dict[str, Path]) -> None:
    model = load(folders["one"], runtime="cpu")
    clips = [noise(160_000, seed=i) for i in range(6)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        used: set[int] = set()
        model._runner.model.register_forward_pre_hook(  # type: ignore[attr-defined]
            lambda *_: used.add(threading.get_ident())
        )
        model.predict(clips, 16_000)
        assert len(used) == 2
        assert threading.get_ident() not in used
        with ThreadPoolExecutor(1) as pool:
            assert torch.get_num_threads() == pool.submit(torch.get_num_threads).result() == 2
        running = threading.active_count()
        model.predict(clips, 16_000)
        assert threading.active_count() == running
    finally:
        torch.set_num_threads(before)


def test_an_error_in_one_batch_ends_the_call(tmp_path: Path, folders: dict[str, Path]) -> None:
    model = load(folders["one"], runtime="cpu")
    batches = 0

    def fail_at_the_third(*_: Any) -> None:
        nonlocal batches
        batches += 1
        if batches == 3:
            raise torch.OutOfMemoryError("no more")

    model._runner.model.register_forward_pre_hook(fail_at_the_third)  # type: ignore[attr-defined]
    assert "no memory left" in message_of(RuntimeUnavailable, lambda: model.predict([noise(160_000)] * 12, 16_000))
    assert batches < 12


def test_what_nobody_waits_for_does_not_run(folders: dict[str, Path]) -> None:
    model = load(folders["one"], runtime="cpu")
    batches = 0

    def count(*_: Any) -> None:
        nonlocal batches
        batches += 1
        time.sleep(0.01)

    model._runner.model.register_forward_pre_hook(count)  # type: ignore[attr-defined]
    results = model.each([noise(160_000)] * 40, 16_000)
    next(results)
    results.close()
    first = batches
    model._runner.pool().submit(int).result()  # after everything that was left
    assert batches <= first + 2 < 40


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_has_threads_of_its_own(folders: dict[str, Path]) -> None:
    program = f"""if True:
        import os, numpy as np, torch, e2v_port
        torch.set_num_threads(1)
        model = e2v_port.load({str(folders["one"])!r}, runtime="cpu")
        clips = [np.random.default_rng(i).standard_normal(160_000).astype("float32") / 10 for i in range(3)]
        expected = model.predict(clips, 16_000)
        child = os.fork()
        if child == 0:
            os._exit(0 if model.predict(clips, 16_000) == expected else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["0"]


def test_a_model_without_a_head_embeds_and_explains_why_it_does_not_predict(headless: Model) -> None:
    clip = noise(8000)
    assert headless.labels == ()
    assert headless.embed(clip, 16_000).shape == (headless.embed_dim,)
    assert "use embed, or a model with labels" in message_of(NoLabels, lambda: headless.predict(clip, 16_000))
    assert [output.logits for _, output in headless.each([clip, clip], 16_000)] == [None, None]


def test_threads_share_a_model(folders: dict[str, Path], runtime: str) -> None:
    model = load(folders["one"], runtime=runtime)  # in this thread, and first used in others
    clips = [noise(3000 + 517 * i, seed=i) for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        rounds = [list(pool.map(lambda clip: model.predict(clip, 16_000), clips)) for _ in range(3)]
        batches = list(pool.map(lambda _: model.predict(clips, 16_000), range(8)))
    assert rounds == [[model.predict(clip, 16_000) for clip in clips]] * 3
    assert batches == [model.predict(clips, 16_000)] * 8


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_smaller_types_give_nearly_the_same_scores(
    tmp_path: Path, folders: dict[str, Path], model: Model, dtype: str
) -> None:
    source = folders["one"].with_name("one checkpoint")
    small = load(toys.convert(source, tmp_path / "model", dtype=dtype), runtime=model.runtime)
    clip = noise(16_000)
    assert small.embed(clip, 16_000, granularity="frame").dtype == np.float32
    wanted = model.predict(clip, 16_000).scores
    found = small.predict(clip, 16_000).scores
    assert found != wanted
    assert list(found.values()) == pytest.approx(list(wanted.values()), abs=PROBABILITY_TOLERANCE)


@pytest.mark.parametrize("runtime", toys.CASTING)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_dtype_is_cast_at_load_as_the_converter_casts(
    tmp_path: Path, folders: dict[str, Path], runtime: str, dtype: str
) -> None:
    stored = load(
        toys.convert(folders["one"].with_name("one checkpoint"), tmp_path / "model", dtype=dtype), runtime=runtime
    )
    cast = load(folders["one"], runtime=runtime, dtype=dtype)
    assert cast.dtype == stored.dtype == dtype
    assert f", {dtype}, on {runtime})" in repr(cast)
    assert load(folders["one"], runtime=runtime).dtype == "float32"
    clips = [noise(9000), noise(16_000, seed=1)]
    assert cast.predict(clips, 16_000) == stored.predict(clips, 16_000)


@pytest.mark.parametrize("name", ["emotion2vec", "wav2vec2", "wav2vec2 of the base kind", "wavlm"])
def test_the_order_that_a_cpu_multiplies_in_costs_no_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In bfloat16, compared with torch's plain layers; a hum leaves the first convolution little but differences."""
    if not onednn.available("bfloat16"):
        pytest.skip("no products in bfloat16 by oneDNN on this CPU")
    if name == "emotion2vec":
        source = toys.make(tmp_path / "checkpoint")
    else:
        # With four groups, of 12 channels each, oneDNN 3.12 computes kernels of 8 wrongly in 16 bits.
        kind = {"conv_pos_groups": 3}
        if name == "wav2vec2 of the base kind":
            kind |= {"conv_norm": "group", "pre_norm": False, "conv_bias": False}
        if name == "wavlm":
            source = wavlm_converter.make(replace(toys.WAVLM, **kind), tmp_path / "checkpoint")
        else:
            source = wav2vec2_converter.make(replace(toys.DIMENSIONAL, **kind), tmp_path / "checkpoint")
    folder = toys.convert(source, tmp_path / "model")
    hum = np.sin(np.arange(100_000, dtype=np.float32) / 30)
    clips = [*(noise(16_000 * i + 4_321, seed=i) for i in range(8)), hum + noise(100_000) / 1000]

    def frames(dtype: str) -> list[np.ndarray]:
        model = load(folder, runtime="cpu", dtype=dtype)
        together = model.embed(clips, 16_000, granularity="frame")
        alone = model.embed(clips[-1], 16_000, granularity="frame")
        assert np.abs(together[-1] - alone).mean() < 0.02
        return together

    exact, packed = frames("float32"), frames("bfloat16")
    monkeypatch.setattr(onednn, "available", lambda dtype: False)
    for wanted, found, plain in zip(exact, packed, frames("bfloat16"), strict=True):
        off = np.abs(found - wanted).mean()
        assert 0 < off < 1.1 * np.abs(plain - wanted).mean()


def test_auto_logs_its_choice_once_and_leaves_spectrograms_alone(
    tmp_path: Path,
    folders: dict[str, Path],
    runtime: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("e2v_port.models.load._noted", set())  # other tests of the process may have loaded models
    caplog.set_level("INFO", "e2v_port")
    model = load(folders["one"], runtime=runtime, dtype="auto")
    assert model.dtype == devices.fastest_dtype(runtime)
    assert model.dtype in {"float32", "bfloat16"}
    load(folders["one"], runtime=runtime, dtype="auto")
    assert caplog.messages == [f"dtype auto: {model.dtype} on {runtime}"]
    caplog.clear()
    small = load(toys.make_small(tmp_path / "small", toys.DEVIATION), runtime=runtime, dtype="auto")
    assert small.dtype == "float32"
    assert caplog.messages == []


def test_an_unknown_dtype_lists_the_known_ones() -> None:
    message = message_of(RuntimeUnavailable, lambda: load("anything", dtype="int8"))
    assert all(name in message for name in ("auto", "float32", "bfloat16", "float16"))


def test_numbers_beyond_a_dtype_are_reported(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = Path(shutil.copytree(folders["one"], tmp_path / "model"))
    rewritten(lambda t: t["blocks.0.mlp.fc1.weight"].mul_(1e6))(folder / "model.safetensors")
    load(folder, runtime="cpu").predict(noise(8000), 16_000)
    half = load(folder, runtime="cpu", dtype="float16")
    assert "load it with dtype float32" in message_of(E2VError, lambda: half.predict(noise(8000), 16_000))


def test_running_out_of_memory_reports_a_remedy(folders: dict[str, Path]) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory\nin many lines")

    model = load(folders["one"], runtime="cpu")
    model._runner.model.register_forward_pre_hook(full)  # type: ignore[attr-defined]
    message = message_of(RuntimeUnavailable, lambda: model.predict(noise(32_000), 16_000))
    assert "2 s of audio" in message
    assert "runtime='cpu'" in message


def test_batches_keep_to_their_budget_and_pad_little(folders: dict[str, Path]) -> None:
    model = load(folders["one"], runtime="cpu")
    shapes: list[tuple[tuple[int, ...], int]] = []

    def see(_: Any, given: tuple[torch.Tensor, list[int]]) -> None:
        shapes.append((tuple(given[0].shape), sum(given[1])))

    model._runner.model.register_forward_pre_hook(see)  # type: ignore[attr-defined]
    seconds = np.random.default_rng(3).uniform(0.1, 4, 60)
    clips = [noise(int(16_000 * each)) for each in [*seconds, 20]]
    assert len(list(model.each(clips, 16_000))) == len(clips)
    budget = 16_000 * model._runner.batch_seconds
    assert sum(samples for _, samples in shapes) == sum(map(len, clips))
    for (rows, longest), samples in shapes:
        assert rows == 1 or rows * longest <= budget
        assert rows * longest - samples <= budget / 8
    assert len(shapes) < len(clips) / 2


# --- runtimes


def test_auto_takes_the_fastest_that_is_there(folders: dict[str, Path]) -> None:
    wanted = "cuda" if torch.cuda.is_available() else "mlx" if torch.backends.mps.is_available() else "cpu"
    assert load(folders["one"]).runtime == wanted


@pytest.mark.parametrize(
    ("name", "available", "remedy"),
    [
        ("cuda", torch.cuda.is_available(), "use runtime='cpu'"),
        ("mps", torch.backends.mps.is_available(), "use cuda or cpu"),
    ],
)
def test_a_runtime_that_is_not_here_reports_reason_and_remedy(
    tmp_path: Path, name: str, available: bool, remedy: str
) -> None:
    if available:
        pytest.skip(f"this machine has {name}")
    message = message_of(RuntimeUnavailable, lambda: load(tmp_path / "not even looked for", runtime=name))
    assert message.startswith(f"runtime {name} is not available: ")
    assert remedy in message


@pytest.mark.parametrize(
    ("absent", "words"),
    [("mlx", "MLX is not installed: "), pytest.param("mlx.core", "MLX cannot be imported (", marks=toys.needs_mlx)],
)
def test_without_mlx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, absent: str, words: str) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    message = message_of(RuntimeUnavailable, lambda: devices.choose("mlx"))
    assert words in message
    assert "pip install" in message


def test_an_unknown_runtime_lists_the_known_ones() -> None:
    message = message_of(RuntimeUnavailable, lambda: load("anything", runtime="tpu"))
    assert all(name in message for name in ("auto", "cuda", "mps", "mlx", "cpu", "numpy"))


# --- the package


def test_public_names_are_sorted_and_there() -> None:
    assert e2v_port.__all__ == sorted(e2v_port.__all__)
    assert set(e2v_port.__all__) <= set(dir(e2v_port))
    errors = importlib.import_module("e2v_port.errors")
    for name in e2v_port.__all__:
        assert getattr(getattr(e2v_port, name), "__name__", "__version__") == name
    assert all(issubclass(getattr(errors, name), E2VError) for name in errors.__all__ if name[0].isupper())
    with pytest.raises(AttributeError, match="nothing"):
        _ = e2v_port.nothing


def test_the_import_is_light() -> None:
    heavy = {"torch", "mlx", "numpy", "soundfile", "huggingface_hub", "modelscope_hub", "yaml"}
    code = "import sys, e2v_port; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())


# --- licenses


def test_a_non_commercial_license_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = catalog.lookup("audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim")
    assert known is not None
    assert "CC BY-NC-SA 4.0" in known.licence
    folder = toys.convert(toys.make_dimensional(tmp_path / "source"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text("utf-8"))

    def claim(repository: str) -> None:
        config["licence"] = known.licence
        config["source"]["repository"] = repository
        (folder / "config.json").write_text(json.dumps(config), "utf-8")

    claim("someone/logged-once")
    load(folder, runtime="cpu")
    load(folder, runtime="cpu")
    assert caplog.messages == [f"someone/logged-once: {known.licence}; E2V_LICENCE=accepted silences this line"]
    caplog.clear()
    claim("someone/accepted")
    monkeypatch.setenv("E2V_LICENCE", "accepted")
    load(folder, runtime="cpu")
    assert caplog.messages == []


def test_a_free_license_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(toys.convert(toys.make(tmp_path / "source"), tmp_path / "model"), runtime="cpu")
    assert caplog.messages == []
