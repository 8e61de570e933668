"""Draws the pictures of the documents from the example of the package, as the bundled model judges it.

make site && python benchmarks/pictures.py [NAME ...]    writes docs/images/NAME, by default all of them

The pictures of pages, page.png and offline.png, need playwright and Chromium; the latter, the site of `make site`.
"""

import argparse
import http.server
import io
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from browser import Quiet
from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright
from rich.console import Console
from rich.text import Text

import e2v_port
from e2v_port.analysis.output.plots import plot
from e2v_port.analysis.output.terminal import table
from e2v_port.audio import load_audio
from e2v_port.files import replacing

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SITE = ROOT / "build" / "site-app"
CALL = ROOT / "e2v_port" / "service" / "page" / "example.flac"
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.S)  # of another host, which a picture must not ask for

VIEW: ViewportSize = {"width": 1280, "height": 1068}  # CSS pixels: the results above the table
SCALE = 0.75
# The middle of the upper half of the waveform has pixels once the browser has decoded the clip.
WAVEFORM = """() => {
    const canvas = document.querySelector("#timeline .field canvas");
    const row = canvas.getContext("2d").getImageData(0, Math.round(canvas.height * 0.4), canvas.width, 1).data;
    return row.some((value, i) => i % 4 === 3 && value > 0);
}"""


def main() -> None:
    """Draws the pictures."""
    pictures = {"terminal.svg": terminal, "plot.png": timeline, "page.png": page, "offline.png": offline}
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(pictures))
    names = parser.parse_args().names or [*pictures]
    if wrong := set(names) - {*pictures}:
        parser.error(f"no picture {', '.join(sorted(wrong))}: choose from {', '.join(pictures)}")
    for name in names:
        with replacing(IMAGES / name) as unfinished:
            pictures[name](unfinished)


def terminal(path: Path) -> None:
    """Draws the table of the segments as a terminal shows it."""
    console = Console(record=True, width=92, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text("$ e2v analyze example.flac"))
    console.print(table(replace(e2v_port.analyze(CALL), file=CALL.name)))
    path.write_text(FONTS.sub("", console.export_svg(title="e2v analyze")), "utf-8")


def timeline(path: Path) -> None:
    """Draws the timeline of `--plot`."""
    plot(replace(e2v_port.analyze(CALL), file=CALL.name), load_audio(CALL), path)


def page(path: Path) -> None:
    """Takes a picture of the page of `e2v serve` with the example."""
    command = [sys.executable, "-m", "e2v_port", "serve", "--port", "0", "--runtime", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            take(service.stdout.readline().rpartition(" ")[2].strip(), path)
        finally:
            service.terminate()


def offline(path: Path) -> None:
    """Takes a picture of the built site with the example, opened and judged with the network off."""
    if not (SITE / "index.html").is_file():
        sys.exit(f"error: no site in {SITE}: run `make site`")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def leave(tab: Page) -> None:
        tab.get_by_text("works offline from now on").wait_for()
        tab.context.set_offline(True)
        server.shutdown()
        server.server_close()
        tab.reload()

    take(f"http://127.0.0.1:{server.server_port}/", path, leave)


def take(url: str, path: Path, prepare: Callable[[Page], None] = lambda _: None) -> None:
    """Opens a page, judges the example and writes a picture of the result as PNG.

    Args:
        url: Address of the page.
        path: File to write.
        prepare: Called with the loaded page before the example is judged.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        tab = browser.new_page(viewport=VIEW, device_scale_factor=SCALE, reduced_motion="reduce")
        tab.goto(url)
        prepare(tab)
        tab.get_by_role("button", name="Example").click()
        tab.locator("#table tbody tr").first.wait_for()
        tab.wait_for_function(WAVEFORM)
        tab.mouse.move(0, 0)
        picture = Image.open(io.BytesIO(tab.screenshot()))
    picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        path, "PNG", optimize=True
    )


if __name__ == "__main__":
    main()
