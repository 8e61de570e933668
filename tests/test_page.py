"""The page of `e2v serve` in a real browser: a Chromium without a window, against the service in its own process."""

import base64
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import toys
from served import Served

import e2v_port
from e2v_port import emotions

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PAGE = Path(e2v_port.__file__).parent / "service" / "page"
CLIPS = Path(__file__).parents[1] / "benchmarks" / "speech"

pytestmark = pytest.mark.xdist_group("page")


@pytest.fixture(scope="module")
def service() -> Iterator[Served]:
    with Served() as started:
        yield started


@pytest.fixture(scope="module")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the browser's microphone hears, over and over: in any 5 s of it there is speech enough to judge."""
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"
    clips = [soundfile.read(CLIPS / f"{name}.flac", dtype="int16")[0] for name in ("quick", "calm")]
    pause = np.zeros(27_000, np.int16)  # just long enough to end a segment
    soundfile.write(path, np.concatenate([part for clip in clips for part in (clip, pause)]), 16_000)
    return path


@pytest.fixture(scope="module")
def browser(microphone: Path) -> Iterator[Any]:
    missing = None
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = 'playwright is not installed: pip install -e ".[test]"'
    else:
        if found is None:
            missing = f"none of {', '.join(BROWSERS)} is here: apt-get install chromium"
    if missing and os.environ.get("E2V_REQUIRE_BROWSER") == "1":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    flags = [
        "use-fake-ui-for-media-stream",
        "use-fake-device-for-media-stream",
        f"use-file-for-fake-audio-capture={microphone}",
    ]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=[f"--{flag}" for flag in flags])
        yield started
        started.close()


