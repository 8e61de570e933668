"""The process of the engine: holds the models, decodes audio and answers. Hostile audio reaches no other process.

Messages are JSON objects, followed by bytes if their `body` is true: see `e2v_port.service.engine`, the other end.
"""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from e2v_port.analysis import reading
from e2v_port.analysis.analyze import each
from e2v_port.analysis.judge import CATEGORICAL, DIMENSIONAL, Judge, JudgedWaveform
from e2v_port.analysis.judged import JudgedSegment, placed, worded
from e2v_port.analysis.output import formats
from e2v_port.analysis.results import Analysis, AnalysisSettings
from e2v_port.analysis.sounds import Request, Sounds
from e2v_port.analysis.turns import spoken
from e2v_port.analysis.voices import Adapting, Voices
from e2v_port.audio import SAMPLING_RATE, Note, Waveform
from e2v_port.checkpoints import catalog
from e2v_port.emotions.fusion import FusionSettings
from e2v_port.errors import (
    AudioError,
    E2VError,
    RequestCancelled,
    RequestRefused,
    SegmentError,
    ServiceError,
    ServiceUnavailable,
)
from e2v_port.models.load import load
from e2v_port.models.model import Model
from e2v_port.service import answers
from e2v_port.service.batching import BatchedModel, Batcher, Job, Stopped
from e2v_port.service.inputs import Decoder, given_segments
from e2v_port.service.reading import JobReader, SharedReader
from e2v_port.service.replying import Replier
from e2v_port.speakers.known import Heard, KnownVoices
from e2v_port.speakers.roster import Roster
from e2v_port.speech import silero
from e2v_port.speech.enrolment import Enrolment
from e2v_port.speech.segment import GivenSegment, Quality, Segment, SegmentSettings
from e2v_port.transcribe.words import Reader

if TYPE_CHECKING:
    from e2v_port.live.follower import Judging, Steady
    from e2v_port.service.live import Session

__all__ = ["serve"]

_log = logging.getLogger(__name__)

THREADS = 32  # requests decoded or waiting for the models at a time, and so the most clips in one batch
STREAM_THREADS = 16
WORDS_THREADS = 8  # requests whose words are read at a time: they only wait for each other
FRAME_NUMBERS = 1 << 22  # in an embedding by frames: 80 MB as JSON

NOT_ENROLLED: Quality = "not_enrolled"
NOBODY_HEARD = Heard(None, None)
NOBODY = "no enrolled speaker is heard in this clip"


class _ToFront(logging.Handler):
    """Sends log records to the service, whose log they belong to."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(logging.INFO)
        self._send_message = send

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a record, with its traceback as text."""
        with suppress(OSError):
            self._send_message({"log": record.name, "level": record.levelno, "text": self.format(record)})


@dataclass(eq=False)
class _Stream:
    session: "Session"
    job: Job


def serve(connection: Connection, options: dict[str, Any]) -> None:
    """Loads the models, reports that, and answers until the other end closes the pipe."""
    # The other end of the pipe ends this process: the front may still have requests to finish.
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
    os._exit(0)  # threads in the middle of a batch would keep the process alive until it is done


