"""The page of `e2v serve` with a microphone: recordings and live sessions, and whatever may come between."""

import itertools
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browsing import MEDIA, PAGE, Visitor, drop, executable, seconds, table, until
from served import Served

pytestmark = pytest.mark.xdist_group("page")


# Lists every microphone that the page was given. `permission` is a promise for which each of them waits.
MICROPHONES = """
    window.tracks = [];
    const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (constraints) => {
        const stream = await ask(constraints);
        tracks.push(...stream.getTracks());
        await window.permission;
        return stream;
    };
"""
HOLD = "() => { window.permission = new Promise((grant) => (window.grant = grant)); }"


def microphones(page: Any) -> list[int]:
    """Returns how many microphones the page was given, and how many of them are open."""
    return page.evaluate("() => [tracks.length, tracks.filter((track) => track.readyState === 'live').length]")


def says(page: Any, words: str, role: str = "status") -> None:
    page.get_by_role(role).filter(has_text=words).wait_for()


def is_idle(page: Any) -> bool:
    """Returns whether everything can be started, nothing is waited for, and no microphone is open."""
    buttons = [page.locator(f"#{name}") for name in ("choose", "record", "live", "example")]
    return (
        [button.inner_text() for button in buttons] == ["Choose a file", "Record", "Listen live", "Example"]
        and {button.get_attribute("aria-disabled") for button in buttons} == {"false"}
        and not page.locator("#meter").is_visible()
        and not page.locator("#busy").is_visible()
        and microphones(page)[1] == 0
    )


def listen(page: Any) -> None:
    """Listens until a first judgement is shown."""
    page.get_by_role("button", name="Listen live").click()
    says(page, "Listening")
    page.locator("#table tbody tr").first.wait_for(timeout=30_000)


@pytest.mark.parametrize(("name", "stop"), [("Listen live", "Stop"), ("Record", "Stop and analyze")])
def test_a_double_click_starts_once_and_can_be_stopped(service: Served, visit: Visitor, name: str, stop: str) -> None:
    page = visit(service, script=MICROPHONES)
    page.get_by_role("button", name=name, exact=True).dblclick()
    until(lambda: page.locator("#clock").inner_text() == "0:01")
    assert microphones(page) == [1, 1]
    page.get_by_role("button", name=stop, exact=True).click()
    until(lambda: is_idle(page))


@pytest.mark.parametrize("name", ["live", "record"])
def test_clicks_faster_than_a_microphone_leave_none_open(service: Served, visit: Visitor, name: str) -> None:
    page = visit(service, script=MICROPHONES)
    for clicks in range(2, 7):
        page.evaluate(HOLD)
        page.evaluate(f"() => {{ for (let i = 0; i < {clicks}; i++) document.querySelector('#{name}').click(); }}")
        before = microphones(page)[0]
        page.evaluate("() => grant()")
        if clicks % 2:  # the last click started
            until(lambda: page.locator("#clock").inner_text() == "0:01")
            assert microphones(page)[1] == 1
            page.locator(f"#{name}").click()
        until(lambda: is_idle(page))
        assert microphones(page)[0] >= before
    page.locator(f"#{name}").click()
    until(lambda: page.locator("#clock").inner_text() == "0:01")
    assert microphones(page)[1] == 1


@pytest.mark.parametrize("name", ["Listen live", "Record"])
def test_a_permission_after_the_cancel_opens_nothing(service: Served, visit: Visitor, name: str) -> None:
    page = visit(service, script=MICROPHONES)
    page.evaluate(HOLD)
    page.get_by_role("button", name=name, exact=True).click()
    page.get_by_role("button", name="Cancel").wait_for()
    until(lambda: microphones(page)[0] == 1)
    page.get_by_role("button", name="Cancel").click()
    says(page, "Canceled")
    page.evaluate("() => grant()")
    until(lambda: is_idle(page))


