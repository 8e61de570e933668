"""Whole corpora: what is in the rows, that nothing is lost or done twice, and what bad input does."""

import importlib.util
import json
import os
import re
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
from e2v_port import cli, corpora, evaluation
from e2v_port.audio import load_audio
from e2v_port.cli.output import BAD_INPUT
from e2v_port.corpus import decoding, machine
from e2v_port.corpus.run import Progress, TooManyErrors, run
from e2v_port.corpus.sources import find
from e2v_port.errors import CorpusError, NoLabels

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
    """40 pieces of speech of different lengths and rates."""
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
    """The rows of all of these, undisturbed, in five shards."""
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


# ---- what is in the rows


def test_whole_clips_have_what_the_model_says_of_them(clips, whole):
    rows = table(whole)
    files = sorted(str(path.relative_to(clips)) for path in clips.rglob("*.*"))
    assert [row["file"] for row in rows] == files
    assert [row["clip"] for row in rows] == list(range(40))
    model = e2v_port.load("bundled", runtime="cpu")
    paths = [clips / file for file in files]
    embeddings = model.embed(paths)
    for row, path, prediction, embedding in zip(rows, paths, model.predict(paths), embeddings, strict=True):
        analysis = e2v_port.analyze(path, model=model, whole=True).segments[0]
        assert (row["label"], row["error"], row["segment"]) == (prediction.label, None, 0)
        for name, score in prediction.scores.items():
            assert row[f"score_{name}"] == pytest.approx(score, abs=2e-5)
        assert row["confidence"] == pytest.approx(analysis.confidence, abs=2e-5)
        assert row["valence"] == pytest.approx(analysis.valence, abs=2e-5)
        assert sum(row[f"emotion_{name}"] for name in analysis.judgement.distribution) == pytest.approx(1, abs=1e-5)
        assert np.allclose(row["embedding"], embedding, rtol=2e-3, atol=2e-3)  # float16 has 11 bits
        about = soundfile.info(path)
        assert (row["rate"], row["start"]) == (about.samplerate, 0.0)
        assert row["duration"] == row["end"] == pytest.approx(about.duration, abs=1e-3)
        samples, _ = soundfile.read(path)
        assert row["level"] == pytest.approx(10 * np.log10(np.mean(samples**2)), abs=0.1)
        assert row["peak"] == pytest.approx(np.abs(samples).max(), abs=0.05)
        assert row["quality"] == analysis.quality
        assert (row["model"], row["version"]) == ("bundled", e2v_port.__version__)


def test_speech_is_cut_as_analyze_cuts_it(tmp_path):
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
        assert (row["quality"], row["label"]) == (segment.quality, segment.emotion)
        assert row["confidence"] == (
            None if segment.confidence is None else pytest.approx(segment.confidence, abs=2e-5)
        )


def test_two_models_give_both(clips, tmp_path):
    folders = [toys.convert(toys.make(tmp_path / "a"), tmp_path / "model")]
    folders.append(toys.convert(toys.make_dimensional(tmp_path / "b"), tmp_path / "dimensional"))
    categorical, dimensional = (e2v_port.load(folder, runtime="cpu") for folder in folders)
    go(clips / "speaker1", tmp_path / "out", model=str(folders[0]), dimensional=str(folders[1]))
    for row in table(tmp_path / "out"):
        path = clips / "speaker1" / row["file"]
        segment = e2v_port.analyze(path, model=categorical, dimensional=dimensional, whole=True).segments[0]
        assert (row["label"], row["dimensions_from"]) == (segment.emotion, "model")
        assert (row["compound"], row["octant"]) == (segment.compound, segment.judgement.octant)
        assert row["arousal"] == pytest.approx(segment.arousal, abs=2e-5)
        assert row["dimensional"] == dimensional.config.source.repository


