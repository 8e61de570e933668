"""Measures how fast converted models are here, beside the libraries they come from: `e2v bench`.

All contenders have the same clips, the same weights and the same number of threads, and take turns in one process, in
an order that is reversed each time, so that what slows the machine down slows all of them. Times are medians. What only
a process of its own can show (cold start, peak memory, long files) is measured in fresh ones.
"""

import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from signal import Signals
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from e2v_port import conversion, devices, references, verify
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.config import Architecture, ModelConfig, Transformer
from e2v_port.errors import AudioError, E2VError, RuntimeUnavailable
from e2v_port.flops import flops
from e2v_port.model import Model, load

__all__ = ["FULL", "QUICK", "Plan", "bench", "corpus", "ratio"]

Vector = NDArray[np.float32]
Note = Callable[[str], None]

SHORTEST, LONGEST = 1.0, 15.0  # seconds, of the clips of the corpus
LATENCY_SECONDS = (1, 4, 10)
GROWTH_SECONDS = 5  # one length, so that the number of clips is all that grows
MEMORY_SECONDS = 180.0  # of the corpus, longest clips first: more than any runtime holds at a time on a CPU
STAGE_SECONDS = 60.0  # of the corpus, for the shares of the stages
STAGE_RATE = 44_100  # Hz: something to resample
ROOT = Path(__file__).parents[1]
SPEECH = ROOT / "benchmarks" / "speech"
SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".opus"}
PEERS = {"emotion2vec": "FunASR", "wav2vec2": "transformers"}