def test_live_works_any_number_of_times(service: Served, visit: Visitor) -> None:
    page = visit(service, script=MICROPHONES)
    for times in range(1, 4):
        listen(page)
        page.get_by_role("button", name="Stop").click()
        says(page, "Stopped")
        assert table(page)
        assert is_idle(page)
        assert microphones(page) == [times, 0]


def test_nothing_starts_during_an_analysis_and_its_answer_is_shown(service: Served, visit: Visitor) -> None:
    page = visit(service, script=MICROPHONES)
    held: list[Any] = []
    page.route("**/v1/analyze*", lambda route: held.append(route))  # noqa: PLW0108 (not a builtin)

    def asked(times: int) -> bool:
        page.wait_for_timeout(20)  # in which routes are called
        return len(held) == times

    drop(page, ("first.flac", (PAGE / "example.flac").read_bytes()))
    until(lambda: asked(1))
    for name in ("Listen live", "Record", "Choose a file", "Example"):
        page.get_by_role("button", name=name, exact=True).click(force=True)
        says(page, "first.flac is still being analyzed: wait for it, or cancel it")
    drop(page, ("second.flac", (PAGE / "example.flac").read_bytes()))
    says(page, "first.flac is still being analyzed")
    assert microphones(page) == [0, 0]
    held[0].continue_()
    page.get_by_role("heading", name="first.flac").wait_for()
    assert len(table(page)) == 4
    assert is_idle(page)
    # A canceled analysis shows nothing, and live can follow at once.
    drop(page, ("third.flac", (PAGE / "example.flac").read_bytes()))
    until(lambda: asked(2))
    page.get_by_role("button", name="Cancel").click()
    listen(page)
    assert page.locator("#clip").inner_text() == "Live microphone"
    drop(page, ("fourth.flac", (PAGE / "example.flac").read_bytes()))
    says(page, "Stop listening first")
    assert asked(2)
    page.get_by_role("button", name="Stop").click()
    until(lambda: is_idle(page))


@pytest.mark.parametrize("judged", [True, False])
def test_a_service_lost_while_live_is_told_as_it_was(visit: Visitor, judged: bool) -> None:
    visit.expected = ["net::ERR_CONNECTION_REFUSED", "WebSocket connection to"]
    with Served() as mortal:
        page = visit(mortal, script=MICROPHONES)
        if judged:
            listen(page)
        else:
            page.get_by_role("button", name="Listen live").click()
            says(page, "Listening")
        before = page.locator("#table tbody tr").count()
        mortal.process.kill()
        mortal.process.wait()
        says(page, "The connection to the service was lost", "alert")
        until(lambda: is_idle(page))
        alert, summary = page.locator("#error").inner_text(), page.locator("#now").inner_text()
        if judged:
            assert "What was judged until then is shown" in alert
            assert page.locator("#table tbody tr").count() >= before  # also speech that had not ended
            assert "no speech found" not in page.locator("#results").inner_text()
        else:
            assert "No speech had been judged until then" in alert
            assert "nothing was judged" in summary
            assert "no speech found" not in page.locator("#results").inner_text()
        visit.picture(page, f"lost-{judged}")
        drop(page, ("clip.flac", (PAGE / "example.flac").read_bytes()))
        says(page, "does not answer", "alert")
        page.get_by_role("button", name="Listen live").click()
        says(page, "does not answer", "alert")
        until(lambda: is_idle(page))


@pytest.mark.parametrize("name", ["Listen live", "Record"])
def test_a_refused_microphone_is_reported(service: Served, visit: Visitor, browser: Any, name: str) -> None:
    refusing = browser.browser_type.launch(executable_path=executable(), args=[f"{MEDIA[0]}=deny", MEDIA[1]])
    visit.browser = refusing
    page = visit(service, script=MICROPHONES)
    for _ in range(2):
        page.get_by_role("button", name=name, exact=True).click()
        says(page, "This page may not use the microphone: allow it in the address bar", "alert")
        assert is_idle(page)
    drop(page, ("clip.flac", (PAGE / "example.flac").read_bytes()))
    assert len(table(page)) == 4
    refusing.close()


