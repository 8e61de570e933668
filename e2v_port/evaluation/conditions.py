"""How a model fares on excerpts, over the telephone, in a room, in noise and among other voices.

The conditions have one fixed strength each, and are independent of the augmentation of a training.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import soundfile
import soxr
from numpy.random import Generator

from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.errors import AudioError
from e2v_port.evaluation import metrics
from e2v_port.evaluation.bootstrap import Bootstrap
from e2v_port.evaluation.datasets import Utterance
from e2v_port.evaluation.evaluate import choices, clip_of, uar
from e2v_port.evaluation.metrics import Array
from e2v_port.evaluation.results import Answer, Clip, Condition, Evaluation
from e2v_port.models.model import Model

__all__ = ["CONDITIONS", "excerpt", "noisy", "room", "telephone", "under_conditions"]

LENGTHS = (1, 2, 3, 5)  # seconds
SNR = 10.0  # dB
VOICES = 4  # in the babble
DECAY = 0.5  # seconds in which an echo falls by 60 dB
CONDITIONS = (*(f"{seconds} s" for seconds in LENGTHS), "telephone", "room", "white noise", "babble")

_LOUD = 0.05  # of the peak: quieter samples at both ends of a clip are no voice
_NARROW = 8000  # Hz
_LOWEST = 300.0  # Hz, of a telephone line (ITU-T G.712)


def under_conditions(
    model: Model,
    utterances: Sequence[Utterance],
    evaluation: Evaluation,
    *,
    seed: int = 0,
    channel: int | str = "mix",
    advance: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Runs a model on the clips of an evaluation again, under each of `CONDITIONS`.

    * `1 s` to `5 s`: the middle of the voice, without silence before and after it; shorter clips are whole.
    * `telephone`: 300 to 3400 Hz, 8 kHz, mu-law (ITU-T G.711).
    * `room`: an echo of the same energy as the voice, which falls by 60 dB in half a second.
    * `white noise`, `babble`: 10 dB below the mean power of the clip; babble is four clips of other speakers.

    Args:
        model: The model.
        utterances: The clips that were evaluated.
        evaluation: Their evaluation as recorded.
        seed: Seed of the noise and of the bootstrap.
        channel: Channel of the clips, as for `Model.predict`.
        advance: Called after each clip and condition.

    Returns:
        The evaluation with `conditions`.

    Raises:
        NoLabels: The model has no labels.
    """
    model.need_labels()
    judged = [
        utterance
        for utterance, clip in zip(utterances, evaluation.clips, strict=True)
        if clip.scores is not None and clip.label in evaluation.outputs.values()
    ]
    clean = [clip for clip in evaluation.clips if clip.scores is not None and clip.label in evaluation.outputs.values()]
    load = lru_cache(2 * VOICES)(partial(load_audio, channel=channel))
    found = {}
    for name in CONDITIONS:
        changed: list[int] = []

        def damaged(name: str = name, changed: list[int] = changed) -> Iterator[Waveform]:
            for i, utterance in enumerate(judged):
                waveform = load(utterance.file)
                result = _under(name, waveform, np.random.default_rng((seed, i)), partial(_voices, judged, i, load))
                if result is waveform:
                    advance()  # its answer is known
                else:
                    changed.append(i)
                    yield result

        answers: list[Answer] = []
        for result in model.each(damaged(), SAMPLING_RATE, refuse_silence=True):
            answers.append(result if isinstance(result, AudioError) else model.judge(result))
            advance()
        heard = [*clean]
        for i, answer in zip(changed, answers, strict=True):
            heard[i] = clip_of(judged[i], answer, evaluation.outputs)
        found[name] = _condition(heard, clean, len(changed), evaluation.outputs, seed)
    return replace(evaluation, conditions=found)


def excerpt(waveform: Waveform, seconds: float) -> Waveform:
    """Returns the middle of the voice in a clip, without silence before and after it; the clip if that is no longer."""
    loud = np.flatnonzero(np.abs(waveform) > _LOUD * np.abs(waveform).max())
    samples = round(seconds * SAMPLING_RATE)
    first, last = (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, len(waveform))
    if last - first <= samples:
        return waveform
    start = first + (last - first - samples) // 2
    return waveform[start : start + samples]


