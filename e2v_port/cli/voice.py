"""e2v listen and e2v express."""

import io
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from e2v_port.cli.options import (
    Adapt,
    BaselineFiles,
    ChannelName,
    DimensionalName,
    DtypeName,
    Enrolled,
    LabelNames,
    MaxGain,
    ModelName,
    Offline,
    OnlyEnrolled,
    ProfileOfModels,
    RosterFile,
    RuntimeName,
    SpeakerModel,
    SpeechThreshold,
    completed,
    known_voices,
    segment_settings,
)
from e2v_port.cli.output import PARTIAL_FAILURE, complain, fail, finish, need_place
from e2v_port.errors import AudioError
from e2v_port.files import printable, replacing

if TYPE_CHECKING:
    from e2v_port.audio import Waveform
    from e2v_port.live import sources
    from e2v_port.live.detector import EmotionDetector
    from e2v_port.live.results import VoiceSegment

__all__ = ["express", "listen"]


Source = Annotated[
    str | None,
    typer.Argument(
        metavar="FILE",
        help="Audio file to follow as if it were spoken now, or - for samples on stdin. Default: the microphone.",
        show_default=False,
    ),
]
Backend = Annotated[
    Literal["bundled", "emotion2vec", "prosodic", "hybrid"] | None,
    typer.Option("--backend", "-b", help="Backend of the detector. Default: chosen by the model.", show_default=False),
]
Calibrate = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write such a baseline from 3 to 5 neutral sentences.")
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="Microphone to use: its number or a part of its name.")
]
Rate = Annotated[
    int, typer.Option(metavar="HZ", help="Sampling rate of the samples on stdin, which are 16-bit mono integers.")
]
Fast = Annotated[bool, typer.Option("--fast", help="Follow a file as fast as it can be judged, not in real time.")]
JsonLines = Annotated[bool, typer.Option("--jsonl", help="Print each result at once, as a JSON object on a line.")]
SpeakAs = Annotated[
    str | None,
    typer.Option(
        metavar="TONE",
        help="Tone of the --reply: match, complement, amplify or neutral, relative to the voice, or one of the 26 "
        "emotions.",
    ),
]
WordsModel = Annotated[
    str | None,
    typer.Option(
        "--words",
        metavar="MODEL",
        help="Also read the words of finished segments, with a Whisper model: tiny.en, base, ..., or its folder.",
    ),
]
WordsLanguage = Annotated[
    str | None,
    typer.Option("--language", metavar="CODE", help="Language of the words, such as en; detected by default."),
]
Reply = Annotated[Path | None, typer.Option(metavar="FILE", help="Recorded speech to answer the voice with.")]
ReplyFile = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the --reply in that tone, as .wav or .flac.")
]


def listen(
    source: Source = None,
    model: ModelName = None,
    dimensional: DimensionalName = None,
    backend: Backend = None,
    runtime: RuntimeName = "auto",
    dtype: DtypeName = None,
    labels: LabelNames = None,
    adapt: Adapt = False,
    baseline: BaselineFiles = None,
    calibrate: Calibrate = None,
    enrolled: Enrolled = False,
    only_enrolled: OnlyEnrolled = False,
    roster: RosterFile = None,
    speaker_model: SpeakerModel = "bundled-voices",
    device: Device = None,
    rate: Rate = 16_000,
    channel: ChannelName = "mix",
    fast: Fast = False,
    as_json: JsonLines = False,
    words: WordsModel = None,
    language: WordsLanguage = None,
    speak_as: SpeakAs = None,
    reply: Reply = None,
    out: ReplyFile = None,
    speech_threshold: SpeechThreshold = None,
    max_gain: MaxGain = None,
    offline: Offline = False,
    profile: ProfileOfModels = None,
) -> None:
    """Follow a voice while it speaks, until it ends or you press Ctrl-C.

    Prints a line for each finished segment of speech; on a terminal, also the voice of the moment.
    """
    _check_listen(source, device, fast, calibrate, speak_as, reply, out)
    if channel != "mix" and source in {None, "-"}:
        fail(f"--channel {channel}: needs a file; a microphone and stdin have one channel")
    model, dimensional, dtype, *_ = completed(profile, model=model, dimensional=dimensional, dtype=dtype)
    if language is not None and words is None:
        fail("--language belongs to --words: add --words, with Whisper or iic/SenseVoiceSmall")
    settings = segment_settings(speech_threshold, max_gain)
    answer = _voice(reply) if reply else None  # read first, so that a bad file is reported before anyone speaks

    known = known_voices(enrolled, only_enrolled, roster, speaker_model, runtime=runtime, offline=offline)
    with ExitStack() as stack:
        sound = _open(source, device, rate, channel, fast, stack)
        detector = _detector(
            model,
            backend=backend,
            dimensional=dimensional,
            runtime=runtime,
            dtype=dtype,
            labels=labels,
            adapt=adapt,
            baseline=baseline,
            settings=settings,
            enrolled=known,
            words=words,
            language=language,
            offline=offline,
        )
        _follow(detector, sound, as_json, stack)
    segments = detector.history()
    if learned := detector.adaptation():
        print(f"note: {learned}", file=sys.stderr)
    if not as_json:
        print(detector.to_context(3600.0, long=True), flush=True)
    if calibrate:
        _write_baseline(segments, calibrate)
    if answer and speak_as and out:
        last = next((each for each in reversed(segments) if each.emotion), None)
        _answer(answer, speak_as, last, out)