UNPLUG = "() => { tracks[0].stop(); tracks[0].dispatchEvent(new Event('ended')); }"  # as the browser does


def test_an_unplugged_microphone_keeps_what_was_heard(service: Served, visit: Visitor) -> None:
    page = visit(service, script=MICROPHONES)
    listen(page)
    page.evaluate(UNPLUG)
    says(page, "The microphone was disconnected. What was heard until then is shown")
    assert table(page)
    assert is_idle(page)
    page.reload()
    page.get_by_role("button", name="Record", exact=True).click()
    until(lambda: page.locator("#clock").inner_text() == "0:04")
    page.evaluate(UNPLUG)
    page.get_by_role("heading", name="recording.wav").wait_for()
    says(page, "The microphone was disconnected: this is what was recorded until then")
    assert is_idle(page)


def test_a_muted_microphone_is_told(service: Served, visit: Visitor) -> None:
    page = visit(service, script=MICROPHONES)
    for name in ("Listen live", "Record"):
        page.get_by_role("button", name=name, exact=True).click()
        until(lambda: page.locator("#clock").inner_text() == "0:01")
        assert not page.get_by_text("The microphone is muted").is_visible()
        page.evaluate("() => Object.defineProperty(tracks.at(-1), 'muted', { value: true })")
        page.get_by_text("The microphone is muted").wait_for()
        page.locator("#live" if name == "Listen live" else "#record").click()
        until(lambda: is_idle(page))


GREETING = '{"type": "ready", "request_id": "0", "emotion_enabled": true, "history": false}'


def test_what_the_service_notes_about_the_sound_is_shown(service: Served, visit: Visitor) -> None:
    page = visit(service, script=MICROPHONES)
    noted = json.dumps({"type": "note", "kind": "silence", "text": "no sound"})

    def greet(socket: Any) -> None:
        socket.send(GREETING)
        socket.on_message(lambda message: socket.send(noted) if isinstance(message, bytes) else None)

    page.route_web_socket("**/v1/stream", greet)
    page.get_by_role("button", name="Listen live").click()
    page.locator("#notes").get_by_text("no sound").first.wait_for()
    assert page.get_by_text("no speech yet").is_visible()


def test_waiting_for_the_last_words_can_be_given_up(service: Served, visit: Visitor) -> None:
    page = visit(service, script=MICROPHONES)
    page.route_web_socket("**/v1/stream", lambda socket: socket.send(GREETING))  # and never another word
    page.get_by_role("button", name="Listen live").click()
    until(lambda: page.locator("#clock").inner_text() == "0:01")
    page.get_by_role("button", name="Stop").click()
    says(page, "Judging the last words")
    assert microphones(page) == [1, 0]
    page.get_by_role("button", name="Finishing …").click(force=True)
    says(page, "The last words are still being judged")
    page.get_by_role("button", name="Cancel").click()
    says(page, "Stopped before the last words were judged: 0 segments")
    assert is_idle(page)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (['{"type": "error", "error": {"kind": "overloaded", "message": "x"}}'], "The service is busy"),
        ([GREETING, '{"type": "error", "error": {"kind": "audio", "message": "x"}}'], "the sound of this microphone"),
        ([GREETING, '{"type": "error", "error": {"kind": "unavailable", "message": "x"}}'], "loading its models"),
        ([GREETING, '{"type": "done", "duration": 0.0}'], "The service is shutting down. No speech had been judged"),
    ],
)
def test_an_end_by_the_service_closes_the_microphone(
    service: Served, visit: Visitor, answers: list[str], words: str
) -> None:
    page = visit(service, script=MICROPHONES)

    def serve(socket: Any) -> None:
        for answer in answers:
            socket.send(answer)

    page.route_web_socket("**/v1/stream", serve)
    for _ in range(2):
        page.get_by_role("button", name="Listen live").click()
        says(page, words, "alert")
        assert is_idle(page)


