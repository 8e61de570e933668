"""The page of a service that replies: speak, see the tone and the reply as it comes, hear it; in a real browser."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import scripted_reply
from browsing import Visitor, until
from served import Served
from speechlm import toy_language, toy_model
from test_page_live import MICROPHONES, is_idle, microphones, says

pytestmark = pytest.mark.xdist_group("page")

# A voice of this device, and what it was asked to say; headless Chromium has none.
VOICES = """
    window.spoken = [];
    const here = { localService: true, lang: "en-US" };
    const elsewhere = { localService: false, lang: "en-US" };
    Object.defineProperty(window, "speechSynthesis", { value: {
        getVoices: () => (window.mute ? [elsewhere] : [elsewhere, here]),
        speak: ({ text, rate, pitch, volume, voice: { localService: here } }) =>
            spoken.push({ text, rate, pitch, volume, here }),
        cancel: () => spoken.push(null),
    } });
    window.SpeechSynthesisUtterance = function (text) { this.text = text; };
"""
# The context that the page sends, and what is answered.
SENT = """
    window.contexts = [];
    window.answers = [];
    const collect = async (reader, i) => {
        for (let part; !(part = await reader.read()).done; ) answers[i] += new TextDecoder().decode(part.value);
    };
    const ordinary = window.fetch;
    window.fetch = async (address, options) => {
        const response = await ordinary(address, options);
        if (options?.body instanceof FormData) {
            contexts.push(JSON.parse(options.body.get("context")));
            collect(response.clone().body.getReader(), answers.push("") - 1).catch(() => {}); // closed by the page
        }
        return response;
    };
"""


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service that replies, and has no speech engine."""
    folder = tmp_path_factory.mktemp("talking")
    model = toy_model(folder / "model", toy_language(folder / "language"))
    (folder / "sitecustomize.py").write_text(scripted_reply.IN_PLACE_OF_GENERATION)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("PATH", str(folder))
        started = Served(model="bundled-tiny", reply=model)
    with started:
        yield started


def talk(page: Any, seconds: int = 2) -> None:
    """Says something and waits for the whole reply."""
    before = page.locator(".reply").count()
    page.get_by_role("button", name="Talk", exact=True).click()
    until(lambda: page.locator("#clock").inner_text() == f"0:0{seconds}")
    page.get_by_role("button", name="Stop and get a reply").click()
    until(lambda: page.locator(".reply").count() == before + 1 and is_idle(page))


def test_a_service_that_does_not_reply_has_no_talk(service: Served, visit: Visitor) -> None:
    page = visit(service)
    page.get_by_role("switch").and_(page.locator(":enabled")).wait_for()
    assert not page.get_by_role("button", name="Talk").is_visible()
    assert not page.get_by_role("log").is_visible()


def test_a_conversation(talking: Served, visit: Visitor) -> None:
    """Tone, reply, voice: those of the service; and each reply knows of those before it."""
    page = visit(talking, script=MICROPHONES + VOICES + SENT)
    for _ in range(2):
        talk(page)
    answers = page.evaluate("() => answers")
    wholes = [json.loads(answer.rpartition("event: done\ndata: ")[2]) for answer in answers]
    assert page.locator(".reply").all_inner_texts() == [whole["reply"] for whole in wholes]
    for heard, whole in zip(page.locator(".heard").all_inner_texts(), wholes, strict=True):
        label = max(whole["tone"], key=whole["tone"].get)
        assert heard.startswith(f"Your voice sounds {'unclear: ' if whole['unclear'] else label}")
    before = {"role": "assistant", "content": wholes[0]["reply"]}
    assert page.evaluate("() => contexts") == [[], [before]]
    spoken = [each for each in page.evaluate("() => spoken") if each]
    for each, whole in zip(spoken, wholes, strict=True):
        manner = {name: whole["prosody"][name] for name in ("rate", "pitch", "volume")}
        assert each == {"text": whole["reply"], **manner, "here": True}
    assert page.get_by_role("log").get_attribute("aria-busy") == "false"
    assert microphones(page) == [2, 0]
    visit.picture(page, "talk")
    page.get_by_role("button", name="Start over").click()
    assert not page.get_by_role("log").is_visible()
    talk(page)
    assert page.evaluate("() => contexts.at(-1)") == []


def test_no_voice_elsewhere_reads_a_reply(talking: Served, visit: Visitor) -> None:
    page = visit(talking, script=MICROPHONES + VOICES + "window.mute = true;")
    talk(page)
    says(page, "Neither the service nor this browser has a voice")
    assert not [each for each in page.evaluate("() => spoken") if each]
    page.get_by_role("checkbox", name="Read replies aloud").uncheck()
    talk(page)
    assert not page.get_by_text("Neither the service nor this browser has a voice").is_visible()
