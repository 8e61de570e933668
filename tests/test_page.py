"""The page of `e2v serve` in a real browser: headless Chromium against the service in its own process."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile
import toys
from browsing import CLIPS, PAGE, Visitor, drop, encoded, seconds, table, until
from served import Served

import e2v_port
from e2v_port.analysis.schema import definition
from e2v_port.emotions import taxonomy
from e2v_port.speech.transcripts import FORMATS

pytestmark = pytest.mark.xdist_group("page")


def rows(analysis: e2v_port.Analysis) -> list[dict[str, str]]:
    """Returns the rows that the table must have for an analysis."""
    found = []
    for i, segment in enumerate(analysis.segments, 1):
        judgement = segment.judgement
        assert judgement
        assert judgement.dimensions
        found.append({
            "No.": str(i), "From": f"{segment.start:.2f}", "To": f"{segment.end:.2f}",
            "Emotion": judgement.words,
            "Confidence": f"{judgement.confidence:.0%}",
            **refinements(judgement),
            "Quality": {"normal": "", "low_confidence": "short"}[segment.quality],
            **{name.capitalize(): f"{value:.2f}" for name, value in judgement.dimensions.to_dict().items()},
        })  # fmt: skip
    empty = {name for name in ("Shade", "Compound") if not any(row[name] for row in found)}
    return [{name: text for name, text in row.items() if name not in empty} for row in found]


def refinements(judgement: e2v_port.Judgement) -> dict[str, str]:
    """Returns the cells of the shade and the compound."""
    shade = judgement.shade
    if judgement.doubtful:
        return {"Shade": "", "Compound": ""}
    differs = shade is not None and shade.name != judgement.primary
    return {
        "Shade": f"{shade.name} {shade.probability:.0%}" if differs else "",
        "Compound": judgement.compound or "",
    }


def test_the_example_consists_of_the_clips_in_the_repository() -> None:
    clips = [soundfile.read(CLIPS / f"{name}.flac", dtype="int16")[0] for name in ("bright", "quick", "calm", "low")]
    pause = np.zeros(2 * 16_000, np.int16)
    wanted = np.concatenate([part for clip in clips for part in (clip, pause)][:-1])
    found, rate = soundfile.read(PAGE / "example.flac", dtype="int16")
    assert rate == 16_000
    assert np.array_equal(found, wanted)


def test_the_first_analysis_takes_one_click(service: Served, visit: Visitor) -> None:
    page = visit(service)
    page.get_by_role("button", name="Example").click()
    page.get_by_role("heading", name="example.flac").wait_for()
    assert table(page) == rows(e2v_port.analyze(PAGE / "example.flac"))


@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3"])
def test_a_dropped_file_shows_the_analysis_of_the_library(
    service: Served, visit: Visitor, speech_folder: Path, form: str
) -> None:
    samples, _ = soundfile.read(speech_folder / "emodb_timeline.flac", stop=32 * 16_000)
    clip = encoded(samples, form)
    page = visit(service)
    drop(page, (f"speech.{form}", clip))
    assert table(page) == rows(e2v_port.analyze(io.BytesIO(clip)))
    assert page.get_by_role("heading", name=f"speech.{form}").is_visible()
    # The browser decoded it as well: the waveform is more than a flat line.
    until(lambda: painted(page) > 20)


def test_a_format_that_the_browser_cannot_play_is_shown_anyway(service: Served, visit: Visitor) -> None:
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
    """Returns the number of columns in which the waveform is higher than a flat line."""
    return page.evaluate("""() => {
        const canvas = document.querySelector("#timeline .field canvas");
        const row = canvas.getContext("2d").getImageData(0, Math.round(canvas.height * 0.4), canvas.width, 1).data;
        return row.filter((value, i) => i % 4 === 3 && value > 0).length;
    }""")


def test_playback_moves_the_head_and_selects_segments(service: Served, visit: Visitor) -> None:
    page = visit(service)
    page.get_by_role("button", name="Example").click()
    analysis = e2v_port.analyze(PAGE / "example.flac")
    words = [segment.judgement.words for segment in analysis.segments]
    page.get_by_role("button", name="Segment 2,").click()
    page.get_by_role("button", name="Pause").wait_for()
    until(lambda: seconds(page) > analysis.segments[1].start + 0.3)
    picture = page.get_by_role("img", name="Emotion wheel")
    assert words[1] in picture.get_attribute("aria-label")
    page.get_by_role("button", name="Play").wait_for()  # stops at the end of the segment
    assert seconds(page) == pytest.approx(analysis.segments[1].end, abs=0.15)

    page.get_by_role("button", name="Play").click()  # continues through the pause into the next segment
    until(lambda: page.locator("#now-place").inner_text().startswith("3 of 4"))
    assert seconds(page) == pytest.approx(analysis.segments[2].start, abs=0.5)
    assert words[2] in picture.get_attribute("aria-label")
    assert page.locator("#now .headline").inner_text() == words[2]
    judgement = analysis.segments[2].judgement
    marked = [] if judgement.doubtful else [judgement.shade.name]
    assert page.locator("#emotions .marked .name").all_inner_texts() == marked
    head = page.locator("#timeline .head").evaluate("head => parseFloat(head.style.left)")
    assert head == pytest.approx(100 * seconds(page) / analysis.duration, abs=2)


def test_clicking_between_segments_seeks(service: Served, visit: Visitor) -> None:
    page = visit(service)
    page.get_by_role("button", name="Example").click()
    table(page)
    box = page.locator("#timeline .field").bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
    assert seconds(page) == pytest.approx(0.75 * e2v_port.analyze(PAGE / "example.flac").duration, abs=0.1)


def test_a_click_beside_a_segment_means_it(service: Served, visit: Visitor) -> None:
    page = visit(service)
    page.get_by_role("button", name="Example").click()
    table(page)
    box = page.get_by_role("button", name="Segment 2,").bounding_box()
    page.mouse.click(box["x"] + box["width"] + 40, box["y"] + 50)  # a pause
    assert page.locator("#now-place").inner_text().startswith("1 of 4")
    page.mouse.click(box["x"] + box["width"] + 6, box["y"] + 50)
    assert page.locator("#now-place").inner_text().startswith("2 of 4")


def test_measured_intensity_selects_the_ring(visit: Visitor, tmp_path: Path) -> None:
    model = toys.convert(toys.make_dimensional(tmp_path / "checkpoint"), tmp_path / "model")
    wanted = e2v_port.analyze(PAGE / "example.flac", model="bundled-tiny", dimensional=model, runtime="cpu")
    with Served("--model", "bundled-tiny", "--dimensional", str(model)) as measured:
        page = visit(measured)
        page.get_by_role("button", name="Example").click()
        assert table(page) == rows(wanted)
        judgement = wanted.segments[0].judgement
        ring = {"high": "intense", "moderate": "moderate", "mild": "mild", "low": "mild"}[judgement.intensity]
        label = page.get_by_role("img", name="Emotion wheel").get_attribute("aria-label")
        assert label.startswith(f"Emotion wheel: {judgement.words}")
        assert label.endswith(f", {ring}") or "hub" in label
        assert page.locator("#now .headline").inner_text() == judgement.words
        assert page.locator("#now dd.compound").all_inner_texts() == [
            compound for compound in [refinements(judgement)["Compound"]] if compound
        ]
        assert "measured" in page.locator("#now").inner_text()
        assert not page.locator("body").get_by_text("derived").locator("visible=true").count()
        visit.picture(page, "measured")


def test_only_the_label_decides_the_sector_of_the_wheel(service: Served, visit: Visitor) -> None:
    compounds = json.loads((Path(e2v_port.__file__).parents[1] / "taxonomy" / "compounds.json").read_text("utf-8"))[
        "compounds"
    ]
    judgements = [
        {"primary": row["primary"], "compound": row["label"], "intensity": row["arousal"]} for row in compounds
    ]
    plain = [{"primary": label, "compound": None, "intensity": None} for label in taxonomy.labels("emotion2vec")]
    unlabeled = [
        {
            "primary": None,
            "intensity": None,
            "distribution": {each.name: each.name == name for each in taxonomy.emotions()},
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
        [*judgements, *plain, *unlabeled],
    )
    sectors = ["joy", "trust", "fear", "surprise", "sadness", "disgust", "anger", "anticipation"]
    names = [sectors[place["sector"]] if place["sector"] >= 0 else None for place in places]

    # A label is in the sector with the same meaning in the taxonomy; neutral, other and unknown are in none.
    wanted = {taxonomy.meaning(sector, "plutchik").name: sector for sector in sectors}
    bare = slice(len(judgements), len(judgements) + len(plain))
    assert names[bare] == [wanted.get(judgement["primary"]) for judgement in plain]
    assert {place["ring"] for place in places[bare]} == {1}
    # A compound stays in the sector of its label.
    assert names[: len(judgements)] == [wanted.get(judgement["primary"]) for judgement in judgements]
    rings = {"high": 0, "moderate": 1, "low": 2}
    assert [place["ring"] for place in places[: len(judgements)]] == [rings[j["intensity"]] for j in judgements]
    assert names[-len(unlabeled) :] == [None] * len(unlabeled)


def test_labels_of_every_model_have_their_colors(service: Served, visit: Visitor) -> None:
    sets = {name: [label for label in taxonomy.labels(name) if len(label) > 1] for name in taxonomy.label_sets()}
    labels = [*dict.fromkeys(label for names in sets.values() for label in names), "HAPPINESS", "grumpy"]
    colors = visit(service).evaluate(
        """async (labels) => {
            const { Taxonomy } = await import("/page/taxonomy.js");
            const taxonomy = new Taxonomy(await (await fetch("/v1/taxonomy")).json());
            return Object.fromEntries(labels.map((label) => [label, taxonomy.color(label)]));
        }""",
        labels,
    )
    for name, words in sets.items():
        assert {word: colors[word] for word in words} == {word: taxonomy.colour(word, name) for word in words}
    assert (colors["HAPPINESS"], colors["grumpy"]) == (taxonomy.colour("happy"), taxonomy.colour("neutral"))


EMOTIONS = [each.name for each in taxonomy.emotions()]
LABELS = taxonomy.labels("emotion2vec")
WORDS = {
    *EMOTIONS,
    *LABELS,
    *(row["label"] for row in taxonomy.table("compounds")["compounds"]),
    "hostile",
}


def emotion(primary: str | None, confidence: float | None, **fields: Any) -> dict[str, Any]:
    """Returns an `emotion` whose scores and distribution are highest for others than the headline."""
    others = [label for label in LABELS if label != primary]
    scores = {label: 0.9 * 2.0 ** -(i + 1) for i, label in enumerate(others)} | ({primary: 0.07} if primary else {})
    distribution = {name: 2.0 ** -(i + 1) for i, name in enumerate(sorted(EMOTIONS))}
    return {
        "primary": primary, "confidence": confidence, "shade": None, "intensity": "mild", "valence": "negative",
        "arousal": "low", "compound": None, "octant": "hostile", "agreement": "agree",
        "notes": ["uncertain"] if confidence is not None and confidence < 0.5 else [],
        "sources": ["categorical", "dimensional"], "e2v_scores": scores if primary else None,
        "avd_scores": {"arousal": 0.3, "dominance": 0.6, "valence": 0.4}, "avd_from": "model",
        "distribution": distribution,
    } | fields  # fmt: skip


JUDGED = [
    emotion("disgusted", 0.34, shade={"name": "frustrated", "probability": 0.71}, compound="resentment"),
    emotion(
        "fearful",
        0.21,
        shade={"name": "anxious", "probability": 0.62},
        notes=["short", "uncertain"],
        e2v_scores={"fearful": 0.4, "sad": 0.1},
    ),
    emotion("neutral", 0.93, shade={"name": "neutral", "probability": 1.0}, compound="calm", octant=None),
    emotion("happy", 0.55, compound="excitement", shade={"name": "excited", "probability": 0.38}),
    emotion("other", 0.48),
    emotion("sad", 0.62, notes=["uncertain"], e2v_scores={"sad": 0.45, "neutral": 0.4}),
    emotion(None, None),
]


@pytest.fixture
def judged(service: Served, visit: Visitor) -> Any:
    """Returns a page that shows the judgements above as the answer of the service."""
    answer = service.analyze(PAGE / "example.flac")
    answer["segments"] = [
        {"start": 2.0 * i, "end": 2.0 * i + 1.5, "quality": "normal", "speaker": None, "text": None, "emotion": each}
        for i, each in enumerate(JUDGED)
    ]
    answer["context"], answer["duration"] = "", 2.0 * len(JUDGED)
    page = visit(service)
    page.route("**/v1/analyze*", lambda route: route.fulfill(json=answer))
    page.get_by_role("button", name="Example").click()
    table(page)
    return page


def pairs(emotion: dict[str, Any]) -> set[tuple[str, float]]:
    """Returns every word that may be shown next to a number, with that number."""
    found = {(emotion["primary"], emotion["confidence"])} if emotion["primary"] else set()
    found |= {(emotion["shade"]["name"], emotion["shade"]["probability"])} if emotion["shade"] else set()
    return found | {*(emotion["e2v_scores"] or {}).items(), *emotion["distribution"].items()}


def texts(page: Any, root: str) -> list[str]:
    """Returns the text of each small element, visible or for screen readers."""
    return page.evaluate(
        """root => {
            const content = (element) => {
                const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
                const parts = [];
                while (walker.nextNode()) parts.push(walker.currentNode.data);
                return parts.join(" ");
            };
            const leaves = "li, dt, dd, td, th, p, button, span, h2, h3, caption, text, .confidence";
            return [...document.querySelectorAll(`${root}, ${root} *`)].flatMap((element) => [
                element.matches(leaves) ? content(element) : "",
                element.getAttribute("aria-label") ?? "",
                element.getAttribute("title") ?? "",
            ]).filter(Boolean);
        }""",
        root,
    )


def check_pairs(found: list[str], allowed: set[tuple[str, float]]) -> int:
    """Checks that every number is next to the word it belongs to, and returns the number of pairs."""
    count = 0
    for text in found:
        numbers = [int(number) for number in re.findall(r"(\d+)%", text)]
        words = [word for word in WORDS if re.search(rf"\b{word}\b", text)]
        if numbers and words:
            assert (len(numbers), len(words)) == (1, 1), text
            assert any(word == words[0] and abs(100 * n - numbers[0]) < 0.51 for word, n in allowed), text
            count += 1
    return count


@pytest.mark.parametrize("judgement", JUDGED)
def test_the_judgements_of_these_tests_are_valid(judgement: dict[str, Any]) -> None:
    jsonschema.validate(judgement, definition("emotion"), jsonschema.Draft202012Validator)


def test_no_number_is_next_to_another_emotion(judged: Any) -> None:
    for i, each in enumerate(JUDGED):
        button = judged.locator("#timeline button").nth(i)
        button.click()
        assert judged.locator("#now-place").inner_text().startswith(f"{i + 1} of")
        allowed = pairs(each)
        parts = {root: check_pairs(texts(judged, root), allowed) for root in ("#now", "#wheel", "#emotions", "#status")}
        check_pairs(texts(judged, f"#timeline .segments button:nth-child({i + 1})"), allowed)
        check_pairs(texts(judged, f"#table tbody tr:nth-child({i + 1})"), allowed)
        assert parts["#emotions"] == len(EMOTIONS)
        assert (parts["#wheel"] > 0) == (each["confidence"] is not None and not doubtful(each))


def doubtful(emotion: dict[str, Any]) -> bool:
    return "uncertain" in emotion["notes"]


WORDS_SHOWN = ("unclear: disgusted or angry", "unclear: perhaps fearful", "neutral", "happy", "unclear: perhaps angry",
               "unclear: sad or neutral", "hostile")  # fmt: skip


def test_one_headline_everywhere(judged: Any) -> None:
    """The model's label with its confidence; with doubt the labels it may be; without a label the octant alone."""
    found = table(judged)
    for i, (each, words) in enumerate(zip(JUDGED, WORDS_SHOWN, strict=True)):
        judged.locator("#timeline button").nth(i).click()
        sure = [] if each["confidence"] is None else [f"{each['confidence']:.0%}"]
        beside = [] if doubtful(each) else sure
        assert judged.locator("#now .headline").inner_text() == words
        line = judged.locator("#now .confidence").all_inner_texts()
        whose = f" in “{each['primary']}”" if doubtful(each) else ""
        assert line == [f"{number} confidence{whose}" for number in sure]
        hub = [judged.locator("#wheel .headword").text_content(), *judged.locator("#wheel .sure").all_text_contents()]
        assert " ".join(filter(None, hub)) == (words.replace(":", "") if doubtful(each) else " ".join([words, *sure]))
        button = judged.locator("#timeline button").nth(i)
        assert button.get_attribute("aria-label").partition(": ")[2] == ", ".join([words, *beside])
        assert button.locator(".word").text_content() == words
        assert (found[i]["Emotion"], [found[i]["Confidence"]]) == (words, sure or [""])


