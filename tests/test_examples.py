"""Every example runs as it is, on speech of the project itself, and prints what it promises."""

import ast
import asyncio
import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
import toys

import e2v_port

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SPEECH = ROOT / "benchmarks" / "speech"
CALL = ROOT / "e2v_port" / "service" / "page" / "example.flac"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))


def run(program: str | Path, *arguments: str | Path, folder: Path) -> str:
    """Runs a program in an empty folder, offline, and returns what it prints."""
    variables = {"E2V_OFFLINE": "1", "E2V_LICENCE": "accepted", "XDG_CACHE_HOME": str(folder), "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / program, *arguments],
        cwd=folder,
        env=os.environ | variables,
        encoding="utf-8",
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def call() -> e2v_port.Analysis:
    return e2v_port.analyze(CALL)


def test_a_call_as_a_timeline(call: e2v_port.Analysis, tmp_path: Path) -> None:
    head, *lines = run("timeline.py", folder=tmp_path).splitlines()
    assert head == f"{CALL.name}: {call.duration:.1f} s"
    for segment, line in zip(call.segments, lines, strict=False):
        assert line.endswith(f"  {segment.judgement.words}")
        assert "#" in line
    names = {segment.emotion for segment in call.segments if not segment.judgement.doubtful}
    assert {line.split()[0] for line in lines[len(call.segments) :]} == names


def test_a_classifier_of_embeddings(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    text = run("classifier.py", folder=tmp_path)
    found = re.search(r"balanced accuracy ([\d.]+), by chance ([\d.]+)", text)
    assert found
    assert float(found[1]) > float(found[2])


def test_a_microphone_loop(call: e2v_port.Analysis, tmp_path: Path) -> None:
    """Follows a file here; microphones are for tests/test_listen.py."""
    text = run("microphone.py", CALL, folder=tmp_path)
    judged = [segment for segment in call.segments if segment.emotion]
    assert re.findall(r"^ *[\d.]+ to +[\d.]+ s  (.+)$", text, re.M) == [each.judgement.words for each in judged]
    assert text.count("for the language model: [") == len(judged)
    assert f"{len(call.segments)} segments" in text


def test_a_folder_to_parquet(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    files = len([*SPEECH.glob("*.flac")])
    first, *rows = run("parquet.py", SPEECH, "out", folder=tmp_path).splitlines()
    assert first.startswith(f"{files} clips, ")
    assert first.endswith(f"this run did {files}")
    assert sum(int(row.split()[2].rstrip(",")) for row in rows) == int(first.split(", ")[1].split()[0])
    assert run("parquet.py", SPEECH, "out", folder=tmp_path).splitlines()[0].endswith("this run did 0")


def test_a_new_head(tmp_path: Path) -> None:
    text = run("finetune.py", folder=tmp_path)
    assert text.startswith("my-model: epoch ")
    labels = e2v_port.load(tmp_path / "my-model", runtime="cpu").labels
    assert set(labels) == {"neutral", "happy", "sad", "angry"}
    assert text.splitlines()[-1].startswith("Prediction(")


def test_two_models(tmp_path: Path) -> None:
    other = toys.convert(toys.make(tmp_path / "checkpoint"), tmp_path / "toy")
    text = run("compare.py", "bundled-tiny", other, folder=tmp_path)
    names = [file.name for file in SPEECH.glob("*.flac")]
    assert all(name in text for name in names)
    marks = [line[0] for line in text.splitlines()[1:-1]]
    assert text.splitlines()[-1].startswith(f"{marks.count('=')} of {len(names)} clips")


def test_a_model_in_a_public_benchmark(tmp_path: Path) -> None:
    """On shards in the form of the benchmark's, with a label that the model lacks and a clip that is too short."""
    core = pytest.importorskip("oruk_bench.core")
    pq = pytest.importorskip("pyarrow.parquet")
    from pyarrow import table

    short = io.BytesIO()
    soundfile.write(short, np.full(80, 0.1), 16_000, format="FLAC")
    files = sorted(SPEECH.glob("*.flac"))
    names = ["anger", "neutral", "sadness", "surprise", "neutral"]
    rows = {
        "audio_flac": [*(file.read_bytes() for file in files), short.getvalue()],
        "label": [core.LABELS.index(name) for name in names],
        "language": ["en"] * 4 + [None],
        "source_id": ["a"] * 5,
    }
    (tmp_path / "shards").mkdir()
    pq.write_table(table(rows), tmp_path / "shards" / "0.parquet")
    text = run("oruk.py", "bundled", tmp_path / "shards", "out", folder=tmp_path)
    assert "BENCH_MODEL_DONE bundled" in text
    model = e2v_port.load("bundled")
    words = dict(
        zip(core.LABELS, ("angry", "happy", "sad", "fearful", "disgusted", "surprised", "neutral"), strict=True)
    )
    kept = [name for name, word in words.items() if word in model.labels]
    answers = [max(kept, key=lambda name, each=each: each.scores[words[name]]) for each in model.predict(files)]
    answers.append("neutral")
    with np.load(tmp_path / "out" / "bundled.npz") as found:
        assert [core.LABELS[i] for i in found["preds"]] == answers
    result = json.loads((tmp_path / "out" / "bundled.json").read_text("utf-8"))
    right = [answer == name for answer, name in zip(answers, names, strict=True)]
    assert (result["n"], result["accuracy"]) == (5, pytest.approx(np.mean(right)))
    assert result["supported_labels"] == kept == [name for name in core.LABELS if name != "surprise"]
    assert (result["subset_n"], result["subset_accuracy"]) == (4, pytest.approx(np.mean(right[:3] + right[4:])))


def test_the_stand_in_for_a_public_benchmark(tmp_path: Path) -> None:
    pytest.importorskip("oruk_bench")
    assert "BENCH_MODEL_DONE bundled-tiny" in run("oruk.py", "bundled-tiny", folder=tmp_path)
    assert json.loads((tmp_path / "bench_results" / "bundled-tiny.json").read_text("utf-8"))["n"] == 4


def test_a_prompt(tmp_path: Path) -> None:
    prompt = json.loads(run("prompt.py", folder=tmp_path))
    line, words = prompt["messages"][1]["content"].splitlines()
    assert line == e2v_port.analyze(SPEECH / "low.flac").to_context()
    assert words == "I waited, but nobody came."
    assert prompt["tools"][0]["function"]["name"] == e2v_port.tool_schema()["name"]


def test_an_answer(tmp_path: Path) -> None:
    document = ElementTree.fromstring(run("answer.py", SPEECH / "quick.flac", "Take your time.", folder=tmp_path))
    assert document.tag.endswith("speak")
    assert "".join(document.itertext()) == "Take your time."


@pytest.fixture(scope="module")
def reply_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A speech language model with random weights."""
    from speechlm import toy_language, toy_model

    place = tmp_path_factory.mktemp("reply")
    return toy_model(place / "model", toy_language(place / "language"))


def test_a_reply_in_a_pipeline(reply_model: Path, tmp_path: Path) -> None:
    """With the real Pipecat, where it is installed."""
    pytest.importorskip("pipecat")
    with e2v_port.SpeechLM.load(reply_model) as model:
        expected = model(SPEECH / "low.flac").text
    assert run("pipecat_reply.py", reply_model, folder=tmp_path).splitlines()[-1] == expected


def test_a_reply_as_a_tool(reply_model: Path, tmp_path: Path) -> None:
    """With the real client, where it is installed."""
    client = pytest.importorskip("mcp.client")
    stdio = pytest.importorskip("mcp.client.stdio")
    with e2v_port.SpeechLM.load(reply_model) as model:
        expected = model(SPEECH / "low.flac").to_dict()

    async def asked() -> tuple[list[str], list[Any]]:
        command = [str(EXAMPLES / "mcp_reply.py"), str(reply_model)]
        parameters = stdio.StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))
        async with client.Client(parameters) as server:
            tools = [tool.name for tool in (await server.list_tools()).tools]
            sound = base64.b64encode((SPEECH / "low.flac").read_bytes()).decode()
            calls = [{"path": str(SPEECH / "low.flac")}, {"audio": sound}, {"path": "nowhere.wav"}]
            return tools, [await server.call_tool("speech_reply", call) for call in calls]

    tools, (first, second, third) = asyncio.run(asked())
    assert tools == ["speech_reply"]
    for found in (first, second):
        assert {**json.loads(found.content[0].text), "seconds": 0} == {**expected, "seconds": 0}
    assert third.is_error
    assert "nowhere.wav" in third.content[0].text


def test_a_client_with_and_without_a_service(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from served import Served

    text = run("service_client.py", SPEECH / "calm.flac", "http://127.0.0.1:9", folder=tmp_path)
    assert text.startswith("continuing without emotions: ")
    assert text.endswith("[unclear]\n")
    with Served() as service:
        text = run("service_client.py", SPEECH / "calm.flac", service.url, folder=tmp_path)
    said = "ann: The kettle is on, and the rain has stopped."
    assert re.fullmatch(rf"{re.escape(said)}  \[(unclear|[a-z]+ \(\d+%\))\]\n", text)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_cells_of_a_notebook(notebook: str, call: e2v_port.Analysis, tmp_path: Path) -> None:
    """As a program: a kernel would add nothing but time."""
    pytest.importorskip("matplotlib")
    cells = json.loads((EXAMPLES / notebook).read_text("utf-8"))["cells"]
    program = tmp_path / "cells.py"
    program.write_text("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"), "utf-8")
    assert run(program, folder=tmp_path).splitlines()[-1] == call.to_context()


@pytest.mark.parametrize("program", PROGRAMS)
def test_examples_are_short_and_say_how_they_are_run(program: str) -> None:
    source = (EXAMPLES / program).read_text("utf-8")
    assert len(source.splitlines()) < 60
    assert f"python examples/{program}" in (ast.get_docstring(ast.parse(source)) or "")


def test_the_list_of_examples_is_complete() -> None:
    listed = re.findall(r"^\| \[([\w.]+)\]", (EXAMPLES / "README.md").read_text("utf-8"), re.M)
    assert sorted(listed) == sorted(PROGRAMS + NOTEBOOKS)
