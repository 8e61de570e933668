"""Load a converted model and ask it: predictions and embeddings of clips, one or many."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from e2v_port import conversion, devices, layout
from e2v_port.audio import SAMPLING_RATE, Clip, Waveform, load_audio, normalize
from e2v_port.config import QUANTISED, ModelConfig, Transformer
from e2v_port.emotions import Dimensions
from e2v_port.errors import AudioError, E2VError, NoLabels
from e2v_port.files import identity
from e2v_port.windows import Joined, Piece, pieces

__all__ = ["Model", "Output", "Prediction", "Runtime", "ahead", "load", "softmax", "tell_licence"]

Vector = NDArray[np.float32]
# Pieces of clips, and for each batch of them their numbers and what gives their outputs.
_Call: TypeAlias = Future[list["Output"]] | Callable[[], list["Output"]]
_Window: TypeAlias = tuple[list[Piece | AudioError], list[tuple[list[int], _Call]]]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

PADDING = 1 / 8  # of what a batch may hold: padding is computed for nothing, and no more of it is put together
# Clips of this many batches, and of two minutes at least, are held and sorted by length, so that a batch pads little.
WINDOW_BATCHES = 8
WINDOW_SECONDS = 120.0


@dataclass(frozen=True)
class Output:
    """What a runtime makes of one clip.

    Attributes:
        embedding: What the model makes of the whole clip (of transformers: the mean of the frames), [dim], float32.
        logits: One per label, unused ones too, [labels], float32; None for a model without a head.
        frames: [frames, dim], float32, one every `config.architecture.hop` samples (50 a second for transformers);
            None unless asked for.
        frame_logits: [frames, labels], float32: what the head makes of each frame by itself. It was trained on means
            over clips, so these show where in a clip an emotion is rather than how sure it is.
    """

    embedding: Vector
    logits: Vector | None
    frames: Vector | None
    frame_logits: Vector | None


class Runtime(Protocol):
    """What model.py needs of a runtime in runtimes/."""

    batch_seconds: float
    readers: int
    """See `Model`."""

    @property
    def at_once(self) -> int:
        """How many batches run at the same time."""

    def pool(self) -> Executor:
        """Returns the `at_once` threads that batches run in, those of all calls."""

    def compile(self) -> bool:
        """Makes batches faster, if that takes more than loading; tells whether they are."""

    def run(self, batch: Waveform, samples: list[int], *, frames: bool) -> list[Output]:
        """Runs clips [B, longest], normalised and filled up with zeros, of so many samples each."""

    def score(self, embedding: Vector) -> Vector:
        """Applies the head to one embedding [dim]: logits [labels]."""

    def stages(self, waveform: Waveform) -> dict[str, Vector]:
        """Runs one clip [samples], normalised, and returns the value of every stage by name, in order."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one clip.

    Attributes:
        label: The most probable label.
        confidence: Its probability, 0 to 1.
        scores: Probability of each label, summing to 1, in the model's order; labels the checkpoint marks as unused
            are left out.
        logits: What the head gives, before the temperature (`config.temperature`) and the softmax.
        duration: Of the clip, in seconds.
    """

    label: str
    confidence: float
    scores: Mapping[str, float]
    logits: Mapping[str, float]
    duration: float

    def __repr__(self) -> str:
        ranked = sorted(self.scores.items(), key=lambda item: -item[1])
        others = ", ".join(f"{label} {score:.3f}" for label, score in ranked[1:3])
        return f"Prediction({self.label} {self.confidence:.3f}; {others}; {self.duration:.2f} s)"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, strings and floats, as JSON holds them."""
        return {
            "label": self.label,
            "confidence": self.confidence,
            "scores": dict(self.scores),
            "logits": dict(self.logits),
            "duration": self.duration,
        }