def test_doubt_has_a_look_of_its_own_everywhere(judged: Any) -> None:
    """Nothing that is in doubt looks like an answer, with or without colors, and hovering does not change a look."""
    pattern = "element => getComputedStyle(element).backgroundImage"
    buttons = judged.locator("#timeline button")
    assert [judged.locator("#timeline .segments .judged").count(), buttons.count()] == [3, len(JUDGED)]
    for i, each in enumerate(JUDGED):
        button = buttons.nth(i)
        looks = [button.evaluate(pattern)]
        button.hover()
        looks.append(button.evaluate(pattern))
        button.click()
        looks.append(button.evaluate(pattern))
        assert len(set(looks)) == 1
        assert ("repeating-linear-gradient" in looks[0]) == doubtful(each)
        assert (judged.locator("#now .headline.doubtful").count() == 1) == doubtful(each)
        mark = judged.locator("#now .headline").evaluate("line => getComputedStyle(line, '::before').content")
        assert ("?" in mark) == doubtful(each)
        assert (judged.locator("#wheel .doubtful").count() == 1) == doubtful(each)
        assert ("doubtful" in judged.locator("#table tbody tr").nth(i).get_attribute("class")) == doubtful(each)
    legend = judged.locator(".legend li").evaluate_all(
        "items => items.map((item) => [item.firstChild.innerText, item.lastChild.data])"
    )
    assert legend == [["?", "unclear"], ["n", "neutral"], ["h", "happy"], ["h", "hostile"]]


