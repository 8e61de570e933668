"""The library is a guest in the caller's process: it prints nothing and leaves what the process shares as it was."""

import ast
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import torch
from toys import make

from e2v_port.host import limit_threads, limited

ROOT = Path(__file__).parents[1]
SPEECH = ROOT / "benchmarks" / "speech" / "calm.flac"

# Everything below is set to something unusual first, so that a change to the default shows as well.
PROCESS = """
import decimal, gc, locale, logging, os, random, signal, socket, sys, threading, warnings
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import torch

torch.set_num_threads(2)
torch.set_default_dtype(torch.float64)
torch.manual_seed(7)
np.random.seed(7)
random.seed(7)
np.seterr(divide="ignore")
logging.disable(logging.DEBUG)
warnings.simplefilter("once", UserWarning)
signal.signal(signal.SIGTERM, lambda *_: None)
gc.set_threshold(600, 9, 9)

def state():
    with ThreadPoolExecutor(1) as pool:  # a new thread has the number of torch's threads that was set last
        new_thread = pool.submit(torch.get_num_threads).result()
    return {
        "stdout": sys.stdout, "stderr": sys.stderr, "stdin": sys.stdin,
        "excepthook": sys.excepthook, "thread excepthook": threading.excepthook, "argv": list(sys.argv),
        "recursion limit": sys.getrecursionlimit(), "switch interval": sys.getswitchinterval(),
        "torch threads": torch.get_num_threads(), "torch threads of a new thread": new_thread,
        "torch dtype": torch.get_default_dtype(), "torch device": torch.get_default_device(),
        "torch gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "torch determinism": torch.are_deterministic_algorithms_enabled(),
        "torch matmul precision": torch.get_float32_matmul_precision(),
        "torch random": bytes(torch.get_rng_state().numpy()),
        "numpy random": np.random.get_state()[1].tobytes(), "numpy errors": np.geterr(), "random": random.getstate(),
        "filters": list(warnings.filters), "showwarning": warnings.showwarning,
        "logging disabled": logging.root.manager.disable, "logging level": logging.root.level,
        "logging handlers": list(logging.root.handlers), "logging class": logging.getLoggerClass(),
        "environment": dict(os.environ), "folder": os.getcwd(), "locale": locale.setlocale(locale.LC_ALL),
        "signals": {name: signal.getsignal(name) for name in signal.valid_signals()},
        "garbage": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "socket timeout": socket.getdefaulttimeout(), "decimals": decimal.getcontext().prec,
    }

def changes(before):
    now = state()
    return {name: (str(value)[:200], str(now[name])[:200]) for name, value in before.items() if now[name] != value}

before = state()
"""

IMPORTS = """
import importlib, pkgutil
import e2v_port

for package in ("e2v_port", "e2v_port.converters", "e2v_port.runtimes"):
    path = importlib.import_module(package).__path__
    for module in pkgutil.walk_packages(path, package + "."):
        if not module.name.endswith((".__main__", ".cluster")):  # programs, and what needs an extra to be imported
            importlib.import_module(module.name)
del before["random"]  # rich draws from it
assert not changes(before), changes(before)
"""

USE = """
import e2v_port
from e2v_port.audio import load_audio
from e2v_port.prosody.measure import measure
from e2v_port.speech.detect import detect

clip, checkpoint, folder = sys.argv[1:]
waveform = load_audio(clip)

def use(number):
    model = e2v_port.load("bundled-tiny", runtime="cpu")
    model.predict(clip)
    model.embed(waveform, sampling_rate=16_000)
    list(e2v_port.analyze(clip, model=model, runtime="cpu").segments)
    e2v_port.EmotionDetector(model).analyze(clip)
    e2v_port.available_backends()
    detect(waveform)
    measure(waveform)
    converted = e2v_port.convert(checkpoint, out=os.path.join(folder, str(number)))
    e2v_port.load(converted, runtime="cpu").predict([waveform, waveform], sampling_rate=16_000)

with ThreadPoolExecutor(6) as pool:
    for done in [pool.submit(use, number) for number in range(8)]:
        done.result()
assert not changes(before), changes(before)
"""


def run(program: str, *arguments: object) -> None:
    child = [sys.executable, "-c", PROCESS + program, *map(str, arguments)]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_every_module_changes_and_prints_nothing() -> None:
    run(IMPORTS)


def test_using_it_from_many_threads_changes_and_prints_nothing(tmp_path: Path) -> None:
    """No log handler is set up, so Python would print anything that is logged as a warning or worse."""
    run(USE, SPEECH, make(tmp_path / "checkpoint"), tmp_path)


def printing(path: Path) -> list[str]:
    tree = ast.parse(path.read_text("utf-8"))
    programs = [each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == "main"]
    allowed = {id(node) for program in programs for node in ast.walk(program)}
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print" and id(node) not in allowed
    ]


def test_only_programs_print() -> None:
    """The command line, and `main()` of a module that is a program: `python -m e2v_port.converters.checkpoint`."""
    modules = [path for folder in ("e2v_port", "converters", "runtimes") for path in (ROOT / folder).rglob("*.py")]
    library = [path for path in sorted(modules) if ROOT / "e2v_port" / "cli" not in path.parents]
    assert [place for path in library for place in printing(path)] == []


def test_a_limit_of_threads_holds_for_one_thread_alone() -> None:
    mine = torch.get_num_threads()
    start = Barrier(4)

    def compute(number: int) -> tuple[int, int, int]:
        before = torch.get_num_threads()
        start.wait()
        with limited(number) as limit:
            start.wait()  # all four are limited at once
            inside = torch.get_num_threads()
            start.wait()
        return limit, inside, torch.get_num_threads() - before

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(compute, range(1, 5))) == [(number, number, 0) for number in range(1, 5)]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == mine
    with ThreadPoolExecutor(1, initializer=limit_threads, initargs=(mine + 1,)) as pool:
        assert pool.submit(torch.get_num_threads).result() == mine + 1
    assert torch.get_num_threads() == mine
