"""The page without a service: built by site/build.py, served as files, in a real browser that judges by itself."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browsing import CLIPS, Visitor, drop, encoded, table, until

import e2v_port
from e2v_port.emotions import taxonomy

pytest.importorskip("onnxruntime", reason='onnxruntime is not installed: pip install "e2v-port[onnx]"')

pytestmark = pytest.mark.xdist_group("page")

BUILD = Path(__file__).parents[1] / "site" / "build.py"
MOST = 20  # recordings to compare
TIMES, PROBABILITIES = 0.05, 2e-3  # largest differences from Python, in seconds and in probabilities


class Host:
    """A web host of files alone; `url` as for the service."""

    def __init__(self, folder: Path) -> None:
        self.paths: list[str] = []
        host = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                host.paths.append(f"{self.command} {self.path}")

        handler = partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def built(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the built site. A machine without the registry skips this, unless E2V_REQUIRE_BROWSER is 1."""
    folder = tmp_path_factory.mktemp("site") / "a folder"
    done = subprocess.run([sys.executable, BUILD, folder / "app"], check=False, capture_output=True, text=True)
    if "connect to the network" in done.stderr and os.environ.get("E2V_REQUIRE_BROWSER") != "1":
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def host(built: Path) -> Iterator[Host]:
    started = Host(built)
    started.url += "app/"  # below the root, as many hosts have it
    yield started
    started.stop()


def opened(visit: Visitor, host: Host) -> Any:
    """Opens the site and waits until the browser has all of it."""
    page = visit(host)
    page.get_by_text("works offline from now on").wait_for()
    return page


def judged(page: Any, name: str, data: bytes) -> dict[str, Any]:
    """Drops a recording and returns the answer that the page shows as JSON."""
    drop(page, (name, data))
    page.get_by_role("heading", name=name).wait_for()
    page.evaluate("() => (document.querySelector('#raw').open = true)")
    until(lambda: f'"file": "{name}"' in page.locator("#json").inner_text())
    return json.loads(page.locator("#json").inner_text())


def recordings(folder: Path) -> list[Path]:
    """Returns recordings of several speakers, some with several segments, one of them too long for one segment."""
    long = [path for name in ("emodb_timeline", "ami_EN2002a_30s") if (path := folder / f"{name}.flac").is_file()]
    short = sorted(folder.glob("emodb_*.flac"))
    step = max(1, len(short) // (MOST - len(long)))
    return [*long, *[path for path in short[::step] if path not in long]][:MOST]


def assert_same(found: dict[str, Any], wanted: e2v_port.Analysis) -> None:
    assert len(found["segments"]) == len(wanted.segments)
    for mine, theirs in zip(found["segments"], wanted.to_dict()["segments"], strict=True):
        assert mine["start"] == pytest.approx(theirs["start"], abs=TIMES)
        assert mine["end"] == pytest.approx(theirs["end"], abs=TIMES)
        assert mine["quality"] == theirs["quality"]
        assert mine.keys() == theirs.keys()
        if theirs["emotion"] is None:
            assert mine["emotion"] is None
            continue
        assert mine["emotion"].keys() == theirs["emotion"].keys()
        for name, value in theirs["emotion"].items():
            if name == "shade" and value:
                assert mine["emotion"][name]["name"] == value["name"]
                assert mine["emotion"][name]["probability"] == pytest.approx(value["probability"], abs=PROBABILITIES)
            elif isinstance(value, float | dict):
                assert mine["emotion"][name] == pytest.approx(value, abs=PROBABILITIES), name
            else:
                assert mine["emotion"][name] == value, name
    for name in ("reason", "notes", "settings"):
        assert found[name] == wanted.to_dict()[name]


def test_a_browser_gives_the_segments_and_probabilities_of_python(
    host: Host, visit: Visitor, speech_folder: Path
) -> None:
    page = opened(visit, host)
    clips = [*recordings(speech_folder), *sorted(CLIPS.glob("*.flac"))]
    assert len(clips) >= 8
    for clip in clips:
        assert soundfile.info(clip).samplerate == 16_000  # resamplers differ: here only what follows is compared
        assert_same(judged(page, clip.name, clip.read_bytes()), e2v_port.analyze(clip))


def test_it_works_offline_after_the_first_load_and_sends_nothing(host: Host, visit: Visitor) -> None:
    page = opened(visit, host)
    clip = (CLIPS / "quick.flac").read_bytes()
    online = judged(page, "quick.flac", clip)
    assert {path.partition(" ")[0] for path in host.paths} == {"GET"}
    loaded = [path for path in host.paths if path.endswith("model.onnx")]
    assert len(loaded) == 1  # the page and the store share one download
    host.stop()
    page.context.set_offline(True)
    again = page.context.new_page()
    again.goto(host.url)
    answer = judged(again, "quick.flac", clip)
    assert answer["segments"] == online["segments"]
    again.get_by_role("button", name="Example").click()
    again.get_by_role("heading", name="example.flac").wait_for()
    assert len(table(again)) == 4


def test_a_file_at_another_rate_is_judged_almost_as_in_python(host: Host, visit: Visitor, tmp_path: Path) -> None:
    samples, _ = soundfile.read(CLIPS / "bright.flac")
    count = round(len(samples) * 44_100 / 16_000)
    higher = np.interp(np.arange(count) / 44_100, np.arange(len(samples)) / 16_000, samples)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.column_stack([higher, higher * 0.5]), 44_100)
    wanted = e2v_port.analyze(path)
    found = judged(opened(visit, host), path.name, path.read_bytes())
    (mine,), (theirs,) = found["segments"], wanted.segments
    assert [mine["start"], mine["end"]] == pytest.approx([theirs.start, theirs.end], abs=TIMES)
    assert mine["emotion"]["e2v_scores"] == pytest.approx(theirs.judgement.scores, abs=0.02)


