"""The engine's process: it holds the models, decodes what it is sent, and answers. Hostile audio reaches nothing else.

Messages are JSON objects, followed by a body where they say so: see `e2v_port.service.engine`, the other end.
"""

import io
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from e2v_port import devices, formats
from e2v_port import segments as speech
from e2v_port.analysis import Analysis, AnalysisSettings, JudgedSegment, analyze
from e2v_port.audio import SAMPLING_RATE, AudioStream, Waveform
from e2v_port.errors import AudioError, E2VError, SegmentError
from e2v_port.fusion import FusionSettings
from e2v_port.model import load
from e2v_port.segments import GivenSegment, Quality, Segment, SegmentSettings
from e2v_port.service import answers
from e2v_port.service.batching import BatchedModel, Batcher, Job, Stopped
from e2v_port.transcripts import parse_segments

if TYPE_CHECKING:
    from e2v_port.service.live import Session

__all__ = ["serve"]

THREADS = 32  # requests that are decoded, or wait for the models, at a time: as many clips can be in one batch
STREAM_THREADS = 16
# Seconds; two longer recordings are held at a time, since an hour takes 230 MB, and twice that while it is analysed.
LONG = 600
LONG_AT_ONCE = 2
FRAME_NUMBERS = 1 << 22  # of an embedding by frames, 80 MB as JSON

NOT_ENROLLED: Quality = "not_enrolled"
_STRANGERS = {"other", "speaker_unknown"}  # what diarisation calls a voice that it does not know, in any case
NOBODY = "nothing is said by an enrolled speaker"


class Refused(Exception):
    """A request cannot be answered: why, in one line."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


class _Body(io.BytesIO):
    """A clip in memory that errors can call by its name."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@dataclass(eq=False)
class _Stream:
    session: "Session"
    job: Job


def serve(connection: Connection, options: dict[str, Any]) -> None:
    """Loads the models, says so, and answers until the other end is closed."""
    # What ends this process is the other end of the pipe: the front may still have requests to finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        worker = _Worker(connection, options)
    except (E2VError, ValueError, OSError) as error:
        with suppress(OSError):
            connection.send_bytes(json.dumps({"failed": str(error)}).encode())
        return
    with suppress(EOFError, OSError):
        worker.listen()
    os._exit(0)  # threads in the middle of a batch would keep the process for as long as it takes