def test_a_model_without_labels_gives_embeddings(clips, tmp_path):
    folder = toys.convert(toys.make(tmp_path / "a", toys.HEADLESS), tmp_path / "model")
    go(clips / "speaker1", tmp_path / "out", model=str(folder))
    rows = table(tmp_path / "out")
    expected = e2v_port.load(folder, runtime="cpu").embed([clips / "speaker1" / row["file"] for row in rows])
    assert np.allclose([row["embedding"] for row in rows], expected, rtol=2e-3, atol=2e-3)
    assert "label" not in rows[0]
    with pytest.raises(NoLabels, match="has no classification head"):
        go(clips / "speaker1", tmp_path / "other", model=str(folder), embeddings=False)


def test_pandas_polars_duckdb_and_datasets_read_the_rows(whole, tmp_path, monkeypatch):
    """Each with its own code or options; what Arrow reads is what they have to read."""
    import duckdb
    import pandas
    import polars

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    rows = table(whole)
    labels, embedding = [row["label"] for row in rows], np.array(rows[3]["embedding"], np.float32)
    pattern = str(whole / "rows" / "*.parquet")
    frame = pandas.read_parquet(whole / "rows").sort_values("clip")
    assert frame.label.tolist() == labels
    assert np.array_equal(np.asarray(frame.embedding.iloc[3], np.float32), embedding)
    lazy = polars.read_parquet(pattern).sort("clip")
    assert lazy["label"].to_list() == labels
    assert np.array_equal(np.asarray(lazy["embedding"][3], np.float32), embedding)
    found = duckdb.sql(f"select label, embedding from read_parquet('{pattern}') order by clip").fetchall()
    assert [row[0] for row in found] == labels
    assert np.array_equal(np.asarray(found[3][1], np.float32), embedding)
    hub = datasets.load_dataset("parquet", data_files=pattern, split="train", cache_dir=str(tmp_path))
    assert hub["label"][:] == labels
    assert np.array_equal(np.asarray(hub[3]["embedding"], np.float32), embedding)


def test_every_column_says_what_it_is(whole):
    schema = parquet.read_schema(whole / "rows" / "part-000000.parquet")
    for field in schema:
        assert field.metadata[b"description"], field.name
    assert schema.field("start").metadata[b"unit"] == b"s"
    assert schema.field("score_angry").metadata[b"range"] == b"0 to 1"
    assert schema.field("embedding").type == pa.list_(pa.field("element", pa.float16()), 256)


# ---- where clips come from


def test_every_kind_of_source_gives_the_same_rows(clips, whole, tmp_path):
    expected = {(row["label"], row["confidence"], row["duration"]) for row in table(whole)}
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
        found = {(row["label"], row["confidence"], row["duration"]) for row in table(tmp_path / f"{number}")}
        assert len(found) == 40
        for one, other in zip(sorted(found), sorted(expected), strict=True):
            assert one[0] == other[0]
            assert one[1:] == pytest.approx(other[1:], abs=2e-5)


def test_a_table_names_parts_speakers_and_labels(tmp_path):
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
        assert row["score_angry"] == pytest.approx(model.predict(part, RATE).scores["angry"], abs=2e-5)
    assert "beyond the end of the file" in rows[3]["error"]


def test_tar_shards_tell_speaker_and_label(tmp_path):
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
    assert rows["a.tar/x/two.flac"]["score_sad"] == rows["a.tar/x/one.flac"]["score_sad"]
    assert rows["cut.tar/x/one.flac"]["label"]
    assert "the tar ends within it" in rows["cut.tar/x/two.flac"]["error"]
    assert "no tar, or damaged" in rows["none.tar"]["error"]