def telephone(waveform: Waveform) -> Waveform:
    """Returns what arrives over a telephone line: 300 to 3400 Hz at 8 kHz, in mu-law (ITU-T G.711 and G.712)."""
    size = len(waveform) + SAMPLING_RATE // 4  # zeros, so that the filter does not wrap around
    hertz = np.fft.rfftfreq(size, 1 / SAMPLING_RATE)
    # The response of Butterworth filters of order four and eight, without their phase.
    gains = ((1 + (_LOWEST / np.maximum(hertz, 1)) ** 8) * (1 + (hertz / 3400) ** 16)) ** -0.5
    banded = np.fft.irfft(np.fft.rfft(waveform, size) * gains, size)[: len(waveform)].astype(np.float32)
    narrow = soxr.resample(banded, SAMPLING_RATE, _NARROW)
    file = io.BytesIO()
    soundfile.write(file, np.clip(narrow, -1, 1), _NARROW, format="WAV", subtype="ULAW")
    file.seek(0)
    coded: Waveform = soxr.resample(soundfile.read(file, dtype="float32")[0], _NARROW, SAMPLING_RATE)
    return np.resize(coded, len(waveform)) if len(coded) < len(waveform) else coded[: len(waveform)]


def room(waveform: Waveform, rng: Generator) -> Waveform:
    """Returns a voice in a room: with an echo of exponentially decaying noise, which has the energy of the voice."""
    at = np.arange(round(DECAY * SAMPLING_RATE)) / SAMPLING_RATE
    echo = rng.standard_normal(len(at)) * 10 ** (-3 * at / DECAY)
    echo[: SAMPLING_RATE // 500] = 0  # no detour is shorter than 2 ms
    echo /= np.sqrt(np.sum(echo * echo))
    echo[0] = 1
    size = 1 << (len(waveform) + len(echo)).bit_length()
    heard = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(echo, size), size)[: len(waveform)]
    return np.asarray(heard, dtype=np.float32)


def noisy(waveform: Waveform, noise: Array, snr: float = SNR) -> Waveform:
    """Adds noise [samples] of any power, at `snr` dB below the mean power of the clip."""
    scale = np.sqrt(np.mean(np.square(waveform, dtype=np.float64)) / np.mean(np.square(noise)) * 10 ** (-snr / 10))
    return np.asarray(waveform + scale * noise, dtype=np.float32)


def _under(name: str, waveform: Waveform, rng: Generator, voices: Callable[[Generator], list[Waveform]]) -> Waveform:
    if name == "telephone":
        return telephone(waveform)
    if name == "room":
        return room(waveform, rng)
    if name == "white noise":
        return noisy(waveform, rng.standard_normal(len(waveform)))
    if name == "babble":
        mixed = np.zeros(len(waveform))
        for voice in voices(rng):
            turned = np.roll(voice, int(rng.integers(len(voice)))).astype(np.float64)
            mixed += np.resize(turned / np.sqrt(np.mean(turned * turned)), len(waveform))
        return noisy(waveform, mixed)
    return excerpt(waveform, float(name.removesuffix(" s")))


def _voices(
    clips: Sequence[Utterance], judged: int, load: Callable[[object], Waveform], rng: Generator
) -> list[Waveform]:
    """Returns clips of other speakers; of any speaker if there is no other one."""
    others = [clip for clip in clips if clip.speaker != clips[judged].speaker] or list(clips)
    return [load(others[int(i)].file) for i in rng.integers(len(others), size=VOICES)]


def _condition(
    heard: Sequence[Clip], clean: Sequence[Clip], changed: int, outputs: Mapping[str, str], seed: int
) -> Condition:
    """Compares answers under a condition with those to the same clips as recorded."""
    labels = tuple(dict.fromkeys(outputs.values()))
    pairs = [(now, before) for now, before in zip(heard, clean, strict=True) if now.scores is not None]
    bootstrap = Bootstrap([clip.speaker for clip, _ in pairs], seed)
    truth, open_answers, closed, confidences = choices([clip for clip, _ in pairs], labels)
    _, _, closed_before, _ = choices([clip for _, clip in pairs], labels)
    now, before = (metrics.each_confusion(truth, given, len(labels)) for given in (closed, closed_before))
    change = float(metrics.uar(now.sum(0)) - metrics.uar(before.sum(0)))
    changes = metrics.uar(bootstrap.draws(now)) - metrics.uar(bootstrap.draws(before))  # of the same resamples
    binned = metrics.binned(confidences, open_answers == truth)
    return Condition(
        clips=len(pairs),
        changed=changed,
        closed=uar(truth, closed, len(labels), bootstrap),
        open=uar(truth, open_answers, len(labels), bootstrap),
        change=bootstrap.interval(change, changes),
        ece=bootstrap.figure(metrics.ece, binned.sum(0), bootstrap.draws(binned)),
    )