class _Worker:
    def __init__(self, connection: Connection, options: dict[str, Any]) -> None:
        self.connection = connection
        self.decoder = Decoder(options["max_seconds"])
        self.segments = SegmentSettings(**{name: options[name] for name in ("speech_threshold", "max_gain")})
        self.max_audio_seconds: float = options["max_audio_seconds"]
        self.enrolment = Enrolment(None if options["roster"] else options["speakers"])
        self.enabled: bool = options["emotion"]
        self.seconds: float = options["engine_seconds"]  # without progress
        self.sign_seconds: float = options["sign_seconds"]
        self.jobs: dict[int, tuple[Job, Future[None]]] = {}
        self.streams: dict[int, _Stream] = {}
        self.sending = threading.Lock()
        logger = logging.getLogger("e2v_port")
        logger.addHandler(_ToFront(self._send))
        logger.setLevel(logging.INFO)
        self.busy = 0
        self.counting = threading.Lock()

        model, dimensional = options["model"], options["dimensional"]
        if not model and not dimensional:
            model = catalog.BUNDLED
        reader = reading.opened(options["words"], None, options["offline"])
        self.reader = SharedReader(reader, self.seconds) if reader else None
        reply = options["reply"]
        self.replier = Replier(Path(reply), options["runtime"], options["offline"]) if reply else None
        load_options = {name: options[name] for name in ("runtime", "dtype", "labels", "offline")}
        judge = Judge.load(model or None, dimensional or None, **load_options)
        warm = np.linspace(-1, 1, 2 * SAMPLING_RATE, dtype=np.float32)  # silence would be worth a note
        judge.one(warm)
        self.voices = Voices(judge, {}, learn=True) if options["adapt"] else None
        silero.speech_probabilities(warm)
        if reader:
            reader.read(warm, [(0.0, 2.0)])
        models = judge.models
        self.batchers = {
            kind: Batcher(model, lambda: self.busy, self._ran, self.seconds) for kind, model in models.items()
        }
        self.roster: Roster | None = None
        self.encoder: Batcher | None = None
        if options["roster"]:
            self.roster, self.encoder = self._read_roster(options)
        self.only = options["only_enrolled"] or options["speakers"] is not None  # with a roster
        self.pool = ThreadPoolExecutor(THREADS, "request")
        self.stream_pool = ThreadPoolExecutor(STREAM_THREADS, "stream")
        self.words_pool = ThreadPoolExecutor(WORDS_THREADS, "request with words")
        self.reply_pool = ThreadPoolExecutor(1, "reply")  # in the order in which they are asked for
        self._switch(self.enabled)

    def _read_roster(self, options: dict[str, Any]) -> tuple[Roster, Batcher]:
        """Returns the enrolled voices, limited to the speakers that are named, and the encoder that tells them apart.

        Raises:
            RosterError: The file cannot be used, or was made with another encoder, or somebody named is not in it.
        """
        roster = Roster.load(options["roster"])
        encoder = load(options["speaker_model"], runtime=options["runtime"], offline=options["offline"])
        roster.check(encoder)
        if options["speakers"] is not None:
            roster = roster.limited(options["speakers"])
        encoder.embed(np.linspace(-1, 1, 2 * SAMPLING_RATE, dtype=np.float32), SAMPLING_RATE)
        return roster, Batcher(encoder, lambda: self.busy, lambda *_: None, self.seconds)

    def _known(self, job: Job) -> KnownVoices | None:
        """Returns the enrolled voices, as a job recognizes them; None where requests say who speaks."""
        if self.roster is None or self.encoder is None:
            return None
        return KnownVoices(BatchedModel(self.encoder, job), self.roster, only=self.only)

    @property
    def everything(self) -> list[Batcher]:
        """All models: those that judge, and the speaker encoder."""
        return [*self.batchers.values(), *([self.encoder] if self.encoder else [])]

    # Messages

    def listen(self) -> None:
        """Answers messages until the exit message."""
        ops = {
            "analyze": self._analyze,
            "embed": self._embed,
            "reply": self._reply,
            "open": self._open,
            "push": self._push,
            "finish": self._finish,
        }
        self._send({"ready": [self._described(kind) for kind in self.batchers]})
        threading.Thread(target=self._report_life, daemon=True, name="signs of life").start()
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
                    stream.session.close()
            elif op == "emotion":
                self._switch(message["enabled"])
                self._send({"id": number, "answer": {}})  # the number is 0 for a message without an answer
            else:
                pool = self.words_pool if message.get("words") else self.pool
                pool = self.stream_pool if "stream" in message else pool
                pool = self.reply_pool if op == "reply" else pool
                stream = self.streams.get(message.get("stream", 0))
                job = stream.job if stream else Job(self.seconds)
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
        """Carries out a message, and sends the answer or the error."""
        try:
            with self._counted():
                job.check()
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

    def _report_life(self) -> None:
        """Sends a sign of life, until a job or a model makes no progress: the other end then ends this process."""
        with suppress(OSError):
            while True:
                with self.counting:
                    late = [number for number, (job, _) in self.jobs.items() if job.until < time.monotonic()]
                stuck = any(batcher.stuck for batcher in self.everything)
                if late or stuck or (self.reader and self.reader.stuck):
                    self._send({"stuck": late})
                    return
                self._send({"alive": True})
                time.sleep(self.sign_seconds)

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
        for batcher in self.everything:
            batcher.cancel(job)

    def _switch(self, enabled: bool) -> None:
        """Switches emotions on or off; requests that wait for a model stop waiting, and voices are forgotten."""
        self.enabled = enabled
        for batcher in self.everything:
            batcher.switch(enabled)
        if not enabled and self.voices:
            for speaker in self.voices.speakers:
                self.voices.forget(speaker)

    def _ran(self, clips: int, seconds: float) -> None:
        with suppress(OSError):  # the other end is gone, and this process ends in a moment
            self._send({"batch": clips, "seconds": seconds})

    # Operations

    def _analyze(self, job: Job, message: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes | None]:
        timings = {"queue": time.monotonic() - message["sent"]}
        if message["granularity"] == "frame" and CATEGORICAL not in self.batchers:
            what = "granularity=frame needs a model that gives labels: start the service with --model, or leave it out"
            raise RequestRefused(what)
        segments = message["segments"]
        given = None if segments is None else given_segments(segments.encode("utf-8", "surrogateescape"))
        job.check()
        started = time.perf_counter()
        request = Request(message["channel"], given, message["granularity"] == "clip")
        language = message["language"]
        reader = self._job_reader(job, language) if message["words"] else None
        if language is not None and reader is None and not any(segment.text for segment in given or ()):
            raise RequestRefused(answers.NO_TEXT)
        with self.decoder.decoded(job, body, message["name"], request, words=reader is not None) as sounds:
            timings["decode"] = time.perf_counter() - started
            about = (message["speaker"], message["granularity"])
            analysis = self._analyzed(job, sounds, request, *about, reader=reader, language=language)
        timings["decode"] += analysis.timings.get("decode", 0.0)  # of `analyze`: a copy
        analysis = replace(analysis, file=message["name"], timings={**analysis.timings, **timings})
        answer = analysis.to_dict()
        if analysis.reason in {answers.OFF, NOBODY}:
            answer["context"] = ""  # it would claim that no speech was heard
        text = None
        if message["format"] not in {"json", "jsonl"}:  # these two hold what only the front knows as well
            bare = tuple(replace(segment, judgement=None) for segment in analysis.segments)
            silent = replace(analysis, segments=bare, turns=spoken(bare, analysis.settings.fusion))
            write = formats.FORMATS[message["format"]]
            text = {"judged": write([analysis]), "unjudged": write([replace(silent, boundaries=None)])}
        return {"analysis": answer, "text": text}, None

    def _job_reader(self, job: Job, language: str | None) -> Reader:
        """Returns the recognizer as a job sees it; raises RequestRefused without one, or for an unknown language."""
        if self.reader is None:
            raise RequestRefused(answers.NO_WORDS, kind="no_words")
        try:
            return JobReader(self.reader, job, language)
        except E2VError as error:
            raise RequestRefused(str(error)) from error

    def _analyzed(
        self,
        job: Job,
        sounds: Sounds,
        request: Request,
        speaker: str | None,
        granularity: str,
        *,
        reader: Reader | None,
        language: str | None,
    ) -> Analysis:
        """Analyzes the speech of enrolled speakers; that of others reaches no model that judges."""
        known = self._known(job)
        if known and speaker is not None:  # what a request says counts only for voices that are not enrolled
            speaker = None if known.only or speaker in known.roster else speaker
        if request.given is None:
            enrolled = [self.enrolment.admits(speaker)]
        else:
            request = replace(request, given=[self._gated(segment, speaker) for segment in request.given])
            enrolled = [segment.enrolled for segment in request.given or ()]
            self._check_sum(request.given or (), sounds.duration)
        analysis = None
        if enrolled and not any(enrolled):
            whole = [GivenSegment(0.0, sounds.duration, channel=channel) for channel in sounds.by_channel]
            everything = request.given or [self._gated(segment, speaker) for segment in whole]
            analysis = self._unjudged(sounds, replace(request, given=everything, whole=False), NOBODY, reader=reader)
        elif self.enabled:
            model, dimensional = self._models(job)
            with suppress(Stopped):
                [result] = each(
                    [sounds],
                    channel=request.channel,
                    segments=request.given,
                    whole=request.whole,
                    frames=granularity == "frame",
                    settings=self.segments,
                    model=model,
                    dimensional=dimensional,
                    adapt=self._adapting(speaker) if self.voices and request.channel != "each" else False,
                    enrolled=known,
                    words=reader,
                    language=None if reader else language,
                )
                if isinstance(result, AudioError):
                    raise result
                analysis = result
        job.check()
        if analysis is None:
            analysis = self._unjudged(sounds, request, answers.OFF, known, reader)
        if request.given is None and speaker is not None:
            named = _named(analysis.segments, speaker)
            turns = tuple(replace(turn, parts=_named(turn.parts, speaker)) for turn in analysis.turns or ())
            analysis = replace(analysis, segments=named, turns=turns or spoken(named, analysis.settings.fusion))
        if analysis.reason and any(segment.quality == NOT_ENROLLED for segment in analysis.segments):
            analysis = replace(analysis, reason=analysis.reason if analysis.reason == answers.OFF else NOBODY)
        return analysis

    def _adapting(self, default: str | None) -> Adapting:
        """Returns what adapts the results of a clip to named speakers, who may have been heard before."""

        def adapting(parts: Sequence[tuple[str | None, JudgedWaveform]]) -> tuple[list[JudgedWaveform], list[Note]]:
            named = [(speaker or default, result) for speaker, result in parts]
            found = [self._adapted(*part, hear=True) for part in named]
            speakers = dict.fromkeys(speaker for speaker, _ in named if speaker is not None)
            return found, [*map(self.voices.note, speakers)] if self.voices else []

        return adapting

    def _adapted(self, speaker: str | None, result: JudgedWaveform, *, hear: bool) -> JudgedWaveform:
        """Adapts a result to its speaker, if that is known, and learns from it, if `hear`."""
        if self.voices is None or speaker is None:
            return result
        return self.voices.adapted(speaker, result, hear=hear)

    def _gated(self, segment: GivenSegment, speaker: str | None) -> GivenSegment:
        """Returns a segment with the name of its speaker, by default that of the clip, and whether it is enrolled."""
        name = segment.speaker or speaker
        return replace(segment, speaker=name, enrolled=self.enrolment.admits(name))

    def _unjudged(
        self,
        sounds: Sounds,
        request: Request,
        reason: str,
        known: KnownVoices | None = None,
        reader: Reader | None = None,
    ) -> Analysis:
        """Returns an analysis without judgements; nobody's voice is compared for it, but the words are read."""
        segments, notes = request.segments(sounds, self.segments)
        if known:
            segments = [known.settle(segment, NOBODY_HEARD) for segment in segments]
        settings = AnalysisSettings("none", self.segments, FusionSettings(), None)
        found = [*map(placed, segments)]
        transcript = None
        if reader:
            read = reading.read(sounds, segments, reader)
            found = [worded(each, read.words[i]) if i in read.words else each for i, each in enumerate(found)]
            notes, transcript = [*notes, *read.notes], read.transcript
        every = (*sounds.notes, *notes)
        turns = spoken(found, settings.fusion)
        return Analysis("", sounds.duration, tuple(found), None, reason, (), settings, {}, every, transcript, turns)

    def _check_sum(self, given: Sequence[GivenSegment], duration: float) -> None:
        """Raises RequestRefused for more audio than a request may have judged; segments may overlap."""
        enrolled = [segment for segment in given if segment.enrolled]
        seconds = sum(min(segment.end, duration) - min(segment.start, duration) for segment in enrolled)
        if seconds > self.max_audio_seconds:
            raise RequestRefused(
                f"the segments have {seconds:.0f} s in all, more than {self.max_audio_seconds:g} s, the limit of this "
                f"service (--max-audio-seconds): send them in several requests",
                status=413,
                kind="too_long",
            )

    def _embed(self, job: Job, message: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes | None]:
        kind = next(iter(self.batchers))
        model = BatchedModel(self.batchers[kind], job)
        architecture = model.config.architecture
        with self.decoder.decoded(job, body, message["name"], Request(message["channel"])) as sounds:
            [sound] = sounds.by_channel.values()
            waveform, samples = sound.waveform, sounds.samples
            numbers = architecture.frames(samples) * architecture.frame_dim
            if message["granularity"] == "frame" and numbers > FRAME_NUMBERS:
                raise RequestRefused(
                    f"{numbers} numbers of {samples / SAMPLING_RATE:.0f} s by frames are more than {FRAME_NUMBERS}: "
                    f"cut it into parts, or use `e2v embed`",
                    status=413,
                    kind="too_long",
                )
            embedding = None
            with suppress(Stopped):
                if self.enabled and self._admitted(job, waveform, message["speaker"]):
                    embedding = model.embed(waveform, SAMPLING_RATE, granularity=message["granularity"]).tolist()
        job.check()
        answer = {
            "model": model.config.source.repository,
            "dim": architecture.frame_dim if message["granularity"] == "frame" else architecture.embed_dim,
            "duration": samples / SAMPLING_RATE,
            "hop_seconds": architecture.hop / SAMPLING_RATE,
            "notes": [note._asdict() for note in sounds.notes],
        }
        return answer, json.dumps(embedding).encode()

    def _reply(self, job: Job, message: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes | None]:
        assert self.replier is not None  # the front has asked

        def tell(name: str, part: dict[str, Any]) -> None:
            self._replying(job)
            self._send({"id": message["id"], "part": {"event": name, **part}})

        request = Request(message["channel"])
        with self.decoder.decoded(job, body, message["name"], request, remark=True) as sounds:
            [sound] = sounds.by_channel.values()
            self._replying(job)
            if not self._admitted(job, sound.waveform, message["speaker"]):
                raise RequestRefused(f"{message['name']}: {NOBODY}", kind="not_enrolled")
            words = None
            if message["words"]:
                read, _ = self._job_reader(job, message["language"]).read(sound.waveform, [(0.0, sounds.duration)])
                words = "".join(word.text for word in read).strip()
            asked = {name: message[name] for name in ("context", "aloud", "temperature")}
            answer = self.replier.reply(sound.waveform, words=words, tell=tell, **asked)
        self._replying(job)
        known = {note.text for note in sounds.notes}
        notes = [*(note._asdict() for note in sounds.notes), *(n for n in answer["notes"] if n["text"] not in known)]
        return {**answer, "notes": notes, "duration": sounds.duration}, None

    def _replying(self, job: Job) -> None:
        """Notes that a reply makes progress; raises RequestRefused once emotions are switched off."""
        job.check()
        if not self.enabled:
            raise RequestRefused(answers.NO_REPLY, status=409, kind="off")

    def _admitted(self, job: Job, waveform: Waveform, speaker: str | None) -> bool:
        """Returns whether a clip may reach a model: by the name that its request gives, or by the voice."""
        if not self.enrolment.admits(speaker):
            return False
        known = self._known(job)
        return known is None or not known.only or known.whose(waveform, self.segments).name is not None

    def _open(self, job: Job, message: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes | None]:
        from e2v_port.live.words import LiveWords
        from e2v_port.service.live import Session

        def judge(segment: Segment, waveform: Waveform, steady: "Steady | None") -> JudgedSegment:
            return self._judged(job, segment, waveform, steady)

        judging = self._recognized(job, judge)
        names = ("sampling_rate", "format", "channels", "speaker", "channel")
        words = None
        if message["words"]:
            language = message["language"]
            self._job_reader(job, language)  # refuses what cannot be read
            assert self.reader is not None
            words = LiveWords[JudgedSegment](self.reader.reader, self.reader.submit, language, job.waiting)
        try:
            declared = {name: message[name] for name in names}
            session = Session(judging, **declared, settings=self.segments, ahead=self.voices is None, words=words)
        except ValueError as error:
            raise RequestRefused(str(error), kind="stream") from error
        self.streams[message["stream"]] = _Stream(session, job)
        return {}, None

    def _recognized(self, job: Job, judge: "Judging") -> "Judging":
        """Returns a judge that names each voice before it judges it, if voices are enrolled."""
        from e2v_port.live.recognition import Recognition

        known = self._known(job)
        if known is None:
            return judge
        recognition = Recognition(judge, known, self.segments)

        def judging(segment: Segment, waveform: Waveform, steady: "Steady | None") -> JudgedSegment:
            with suppress(Stopped):
                return recognition(segment, waveform, steady)
            job.check()
            return placed(known.settle(segment, NOBODY_HEARD))

        return judging

    def _push(self, job: Job, message: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes | None]:
        session = self._stream(message).session
        return {"events": session.push(body), "samples": session.samples, "notes": session.notes()}, None

    def _finish(self, job: Job, message: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes | None]:
        session = self._stream(message).session
        events = session.finish()
        about = {"duration": session.duration, "notes": session.notes(), "transcript": session.transcript}
        return {"events": events, **about}, None

    def _stream(self, message: dict[str, Any]) -> _Stream:
        stream = self.streams.get(message["stream"])
        if stream is None:
            raise Stopped
        return stream

    def _judged(self, job: Job, segment: Segment, waveform: Waveform, steady: "Steady | None") -> JudgedSegment:
        """Judges a segment or a window of a stream, if its speaker is enrolled and emotions are switched on."""
        if not self.enrolment.admits(segment.speaker):
            return placed(replace(segment, quality=NOT_ENROLLED))
        if self.enabled and segment.quality in {"normal", "low_confidence"}:
            judge = Judge(*self._models(job))
            with suppress(Stopped):
                result = self._adapted(segment.speaker, judge.one(waveform), hear=steady is None)
                if steady and result.prediction:
                    result = judge.with_prediction(result, steady(result.prediction))
                return placed(segment, result.judgement, result.prediction)
        job.check()
        return placed(segment)

    def _models(self, job: Job) -> tuple[Model | None, Model | None]:
        """Returns the categorical and the dimensional model, as a job sees them."""
        models = {kind: BatchedModel(batcher, job) for kind, batcher in self.batchers.items()}
        return models.get(CATEGORICAL), models.get(DIMENSIONAL)

    def _described(self, kind: str) -> dict[str, Any]:
        model = self.batchers[kind].model
        config = model.config
        return {
            "kind": kind,
            "name": config.source.repository,
            "dtype": model.dtype,
            "runtime": model.runtime,
            "licence": config.licence,
            "limited_to": None if model.limited_to is None else list(model.limited_to),
            "labels": list(model.labels),
            "embed_dim": model.embed_dim,
            "hop_seconds": config.architecture.hop / SAMPLING_RATE,
        }


def _named(segments: Sequence[JudgedSegment], speaker: str) -> tuple[JudgedSegment, ...]:
    """Returns segments as those of a speaker, unless their voice has a name."""
    return tuple(replace(segment, speaker=segment.speaker or speaker) for segment in segments)


def _refused(error: Exception) -> ServiceError:
    """Returns the error to answer a request with."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, Stopped):
        return RequestCancelled("the request was cancelled")
    for kind, name in (AudioError, "audio"), (SegmentError, "segments"), (E2VError, "model"):
        if isinstance(error, kind):
            return RequestRefused(str(error), kind=name)
    if isinstance(error, MemoryError):
        return ServiceUnavailable("not enough memory at the moment: try again later")
    _log.error("internal error", exc_info=error)
    return ServiceError("internal error: see the service log")