class Visitor:
    """Opens pages, and remembers what they load and complain of."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self.browser, self.folder = browser, folder
        self.contexts: list[Any] = []
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.expected: list[str] = []  # complaints that a test is about

    def __call__(self, service: Served, width: int = 1280, **options: Any) -> Any:
        context = self.browser.new_context(viewport={"width": width, "height": 800}, **options)
        context.set_default_timeout(15_000)
        self.contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: self.requests.append(socket.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.goto(service.url)
        return page

    def picture(self, page: Any, name: str) -> None:
        page.wait_for_timeout(400)  # bars and points move to their places
        page.screenshot(path=self.folder / f"{name}.png", full_page=True)


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Visitor]:
    visitor = Visitor(browser, Path(os.environ.get("E2V_SCREENSHOTS") or tmp_path))
    yield visitor
    for context in visitor.contexts:
        context.close()
    elsewhere = [
        url
        for url in visitor.requests
        if not re.match(r"(http|ws)://127\.0\.0\.1:|blob:http://127\.0\.0\.1:|data:", url)
    ]
    assert not elsewhere, "the page asks another host"
    left = [line for line in visitor.complaints if not any(expected in line for expected in visitor.expected)]
    assert not left, "the browser complains"


def drop(page: Any, *files: tuple[str, bytes]) -> None:
    """Drops files onto the page."""
    page.evaluate(
        """files => {
            const transfer = new DataTransfer();
            for (const [name, base64] of files) {
                transfer.items.add(new File([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], name));
            }
            for (const type of ["dragenter", "dragover", "drop"]) {
                document.querySelector("#source").dispatchEvent(
                    new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
            }
        }""",
        [[name, base64.b64encode(data).decode()] for name, data in files],
    )


def table(page: Any) -> list[dict[str, str]]:
    """What the table of all segments says, row by row."""
    page.wait_for_selector("#table tbody tr")
    names, *found = page.evaluate(
        "() => [...document.querySelectorAll('#table tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
    )
    return [dict(zip(names, row, strict=True)) for row in found]


def rows(analysis: e2v_port.Analysis) -> list[dict[str, str]]:
    """What the table must say of an analysis by the library."""
    found = []
    for i, segment in enumerate(analysis.segments, 1):
        judgement = segment.judgement
        assert judgement
        assert judgement.dimensions
        doubt = ", uncertain" if "uncertain" in judgement.notes else ""
        found.append({
            "No.": str(i), "From": f"{segment.start:.2f}", "To": f"{segment.end:.2f}",
            "Sounds": judgement.compound or judgement.primary,
            "Confidence": f"{judgement.confidence:.0%}".replace("%", " %") + doubt,
            "Quality": {"normal": "", "low_confidence": "short"}[segment.quality],
            **{name.capitalize(): f"{value:.2f}" for name, value in judgement.dimensions.to_dict().items()},
        })  # fmt: skip
    return found


def encoded(samples: np.ndarray, form: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format=form)
    return file.getvalue()


def until(holds: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come to hold"
        time.sleep(0.05)


def seconds(page: Any) -> float:
    return float(page.get_by_role("slider", name="Position in the recording").input_value())


def test_the_example_is_made_of_the_clips_that_ship() -> None:
    clips = [soundfile.read(CLIPS / f"{name}.flac", dtype="int16")[0] for name in ("bright", "quick", "calm", "low")]
    pause = np.zeros(2 * 16_000, np.int16)
    wanted = np.concatenate([part for clip in clips for part in (clip, pause)][:-1])
    found, rate = soundfile.read(PAGE / "example.flac", dtype="int16")
    assert rate == 16_000
    assert np.array_equal(found, wanted)


def test_the_first_analysis_is_there_within_3_seconds(service: Served, visit: Visitor) -> None:
    took = []
    for _ in range(3):  # the machine may be busy with something else
        started = time.monotonic()
        page = visit(service)
        page.get_by_role("button", name="Example").click()
        page.get_by_role("heading", name="example.flac").wait_for()
        took.append(time.monotonic() - started)
        if took[-1] < 3:
            break
    assert min(took) < 3
    assert table(page) == rows(e2v_port.analyze(PAGE / "example.flac"))


@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3"])
def test_a_dropped_file_shows_what_the_library_says(
    service: Served, visit: Visitor, speech_folder: Path, form: str
) -> None:
    samples, _ = soundfile.read(speech_folder / "emodb_timeline.flac", stop=32 * 16_000)
    clip = encoded(samples, form)
    page = visit(service)
    drop(page, (f"speech.{form}", clip))
    assert table(page) == rows(e2v_port.analyze(io.BytesIO(clip)))
    assert page.get_by_role("heading", name=f"speech.{form}").is_visible()
    # The browser decoded it, too: its waveform is more than a line in the middle.
    until(lambda: painted(page) > 20)


def test_what_the_browser_cannot_decode_is_shown_all_the_same(service: Served, visit: Visitor) -> None:
    samples, _ = soundfile.read(PAGE / "example.flac")
    clip = encoded(samples, "aiff")
    page = visit(service)
    drop(page, ("clip.aiff", clip))
    assert table(page) == rows(e2v_port.analyze(io.BytesIO(clip)))
    page.get_by_text("This browser cannot play this format").wait_for()
    assert page.get_by_role("button", name="Play", exact=True).is_disabled()
    assert painted(page) == 0
    page.get_by_role("button", name="Segment 4,").click()
    assert page.locator("#now-place").inner_text().startswith("4 of 4")


def painted(page: Any) -> int:
    """How many columns of the waveform are higher than a line."""
    return page.evaluate("""() => {
        const canvas = document.querySelector("#timeline canvas");
        const row = canvas.getContext("2d").getImageData(0, Math.round(canvas.height * 0.4), canvas.width, 1).data;
        return row.filter((value, i) => i % 4 === 3 && value > 0).length;
    }""")


def test_playing_moves_the_head_and_everything_that_follows_it(service: Served, visit: Visitor) -> None:
    page = visit(service)
    page.get_by_role("button", name="Example").click()
    analysis = e2v_port.analyze(PAGE / "example.flac")
    labels = [segment.emotion for segment in analysis.segments]
    assert labels[1] != labels[2]
    page.get_by_role("button", name="Segment 2,").click()
    page.get_by_role("button", name="Pause").wait_for()
    until(lambda: seconds(page) > analysis.segments[1].start + 0.3)
    picture = page.get_by_role("img", name="Emotion wheel")
    assert str(labels[1]) in picture.get_attribute("aria-label")
    page.get_by_role("button", name="Play").wait_for()  # a segment stops at its end
    assert seconds(page) == pytest.approx(analysis.segments[1].end, abs=0.15)

    place = page.locator(".here").evaluate("here => here.style.transform")
    page.get_by_role("button", name="Play").click()  # goes on from there, through a pause, into the next one
    until(lambda: str(labels[2]) in picture.get_attribute("aria-label"))
    assert seconds(page) == pytest.approx(analysis.segments[2].start, abs=0.5)
    assert page.locator("#now .headline").inner_text() == labels[2]
    assert page.locator(".here").evaluate("here => here.style.transform") != place
    most = max(analysis.segments[2].judgement.distribution, key=analysis.segments[2].judgement.distribution.get)
    assert page.locator("#emotions .most .name").all_inner_texts() == [most]
    head = float(page.locator("#timeline .head").evaluate("head => parseFloat(head.style.left)"))
    assert head == pytest.approx(100 * seconds(page) / analysis.duration, abs=2)


def test_clicking_beside_the_segments_seeks(service: Served, visit: Visitor) -> None:
    page = visit(service)
    page.get_by_role("button", name="Example").click()
    table(page)
    box = page.locator("#timeline .field").bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
    assert seconds(page) == pytest.approx(0.75 * e2v_port.analyze(PAGE / "example.flac").duration, abs=0.1)


def test_what_was_measured_moves_the_ring(visit: Visitor, tmp_path: Path) -> None:
    model = toys.convert(toys.make_dimensional(tmp_path / "checkpoint"), tmp_path / "model")
    wanted = e2v_port.analyze(PAGE / "example.flac", model="bundled", dimensional=model, runtime="cpu")
    with Served("--model", "bundled", "--dimensional", str(model)) as measured:
        page = visit(measured)
        page.get_by_role("button", name="Example").click()
        assert table(page) == rows(wanted)
        judgement = wanted.segments[0].judgement
        ring = {"high": "intense", "moderate": "moderate", "mild": "mild", "low": "mild"}[judgement.intensity]
        said = page.get_by_role("img", name="Emotion wheel").get_attribute("aria-label")
        assert judgement.compound in said
        assert said.endswith(f", {ring}") or "hub" in said
        assert f"label: {judgement.primary}" in page.locator("#now .tags").inner_text()
        assert "measured" in page.locator("#now").inner_text()
        assert not page.locator("body").get_by_text("derived").locator("visible=true").count()
        visit.picture(page, "measured")


def test_every_label_has_its_place_on_the_wheel(service: Served, visit: Visitor) -> None:
    compounds = json.loads((Path(e2v_port.__file__).parents[1] / "taxonomy" / "compounds.json").read_text("utf-8"))[
        "compounds"
    ]
    judgements = [
        {"primary": row["primary"], "compound": row["label"], "intensity": row["arousal"]} for row in compounds
    ]
    plain = [{"primary": label, "compound": None, "intensity": None} for label in emotions.labels("emotion2vec")]
    unlabelled = [
        {
            "primary": None,
            "intensity": None,
            "distribution": {each.name: each.name == name for each in emotions.emotions()},
        }
        for name in ("sad", "affectionate", "curious", "neutral")
    ]
    page = visit(service)
    places = page.evaluate(
        """async (judgements) => {
            const { place } = await import("/page/wheel.js");
            const { Taxonomy } = await import("/page/taxonomy.js");
            const taxonomy = new Taxonomy(await (await fetch("/v1/taxonomy")).json());
            return judgements.map((judgement) => place(judgement, taxonomy));
        }""",
        [*judgements, *plain, *unlabelled],
    )
    sectors = ["joy", "trust", "fear", "surprise", "sadness", "disgust", "anger", "anticipation"]
    names = [sectors[place["sector"]] if place["sector"] >= 0 else None for place in places]

    # A label stands in the sector that means the same, by the taxonomy; neutral, other and unknown in none.
    wanted = {emotions.meaning(sector, "plutchik").name: sector for sector in sectors}
    bare = slice(len(judgements), len(judgements) + len(plain))
    assert names[bare] == [wanted.get(judgement["primary"]) for judgement in plain]
    assert {place["ring"] for place in places[bare]} == {1}
    # A compound stays with its label, but for the few that name another emotion.
    moved = {
        j["compound"]: name
        for j, name in zip(judgements, names[: len(judgements)], strict=True)
        if name != wanted.get(j["primary"])
    }
    assert moved == {
        "excitement": "anticipation",
        "curiosity": "anticipation",
        "focused": "anticipation",
        "alert": "anticipation",
        "calm": "trust",
    }
    rings = {"high": 0, "moderate": 1, "low": 2}
    assert [place["ring"] for place in places[: len(judgements)]] == [rings[j["intensity"]] for j in judgements]
    assert names[-4:] == ["sadness", "trust", "anticipation", None]


def test_segments_that_somebody_gives(service: Served, visit: Visitor) -> None:
    turns = "".join(f"SPEAKER clip 1 {start} {length} <NA> <NA> {who} <NA> <NA>\n" for start, length, who in
                    [(0.0, 1.5, "ann"), (3.8, 0.5, "ann"), (4.3, 1.4, "other"), (5.9, 1.5, "ann")])  # fmt: skip
    page = visit(service)
    drop(page, ("turns.rttm", turns.encode()), ("clip.flac", (PAGE / "example.flac").read_bytes()))
    found = table(page)
    assert [row["Speaker"] for row in found] == ["ann", "ann", "other", "ann"]
    assert [row["Sounds"] for row in found][1:] == [
        "too short to judge",
        "other is not enrolled: not analysed",
        "no speech heard",
    ]
    assert found[0]["Confidence"]
    assert {row["Confidence"] for row in found[1:]} == {""}
    page.get_by_role("button", name="Segment 3,").click()
    assert page.locator("#now").inner_text() == "other is not enrolled: not analysed"
    assert page.get_by_role("img", name="Emotion wheel: nothing to show").is_visible()
    visit.picture(page, "given")


def test_a_clip_without_speech_says_so(service: Served, visit: Visitor) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 4 * 16_000)
    page = visit(service)
    drop(page, ("noise.wav", encoded(noise, "wav")))
    page.get_by_role("heading", name="noise.wav").wait_for()
    assert "no speech found" in page.locator("#summary").inner_text()
    assert page.locator("#now").inner_text() == "no speech found"


def test_the_raw_answer_can_be_copied(service: Served, visit: Visitor) -> None:
    page = visit(service, permissions=["clipboard-read", "clipboard-write"])
    with page.expect_response("**/v1/analyze*") as answered:
        page.get_by_role("button", name="Example").click()
    table(page)
    page.get_by_text("The answer as JSON").click()
    until(lambda: page.locator("#json").inner_text() != "")
    assert json.loads(page.locator("#json").inner_text()) == answered.value.json()
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert json.loads(page.evaluate("() => navigator.clipboard.readText()")) == answered.value.json()


def test_a_file_that_is_no_audio_gets_the_line_of_the_service(service: Served, visit: Visitor) -> None:
    visit.expected = ["Failed to load resource: the server responded with a status of 4"]
    page = visit(service)
    drop(page, ("notes.txt", b"this is text"))
    alert = page.get_by_role("alert").filter(has_text="notes.txt")
    alert.wait_for()
    answer = service.client.post("/v1/analyze?name=notes.txt", content=b"this is text")
    assert answer.is_client_error
    assert alert.inner_text() == answer.json()["error"]["message"]
    assert "\n" not in alert.inner_text()
    assert not page.locator("#results").is_visible()
    visit.picture(page, "error")
    page.get_by_role("button", name="Example").click()  # and nothing is left of it
    page.get_by_role("heading", name="example.flac").wait_for()
    assert not page.locator("#error").is_visible()


def test_a_service_that_is_gone_is_missed(visit: Visitor) -> None:
    visit.expected = ["net::ERR_CONNECTION_REFUSED", "WebSocket connection to"]
    with Served() as mortal:
        page = visit(mortal)
        page.get_by_role("button", name="Listen live").click()
        page.get_by_role("status").filter(has_text="Listening").wait_for()
        until(lambda: page.locator("#clock").inner_text() == "0:01")
        mortal.process.kill()
        mortal.process.wait()
        page.get_by_role("alert").filter(has_text="connection to the service was lost").wait_for()
        assert page.get_by_role("button", name="Listen live").is_enabled()
        visit.picture(page, "lost")
        drop(page, ("clip.flac", (PAGE / "example.flac").read_bytes()))
        page.get_by_role("alert").filter(has_text="does not answer").wait_for()


def test_the_token_is_asked_for_and_kept_for_the_tab(visit: Visitor) -> None:
    visit.expected = ["Failed to load resource: the server responded with a status of 401"]
    with Served("--token", "open sesame") as locked:
        page = visit(locked)
        field = page.get_by_label("This service asks for its token")
        field.wait_for()
        visit.picture(page, "token")
        field.fill("wrong")
        field.press("Enter")
        page.get_by_role("alert").filter(has_text="token").wait_for()
        field.fill("open sesame")
        page.get_by_role("button", name="Use it").click()
        page.get_by_role("switch").and_(page.locator(":enabled")).wait_for()
        assert not field.is_visible()
        page.get_by_role("button", name="Example").click()
        assert len(table(page)) == 4
        page.reload()
        page.get_by_role("switch").and_(page.locator(":enabled")).wait_for()
        assert not field.is_visible()
        page.get_by_role("button", name="Listen live").click()
        until(lambda: page.locator("#clock").inner_text() == "0:01")
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("status").filter(has_text="Stopped").wait_for()
        assert "open sesame" not in page.evaluate("() => JSON.stringify(localStorage)")


def test_the_switch(service: Served, visit: Visitor) -> None:
    page = visit(service)
    page.get_by_role("button", name="Example").click()
    judged = table(page)
    switch = page.get_by_role("switch", name="Emotion")
    try:
        assert switch.is_checked()
        switch.click()
        page.get_by_role("status").filter(has_text="Emotion is off").wait_for()
        assert not switch.is_checked()
        assert service.client.get("/v1/config/emotion").json() == {"enabled": False}
        assert "what is shown is from before" in page.locator("#off").inner_text()
        assert "grayscale" in page.locator(".columns").evaluate("columns => getComputedStyle(columns).filter")
        visit.picture(page, "off")
        page.get_by_role("button", name="Example").click()
        until(lambda: {row["Sounds"] for row in table(page)} == {"not analysed"})
        assert {row["Confidence"] for row in table(page)} == {""}
        page.reload()
        switch.and_(page.locator(":enabled")).wait_for()
        assert not switch.is_checked()
        switch.click()
        page.get_by_role("status").filter(has_text="Emotion is on").wait_for()
    finally:
        service.client.put("/v1/config/emotion", json={"enabled": True})
    page.get_by_role("button", name="Example").click()
    assert table(page) == judged


def test_live(service: Served, visit: Visitor) -> None:
    events: list[dict[str, Any]] = []
    page = visit(service)
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: events.append(json.loads(frame))))
    page.get_by_role("button", name="Listen live").click()
    levels = set()

    def heard() -> bool:
        levels.add(page.locator("#level").evaluate("level => level.style.transform"))
        return sum(event["type"] == "final" for event in events) >= 1 and any(
            event["type"] == "partial" for event in events
        )

    until(heard, 30)
    assert len(levels) > 5  # the meter moves
    assert page.locator("#now .headline").inner_text()
    assert page.locator(".segments button").count() >= 1
    visit.picture(page, "live")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("status").filter(has_text="Stopped").wait_for()
    assert events[-1]["type"] == "done"
    finals = [event["segment"] for event in events if event["type"] == "final"]
    found = table(page)
    assert [row["From"] for row in found] == [f"{segment['start']:.2f}" for segment in finals]
    judged = [segment for segment in finals if segment["emotion"]]
    assert judged
    assert [row["Sounds"] for row in found if row["Confidence"]] == [
        segment["emotion"]["primary"] for segment in judged
    ]
    # All that was heard went out and was taken: nothing is missing between, or at the end.
    page.get_by_text("The answer as JSON").click()
    until(lambda: page.locator("#json").inner_text() != "")
    assert json.loads(page.locator("#json").inner_text())["duration"] == pytest.approx(
        events[-1]["duration"], abs=0.001
    )


def test_a_recording_from_the_microphone(service: Served, visit: Visitor) -> None:
    page = visit(service)
    page.get_by_role("button", name="Record", exact=True).click()
    until(lambda: page.locator("#clock").inner_text() == "0:05")
    page.get_by_role("button", name="Stop and analyse").click()
    page.get_by_role("heading", name="recording.wav").wait_for()
    assert any(row["Confidence"] for row in table(page))
    assert 5 <= float(page.get_by_role("slider", name="Position in the recording").get_attribute("max")) < 7
    page.get_by_role("button", name="Play", exact=True).click()  # what was recorded can be heard
    until(lambda: seconds(page) > 0.5)


def test_the_keyboard_is_enough(service: Served, visit: Visitor) -> None:
    page = visit(service)
    page.get_by_role("switch").and_(page.locator(":enabled")).wait_for()
    focused = "() => ((at) => at.id || at.ariaLabel || at.tagName)(document.activeElement)"
    stops = []
    for _ in range(6):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(focused))
    assert stops == ["switch", "theme", "choose", "record", "live", "example"]
    page.keyboard.press("Enter")
    table(page)
    page.keyboard.press("Tab")
    assert page.evaluate(focused).startswith("Segment 1,")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused).startswith("Segment 2,")
    page.keyboard.press("End")
    assert page.evaluate(focused).startswith("Segment 4,")
    page.keyboard.press("Enter")
    until(lambda: seconds(page) > 12.5)
    assert page.locator("#now-place").inner_text().startswith("4 of 4")
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    stops = []
    for _ in range(4):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(focused))
    assert stops == ["play", "seek", "table", "SUMMARY"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Home")
    assert seconds(page) < 1  # it goes on playing from there


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(service: Served, visit: Visitor, speech_folder: Path, scheme: str) -> None:
    page = visit(service, 360, color_scheme=scheme)
    width = "() => document.documentElement.scrollWidth"
    page.get_by_role("switch").and_(page.locator(":enabled")).wait_for()
    visit.picture(page, f"phone-start-{scheme}")
    assert page.evaluate(width) == 360
    drop(
        page,
        (
            "a_recording_with_a_very_long_name_that_nobody_can_break.flac",
            (speech_folder / "emodb_timeline.flac").read_bytes(),
        ),
    )
    table(page)
    assert page.evaluate(width) == 360
    visit.picture(page, f"phone-{scheme}")
    page.get_by_role("button", name="Listen live").click()
    until(lambda: page.locator("#clock").inner_text() == "0:01")
    assert page.evaluate(width) == 360
    page.get_by_role("button", name="Stop").click()


def test_dark_and_light(service: Served, visit: Visitor, speech_folder: Path) -> None:
    ground = "() => getComputedStyle(document.body).backgroundColor"
    page = visit(service, color_scheme="dark")
    drop(page, ("speech.flac", (speech_folder / "emodb_timeline.flac").read_bytes()))
    table(page)
    visit.picture(page, "dark")
    dark = page.evaluate(ground)
    assert page.get_by_role("button", name="Dark colours", pressed=True).is_visible()
    page.get_by_role("button", name="Dark colours").click()
    visit.picture(page, "light")
    light = page.evaluate(ground)
    assert sum(map(int, re.findall(r"\d+", light))) > sum(map(int, re.findall(r"\d+", dark))) + 300
    page.reload()
    assert page.evaluate(ground) == light  # the choice is kept
    assert visit(service, color_scheme="light").evaluate(ground) == light
    assert visit(service, color_scheme="dark").evaluate(ground) == dark


def test_who_wants_no_motion_gets_none(service: Served, visit: Visitor) -> None:
    moving = "() => document.getAnimations().length"
    for preference, moves in (("no-preference", True), ("reduce", False)):
        page = visit(service, reduced_motion=preference)
        page.get_by_role("button", name="Example").click()
        table(page)
        assert (page.evaluate(moving) > 0) is moves


def test_names_from_files_are_text(service: Served, visit: Visitor) -> None:
    name = "<img src=x onerror=alert(1)>.flac"
    turns = json.dumps([{"start": 0.0, "end": 1.5, "speaker": "<b>ann</b>", "text": "<script>alert(2)</script>"}])
    page = visit(service)
    drop(page, (name, (PAGE / "example.flac").read_bytes()), ("turns.json", turns.encode()))
    assert table(page)[0]["Speaker"] == "<b>ann</b>"
    assert table(page)[0]["Text"] == "<script>alert(2)</script>"
    assert page.get_by_role("heading", name=name).is_visible()


def test_the_page_reads_no_other_host_and_holds_no_inline_code() -> None:
    for file in PAGE.iterdir():
        if file.suffix in {".html", ".css", ".js"}:
            text = file.read_text("utf-8")
            assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/)[\w-]+\.\w+", text), file.name
    html = (PAGE / "index.html").read_text("utf-8")
    assert not re.findall(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", html)