def test_refinements_have_their_own_names(judged: Any) -> None:
    found = table(judged)
    for i, each in enumerate(JUDGED):
        judged.locator("#timeline button").nth(i).click()
        sure = not doubtful(each)
        finer = each["shade"] if sure and each["shade"] and each["shade"]["name"] != each["primary"] else None
        shade = [f"{finer['name']} {finer['probability']:.0%}"] if finer else []
        compound = [each["compound"]] if sure and each["compound"] else []
        assert judged.locator("#now dd.shade").all_inner_texts() == shade
        assert judged.locator("#now dd.compound").all_inner_texts() == compound
        assert [found[i]["Shade"]] == (shade or [""])
        assert [found[i]["Compound"]] == (compound or [""])
        # Of the 26, only the shade is marked, not the likeliest: that may belong to another label.
        marked = [each["shade"]["name"]] if sure and each["shade"] else []
        assert judged.locator("#emotions .marked .name").all_inner_texts() == marked
        # On the wheel, only the sector of the label is highlighted, without another word.
        sectors = {"disgusted": "Disgust", "fearful": "Fear", "happy": "Joy", "sad": "Sadness"}
        label = judged.get_by_role("img", name="Emotion wheel").get_attribute("aria-label")
        assert label.endswith("in the hub") or f", {sectors[each['primary']]}, " in label
        assert ("in the hub" in label) == (each["primary"] not in sectors)
        words = judged.locator("#wheel .cell.current .word")
        assert [words.nth(j).is_visible() for j in range(words.count())] == [False] * (each["primary"] in sectors)


