"""Measures how often a headline is right that is shown with doubt, and one that is shown without.

    python benchmarks/doubt.py --corpus ravdess=FOLDER --corpus nemo=FOLDER
    python benchmarks/doubt.py --model bundled-nc --corpus ravdess=FOLDER --corpus nemo=FOLDER --unseen emodb=FOLDER

Each clip is judged whole, as `e2v analyze --whole` does. A cell is the share of right headlines and, in parentheses,
how many of the clips fall under the row. The last two rows are the rule of `FusionSettings`, the note `uncertain`.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from labeled import model_and_clips

from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.emotions.fusion import fuse
from e2v_port.evaluation.datasets import Utterance
from e2v_port.models.model import Model


class Headline(NamedTuple):
    """A judged clip: the confidence in its label, the lead over the second label, and whether it is right."""

    confidence: float
    lead: float
    doubtful: bool
    right: bool


def headlines(model: Model, clips: list[Utterance]) -> list[Headline]:
    """Judges clips that have one of the model's labels."""
    found = []
    for clip in clips:
        waveform = load_audio(clip.file)
        prediction = model.predict(waveform, SAMPLING_RATE)
        judgement = fuse(prediction, None, len(waveform) / SAMPLING_RATE)
        assert judgement.confidence is not None
        first, second = sorted(prediction.scores.values(), reverse=True)[:2]
        right = prediction.label == clip.label
        found.append(Headline(judgement.confidence, first - second, judgement.doubtful, right))
    return found


def rows() -> dict[str, Callable[[Headline], bool]]:
    """Returns the conditions of the rows by their headings."""

    def confident(low: float, high: float) -> Callable[[Headline], bool]:
        return lambda each: low <= each.confidence < high

    def leading(low: float, high: float) -> Callable[[Headline], bool]:
        return lambda each: low < each.lead <= high

    edges = [0.0, 0.3, 0.4, 0.5, 0.6, 0.75, 1.01]
    leads = [-0.01, 0.1, 0.2, 0.4, 1.0]
    return {
        **{f"confidence from {low:g}": confident(low, high) for low, high in pairwise(edges)},
        **{f"lead up to {high:g}": leading(low, high) for low, high in pairwise(leads)},
        "in doubt": lambda each: each.doubtful,
        "not in doubt": lambda each: not each.doubtful,
    }


def main() -> None:
    """Prints a table: a row for each band, a column for each corpus."""
    model, clips = model_and_clips(__doc__)
    found = {name: headlines(model, given) for name, given in clips.items()}
    found["all"] = [each for judged in found.values() for each in judged]
    print(f"| {' | '.join(['', *(f'{name}, {len(judged)} clips' for name, judged in found.items())])} |")
    print("|---|" + "---|" * len(found))
    for heading, holds in rows().items():
        cells = []
        for judged in found.values():
            some = [each for each in judged if holds(each)]
            cells.append(f"{sum(each.right for each in some) / len(some):.2f} ({len(some)})" if some else "")
        print(f"| {' | '.join([heading, *cells])} |")


if __name__ == "__main__":
    main()
