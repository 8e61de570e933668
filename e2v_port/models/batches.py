"""Runs clips on a runtime in batches: any number of them, of any length, read ahead of what runs."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from typing import NoReturn, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.base import Transformer
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.runtime import Output, Runtime
from e2v_port.audio import SAMPLING_RATE, Clip, Waveform, channel_number
from e2v_port.audio.clip import check_clips
from e2v_port.errors import AudioError, E2VError
from e2v_port.models.long_clips import Joined, Piece, pieces

__all__ = ["PADDING", "Batched", "ahead"]

# Pieces of clips; and for each batch of them, their positions among the pieces and a call that returns their outputs.
_Call: TypeAlias = Future[list[Output]] | Callable[[], list[Output]]
_Window: TypeAlias = tuple[list[Piece | AudioError], list[tuple[list[int], _Call]]]
_Layers: TypeAlias = NDArray[np.float32]  # outputs of blocks, [blocks, frames, width]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

PADDING = 1 / 8  # largest share of padding in a batch, which is computed for nothing
# Clips worth this many batches, but at least two minutes, are held and sorted by length, so that batches need little
# padding.
WINDOW_BATCHES = 8
WINDOW_SECONDS = 120.0


class _Held:
    """What holds the network for a model and for all that share it, so that closing one closes them all."""

    def __init__(self, runner: Runtime) -> None:
        self.runner: Runtime | None = runner

    def __reduce__(self) -> NoReturn:
        raise TypeError("a loaded model stays in its process: pass its name or its folder")


class Batched:
    """A converted model on one runtime, as it runs clips. May be used from several threads at once.

    Attributes:
        config: Content of config.json.
        runtime: `cuda`, `cpu`, `mps`, `mlx`, `numpy` or one of `devices.PROVIDERS`.
        dtype: Type of the arithmetic between waveform norm and pooling: `float32`, `float16` or `bfloat16`.
        window_seconds: Approximate amount of audio that `each` sorts at a time, in seconds. It holds twice as much, to
            read ahead while it computes.
        readers: Number of clips that are read at the same time, ahead of the batches; 0 to read them one by one.
    """

    def __init__(self, config: ModelConfig, runtime: str, dtype: str, runner: Runtime) -> None:
        self.config = config
        self.runtime = runtime
        self.dtype = dtype
        self.window_seconds = max(WINDOW_BATCHES * runner.batch_seconds, WINDOW_SECONDS)
        self.readers = runner.readers
        self._held = _Held(runner)

    @property
    def _runner(self) -> Runtime:
        if self._held.runner is None:
            raise E2VError(f"{self.config.source.repository} is closed: load it again")
        return self._held.runner

    def each(
        self,
        clips: Iterable[Clip],
        sampling_rate: int | None = None,
        *,
        frames: bool = False,
        channel: int | str = "mix",
        refuse_silence: bool = False,
    ) -> Iterator[tuple[float, Output] | AudioError]:
        """Runs any number of clips in batches, and continues after one that cannot be used.

        Clips are read as they are needed, one `window_seconds` ahead of what runs, so the iterable may be longer than
        memory. So may a clip: beyond a minute (Whisper: 30 s) it runs in windows, see `e2v_port.models.long_clips`.

        Args:
            clips: Paths, binary file objects or arrays of samples.
            sampling_rate: Sampling rate of arrays, in Hz; files have their own.
            frames: Whether the outputs include their frames.
            channel: Channel, as for `predict`.
            refuse_silence: Whether a silent clip is an AudioError; otherwise a log record says that it is silent.

        Yields:
            For each clip, in order: its duration in seconds and its output, or the AudioError that stopped it.
        """
        check_clips(clips)
        running: deque[_Window] = deque()
        channel_number(channel)  # before any clip is read
        reading = partial(
            pieces,
            sampling_rate=sampling_rate,
            architecture=self.config.architecture,
            frames=frames,
            channel=channel,
            refuse_silence=refuse_silence,
        )
        try:
            for window in self._windows(clips, reading):
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

    def each_layers(
        self, clips: Iterable[Clip], sampling_rate: int | None = None, *, channel: int | str = "mix"
    ) -> Iterator[tuple[float, _Layers] | AudioError]:
        """Runs any number of clips through a transformer, and continues after one that cannot be used.

        Args:
            clips: Same as for `each`.
            sampling_rate: Same as for `each`.
            channel: Same as for `each`.

        Yields:
            For each clip, in order: its duration in seconds and the outputs of all blocks for its frames, raw, [blocks,
            frames, width]; or the AudioError that stopped it.

        Raises:
            E2VError: The model is no transformer.
        """
        check_clips(clips)
        architecture = self.config.architecture
        if not isinstance(architecture, Transformer):
            raise E2VError(
                f"{self.config.source.repository} has no layers to read: it is no transformer; use a model such as "
                f"iic/emotion2vec_plus_base"
            )
        channel_number(channel)
        reading = partial(pieces, sampling_rate=sampling_rate, architecture=architecture, frames=False, channel=channel)
        parts: list[_Layers] = []  # of a long clip
        for window in self._windows(clips, reading):
            waveforms = {i: item.waveform for i, item in enumerate(window) if isinstance(item, Piece)}
            found: dict[int, _Layers] = {}
            for batch in self._batches(waveforms):
                found |= zip(batch, self._run_layers([waveforms[i] for i in batch]), strict=True)
            for i, item in enumerate(window):
                if isinstance(item, AudioError):
                    parts = []
                    yield item
                elif item.joined is None:
                    yield item.duration, found.pop(i)
                else:
                    parts.append(found.pop(i)[:, item.taken.start : item.taken.stop])
                    if item.last:
                        yield item.duration, np.concatenate(parts, 1)
                        parts = []

    def _windows(
        self, clips: Iterable[Clip], reading: Callable[[Clip], Iterator[Piece | AudioError]]
    ) -> Iterator[list[Piece | AudioError]]:
        window: list[Piece | AudioError] = []
        seconds = 0.0
        for piece in self._pieces(clips, reading):
            window.append(piece)
            if isinstance(piece, Piece):
                seconds += len(piece.waveform) / SAMPLING_RATE
            if seconds >= self.window_seconds:
                yield window
                window, seconds = [], 0.0
        yield window

    def _pieces(
        self, clips: Iterable[Clip], reading: Callable[[Clip], Iterator[Piece | AudioError]]
    ) -> Iterator[Piece | AudioError]:
        def begun(clip: Clip) -> Iterator[Piece | AudioError]:
            found = reading(clip)
            return chain([*islice(found, 1)], found)  # reads the first piece, usually the whole clip, here

        yield from chain.from_iterable(ahead(begun, clips, self.readers))

    def _started(self, window: list[Piece | AudioError], frames: bool, *, alone: bool) -> "_Window":
        waveforms = {i: item.waveform for i, item in enumerate(window) if isinstance(item, Piece)}
        # Windows of a long clip are joined frame by frame.
        need = frames or any(isinstance(item, Piece) and item.joined for item in window)
        # The longest first, so that no thread starts on it when the others are done.
        batches = [*self._batches(waveforms)][::-1]
        calls = [partial(self._run_batch, [waveforms[i] for i in batch], need) for batch in batches]
        if alone and len(batches) == 1:
            return window, [(batches[0], calls[0])]  # alone, it gets all threads, here
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
        """Yields the positions of the clips that run together: by length, so that batches need little padding."""
        most = self._runner.batch_seconds * SAMPLING_RATE
        batch: list[int] = []
        samples = 0
        for i in sorted(waveforms, key=lambda i: len(waveforms[i])):
            size = max(len(waveforms[i]), self.config.architecture.canvas)
            samples += size
            filled = size * (len(batch) + 1)  # all others would be padded to the newest clip
            if batch and (filled > most or filled - samples > PADDING * most):
                yield batch
                batch, samples = [], size
            batch.append(i)
        if batch:
            yield batch

    def _join(self, joined: Joined) -> Output:
        embedding = joined.embedding
        logits = self._runner.score(embedding) if self.config.labels else None
        return Output(embedding, logits, joined.frames, joined.frame_logits)

    def _run_batch(self, waveforms: list[Waveform], frames: bool) -> list[Output]:
        outputs = self._runner.run(*_padded(waveforms), frames=frames)
        self._check_finite(output.embedding for output in outputs)
        return outputs

    def _run_layers(self, waveforms: list[Waveform]) -> list[_Layers]:
        outputs = self._runner.layers(*_padded(waveforms))
        self._check_finite(outputs)
        return outputs

    def _check_finite(self, outputs: Iterable[_Layers]) -> None:
        if not all(np.isfinite(output).all() for output in outputs):
            remedy = "convert the checkpoint again" if self.dtype == "float32" else "load it with dtype float32"
            raise E2VError(
                f"{self.config.source.repository} returns numbers that are not finite, in {self.dtype} on "
                f"{self.runtime}: {remedy}"
            )


def _padded(waveforms: list[Waveform]) -> tuple[Waveform, list[int]]:
    """Returns waveforms in one array, padded with zeros, and their lengths."""
    batch = np.zeros((len(waveforms), max(map(len, waveforms))), dtype=np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return batch, [len(waveform) for waveform in waveforms]


def ahead(call: Callable[[_Item], _Result], items: Iterable[_Item], readers: int) -> Iterator[_Result]:
    """Yields the result of a call for each item, in order.

    Args:
        call: Function of one item.
        items: Items to call it with.
        readers: Number of threads that work ahead of the consumer; 0 to call it in this thread.
    """
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