def test_given_segments(service: Served, visit: Visitor) -> None:
    turns = "".join(f"SPEAKER clip 1 {start} {length} <NA> <NA> {who} <NA> <NA>\n" for start, length, who in
                    [(0.0, 1.5, "ann"), (3.8, 0.5, "ann"), (4.3, 1.4, "other"), (5.9, 1.5, "ann")])  # fmt: skip
    page = visit(service)
    drop(page, ("turns.rttm", turns.encode()), ("clip.flac", (PAGE / "example.flac").read_bytes()))
    found = table(page)
    assert [row["Speaker"] for row in found] == ["ann", "ann", "other", "ann"]
    assert [row["Emotion"] for row in found][1:] == [
        "too short to judge",
        "other is not enrolled: not analyzed",
        "no speech",
    ]
    assert found[0]["Confidence"]
    assert {row["Confidence"] for row in found[1:]} == {""}
    page.get_by_role("button", name="Segment 3,").click()
    assert page.locator("#now").inner_text() == "other is not enrolled: not analyzed"
    assert page.get_by_role("img", name="Emotion wheel: nothing to show").is_visible()
    visit.picture(page, "given")


def test_a_clip_without_speech(service: Served, visit: Visitor) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 4 * 16_000)
    page = visit(service)
    drop(page, ("noise.wav", encoded(noise, "wav")))
    page.get_by_role("heading", name="noise.wav").wait_for()
    assert "no speech found" in page.locator("#summary").inner_text()
    assert page.locator("#now").inner_text() == "no speech found"