# What a user of each library writes to judge one clip.
COLD_PEERS = {
    "FunASR": """if True:
        import json, sys
        from funasr import AutoModel
        model = AutoModel(model=sys.argv[1], disable_update=True, disable_pbar=True, log_level="ERROR",
                          device=sys.argv[2])
        answer, = model.generate(sys.argv[3], granularity="utterance", extract_embedding=False)
        print(json.dumps(answer["scores"]))""",
    "transformers": """if True:
        import json, sys
        import soundfile, torch
        from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model
        prepare = Wav2Vec2FeatureExtractor.from_pretrained(sys.argv[1])
        model = Wav2Vec2Model.from_pretrained(sys.argv[1]).to(sys.argv[2]).eval()
        samples, rate = soundfile.read(sys.argv[3], dtype="float32")
        with torch.inference_mode():
            values = prepare(samples, sampling_rate=rate, return_tensors="pt").input_values
            print(json.dumps(model(values.to(sys.argv[2]))[0].mean(1)[0].tolist()))""",
}


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        seconds: Of the corpus.
        repeats: Of every measurement but latency, which has three times as many.
        long_files: Their lengths in seconds.
        counts: Numbers of clips over which the time per audio second should stay the same.
        sizes: Of the models that are made where none is named.
    """

    seconds: float
    repeats: int
    long_files: tuple[int, ...]
    counts: tuple[int, ...]
    sizes: tuple[str, ...]

    def longer(self) -> "Plan":
        """Returns the same with an hour in one file, a thousand clips and the large model."""
        sizes = tuple(dict.fromkeys((*self.sizes[:1], "large", *self.sizes[1:])))
        return Plan(self.seconds, self.repeats, (*self.long_files, 3600), (*self.counts, 1000), sizes)


FULL = Plan(600.0, 3, (60, 600), (1, 10, 100), ("base", "audeering"))
QUICK = Plan(30.0, 1, (60,), (1, 10), ("base",))


@dataclass(frozen=True)
class Contender:
    """One way to run a model.

    Attributes:
        name: `e2v float32`, `FunASR`.
        dtype: What it computes in.
        peer: Whether it is a library to compare with.
        answer: Runs clips by their paths: probabilities, dimensions or an embedding of each.
    """

    name: str
    dtype: str
    peer: bool
    answer: Callable[[list[str]], list[Vector]]


def bench(
    models: Sequence[str] = (),
    *,
    runtime: str = "auto",
    dtypes: Sequence[str] = ("float32", "auto"),
    plan: Plan = FULL,
    offline: bool = False,
    note: Note = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """Measures models one after the other.

    Args:
        models: As for `e2v_port.load`; none for `plan.sizes`, made with random weights.
        runtime: As for `e2v_port.load`.
        dtypes: As for `e2v_port.load`.
        plan: How much is measured.
        offline: As for `e2v_port.load`.
        note: Told what is being measured, a line at a time.

    Yields:
        All that was measured so far, after each model: what `bench_report.save` writes.

    Raises:
        ModelNotFound, DownloadError, CheckpointError, RuntimeUnavailable: As for `e2v_port.load`.
    """
    runtime = devices.choose(runtime)
    threads = _threads()
    result: dict[str, Any] = {
        "date": str(date.today()),
        "command": _command(models, runtime, dtypes, plan),
        "machine": _machine(runtime, threads),
        "runtime": runtime,
        "notes": [],
        "models": [],
    }
    preloaded = "openblas" in os.environ.get("LD_PRELOAD", "").lower()
    if preloaded:
        result["notes"].append("OpenBLAS is preloaded, which slows torch down: no library was compared with")
    with tempfile.TemporaryDirectory(prefix="e2v-bench-") as name:
        folder = Path(name)
        note("cutting the clips")
        clips, about = corpus(folder, plan.seconds)
        result["corpus"] = about
        result["start"] = _start(clips[0], plan.repeats)
        for given in models or plan.sizes:
            place = folder / "model"
            if not models:
                note(f"{given}: making it, with random weights")
                _make(given, place)
            converted = conversion.folder_of(place / "model" if not models else given, offline=offline)
            bed = _Bed(given, converted, not models, runtime, plan, folder, clips, note)
            result["models"].append(bed.measure(list(dtypes), with_peer=not preloaded))
            shutil.rmtree(place, ignore_errors=True)
            yield result


def _command(models: Sequence[str], runtime: str, dtypes: Sequence[str], plan: Plan) -> str:
    options = [f"--model {shlex.quote(model)}" for model in models]
    options += [f"--runtime {runtime}", *(f"--dtype {dtype}" for dtype in dtypes)]
    options += ["--quick"] if plan.seconds == QUICK.seconds else []
    options += ["--long"] if 3600 in plan.long_files else []
    return f"e2v bench {' '.join(options)}"


# The clips


def corpus(folder: Path, seconds: float, seed: int = 0) -> tuple[list[str], dict[str, Any]]:
    """Writes clips of 1 to 15 s, 16 kHz FLAC, that are `seconds` long together, into `folder`/clips.

    They are cut at random from the recordings in `$E2V_TEST_AUDIO` or ../shared/audio, put one behind the other in
    random order; without these from the clips in benchmarks/speech; without those from a made signal.

    Args:
        folder: Must exist.
        seconds: At least 2.
        seed: Of lengths, order and places.

    Returns:
        Their paths, and what they are: source, number, seconds and seed.
    """
    draw = np.random.default_rng(seed)
    lengths = _lengths(round(seconds * SAMPLING_RATE), draw)
    pool, source = _pool(sum(lengths), draw)
    paths = [_cut(pool, length, folder / "clips" / f"{i:04}.flac", draw) for i, length in enumerate(lengths)]
    return paths, {
        "source": source,
        "clips": len(paths),
        "seconds": sum(lengths) / SAMPLING_RATE,
        "shortest": min(lengths) / SAMPLING_RATE,
        "longest": max(lengths) / SAMPLING_RATE,
        "seed": seed,
    }


def _lengths(total: int, draw: np.random.Generator) -> list[int]:
    """Returns even draws between the limits, in samples; the last one or two take what is left."""
    shortest, longest = round(SHORTEST * SAMPLING_RATE), round(LONGEST * SAMPLING_RATE)
    lengths: list[int] = []
    while (left := total - sum(lengths)) > longest + shortest:
        lengths.append(int(draw.integers(shortest, longest + 1)))
    return [*lengths, left] if left <= longest else [*lengths, left // 2, left - left // 2]


def _pool(samples: int, draw: np.random.Generator) -> tuple[Waveform, str]:
    """Returns recordings one behind the other, at least so many samples where there are, and what they are."""
    for folder, name in (
        (Path(os.environ.get("E2V_TEST_AUDIO", ROOT / ".." / "shared" / "audio")), "recordings"),
        (SPEECH, "clips of benchmarks/speech, spoken by a synthesiser"),
    ):
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        parts: list[Waveform] = []
        for i in draw.permutation(len(files)):
            with suppress(AudioError):
                parts.append(load_audio(files[i]))
            if sum(map(len, parts)) >= samples:
                break
        if parts:
            return np.concatenate(parts), f"{len(parts)} {name}"
    at = np.arange(20 * SAMPLING_RATE) / SAMPLING_RATE
    tone = np.sin(2 * np.pi * 150 * at) * np.clip(np.sin(2 * np.pi * 2.3 * at), 0, 1)
    signal: Waveform = (0.3 * tone + 0.01 * draw.standard_normal(len(at))).astype(np.float32)
    return signal, "a tone with noise: no recordings were at hand"


def _cut(pool: Waveform, samples: int, path: Path, draw: np.random.Generator) -> str:
    """Writes a piece of the pool, which begins again at its end."""
    path.parent.mkdir(exist_ok=True)
    start = int(draw.integers(len(pool)))
    piece = np.resize(np.roll(pool, -start), samples)
    soundfile.write(path, piece.clip(-1, 1), SAMPLING_RATE)
    return str(path)


# Arithmetic


def _peak(runtime: str, dtype: str) -> float:
    """Returns the most operations per second that products of square matrices reach here, of several sizes."""
    sizes = (512, 1024, 2048) if runtime == "cpu" else (1024, 2048, 4096, 8192)
    best = 0.0
    for size in sizes:
        multiply = _product(runtime, dtype, size)
        multiply()
        spent = 0.0
        while spent < 0.3:
            start = time.perf_counter()
            multiply()
            took = time.perf_counter() - start
            spent += took
            best = max(best, 2 * size**3 / took)
    return best


def _product(runtime: str, dtype: str, size: int) -> Callable[[], object]:
    """Returns what multiplies two matrices and waits for the product."""
    if runtime == "mlx":
        import mlx.core as mx

        left, right = (mx.random.normal((size, size)).astype(getattr(mx, dtype)) for _ in range(2))
        mx.eval(left, right)
        return lambda: mx.eval(left @ right)
    import torch

    a, b = (torch.randn(size, size, device=runtime).to(getattr(torch, dtype)) for _ in range(2))

    def multiply() -> None:
        with torch.inference_mode():
            torch.mm(a, b)
        _wait(runtime)

    return multiply


def _wait(runtime: str) -> None:
    """Waits until a device has done what it was given; the others have when a call returns."""
    if runtime in {"cuda", "mps"}:
        import torch

        (torch.cuda if runtime == "cuda" else torch.mps).synchronize()


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns how many times as fast the first is: the medians of their times, the second's by the first's."""
    return statistics.median(theirs) / statistics.median(ours)


