"""e2v listen, e2v express."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from e2v_port.cli.options import DimensionalName, DtypeName, ModelName, Offline, RuntimeName
from e2v_port.cli.output import PARTIAL_FAILURE, complain, fail, finish, need_place
from e2v_port.errors import AudioError
from e2v_port.files import printable, replacing

if TYPE_CHECKING:
    from e2v_port.audio import Waveform
    from e2v_port.detector import VoiceSegment

__all__ = ["express", "listen"]


def listen(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="Audio file, followed as if it were spoken now; - for samples on stdin. By default the microphone.",
            show_default=False,
        ),
    ] = None,
    model: ModelName = None,
    dimensional: DimensionalName = None,
    backend: Annotated[
        Literal["bundled", "emotion2vec", "prosodic", "hybrid"] | None,
        typer.Option("--backend", "-b", help="What listens; by default what fits the model.", show_default=False),
    ] = None,
    runtime: RuntimeName = "auto",
    dtype: DtypeName = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What this voice is like when nothing is the matter.")
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write such a file from what is heard: 3 to 5 neutral sentences."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Microphone: its number, or a part of its name.")
    ] = None,
    rate: Annotated[
        int, typer.Option(metavar="HZ", help="Of samples on stdin, which are 16-bit integers of one channel.")
    ] = 16_000,
    fast: Annotated[bool, typer.Option("--fast", help="Follow a file as fast as it can be judged.")] = False,
    as_json: Annotated[bool, typer.Option("--jsonl", help="One JSON object per result, at once.")] = False,
    speak_as: Annotated[
        str | None,
        typer.Option(metavar="TONE", help="Of --reply: an emotion, or match, complement, amplify or neutral."),
    ] = None,
    reply: Annotated[Path | None, typer.Option(metavar="FILE", help="Speech that is to answer the voice.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.wav", help="Where to write it in that tone; or .flac.")
    ] = None,
    offline: Offline = False,
) -> None:
    """Follow a voice while it speaks, until it ends or Ctrl-C.

    A line for each stretch of speech that has ended; on a terminal also what is heard now.
    """
    _check_listen(source, device, fast, calibrate, speak_as, reply, out)
    answer = _voice(reply) if reply else None  # an error in it is told before anybody speaks

    from contextlib import ExitStack

    from rich.console import Console

    from e2v_port import listening
    from e2v_port.detector import EmotionDetector

    with ExitStack() as stack:
        sound: listening.Source
        if source is None:
            sound = stack.enter_context(listening.Microphone(device))
        elif source == "-":
            sound = listening.Pipe(sys.stdin.fileno(), rate)
        else:
            sound = listening.Recording(source, paced=not fast)
        try:
            detector = EmotionDetector(
                model,
                backend=backend,
                dimensional=dimensional,
                runtime=runtime,
                dtype=dtype,
                baseline=baseline,
                offline=offline,
            )
        except ValueError as error:
            fail(str(error))
        listener = detector.open(sound.sampling_rate)
        show: listening.Show = listening.JsonLines()
        if not as_json:
            names = [f"{each.name} on {each.runtime}" for each in detector.models]
            console = Console(highlight=False)
            show = stack.enter_context(listening.View(console, sound, ", ".join([detector.backend, *names])))
        try:
            listening.follow(sound, listener, show)
        except AudioError as error:
            complain(str(error))
            finish(1 + len(detector.history()), failed=1)
        if sound.gaps:
            print(f"note: {listening.lost(sound)}", file=sys.stderr)
    heard = detector.history()
    if not as_json:
        print(detector.to_context(3600.0, long=True), flush=True)
    if calibrate:
        from e2v_port.prosody import Baseline

        try:
            Baseline.of([each.prosody for each in heard if each.prosody]).save(calibrate)
        except ValueError as error:
            fail(f"--calibrate {calibrate}: {error}")
    if answer and speak_as and out:
        last = next((each for each in reversed(heard) if each.emotion), None)
        _answer(answer, speak_as, last, out)


def _check_listen(
    source: str | None,
    device: str | None,
    fast: bool,
    calibrate: Path | None,
    speak_as: str | None,
    reply: Path | None,
    out: Path | None,
) -> None:
    """Refuses what contradicts itself, before anything is loaded."""
    if source is not None and device:
        fail(f"--device {device}: is for the microphone, not for {source}")
    if fast and source in {None, "-"}:
        fail("--fast: needs a file; all else comes at its own pace")
    if source == "-" and (sys.stdin is None or sys.stdin.isatty()):
        fail("-: no samples come in: pipe them, as in arecord -t raw -f S16_LE -r 16000 | e2v listen -")
    if calibrate:
        need_place("--calibrate", calibrate)
    if any((speak_as, reply, out)):
        if not (speak_as and reply and out):
            fail("--speak-as, --reply and --out belong together: name all three")
        _check_tone(speak_as)
        _check_audio_out(out)


def express(
    emotion: Annotated[str, typer.Option("--emotion", "-e", metavar="NAME", help="One of the 26, such as calm.")],
    what: Annotated[
        str | None,
        typer.Argument(metavar="TEXT|FILE", help="Text to say, or with --out recorded speech.", show_default=False),
    ] = None,
    intensity: Annotated[float, typer.Option(metavar="NUMBER", help="From nothing of it, 0, to 2.")] = 1.0,
    ssml: Annotated[
        str | None,
        typer.Option(
            metavar="DIALECT", help="Of TEXT: w3c by default, azure, google, polly, polly-neural or espeak-ng."
        ),
    ] = None,
    language: Annotated[str, typer.Option(metavar="TAG", help="Of TEXT.")] = "en-US",
    voice: Annotated[str | None, typer.Option(metavar="NAME", help="Of the engine that is to say TEXT.")] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Print its settings instead: piper, kokoro, xtts, espeak-ng, say or rvc."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.wav", help="Where to write the speech; or .flac.")
    ] = None,
) -> None:
    """Make text or recorded speech sound like an emotion.

    TEXT is printed as SSML for a speech engine. Speech is changed in pitch, pace, pauses, level and breath.
    """
    from e2v_port import expression

    if (what is None) == (engine is None):
        fail("name a text, a file of speech, or an --engine whose settings are to be printed")
    if engine and (out or ssml):
        fail(f"--engine {engine}: prints settings: leave --out and --ssml out")
    if out and ssml:
        fail(f"--out {out}: holds speech, --ssml marks up text: leave one of them out")
    if what and not out and Path(what).is_file():
        fail(f"{printable(what)}: is a file: name --out, where to write the speech in it")
    try:
        parameters = expression.parameters(emotion, intensity)
        if engine:
            import json

            print(json.dumps(expression.to_engine(parameters, engine)), flush=True)
        elif what and not out:
            print(expression.to_ssml(what, parameters, ssml or "w3c", language=language, voice=voice), flush=True)
    except ValueError as error:
        fail(str(error))
    if what and out:
        _check_audio_out(out)
        waveform, rate = _voice(Path(what))
        _write_voice(expression.apply(waveform, rate, parameters), rate, out)


def _check_tone(tone: str) -> None:
    from e2v_port import emotions, expression

    names = [emotion.name for emotion in emotions.emotions()]
    if tone not in {*expression.STRATEGIES, *names}:
        fail(f"--speak-as {tone}: is none of {', '.join(expression.STRATEGIES)}, nor an emotion: {', '.join(names)}")


def _check_audio_out(out: Path) -> None:
    if out.suffix.lower() not in {".wav", ".flac"} or out.is_dir():
        fail(f"--out {out}: name a .wav or .flac file")
    need_place("--out", out)


def _voice(file: Path) -> "tuple[Waveform, int]":
    """Reads speech at its own rate: it is to be heard, not judged."""
    import numpy as np

    from e2v_port.audio import AudioStream

    with AudioStream(file, resample=False) as stream:
        waveform = np.concatenate(list(stream))
    assert stream.rate  # known with the first block
    return waveform, stream.rate


def _write_voice(waveform: "Waveform", rate: int, out: Path) -> None:
    import soundfile

    data = io.BytesIO()  # the library would not tell that a disk is full
    soundfile.write(data, waveform, rate, format=out.suffix[1:])
    with replacing(out) as partial:
        partial.write_bytes(data.getvalue())


def _answer(reply: "tuple[Waveform, int]", tone: str, heard: "VoiceSegment | None", out: Path) -> None:
    """Writes the reply in a tone that answers the last that was heard, or in the one that was asked for."""
    from e2v_port import expression

    if tone not in expression.STRATEGIES:
        emotion, parameters, why = tone, expression.parameters(tone), "as asked for"
    elif heard and heard.emotion:
        response = expression.respond(heard.emotion, heard.confidence or 0.0, tone)
        emotion, parameters = response.emotion, response.parameters
        why = f"{tone} of {heard.emotion}, {heard.confidence:.2f}"
    else:
        complain(f"--speak-as {tone}: no emotion was heard that could be answered: {out} is not written")
        raise typer.Exit(PARTIAL_FAILURE)
    waveform, rate = reply
    _write_voice(expression.apply(waveform, rate, parameters), rate, out)
    print(f"{printable(str(out))}: spoken {emotion} ({why})", file=sys.stderr)
