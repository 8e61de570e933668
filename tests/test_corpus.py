"""Whole corpora: the contents of the rows, resumed runs, and bad input."""

import importlib.util
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
import soundfile
import toys
import yaml
from pyarrow import parquet

import e2v_port
from e2v_port import cli
from e2v_port.audio import load_audio
from e2v_port.cli.output import BAD_INPUT
from e2v_port.corpus import decoding, machine
from e2v_port.corpus.folder import Folder
from e2v_port.corpus.job import Progress, TooManyErrors
from e2v_port.corpus.report import evaluate as evaluate_rows
from e2v_port.corpus.run import run
from e2v_port.corpus.sources import find
from e2v_port.errors import CorpusError, NoLabels
from e2v_port.evaluation import evaluate, readers

E2V = Path(sys.executable).with_name("e2v")
SPEECH = Path(__file__).parents[1] / "benchmarks" / "speech"
RATE = 16_000

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and named pipes of POSIX")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2V_LICENCE", "accepted")
    monkeypatch.delenv("E2V_MODEL", raising=False)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 clips of speech of different lengths and sampling rates."""
    folder = tmp_path_factory.mktemp("clips")
    speech = np.concatenate([load_audio(path) for path in sorted(SPEECH.glob("*.flac"))])
    draw = np.random.default_rng(0)
    for number in range(40):
        samples = int(draw.uniform(0.6, 4.0) * RATE)
        start = int(draw.integers(len(speech) - samples))
        path = folder / f"speaker{number % 4}" / f"{number:02}{('.wav', '.flac')[number % 2]}"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, speech[start : start + samples], (RATE, 22_050)[number % 3 == 0])
    return folder


@pytest.fixture(scope="session")
def whole(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of all of these clips from an uninterrupted run, in five shards."""
    out = tmp_path_factory.mktemp("rows") / "whole"
    go(clips, out)
    return out


def go(source: Path | str, out: Path, **options: Any) -> Any:
    common = {"runtime": "cpu", "whole": True, "embeddings": True, "shard": 8, "workers": 1}
    return run(str(source), out, **{**common, **options})


def table(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(out / "rows").to_pylist()
    return rows


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "rows").iterdir())}


# ---- contents of the rows


def test_rows_of_whole_clips_have_the_answers_of_the_model(clips, whole):
    rows = table(whole)
    files = sorted(str(path.relative_to(clips)) for path in clips.rglob("*.*"))
    assert [row["file"] for row in rows] == files
    assert [row["clip"] for row in rows] == list(range(40))
    model = e2v_port.load("bundled", runtime="cpu")
    paths = [clips / file for file in files]
    embeddings = model.embed(paths)
    for row, path, prediction, embedding in zip(rows, paths, model.predict(paths), embeddings, strict=True):
        analysis = e2v_port.analyze(path, model=model, whole=True).segments[0]
        assert (row["primary"], row["error"], row["segment"]) == (prediction.label, None, 0)
        for name, score in prediction.scores.items():
            assert row[f"e2v_{name}"] == pytest.approx(score, abs=2e-5)
        assert row["confidence"] == pytest.approx(analysis.confidence, abs=2e-5)
        assert row["avd_valence"] == pytest.approx(analysis.valence, abs=2e-5)
        shares = [row[f"distribution_{name}"] for name in analysis.judgement.distribution]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert np.allclose(row["embedding"], embedding, rtol=2e-3, atol=2e-3)  # float16 has 11 bits
        about = soundfile.info(path)
        assert (row["rate"], row["start"]) == (about.samplerate, 0.0)
        assert row["duration"] == row["end"] == pytest.approx(about.duration, abs=1e-3)
        samples, _ = soundfile.read(path)
        assert row["level"] == pytest.approx(10 * np.log10(np.mean(samples**2)), abs=0.1)
        assert row["peak"] == pytest.approx(np.abs(samples).max(), abs=0.05)
        assert row["quality"] == analysis.quality
        assert (row["model"], row["version"]) == ("bundled", e2v_port.__version__)


def test_segments_are_those_of_analyze(tmp_path):
    summary = go(SPEECH, tmp_path / "out", whole=False)
    rows = table(tmp_path / "out")
    expected = [
        (path.name, segment)
        for path in sorted(SPEECH.glob("*.flac"))
        for segment in e2v_port.analyze(path, model="bundled", runtime="cpu").segments
    ]
    assert len(rows) == len(expected) == summary.rows
    for row, (name, segment) in zip(rows, expected, strict=True):
        assert (row["file"], row["start"], row["end"]) == (name, segment.start, segment.end)
        assert (row["quality"], row["primary"]) == (segment.quality, segment.emotion)
        assert row["confidence"] == (
            None if segment.confidence is None else pytest.approx(segment.confidence, abs=2e-5)
        )


