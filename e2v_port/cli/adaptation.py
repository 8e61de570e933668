"""e2v adapt and e2v enroll: what is known of a voice."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from e2v_port.cli.options import ChannelName, DtypeName, ModelName, Offline, RosterFile, RuntimeName, SpeakerModel
from e2v_port.cli.output import fail, model_or_bundled, need_place, print_table
from e2v_port.files import printable

if TYPE_CHECKING:
    from e2v_port.models.model import Model

__all__ = ["adapt", "enroll"]

Files = Annotated[
    list[str], typer.Argument(metavar="FILE", help="Recordings of one speaker in several moods.", show_default=False)
]
BaselineOut = Annotated[Path, typer.Option("--out", "-o", metavar="FILE.json", help="Output file for the baseline.")]
Known = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Add to a baseline that `e2v listen --calibrate` wrote.")
]
SpeakerName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the speaker, as in diarizations. Default: any speaker.")
]


def adapt(
    files: Files,
    out: BaselineOut,
    speaker: SpeakerName = None,
    baseline: Known = None,
    model: ModelName = None,
    channel: ChannelName = "mix",
    runtime: RuntimeName = "auto",
    dtype: DtypeName = None,
    offline: Offline = False,
) -> None:
    """Learn a known voice, so that a model judges it better.

    Writes how the voice moves the judgements of the model to a baseline, for --baseline of the other commands. It is
    personal data: delete the file when it is no longer needed. See docs/adaptation.md.
    """
    need_place("--out", out)
    from dataclasses import replace

    from e2v_port.audio import SAMPLING_RATE, load_audio
    from e2v_port.live.detector import EmotionDetector
    from e2v_port.prosody.baseline import Baseline

    known = Baseline.load(baseline) if baseline else None
    if known:
        speaker = speaker or known.speaker
        known = replace(known, speaker=speaker, offset=None)
    named = model_or_bundled(model)
    detector = EmotionDetector(named, baseline=known, runtime=runtime, dtype=dtype, offline=offline)
    samples = (load_audio(file, channel=channel) for file in files)
    try:
        learned = detector.adapt(samples, SAMPLING_RATE, speaker=speaker)
    except ValueError as error:
        fail(str(error))
    learned.save(out)
    print(f"{printable(str(out))}: {learned.offset}")


Name = Annotated[str | None, typer.Argument(metavar="NAME", help="Name of the speaker.", show_default=False)]
VoiceFiles = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILE", help="Recordings of this speaker alone, 10 s of speech or more.", show_default=False
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="Similarity, 0 to 1, from which a voice counts as an enrolled one. Default: as measured.",
        show_default=False,
    ),
]
List = Annotated[bool, typer.Option("--list", help="Show who is enrolled.")]
Delete = Annotated[str | None, typer.Option(metavar="NAME", help="Delete a voice.", show_default=False)]
Export = Annotated[Path | None, typer.Option(metavar="FILE", help="Copy all that is stored to a file.")]


def enroll(
    name: Name = None,
    files: VoiceFiles = None,
    roster: RosterFile = None,
    list_: List = False,
    delete: Delete = None,
    export: Export = None,
    channel: ChannelName = "mix",
    speaker_model: SpeakerModel = "bundled-voices",
    threshold: Threshold = None,
    runtime: RuntimeName = "auto",
    offline: Offline = False,
) -> None:
    """Enroll a voice by name, for --enrolled of the other commands.

    Stores numbers that tell the voice from others, never its sound. They are biometric data: enroll only people who
    agreed, and delete them when they are no longer needed. See docs/enrolment.md.
    """
    asked = [option for option, given in (("--list", list_), ("--delete", delete), ("--export", export)) if given]
    if len(asked) > 1 or (asked and name):
        fail(f"{asked[0]} stands alone: leave out {asked[1] if len(asked) > 1 else 'the name and the files'}")
    if not asked and not (name and files):
        fail("name the speaker and recordings: e2v enroll NAME FILE...; or use --list, --delete NAME or --export FILE")
    from e2v_port.speakers.roster import Roster, default_path

    path = roster or default_path()
    if list_:
        _list(path)
    elif delete:
        _delete(path, delete)
    elif export:
        need_place("--export", export)
        Roster.load(path).save(export)
    elif name and files:
        _enroll(path, name, files, channel, _encoder(speaker_model, runtime, offline), threshold)


def _encoder(name: str, runtime: str, offline: bool) -> "Model":
    from e2v_port.models.load import load

    return load(name, runtime=runtime, offline=offline)


def _enroll(path: Path, name: str, files: list[str], channel: str, encoder: "Model", threshold: float | None) -> None:
    from e2v_port.speakers import known
    from e2v_port.speakers.roster import Roster

    if path.exists():
        roster = Roster.load(path)
        if threshold is not None and threshold != roster.threshold:
            fail(f"--threshold {threshold:g}: {printable(str(path))} has {roster.threshold:g}: use another --roster")
    else:
        try:
            roster = Roster.of(encoder, threshold)
        except ValueError as error:
            fail(f"--{error}")
    notes = known.enroll(roster, encoder, name, files, channel=channel)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    roster.save(path)
    for note in notes:
        print(f"note: {note.text}", file=sys.stderr)
    voice = roster.voice(name)
    print(f"{voice.name}: enrolled from {voice.seconds:.1f} s of speech in {printable(str(path))}")


def _list(path: Path) -> None:
    from e2v_port.speakers.roster import Roster

    if not path.exists():
        print(f"nobody is enrolled in {printable(str(path))}")
        return
    roster = Roster.load(path)
    rows = [[voice.name, voice.enrolled, f"{voice.seconds:.1f} s", f"{voice.clips}"] for voice in roster.voices]
    print_table([["name", "enrolled", "speech", "clips"], *rows])
    print(f"{printable(str(path))}: by {roster.encoder}, threshold {roster.threshold:g}")


def _delete(path: Path, name: str) -> None:
    """Deletes a voice, and the file with the last one: nothing of anybody is left then."""
    from e2v_port.speakers.roster import Roster

    roster = Roster.load(path)
    voice = roster.delete(name)
    if len(roster):
        roster.save(path)
    else:
        path.unlink()
    print(f"{voice.name}: deleted from {printable(str(path))}")
