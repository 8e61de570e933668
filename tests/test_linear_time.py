"""Text from elsewhere is read in time that grows with its length, whatever it holds: no input hangs a program."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from starlette.requests import Request

from e2v_port.architectures.config import ModelConfig
from e2v_port.checkpoints import catalog
from e2v_port.converters import emotion2vec, rules
from e2v_port.corpus import rows, sources
from e2v_port.errors import E2VError
from e2v_port.evaluation import readers as corpora
from e2v_port.evaluation.readers import file_names
from e2v_port.expression.profiles import ProsodyParameters
from e2v_port.expression.ssml import to_ssml
from e2v_port.service.http import bodies
from e2v_port.service.http.gate import Gate
from e2v_port.service.settings import Settings
from e2v_port.service.telemetry import Telemetry
from e2v_port.speech.align import align
from e2v_port.speech.segment import GivenSegment
from e2v_port.speech.transcripts import FORMATS, parse_segments

SIZES = (1 << 12, 1 << 14, 1 << 16, 1 << 18)  # from the smallest, so that a failing test fails soon
_SHORT = 0.05  # s; times below it are those of the machine rather than of the code


def seconds(run: Callable[[], object], times: int = 1) -> float:
    """The least CPU time of several runs; errors of this package are answers like any other."""
    least = float("inf")
    for _ in range(times):
        before = time.process_time()
        with suppress(E2VError, ValueError):
            run()
        least = min(least, time.process_time() - before)
    return least


def assert_linear(run: Callable[[int], Callable[[], object]]) -> None:
    """Four times the input takes less than eight times as long: sixteen times is what a square would take."""
    before = _SHORT
    for size in SIZES:
        prepared = run(size)
        taken = seconds(prepared)
        if taken >= 8 * before:  # again, in case that something else ran
            before, taken = max(_SHORT, seconds(run(size // 4), 3)), seconds(prepared, 3)
        assert taken < 8 * before, f"{size} bytes: {taken:.2f} s, a quarter of them: {before:.2f} s"
        before = max(_SHORT, taken)


# What breaks a careless pattern: openings that never close, rows of one character, things that nearly match.
PIECES = [
    *("<v", "<v.a", "<v.", "<v\t", "<", "<a", "<a<", "</c>", "<00:00:00.000>", "<NA>", "{\\", "{", "&#", "&#9", "&amp"),
    *("[", "[a", "]:", "[]:", "-->", "-", ":", "0:", "00:00", "0", "9", ".", "...", "!", '"', "'", ",", ";", "\\", "_"),
    *("1", "字", "。", "\xa0", "\x00", " ", "\t", "  \t", "\n ", "\n", "\n\n", "0 1\n", "a\n\n", "a b ", '""', '",'),
]
# What a text of the format begins with; then a piece is repeated.
STARTS = {
    ".rttm": ["", "SPEAKER a 1 0 1 <NA> <NA> ", "SPEAKER "],
    ".srt": ["1\n00:00:00,000 --> 00:00:01,000\n", "1\n00:00:00,000 --> "],
    ".vtt": ["WEBVTT\n\n00:00.000 --> 00:01.000\n", "WEBVTT\n\n00:00.000 --> 00:01.000\n<v", "WEBVTT"],
    ".json": ["", '{"segments": [', '[{"start": 0, "end": 1, "text": "'],
    ".csv": ["start,end,text\n", 'start,end,text\n0,1,"'],
    ".tsv": ["start\tend\ttext\n"],
    ".ctm": ["a 1 0 1 ", "a 1 ", ""],
    ".textgrid": ['"TextGrid" 0 1 <exists> 1 ', '"TextGrid" 0 1 <exists> 1 "IntervalTier" "a" 0 1 9 ', '"'],
    "Audacity": ["0\t1\t"],
    "Kaldi": ["a b 0 1\n", ""],
    ".jsonl": ["", '{"start": 0}\n'],
    ".txt": ["", "{", "SPEAKER ", "start,end"],
}


@pytest.mark.parametrize("suffix", STARTS)
def test_transcripts(suffix: str) -> None:
    assert set(FORMATS) <= set(STARTS)
    for start, piece in itertools.product(STARTS[suffix], PIECES):
        assert_linear(
            lambda size, s=start, p=piece: _parsed((s + p * (size // len(p.encode())) + "x").encode(), suffix)
        )


def _parsed(data: bytes, suffix: str) -> Callable[[], object]:
    return lambda: parse_segments(data, "x" + suffix)


@pytest.mark.parametrize("suffix", sorted(set(STARTS) - {".txt"}))
def test_many_rows(suffix: str) -> None:
    rows = {
        ".rttm": "SPEAKER a {i} {i} 1 <NA> <NA> A{i} <NA> <NA>\n",
        ".srt": "{i}\n00:00:00,000 --> 00:00:01,000\n[A{i}]: a\n\n",
        ".vtt": "00:00:00.000 --> 00:00:01.000\n<v A{i}>a\n\n",
        ".json": '{{"start": {i}, "end": {i}, "speaker": "A{i}"}},',
        ".csv": "{i},{i},a\n",
        ".tsv": "{i}.0\t{i}.5\ta\n",
        ".ctm": "a {i} {i} 0.1 a\n",
        ".textgrid": '"IntervalTier" "a{i}" 0 1 1 0 1 "a"\n',
        "Audacity": "{i}\t{i}\ta\n",
        "Kaldi": "u{i} a {i} {i}\n",
        ".jsonl": '{{"audio_filepath": "a", "duration": {i}}}\n',
    }
    head, tail = {
        ".vtt": ("WEBVTT\n\n", ""),
        ".json": ("[", '{"start": 0, "end": 1}]'),
        ".textgrid": ('"TextGrid" 0 1 999999\n', ""),
    }.get(suffix, (STARTS[suffix][0] if suffix in {".csv", ".tsv"} else "", ""))

    def run(size: int) -> Callable[[], object]:
        body = "".join(rows[suffix].format(i=i) for i in range(size // len(rows[suffix])))
        return _parsed((head + body + tail).encode(), suffix)

    assert_linear(run)


@pytest.mark.parametrize(
    ("start", "row", "end"),
    [
        ('{"transcription": [', '{"offsets": {"from": 0, "to": 1}, "text": "a"},', "{}]}"),
        ('{"chunks": [', '{"timestamp": [0, null], "text": "a"},', "{}]}"),
        ('{"audio_duration": 1, "words": [', '{"text": "a", "start": 0, "end": 1},', '{"text": "a"}]}'),
        ('{"words": [', '{"word": "a", "start": 0, "end": 0},', "{}]}"),
        ('{"results": {"channels": [', '{"alternatives": [{"words": [{"start": 0, "end": 0}]}]},', "{}]}}"),
        ("", '{"output": ', "3"),
    ],
)
def test_json_of_programs(start: str, row: str, end: str) -> None:
    assert_linear(lambda size: _parsed((start + row * (size // len(row)) + end).encode(), ".json"))


def test_the_subtitle_that_blocked_an_engine() -> None:
    """20 kB of it took 4 s, and 2 MB would have taken hours."""
    assert_linear(lambda size: _parsed(f"WEBVTT\n\n00:00.000 --> 00:01.000\n<v{' ' * size}x".encode(), ".vtt"))


def test_a_character_reference_beyond_unicode() -> None:
    cue = "WEBVTT\n\n00:00.000 --> 00:01.000\n&#{};&#x41;&#65;"
    for digits in "99999999", "9" * 5000:
        [segment] = parse_segments(cue.format(digits).encode(), "x.vtt")
        assert segment.text == "\ufffdAA"


def test_an_error_about_a_long_text_is_short() -> None:
    for suffix, start in (
        (".rttm", "SPEAKER a 1 0 1 <NA> <NA> A <NA> <NA>\nSPEAKER {} 1 0 1 <NA> <NA> A <NA> <NA>"),
        (".srt", "{}"),
        (".json", '[{{"start": "{}"}}]'),
        (".csv", "start,end\n{},1"),
    ):
        with pytest.raises(E2VError) as caught:
            parse_segments(start.format("a" * 100_000).encode(), "x" + suffix)
        assert len(str(caught.value)) < 300


def test_ssml() -> None:
    slow = ProsodyParameters(pause_multiplier=2.0)
    for piece, end in itertools.product((".", "!?", "。", ".)", ". ", "a", ",", " ", '"'), ("", " ", '"')):
        assert_linear(
            lambda size, p=piece, e=end: lambda: to_ssml(p * (size // 16) + e * (size // 16), slow, "espeak-ng")
        )


def test_align_with_any_overlap() -> None:
    cases = {
        "all of all": lambda i, n: (i / n, 10 + i / n),
        "one inside the other": lambda i, n: (i / n, 10 - i / n),
        "one of hours": lambda i, n: (i * 2.0, 3 * n if i == 0 else i * 2 + 1.5),
        "equal": lambda i, n: (0.0, 1.0),
    }
    for shape in cases.values():

        def run(size: int, shape: Callable[[int, int], tuple[float, float]] = shape) -> Callable[[], object]:
            count = size // 16
            spans = [GivenSegment(*shape(i, count)) for i in range(count)]
            return lambda: align(spans, spans)

        assert_linear(run)


def test_names_of_tensors() -> None:
    """A checkpoint is someone else's: its names may be many, and each may need another."""
    needs = rules.Rule("a.{i}.v", ("b.{i}",), lambda one, other: [one + other], beside=("a.{i}.g",))
    table = [needs, rules.Rule("{*}x", why="a test")]

    def run(size: int) -> Callable[[], object]:
        names = [f"a.{i}.{kind}" for i in range(size // 512) for kind in "vg"]
        random.Random(0).shuffle(names)
        return lambda: rules.plan(table, dict.fromkeys(names, (1,)))

    assert_linear(run)


def test_settings_and_names(tmp_path: Path) -> None:
    spec = "[(512,10,5)]"
    cases: dict[str, Callable[[str], object]] = {
        "config.json": ModelConfig.from_json,
        "feature_encoder_spec": emotion2vec._conv_layers,
        "error of a clip": rows._kind,
        "json in a tar": lambda text: sources._about(text.encode()),
        "braces": sources._BRACES.search,
        "name of a model": lambda text: (catalog.lookup(text), catalog.not_found(text)),
    }
    pieces = ["a", "0", "9", " ", ",", ":", "-", ".", "\n", '"', spec, spec[:-1], "(1,1,1),", "{1", "{1..", ".."]
    pieces += ["(", ")", "/", "a/", "1.", "e+", "[", "{"]
    for parse, piece in itertools.product(cases.values(), pieces):
        assert_linear(lambda size, parse=parse, p=piece: lambda: parse(p * (size // len(p))))


def test_headers_of_a_request() -> None:
    path = {"path": "/v1/analyze", "method": "GET", "query_string": b"", "subprotocols": []}
    gate = Gate(None, Telemetry(), Settings(token="t"), {}, frozenset())  # type: ignore[arg-type]

    def run(size: int, name: bytes, piece: str) -> Callable[[], object]:
        value = (piece * (size // len(piece))).encode("latin-1")
        headers = [(b"host", b"localhost"), (name, value)]
        return lambda: gate.refusal({"type": "http", **path, "headers": headers})

    for name in b"host", b"origin", b"authorization", b"sec-fetch-site", b"range", b"content-type":
        for piece in ("a", ":", "[", "]", "//", "http://", "@", ".", " ", "Bearer ", "%", "-,"):
            assert_linear(lambda size, n=name, p=piece: run(size, n, p))


def test_forms() -> None:
    start = b"--x\r\nContent-Disposition: form-data; name="

    async def chunks(body: bytes) -> AsyncIterator[bytes]:
        for i in range(0, len(body), 1 << 14):
            yield body[i : i + (1 << 14)]

    def run(size: int, piece: bytes) -> Callable[[], object]:
        head, _, repeated = piece.partition(b"*")
        body = head + repeated * (size // 8)
        request = Request({"type": "http", "headers": [(b"content-type", b"multipart/form-data; boundary=x")]})
        return lambda: asyncio.run(bodies._read_form(request, chunks(body), "segments", 1 << 26))

    pieces = (b"a", b'"', b";a=", b"\r\nA: b", b"\r\n--", b"\r\n--x\r\n")
    for piece in (
        *(start + b"*" + piece for piece in pieces),
        start + b'"segments"\r\n\r\n*\r\n-',
        b"*\r\n",
        b"--x\r\n*A",
    ):
        assert_linear(lambda size, p=piece: run(size, p))


def test_tables_of_corpora(tmp_path: Path) -> None:
    table = tmp_path / "x.csv"

    def run(size: int, piece: str) -> Callable[[], object]:
        def read() -> object:
            table.write_text("file,label,speaker\n" + piece * (size // len(piece)), "utf-8")
            return corpora.read(f"csv={table}")

        return read

    for piece in ('"', ",", "a,", '",', "\n", "a,angry,b\n", "a,l,\n", "\t"):
        assert_linear(lambda size, p=piece: run(size, p))


def test_patterns_of_file_names() -> None:
    names = (file_names._RAVDESS, file_names._EMODB, file_names._CREMA_D)
    for pattern, piece in itertools.product(names, ("0", "03-01-", "emodb_", "03a", "1001_DFA_", "A", "_")):
        assert_linear(lambda size, pattern=pattern, p=piece: lambda: pattern.fullmatch(p * (size // len(p))))


def test_json_that_is_nested_too_deeply() -> None:
    for depth in (500, 900, 990, 1000, 5000):
        with pytest.raises(E2VError):
            parse_segments(f'[{{"start": {"[" * depth}{"]" * depth}}}]'.encode(), "x.json")
