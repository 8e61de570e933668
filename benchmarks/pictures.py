"""Draws the pictures of the documents from the example of the package, as the bundled model judges it.

python benchmarks/pictures.py    writes docs/images/terminal.svg, docs/images/plot.png and docs/images/page.png

The last needs playwright and Chromium.
"""

import io
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image
from playwright.sync_api import ViewportSize, sync_playwright
from rich.console import Console
from rich.text import Text

import e2v_port
from e2v_port.analysis.plots import plot
from e2v_port.analysis.terminal import table
from e2v_port.audio import load_audio
from e2v_port.files import replacing

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
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
    """Draws a table of the segments as a terminal shows it, and the timeline of `--plot`."""
    analysis = replace(e2v_port.analyze(CALL), file=CALL.name)
    console = Console(record=True, width=92, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text("$ e2v analyze example.flac"))
    console.print(table(analysis))
    svg = FONTS.sub("", console.export_svg(title="e2v analyze"))
    with replacing(IMAGES / "terminal.svg") as partial:
        partial.write_text(svg, "utf-8")
    with replacing(IMAGES / "plot.png") as partial:
        plot(analysis, load_audio(CALL), partial)
    with replacing(IMAGES / "page.png") as partial:
        partial.write_bytes(page())


def page() -> bytes:
    """Returns a picture of the page of `e2v serve` with the example, as PNG."""
    command = [sys.executable, "-m", "e2v_port", "serve", "--port", "0", "--runtime", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service, sync_playwright() as playwright:
        try:
            assert service.stdout is not None
            url = service.stdout.readline().rpartition(" ")[2].strip()
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
            tab = browser.new_page(viewport=VIEW, device_scale_factor=SCALE, reduced_motion="reduce")
            tab.goto(url)
            tab.get_by_role("button", name="Example").click()
            tab.locator("#table tbody tr").first.wait_for()
            tab.wait_for_function(WAVEFORM)
            tab.mouse.move(0, 0)
            picture = Image.open(io.BytesIO(tab.screenshot()))
        finally:
            service.terminate()
    file = io.BytesIO()
    picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        file, "PNG", optimize=True
    )
    return file.getvalue()


if __name__ == "__main__":
    main()