class Model:
    """A converted model on one runtime. May be used from several threads at once.

    Attributes:
        config: What config.json says.
        runtime: `cuda`, `cpu`, `mps` or `mlx`.
        dtype: Type of the arithmetic between waveform norm and pooling: `float32`, `float16` or `bfloat16`.
        labels: Names of the labels it gives, in order; empty for a model without a head.
        embed_dim: Length of an embedding.
        window_seconds: About how much audio `each` sorts at a time; it holds twice as much, to read while it computes.
        readers: How many clips it reads side by side, ahead of what runs; 0 where one after the other is fast enough.
    """

    def __init__(self, config: ModelConfig, runtime: str, dtype: str, runner: Runtime) -> None:
        self.config = config
        self.runtime = runtime
        self.dtype = dtype
        self.labels = tuple(label.name for label in config.labels if not label.unused)
        self.embed_dim = config.architecture.embed_dim
        self.window_seconds = max(WINDOW_BATCHES * runner.batch_seconds, WINDOW_SECONDS)
        self.readers = runner.readers
        self._runner = runner

    def __repr__(self) -> str:
        return f"Model({self.config.source.repository}, {self.dtype}, on {self.runtime})"

    @overload
    def predict(self, clips: Clip, sampling_rate: int | None = None) -> Prediction: ...
    @overload
    def predict(self, clips: list[Clip] | tuple[Clip, ...], sampling_rate: int | None = None) -> list[Prediction]: ...
    def predict(
        self, clips: Clip | list[Clip] | tuple[Clip, ...], sampling_rate: int | None = None
    ) -> Prediction | list[Prediction]:
        """Predicts the emotion of one clip, or of each clip of a list.

        Args:
            clips: A path, a binary file object or an array of samples; or a list of these, which is run in batches
                with the same results.
            sampling_rate: Of arrays, in Hz; files bring their own.

        Returns:
            A Prediction; for a list, one per clip in its order.

        Raises:
            AudioError: A clip cannot be used; its name is told. Nothing is returned for the others: see `each`.
            NoLabels: The model has no head.
        """
        self.need_labels()
        if not isinstance(clips, (list, tuple)):
            return self.predict([clips], sampling_rate)[0]
        return [self.judge(_ok(output)) for output in self.each(clips, sampling_rate)]

    @overload
    def dimensions(self, clips: Clip, sampling_rate: int | None = None) -> Dimensions: ...
    @overload
    def dimensions(
        self, clips: list[Clip] | tuple[Clip, ...], sampling_rate: int | None = None
    ) -> list[Dimensions]: ...
    def dimensions(
        self, clips: Clip | list[Clip] | tuple[Clip, ...], sampling_rate: int | None = None
    ) -> Dimensions | list[Dimensions]:
        """Measures arousal, dominance and valence of one clip, or of each clip of a list.

        Args:
            clips: As for `predict`.
            sampling_rate: As for `predict`.

        Returns:
            The model's raw outputs, nominally 0 to 1; for a list, one per clip in its order.

        Raises:
            AudioError: A clip cannot be used; its name is told. Nothing is returned for the others: see `each`.
            NoLabels: The model gives none.
        """
        self.need_dimensions()
        if not isinstance(clips, (list, tuple)):
            return self.dimensions([clips], sampling_rate)[0]
        return [self.measure(_ok(output)) for output in self.each(clips, sampling_rate)]

    @overload
    def embed(
        self,
        clips: Clip,
        sampling_rate: int | None = None,
        *,
        granularity: Literal["utterance", "frame"] = "utterance",
    ) -> Vector: ...
    @overload
    def embed(
        self,
        clips: list[Clip] | tuple[Clip, ...],
        sampling_rate: int | None = None,
        *,
        granularity: Literal["utterance", "frame"] = "utterance",
    ) -> list[Vector]: ...
    def embed(
        self,
        clips: Clip | list[Clip] | tuple[Clip, ...],
        sampling_rate: int | None = None,
        *,
        granularity: Literal["utterance", "frame"] = "utterance",
    ) -> Vector | list[Vector]:
        """Embeds one clip, or each clip of a list.

        Args:
            clips: As for `predict`.
            sampling_rate: As for `predict`.
            granularity: `utterance` for one vector of the clip, [dim]; `frame` for one every
                `config.architecture.hop` samples, [frames, dim]: 50 a second for transformers.

        Returns:
            A float32 array; for a list, one per clip in its order.

        Raises:
            AudioError: A clip cannot be used; its name is told.
            ValueError: Another granularity.
        """
        if granularity not in {"utterance", "frame"}:
            raise ValueError(f"granularity must be 'utterance' or 'frame', not {granularity!r}")
        if not isinstance(clips, (list, tuple)):
            return self.embed([clips], sampling_rate, granularity=granularity)[0]
        outputs = map(_ok, self.each(clips, sampling_rate, frames=granularity == "frame"))
        return [output.embedding if output.frames is None else output.frames for _, output in outputs]

    def each(
        self, clips: Iterable[Clip], sampling_rate: int | None = None, *, frames: bool = False
    ) -> Iterator[tuple[float, Output] | AudioError]:
        """Runs any number of clips in batches, and goes on where one of them cannot be used.

        Clips are read as they are needed, one `window_seconds` ahead of what runs, so the iterable may be longer than
        memory. So may a clip: beyond a minute it goes through the model in windows, see `e2v_port.windows`.

        Args:
            clips: As for `predict`.
            sampling_rate: As for `predict`.
            frames: Whether the outputs carry their frames.

        Yields:
            For each clip, in order: its duration in seconds and its output, or the AudioError that stopped it.
        """
        running: deque[_Window] = deque()
        try:
            for window in self._windows(clips, sampling_rate, frames):
                running.append(self._started(window, frames, alone=not running))
                if len(running) > 1:  # so that while one window runs, the next is read
                    yield from self._finished(running[0], frames)
                    running.popleft()
            yield from self._finished(running[0], frames)
        finally:
            for _, calls in running:
                for _, call in calls:
                    if isinstance(call, Future):
                        call.cancel()

    def _windows(
        self, clips: Iterable[Clip], sampling_rate: int | None, frames: bool
    ) -> Iterator[list[Piece | AudioError]]:
        window: list[Piece | AudioError] = []
        seconds = 0.0
        for piece in self._pieces(clips, sampling_rate, frames):
            window.append(piece)
            if isinstance(piece, Piece):
                seconds += len(piece.waveform) / SAMPLING_RATE
            if seconds >= self.window_seconds:
                yield window
                window, seconds = [], 0.0
        yield window

    def _pieces(self, clips: Iterable[Clip], sampling_rate: int | None, frames: bool) -> Iterator[Piece | AudioError]:
        def begun(clip: Clip) -> Iterator[Piece | AudioError]:
            found = pieces(clip, sampling_rate, self.config.architecture, frames=frames)
            return chain([*islice(found, 1)], found)  # the first piece, mostly all of it, is read here

        yield from chain.from_iterable(ahead(begun, clips, self.readers))

    def _started(self, window: list[Piece | AudioError], frames: bool, *, alone: bool) -> "_Window":
        waveforms = {i: item.waveform for i, item in enumerate(window) if isinstance(item, Piece)}
        # What is taken from the windows of a long clip, and what not, is told by frames.
        need = frames or any(isinstance(item, Piece) and item.joined for item in window)
        # The longest first, so that no thread begins with it when the others are done.
        batches = [*self._batches(waveforms)][::-1]
        calls = [partial(self._run_batch, [waveforms[i] for i in batch], need) for batch in batches]
        if alone and len(batches) == 1:
            return window, [(batches[0], calls[0])]  # by itself it has all threads, here
        pool = self._runner.pool()
        return window, [(batch, pool.submit(call)) for batch, call in zip(batches, calls, strict=True)]

    def _finished(self, running: "_Window", frames: bool) -> Iterator[tuple[float, Output] | AudioError]:
        window, calls = running
        results: dict[int, Output] = {}
        for batch, call in calls:
            results |= zip(batch, call.result() if isinstance(call, Future) else call(), strict=True)
        for i, item in enumerate(window):
            if isinstance(item, AudioError):
                yield item
            elif item.joined is None:
                output = results.pop(i)
                yield item.duration, output if frames else Output(output.embedding, output.logits, None, None)
            else:
                item.joined.add(item.taken, item.at, results.pop(i))
                if item.last:
                    yield item.duration, self._join(item.joined)

    def _batches(self, waveforms: Mapping[int, Waveform]) -> Iterator[list[int]]:
        """Yields the numbers of the clips that run together: by length, so that little of a batch is padding."""
        most = self._runner.batch_seconds * SAMPLING_RATE
        batch: list[int] = []
        own = 0
        for i in sorted(waveforms, key=lambda i: len(waveforms[i])):
            own += len(waveforms[i])
            filled = len(waveforms[i]) * (len(batch) + 1)  # the newest clip is what the others would be filled up to
            if batch and (filled > most or filled - own > PADDING * most):
                yield batch
                batch, own = [], len(waveforms[i])
            batch.append(i)
        if batch:
            yield batch

    def _join(self, joined: Joined) -> Output:
        embedding = joined.embedding
        logits = self._runner.score(embedding) if self.config.labels else None
        return Output(embedding, logits, joined.frames, joined.frame_logits)

    def _run_batch(self, waveforms: list[Waveform], frames: bool) -> list[Output]:
        batch = np.zeros((len(waveforms), max(map(len, waveforms))), dtype=np.float32)
        for row, waveform in zip(batch, waveforms, strict=True):
            row[: len(waveform)] = waveform
        outputs = self._runner.run(batch, [len(waveform) for waveform in waveforms], frames=frames)
        if not all(np.isfinite(output.embedding).all() for output in outputs):
            remedy = "convert the checkpoint again" if self.dtype == "float32" else "load it with dtype float32"
            raise E2VError(
                f"{self.config.source.repository} gives numbers that are not finite in {self.dtype} on {self.runtime}: "
                f"{remedy}"
            )
        return outputs

    def _normalized(self, waveform: Waveform) -> Waveform:
        architecture = self.config.architecture
        return normalize(waveform, architecture.waveform_eps) if architecture.normalize else waveform

    def judge(self, result: tuple[float, Output]) -> Prediction:
        """Turns a clip's duration and output, as `each` yields them, into a Prediction.

        Raises:
            NoLabels: The model has no head.
        """
        duration, output = result
        self.need_labels()
        assert output.logits is not None
        pairs = zip(self.config.labels, output.logits.tolist(), strict=True)
        logits = {label.name: logit for label, logit in pairs if not label.unused}
        probabilities = softmax(np.array([*logits.values()]), self.config.temperature)
        scores = dict(zip(logits, probabilities.tolist(), strict=True))
        label = max(scores, key=scores.__getitem__)
        return Prediction(label, scores[label], scores, logits, duration)

    def measure(self, result: tuple[float, Output]) -> Dimensions:
        """Turns a clip's duration and output, as `each` yields them, into Dimensions.

        Raises:
            NoLabels: The model gives none.
        """
        _, output = result
        self.need_dimensions()
        assert output.logits is not None
        names = (label.name for label in self.config.labels)
        return Dimensions(**dict(zip(names, output.logits.tolist(), strict=True)))

    def compile(self) -> bool:
        """Makes batches faster from now on, in some 20 s (an estimate), for work that takes longer than that.

        On CUDA torch's compiler fuses what lies between matrix products, and attention makes its bias where it needs
        it. Where the compiler or Triton is missing, a line on stderr says so, and all runs as before. Elsewhere there
        is nothing to gain, and nothing is done.

        Returns:
            Whether anything is compiled.
        """
        return self._runner.compile()

    def stages(self, clip: Clip, sampling_rate: int | None = None) -> dict[str, Vector]:
        """Runs one clip and returns the value of every stage of the forward pass by name, in order."""
        waveform = self._normalized(load_audio(clip, sampling_rate))
        return {"waveform": waveform, **self._runner.stages(waveform)}

    def need_labels(self) -> None:
        """Raises NoLabels for a model that gives no labels; to be asked before long work."""
        if self.config.dimensional:
            raise NoLabels(
                f"{self.config.source.repository} gives arousal, dominance and valence, not labels; use dimensions, or "
                f"a model with labels such as iic/emotion2vec_plus_base"
            )
        if not self.labels:
            raise NoLabels(
                f"{self.config.source.repository} has no classification head: it gives embeddings, not labels; "
                f"use embed, or a model with labels such as iic/emotion2vec_plus_base"
            )

    def need_dimensions(self) -> None:
        """Raises NoLabels for a model that gives no dimensions; to be asked before long work."""
        if not self.config.dimensional:
            raise NoLabels(
                f"{self.config.source.repository} gives no arousal, dominance and valence; use "
                f"audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim"
            )


