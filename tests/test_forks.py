"""Processes that a host program forks after it has used a model: they compute, or say in one line why they cannot.

Each test forks for real, in a program of its own that ends after a minute if a child hangs.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
import toys

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

PRELUDE = """
import multiprocessing, os, sys, threading
import numpy as np
import torch
import e2v_port
from e2v_port.speech.silero import speech_probabilities

torch.set_num_threads(2)  # more than one, whose pool no child has
clip = (np.random.default_rng(0).standard_normal(80_000) / 10).astype("float32")

def in_child(call):
    "Prints the result of a call in a forked process, or its error."
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            print(call(), flush=True)
        except Exception as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def printed(program: str, *arguments: object, timeout: float = 60) -> list[str]:
    """Runs a program, and returns the lines it prints; a child that hangs is killed with it."""
    command = [sys.executable, "-W", "ignore", "-c", PRELUDE + textwrap.dedent(program), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "E2V_LICENCE": "accepted"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    try:
        return process.communicate(timeout=timeout)[0].splitlines()
    except subprocess.TimeoutExpired:
        pytest.fail("a forked process hangs")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.communicate()


@pytest.mark.parametrize("runtime", ["cpu", "numpy"])
@pytest.mark.parametrize("name", ["bundled-tiny", "emotion2vec"])
def test_a_child_computes_what_its_parent_does(tmp_path: Path, name: str, runtime: str) -> None:
    model = toys.convert(toys.make(tmp_path / "checkpoint"), tmp_path / "model") if name == "emotion2vec" else name
    program = """
    model = e2v_port.load(sys.argv[1], runtime=sys.argv[2])
    calls = {
        "one": lambda: model.predict(clip, 16_000).logits,
        "batch": lambda: [each.logits for each in model.predict([clip] * 6, 16_000)],
        "speech": lambda: speech_probabilities(clip).sum(),
        "loaded": lambda: e2v_port.load(sys.argv[1], runtime=sys.argv[2]).predict(clip, 16_000).logits,
        "threads": lambda: torch.get_num_threads(),
    }
    for name, call in calls.items():
        print(call())
        in_child(call)
    """
    lines = printed(program, model, runtime)
    assert len(lines) == 10, lines
    assert lines[::2] == lines[1::2]


def test_a_pool_and_its_grandchildren_compute(tmp_path: Path) -> None:
    """multiprocessing.Pool as Linux starts it up to Python 3.13, gunicorn's preload, Celery's prefork."""
    soundfile.write(tmp_path / "clip.wav", np.random.default_rng(0).standard_normal(80_000) / 10, 16_000)
    program = """
    model = e2v_port.load("bundled-tiny", runtime="cpu")

    def label(file):
        return model.predict(file).logits

    def analyzed(file):
        return len(e2v_port.analyze(file).segments)

    print(label(sys.argv[1]))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for found in pool.map(label, [sys.argv[1]] * 4):
            print(found)
    in_child(lambda: (in_child(lambda: label(sys.argv[1])), label(sys.argv[1]))[1])
    print(analyzed(sys.argv[1]))
    in_child(lambda: analyzed(sys.argv[1]))
    """
    *labels, here, there = printed(program, tmp_path / "clip.wav")
    assert len(labels) == 7, labels
    assert len(set(labels)) == 1, labels
    assert here == there


def test_the_workers_of_a_data_loader_compute(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", np.random.default_rng(0).standard_normal(80_000) / 10, 22_050)
    program = """
    from e2v_port.audio import load_audio

    model = e2v_port.load("bundled-tiny", runtime="cpu")

    class Clips(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return model.embed(load_audio(sys.argv[1]), 16_000)

    print(Clips()[0].tolist())
    loader = torch.utils.data.DataLoader(Clips(), num_workers=2, batch_size=None, multiprocessing_context="fork")
    for vector in loader:
        print(vector.tolist())
    """
    lines = printed(program, tmp_path / "clip.wav")
    assert len(lines) == 5, lines
    assert len(set(lines)) == 1


def test_a_fork_in_the_middle_of_the_work_of_others_leaves_no_lock(tmp_path: Path) -> None:
    """Other threads load, silence and compute while this one forks."""
    program = """
    from e2v_port.quiet import quiet

    model = e2v_port.load("bundled-tiny", runtime="cpu")
    ended = threading.Event()

    def busy():
        while not ended.is_set():
            with quiet():
                model.predict([clip] * 3, 16_000)
                speech_probabilities(clip)

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()

    def call():
        with quiet():
            print("never shown")
        return e2v_port.load("bundled-tiny", runtime="cpu").predict(clip, 16_000).label

    for _ in range(5):
        in_child(call)
    ended.set()
    for thread in threads:
        thread.join()
    """
    lines = printed(program)
    assert len(lines) == 5, lines
    assert len(set(lines)) == 1, lines


@toys.needs_mlx
def test_mlx_is_refused_in_a_child_with_one_line() -> None:
    program = """
    model = e2v_port.load("bundled-tiny", runtime="mlx")
    model.predict(clip, 16_000)
    in_child(lambda: model.predict(clip, 16_000))
    in_child(lambda: model.embed([clip] * 3, 16_000))
    in_child(lambda: e2v_port.load("bundled-tiny", runtime="mlx"))
    in_child(lambda: e2v_port.load("bundled-tiny", runtime="cpu").predict(clip, 16_000).label)
    """
    lines = printed(program)
    assert len(lines) == 4, lines
    assert lines[0] == lines[1] == lines[2]
    assert lines[0].startswith("RuntimeUnavailable: this process was forked from one that had loaded MLX")
    assert 'multiprocessing.get_context("spawn") or "forkserver"' in lines[0]
    assert "Error" not in lines[3]


@toys.needs_mlx
def test_mlx_works_in_a_child_of_a_parent_without_it() -> None:
    program = """
    in_child(lambda: e2v_port.load("bundled-tiny", runtime="mlx").predict(clip, 16_000).label)
    print(e2v_port.load("bundled-tiny", runtime="mlx").predict(clip, 16_000).label)
    """
    lines = printed(program)
    assert len(lines) == 2, lines
    assert lines[0] == lines[1]
