"""The timeline of the page: as true to a long recording on a phone as to a short one on a desk."""

import itertools
import random
from typing import Any

import pytest
from browsing import PAGE, Visitor, seconds, table, until
from served import Served

pytestmark = pytest.mark.xdist_group("page")

LONG = 30 * 60.0  # s
SEGMENTS = 372


@pytest.fixture(scope="module")
def answer(service: Served) -> dict[str, Any]:
    """An answer of the service with the segments of half an hour of talk."""
    found = service.analyze(PAGE / "example.flac", name="long.flac")
    emotions = [segment["emotion"] for segment in found["segments"]]
    lengths = random.Random(0)
    starts = [LONG / SEGMENTS * i for i in range(SEGMENTS)]
    found["segments"] = [
        found["segments"][0] | {"start": start, "end": start + lengths.uniform(0.5, 4.5), "emotion": emotions[i % 4]}
        for i, start in enumerate(starts)
    ]
    found["duration"] = LONG
    return found


def shown(visit: Visitor, service: Served, answer: dict[str, Any], width: int, **options: Any) -> Any:
    page = visit(service, width, **options)
    page.route("**/v1/analyze*", lambda route: route.fulfill(json=answer))
    page.get_by_role("button", name="Example").click()
    table(page)
    return page


PLACES = """() => {
    const field = document.querySelector("#timeline .field").getBoundingClientRect();
    return [field.width, [...document.querySelectorAll("#timeline .segments button")].map((button) => {
        const { left, right } = button.getBoundingClientRect();
        return [left - field.left, right - field.left];
    })];
}"""


@pytest.mark.parametrize("width", [390, 1280])
def test_segments_are_as_wide_as_they_are(service: Served, visit: Visitor, answer: dict[str, Any], width: int) -> None:
    page = shown(visit, service, answer, width)
    field, places = page.evaluate(PLACES)
    assert len(places) == SEGMENTS
    for (left, right), segment in zip(places, answer["segments"], strict=True):
        assert left == pytest.approx(field * segment["start"] / LONG, abs=0.2)
        assert right == pytest.approx(field * segment["end"] / LONG, abs=0.2)
    assert all(after[0] > before[1] for before, after in itertools.pairwise(places))  # every pause is seen
    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    visit.picture(page, f"long-{width}")


REAL = 5  # taps, in the first 16 s: the end of the sound would move the view under a later one
TAPPED = """([places, top]) => {
    const [scroller, now] = ["#timeline .scroller", "#now-place"].map((name) => document.querySelector(name));
    return places.map((x) => {
        scroller.scrollLeft = x - 150;
        const clientX = scroller.getBoundingClientRect().left + x - scroller.scrollLeft;
        const click = new PointerEvent("click", { clientX, clientY: top, detail: 1, bubbles: true });
        document.elementFromPoint(clientX, top).dispatchEvent(click);
        return now.innerText;
    });
}"""


def test_every_tap_on_a_phone_shows_its_segment(service: Served, visit: Visitor, answer: dict[str, Any]) -> None:
    """In the middle, at both ends, and a few pixels beside a segment: the nearest one is meant.

    The first taps, while there is sound to play, are real; the others are clicks on what lies at the place, as real
    taps make them.
    """
    page = shown(visit, service, answer, 390, has_touch=True)
    scroller = page.locator("#timeline .scroller")
    scroller.scroll_into_view_if_needed()
    box = scroller.bounding_box()
    _, places = page.evaluate(PLACES)
    taps = []
    for i, (left, right) in enumerate(places):
        gap = min(8.0, ((places[i + 1][0] if i + 1 < SEGMENTS else right + 20) - right) / 2 - 1)
        taps += [(i + 1, x) for x in (right + gap, left + 1.5, (left + right) / 2)[0 if i % 12 == 0 else 2 :]]
    real = []
    for _, x in taps[:REAL]:
        scroller.evaluate("(scroller, left) => (scroller.scrollLeft = left)", max(0, x - 150))
        page.touchscreen.tap(box["x"] + x - scroller.evaluate("scroller => scroller.scrollLeft"), box["y"] + 60)
        real.append(page.locator("#now-place").inner_text())
    found = real + page.evaluate(TAPPED, [[x for _, x in taps[REAL:]], box["y"] + 60])
    wrong = [(tap, place) for tap, place in zip(taps, found, strict=True) if not place.startswith(f"{tap[0]} of ")]
    assert not wrong


def test_the_overview_leads_to_any_time(service: Served, visit: Visitor, answer: dict[str, Any]) -> None:
    page = shown(visit, service, answer, 390)
    overview = page.locator("#timeline .overview")
    overview.scroll_into_view_if_needed()
    box = overview.bounding_box()
    for share in (0.1, 0.5, 0.95):
        page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        assert seconds(page) == pytest.approx(share * LONG, abs=LONG / box["width"])
        head = page.locator("#timeline .head").bounding_box()
        until(lambda head=head: 0 <= head["x"] <= 390)


def test_no_segment_is_told_by_its_color_alone(service: Served, visit: Visitor, answer: dict[str, Any]) -> None:
    page = shown(visit, service, answer, 390)
    texts = page.locator("#timeline .segments button").evaluate_all("all => all.map((button) => button.innerText)")
    emotions = [segment["emotion"] for segment in answer["segments"]]
    for text, emotion in zip(texts, emotions, strict=True):  # a word, or initials where there is no room for it
        doubt = "uncertain" in emotion["notes"]
        assert text.startswith("unclear: ") or text == "?" if doubt else emotion["primary"].startswith(text)
        assert text
    assert {len(text) for text in texts} >= {1}
    entries = page.locator(".legend li").all_inner_texts()
    assert len(entries) == len(set(entries)) > 1


def test_a_short_recording_needs_no_scrolling(service: Served, visit: Visitor) -> None:
    page = visit(service)
    page.get_by_role("button", name="Example").click()
    table(page)
    assert not page.locator("#timeline .overview").is_visible()
    field, width = (page.locator(f"#timeline .{name}").bounding_box()["width"] for name in ("field", "scroller"))
    assert field == width