class _Web(BaseHTTPRequestHandler):
    """A file server that fails every other time."""

    asked: ClassVar[set[str]] = set()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        data = b"" if "gone" in self.path else (SPEECH / self.path.rpartition("/")[2]).read_bytes()
        broken = self.command == "GET" and self.path not in self.asked
        if self.command == "GET":
            self.asked.add(self.path)
        self.send_response(404 if "gone" in self.path else 500 if broken else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            with suppress(OSError):
                self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def test_remote_files_are_fetched_and_tried_again(tmp_path):
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
    assert first["score_sad"] == pytest.approx(e2v_port.load("bundled").predict(path).scores["sad"], abs=2e-5)
    assert gone["error"] == "cannot be read (No such file or directory): pass a readable file"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.csv", "path,label\nx.wav,sad\n", "columns path, label, but no file"),
        ("a.csv", "file,start,end\nx.wav,3,2\n", "row 1: from 3.0 to 2.0 is no part of a file"),
        ("a.csv", "file,start\nx.wav,soon\n", "cannot be read"),
        ("a.csv", "file\n\n", "no audio there"),
        ("a.txt", "# nothing\n", "no audio there"),
        ("a.docx", "x", "ending in '.docx' is no source"),
        ("b.csv", "file\n,\n", "cannot be read"),
    ],
)
def test_a_source_that_is_none_is_refused_in_one_line(tmp_path, name, text, why):
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(CorpusError, match=why) as caught:
        find(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


# ---- bad input


def wav(frames: int, samples: bytes) -> bytes:
    """A WAV that claims to have so many frames."""
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36, b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16, b"data", 2 * frames
    )
    return head + samples


@pytest.fixture
def bad(tmp_path: Path) -> dict[str, str]:
    """Files that cannot be judged, and a word of why; one among them that can."""
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


def test_bad_files_become_rows_that_say_why(bad, tmp_path):
    summary = go(tmp_path / "bad", tmp_path / "out", max_errors=1, longest=120)
    rows = {row["file"]: row for row in table(tmp_path / "out")}
    assert rows.keys() == bad.keys() | {"yes.flac"}
    assert rows["yes.flac"]["error"] is None
    assert rows["yes.flac"]["label"]
    for name, why in bad.items():
        assert why in rows[name]["error"], name
        assert rows[name]["label"] is rows[name]["embedding"] is None
        assert name not in rows[name]["error"]  # it has a column of its own
    assert (summary.clips, summary.failed, summary.rows) == (11, 10, 11)
    assert sum(summary.errors.values()) == 10
    assert summary.errors["damaged, or not audio that can be read here (WAV, FLAC, OGG, Opus, MP3)"] == 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text_is_an_error_of_its_clip(tmp_path):
    for name in (b"a\xff.flac", "b é.flac".encode()):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes((SPEECH / "low.flac").read_bytes())
    go(tmp_path, tmp_path.with_name("out-names"), max_errors=1)
    first, second = table(tmp_path.with_name("out-names"))
    assert (first["file"], first["error"]) == ("a\\udcff.flac", "its name is not UTF-8: rename it")
    assert (second["file"], second["error"]) == ("b é.flac", None)


def test_too_many_errors_stop_the_run_and_more_of_them_can_be_allowed(clips, bad, tmp_path):
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
    """Processes of this one, or of another, that run a module, once there are so many of them."""
    found: list[int] = []

    def there() -> bool:
        found.clear()
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                about = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if module.encode() in about and parent == (of or os.getpid()):
                    found.append(int(entry.name))
        return len(found) >= count

    wait_for(there)
    return found


@posix
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_a_decoder_that_dies_or_hangs_costs_one_clip(clips, tmp_path, monkeypatch):
    """A named pipe that nobody writes to holds a decoder for as long as one likes."""
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
    assert [bool(row["label"]) for row in rows] == [False, True, True, True, False, True, True, True]
    assert children("e2v_port.corpus.decoder", 0) == []


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
def test_a_clip_that_takes_too_much_memory_costs_one_clip(clips, tmp_path):
    """For this one, 8 MB are too much."""
    import resource

    os.mkfifo(tmp_path / "a.wav")
    (tmp_path / "list.txt").write_text("\n".join([str(tmp_path / "a.wav"), *map(str, clips.rglob("0*.wav"))]), "utf-8")
    minutes = BytesIO()
    soundfile.write(minutes, np.random.default_rng(0).uniform(-1, 1, 600 * RATE), RATE, format="WAV")
    limits: list[int] = []

    def feed() -> None:
        writer = _writer(tmp_path / "a.wav")
        (process,) = children("e2v_port.corpus.decoder", 1)
        soft, hard = resource.prlimit(process, resource.RLIMIT_DATA)
        limits.append(soft)
        (held,) = re.findall(r"VmData:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())
        resource.prlimit(process, resource.RLIMIT_DATA, (1024 * int(held) + (8 << 20), hard))
        os.set_blocking(writer, True)
        with suppress(BrokenPipeError), open(writer, "wb") as pipe:
            pipe.write(minutes.getvalue())

    feeding = threading.Thread(target=feed)
    feeding.start()
    go(tmp_path / "list.txt", tmp_path / "out", decoders=1, max_errors=1)
    feeding.join()
    hour = 3600 * RATE * np.dtype(np.float32).itemsize
    assert limits == [(2 << 30) + 4 * hour]
    first, *others = table(tmp_path / "out")
    assert first["error"] == "takes more memory than a clip may: cut it into parts"
    assert others
    assert all(row["label"] for row in others)


def _writer(pipe: Path) -> int:
    """Opens a named pipe once somebody reads it."""
    writer: list[int] = []

    def opened() -> bool:
        with suppress(OSError):  # nobody reads yet
            writer.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writer)

    wait_for(opened)
    return writer[0]