def test_two_models_are_fused(clips, tmp_path):
    folders = [toys.convert(toys.make(tmp_path / "a"), tmp_path / "model")]
    folders.append(toys.convert(toys.make_dimensional(tmp_path / "b"), tmp_path / "dimensional"))
    categorical, dimensional = (e2v_port.load(folder, runtime="cpu") for folder in folders)
    go(clips / "speaker1", tmp_path / "out", model=str(folders[0]), dimensional=str(folders[1]))
    for row in table(tmp_path / "out"):
        path = clips / "speaker1" / row["file"]
        segment = e2v_port.analyze(path, model=categorical, dimensional=dimensional, whole=True).segments[0]
        assert (row["primary"], row["avd_from"]) == (segment.emotion, "model")
        assert (row["compound"], row["octant"]) == (segment.compound, segment.judgement.octant)
        assert row["avd_arousal"] == pytest.approx(segment.arousal, abs=2e-5)
        assert row["dimensional"] == dimensional.config.source.repository


def test_a_model_without_labels_gives_embeddings(clips, tmp_path):
    folder = toys.convert(toys.make(tmp_path / "a", toys.HEADLESS), tmp_path / "model")
    go(clips / "speaker1", tmp_path / "out", model=str(folder))
    rows = table(tmp_path / "out")
    expected = e2v_port.load(folder, runtime="cpu").embed([clips / "speaker1" / row["file"] for row in rows])
    assert np.allclose([row["embedding"] for row in rows], expected, rtol=2e-3, atol=2e-3)
    assert "primary" not in rows[0]
    with pytest.raises(NoLabels, match="has no classification head"):
        go(clips / "speaker1", tmp_path / "other", model=str(folder), embeddings=False)


def test_pandas_polars_duckdb_and_datasets_read_the_rows(whole, tmp_path, monkeypatch):
    """Each library uses its own reader, and has to agree with Arrow."""
    import duckdb
    import pandas
    import polars

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    rows = table(whole)
    labels, embedding = [row["primary"] for row in rows], np.array(rows[3]["embedding"], np.float32)
    pattern = str(whole / "rows" / "*.parquet")
    frame = pandas.read_parquet(whole / "rows").sort_values("clip")
    assert frame.primary.tolist() == labels
    assert np.array_equal(np.asarray(frame.embedding.iloc[3], np.float32), embedding)
    lazy = polars.read_parquet(pattern).sort("clip")
    assert lazy["primary"].to_list() == labels
    assert np.array_equal(np.asarray(lazy["embedding"][3], np.float32), embedding)
    found = duckdb.sql(f"select \"primary\", embedding from read_parquet('{pattern}') order by clip").fetchall()
    assert [row[0] for row in found] == labels
    assert np.array_equal(np.asarray(found[3][1], np.float32), embedding)
    hub = datasets.load_dataset("parquet", data_files=pattern, split="train", cache_dir=str(tmp_path))
    assert hub["primary"][:] == labels
    assert np.array_equal(np.asarray(hub[3]["embedding"], np.float32), embedding)


def test_every_column_is_described(whole):
    schema = parquet.read_schema(whole / "rows" / "part-000000.parquet")
    for field in schema:
        assert field.metadata[b"description"], field.name
    assert schema.field("start").metadata[b"unit"] == b"s"
    assert schema.field("e2v_angry").metadata[b"range"] == b"0 to 1"
    size = e2v_port.load("bundled").config.architecture.embed_dim
    assert schema.field("embedding").type == pa.list_(pa.field("element", pa.float16()), size)


# ---- where clips come from


def test_every_kind_of_source_gives_the_same_rows(clips, whole, tmp_path):
    expected = {(row["primary"], row["confidence"], row["duration"]) for row in table(whole)}
    paths = sorted(clips.rglob("*.*"))
    (tmp_path / "list.txt").write_text("\n".join(["# clips", "", *map(str, paths)]), "utf-8")
    (tmp_path / "list.csv").write_text("\n".join(["file_name", *map(str, paths)]), "utf-8")
    names = pa.table({"file": [f"file://{path}" for path in paths]})
    parquet.write_table(names, tmp_path / "list.parquet")
    (tmp_path / "tars").mkdir()
    for number in range(2):
        with tarfile.open(tmp_path / "tars" / f"part-{number:03}.tar", "w") as tar:
            for path in paths[20 * number : 20 * number + 20]:
                tar.add(path, path.name)
    sources = [f"{clips}/**/*.*", f"{clips}/speaker[0-3]/*", *map(str, tmp_path.glob("list.*")), f"file://{clips}"]
    sources += [str(tmp_path / "tars"), str(tmp_path / "tars" / "part-{000..001}.tar")]
    for number, source in enumerate(sources):
        # One shard holds all, so that batches are others and only the last digits may differ.
        go(source, tmp_path / f"{number}", shard=40, embeddings=False)
        found = {(row["primary"], row["confidence"], row["duration"]) for row in table(tmp_path / f"{number}")}
        assert len(found) == 40
        for one, other in zip(sorted(found), sorted(expected), strict=True):
            assert one[0] == other[0]
            assert one[1:] == pytest.approx(other[1:], abs=2e-5)


