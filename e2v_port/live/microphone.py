"""The microphone as a source of live sound."""

import queue
import time
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Self

from e2v_port.errors import AudioError
from e2v_port.live.sources import BLOCK_SECONDS, Block

__all__ = ["Microphone"]

_QUEUE_SECONDS = 30.0  # of sound that waits for a model slower than the voice
_PATIENCE = 0.5  # s without samples before the device is checked


class Microphone:
    """The first channel of a microphone, at its own rate. Use it in a `with` statement.

    While a segment is judged, up to 30 s of sound wait in a queue; what does not fit is lost and counted in `gaps`.

    Args:
        device: Number of the microphone, or a part of its name, as `python -m sounddevice` lists them; by default the
            microphone of the system.

    Raises:
        AudioError: Nothing can be recorded here; while it is read, that the microphone is gone.
    """

    def __init__(self, device: str | None = None) -> None:
        if find_spec("sounddevice") is None:
            raise AudioError('the microphone needs sounddevice, which is not installed: pip install "e2v-port[mic]"')
        try:
            self._library: Any = import_module("sounddevice")
        except OSError as error:  # wheels for Linux come without PortAudio
            raise AudioError(
                f"the microphone needs PortAudio, which cannot be loaded ({error}): apt-get install libportaudio2"
            ) from error
        inputs = [str(each["name"]) for each in self._library.query_devices() if each["max_input_channels"]]
        if not inputs:
            raise AudioError("no microphone found, or the system does not allow its use: name a file")
        try:
            about = self._library.query_devices(int(device) if device and device.isdigit() else device, "input")
            self.name, self.sampling_rate = str(about["name"]), round(about["default_samplerate"])
            self._stream = self._library.InputStream(
                samplerate=self.sampling_rate,
                blocksize=round(BLOCK_SECONDS * self.sampling_rate),
                device=about["index"],
                channels=1,
                dtype="float32",
                latency="low",
                callback=self._recorded,
            )
        except (ValueError, self._library.PortAudioError) as error:
            which = f"microphone {device}" if device else "microphone"
            known = f"name one of these with --device: {', '.join(inputs)}"
            raise AudioError(f"{which}: {_first_line(error)}: {known}") from error
        self._blocks: queue.Queue[Block] = queue.Queue(round(_QUEUE_SECONDS / BLOCK_SECONDS))
        self.gaps = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[Block]:
        try:
            self._stream.start()
        except self._library.PortAudioError as error:
            raise AudioError(
                f"microphone {self.name}: {_first_line(error)}: check whether another program uses it"
            ) from error
        while True:
            try:
                yield self._blocks.get(timeout=_PATIENCE)
            except queue.Empty:
                if not self._stream.active:
                    raise AudioError(f"microphone {self.name}: it is gone") from None

    def _recorded(self, samples: Any, frames: int, clock: Any, status: Any) -> None:
        """Takes a block. PortAudio calls this in a thread of its own, which must not wait."""
        self.gaps += bool(status.input_overflow)
        try:
            self._blocks.put_nowait(Block(samples[:, 0].copy(), time.monotonic()))
        except queue.Full:
            self.gaps += 1


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