class _Worker:
    def __init__(self, connection: Connection, options: dict[str, Any]) -> None:
        self.connection = connection
        self.max_seconds: float = options["max_seconds"]
        self.speakers: frozenset[str] | None = None if options["speakers"] is None else frozenset(options["speakers"])
        self.enabled: bool = options["emotion"]
        self.jobs: dict[int, tuple[Job, Future[None]]] = {}
        self.streams: dict[int, _Stream] = {}
        self.sending = threading.Lock()
        self.long = threading.Semaphore(LONG_AT_ONCE)
        self.busy = 0
        self.counting = threading.Lock()

        names = {"categorical": options["model"], "dimensional": options["dimensional"]}
        if not any(names.values()):
            names["categorical"] = "bundled"
        load_options = {name: options[name] for name in ("runtime", "dtype", "offline")}
        models = {kind: load(name, **load_options) for kind, name in names.items() if name}
        if "categorical" in models:
            models["categorical"].need_labels()
        if "dimensional" in models:
            models["dimensional"].need_dimensions()
        warm = np.zeros(2 * SAMPLING_RATE, np.float32)
        for model in models.values():
            list(model.each([warm], SAMPLING_RATE))
        speech.speech_probabilities(warm)
        self.batchers = {kind: Batcher(model, lambda: self.busy, self._ran) for kind, model in models.items()}
        # A clip is looked through for speech by one core; several of them would wait for each other more than compute.
        one_thread: dict[str, Any] = {"initializer": devices.limit_threads, "initargs": (1, torch.get_num_threads())}
        self.pool = ThreadPoolExecutor(THREADS, "request", **one_thread)
        self.stream_pool = ThreadPoolExecutor(STREAM_THREADS, "stream", **one_thread)
        self._switch(self.enabled)

    # Messages

    def listen(self) -> None:
        """Answers messages until there are no more."""
        ops = {
            "analyze": self._analyze,
            "embed": self._embed,
            "open": self._open,
            "push": self._push,
            "finish": self._finish,
        }
        self._send({"ready": [self._described(kind) for kind in self.batchers]})
        while True:
            message = json.loads(self.connection.recv_bytes())
            body = self.connection.recv_bytes() if message["body"] else b""
            op, number = message["op"], message["id"]
            if op == "exit":
                return
            if op == "cancel":
                self._cancel(message["call"])
            elif op == "close":
                if stream := self.streams.pop(message["stream"], None):
                    self._stop(stream.job)
            elif op == "emotion":
                self._switch(message["enabled"])
                self._send({"id": number, "answer": {}})  # nobody waits where the number is 0
            else:
                pool = self.stream_pool if "stream" in message else self.pool
                job = Job()
                with self.counting:
                    self.jobs[number] = job, pool.submit(self._answered, number, ops[op], job, message, body)

    def _send(self, message: dict[str, Any], payload: bytes | None = None) -> None:
        data = json.dumps({**message, "payload": payload is not None}).encode()
        with self.sending:
            self.connection.send_bytes(data)
            if payload is not None:
                self.connection.send_bytes(payload)

    def _answered(
        self,
        number: int,
        work: Callable[[Job, dict[str, Any], bytes], tuple[dict[str, Any], bytes | None]],
        job: Job,
        message: dict[str, Any],
        body: bytes,
    ) -> None:
        """Does what a message asks for, and sends what came of it, whatever that is."""
        try:
            with self._counted():
                answer, payload = work(job, message, body)
        except Exception as error:
            refused = _refused(error)
            found = {"error": {"status": refused.status, "kind": refused.kind, "message": str(refused)}}
            payload = None
        else:
            found = {"answer": answer}
        finally:
            with self.counting:
                self.jobs.pop(number, None)
        self._send({"id": number, **found}, payload)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self.counting:
            self.busy += 1
        try:
            yield
        finally:
            with self.counting:
                self.busy -= 1

    def _cancel(self, number: int) -> None:
        with self.counting:
            job, future = self.jobs.get(number, (None, None))
        if job is None or future is None:
            return
        if future.cancel():
            with self.counting:
                self.jobs.pop(number, None)
        self._stop(job)

    def _stop(self, job: Job) -> None:
        for batcher in self.batchers.values():
            batcher.cancel(job)

    def _switch(self, enabled: bool) -> None:
        """Switches emotions on or off; what waits for a model does so no longer."""
        self.enabled = enabled
        for batcher in self.batchers.values():
            batcher.switch(enabled)

    def _ran(self, clips: int, seconds: float) -> None:
        with suppress(OSError):  # the other end is gone, and so is this process in a moment
            self._send({"batch": clips, "seconds": seconds})

    # What messages ask for

    def _analyze(self, job: Job, message: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes | None]:
        timings = {"queue": time.monotonic() - message["sent"]}
        segments = message["segments"]
        given = None if segments is None else parse_segments(segments.encode("utf-8", "surrogateescape"))
        started = time.perf_counter()
        with self._decoded(job, body, message["name"]) as waveform:
            timings["decode"] = time.perf_counter() - started
            analysis = self._analysed(job, waveform, given, message["speaker"], message["granularity"])
        timings["decode"] += analysis.timings.get("decode", 0.0)  # the library's own, of a waveform, is a copy
        analysis = replace(analysis, file=message["name"], timings={**analysis.timings, **timings})
        answer = answers.analysis_dict(analysis)
        if analysis.reason in {answers.OFF, NOBODY}:
            answer["context"] = ""  # what it would say, that no speech was heard, is not known
        text = None
        if message["format"] != "json":
            silent = replace(analysis, segments=tuple(replace(s, judgement=None) for s in analysis.segments))
            write = formats.FORMATS[message["format"]]
            text = {"judged": write([analysis]), "unjudged": write([replace(silent, boundaries=None)])}
        return {"analysis": answer, "text": text}, None

    def _analysed(
        self, job: Job, waveform: Waveform, given: list[GivenSegment] | None, speaker: str | None, granularity: str
    ) -> Analysis:
        """Analyses what enrolled speakers say; what others say reaches no model."""
        duration = len(waveform) / SAMPLING_RATE
        everything = [GivenSegment(0.0, duration, speaker)] if given is None else given
        strangers = [
            JudgedSegment(segment.start, segment.end, NOT_ENROLLED, segment.speaker, segment.text, None)
            for segment in everything
            if not self._enrolled(segment.speaker)
        ]
        if given is not None:
            given = [segment for segment in given if self._enrolled(segment.speaker)]
        analysis = None
        if strangers and not given:
            analysis = _unjudged(waveform, [], NOBODY)
        elif self.enabled:
            with suppress(Stopped):
                analysis = analyze(
                    waveform,
                    sampling_rate=SAMPLING_RATE,
                    segments=given,
                    whole=granularity == "clip",
                    frames=granularity == "frame",
                    **self._models(job),
                )
        job.check()
        if analysis is None:
            analysis = _unjudged(waveform, _segments(waveform, given, granularity), answers.OFF)
        segments = analysis.segments
        if given is None and speaker is not None:
            segments = tuple(replace(segment, speaker=speaker) for segment in segments)
        return replace(analysis, segments=tuple(sorted((*segments, *strangers), key=lambda s: (s.start, s.end))))

    def _embed(self, job: Job, message: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes | None]:
        kind = next(iter(self.batchers))
        model = BatchedModel(self.batchers[kind], job)
        architecture = model.config.architecture
        with self._decoded(job, body, message["name"]) as waveform:
            samples = len(waveform)
            numbers = architecture.frames(samples) * architecture.embed_dim
            if message["granularity"] == "frame" and numbers > FRAME_NUMBERS:
                raise Refused(
                    413,
                    "too_long",
                    f"{numbers} numbers of {samples / SAMPLING_RATE:.0f} s by frames are more than {FRAME_NUMBERS}: "
                    f"cut it into parts, or use `e2v embed`",
                )
            embedding = None
            if self.enabled and self._enrolled(message["speaker"]):
                with suppress(Stopped):
                    embedding = model.embed(waveform, SAMPLING_RATE, granularity=message["granularity"]).tolist()
        job.check()
        answer = {
            "model": model.config.source.repository,
            "dim": architecture.embed_dim,
            "duration": samples / SAMPLING_RATE,
            "hop_seconds": architecture.hop / SAMPLING_RATE,
        }
        return answer, json.dumps(embedding).encode()

    def _open(self, job: Job, message: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes | None]:
        from e2v_port.service.live import Session

        speaker = message["speaker"]

        def judge(waveform: Waveform, span: Segment) -> JudgedSegment:
            return self._judged(job, waveform, span, self._enrolled(speaker))

        names = ("sampling_rate", "format", "channels", "speaker")
        try:
            session = Session(judge, **{name: message[name] for name in names}, settings=SegmentSettings())
        except ValueError as error:
            raise Refused(422, "stream", str(error)) from error
        self.streams[message["stream"]] = _Stream(session, job)
        return {}, None

    def _push(self, job: Job, message: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes | None]:
        session = self._stream(message).session
        return {"events": session.push(body), "samples": session.samples}, None

    def _finish(self, job: Job, message: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes | None]:
        session = self._stream(message).session
        return {"events": session.finish(), "duration": session.duration}, None

    def _stream(self, message: dict[str, Any]) -> _Stream:
        stream = self.streams.get(message["stream"])
        if stream is None:
            raise Stopped
        return stream

    def _judged(self, job: Job, waveform: Waveform, span: Segment, enrolled: bool) -> JudgedSegment:
        """Judges a segment of a stream: what `analyze` says of its samples."""
        place = {name: getattr(span, name) for name in ("start", "end", "quality", "speaker", "text")}
        if not enrolled:
            return JudgedSegment(**place | {"quality": NOT_ENROLLED}, judgement=None)
        if self.enabled and span.quality in {"normal", "low_confidence"}:
            with suppress(Stopped):
                found = analyze(waveform, sampling_rate=SAMPLING_RATE, whole=True, **self._models(job))
                return replace(found.segments[0], **place)
        job.check()
        return JudgedSegment(**place, judgement=None)

    def _models(self, job: Job) -> dict[str, Any]:
        models: dict[str, Any] = {kind: BatchedModel(batcher, job) for kind, batcher in self.batchers.items()}
        return {"model": models.get("categorical"), "dimensional": models.get("dimensional")}

    def _enrolled(self, speaker: str | None) -> bool:
        if speaker is not None and speaker.strip().lower() in _STRANGERS:
            return False
        return self.speakers is None or speaker in self.speakers

    @contextmanager
    def _decoded(self, job: Job, body: bytes, name: str) -> Iterator[Waveform]:
        """Decodes a clip, no further than it may be long; a long one waits until few others are in memory."""
        data = bytearray()
        with ExitStack() as held, AudioStream(_Body(body, name)) as blocks:
            for block in blocks:
                job.check()
                seconds = (len(data) / 4 + len(block)) / SAMPLING_RATE
                if seconds > self.max_seconds:
                    message = f"longer than {self.max_seconds:g} s, the most that is taken here: cut it into parts"
                    raise Refused(413, "too_long", f"{name}: {message}")
                if len(data) / 4 < LONG * SAMPLING_RATE <= len(data) / 4 + len(block):
                    held.enter_context(self.long)
                data += block.data
            yield np.frombuffer(data, np.float32)

    def _described(self, kind: str) -> dict[str, Any]:
        model = self.batchers[kind].model
        config = model.config
        return {
            "kind": kind,
            "name": config.source.repository,
            "dtype": model.dtype,
            "runtime": model.runtime,
            "licence": config.licence,
            "labels": list(model.labels),
            "embed_dim": model.embed_dim,
            "hop_seconds": config.architecture.hop / SAMPLING_RATE,
        }


