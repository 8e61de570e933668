"""Options that several commands share."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from e2v_port.cli.output import fail

if TYPE_CHECKING:
    from e2v_port.checkpoints.licenses import Restriction
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
    "Command",
    "DevSpeakers",
    "DimensionalName",
    "DtypeName",
    "Enrolled",
    "LabelNames",
    "MaxGain",
    "ModelName",
    "Offline",
    "OnlyEnrolled",
    "ProfileName",
    "ProfileOfModels",
    "RosterFile",
    "RuntimeName",
    "SpeakerModel",
    "SpeechThreshold",
    "TestSpeakers",
    "agreed",
    "completed",
    "known_voices",
    "segment_settings",
]

_Model = TypeVar("_Model")
_Dimensional = TypeVar("_Dimensional")
_Words = TypeVar("_Words")

WITHOUT_VALUE = {"--words": "base"}  # options that need no value, and the value that they then have

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
DevSpeakers = Annotated[
    str,
    typer.Option(
        "--dev",
        metavar="SPEAKERS",
        help="Development speakers, such as ravdess/19,ravdess/20, or a corpus. Default: the known split.",
    ),
]
TestSpeakers = Annotated[
    str, typer.Option("--test", metavar="SPEAKERS", help="Test speakers, never trained on; written as for --dev.")
]
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
LanguageDevice = Annotated[
    str, typer.Option("--device", metavar="NAME", help="Device of the language model: auto, cpu, cuda or mps.")
]
LanguageDtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="Weights of the language model: float32, bfloat16, float16, int8 (CPU) or auto.",
    ),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Never open a network connection. E2V_OFFLINE=1 does the same.")
]
ProfileName = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="Choose models, precision, words and time limit together: fast, balanced, accurate or research (see `e2v "
        "models --profiles`). Options that are given win.",
        show_default=False,
    ),
]
ProfileOfModels = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="Choose models and precision together: fast, balanced, accurate or research (see `e2v models "
        "--profiles`). Options that are given win.",
        show_default=False,
    ),
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


class Command(TyperCommand):
    """A command whose options in `WITHOUT_VALUE` need no value: before another option, a file, or at the end.

    No value of theirs is a file. Typer's own `flag_value` is deprecated.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Fills in the missing values."""
        filled: list[str] = []
        for i, arg in enumerate(args):
            if arg == "--":
                filled += args[i:]
                break
            filled.append(arg)
            after = args[i + 1] if i + 1 < len(args) else "--"
            if arg in WITHOUT_VALUE and (after.startswith("-") or os.path.isfile(after)):
                filled.append(WITHOUT_VALUE[arg])
        return super().parse_args(ctx, filled)


def segment_settings(speech_threshold: float | None, max_gain: float | None) -> "SegmentSettings":
    """Returns the settings of segments with the values that were given; a value out of range ends the command."""
    from e2v_port.speech.segment import SegmentSettings

    given = {"speech_threshold": speech_threshold, "max_gain": max_gain}
    try:
        return SegmentSettings(**{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        name, _, reason = str(error).partition(" ")
        fail(f"--{name.replace('_', '-')} {reason}")


def completed(
    profile: str | None,
    *,
    model: _Model | None,
    dimensional: _Dimensional | None,
    dtype: str | None,
    words: _Words | None = None,
    timeout: float | None = None,
) -> tuple[_Model | str | None, _Dimensional | str | None, str | None, _Words | str | None, float | None]:
    """Completes options with those of a profile, if any; on a terminal, asks for licenses that were not accepted yet.

    Raises:
        LicenseNotAccepted: One was not, and there is nobody to ask, or they said no.
    """
    from e2v_port.checkpoints import consent
    from e2v_port.models import profiles

    if profile is not None and profile not in profiles.PROFILES:
        fail(f"unknown profile {profile}: use {', '.join(profiles.PROFILES)}")
    missing = [] if profile is None else consent.lacking(profiles.chosen_models(profile, model, dimensional))
    if missing and agreed(missing):
        consent.accept(missing)
    return profiles.completed(profile, model=model, dimensional=dimensional, dtype=dtype, words=words, timeout=timeout)


def agreed(restricted: "Sequence[Restriction]") -> bool:
    """Shows licenses and asks for them on the terminal; False where there is none."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    for each in restricted:
        print(
            f"{each.model}\n  license: {each.licence}\n  restricts: {each.terms}\n  text: {each.link}", file=sys.stderr
        )
    print("Accept? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


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
