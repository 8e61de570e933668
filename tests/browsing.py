"""A real browser for the tests of the page: headless Chromium against the service in its own process."""

import base64
import io
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
from served import Served

import e2v_port

__all__ = ["browser", "microphone", "service", "visit"]  # the fixtures

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MEDIA = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
PAGE = Path(e2v_port.__file__).parent / "service" / "page"
CLIPS = Path(__file__).parents[1] / "benchmarks" / "speech"


@pytest.fixture(scope="module")
def service() -> Iterator[Served]:
    with Served() as started:
        yield started


@pytest.fixture(scope="session")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the loop that the browser's microphone plays: any 5 s of it hold enough speech to judge."""
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"
    clips = [soundfile.read(CLIPS / f"{name}.flac", dtype="int16")[0] for name in ("quick", "calm")]
    pause = np.zeros(27_000, np.int16)  # just long enough to end a segment
    soundfile.write(path, np.concatenate([part for clip in clips for part in (clip, pause)]), 16_000)
    return path


@pytest.fixture(scope="module")  # not longer: its event loop runs as long as it does
def browser(microphone: Path) -> Iterator[Any]:
    missing = None
    found = executable()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = 'playwright is not installed: pip install -e ".[test]"'
    else:
        if found is None:
            missing = f"none of {', '.join(BROWSERS)} is installed: apt-get install chromium"
    if missing and os.environ.get("E2V_REQUIRE_BROWSER") == "1":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    flags = [*MEDIA, f"--use-file-for-fake-audio-capture={microphone}"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=flags)
        yield started
        started.close()


def executable() -> str | None:
    """Returns the path of the browser."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Visitor:
    """Opens pages and records their requests and console messages."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self.browser, self.folder = browser, folder
        self.contexts: list[Any] = []
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.expected: list[str] = []  # messages that the test provokes

    def __call__(self, service: Served, width: int = 1280, script: str = "", **options: Any) -> Any:
        """Opens the page; a script runs before those of the page."""
        context = self.browser.new_context(viewport={"width": width, "height": 800}, **options)
        context.add_init_script(script)
        context.set_default_timeout(60_000)
        self.contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: self.requests.append(socket.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.goto(service.url)
        return page

    def picture(self, page: Any, name: str) -> None:
        page.wait_for_timeout(400)  # until the transitions end
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
    assert not elsewhere, "the page loads from another host"
    left = [line for line in visitor.complaints if not any(expected in line for expected in visitor.expected)]
    assert not left, "the browser reports problems"


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
    """Returns the rows of the table of all segments."""
    page.wait_for_selector("#table tbody tr")
    names, *found = page.evaluate(
        "() => [...document.querySelectorAll('#table tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
    )
    return [dict(zip(names, row, strict=True)) for row in found]


def encoded(samples: np.ndarray, form: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format=form)
    return file.getvalue()


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "the condition does not hold in time"
        time.sleep(0.05)


def seconds(page: Any) -> float:
    return float(page.get_by_role("slider", name="Position in the recording").input_value())