def variants(samples: np.ndarray) -> dict[str, np.ndarray]:
    """Returns sound that is not simply judged: what the library notes must be noted here, too."""
    pause = np.zeros(40_000)
    noise = np.random.default_rng(0).normal(0, 0.02, len(samples))
    return {
        "inverted": np.column_stack([samples, -samples]),
        "one_sided": np.column_stack([samples, 0 * samples]),
        "half_inverted": np.column_stack([np.tile(samples, 2), np.concatenate([samples, -samples])]),
        "quiet": samples * 10 ** (-40 / 20),
        "silence": pause,
        "noisy": samples + noise,
        "short": samples[:20_000],
        "no_speech": noise,
        "without_pauses": np.tile(samples[8_000:30_000], 12),
        "two_turns": np.concatenate([samples, pause, samples[:24_000]]),
    }


def test_channels_levels_noise_and_lengths_are_those_of_python(host: Host, visit: Visitor, tmp_path: Path) -> None:
    samples, _ = soundfile.read(CLIPS / "quick.flac")
    page = opened(visit, host)
    for name, sound in variants(samples).items():
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, sound, 16_000, subtype="FLOAT")
        assert_same(judged(page, path.name, path.read_bytes()), e2v_port.analyze(path))


def test_what_cannot_be_judged_is_said(host: Host, visit: Visitor) -> None:
    page = opened(visit, host)
    clip = (CLIPS / "quick.flac").read_bytes()
    for name, files in {
        "cannot read this file": [("broken.wav", b"RIFF and nothing else")],
        "file is empty": [("empty.wav", b"")],
        "too short": [("click.wav", encoded(np.full(100, 0.5), "wav"))],
        "Transcripts are read by the service": [("quick.flac", clip), ("quick.srt", b"1\n")],
    }.items():
        drop(page, *files)
        page.get_by_role("alert").filter(has_text=name).wait_for()
    drop(page, ("quick.flac", clip))
    assert table(page)


def test_a_host_that_lacks_a_file_is_no_silent_failure(built: Path, visit: Visitor, tmp_path: Path) -> None:
    folder = tmp_path / "incomplete"
    shutil.copytree(built / "app", folder)
    (folder / "judge" / "model.onnx").unlink()
    incomplete = Host(folder)
    try:
        visit.expected = ["404", "Service worker", "service worker"]
        page = visit(incomplete)
        page.get_by_text("Not stored in this browser").wait_for()
        drop(page, ("quick.flac", (CLIPS / "quick.flac").read_bytes()))
        page.get_by_role("alert").filter(has_text="The models could not be loaded").wait_for()
    finally:
        incomplete.stop()


def test_a_recording_is_judged_and_what_needs_a_service_is_not_offered(host: Host, visit: Visitor) -> None:
    page = opened(visit, host)
    assert not page.locator("#live, #switch, #token, #stored").locator("visible=true").count()
    page.get_by_role("button", name="Record").click()
    until(lambda: page.locator("#clock").inner_text() == "0:05")
    page.get_by_role("button", name="Stop and analyze").click()
    page.get_by_role("heading", name="recording.wav").wait_for()
    assert any(row["Confidence"] for row in table(page))
    assert "of upload" not in page.get_by_role("status").inner_text()


def test_an_analysis_can_be_cancelled_and_repeated(host: Host, visit: Visitor) -> None:
    samples, _ = soundfile.read(CLIPS / "quick.flac", dtype="int16")
    long = encoded(np.tile(samples, 60), "wav")
    page = opened(visit, host)
    drop(page, ("long.wav", long))
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("status").filter(has_text="Canceled").wait_for()
    assert judged(page, "quick.flac", (CLIPS / "quick.flac").read_bytes())["segments"]


def test_the_tables_are_those_of_the_package(built: Path) -> None:
    found = json.loads((built / "app" / "judge" / "taxonomy.json").read_text("utf-8"))
    assert found == {name: taxonomy.table(name) for name in ("emotions", "compounds", "labels")}


def test_another_onnxruntime_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "registry" / "onnxruntime-web" / "-"
    place.mkdir(parents=True)
    copy = tmp_path / "checkout"
    shutil.copytree(BUILD.parent, copy / "site", ignore=shutil.ignore_patterns("__pycache__"))
    name = "onnxruntime-web-1.30.0.tgz"
    (place / name).write_bytes(b"something else")
    registry = {**os.environ, "NPM_CONFIG_REGISTRY": (tmp_path / "registry").as_uri()}
    done = subprocess.run(
        [sys.executable, copy / "site" / "build.py", tmp_path / "out"],
        check=False,
        capture_output=True,
        text=True,
        env=registry,
    )
    assert done.returncode == 1
    assert "is not the file that the npm registry publishes" in done.stderr
    assert not (tmp_path / "out").exists()
    assert not list(copy.rglob("*.tgz"))


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = subprocess.run([sys.executable, BUILD, tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "holds something else" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