def test_a_table_has_parts_speakers_and_labels(tmp_path):
    path = sorted(SPEECH.glob("*.flac"))[0]
    (tmp_path / "clips.csv").write_text(
        f"file,start,end,speaker,label\n{path},0.5,1.5,ann,happy\n{path},,1.0,bob,\n{path},1,,ann,sad\n{path},900,901,,\n",
        "utf-8",
    )
    go(tmp_path / "clips.csv", tmp_path / "out", max_errors=1)
    rows = table(tmp_path / "out")
    samples = load_audio(path)
    assert [(row["speaker"], row["reference"]) for row in rows] == [
        ("ann", "happy"), ("bob", None), ("ann", "sad"), (None, None),
    ]  # fmt: skip
    assert [(row["start"], row["end"]) for row in rows[:3]] == [(0.5, 1.5), (0.0, 1.0), (1.0, len(samples) / RATE)]
    model = e2v_port.load("bundled", runtime="cpu")
    for row in rows[:3]:
        part = samples[round(row["start"] * RATE) : round(row["end"] * RATE)]
        assert row["e2v_angry"] == pytest.approx(model.predict(part, RATE).scores["angry"], abs=2e-5)
    assert "exceeds the file" in rows[3]["error"]


ODD_JSON = {
    "nested": b"[" * 200_000,
    "surrogate": b'{"speaker": "\\ud800"}',
    "number": b'{"label": ' + b"9" * 5000 + b"}",
    "cut": b'{"label": "sad"',
    "not text": b'{"label": "\xff"}',
    "list": b'{"label": ["sad"]}',
    "table": b'{"speaker": {"name": "Ann"}}',
    "long": b'{"label": "sad", "x": "' + b" " * (1 << 20) + b'"}',
    "empty": b"",
}


def test_an_odd_json_in_a_tar_costs_its_clip_only(tmp_path):
    sound = (SPEECH / "low.flac").read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, about in {**ODD_JSON, "good": b'{"label": "sad", "speaker": 1.5}', "other": b"[1, 2]"}.items():
            for suffix, data in ((".json", about), (".flac", sound)):
                member = tarfile.TarInfo(name + suffix)
                member.size = len(data)
                tar.addfile(member, BytesIO(data))
    go(tmp_path, tmp_path.with_name("out-odd"), max_errors=1)
    rows = {Path(row["file"]).stem: row for row in table(tmp_path.with_name("out-odd"))}
    for name in ODD_JSON:
        assert rows[name]["error"].startswith("its .json cannot be read ("), name
        assert rows[name]["primary"] is None
    assert [rows["good"][name] for name in ("reference", "speaker", "error")] == ["sad", "1.5", None]
    assert rows["other"]["primary"]


