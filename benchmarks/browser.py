"""Measures the built site in headless Chromium: the first answer after a load, and a minute of speech.

    make site && python benchmarks/browser.py [SITE] [--runs 3]

The host is this machine, so a first visit does not include the time of a network; docs/browser.md has the sizes.
"""

import argparse
import base64
import http.server
import io
import shutil
import statistics
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from e2v_port.bench import machine

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LIMITS = {"first answer, first visit": None, "first answer, later visit": 3.0, "1 minute of speech": 5.0}  # seconds
DROP = """([name, base64]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], name));
    document.querySelector("#source").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, without a line for each."""

    def log_message(self, *_: Any) -> None:
        """Writes nothing."""


def clip(seconds: float) -> bytes:
    """Returns speech of this length as WAV: the sentences of the repository, again and again."""
    samples = np.concatenate([soundfile.read(path)[0] for path in sorted((ROOT / "benchmarks/speech").glob("*.flac"))])
    file = io.BytesIO()
    soundfile.write(file, np.resize(samples, round(seconds * 16_000)), 16_000, format="WAV")
    return file.getvalue()


def answered(page: Any, name: str, data: bytes) -> float:
    """Drops a recording and returns the seconds until its results are shown."""
    encoded = base64.b64encode(data).decode()
    started = time.perf_counter()
    page.evaluate(DROP, [name, encoded])
    page.locator("#clip", has_text=name).wait_for()
    return time.perf_counter() - started


def measure(browser: Any, url: str) -> dict[str, float]:
    """Measures one browser without any memory of the site."""
    context = browser.new_context()
    context.set_default_timeout(120_000)
    short, minute = clip(3), clip(60)
    found = {}
    for name in ("first answer, first visit", "first answer, later visit"):
        page = context.new_page()
        started = time.perf_counter()
        page.goto(url)
        answered(page, "short.wav", short)
        found[name] = time.perf_counter() - started
        page.get_by_text("works offline").wait_for()
    found["1 minute of speech"] = answered(page, "minute.wav", minute)
    context.close()
    return found


def main() -> None:
    """Prints a line for each time."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("site", nargs="?", type=Path, default=ROOT / "build" / "site-app")
    parser.add_argument("--runs", type=int, default=3, help="Fresh browsers; the median of them is shown.")
    arguments = parser.parse_args()
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None or not (arguments.site / "index.html").is_file():
        sys.exit(f"error: needs Chromium (apt-get install chromium) and a site in {arguments.site} (make site)")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(arguments.site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        runs = [measure(browser, f"http://127.0.0.1:{server.server_port}/") for _ in range(arguments.runs)]
        about = machine.describe("cpu")
        print(f"Chromium {browser.version}, {about['processor']}, {about['cores']} cores, median of {len(runs)}")
        browser.close()
    server.shutdown()
    for name, limit in LIMITS.items():
        value = statistics.median(run[name] for run in runs)
        verdict = "" if limit is None else f"  (limit {limit:g} s: {'met' if value <= limit else 'missed'})"
        print(f"{name:28} {value:6.2f} s{verdict}")


if __name__ == "__main__":
    main()
