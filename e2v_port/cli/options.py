"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e2v_port.cli.output import fail

if TYPE_CHECKING:
    from e2v_port.speakers.known import KnownVoices
    from e2v_port.speech.segment import SegmentSettings

__all__ = [
    "CORPUS_OPTION",
    "MODEL_OPTION",
    "RUNTIMES",
    "Adapt",
    "BaselineFiles",
    "ChannelName",
    "ChannelOrEach",
    "DimensionalName",
    "DtypeName",
    "Enrolled",
    "LabelNames",
    "MaxGain",
    "ModelName",
    "Offline",
    "OnlyEnrolled",
    "RosterFile",
    "RuntimeName",
    "SpeakerModel",
    "SpeechThreshold",
    "known_voices",
    "segment_settings",
]

RUNTIMES = "Runtime: auto, cuda, mlx, mps, cpu or numpy; onnx for a model of `e2v export`."

MODEL_OPTION = typer.Option(
    "--model",
    "-m",
    metavar="MODEL",
    envvar="E2V_MODEL",
    help="Model to use: a known name (see `e2v models`), a converted folder or a checkpoint.",
    show_default=False,
)
CORPUS_OPTION = typer.Option(
    "--corpus",
    "-c",
    metavar="NAME=PATH",
    help="Labeled corpus and where it is: ravdess, emodb, nemo, crema-d, emogator, iemocap, msp-podcast, meld, "
    "emo-emilia, emobox, zed or csv. Repeatable.",
)
ModelName = Annotated[str | None, MODEL_OPTION]
DimensionalName = Annotated[
    str | None,
    typer.Option(
        "--dimensional",
        "-d",
        metavar="MODEL",
        help="Model that measures arousal, dominance and valence; named as for --model.",
    ),
]
RuntimeName = Annotated[str, typer.Option("--runtime", "-r", metavar="NAME", help=RUNTIMES)]
DtypeName = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="Precision of the computation: float32, bfloat16, float16, or auto for the fastest on this machine. "
        "Default: as stored.",
        show_default=False,
    ),
]
LabelNames = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="NAMES",
        help="Labels to choose among, such as angry,happy,neutral,sad: they share the probability. Default: all of the "
        "model.",
        show_default=False,
    ),
]
ChannelName = Annotated[
    str,
    typer.Option(
        "--channel", metavar="CHANNEL", help="Channel to judge: mix (the mean of all), left, right or a number from 1."
    ),
]
ChannelOrEach = Annotated[
    str,
    typer.Option(
        "--channel",
        metavar="CHANNEL",
        help="Channel to judge: mix (the mean of all), left, right, a number from 1, or each as one speaker.",
    ),
]
Adapt = Annotated[
    bool, typer.Option("--adapt", help="Adapt to each voice, from what it says here. See docs/adaptation.md.")
]
BaselineFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--baseline",
        metavar="FILE",
        help="Read what is known of a speaker, from `e2v adapt` or `e2v listen --calibrate`. Repeatable.",
        show_default=False,
    ),
]
Enrolled = Annotated[
    bool, typer.Option("--enrolled", help="Name the voices that `e2v enroll` knows. See docs/enrolment.md.")
]
OnlyEnrolled = Annotated[
    bool, typer.Option("--only-enrolled", help="Judge the voices that `e2v enroll` knows, and nobody else.")
]
RosterFile = Annotated[
    Path | None,
    typer.Option(
        "--roster",
        metavar="FILE",
        help="File of the enrolled voices. Default: $E2V_VOICES, or voices.json in the user's data folder.",
        show_default=False,
    ),
]
SpeakerModel = Annotated[
    str,
    typer.Option("--speaker-model", metavar="MODEL", help="Speaker encoder, named as in `e2v models`, or its folder."),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Never open a network connection. E2V_OFFLINE=1 does the same.")
]
SpeechThreshold = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER", help="Probability at which speech starts, between 0 and 1. Default: 0.5.", show_default=False
    ),
]
MaxGain = Annotated[
    float | None,
    typer.Option(
        metavar="DB",
        help="Most that quiet sound is raised to find speech in it, 0 to 60 dB. Default: 40.",
        show_default=False,
    ),
]


def segment_settings(speech_threshold: float | None, max_gain: float | None) -> "SegmentSettings":
    """Returns the settings of segments with the values that were given; a value out of range ends the command."""
    from e2v_port.speech.segment import SegmentSettings

    given = {"speech_threshold": speech_threshold, "max_gain": max_gain}
    try:
        return SegmentSettings(**{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        name, _, reason = str(error).partition(" ")
        fail(f"--{name.replace('_', '-')} {reason}")


def known_voices(
    enrolled: bool, only: bool, roster: Path | None, speaker_model: str, **options: Any
) -> "KnownVoices | None":
    """Returns the enrolled voices if an option asks for them; --roster and --only-enrolled do so, too.

    Args:
        enrolled: Whether to name enrolled voices.
        only: Whether to judge nobody else.
        roster: File of the enrolled voices.
        speaker_model: Speaker encoder.
        options: Further options of `load`.
    """
    if not (enrolled or only or roster):
        return None
    from e2v_port.models.load import load
    from e2v_port.speakers.known import KnownVoices
    from e2v_port.speakers.roster import Roster, default_path

    voices = Roster.load(roster or default_path())
    return KnownVoices(load(speaker_model, **options), voices, only=only)