def test_tar_shards_have_speaker_and_label(tmp_path):
    path = sorted(SPEECH.glob("*.flac"))[0]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (
            ("x/one.json", json.dumps({"label": "sad", "speaker": 7}).encode()),
            ("x/one.flac", path.read_bytes()),
            ("x/two.flac", path.read_bytes()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "none.tar").write_bytes(b"no tar" * 1000)
    go(tmp_path, tmp_path.with_name("out-tar"), max_errors=1)
    rows = {row["file"]: row for row in table(tmp_path.with_name("out-tar"))}
    assert [rows["a.tar/x/one.flac"][name] for name in ("reference", "speaker")] == ["sad", "7"]
    assert rows["a.tar/x/two.flac"]["speaker"] is None
    assert rows["a.tar/x/two.flac"]["e2v_sad"] == pytest.approx(rows["a.tar/x/one.flac"]["e2v_sad"], abs=1e-6)
    assert rows["cut.tar/x/one.flac"]["primary"]
    assert "the tar ends within it" in rows["cut.tar/x/two.flac"]["error"]
    assert "not a tar, or damaged" in rows["none.tar"]["error"]


class _Web(BaseHTTPRequestHandler):
    """A file server that fails on the first request for each file."""

    requested: ClassVar[set[str]] = set()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        data = b"" if "gone" in self.path else (SPEECH / self.path.rpartition("/")[2]).read_bytes()
        broken = self.command == "GET" and self.path not in self.requested
        if self.command == "GET":
            self.requested.add(self.path)
        self.send_response(404 if "gone" in self.path else 500 if broken else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            with suppress(OSError):
                self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def test_remote_files_are_fetched_with_retries(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = sorted(SPEECH.glob("*.flac"))[0]
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "list.txt").write_text(f"{base}/{path.name}\n{base}/gone.wav\n", "utf-8")
        go(tmp_path / "list.txt", tmp_path / "out", max_errors=1)
    finally:
        server.shutdown()
        server.server_close()
    first, gone = table(tmp_path / "out")
    assert first["error"] is None
    assert first["e2v_sad"] == pytest.approx(e2v_port.load("bundled").predict(path).scores["sad"], abs=2e-5)
    assert gone["error"] == "cannot be read (No such file or directory): pass a readable file"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.csv", "path,label\nx.wav,sad\n", "columns path, label, but not file"),
        ("a.csv", "file,start,end\nx.wav,3,2\n", "row 1: 3.0 to 2.0 is not a part"),
        ("a.csv", "file,start\nx.wav,soon\n", "cannot be read"),
        ("a.csv", "file\n\n", "no audio found"),
        ("a.txt", "# nothing\n", "no audio found"),
        ("a.docx", "x", "the extension '.docx' is not supported"),
        ("b.csv", "file\n,\n", "cannot be read"),
    ],
)
def test_invalid_sources(tmp_path, name, text, why):
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(CorpusError, match=why) as caught:
        find(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


# ---- bad input


def wav(frames: int, samples: bytes) -> bytes:
    """Returns a WAV whose header claims a number of frames."""
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36, b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16, b"data", 2 * frames
    )
    return head + samples


@pytest.fixture
def bad(tmp_path: Path) -> dict[str, str]:
    """Files that cannot be judged, each with a word of the reason, and one that can."""
    good = sorted(SPEECH.glob("*.flac"))[0].read_bytes()
    noise = np.random.default_rng(0).bytes(200_000)
    (tmp_path / "bad").mkdir()
    files = {
        "cut.flac": (good[: len(good) // 2], "damaged or cut off"),
        "empty.wav": (b"", "an empty file"),
        "foreign.m4a": (b"\0\0\0\x20ftypM4A " + noise, "ffmpeg"),
        "huge.wav": (wav(2**30, bytes(2000)), "silent"),  # it claims 19 hours and has a sixteenth of a second
        "noise.mp3": (noise, "damaged, or not audio"),
        "short.wav": (wav(100, bytes(200)), "too short"),
        "silent.wav": (wav(RATE, bytes(2 * RATE)), "silent"),
        "text.wav": (b"hello\n" * 100, "damaged, or not audio"),
    }
    for name, (data, _) in files.items():
        (tmp_path / "bad" / name).write_bytes(data)
    with soundfile.SoundFile(tmp_path / "bad" / "long.flac", "w", RATE, 1) as file:  # 8 minutes in 17 KB
        for _ in range(480):
            file.write(np.zeros(RATE))
    soundfile.write(tmp_path / "bad" / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, "FLOAT")
    (tmp_path / "bad" / "yes.flac").write_bytes(good)
    return {name: why for name, (_, why) in files.items()} | {"long.flac": "longer than 120 s", "nan.wav": "not finite"}


def test_bad_files_become_rows_with_the_reason(bad, tmp_path):
    summary = go(tmp_path / "bad", tmp_path / "out", max_errors=1, longest=120)
    rows = {row["file"]: row for row in table(tmp_path / "out")}
    assert rows.keys() == bad.keys() | {"yes.flac"}
    assert rows["yes.flac"]["error"] is None
    assert rows["yes.flac"]["primary"]
    for name, why in bad.items():
        assert why in rows[name]["error"], name
        assert rows[name]["primary"] is rows[name]["embedding"] is None
        assert name not in rows[name]["error"]  # which has its own column
    assert (summary.clips, summary.failed, summary.rows) == (11, 10, 11)
    assert sum(summary.errors.values()) == 10
    assert summary.errors["damaged, or not audio in a format that is read here"] == 2


def test_a_clip_that_is_cut_off_is_judged_and_says_so(tmp_path):
    clip = tmp_path / "clips" / "cut.wav"
    clip.parent.mkdir()
    soundfile.write(clip, soundfile.read(SPEECH / "calm.flac")[0], 16_000)
    clip.write_bytes(clip.read_bytes()[:60_000])
    go(clip.parent, tmp_path / "out")
    (row,) = table(tmp_path / "out")
    assert row["primary"]
    assert row["notes"] == "cut_off"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf8_is_an_error_of_its_clip(tmp_path):
    for name in (b"a\xff.flac", "b é.flac".encode()):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes((SPEECH / "low.flac").read_bytes())
    go(tmp_path, tmp_path.with_name("out-names"), max_errors=1)
    first, second = table(tmp_path.with_name("out-names"))
    assert (first["file"], first["error"]) == ("a\\udcff.flac", "its name is not UTF-8: rename it")
    assert (second["file"], second["error"]) == ("b é.flac", None)


def test_the_last_and_only_shard_counts_among_the_errors(bad, tmp_path):
    for number in range(3):
        shutil.copy(SPEECH / "low.flac", tmp_path / "bad" / f"z{number}.flac")
    for _ in range(2):  # repeating the run does not make it a success
        with pytest.raises(TooManyErrors, match=rf"{len(bad)} of {len(bad) + 4} clips cannot be judged") as caught:
            go(tmp_path / "bad", tmp_path / "out", longest=120, shard=100)
        assert caught.value.summary.clips == len(bad) + 4
    assert json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))["failed"] == len(bad)
    assert go(tmp_path / "bad", tmp_path / "out", longest=120, shard=100, max_errors=0.9).done == 0


