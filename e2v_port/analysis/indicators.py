"""Computes the indicators of an analysis: how each voice sounds over the recording, and how certain that is."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from e2v_port.analysis.judged import JudgedSegment
from e2v_port.analysis.results import Analysis
from e2v_port.analysis.voices import Baselines, read_baselines
from e2v_port.emotions.fusion import FusionSettings
from e2v_port.emotions.indicators import KINDS, Indicator, Indicators, Minimum, VoiceIndicators, refusal
from e2v_port.emotions.intervals import Mean, mean, share, share_change
from e2v_port.emotions.judgement import MEASURED
from e2v_port.emotions.trajectory import MIN_SEGMENTS, MIN_SPAN, trajectory
from e2v_port.errors import need, quoted
from e2v_port.prosody.baseline import HIGH_VOICE, LEAST_QUALITY, Baseline, comparable
from e2v_port.prosody.judge import ordinary

__all__ = ["indicators"]

# The mean pitch of a voice settles after 7 to 11 s on average over a language (Arantes, Eriksson & Gutzeit 2017).
_SECONDS = 10.0
_LEVEL = Minimum(MIN_SEGMENTS, _SECONDS, 0.0)
_SHARE = Minimum(10, _SECONDS, 0.0)  # of fewer, the interval spans half of all shares or more
_TREND = Minimum(MIN_SEGMENTS, _SECONDS, MIN_SPAN)
_CHANGE = Minimum(9, _SECONDS, MIN_SPAN)  # three in each third
_SHARE_CHANGE = Minimum(30, _SECONDS, MIN_SPAN)  # ten in each third


_EQUAL = "equal in all segments, so that the interval says nothing"


def indicators(analysis: Analysis, baseline: Baselines = None, *, kinds: Iterable[str] | None = None) -> Indicators:
    """Summarizes how each voice of a recording sounds: levels, changes, and differences from its neutral voice.

    Judged segments in which somebody else is heard as well are left out. docs/indicators.md describes each indicator:
    its minimum, its uncertainty, and what it does not say. The same analysis always gives the same numbers.

    Args:
        analysis: Analysis of one clip, made with `prosody=True` or by an EmotionDetector; otherwise the indicators of
            pitch, tempo, pauses and tremor have a reason instead of a value.
        baseline: Baselines of speakers, or their files: see `EmotionDetector.calibrate`. One alone also serves for
            speech without a speaker.
        kinds: Which to compute: some of `arousal`, `valence`, `tense`, `pitch`, `tempo`, `pauses`, `tremor` and
            `agreement`; by default all.

    Raises:
        BaselineError: A baseline cannot be read.
        ValueError: A kind is unknown, or refused: there is no indicator of deception or of health.
    """
    need("analysis", analysis, Analysis)
    chosen = _chosen(kinds)
    baselines = read_baselines(baseline)
    voices: dict[tuple[str | None, int | None], list[JudgedSegment]] = {}
    for segment in analysis.segments:
        if segment.judgement:
            name = segment.speaker
            voices.setdefault((name, segment.channel if name is None else None), []).append(segment)
    found = []
    for (name, channel), segments in voices.items():
        alone = [each for each in segments if each.judgement and "overlap" not in each.judgement.notes]
        alone.sort(key=lambda each: each.end)
        voice = _Voice(name or "this voice", alone, analysis.settings.fusion, baselines.get(name))
        numbers = tuple(number for kind in chosen for number in voice.of(kind))
        about = (len(alone), math.fsum(each.duration for each in alone), len(segments) - len(alone))
        found.append(VoiceIndicators(name, channel, *about, numbers))
    return Indicators(tuple(found))


def _chosen(kinds: Iterable[str] | None) -> list[str]:
    if kinds is None:
        return list(KINDS)
    asked = [kinds] if isinstance(kinds, str) else list(kinds)
    for kind in asked:
        need("kinds", kind, str)
        if kind not in KINDS:
            known = f"unknown indicator {quoted(kind)}: use {', '.join(KINDS)}"
            raise ValueError(refusal(kind) or known)
    return [kind for kind in KINDS if kind in asked]


class _Measure(NamedTuple):
    """How a measure of the voice is named and shown.

    Attributes:
        key: Its name in `comparable`.
        unit: Unit of its level.
        step: Unit of differences.
        words: A difference in words.
        level: Turns a comparable value into one in `unit`.
        most: Highest level there is; the lowest is 0.
    """

    key: str
    unit: str
    step: str
    words: str
    level: Callable[[float], float] = float
    most: float = math.inf


def _hertz(semitones: float) -> float:
    return HIGH_VOICE * 2 ** (semitones / 12)


_MEASURES = {
    "pitch": _Measure("pitch", "Hz", "semitones", "{:.2g} semitones", _hertz),
    "tempo": _Measure("rate", "syllables/s", "syllables/s", "{:.2g} syllables/s"),
    "pauses": _Measure("pause_ratio", "share of the time", "share of the time", "{:.2g} of the time", most=1.0),
    "tremor": _Measure("tremor", "0 to 1", "0 to 1", "{:.2g}", most=1.0),
}


@dataclass(frozen=True)
class _Series:
    """Values of segments in order of time, with what lacks for them."""

    segments: Sequence[JudgedSegment]
    values: Sequence[float]
    source: str | None
    what: str  # that these segments have and others lack; empty where all have it
    lack: str | None = None  # why there are none at all

    @property
    def weights(self) -> list[float]:
        return [segment.duration for segment in self.segments]

    @property
    def seconds(self) -> float:
        return math.fsum(self.weights)

    def thirds(self) -> tuple[tuple[Sequence[float], Sequence[float]], tuple[Sequence[float], Sequence[float]]]:
        """Returns values and weights of the first third of the segments, and of the last."""
        count = len(self.values) // 3
        weights = self.weights
        return (self.values[:count], weights[:count]), (self.values[-count:], weights[-count:])

    def reason(self, least: Minimum) -> str | None:
        """Returns why they are too few, in words; None if they suffice."""
        if self.lack and not self.segments:
            return self.lack
        count, seconds = len(self.segments), self.seconds
        span = self.segments[-1].end - self.segments[0].end if self.segments else 0.0
        having = f" with {self.what}" if self.what else ""
        if count < least.segments:
            several = "segment" if count == 1 else "segments"
            return f"{count} judged {several}{having}: at least {least.segments} are needed"
        if seconds < least.seconds:
            return f"{seconds:.1f} s of judged speech{having}: at least {least.seconds:.0f} s are needed"
        if span < least.span:
            return f"judged segments{having} within {span:.0f} s: at least {least.span:.0f} s are needed"
        return None


class _Value(NamedTuple):
    """A figure before it becomes an indicator."""

    value: float
    interval: tuple[float, float]
    word: str
    reference: str | None = None


@dataclass(frozen=True)
class _Voice:
    """The segments of one voice in order of time, from which its indicators follow."""

    name: str
    segments: Sequence[JudgedSegment]
    fusion: FusionSettings
    baseline: Baseline | None

    def of(self, kind: str) -> Iterator[Indicator]:
        """Yields the indicators of one kind."""
        if kind == "arousal":
            yield from self._dimension("arousal")
        elif kind == "valence":
            yield from self._dimension("valence")
        elif kind == "tense":
            yield from self._tense()
        elif kind == "agreement":
            yield self._agreement()
        else:
            yield from self._measure(kind, _MEASURES[kind])

    def _dimension(self, name: Literal["arousal", "valence"]) -> Iterator[Indicator]:
        known = [segment for segment in self.segments if segment.dimensions]
        source = " or ".join(dict.fromkeys(str(segment.dimensions_from) for segment in known)) or None
        values = [float(getattr(segment, name)) for segment in known]
        series = self._series(known, values, source, name, f"no model gives {name}: name another, or a dimensional one")

        def level() -> _Value:
            found = mean(values, series.weights)
            return _Value(found.value, _within(*found.interval, 1.0), self._level(name, found.value, source))

        yield _indicator(name, "0 to 1", series, _LEVEL, level)

        def change() -> _Value:
            course = trajectory([_Heard.of(segment) for segment in known], name)
            assert course.slope is not None
            assert course.interval is not None
            return _Value(course.slope, course.interval, str(course.trend), "recording")

        yield _indicator(f"{name}_change", "per minute", series, _TREND, change)

    def _level(self, name: str, value: float, source: str | None) -> str:
        """Names a level. The thresholds are those of measured voices, so a derived one has no other name."""
        if source not in MEASURED:
            return "derived from the labels, not measured"
        settings = self.fusion
        if name == "arousal":
            return "low" if value < settings.arousal_low else "high" if value > settings.arousal_high else "moderate"
        low, high = settings.valence_negative, settings.valence_positive
        return "negative" if value < low else "positive" if value > high else "neutral"

    def _tense(self) -> Iterator[Indicator]:
        known = [segment for segment in self.segments if segment.dimensions_from in MEASURED]
        high, low = self.fusion.arousal_high, self.fusion.valence_negative
        flags = [(segment.arousal or 0) > high and (segment.valence or 0) < low for segment in known]
        lack = "arousal and valence were not measured: name a model that measures them with --dimensional"
        source = " or ".join(dict.fromkeys(str(segment.dimensions_from) for segment in known)) or None
        series = self._series(known, [float(flag) for flag in flags], source, "measured arousal and valence", lack)
        word = f"arousal above {high:g} with valence below {low:g}"
        unit = "share of speech"
        yield _indicator("tense", unit, series, _SHARE, lambda: _Value(*share(series.values, series.weights), word))

        def change() -> _Value:
            value, interval = share_change(*series.thirds())
            return _Value(value, interval, _turn(interval), "recording")

        yield _indicator("tense_change", unit, series, _SHARE_CHANGE, change)

    def _agreement(self) -> Indicator:
        """Returns the share of segments whose label and measured valence point the same way, of those that point.

        Labels in doubt count: a contradiction lowers the confidence, so leaving them out would hide contradictions.
        """
        both = [each for each in self.segments if each.judgement and each.judgement.agreement]
        known = [each for each in both if each.judgement and each.judgement.agreement != "neutral"]
        flags = [each.judgement is not None and each.judgement.agreement == "agree" for each in known]
        lack = "label and valence are neutral throughout: nothing to compare"
        if not both:
            lack = "no second opinion: name a model that gives labels and one that measures valence"
        values = [float(flag) for flag in flags]
        series = self._series(
            known, values, "models" if known else None, "a pleasant or unpleasant label and valence", lack
        )
        word = "label and measured valence point the same way"
        return _indicator(
            "agreement", "share of segments", series, _SHARE, lambda: _Value(*share(flags, [1.0] * len(flags)), word)
        )

    def _measure(self, name: str, measure: _Measure) -> Iterator[Indicator]:
        series = self._measured(name, measure.key)
        values, weights = series.values, series.weights
        varies = len(set(values)) > 1

        def level() -> _Value:
            found = mean(values, weights)
            low, high = map(measure.level, found.interval)
            word = "mean" if varies else _EQUAL
            return _Value(measure.level(found.value), _within(low, high, measure.most), word)

        yield _indicator(name, measure.unit, series, _LEVEL, level)

        neutral, lack = self._neutral(measure.key)

        def shift() -> _Value:
            assert neutral is not None
            found = mean(values, weights).minus(neutral)
            low, high = found.interval
            word = "no difference from the baseline shown" if low <= 0 <= high else "below" if high < 0 else "above"
            return _Value(found.value, found.interval, word if found.error else _EQUAL, "baseline")

        yield _indicator(f"{name}_shift", measure.step, series, _LEVEL, shift, lack=lack)

        def apart() -> _Value:
            center = _median(values, weights) if neutral is None else neutral.value
            beyond = ordinary(measure.key, None if neutral is None else self.baseline)
            flags = [abs(value - center) >= beyond for value in values]
            word = f"at least {measure.words.format(beyond)} away"
            return _Value(*share(flags, weights), word, "recording" if neutral is None else "baseline")

        yield _indicator(f"{name}_apart", "share of speech", series, _SHARE, apart)

        def change() -> _Value:
            before, after = series.thirds()
            found = mean(*after).minus(mean(*before))
            return _Value(found.value, found.interval, _turn(found.interval) if varies else _EQUAL, "recording")

        yield _indicator(f"{name}_change", measure.step, series, _CHANGE, change)

    def _measured(self, name: str, key: str) -> _Series:
        measured = [segment for segment in self.segments if segment.prosody]
        usable = [each for each in measured if each.prosody and each.prosody.quality.score >= LEAST_QUALITY]
        pairs = [(each, comparable(each.prosody).get(key)) for each in usable if each.prosody]
        known = [(segment, value) for segment, value in pairs if value is not None]
        lack = None
        if not measured:
            lack = "the voice was not measured: analyze with prosody=True (--prosody)"
        elif not usable:
            lack = "the recording is too poor to measure the voice (clipped, quiet or noisy)"
        values = [value for _, value in known]
        return self._series(
            [segment for segment, _ in known], values, "voice" if known else None, f"measured {name}", lack
        )

    def _series(
        self,
        segments: Sequence[JudgedSegment],
        values: Sequence[float],
        source: str | None,
        what: str,
        lack: str | None,
    ) -> _Series:
        return _Series(segments, values, source, what if len(segments) < len(self.segments) else "", lack)

    def _neutral(self, key: str) -> tuple[Mean | None, str | None]:
        """Returns the mean of a measure in the neutral voice, or the reason why it is unknown."""
        if self.baseline is None:
            return None, f"no baseline of {self.name}: record neutral sentences with `e2v listen --calibrate`"
        if key not in self.baseline.means:
            return None, f"not in the baseline of {self.name}: record neutral sentences with `e2v listen --calibrate`"
        # Not every sample has a tremor to measure, and a baseline does not say how many had: two at least.
        samples = 2 if key == "tremor" else self.baseline.samples
        error = self.baseline.deviations[key] / math.sqrt(samples)
        return Mean(self.baseline.means[key], error, samples - 1), None


@dataclass(frozen=True)
class _Heard:
    """A segment as a trend takes it: at its end."""

    at: float
    duration: float
    arousal: float | None
    valence: float | None
    dimensions_from: str | None
    speaker: str | None

    @classmethod
    def of(cls, segment: JudgedSegment) -> "_Heard":
        about = (segment.arousal, segment.valence, segment.dimensions_from, segment.speaker)
        return cls(segment.end, segment.duration, *about)


def _indicator(
    name: str,
    unit: str,
    series: _Series,
    least: Minimum,
    compute: Callable[[], _Value],
    *,
    lack: str | None = None,
) -> Indicator:
    """Computes an indicator, unless something lacks."""
    reason = series.reason(least) or lack
    found = None if reason else compute()
    return Indicator(
        name=name,
        value=found.value if found else None,
        unit=unit,
        interval=found.interval if found else None,
        word=found.word if found else None,
        reference=found.reference if found else None,
        source=series.source,
        segments=len(series.segments),
        seconds=series.seconds,
        minimum=least,
        reason=reason,
    )


def _turn(interval: tuple[float, float]) -> str:
    """Says what the interval of a change from the first third to the last shows."""
    low, high = interval
    if low <= 0 <= high:
        return "no change shown"
    return f"{'lower' if high < 0 else 'higher'} in the last third than in the first"


def _within(low: float, high: float, most: float) -> tuple[float, float]:
    """Returns an interval within the values that there are, from 0 to `most`."""
    return max(low, 0.0), min(high, most)


def _median(values: Sequence[float], weights: Sequence[float]) -> float:
    """Returns the value that half of the weight does not exceed."""
    half = math.fsum(weights) / 2
    total = 0.0
    for value, weight in sorted(zip(values, weights, strict=True)):
        total += weight
        if total >= half:
            return value
    return max(values)