def test_the_json_can_be_copied(service: Served, visit: Visitor) -> None:
    page = visit(service, permissions=["clipboard-read", "clipboard-write"])
    with page.expect_response("**/v1/analyze*") as answered:
        page.get_by_role("button", name="Example").click()
    table(page)
    page.get_by_text("JSON", exact=True).click()
    until(lambda: page.locator("#json").inner_text() != "")
    assert json.loads(page.locator("#json").inner_text()) == answered.value.json()
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert json.loads(page.evaluate("() => navigator.clipboard.readText()")) == answered.value.json()


def test_a_file_without_audio_shows_the_error_of_the_service(service: Served, visit: Visitor) -> None:
    visit.expected = ["Failed to load resource: the server responded with a status of 4"]
    page = visit(service)
    drop(page, ("notes.wav", b"this is text"))
    alert = page.get_by_role("alert")
    alert.filter(has_text="This file could not be read as a recording").wait_for()
    answer = service.client.post("/v1/analyze?name=notes.wav", content=b"this is text")
    assert answer.is_client_error
    alert.get_by_text("Details").click()  # for those who can use it: the line of the service
    assert page.locator("#error-details").inner_text() == answer.json()["error"]["message"]
    assert not page.locator("#results").is_visible()
    visit.picture(page, "error")
    page.get_by_role("button", name="Example").click()  # the error disappears
    page.get_by_role("heading", name="example.flac").wait_for()
    assert not page.locator("#error").is_visible()