def test_too_many_errors_stop_the_run_unless_allowed(clips, bad, tmp_path):
    for number, path in enumerate(sorted(clips.rglob("*.*"))):
        (tmp_path / "bad" / f"z{number}{path.suffix}").write_bytes(path.read_bytes())
    with pytest.raises(TooManyErrors, match=r"8 of 8 clips cannot be judged, more than 20%") as caught:
        go(tmp_path / "bad", tmp_path / "out", longest=120)
    assert (caught.value.summary.clips, caught.value.summary.failed) == (8, 8)
    before = shards(tmp_path / "out")
    summary = go(tmp_path / "bad", tmp_path / "out", longest=120, max_errors=1)
    assert (summary.clips, summary.done, summary.failed) == (51, 43, 10)
    assert before.items() <= shards(tmp_path / "out").items()


def children(module: str, count: int, of: int | None = None) -> list[int]:
    """Waits for `count` child processes of this process, or of another, that run a module, and returns their ids."""
    processes: list[int] = []

    def enough() -> bool:
        processes.clear()
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                about = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if module.encode() in about and parent == (of or os.getpid()):
                    processes.append(int(entry.name))
        return len(processes) >= count

    wait_for(enough)
    return processes


@posix
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_a_decoder_that_dies_or_hangs_loses_one_clip(clips, tmp_path, monkeypatch):
    """A named pipe without a writer blocks a decoder."""
    for name in ("a.wav", "m.wav"):
        os.mkfifo(tmp_path / name)
    good = sorted(clips.rglob("*.wav"))[:6]
    names = [tmp_path / "a.wav", *good[:3], tmp_path / "m.wav", *good[3:]]
    (tmp_path / "list.txt").write_text("\n".join(map(str, names)), "utf-8")

    def kill_then_hurry() -> None:
        _kill_decoders(tmp_path / "a.wav")
        monkeypatch.setattr(decoding, "PATIENCE", 5.0)

    killed = threading.Thread(target=kill_then_hurry)
    killed.start()
    go(tmp_path / "list.txt", tmp_path / "out", decoders=1, max_errors=1)
    killed.join()
    rows = table(tmp_path / "out")
    assert rows[0]["error"].startswith("the decoder died of SIGKILL")
    assert rows[4]["error"].startswith("not decoded within 5 s")
    assert [bool(row["primary"]) for row in rows] == [False, True, True, True, False, True, True, True]
    assert children("e2v_port.corpus.decoder", 0) == []


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
def test_a_clip_that_needs_too_much_memory_is_an_error(clips, tmp_path):
    """The decoder is limited to 96 MB more than it has: measuring noise takes 50."""
    import resource

    os.mkfifo(tmp_path / "a.wav")
    (tmp_path / "list.txt").write_text("\n".join([str(tmp_path / "a.wav"), *map(str, clips.rglob("0*.wav"))]), "utf-8")
    minutes = wav(1800 * RATE, np.random.default_rng(0).bytes(2 * 1800 * RATE))
    limits: list[int] = []

    def feed() -> None:
        writer = _writer(tmp_path / "a.wav")
        (process,) = children("e2v_port.corpus.decoder", 1)
        soft, hard = resource.prlimit(process, resource.RLIMIT_DATA)
        limits.append(soft)
        (held,) = re.findall(r"VmData:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())
        resource.prlimit(process, resource.RLIMIT_DATA, (1024 * int(held) + (96 << 20), hard))
        os.set_blocking(writer, True)
        with suppress(BrokenPipeError), open(writer, "wb") as pipe:
            pipe.write(minutes)

    feeding = threading.Thread(target=feed)
    feeding.start()
    go(tmp_path / "list.txt", tmp_path / "out", decoders=1, max_errors=1)
    feeding.join()
    hour = 3600 * RATE * np.dtype(np.float32).itemsize
    assert limits == [(2 << 30) + 4 * hour]
    first, *others = table(tmp_path / "out")
    assert first["error"] == "needs too much memory: cut it into parts"
    assert others
    assert all(row["primary"] for row in others), [row["error"] for row in others]


def _writer(pipe: Path) -> int:
    """Opens a named pipe once it has a reader."""
    writer: list[int] = []

    def opened() -> bool:
        with suppress(OSError):  # no reader yet
            writer.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writer)

    wait_for(opened)
    return writer[0]