def _open(
    source: str | None, device: str | None, rate: int, channel: str, fast: bool, stack: ExitStack
) -> "sources.Source":
    from e2v_port.live import sources

    if source is None:
        from e2v_port.live.microphone import Microphone

        return stack.enter_context(Microphone(device))
    if source == "-":
        return sources.Pipe(sys.stdin.fileno(), rate)
    return sources.Recording(source, paced=not fast, channel=channel)


def _detector(model: str | None, **options: Any) -> "EmotionDetector":
    from e2v_port.live.detector import EmotionDetector

    try:
        return EmotionDetector(model, **options)
    except ValueError as error:
        fail(str(error))


def _follow(detector: "EmotionDetector", sound: "sources.Source", as_json: bool, stack: ExitStack) -> None:
    """Judges the sound until it ends, and shows the results as they come."""
    from rich.console import Console

    from e2v_port.live import loop, sources, view

    listener = detector.open(sound.sampling_rate)
    show: loop.Show = loop.JsonLines()
    if not as_json:
        console = Console(highlight=False)
        show = stack.enter_context(view.View(console, sound, _judges(detector)))
    try:
        loop.follow(sound, listener, show)
    except AudioError as error:
        complain(str(error))
        finish(1 + len(detector.history()), failed=1)
    if sound.gaps:
        print(f"note: {sources.lost(sound)}", file=sys.stderr)
    for note in listener.notes:
        if note.kind in {"words_late", "words_failed"}:
            print(f"note: {note.text}", file=sys.stderr)


def _judges(detector: "EmotionDetector") -> str:
    """Names the backend, unless it has the name of its model, and the models with their runtimes."""
    backend = [] if detector.backend in {each.name for each in detector.models} else [detector.backend]
    return ", ".join([*backend, *map(str, detector.models)])


def _write_baseline(segments: "Sequence[VoiceSegment]", path: Path) -> None:
    from e2v_port.prosody.baseline import Baseline

    try:
        Baseline.of([each.prosody for each in segments if each.prosody]).save(path)
    except ValueError as error:
        fail(f"--calibrate {path}: {error}")


def _check_listen(
    source: str | None,
    device: str | None,
    fast: bool,
    calibrate: Path | None,
    speak_as: str | None,
    reply: Path | None,
    out: Path | None,
) -> None:
    """Rejects contradicting options before anything is loaded."""
    if source is not None and device:
        fail(f"--device {device}: chooses a microphone, but {source} is to be followed: leave one out")
    if fast and source in {None, "-"}:
        fail("--fast needs a file: a microphone and stdin set their own pace")
    if source == "-" and (sys.stdin is None or sys.stdin.isatty()):
        fail("-: no samples on stdin: pipe them in, as in arecord -t raw -f S16_LE -r 16000 | e2v listen -")
    if calibrate:
        need_place("--calibrate", calibrate)
    if any((speak_as, reply, out)):
        if not (speak_as and reply and out):
            fail("--speak-as, --reply and --out belong together: pass all three")
        _check_tone(speak_as)
        _check_audio_out(out)


EmotionName = Annotated[
    str, typer.Option("--emotion", "-e", metavar="NAME", help="One of the 26 emotions, such as calm.")
]
TextOrFile = Annotated[
    str | None,
    typer.Argument(metavar="TEXT|FILE", help="Text to speak or, with --out, recorded speech.", show_default=False),
]
Intensity = Annotated[float, typer.Option(metavar="NUMBER", help="Strength of the tone, from 0 (none) to 2.")]
Ssml = Annotated[
    str | None,
    typer.Option(
        metavar="DIALECT", help="SSML dialect: w3c, azure, google, polly, polly-neural or espeak-ng. Default: w3c."
    ),
]
Language = Annotated[str, typer.Option(metavar="TAG", help="Language of the text.")]
VoiceName = Annotated[str | None, typer.Option(metavar="NAME", help="Voice of the speech engine.")]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Print the settings of an engine instead: piper, kokoro, xtts, espeak-ng, say, browser or rvc.",
    ),
]
SpeechFile = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the changed speech as .wav or .flac.")
]