def test_errors_are_sentences_for_people(service: Served, visit: Visitor) -> None:
    """One for each kind that an upload may meet, without words that only a program understands."""
    visit.expected = ["Failed to load resource: the server responded with a status of 4"]
    page = visit(service)
    kinds = ("audio", "segments", "empty", "too_large", "too_long", "timeout", "overloaded", "unavailable", "history",
             "internal", "host", "origin", "invalid", "a kind of tomorrow")  # fmt: skip
    message = "send the header X as the multipart field `file`, curl --max-body"
    errors = iter([{"error": {"kind": kind, "message": message, "request_id": "0"}} for kind in kinds])
    page.route("**/v1/analyze*", lambda route: route.fulfill(status=422, json=next(errors)))
    sentences = []
    for kind in kinds:
        drop(page, (f"{kind}.wav", b"x"))
        page.locator("#error-text").filter(has_text=re.compile(r"\w")).wait_for()
        sentences.append(page.locator("#error-text").inner_text())
        assert not page.locator("#error-details").is_visible()
        page.get_by_text("Details").click()
        assert page.locator("#error-details").inner_text() == message
    assert not [words for words in sentences if re.search(r"curl|--|header|multipart|POST|/v1|field", words)]
    assert len(set(sentences[:-2])) == len(kinds) - 2
    assert sentences[-1] == sentences[-2] == "The service could not answer this request (422)."
    # A proxy may answer anything.
    page.unroute("**/v1/analyze*")
    answers = iter([(200, "<html>"), (413, "<html>Request Entity Too Large"), (418, "")])

    def proxy(route: Any) -> None:
        status, body = next(answers)
        route.fulfill(status=status, body=body)

    page.route("**/v1/analyze*", proxy)
    for words in ("could not answer this request (200)", "too large", "could not answer this request (418)"):
        drop(page, ("clip.wav", b"x"))
        page.locator("#error-text").filter(has_text=words).wait_for()


def test_every_dropped_file_is_used_or_named(service: Served, visit: Visitor) -> None:
    visit.expected = ["Failed to load resource: the server responded with a status of 422"]
    clip = (PAGE / "example.flac").read_bytes()
    page = visit(service)
    status, alert = page.get_by_role("status"), page.get_by_role("alert")
    drop(page, ("first.flac", clip), ("second.flac", clip))
    status.filter(has_text="One recording at a time: second.flac is left out").wait_for()
    assert page.get_by_role("heading", name="first.flac").is_visible()
    drop(page, ("a.srt", b""), ("first.flac", clip), ("b.json", b"[]"), ("c.mp3", clip))
    alert.filter(has_text="The transcript does not fit").wait_for()
    suffixes = [name for name in FORMATS if name.startswith(".")]
    for name in (*(f"talk{suffix.upper()}" for suffix in suffixes), "labels.txt", "segments"):
        drop(page, (name, b"x"))
        alert.filter(has_text=f"{name} is a transcript. Drop it together with its recording.").wait_for()
    drop(page)
    alert.filter(has_text="That is not a file").wait_for()


def test_time_to_upload_is_not_time_to_judge(service: Served, visit: Visitor) -> None:
    answer = service.analyze(PAGE / "example.flac")
    answer["timings"] |= {"receive": 12.5, "total": 13.25}
    page = visit(service)
    page.route("**/v1/analyze*", lambda route: route.fulfill(json=answer))
    page.get_by_role("button", name="Example").click()
    says = page.get_by_role("status")
    says.filter(has_text="4 of 4 segments judged in 0.75 s, after 12.50 s of upload.").wait_for()