def _kill_decoders(pipe: Path) -> None:
    """Kills the decoder that reads a pipe, and its successor."""
    for _ in range(2):
        writer = _writer(pipe)
        (process,) = children("e2v_port.corpus.decoder", 1)
        os.kill(process, signal.SIGSTOP)  # so that it does not see the pipe end, nor the next one find it open
        os.close(writer)
        os.kill(process, signal.SIGKILL)
        wait_for(lambda process=process: process not in children("e2v_port.corpus.decoder", 0))


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- interrupted, changed and repeated runs


@posix
def test_a_killed_and_resumed_run_gives_the_same_files(clips, whole, tmp_path):
    command = [
        E2V,
        "corpus",
        clips,
        "--out",
        tmp_path / "out",
        "--whole",
        "--embeddings",
        "--shard",
        "8",
        "--runtime",
        "cpu",
    ]
    draw = np.random.default_rng(0)
    seen = []
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            needed = len(seen) + 1  # so that kills fall into the work, however long a start takes
            wait_for(lambda needed=needed: len(list((tmp_path / "out" / "rows").glob("*.parquet"))) >= needed)
            time.sleep(draw.uniform(0, 0.05))
            process.kill()
        seen.append(len(list((tmp_path / "out" / "rows").glob("*.parquet"))))
        if seen[-1] == 5:
            break
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    assert summary["done"] == 40 - 8 * seen[-1]
    assert shards(tmp_path / "out") == shards(whole)
    stored = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert {name: stored[name] for name in ("clips", "rows", "labels")} == {
        name: json.loads((whole / "summary.json").read_text("utf-8"))[name] for name in ("clips", "rows", "labels")
    }


def test_a_complete_run_is_not_repeated(whole, clips, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.parquet")}
    monkeypatch.setattr("e2v_port.corpus.machine.load", None)  # a call would raise
    assert go(clips, whole).done == 0
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.parquet")} == before


def test_a_shard_with_a_flipped_bit_is_made_again(whole, clips, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    expected = shards(out)
    name, data = next(iter(expected.items()))
    path = out / "rows" / name
    listed = subprocess.run(["sha256sum", "--check", "checksums.sha256"], cwd=out, capture_output=True, check=False)
    assert listed.returncode == 0, listed
    for at in (0, 4, len(data) // 3, len(data) // 2, len(data) - 200, len(data) - 6, len(data) - 1):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        checked = Folder(out, find(str(clips)), json.loads((out / "manifest.json").read_text())["settings"], 8)
        missing, tally = checked.begin(update=False)
        assert (missing, tally.clips) == ([0], 32), at
        checked.write(0, data)
    path.write_bytes(data[:-300] + b"x" + data[-299:])
    with pytest.raises(CorpusError, match=rf"{name}: not as it was written: repeat the run"):
        evaluate_rows(out)
    assert go(clips, out).done == 8
    assert shards(out) == expected
    (out / "checksums.sha256").unlink()
    assert go(clips, out).done == 40
    assert shards(out) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"whole": False}, "rules.whole was True, now False"),
        ({"shard": 9}, "shard was 8, now 9"),
        ({"longest": 9.0}, "rules.longest was 3600.0, now 9.0"),
        ({"dtype": "bfloat16"}, "dtype was None, now bfloat16"),
        ({"embeddings": False}, "embeddings was True, now False"),
    ],
)
def test_other_settings_are_refused(clips, whole, options, message):
    before = shards(whole)
    with pytest.raises(CorpusError, match=message):
        go(clips, whole, **options)
    assert shards(whole) == before


