"""Outputs that are kept: the same numbers, no work twice, and nothing of another model or a damaged file."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import e2v_port
from e2v_port.analysis.results import Analysis
from e2v_port.audio import load_audio
from e2v_port.emotions.fusion import FusionSettings
from e2v_port.errors import AudioError, E2VError
from e2v_port.models.cache import OutputCache
from e2v_port.models.model import Model
from e2v_port.speech.segment import SegmentSettings

ROOT = Path(__file__).parents[1]
CLIPS = sorted((ROOT / "benchmarks" / "speech").glob("*.flac"))


@pytest.fixture(scope="module")
def model() -> Model:
    return e2v_port.load("bundled", runtime="numpy")


@pytest.fixture
def cache(tmp_path: Path) -> OutputCache:
    return OutputCache(tmp_path / "new" / "cache")


def plain(analysis: Analysis) -> dict[str, Any]:
    """Everything but the time it took."""
    return {name: value for name, value in analysis.to_dict().items() if name != "timings"}


def entries(cache: OutputCache) -> list[Path]:
    return sorted(cache.folder.rglob("*.npz"))


@pytest.mark.parametrize("options", [{}, {"frames": True}, {"adapt": True}, {"whole": True}, {"labels": "angry,sad"}])
def test_the_second_time_gives_the_same_without_the_model(
    options: dict[str, Any], model: Model, cache: OutputCache
) -> None:
    fresh = e2v_port.analyze([*CLIPS], model=model, **options)
    first = e2v_port.analyze([*CLIPS], model=model, cache=cache, **options)
    assert cache.hits == 0
    assert cache.misses == sum(segment.judgement is not None for each in first for segment in each.segments)
    again = OutputCache(cache.folder)
    second = e2v_port.analyze([*CLIPS], model=model, cache=again, **options)
    assert (again.hits, again.misses) == (cache.misses, 0)
    assert [*map(plain, first)] == [*map(plain, second)] == [*map(plain, fresh)]
    assert not [*cache.folder.rglob(".partial-*")]


def test_a_hit_does_not_run_the_network(model: Model, cache: OutputCache) -> None:
    e2v_port.analyze(CLIPS[0], model=model, cache=cache)
    with e2v_port.load("bundled", runtime="numpy") as other:
        assert other.digest == model.digest
    assert plain(e2v_port.analyze(CLIPS[0], model=other, cache=cache)) == plain(
        e2v_port.analyze(CLIPS[0], model=model)
    ), "a closed model cannot have run"
    with pytest.raises(E2VError, match="is closed"):
        e2v_port.analyze(CLIPS[1], model=other, cache=cache)


def test_other_settings_find_what_they_share_and_nothing_wrong(model: Model, cache: OutputCache) -> None:
    """Only outputs for the same samples are shared: whatever follows from them is worked out anew."""
    e2v_port.analyze(CLIPS[0], model=model, cache=cache)
    for options in (
        {"labels": "angry,neutral"},
        {"fusion": FusionSettings(uncertain=0.1, short_factor=0.2)},
        {"settings": SegmentSettings(min_duration=0.5)},
    ):
        kept = e2v_port.analyze(CLIPS[0], model=model, cache=cache, **options)  # type: ignore[arg-type]
        assert plain(kept) == plain(e2v_port.analyze(CLIPS[0], model=model, **options))  # type: ignore[arg-type]
    assert cache.misses == 1
    whole = e2v_port.analyze(CLIPS[0], model=model, cache=cache, whole=True)  # other samples
    assert cache.misses == 2
    assert plain(whole) == plain(e2v_port.analyze(CLIPS[0], model=model, whole=True))


def test_another_model_runtime_or_dtype_is_another_entry(cache: OutputCache, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "weights" / "bundled-tiny", copy)
    config = json.loads((copy / "config.json").read_text("utf-8"))
    (copy / "config.json").write_text(json.dumps(config), "utf-8")  # the same, spelled otherwise
    loaded = [
        e2v_port.load("bundled-tiny", runtime="numpy"),
        e2v_port.load("bundled-tiny", runtime="cpu"),
        e2v_port.load("bundled-tiny", runtime="cpu", dtype="bfloat16"),
        e2v_port.load(copy, runtime="numpy"),
        e2v_port.load("bundled", runtime="numpy"),
    ]
    for number, model in enumerate(loaded, 1):
        assert plain(e2v_port.analyze(CLIPS[0], model=model, cache=cache)) == plain(
            e2v_port.analyze(CLIPS[0], model=model)
        )
        assert cache.misses == number
    assert cache.hits == 0


@pytest.mark.parametrize("damage", ["empty", "cut", "a bit", "no zip", "of another clip"])
def test_a_damaged_entry_is_computed_again_and_said(
    damage: str, model: Model, cache: OutputCache, caplog: pytest.LogCaptureFixture
) -> None:
    good = plain(e2v_port.analyze(CLIPS[0], model=model, cache=cache))
    [entry] = entries(cache)
    content = entry.read_bytes()
    place = content.index(np.float32(load_output(entry)).tobytes())  # a number of the embedding
    changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    if damage == "of another clip":
        e2v_port.analyze(CLIPS[1], model=model, cache=cache)
        [other] = [path for path in entries(cache) if path != entry]
        content = other.read_bytes()
    broken = {"empty": b"", "cut": content[: len(content) // 2], "a bit": changed, "no zip": b"x" * 500}
    entry.write_bytes(broken.get(damage, content))
    with caplog.at_level(logging.WARNING, "e2v_port"):
        assert plain(e2v_port.analyze(CLIPS[0], model=model, cache=cache)) == good
    [record] = caplog.records
    assert f"{entry} cannot be used" in record.getMessage()
    assert record.getMessage().endswith(": computed again")
    caplog.clear()
    hits = cache.hits
    assert plain(e2v_port.analyze(CLIPS[0], model=model, cache=cache)) == good
    assert cache.hits == hits + 1, "it was replaced"
    assert not caplog.records


def test_no_damaged_header_of_an_entry_is_an_error_or_a_wrong_number(cache: OutputCache) -> None:
    """What is read again is what was written; zip, zlib and NumPy have an error of their own for each field."""
    model = e2v_port.load("bundled-tiny", runtime="numpy")
    waveform = np.sin(np.arange(4000, dtype=np.float32) / 20)

    def numbers() -> tuple[Any, ...]:
        [found] = cache.each(model, [waveform])
        assert not isinstance(found, AudioError)
        return found[0], found[1].embedding.tolist(), None if found[1].logits is None else found[1].logits.tolist()

    good = numbers()
    [entry] = entries(cache)
    content = entry.read_bytes()
    fields = {
        b"PK\x01\x02": (6, 8, 10, 28),
        b"PK\x03\x04": (6, 8),
        b"PK\x05\x06": (10, 12, 13),
        b"'shape'": (9, 10, 12),
    }
    starts = {mark: [i for i in range(len(content)) if content.startswith(mark, i)] for mark in fields}
    places = [start + step for mark, steps in fields.items() for start in starts[mark] for step in steps]
    assert len(places) > 30
    for place in places:
        for bit in (1, 8, 255):
            entry.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            assert numbers() == good, f"byte {place}"


def load_output(entry: Path) -> float:
    with np.load(entry, allow_pickle=False) as stored:
        return float(stored["embedding"][3])


def test_a_folder_that_cannot_be_written_to_costs_no_result(
    model: Model, cache: OutputCache, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(cache.folder)
    cache.folder.write_text("a file", "utf-8")
    with caplog.at_level(logging.WARNING, "e2v_port"):
        found = e2v_port.analyze([*CLIPS], model=model, cache=cache)
    assert [plain(each) for each in found] == [plain(each) for each in e2v_port.analyze([*CLIPS], model=model)]
    assert sum("are not kept" in record.getMessage() for record in caplog.records) == 1, "once is enough"


def test_a_model_that_was_replaced_is_no_longer_trusted(tmp_path: Path, cache: OutputCache) -> None:
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "weights" / "bundled-tiny", folder)
    model = e2v_port.load(folder, runtime="numpy")
    shutil.copyfile(folder / "model.safetensors", tmp_path / "other")
    (tmp_path / "other").replace(folder / "model.safetensors")
    with pytest.raises(E2VError, match="was replaced since it was loaded"):
        e2v_port.analyze(CLIPS[0], model=model, cache=cache)


def test_the_command_line_keeps_results_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "e2v_port", "analyze", *map(str, CLIPS), "-m", "bundled-tiny", "-r", "numpy"]
    runs = [
        subprocess.run([*command, *more], check=True, capture_output=True, text=True)
        for more in ([], ["--cache", str(tmp_path / "c")], ["--cache", str(tmp_path / "c"), "--isolate"])
    ]
    assert runs[0].stdout == runs[1].stdout == runs[2].stdout
    assert len([*(tmp_path / "c").rglob("*.npz")]) == len(CLIPS)
    assert load_audio(CLIPS[0]).size