def _kill_decoders(pipe: Path) -> None:
    """Kills the decoder that reads a pipe, and the next one."""
    for _ in range(2):
        writer = _writer(pipe)
        (process,) = children("e2v_port.corpus.decoder", 1)
        os.kill(process, signal.SIGSTOP)  # so that it does not see the pipe end, nor the next one find it open
        os.close(writer)
        os.kill(process, signal.SIGKILL)
        wait_for(lambda process=process: process not in children("e2v_port.corpus.decoder", 0))


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- interrupted, changed, twice


@posix
def test_killed_at_any_moment_and_run_again_it_is_as_undisturbed(clips, whole, tmp_path):
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
            wanted = len(seen) + 1  # so that kills fall into the work, however long a start takes
            wait_for(lambda wanted=wanted: len(list((tmp_path / "out" / "rows").glob("*.parquet"))) >= wanted)
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


def test_run_again_it_does_nothing(whole, clips, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.parquet")}
    monkeypatch.setattr("e2v_port.corpus.machine.load", None)  # it would not even load the model
    assert go(clips, whole).done == 0
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.parquet")} == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"whole": False}, "rules.whole was True, now False"),
        ({"shard": 9}, "shard was 8, now 9"),
        ({"longest": 9.0}, "rules.longest was 3600.0, now 9.0"),
        ({"dtype": "bfloat16"}, "dtype was None, now bfloat16"),
        ({"embeddings": False}, "embeddings was True, now False"),
    ],
)
def test_other_settings_are_refused(clips, whole, options, told):
    before = shards(whole)
    with pytest.raises(CorpusError, match=told):
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


def test_what_failed_is_tried_again_with_update(tmp_path):
    (tmp_path / "list.txt").write_text(f"{SPEECH / 'low.flac'}\n{tmp_path / 'late.wav'}\n", "utf-8")
    assert go(tmp_path / "list.txt", tmp_path / "out", max_errors=1).failed == 1
    soundfile.write(tmp_path / "late.wav", load_audio(SPEECH / "calm.flac"), RATE)
    assert go(tmp_path / "list.txt", tmp_path / "out", update=True).failed == 0


