"""Builds the site: the page of the service and the bundled model as files for any web host, with no server to run.

    python site/build.py [OUT] [--model NAME] [--dtype float16]

OUT is build/site-app unless named. docs/browser.md says what is in it and how to host it.
"""

import argparse
import base64
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from dataclasses import asdict
from pathlib import Path

import e2v_port
from e2v_port.analysis.results import AnalysisSettings, UsedModel
from e2v_port.analysis.schema import SCHEMA_VERSION
from e2v_port.checkpoints.catalog import BUNDLED
from e2v_port.emotions.fusion import FusionSettings
from e2v_port.emotions.taxonomy import label_set_of, table
from e2v_port.errors import E2VError
from e2v_port.export.onnx_folder import TOLERANCES, export_onnx
from e2v_port.export.vad import export_vad
from e2v_port.prosody import noise
from e2v_port.prosody.frames import HOP
from e2v_port.speech.segment import SegmentSettings

HERE = Path(__file__).parent
ROOT = HERE.parent
OUT = ROOT / "build" / "site-app"
PAGE = Path(e2v_port.__file__).parent / "service" / "page"
WORKER = ("worker.js", "speech.js", "noise.js", "channels.js", "emotions.js")

ONNXRUNTIME = "onnxruntime-web-1.30.0.tgz"
# As the registry publishes it: `npm view onnxruntime-web@1.30.0 dist.integrity`.
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
REGISTRY = "https://registry.npmjs.org/"  # npm's own; NPM_CONFIG_REGISTRY names another
# Names that every host knows the type of, unlike .mjs.
TAKEN = {
    "package/dist/ort.wasm.bundle.min.mjs": "onnxruntime.js",
    "package/dist/ort-wasm-simd-threaded.wasm": "onnxruntime.wasm",
}
# The page may load from its own host alone, whatever its code does; WebAssembly needs a permission of its own.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; "
    "media-src blob:; connect-src 'self'; worker-src 'self'; form-action 'none'; base-uri 'none'"
)
# What the page says about the service, and what is true here. Each text is in the page once.
WORDS = {
    "<title>": f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n  <title>',
    "on its own or together with its\n          transcript or diarization, such as SRT, VTT, JSON, TextGrid or RTTM. "
    "It goes to this service only, which keeps\n          no audio.": "as far as this browser can play it. It is "
    "judged in this\n          browser: nothing is sent anywhere, and nothing is kept.",
    ",.rttm,.srt,.vtt,.csv,.tsv,.json,.jsonl,.ctm,.textgrid,.txt": "",
    '<input id="file" type="file" multiple': '<input id="file" type="file"',
    # What needs a service: a switch for everybody, and a live connection.
    '<button id="switch"': '<button id="switch" hidden',
    '<button id="live"': '<button id="live" hidden',
    '<p id="models"></p>': '<p id="models"></p>\n    <p id="offline"></p>',
}