def test_changed_clips_and_models_are_refused_and_updated(tmp_path):
    source = tmp_path / "clips"
    source.mkdir()
    speech = load_audio(sorted(SPEECH.glob("*.flac"))[0])
    for number in range(24):
        soundfile.write(source / f"{number:02}.wav", speech[number * 800 : number * 800 + 16_000], RATE)
    model = toys.convert(toys.make(tmp_path / "toy"), tmp_path / "model")
    go(source, tmp_path / "out", model=str(model))
    before = shards(tmp_path / "out")
    soundfile.write(source / "12.wav", speech[:20_000], RATE)
    with pytest.raises(CorpusError, match="clips have changed, in 1 of 3 shards"):
        go(source, tmp_path / "out", model=str(model))
    assert go(source, tmp_path / "out", model=str(model), update=True).done == 8
    after = shards(tmp_path / "out")
    assert [before[name] == after[name] for name in before] == [True, False, True]
    for number in (24, 25):
        soundfile.write(source / f"{number}.wav", speech[:30_000], RATE)
    with pytest.raises(CorpusError, match="clips were 24, now 26"):
        go(source, tmp_path / "out", model=str(model))
    assert go(source, tmp_path / "out", model=str(model), update=True).done == 2
    config = json.loads((model / "config.json").read_text("utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"temperature": 2.5}), "utf-8")
    with pytest.raises(CorpusError, match=r"models\.categorical\.temperature was 1\.0, now 2\.5"):
        go(source, tmp_path / "out", model=str(model))
    for number in range(8, 26):  # fewer clips: shards that are too many go
        (source / f"{number:02}.wav").unlink()
    summary = go(source, tmp_path / "out", model=str(model), update=True)
    assert (summary.clips, summary.done, list(shards(tmp_path / "out"))) == (8, 8, ["part-000000.parquet"])


def test_update_retries_failed_clips(tmp_path):
    (tmp_path / "list.txt").write_text(f"{SPEECH / 'low.flac'}\n{tmp_path / 'late.wav'}\n", "utf-8")
    assert go(tmp_path / "list.txt", tmp_path / "out", max_errors=1).failed == 1
    soundfile.write(tmp_path / "late.wav", load_audio(SPEECH / "calm.flac"), RATE)
    assert go(tmp_path / "list.txt", tmp_path / "out", update=True).failed == 0


@posix
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_a_second_run_is_refused_and_a_killed_run_leaves_no_process(tmp_path):
    os.mkfifo(tmp_path / "a.wav")  # blocks the decoder
    (tmp_path / "list.txt").write_text(str(tmp_path / "a.wav"), "utf-8")
    out = tmp_path / "out"
    command = [E2V, "corpus", tmp_path / "list.txt", "--out", out, "--runtime", "cpu", "--decoders", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        wait_for((out / "manifest.json").exists)
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        (decoder,) = children("e2v_port.corpus.decoder", 1, first.pid)
        first.kill()
    wait_for(lambda: not Path(f"/proc/{decoder}/exe").exists())
    assert second.returncode == BAD_INPUT
    why = "another run is writing to it: wait until it ends, or pass another folder"
    assert second.stderr == f"error: {out}: {why}\n"


def test_a_folder_with_other_files_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine", "utf-8")
    with pytest.raises(CorpusError, match=r"contains thesis\.txt"):
        go(SPEECH, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "options",
    [{"engine": "spark"}, {"dtype": "auto"}, {"longest": 1e9}, {"max_errors": 2}, {"shard": 0}, {"address": "x:1"}],
)
def test_invalid_options(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        go(SPEECH, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["s3://calls/rows", Path("gs://calls/rows")])
def test_rows_go_to_a_folder(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is an address: rows are written to a folder of this machine"):
        go(SPEECH, out)
    assert not list(tmp_path.iterdir())


def test_progress_receives_every_clip(clips, tmp_path):
    calls: list[Any] = []
    progress = Progress(start=lambda *start: calls.append(start), advance=lambda *step: calls.append(step))
    summary = go(clips, tmp_path / "out", progress=progress)
    assert calls[0] == (40, 0, 0.0)
    assert len(calls) == 41
    assert sum(seconds for _, seconds in calls[1:]) == pytest.approx(3600 * summary.hours)


# ---- many devices, many machines


@posix
def test_two_workers_give_the_same_files_and_a_dead_one_ends_the_run(clips, whole, tmp_path):
    """As with two GPUs, but on two cores, which is the default for such a small model."""
    read: list[float] = []
    workers = None if machine.cores() > 1 else 2
    summary = go(
        clips, tmp_path / "out", workers=workers, progress=Progress(advance=lambda clips, seconds: read.append(seconds))
    )
    assert shards(tmp_path / "out") == shards(whole)
    assert (summary.done, len(read)) == (40, 40)
    os.mkfifo(tmp_path / "a.wav")  # blocks the decoder
    (tmp_path / "list.txt").write_text(str(tmp_path / "a.wav"), "utf-8")
    killer = threading.Thread(
        target=lambda: [os.kill(pid, signal.SIGKILL) for pid in children("e2v_port.corpus.worker", 2)]
    )
    killer.start()
    with pytest.raises(CorpusError, match="a worker process died"):
        go(tmp_path / "list.txt", tmp_path / "other", workers=2)
    killer.join()
    assert shards(tmp_path / "other") == {}


@posix
@pytest.mark.xdist_group("ray")
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
@pytest.mark.filterwarnings("ignore")  # from Ray itself
def test_local_ray_gives_the_same_files_after_a_worker_is_killed(clips, whole, tmp_path):
    killed: list[int] = []

    def kill() -> None:
        while not killed or len(list((tmp_path / "out" / "rows").glob("*.parquet"))) < 2:
            for entry in Path("/proc").iterdir():
                with suppress(OSError, ValueError):
                    if b"ray::MapWorker(MapBatches(_Worker)).submit" in (entry / "cmdline").read_bytes() and not killed:
                        os.kill(int(entry.name), signal.SIGKILL)
                        killed.append(int(entry.name))
            if ended.wait(0.01):
                return

    ended = threading.Event()
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        summary = go(clips, tmp_path / "out", engine="ray", workers=2)
    finally:
        ended.set()
        killer.join()
    assert len(killed) == 1
    assert summary.done == 40
    assert shards(tmp_path / "out") == shards(whole)


def test_the_cluster_file_is_valid_for_ray():
    ray = importlib.util.find_spec("ray")
    schema = json.loads((Path(ray.origin).parent / "autoscaler" / "ray-schema.json").read_text("utf-8"))
    text = (Path(__file__).parents[1] / "docs" / "deploy" / "cluster.yaml").read_text("utf-8")
    jsonschema.validate(yaml.safe_load(text), schema)


# ---- reports


@pytest.fixture(scope="session")
def labeled(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A table with speakers and labels, and its rows."""
    folder = tmp_path_factory.mktemp("labeled")
    names = ("happy", "sad", "angry", "boredom")
    lines = [f"{path},{path.parent.name},{names[number % 4]}" for number, path in enumerate(sorted(clips.rglob("*.*")))]
    (folder / "known.csv").write_text("\n".join(["file,speaker,label", *lines]), "utf-8")
    go(folder / "known.csv", folder / "rows", embeddings=False)
    return folder / "known.csv", folder / "rows"


def test_evaluating_rows_equals_evaluating_clips(labeled, capsys):
    source, rows = labeled
    cli.app(["evaluate", "--rows", str(rows), "--json"], standalone_mode=False)
    (evaluation,) = json.loads(capsys.readouterr().out)["corpora"].values()
    read = readers.read(f"csv={source}")
    direct = evaluate.evaluate(e2v_port.load("bundled", runtime="cpu"), read.utterances).to_dict()
    assert evaluation["open"] == direct["open"]
    assert evaluation["closed"] == direct["closed"]
    for name in ("ece", "ece_scaled"):
        assert evaluation[name]["value"] == pytest.approx(direct[name]["value"], abs=1e-4)
    assert evaluation["unmapped"] == direct["unmapped"]


def test_rows_without_references_cannot_be_evaluated(whole):
    done = subprocess.run([E2V, "evaluate", "--rows", whole], capture_output=True, text=True, check=False)
    assert done.returncode == BAD_INPUT
    assert done.stderr == f"error: {whole}: no row has a reference: run e2v corpus on a table with a column label\n"


def test_the_report_has_the_figures_of_the_rows(labeled):
    _, rows = labeled
    done = subprocess.run([E2V, "report", rows], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(rows / "report.html"), str(rows / "report.png")]
    page = (rows / "report.html").read_text("utf-8")
    for name, count in json.loads((rows / "summary.json").read_text("utf-8"))["labels"].items():
        assert f'<th scope="row">{name}</th><td>{count}</td>' in page
    for speaker in range(4):
        assert f'<th scope="row">speaker{speaker}</th><td>10</td>' in page
    for loaded in ("src=", "@import", "url(http", "<script", "<link"):
        assert loaded not in page
    assert (rows / "report.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_folder_without_rows_has_no_report(tmp_path):
    done = subprocess.run([E2V, "report", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == BAD_INPUT
    assert len(done.stderr.splitlines()) == 1
    assert "not written by e2v corpus" in done.stderr