def test_notes_on_the_sound_are_listed(service: Served, visit: Visitor) -> None:
    answer = service.analyze(PAGE / "example.flac")
    texts = ["the channels cancel each other: the louder one was judged", "<b>quiet</b>"]
    answer["notes"] = [{"kind": "channels_cancel", "text": texts[0]}, {"kind": "of tomorrow", "text": texts[1]}]
    page = visit(service)
    page.route("**/v1/analyze*", lambda route: route.fulfill(json=answer))
    page.get_by_role("button", name="Example").click()
    table(page)
    assert page.get_by_role("list", name="Notes on the sound").get_by_role("listitem").all_inner_texts() == texts
    page.unroute("**/v1/analyze*")
    page.get_by_role("button", name="Example").click()
    page.get_by_role("heading", name="example.flac").wait_for()
    assert not page.get_by_role("list", name="Notes on the sound").is_visible()


def test_print_has_every_row(service: Served, visit: Visitor) -> None:
    answer = service.analyze(PAGE / "example.flac")
    answer["segments"] = [answer["segments"][0] | {"start": 5.0 * i, "end": 5.0 * i + 3} for i in range(200)]
    answer["duration"] = 1000.0
    page = visit(service)
    page.route("**/v1/analyze*", lambda route: route.fulfill(json=answer))
    page.get_by_role("button", name="Example").click()
    table(page)
    page.emulate_media(media="print")
    shown, whole = page.locator("#table").evaluate("table => [table.clientHeight, table.scrollHeight]")
    assert shown == whole
    assert not page.locator("#source").is_visible()
    assert len(re.findall(rb"/Type /Page\b", page.pdf())) >= 5


def test_high_contrast_keeps_bars_and_doubt(judged: Any, visit: Visitor) -> None:
    """Windows replaces all backgrounds by its own: what a bar says must not vanish with them."""
    judged.emulate_media(forced_colors="active")
    judged.locator("#timeline button").nth(2).click()
    ground = judged.evaluate("() => getComputedStyle(document.body).backgroundColor")
    fill = "bar => getComputedStyle(bar).backgroundColor"
    for bar in ("#now .confidence .bar", "#now .bars .bar", "#emotions .bar"):
        assert judged.locator(bar).first.evaluate(fill) != ground
    looks = [judged.locator(f"#timeline .{look}").first.evaluate("button => getComputedStyle(button).backgroundImage")
             for look in ("judged", "doubtful")]  # fmt: skip
    assert "gradient" in looks[1]
    assert looks[0] == "none"
    visit.picture(judged, "contrast")


def test_the_token_is_requested_and_kept_for_the_tab(visit: Visitor) -> None:
    visit.expected = ["Failed to load resource: the server responded with a status of 401"]
    with Served("--token", "open sesame") as locked:
        page = visit(locked)
        field = page.get_by_label("Token of this service")
        field.wait_for()
        visit.picture(page, "token")
        field.fill("wrong")
        field.press("Enter")
        page.get_by_role("alert").filter(has_text="token").wait_for()
        field.fill("open sesame")
        page.get_by_role("button", name="Continue").click()
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
        # Nothing keeps it but this tab, and no address holds it in any form.
        assert "open sesame" not in page.evaluate(
            "() => JSON.stringify([localStorage, document.cookie, location.href])"
        )
        forms = ("sesame", base64.urlsafe_b64encode(b"open sesame").decode().rstrip("="))
        assert not [url for url in visit.requests if any(form in url for form in forms)]
        other = page.context.new_page()
        other.goto(locked.url)
        other.get_by_label("Token of this service").wait_for()


def test_the_switch(service: Served, visit: Visitor) -> None:
    page = visit(service)
    page.get_by_role("button", name="Example").click()
    judged = table(page)
    switch = page.get_by_role("switch", name="Emotion")
    try:
        assert switch.is_checked()
        switch.click()
        page.get_by_role("dialog", name="Turn emotion analysis off for everyone?").wait_for()
        assert "every program and every person" in page.get_by_role("dialog").inner_text()
        visit.picture(page, "switch")
        page.keyboard.press("Escape")
        switch.click()
        page.get_by_role("button", name="Leave it as it is").click()
        assert switch.is_checked()
        assert service.client.get("/v1/config/emotion").json()["enabled"]
        switch.click()
        page.get_by_role("button", name="Turn off for everyone").click()
        page.get_by_role("status").filter(has_text="Emotion analysis is off for everyone").wait_for()
        assert not switch.is_checked()
        assert service.client.get("/v1/config/emotion").json()["enabled"] is False
        assert "The results below are from before" in page.locator("#off").inner_text()
        assert "grayscale" in page.locator(".columns").evaluate("columns => getComputedStyle(columns).filter")
        visit.picture(page, "off")
        page.get_by_role("button", name="Example").click()
        until(lambda: {row["Emotion"] for row in table(page)} == {"not analyzed"})
        assert {row["Confidence"] for row in table(page)} == {""}
        page.reload()
        switch.and_(page.locator(":enabled")).wait_for()
        assert not switch.is_checked()
        switch.click()
        page.get_by_role("button", name="Turn on for everyone").click()
        page.get_by_role("status").filter(has_text="Emotion analysis is on").wait_for()
    finally:
        service.client.put("/v1/config/emotion", json={"enabled": True})
    page.get_by_role("button", name="Example").click()
    assert table(page) == judged