def ahead(call: Callable[[_Item], _Result], items: Iterable[_Item], readers: int) -> Iterator[_Result]:
    """Yields what a call makes of each item, in order: made by so many threads ahead of who takes it, or here if 0."""
    if not readers:
        yield from map(call, items)
        return
    with ThreadPoolExecutor(readers, "reader") as pool:
        made: deque[Future[_Result]] = deque()
        try:
            for item in items:
                made.append(pool.submit(call, item))
                if len(made) > 4 * readers:  # one slow item does not keep the others waiting
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()
        finally:
            for future in made:
                future.cancel()


def softmax(logits: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """Returns probabilities, in float64, of logits [..., labels] divided by a temperature."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(-1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(-1, keepdims=True)
    return probabilities


def _ok(result: tuple[float, Output] | AudioError) -> tuple[float, Output]:
    if isinstance(result, AudioError):
        raise result
    return result


def load(model: str | Path, *, runtime: str = "auto", dtype: str | None = None, offline: bool = False) -> Model:
    """Loads a model.

    Args:
        model: A known model's name, e.g. `iic/emotion2vec_plus_base`, or `bundled` for the small one in the package; a
            converted folder; or an unconverted checkpoint (a folder or a .pt file). What is not converted yet is
            converted on first use, what is not on this machine is downloaded.
        runtime: `cuda`, `cpu`, `mps`, `mlx`; or `auto`, which takes CUDA, then MLX on Apple silicon, then the CPU.
        dtype: What to compute in, `float32`, `bfloat16` or `float16`: the weights are cast as they are read. By default
            as they are stored. `auto` takes what is fastest on this machine without moving a probability by more than
            0.01, and says so on stderr; small networks on spectrograms stay as they are.
        offline: Never open a connection; so does `E2V_OFFLINE=1`.

    Raises:
        ModelNotFound: No model goes by this name, or it is not on this machine while offline.
        DownloadError: No hub delivered it.
        CheckpointError: The checkpoint or the converted folder is damaged or not of a known kind.
        RuntimeUnavailable: The runtime cannot run here.
    """
    chosen = devices.choose(runtime, dtype)  # first, so that nothing is downloaded for a runtime that cannot run
    folder = conversion.folder_of(model, offline=offline)
    while True:
        found = identity(folder)
        try:
            loaded = _load(folder, chosen, dtype)
        except Exception:
            if identity(folder) == found:
                raise
        else:
            if identity(folder) == found:
                return loaded
        # A conversion has put another model there meanwhile: what was read may be of both.


def _load(folder: Path, runtime: str, dtype: str | None) -> Model:
    config = ModelConfig.read(folder)
    tell_licence(config)
    weights = folder / "model.safetensors"
    layout.check(weights, config.architecture, config.dtype)
    module = import_module(f"e2v_port.runtimes.{devices.RUNTIMES[runtime]}")
    wanted = _auto(config, runtime) if dtype == "auto" else dtype
    return Model(config, runtime, wanted or config.arithmetic, module.load(weights, config, runtime, wanted))


def _auto(config: ModelConfig, runtime: str) -> str | None:
    if not isinstance(config.architecture, Transformer):
        return None  # a spectrogram in decibels is too much for 16 bits, and the network too small to gain
    fastest = devices.fastest_dtype(runtime)
    if runtime == "mlx" and config.dtype in QUANTISED and fastest == "bfloat16":
        fastest = "float16"  # MLX rounds the scales of packed weights too, for which bfloat16 has too few digits
    line = f"dtype auto: {fastest} on {runtime}"
    if line not in _told:
        _told.add(line)
        print(line, file=sys.stderr)
    return fastest


def tell_licence(config: ModelConfig, line: str = "") -> None:
    """Says once per process what weights may not be used for, on stderr; `E2V_LICENCE=accepted` silences it.

    Args:
        config: Of the model.
        line: What to say in place of model and licence.
    """
    licence, model = config.licence, config.source.repository
    restricted = any(words in licence for words in ("non-commercial", "not for commercial use"))
    if restricted and model not in _told and os.environ.get("E2V_LICENCE") != "accepted":
        _told.add(model)
        print(f"{line or f'{model}: {licence}'}; E2V_LICENCE=accepted silences this line", file=sys.stderr)


_told: set[str] = set()