def test_what_this_browser_records_can_be_analyzed(service: Served, visit: Visitor) -> None:
    """A voice message, as other pages make them: WebM with Opus."""
    page = visit(service)
    page.evaluate("""async () => {
        const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
        const recorder = new MediaRecorder(stream);
        const parts = [];
        recorder.ondataavailable = ({ data }) => parts.push(data);
        const stopped = new Promise((resolve) => (recorder.onstop = resolve));
        recorder.start();
        setTimeout(() => recorder.stop(), 5000);
        await stopped;
        const transfer = new DataTransfer();
        transfer.items.add(new File(parts, "message.webm", { type: recorder.mimeType }));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }""")
    page.get_by_role("heading", name="message.webm").wait_for()
    assert any(row["Confidence"] for row in table(page))


# What browsers do to a tab in the background: nothing is drawn, and timers are late.
BACKGROUND = """() => {
    Object.defineProperty(document, "visibilityState", { get: () => "hidden" });
    Object.defineProperty(document, "hidden", { get: () => true });
    window.requestAnimationFrame = () => 0;
    const later = window.setTimeout;
    window.setTimeout = (task, delay = 0) => later(task, Math.max(delay, 1000));
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_tab_in_the_background_goes_on_listening_and_says_so(service: Served, visit: Visitor) -> None:
    events: list[dict[str, Any]] = []
    page = visit(service, script=MICROPHONES)
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: events.append(json.loads(frame))))
    assert page.title() == "How a voice sounds"
    listen(page)
    assert page.title() == "Listening – How a voice sounds"
    page.evaluate(BACKGROUND)
    page.wait_for_timeout(3000)
    page.get_by_role("button", name="Stop").click()
    says(page, "Stopped")
    page.get_by_text("JSON", exact=True).click()
    until(lambda: page.locator("#json").inner_text() != "")
    shown = json.loads(page.locator("#json").inner_text())
    assert shown["duration"] == pytest.approx(events[-1]["duration"], abs=0.001)
    assert page.title() == "How a voice sounds"


def test_a_recording_is_not_left_by_mistake(service: Served, visit: Visitor) -> None:
    page = visit(service, script=MICROPHONES)
    page.get_by_role("button", name="Record", exact=True).click()
    until(lambda: page.locator("#clock").inner_text() == "0:01")
    questions: list[str] = []

    def stay(dialog: Any) -> None:
        questions.append(dialog.type)
        dialog.dismiss()

    page.on("dialog", stay)
    with suppress(Exception):  # it is not left
        page.goto(f"{service.url}/docs", timeout=3000)
    assert questions == ["beforeunload"]
    assert microphones(page) == [1, 1]


def test_a_token_that_is_missing_is_asked_for_when_listening_begins(visit: Visitor) -> None:
    visit.expected = ["WebSocket connection to", "the server responded with a status of 401"]
    with Served("--token", "open sesame") as locked:
        page = visit(locked, script=MICROPHONES)
        page.get_by_label("Token of this service").fill("open sesame")
        page.keyboard.press("Enter")
        page.get_by_role("switch").and_(page.locator(":enabled")).wait_for()
        page.evaluate("() => sessionStorage.setItem('token', 'of yesterday')")
        page.get_by_role("button", name="Listen live").click()
        page.get_by_label("Token of this service").wait_for()
        until(lambda: is_idle(page))
        page.get_by_label("Token of this service").fill("open sesame")
        page.keyboard.press("Enter")
        says(page, "Listening")


def test_a_segment_that_somebody_looks_at_stays_while_the_voice_goes_on(service: Served, visit: Visitor) -> None:
    page = visit(service)
    listen(page)
    until(lambda: page.locator(".segments button").count() >= 3, 60)
    page.locator(".segments button").first.focus()
    page.keyboard.press("Home")
    before = page.locator(".segments button").count()
    until(lambda: page.locator(".segments button").count() > before, 60)
    assert page.locator("#now-place").inner_text().startswith("1 of")
    assert page.evaluate("() => document.activeElement.ariaLabel").startswith("Segment 1,")


@pytest.mark.parametrize("name", ["Listen live", "Record"])
def test_a_page_that_is_left_closes_the_microphone(service: Served, visit: Visitor, name: str) -> None:
    page = visit(service, script=MICROPHONES)
    page.get_by_role("button", name=name, exact=True).click()
    until(lambda: page.locator("#clock").inner_text() == "0:01")
    # The browser may keep a page that was left, to show it again: its microphone must be closed.
    page.evaluate("() => dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    until(lambda: is_idle(page))


def test_a_service_with_a_history_says_so_before_it_listens(visit: Visitor, tmp_path: Path) -> None:
    with Served("--history", str(tmp_path / "history.sqlite")) as storing:
        page = visit(storing, script=MICROPHONES)
        notice = page.get_by_text("it stores each judgement with its time, also those of live speech")
        notice.wait_for()
        listen(page)
        assert notice.is_visible()
        visit.picture(page, "history")
        page.get_by_role("button", name="Stop").click()
        until(lambda: is_idle(page))
        assert storing.client.get("/v1/history").json()["rows"]


def test_a_service_without_a_history_claims_none(service: Served, visit: Visitor) -> None:
    page = visit(service)
    page.get_by_role("switch").and_(page.locator(":enabled")).wait_for()
    assert not page.get_by_text("it stores each judgement").is_visible()


def test_a_recording_that_cannot_be_analyzed_is_not_lost(service: Served, visit: Visitor) -> None:
    visit.expected = ["Failed to load resource: the server responded with a status of 503"]
    page = visit(service, script=MICROPHONES)
    busy = {"error": {"kind": "overloaded", "message": "too many requests at a time: try again later"}}
    page.route("**/v1/analyze*", lambda route: route.fulfill(status=503, json=busy))
    page.get_by_role("button", name="Record", exact=True).click()
    until(lambda: page.locator("#clock").inner_text() == "0:02")
    page.get_by_role("button", name="Stop and analyze").click()
    says(page, "The service is busy", "alert")
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save the recording").click()
    samples, rate = soundfile.read(saved.value.path())
    assert 2 <= len(samples) / rate < 4
    assert np.abs(samples).max() > 0.05
    assert is_idle(page)


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
    for row, segment in zip((row for row in found if row["Confidence"]), judged, strict=True):
        doubtful = "uncertain" in segment["emotion"]["notes"]
        assert row["Emotion"].startswith("unclear: " if doubtful else segment["emotion"]["primary"])
    # Every recorded sample was sent and received.
    page.get_by_text("JSON", exact=True).click()
    until(lambda: page.locator("#json").inner_text() != "")
    assert json.loads(page.locator("#json").inner_text())["duration"] == pytest.approx(
        events[-1]["duration"], abs=0.001
    )


# Notes each headline that a reader has seen, and each state of the timeline: [start, end, look] of the segments.
WATCH = """() => {
    window.headlines = [];
    window.timelines = [];
    const note = () => {
        const words = document.querySelector("#now .headline")?.textContent;
        if (words && words !== headlines.at(-1)) headlines.push(words);
        timelines.push([...document.querySelectorAll(".segments button")].map((button) =>
            [...["--start", "--end"].map((name) => Number(button.style.getPropertyValue(name))), button.className]));
    };
    new MutationObserver(note).observe(document.querySelector("#results"), { childList: true, subtree: true });
}"""


def test_the_live_headline_is_as_steady_as_the_labels_of_the_windows(service: Served, visit: Visitor) -> None:
    """It follows the windows of ongoing speech, whose labels the service steadies, and doubt about them."""
    events: list[dict[str, Any]] = []
    page = visit(service)
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: events.append(json.loads(frame))))
    page.evaluate(WATCH)
    page.get_by_role("button", name="Listen live").click()
    says(page, "Listening")

    def count(kind: str) -> int:
        page.wait_for_timeout(20)
        return sum(event["type"] == kind for event in events)

    until(lambda: count("partial") >= 12 and count("final") >= 3, 60)
    seen = page.evaluate("() => headlines")[1:]  # without "no speech yet"
    windows = [event["segment"]["emotion"] for event in events if event["type"] == "partial"]
    shown = ["unclear" if "uncertain" in window["notes"] else window["primary"] for window in windows]
    assert [word for word, _ in itertools.groupby(shown)][: len(seen)] == seen
    changed = [a != b for a, b in itertools.pairwise(window["primary"] for window in windows)]
    print(f"{len(seen) - 1} changes of the headline, {sum(changed)} of the label, in {len(windows)} windows")
    page.get_by_role("button", name="Stop").click()
    says(page, "Stopped")


def test_live_speech_that_was_judged_stays_judged(service: Served, visit: Visitor) -> None:
    page = visit(service)
    page.evaluate(WATCH)
    page.get_by_role("button", name="Listen live").click()
    until(lambda: page.locator(".segments button:not(.partial)").count() >= 3, 60)
    judged: set[int] = set()  # tenths of a second
    for state in page.evaluate("() => timelines"):
        covered = {
            tenth
            for start, end, look in state
            if "unjudged" not in look
            for tenth in range(round(10 * start) + 1, round(10 * end) - 1)
        }
        assert not judged - covered
        judged = covered
    assert len(judged) > 30


def test_speech_before_a_short_pause_stays_judged_until_its_segment_ends(service: Served, visit: Visitor) -> None:
    """Windows of one segment may have a pause between them; the segment then takes the place of all of them."""
    angry = service.analyze(PAGE / "example.flac")["segments"][0]["emotion"]
    windows = [(0.0, 1.0), (0.5, 1.5), (2.5, 3.5), (3.0, 4.0)]
    sent = [("partial", start, end) for start, end in windows] + [("final", 0.0, 3.3), ("final", 3.3, 4.05)]
    wanted = [[(0.0, 1.0)], [(0.0, 1.5)], [(0.0, 1.5), (2.5, 3.5)], [(0.0, 1.5), (2.5, 4.0)],
              [(0.0, 3.3), (3.3, 4.0)], [(0.0, 3.3), (3.3, 4.05)]]  # fmt: skip
    page = visit(service)
    sockets: list[Any] = []

    def serve(socket: Any) -> None:
        socket.send(GREETING)
        sockets.append(socket)

    page.route_web_socket("**/v1/stream", serve)
    page.get_by_role("button", name="Listen live").click()
    says(page, "Listening")
    for (kind, start, end), segments in zip(sent, wanted, strict=True):
        segment = {"start": start, "end": end, "quality": "normal", "speaker": None, "text": None, "channel": None}
        final = {"final": kind == "final", "emotion": angry}
        sockets[0].send(json.dumps({"type": kind, "segment": segment | final}))
        places = [(f"{first:.2f}", f"{last:.2f}") for first, last in segments]
        until(lambda places=places: [(row["From"], row["To"]) for row in table(page)] == places)


def test_a_recording_from_the_microphone(service: Served, visit: Visitor) -> None:
    page = visit(service)
    page.get_by_role("button", name="Record", exact=True).click()
    until(lambda: page.locator("#clock").inner_text() == "0:05")
    page.get_by_role("button", name="Stop and analyze").click()
    page.get_by_role("heading", name="recording.wav").wait_for()
    assert any(row["Confidence"] for row in table(page))
    assert 5 <= float(page.get_by_role("slider", name="Position in the recording").get_attribute("max")) < 7
    page.get_by_role("button", name="Play", exact=True).click()  # the recording can be played
    until(lambda: seconds(page) > 0.5)