def test_the_keyboard_suffices(service: Served, visit: Visitor) -> None:
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
    # The segment with the focus is the one that the cards show.
    for key, number in (("ArrowRight", 2), ("End", 4), ("ArrowRight", 4), ("ArrowLeft", 3), ("Home", 1), ("End", 4)):
        page.keyboard.press(key)
        assert page.evaluate(focused).startswith(f"Segment {number},")
        assert page.locator("#now-place").inner_text().startswith(f"{number} of 4")
    page.keyboard.press("Enter")
    until(lambda: seconds(page) > 12.5)
    assert page.locator("#now-place").inner_text().startswith("4 of 4")
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    # The space bar plays and stops, and does not scroll.
    page.evaluate("() => document.activeElement.blur()")
    page.get_by_role("button", name="Pause").wait_for()
    for name in ("Play", "Pause"):
        scrolled = page.evaluate("() => scrollY")
        page.keyboard.press("Space")
        page.get_by_role("button", name=name, exact=True).wait_for()
        assert page.evaluate("() => scrollY") == scrolled
    page.get_by_role("button", name="Segment 4,").focus()
    stops = []
    for _ in range(4):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(focused))
    assert stops == ["play", "seek", "table", "SUMMARY"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Home")
    assert seconds(page) < 1  # and playback continues from there


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scroll(service: Served, visit: Visitor, speech_folder: Path, scheme: str) -> None:
    page = visit(service, 360, color_scheme=scheme)
    width = "() => document.documentElement.scrollWidth"
    page.get_by_role("switch").and_(page.locator(":enabled")).wait_for()
    visit.picture(page, f"phone-start-{scheme}")
    assert page.evaluate(width) == 360
    drop(
        page,
        (
            "a_recording_with_a_very_long_name_without_a_place_to_break.flac",
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
    assert page.get_by_role("button", name="Dark theme", pressed=True).is_visible()
    page.get_by_role("button", name="Dark theme").click()
    visit.picture(page, "light")
    light = page.evaluate(ground)
    assert sum(map(int, re.findall(r"\d+", light))) > sum(map(int, re.findall(r"\d+", dark))) + 300
    page.reload()
    assert page.evaluate(ground) == light  # the choice is kept
    assert visit(service, color_scheme="light").evaluate(ground) == light
    assert visit(service, color_scheme="dark").evaluate(ground) == dark


def test_reduced_motion_is_respected(service: Served, visit: Visitor) -> None:
    moving = "() => document.getAnimations().length"
    for preference, moves in (("no-preference", True), ("reduce", False)):
        page = visit(service, reduced_motion=preference)
        page.get_by_role("button", name="Example").click()
        table(page)
        assert (page.evaluate(moving) > 0) is moves


def test_names_in_files_are_shown_as_text(service: Served, visit: Visitor) -> None:
    name = "<img src=x onerror=alert(1)>.flac"
    turns = json.dumps([{"start": 0.0, "end": 1.5, "speaker": "<b>ann</b>", "text": "<script>alert(2)</script>"}])
    page = visit(service)
    drop(page, (name, (PAGE / "example.flac").read_bytes()), ("turns.json", turns.encode()))
    assert table(page)[0]["Speaker"] == "<b>ann</b>"
    assert table(page)[0]["Text"] == "<script>alert(2)</script>"
    assert page.get_by_role("heading", name=name).is_visible()


def test_the_page_has_no_other_hosts_and_no_inline_code() -> None:
    for file in PAGE.iterdir():
        if file.suffix in {".html", ".css", ".js"}:
            text = file.read_text("utf-8")
            assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/)[\w-]+\.\w+", text), file.name
    html = (PAGE / "index.html").read_text("utf-8")
    assert not re.findall(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", html)
