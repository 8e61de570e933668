"""silero as an ONNX file gives the probabilities of this package and of its own network, in calls of any length."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from e2v_port import cli
from e2v_port.audio import load_audio
from e2v_port.errors import E2VError
from e2v_port.export import vad
from e2v_port.speech.silero import speech_probabilities

onnx = pytest.importorskip("onnx", reason='onnx is not installed: pip install "e2v-port[onnx]"')
onnxruntime = pytest.importorskip("onnxruntime", reason='onnxruntime is not installed: pip install "e2v-port[onnx]"')

FRAME = 512
SPEECH = sorted((Path(__file__).parents[1] / "benchmarks" / "speech").glob("*.flac"))
START = np.zeros((2, 1, 128), np.float32), np.zeros((1, 64), np.float32)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("vad") / "vad.onnx"
    done = CliRunner().invoke(cli.app, ["export", "--model", "silero", "--out", str(file)])
    assert done.exit_code == 0, done.output
    assert "probabilities within" in done.output
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def run(session: Any, waveform: NDArray[np.float32], *lengths: int) -> NDArray[np.float32]:
    """Runs a waveform in calls of these lengths, over and over."""
    (state, context), found, at = START, [], 0
    while at < len(waveform):
        length = lengths[len(found) % len(lengths)]
        feeds = {"waveform": waveform[None, at : at + length], "state": state, "context": context}
        probabilities, state, context = session.run(["probabilities", "next_state", "next_context"], feeds)
        found.append(probabilities[0])
        at += length
    return np.concatenate(found)


@pytest.mark.parametrize("file", SPEECH, ids=lambda file: file.stem)
def test_the_probabilities_are_those_of_this_package(session: Any, file: Path) -> None:
    waveform = load_audio(file)
    wanted = speech_probabilities(waveform)
    assert wanted.max() > 0.9
    assert wanted.min() < 0.1
    for lengths in ([1 << 20], [FRAME], [3 * FRAME, FRAME, 16 * FRAME]):
        found = run(session, waveform, *lengths)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= 5e-5  # a state of 128 numbers goes round: 2.6e-5 on some CPUs


def test_and_those_of_its_own_network(session: Any, silero_package: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        network = silero_package.load_silero_vad()
    waveform = load_audio(SPEECH[0])
    wanted = network.audio_forward(torch.from_numpy(waveform)[None], 16_000)[0].numpy()
    assert np.abs(run(session, waveform, 1 << 20) - wanted).max() <= 5e-5


def test_recordings_share_a_batch(session: Any) -> None:
    waveforms = np.stack([load_audio(file)[: 40 * FRAME - 100] for file in SPEECH])
    count = len(waveforms)
    feeds = {
        "waveform": waveforms,
        "state": np.zeros((2, count, 128), np.float32),
        "context": np.zeros((count, 64), np.float32),
    }
    found, state, context = session.run(["probabilities", "next_state", "next_context"], feeds)
    assert found.shape == (count, 40)
    assert state.shape == (2, count, 128)
    assert not context[:, -100:].any()  # filled up with zeros
    for one, waveform in zip(found, waveforms, strict=True):
        assert np.abs(one - run(session, waveform, 1 << 20)).max() <= 1e-6


def test_an_export_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vad, "speech_probabilities", lambda clip: speech_probabilities(clip) + np.float32(0.1))
    with pytest.raises(E2VError, match="nothing was written"):
        vad.export_vad(tmp_path / "vad.onnx")
    assert not [*tmp_path.iterdir()]


def test_its_weights_are_not_rounded(tmp_path: Path) -> None:
    line = ["export", "--model", "silero", "--out", str(tmp_path / "vad.onnx"), "--dtype", "float16"]
    done = CliRunner().invoke(cli.app, line)
    assert done.exit_code != 0
    assert "float32 only" in done.output
