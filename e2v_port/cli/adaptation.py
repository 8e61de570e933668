"""e2v adapt."""

from pathlib import Path
from typing import Annotated

import typer

from e2v_port.cli.options import ChannelName, DtypeName, ModelName, Offline, RuntimeName
from e2v_port.cli.output import fail, model_or_bundled, need_place
from e2v_port.files import printable

__all__ = ["adapt"]

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