def main() -> None:
    """Reads the command line, builds and says what to do next."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", nargs="?", type=Path, default=OUT, metavar="OUT")
    parser.add_argument("--model", default=BUNDLED, help="Model that gives labels. Default: the bundled one.")
    parser.add_argument(
        "--dtype",
        choices=TOLERANCES,
        default="float16",
        help="Type of the weights. Default: float16, half the size of float32, within 0.002 of its probabilities.",
    )
    arguments = parser.parse_args()
    try:
        build(arguments.out, arguments.model, arguments.dtype)
    except E2VError as error:
        sys.exit(f"error: {error}")
    size = sum(file.stat().st_size for file in arguments.out.rglob("*") if file.is_file())
    print(f"{arguments.out}: {size / 1e6:.0f} MB; try it: {sys.executable} -m http.server -d {arguments.out} 8000")


def build(out: Path, model: str | Path = BUNDLED, dtype: str = "float16") -> None:
    """Writes the site into a folder, and replaces an earlier one there.

    Args:
        out: Folder to write.
        model: Model that gives labels, as for `e2v_port.load`.
        dtype: Type of its weights in the file, as for `export_onnx`.

    Raises:
        E2VError: A file of the site is missing or not the one expected, the model gives no labels or cannot be
            exported, or `out` holds something else.
    """
    if out.exists() and not (out / "cache.js").is_file() and any(out.iterdir()):
        raise E2VError(f"{out} holds something else than a built site: name another folder, or empty it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        place = Path(folder, out.name)
        _page(place)
        _judge(place / "judge", model, dtype)
        _cache(place)
        shutil.rmtree(out, ignore_errors=True)
        place.replace(out)


def _page(place: Path) -> None:
    """Writes the page of the service, with another service.js and the words that are true without a service."""
    shutil.copytree(PAGE, place / "page", ignore=shutil.ignore_patterns("index.html"))
    shutil.copyfile(HERE / "service.js", place / "page" / "service.js")
    html = (PAGE / "index.html").read_text("utf-8")
    for before, after in WORDS.items():
        if html.count(before) != 1:
            raise E2VError(f"{before!r} is not in {PAGE / 'index.html'} once: change WORDS in {__file__} with it")
        html = html.replace(before, after)
    (place / "index.html").write_text(html, "utf-8")


def _judge(place: Path, model: str | Path, dtype: str) -> None:
    """Writes the worker with its models, tables and settings."""
    place.mkdir()
    for name in WORKER:
        shutil.copyfile(HERE / name, place / name)
    for name, content in _onnxruntime().items():
        (place / name).write_bytes(content)
    export_vad(place / "speech.onnx")
    with tempfile.TemporaryDirectory() as folder:
        exported = export_onnx(model, Path(folder, "model"), dtype=dtype)
        if exported.config.dimensional or not exported.config.labels:
            raise E2VError(f"{exported.config.source.repository} gives no labels: name a model that does")
        if (exported.folder / "model.onnx.data").exists():
            raise E2VError(f"{exported.config.source.repository} has more than 2 GB, too much for a browser")
        shutil.copyfile(exported.folder / "model.onnx", place / "model.onnx")
    config = exported.config
    labels = [label.name for label in config.labels if not label.unused]
    used = UsedModel("categorical", config.source.repository, dtype, "onnxruntime-web", config.licence)
    settings = {
        "schema_version": SCHEMA_VERSION,
        "settings": AnalysisSettings("speech", SegmentSettings(), FusionSettings(), None).to_dict(),
        "model": asdict(used),
        "labels": labels,
        "label_set": label_set_of(labels),
        "noise": {"hop": HOP, "edges": noise.edges(), "correction": noise.correction().tolist()},
    }
    tables = {name: table(name) for name in ("emotions", "compounds", "labels")}
    for name, document in (("settings", settings), ("taxonomy", tables)):
        (place / f"{name}.json").write_text(json.dumps(document, ensure_ascii=False), "utf-8")
    licences = {
        "model.onnx": config.licence,
        "onnxruntime.js, onnxruntime.wasm": "MIT, Copyright (c) Microsoft Corporation (onnxruntime-web)",
        "speech.onnx": "MIT, Copyright (c) 2020-present Silero Team (silero-vad)",
        "all other files": "MIT, see LICENSE of e2v-port",
    }
    (place / "licences.txt").write_text("".join(f"{name}: {text}\n" for name, text in licences.items()), "utf-8")


def _onnxruntime() -> dict[str, bytes]:
    """Returns the files of onnxruntime-web by their names in the site."""
    kept = ROOT / "build" / ONNXRUNTIME
    if not kept.is_file() or not _intact(kept.read_bytes()):
        registry = os.environ.get("NPM_CONFIG_REGISTRY") or REGISTRY
        address = f"{registry.rstrip('/')}/onnxruntime-web/-/{ONNXRUNTIME}"
        try:
            with urllib.request.urlopen(address, timeout=60) as response:
                content = response.read()
        except (OSError, ValueError) as error:
            raise E2VError(
                f"{address} cannot be read ({error}): connect to the network, name a registry in NPM_CONFIG_REGISTRY, "
                f"or put the file at {kept}"
            ) from error
        if not _intact(content):
            raise E2VError(f"{address} is not the file that the npm registry publishes: name another registry")
        kept.parent.mkdir(parents=True, exist_ok=True)
        coming = kept.with_name(f".{kept.name}-{os.getpid()}")
        coming.write_bytes(content)
        coming.replace(kept)
    found = {}
    with tarfile.open(fileobj=io.BytesIO(kept.read_bytes())) as archive:
        for path, name in TAKEN.items():
            member = archive.extractfile(path)
            assert member, path  # the hash is that of an archive with these files
            found[name] = member.read()
    return found


def _intact(content: bytes) -> bool:
    return f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}" == INTEGRITY


def _cache(place: Path) -> None:
    """Writes the service worker, which names every other file and the hash of them all."""
    names = sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + hashlib.sha256((place / name).read_bytes()).digest())
    source = (HERE / "cache.js").read_text("utf-8")
    for before, after in (('["./"]', json.dumps(["./", *names])), ("HASH", digest.hexdigest()[:16])):
        assert source.count(before) == 1, before
        source = source.replace(before, after)
    (place / "cache.js").write_text(source, "utf-8")


if __name__ == "__main__":
    main()
