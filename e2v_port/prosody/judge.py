"""Estimates arousal, dominance and valence from prosody alone."""

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from e2v_port.emotions.estimates import Dimensions
from e2v_port.errors import need
from e2v_port.prosody.baseline import Baseline, comparable
from e2v_port.prosody.frames import FRAME_SECONDS
from e2v_port.prosody.measure import Prosody
from e2v_port.prosody.recording import ramp

__all__ = ["MAX_CONFIDENCE", "ProsodicJudgement", "judge", "ordinary"]
MAX_CONFIDENCE = 0.75  # prosody alone shows arousal well, and valence hardly


@dataclass(frozen=True)
class ProsodicJudgement:
    """Estimate of a speaker's emotion from prosody alone.

    Attributes:
        dimensions: Arousal, dominance and valence, each 0 to 1; 0.5 if nothing is unusual.
        confidence: Confidence, 0 to 0.75; 0 without a voice.
        reasons: Unusual measures in words, the most important first, such as `elevated pitch`.
    """

    dimensions: Dimensions
    confidence: float
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the judgement as plain dicts, lists, strings and floats, ready for JSON."""
        return asdict(self) | {"reasons": list(self.reasons)}


class _Rule(NamedTuple):
    """Effect of one measure on the dimensions. It starts at one value, is full at another, and grows in between.

    Attributes:
        measure: Name of the measure, as in `comparable`.
        anyone: Values at which the effect starts and is full without a baseline; None if there is no effect then.
        own: Differences from the speaker's baseline at which the effect starts and is full.
        arousal: Full effect on arousal, which ranges from 0 to 1.
        dominance: Full effect on dominance, 0 to 1.
        valence: Full effect on valence, 0 to 1.
        reason: The measure in words.
    """

    measure: str
    anyone: tuple[float, float] | None
    own: tuple[float, float]
    arousal: float
    dominance: float
    valence: float
    reason: str


# Directions and sizes of the rows above the line are those of an earlier voice assistant, with its valence from -1 to 1
# halved for a scale from 0 to 1; 3.5 and 5.5 syllables per second are the assistant's too. The other starts and ends,
# and the rows below the line, which are the opposites, were chosen here, not taken from a paper.
_RULES = (
    _Rule("pitch", (0.0, 6.0), (2.0, 6.0), 0.2, 0.0, 0.0, "elevated pitch"),
    _Rule("rate", (5.5, 7.0), (0.75, 2.0), 0.15, 0.1, 0.0, "speaking quickly"),
    _Rule("energy_std", (8.0, 11.0), (1.5, 4.0), 0.1, 0.1, 0.0, "strongly varying loudness"),
    _Rule("tremor", (0.3, 0.8), (0.3, 0.8), 0.1, 0.0, 0.0, "trembling voice"),
    _Rule("breathiness", (0.45, 0.7), (0.1, 0.3), 0.0, 0.0, -0.05, "breathy voice"),
    _Rule("hesitations", (0.2, 0.6), (0.2, 0.6), 0.0, -0.2, -0.075, "hesitating"),
    _Rule("pause_ratio", (0.25, 0.5), (0.15, 0.35), 0.0, 0.0, -0.05, "long pauses"),
    _Rule("pitch_std", (1.5, 0.8), (-1.0, -2.5), 0.0, 0.1, 0.0, "monotone pitch"),
    # ---
    _Rule("pitch", None, (-2.0, -6.0), -0.2, 0.0, 0.0, "lowered pitch"),
    _Rule("rate", (3.5, 2.5), (-0.75, -2.0), -0.15, 0.0, 0.0, "speaking slowly"),
    _Rule("energy", None, (3.0, 9.0), 0.15, 0.1, 0.0, "speaking loudly"),
    _Rule("energy", None, (-3.0, -9.0), -0.15, -0.1, 0.0, "speaking quietly"),
)
_DEVIATIONS = 2  # deviations of up to this many standard deviations of the neutral samples are ordinary


def judge(prosody: Prosody, baseline: Baseline | None = None) -> ProsodicJudgement:
    """Estimates a speaker's emotion from prosody alone.

    Arousal, dominance and valence are 0.5 plus the effect of each rule; docs/prosody.md lists the rules. The confidence
    is 0.75 x `quality.score` x seconds of voice, at most 1, x 0.8 without a baseline (heuristic).

    Args:
        prosody: Prosody of a segment of speech.
        baseline: Baseline of its speaker. Without one, the segment is compared with most speakers, and neither loudness
            nor a low pitch has an effect.
    """
    need("prosody", prosody, Prosody)
    need("baseline", baseline, Baseline, None)
    if prosody.pitch_mean is None:
        return ProsodicJudgement(Dimensions(0.5, 0.5, 0.5), 0.0, ())
    if baseline and not baseline.samples:
        baseline = None  # only the offset of this voice is known
    values = comparable(prosody)
    effects = []
    for rule in _RULES:
        if (value := values.get(rule.measure)) is None:
            continue
        if baseline and rule.measure in baseline.means:
            value -= baseline.means[rule.measure]
            begin, full = rule.own
            wider = math.copysign(max(_DEVIATIONS * baseline.deviations[rule.measure] - abs(begin), 0.0), begin)
            degree = ramp(value, begin + wider, full + wider)
        elif rule.anyone:
            degree = ramp(value, *rule.anyone)
        else:
            continue
        if degree > 0:
            effects.append((degree, rule))
    shifts = np.array(
        [[degree * x for x in (r.arousal, r.dominance, r.valence)] for degree, r in effects] or [[0.0] * 3]
    )
    arousal, dominance, valence = np.clip(0.5 + shifts.sum(axis=0), 0, 1).tolist()
    order = np.argsort(-np.abs(shifts).sum(axis=1), kind="stable")[: len(effects)]
    seconds = FRAME_SECONDS * float((~np.isnan(prosody.contour)).sum())
    known = 1.0 if baseline else 0.8
    return ProsodicJudgement(
        Dimensions(arousal, dominance, valence),
        MAX_CONFIDENCE * prosody.quality.score * min(seconds, 1.0) * known,
        tuple(effects[i][1].reason for i in order),
    )


def ordinary(measure: str, baseline: Baseline | None = None) -> float:
    """Returns the difference from a speaker's own level at which a measure begins to count as unusual.

    Args:
        measure: A measure that has a rule (docs/prosody.md), as `comparable` names it.
        baseline: Baseline of the speaker, if known: what two standard deviations of its samples span is ordinary.
    """
    begins = min(abs(rule.own[0]) for rule in _RULES if rule.measure == measure)
    return max(begins, _DEVIATIONS * baseline.deviations.get(measure, 0.0) if baseline else 0.0)