def express(
    emotion: EmotionName,
    what: TextOrFile = None,
    intensity: Intensity = 1.0,
    ssml: Ssml = None,
    language: Language = "en-US",
    voice: VoiceName = None,
    engine: Engine = None,
    out: SpeechFile = None,
) -> None:
    """Give text or recorded speech an emotional tone.

    Text is printed as SSML for a speech engine. Recorded speech is changed in pitch, pace, pauses, level and breath.
    """
    from e2v_port.expression import profiles
    from e2v_port.expression.apply import apply
    from e2v_port.expression.engines import to_engine
    from e2v_port.expression.ssml import to_ssml

    if (what is None) == (engine is None):
        fail("nothing to express: pass a text, an audio file, or an --engine to print settings for")
    if engine and (out or ssml):
        fail(f"--engine {engine} prints settings: leave out --out and --ssml")
    if out and ssml:
        fail(f"--out {out} writes speech and --ssml marks up text: leave one out")
    if what and not out and Path(what).is_file():
        fail(f"{printable(what)} is a file: pass --out to say where its changed speech goes")
    try:
        parameters = profiles.parameters(emotion, intensity)
        if engine:
            import json

            print(json.dumps(to_engine(parameters, engine)), flush=True)
        elif what and not out:
            print(to_ssml(what, parameters, ssml or "w3c", language=language, voice=voice), flush=True)
    except ValueError as error:
        fail(str(error))
    if what and out:
        _check_audio_out(out)
        waveform, rate = _voice(Path(what))
        _write_voice(apply(waveform, rate, parameters), rate, out)


def _check_tone(tone: str) -> None:
    from e2v_port.emotions import taxonomy
    from e2v_port.expression.respond import STRATEGIES

    names = [emotion.name for emotion in taxonomy.emotions()]
    if tone not in {*STRATEGIES, *names}:
        strategies = ", ".join(STRATEGIES)
        fail(f"--speak-as {tone}: unknown tone: use {strategies}, or one of the 26 emotions: {', '.join(names)}")


def _check_audio_out(out: Path) -> None:
    if out.suffix.lower() not in {".wav", ".flac"} or out.is_dir():
        fail(f"--out {out}: must be a .wav or .flac file")
    need_place("--out", out)


def _voice(file: Path) -> "tuple[Waveform, int]":
    """Reads speech at its own sampling rate, as it will be heard, not judged."""
    import numpy as np

    from e2v_port.audio import AudioStream

    with AudioStream(file, resample=False) as stream:
        waveform = np.concatenate(list(stream))
    assert stream.rate  # known once the first block is read
    return waveform, stream.rate


def _write_voice(waveform: "Waveform", rate: int, out: Path) -> None:
    import soundfile

    data = io.BytesIO()  # soundfile does not report a full disk
    soundfile.write(data, waveform, rate, format=out.suffix[1:])
    with replacing(out) as partial:
        partial.write_bytes(data.getvalue())


def _answer(reply: "tuple[Waveform, int]", tone: str, heard: "VoiceSegment | None", out: Path) -> None:
    """Writes the reply in the requested tone, or in one that answers the last judged segment."""
    from e2v_port.expression import profiles
    from e2v_port.expression.apply import apply
    from e2v_port.expression.respond import STRATEGIES, respond

    if tone not in STRATEGIES:
        emotion, parameters, why = tone, profiles.parameters(tone), "as requested"
    elif heard and heard.shade:
        response = respond(heard.shade.name, heard.confidence or 0.0, tone)
        emotion, parameters = response.emotion, response.parameters
        shade = f", shade {heard.shade.name}" if heard.shade.name != str(heard.emotion).casefold() else ""
        why = f"{tone} of {heard.emotion} {heard.confidence:.2f}{shade}"
    else:
        complain(f"--speak-as {tone}: no emotion was heard to answer: {out} was not written")
        raise typer.Exit(PARTIAL_FAILURE)
    waveform, rate = reply
    _write_voice(apply(waveform, rate, parameters), rate, out)
    print(f"{printable(str(out))}: spoken as {emotion} ({why})", file=sys.stderr)