def _take_turns(tasks: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of each task: all in turn, forwards, backwards, forwards, ..."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for i in range(repeats):
        for name in list(tasks)[:: -1 if i % 2 else 1]:
            start = time.perf_counter()
            tasks[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


# The contenders


def _ours(model: Model, name: str) -> Contender:
    def answer(paths: list[str]) -> list[Vector]:
        return [_answer_of(model, result) for result in model.each(paths)]

    return Contender(name, model.dtype, peer=False, answer=answer)


def _answer_of(model: Model, result: Any) -> Vector:
    if isinstance(result, AudioError):
        raise result
    if model.config.dimensional:
        return np.array([*model.measure(result).to_dict().values()], np.float32)
    return np.array([*model.judge(result).scores.values()], np.float32) if model.labels else result[1].embedding


def _peer(config: ModelConfig, device: str) -> Contender:
    """Builds the library's own model from the unconverted checkpoint.

    Raises:
        RuntimeUnavailable: The library is not installed, or there is none.
        CheckpointError, ModelNotFound: The checkpoint is not here, or the library cannot read it.
    """
    if config.family not in PEERS:
        raise RuntimeUnavailable(f"no library has {config.family}")
    name = PEERS[config.family]
    if not references.installed(config.family):
        raise RuntimeUnavailable(f"{name} is not installed")
    checkpoint = verify.checkpoint_of(config, None)
    make = _funasr if name == "FunASR" else _transformers
    return Contender(name, "float32", peer=True, answer=make(checkpoint, device))


def _funasr(checkpoint: Any, device: str) -> Callable[[list[str]], list[Vector]]:
    import torch

    with references.quiet():
        from funasr import AutoModel

        model = AutoModel(
            model=str(checkpoint.weights.parent),
            disable_update=True,
            disable_pbar=True,
            log_level="ERROR",
            device=device,
            ncpu=torch.get_num_threads(),  # otherwise it sets 4 threads for all of torch, at every call
        )

    def answer(paths: list[str]) -> list[Vector]:
        answers = []
        with references.quiet():
            for path in paths:
                (found,) = model.generate(path, granularity="utterance", extract_embedding=False)
                answers.append(np.array(found["scores"] or found["feats"], np.float32))
        return answers

    return answer


def _transformers(checkpoint: Any, device: str) -> Callable[[list[str]], list[Vector]]:
    import torch
    from torch.nn.functional import linear

    reference = references.Transformers(checkpoint)
    model = reference.model.to(device)
    head = {name: tensor.to(device) for name, tensor in reference.head.items()}

    def answer(paths: list[str]) -> list[Vector]:
        answers = []
        for path in paths:
            samples, rate = soundfile.read(path, dtype="float32")
            with torch.inference_mode():
                values = reference.prepare(samples, sampling_rate=rate, return_tensors="pt")["input_values"]
                x = model(values.to(device))[0].mean(1)
                if head:
                    x = torch.tanh(linear(x, head["classifier.dense.weight"], head["classifier.dense.bias"]))
                    x = linear(x, head["classifier.out_proj.weight"], head["classifier.out_proj.bias"])
                answers.append(x[0].float().cpu().numpy())
        return answers

    return answer


# The measurements


@dataclass(frozen=True)
class _Bed:
    """One model, the clips, and where and how it is measured."""

    name: str
    folder: Path
    random: bool
    runtime: str
    plan: Plan
    work: Path
    clips: list[str]
    note: Note

    def measure(self, dtypes: list[str], *, with_peer: bool) -> dict[str, Any]:
        """Measures all there is to say of the model.

        Args:
            dtypes: Of ours.
            with_peer: Whether to compare with the library the model comes from.
        """
        config = ModelConfig.read(self.folder)
        notes: list[str] = []
        self.note(f"{self.name}: loading")
        ours: dict[str, Contender] = {}
        models: dict[str, Model] = {}
        for dtype in dtypes:
            model = load(self.folder, runtime=self.runtime, dtype=dtype, offline=True)
            if any(model.dtype == other.dtype for other in models.values()):
                notes.append(f"{dtype} is {model.dtype} here, which is measured already")
                continue
            if model.compile():
                notes.append(f"{model.dtype}: batches run compiled")
            name = f"e2v {model.dtype}" + (" (auto)" if dtype == "auto" else "")
            ours[dtype], models[dtype] = _ours(model, name), model
        contenders = [*ours.values()]
        device = self._peer_device()
        try:
            if with_peer:
                other = _peer(config, device)
                other.answer(self.clips[:1])
                contenders.append(other)
        except Exception as error:  # a library fails in its own ways
            notes.append(f"not compared with a library: {error}")
        peer = contenders[-1].name if contenders[-1].peer else None
        if peer and device != self.runtime:
            notes.append(f"{peer} runs on {device}: it has no {self.runtime}")
        specs: dict[str, dict[str, Any]] = {contender.name: {"dtype": dtype} for dtype, contender in ours.items()}
        if peer:
            specs[peer] = {"peer": device}
        found = {
            "name": self.name,
            "source": config.source.repository if not self.random else "made for this, with random weights",
            "random_weights": self.random,
            "family": config.family,
            "parameters": self._parameters(),
            "weights_bytes": (self.folder / "model.safetensors").stat().st_size,
            "peer": peer,
            "notes": notes,
            "throughput": self._throughput(contenders, config),
            "latency": self._latency(contenders),
            "load": self._load([*models], config if peer else None, device),
            "stages": self._stages(models),
            "growth": self._growth(contenders),
        }
        # What follows runs in other processes, beside which this one should hold no model.
        del contenders, ours, models, model
        found["cold_start"] = self._cold_start(specs, config)
        found["memory"] = self._memory(specs)
        found["long_files"] = self._long_files(specs, config)
        return found

    def _peer_device(self) -> str:
        return self.runtime if self.runtime != "mlx" else "mps" if devices.unavailable("mps") is None else "cpu"

    def _parameters(self) -> int:
        from safetensors import safe_open

        with safe_open(self.folder / "model.safetensors", "np") as stored:
            return sum(prod(stored.get_slice(name).get_shape()) for name in stored.keys())  # noqa: SIM118 (not a dict)

    def _throughput(self, contenders: list[Contender], config: ModelConfig) -> list[dict[str, Any]]:
        self.note(f"{self.name}: throughput")
        answers: dict[str, list[Vector]] = {}
        peaks: dict[str, list[float]] = {contender.dtype: [] for contender in contenders if not contender.peer}

        def task(contender: Contender) -> Callable[[], object]:
            return lambda: answers.update({contender.name: contender.answer(self.clips)})

        def multiply() -> None:  # in every round, as a machine that others use has another peak every minute
            for dtype, found in peaks.items():
                found.append(_peak(self.runtime, dtype))

        for contender in contenders:
            contender.answer(self.clips[:2])
        tasks = {contender.name: task(contender) for contender in contenders}
        seconds = _take_turns(tasks | {"products": multiply}, self.plan.repeats)
        samples = [soundfile.info(clip).frames for clip in self.clips]
        operations = sum(flops(config.architecture, count) for count in samples)
        reference = contenders[-1].name if contenders[-1].peer else contenders[0].name
        rows = []
        for contender in contenders:
            median = statistics.median(seconds[contender.name])
            peak = None if contender.peer else statistics.median(peaks[contender.dtype])
            pairs = [*zip(answers[contender.name], answers[reference], strict=True)]
            alone = contender.name == reference
            rows.append(
                {
                    "name": contender.name,
                    "dtype": contender.dtype,
                    "seconds": seconds[contender.name],
                    "rate": sum(samples) / SAMPLING_RATE / median,
                    "ratio": self._ratio(contenders, contender, seconds),
                    "flops": operations,
                    "flops_per_second": operations / median,
                    "peak": peak,
                    "of_peak": operations / median / peak if peak else None,
                    "compared_with": None if alone else reference,
                    "difference": None if alone else max(float(np.abs(a - b).max()) for a, b in pairs),
                }
            )
        return rows

    @staticmethod
    def _ratio(
        contenders: Sequence[Contender], contender: Contender, seconds: Mapping[str, Sequence[float]]
    ) -> float | None:
        peer = contenders[-1]
        return ratio(seconds[contender.name], seconds[peer.name]) if peer.peer and contender is not peer else None

    def _piece(self, seconds: float, name: str, seed: int = 1) -> str:
        """Returns a clip of this length, made of those of the corpus."""
        path = self.work / "pieces" / f"{name}.flac"
        if not path.exists():
            pool = np.concatenate([load_audio(clip) for clip in self.clips])
            _cut(pool, round(seconds * SAMPLING_RATE), path, np.random.default_rng(seed))
        return str(path)

    def _latency(self, contenders: list[Contender]) -> list[dict[str, Any]]:
        rows = []
        for length in LATENCY_SECONDS:
            self.note(f"{self.name}: latency of {length} s")
            clip = self._piece(length, f"{length}s")
            tasks: dict[str, Callable[[], object]] = {
                contender.name: partial(contender.answer, [clip]) for contender in contenders
            }
            _take_turns(tasks, 1)
            seconds = _take_turns(tasks, 3 * self.plan.repeats)
            rows += [
                {
                    "clip": length,
                    "name": contender.name,
                    "seconds": seconds[contender.name],
                    "ratio": self._ratio(contenders, contender, seconds),
                }
                for contender in contenders
            ]
        return rows

    def _load(self, dtypes: list[str], peer: ModelConfig | None, device: str) -> list[dict[str, Any]]:
        """Times loading in this process, where everything is imported and the files are in the system's cache."""
        self.note(f"{self.name}: loading again")

        tasks: dict[str, Callable[[], object]] = {
            f"e2v {dtype}": partial(load, self.folder, runtime=self.runtime, dtype=dtype, offline=True)
            for dtype in dtypes
        }
        repeats = max(3, self.plan.repeats)
        if peer:
            checkpoint = verify.checkpoint_of(peer, None)
            make = _funasr if PEERS[peer.family] == "FunASR" else _transformers
            tasks[PEERS[peer.family]] = partial(make, checkpoint, device)
        seconds = _take_turns(tasks, repeats)
        return [{"name": name, "seconds": times} for name, times in seconds.items()]

    def _growth(self, contenders: list[Contender]) -> list[dict[str, Any]]:
        """Times more and more clips of one length with the last of ours, the fastest where `auto` is asked for."""
        ours = next(contender for contender in reversed(contenders) if not contender.peer)
        distinct = [self._piece(GROWTH_SECONDS, f"growth-{i}", seed=i) for i in range(min(100, max(self.plan.counts)))]
        rows = []
        for count in self.plan.counts:
            self.note(f"{self.name}: {count} clips")
            clips = (distinct * -(-count // len(distinct)))[:count]
            repeats = max(self.plan.repeats, min(10, 20 // count)) if count < 1000 else 1
            (times,) = _take_turns({ours.name: partial(ours.answer, clips)}, repeats).values()
            per_second = statistics.median(times) / (count * GROWTH_SECONDS)
            rows.append({"name": ours.name, "clips": count, "seconds": times, "per_audio_second": per_second})
        return rows

    def _stages(self, models: Mapping[str, Model]) -> list[dict[str, Any]]:
        """Times the parts of the way from a file at 44.1 kHz to its answer, with torch; elsewhere nothing."""
        if self.runtime == "mlx":
            return []
        self.note(f"{self.name}: stages")
        paths: list[Path] = []
        decoded = resampled = total = 0.0
        (self.work / "stages").mkdir(exist_ok=True)
        for clip in self.clips:
            path = self.work / "stages" / Path(clip).name
            if not path.exists():
                signal = soxr.resample(load_audio(clip), SAMPLING_RATE, STAGE_RATE)
                soundfile.write(path, signal.clip(-1, 1), STAGE_RATE)
            paths.append(path)
            total += soundfile.info(path).duration
            if total >= STAGE_SECONDS:
                break
        for path in paths:
            start = time.perf_counter()
            soundfile.read(path, dtype="float32")
            middle = time.perf_counter()
            load_audio(path)
            decoded += middle - start
            resampled += time.perf_counter() - middle - (middle - start)
        rows = []
        for model in models.values():
            with _timed_modules(model, self.runtime) as parts:
                start = time.perf_counter()
                for path in paths:  # one by one: batches would run at the same time
                    for _ in model.each([path]):
                        pass
                whole = time.perf_counter() - start
            seconds = {"decode": decoded, "resample": max(resampled, 0.0), **parts}
            seconds["rest"] = max(whole - sum(seconds.values()), 0.0)
            rows.append({"name": f"e2v {model.dtype}", "seconds": whole, "stages": seconds})
        return rows

    # In processes of their own

    def _cold_start(self, specs: Mapping[str, Mapping[str, Any]], config: ModelConfig) -> list[dict[str, Any]]:
        """Times one clip from the start of Python to the answer."""
        self.note(f"{self.name}: cold start")
        clip = self._piece(LATENCY_SECONDS[1], f"{LATENCY_SECONDS[1]}s")
        commands: dict[str, list[str]] = {}
        embeds = not config.architecture.num_labels  # analyze needs labels or dimensions
        for name, spec in specs.items():
            if "peer" in spec:
                checkpoint = verify.checkpoint_of(config, None).weights.parent
                commands[name] = ["-c", COLD_PEERS[name], str(checkpoint), spec["peer"], clip]
                continue
            command = ["embed"] if embeds else ["analyze", "--whole", "--json"]
            options = ["--model" if embeds or not config.dimensional else "--dimensional", str(self.folder)]
            options += ["--runtime", self.runtime, "--dtype", spec["dtype"], "--offline"]
            options += ["--out", str(self.work / "cold.npz")] if embeds else []
            commands[name] = ["-m", "e2v_port", *command, *options, clip]
        seconds: dict[str, list[float]] = {}
        failures = {}
        for name, command in [*commands.items()]:  # the first fills the system's caches, and Python's
            try:
                _fresh(command)
            except E2VError as error:
                failures[name] = str(error)
                del commands[name]
        tasks: dict[str, Callable[[], object]] = {name: partial(_fresh, command) for name, command in commands.items()}
        seconds = _take_turns(tasks, max(self.plan.repeats, 1))
        peer = next((name for name, spec in specs.items() if "peer" in spec and name in seconds), None)
        return [
            {"name": name, "failed": failures[name]}
            if name in failures
            else {
                "name": name,
                "seconds": seconds[name],
                "ratio": ratio(seconds[name], seconds[peer]) if peer and name != peer else None,
            }
            for name in specs
        ]

    def _memory(self, specs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Measures the peak of a process that loads the model and runs the longest clips of the corpus."""
        self.note(f"{self.name}: memory")
        clips, seconds = [], 0.0
        for clip in sorted(self.clips, key=lambda clip: -soundfile.info(clip).frames):
            clips.append(clip)
            seconds += soundfile.info(clip).duration
            if seconds >= MEMORY_SECONDS:
                break
        return [{"name": name, **self._alone(spec, clips)} for name, spec in specs.items()]

    def _long_files(self, specs: Mapping[str, Mapping[str, Any]], config: ModelConfig) -> list[dict[str, Any]]:
        rows = []
        for length in self.plan.long_files:
            clip = self._piece(length, f"{length}s")
            for name, spec in specs.items():
                self.note(f"{self.name}: {length} s in one file, {name}")
                row: dict[str, Any] = {"clip": length, "name": name}
                needed = _attention_bytes(config.architecture, length)
                if "peer" in spec and needed > _memory_bytes() / 2:
                    row["failed"] = f"not run: its attention would take {needed / 1e9:.0f} GB"
                else:
                    row |= self._alone(spec, [clip])
                rows.append(row)
        return rows

    def _alone(self, spec: Mapping[str, Any], clips: list[str]) -> dict[str, Any]:
        task = {"folder": str(self.folder), "runtime": self.runtime, "clips": clips, **spec}
        try:
            answer: dict[str, Any] = json.loads(_fresh(["-m", "e2v_port.bench"], json.dumps(task)).splitlines()[-1])
        except E2VError as error:
            return {"failed": str(error)}
        return answer


def _fresh(arguments: list[str], given: str = "") -> str:
    """Runs Python and returns what it printed.

    Raises:
        E2VError: It failed.
    """
    # Compiled modules are kept between runs, as for anyone who has run a program before.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"E2V_LICENCE": "accepted"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, input=given, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise E2VError(f"stopped by {Signals(-done.returncode).name}: most likely there was not enough memory")
    if done.returncode:
        raise E2VError((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:300])
    return done.stdout


def _main() -> None:
    """Runs clips in this process alone, and prints how long it took and the most memory it had."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, this process goes, and no other
    task = json.load(sys.stdin)
    if "peer" in task:
        contender = _peer(ModelConfig.read(Path(task["folder"])), task["peer"])
    else:
        model = load(task["folder"], runtime=task["runtime"], dtype=task["dtype"], offline=True)
        contender = _ours(model, "e2v")
    start = time.perf_counter()
    contender.answer(task["clips"])
    took = time.perf_counter() - start
    print(json.dumps({"seconds": took, "peak_bytes": _peak_memory(), "device_peak_bytes": _device_memory()}))


def _peak_memory() -> int:
    """Returns the most resident memory this process had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # where ru_maxrss counts what the process had been before it became Python
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _device_memory() -> int | None:
    """Returns the most memory that this process had on a GPU, in bytes; None without one."""
    if "mlx.core" in sys.modules:
        return int(sys.modules["mlx.core"].get_peak_memory())
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch and torch.cuda.is_available() else None


def _attention_bytes(config: Architecture, seconds: float) -> int:
    """Returns about what attention over a whole clip takes: bias, products and softmax of all heads, in float32."""
    if not isinstance(config, Transformer):
        return 0
    return 3 * 4 * config.num_heads * config.frames(round(seconds * SAMPLING_RATE)) ** 2


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


_CONVOLUTIONS = {"conv_layers": "convolutions", "layers": "convolutions", "positions": "positions"}


@contextmanager
def _timed_modules(model: Model, runtime: str) -> Iterator[dict[str, float]]:
    """Adds up the seconds in the modules of each part; a device is waited for before and after each."""
    runner: Any = model._runner
    network = runner.model
    runner.plain = True  # on CUDA; others know nothing else
    parts = {"convolutions": 0.0, "positions": 0.0, "attention": 0.0, "MLP": 0.0}
    starts: list[float] = []
    handles = []

    def before(*_: Any) -> None:
        _wait(runtime)
        starts.append(time.perf_counter())

    for name, module in network.named_modules():
        first, _, last = name.rpartition(".")
        part = {"attn": "attention", "mlp": "MLP"}.get(last)
        if last.isdigit() or (first == "" and not list(module.children())):
            part = _CONVOLUTIONS.get(first or last)
        if part is None:
            continue

        def after(*_: Any, part: str = part) -> None:
            _wait(runtime)
            parts[part] += time.perf_counter() - starts.pop()

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield parts
    finally:
        runner.plain = False
        for handle in handles:
            handle.remove()


def _start(clip: str, repeats: int) -> list[dict[str, Any]]:
    """Times what a new user does first, each in a fresh process: imports the package, asks the model in it."""
    program = "import time; start = time.perf_counter(); import e2v_port; print(time.perf_counter() - start)"
    analyze = ["-m", "e2v_port", "analyze", "--runtime", "cpu", clip]
    _fresh(analyze)
    return [
        {"name": "import e2v_port", "seconds": [float(_fresh(["-c", program])) for _ in range(repeats)]},
        {
            "name": "e2v analyze, model in the package",
            "seconds": _take_turns({"": partial(_fresh, analyze)}, repeats)[""],
        },
    ]


def _make(size: str, folder: Path) -> None:
    """Writes a checkpoint with random weights and what it is converted to: checkpoint and model."""
    synthetic = import_module("e2v_port.converters.synthetic")
    checkpoint = folder / "checkpoint"
    if size == "audeering":
        synthetic.make_wav2vec2(synthetic.AUDEERING, checkpoint)
    else:
        synthetic.make(synthetic.BASE if size == "base" else synthetic.LARGE, checkpoint)
    conversion.convert(str(checkpoint), out=folder / "model", offline=True, note=lambda _: None)


def _threads() -> int:
    """Returns how many threads torch computes with here; every contender has as many."""
    import torch

    return torch.get_num_threads()


def _machine(runtime: str, threads: int) -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    versions = {"Python": platform.python_version()}
    for name in ("e2v-port", "torch", "mlx", "funasr", "transformers", "numpy"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "device": devices.describe(runtime),
        "threads": threads,
        "versions": versions,
    }


if __name__ == "__main__":
    _main()