def _refused(error: Exception) -> Refused:
    """What a request's error is to whoever made it."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Stopped):
        return Refused(499, "cancelled", "the request was cancelled")
    for kind, name in (AudioError, "audio"), (SegmentError, "segments"), (E2VError, "model"):
        if isinstance(error, kind):
            return Refused(422, name, str(error))
    if isinstance(error, MemoryError):
        return Refused(503, "overloaded", "not enough memory just now: try again later")
    traceback.print_exception(error)
    return Refused(500, "internal", "an error of the service, of which its log tells more")


def _segments(waveform: Waveform, given: list[GivenSegment] | None, granularity: str) -> list[Segment]:
    """The segments that `analyze` would judge."""
    if given is not None:
        return speech.from_given(given, waveform)
    if granularity == "clip":
        return [Segment(0.0, len(waveform) / SAMPLING_RATE, "normal")]
    return speech.detect(waveform)


def _unjudged(waveform: Waveform, segments: list[Segment], reason: str) -> Analysis:
    """An analysis that no model took part in."""
    found = tuple(JudgedSegment(s.start, s.end, s.quality, s.speaker, s.text, None) for s in segments)
    settings = AnalysisSettings("none", SegmentSettings(), FusionSettings(), None)
    return Analysis("", len(waveform) / SAMPLING_RATE, found, None, reason, (), settings, {})