@posix
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_a_second_run_is_refused_and_a_killed_one_leaves_no_process(tmp_path):
    os.mkfifo(tmp_path / "a.wav")  # it will wait there
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
    why = "another run is writing there: wait for its end, or name another folder"
    assert second.stderr == f"error: {out}: {why}\n"


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine", "utf-8")
    with pytest.raises(CorpusError, match=r"holds thesis\.txt"):
        go(SPEECH, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "options",
    [{"engine": "spark"}, {"dtype": "auto"}, {"longest": 1e9}, {"max_errors": 2}, {"shard": 0}, {"address": "x:1"}],
)
def test_options_that_make_no_sense(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        go(SPEECH, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["s3://calls/rows", Path("gs://calls/rows")])
def test_rows_go_to_a_folder(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is an address: rows are written to a folder of this machine"):
        go(SPEECH, out)
    assert not list(tmp_path.iterdir())


def test_progress_is_told_of_every_clip(clips, tmp_path):
    told: list[Any] = []
    progress = Progress(start=lambda *start: told.append(start), advance=lambda *step: told.append(step))
    summary = go(clips, tmp_path / "out", progress=progress)
    assert told[0] == (40, 0, 0.0)
    assert len(told) == 41
    assert sum(seconds for _, seconds in told[1:]) == pytest.approx(3600 * summary.hours)


# ---- many devices, many machines


@posix
def test_two_processes_with_models_give_the_same_files_and_one_that_dies_ends_the_run(clips, whole, tmp_path):
    """As for two GPUs, but on two cores; so small a model has two there by default."""
    told: list[float] = []
    workers = None if machine.cores() > 1 else 2
    summary = go(
        clips, tmp_path / "out", workers=workers, progress=Progress(advance=lambda clips, seconds: told.append(seconds))
    )
    assert shards(tmp_path / "out") == shards(whole)
    assert (summary.done, len(told)) == (40, 40)
    os.mkfifo(tmp_path / "a.wav")  # it will wait there
    (tmp_path / "list.txt").write_text(str(tmp_path / "a.wav"), "utf-8")
    killer = threading.Thread(
        target=lambda: [os.kill(pid, signal.SIGKILL) for pid in children("e2v_port.corpus.worker", 2)]
    )
    killer.start()
    with pytest.raises(CorpusError, match="a process with models died"):
        go(tmp_path / "list.txt", tmp_path / "other", workers=2)
    killer.join()
    assert shards(tmp_path / "other") == {}


@posix
@pytest.mark.xdist_group("ray")
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_local_ray_gives_the_same_files_though_workers_are_killed(clips, whole, tmp_path):
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


def test_the_cluster_file_is_one_for_ray():
    ray = importlib.util.find_spec("ray")
    schema = json.loads((Path(ray.origin).parent / "autoscaler" / "ray-schema.json").read_text("utf-8"))
    text = (Path(__file__).parents[1] / "docs" / "deploy" / "cluster.yaml").read_text("utf-8")
    jsonschema.validate(yaml.safe_load(text), schema)


# ---- what is made of the rows


@pytest.fixture(scope="session")
def labelled(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A table with speakers and labels, and its rows."""
    folder = tmp_path_factory.mktemp("labelled")
    names = ("happy", "sad", "angry", "boredom")
    lines = [f"{path},{path.parent.name},{names[number % 4]}" for number, path in enumerate(sorted(clips.rglob("*.*")))]
    (folder / "known.csv").write_text("\n".join(["file,speaker,label", *lines]), "utf-8")
    go(folder / "known.csv", folder / "rows", embeddings=False)
    return folder / "known.csv", folder / "rows"


def test_evaluate_says_of_rows_what_it_says_of_the_clips(labelled, capsys):
    source, rows = labelled
    cli.app(["evaluate", "--rows", str(rows), "--json"], standalone_mode=False)
    (found,) = json.loads(capsys.readouterr().out)["corpora"].values()
    read = corpora.read(f"csv={source}")
    direct = evaluation.evaluate(e2v_port.load("bundled", runtime="cpu"), read.utterances).to_dict()
    assert found["open"] == direct["open"]
    assert found["closed"] == direct["closed"]
    for name in ("ece", "ece_scaled"):
        assert found[name]["value"] == pytest.approx(direct[name]["value"], abs=1e-4)
    assert found["unmapped"] == direct["unmapped"]


def test_rows_without_references_cannot_be_evaluated(whole):
    done = subprocess.run([E2V, "evaluate", "--rows", whole], capture_output=True, text=True, check=False)
    assert done.returncode == BAD_INPUT
    assert done.stderr == f"error: {whole}: no row has a reference: give e2v corpus a table with a column label\n"


def test_the_report_shows_what_the_rows_hold(labelled):
    _, rows = labelled
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


def test_nothing_is_drawn_of_a_folder_without_rows(tmp_path):
    done = subprocess.run([E2V, "report", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == BAD_INPUT
    assert len(done.stderr.splitlines()) == 1
    assert "no folder that e2v corpus wrote" in done.stderr
