"""How a voice is to sound, and what makes it sound so: emotion -> eight parameters -> SSML, audio, speech engines.

The table is taxonomy/prosody.json, see docs/expression.md. All parameters are relative to the same voice speaking
neutrally, so one set of them can be handed to an engine, applied to its audio, or shared between the two.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, TypeAlias
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from e2v_port import emotions
from e2v_port.audio import MAX_AMPLITUDE, Waveform
from e2v_port.errors import AudioError, E2VError

__all__ = [
    "DIALECTS",
    "ENGINES",
    "NEUTRAL",
    "STRATEGIES",
    "ProsodyParameters",
    "Response",
    "apply",
    "parameters",
    "remainder",
    "respond",
    "to_engine",
    "to_rvc",
    "to_ssml",
]

_Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class ProsodyParameters:
    """How a voice differs from itself when it speaks neutrally.

    Attributes:
        pitch_shift_semitones: Of the fundamental frequency, -6 to 6; the formants stay.
        pitch_variance: Factor of the distance of the pitch from its mean, in semitones, 0.5 to 2.
        speech_rate: Factor of the speed, pauses included, 0.7 to 1.5.
        pause_multiplier: Factor of the length that pauses have at that speed, 0.5 to 2.
        volume_db: Of the level of the speech, -6 to 6 dB.
        dynamic_range: Factor of the distance of the level from its mean, in dB, 0.5 to 1.5.
        breathiness: From the voice as it is, 0, to breath in all but its lowest harmonics, 1.
        tremolo_amount: Depth of a trembling of the level, from none, 0, to half of the amplitude, 1.

    Raises:
        ValueError: A value is no number or outside its range.
    """

    pitch_shift_semitones: float = 0.0
    pitch_variance: float = 1.0
    speech_rate: float = 1.0
    pause_multiplier: float = 1.0
    volume_db: float = 0.0
    dynamic_range: float = 1.0
    breathiness: float = 0.0
    tremolo_amount: float = 0.0

    def __post_init__(self) -> None:
        for name, row in _rows().items():
            if not row["from"] <= getattr(self, name) <= row["to"]:  # nan is in no range
                raise ValueError(f"{name} must be from {row['from']} to {row['to']}, not {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, float]:
        """Returns the eight values by name."""
        return asdict(self)


@dataclass(frozen=True)
class Response:
    """With what emotion to answer a voice, and how that sounds.

    Attributes:
        emotion: One of the 26.
        intensity: Of that emotion, 0 to 1.2.
        parameters: What the two make of a voice.
        strategy: What chose them.
    """

    emotion: str
    intensity: float
    parameters: ProsodyParameters
    strategy: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields by name, the parameters as a dict."""
        return asdict(self)


@cache
def _rows() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = emotions.table("prosody")["parameters"]
    return rows


NEUTRAL = ProsodyParameters()


def parameters(emotion: str, intensity: float = 1.0) -> ProsodyParameters:
    """Returns what an emotion makes of a voice.

    What is added is multiplied by the intensity, a factor is raised to its power: half of a pause of 2 x is one of
    1.41 x. Beyond 1 the emotion is exaggerated, and a value that would leave its range stays at the end of it.

    Args:
        emotion: One of the 26.
        intensity: From nothing of it, 0, over the profile of the table, 1, to 2.

    Raises:
        ValueError: No emotion has this name, or the intensity is not from 0 to 2.
    """
    emotions.emotion(emotion)
    if not 0 <= intensity <= 2:
        raise ValueError(f"an intensity must be from 0 to 2, not {intensity!r}")
    profile = emotions.table("prosody")["profiles"][emotion]
    values = {}
    for name, row in _rows().items():
        value = profile[name] ** intensity if row["kind"] == "factor" else profile[name] * intensity
        values[name] = min(max(value, row["from"]), row["to"])
    return ProsodyParameters(**values)


# Strategy -> intensity of the answer per confidence in the emotion that was heard. match is the share of the pipeline
# these strategies come from; the others are our own choice: what is hardly heard is hardly answered.
_SHARES = {"match": 0.8, "complement": 1.0, "amplify": 1.2, "neutral": 0.0}
STRATEGIES = tuple(_SHARES)


def respond(emotion: str, confidence: float, strategy: str = "complement") -> Response:
    """Chooses the tone of an answer to a voice.

    * `match`: the same emotion, at 80 % of the confidence.
    * `complement`: calm for unpleasant and activated emotions, affectionate for unpleasant and deactivated ones, calm
      for confusion, the same for all others; at the confidence.
    * `amplify`: the same emotion, at 120 % of the confidence.
    * `neutral`: neutral, whatever was heard.

    Args:
        emotion: Heard in the voice, one of the 26.
        confidence: In it, 0 to 1.
        strategy: One of the four.

    Raises:
        ValueError: An unknown emotion or strategy, or a confidence that is not from 0 to 1.
    """
    emotions.emotion(emotion)
    if strategy not in _SHARES:
        raise ValueError(f"no strategy is called {strategy!r}; known: {', '.join(STRATEGIES)}")
    if not 0 <= confidence <= 1:
        raise ValueError(f"a confidence must be from 0 to 1, not {confidence!r}")
    if strategy == "neutral":
        emotion = "neutral"
    elif strategy == "complement":
        emotion = emotions.table("prosody")["profiles"][emotion]["complement"]
    intensity = _SHARES[strategy] * confidence
    return Response(emotion, intensity, parameters(emotion, intensity), strategy)


# A pause: at least a quarter of a second (de Jong & Bosker 2013) of a level at least 25 dB below the loudest of the
# clip (de Jong & Wempe 2009), between speech and speech.
_PAUSE_SECONDS = 0.25
_SILENCE_DB = -25.0
_FRAME = 0.005  # s, WORLD's default
_RATE = 16_000  # Hz, the least at which WORLD tells voice from noise: its bands reach to 7.9 kHz
_LOWEST = 60.0  # Hz: a deep voice; what is below counts as voiceless
_PITCH = (40.0, 1100.0)  # Hz; a wrong octave of the pitch tracker, spread further, must not leave what a voice can do
_BREATH = (250.0, 2000.0)  # Hz: no breath below, all of it above; in between it grows with the octaves. Our own choice
_TREMOLO = 6.0  # Hz; tremors of the voice lie at 4 to 8 Hz. Our own choice, as is the depth
_DEPTH = 0.5  # of the amplitude, at a tremolo of 1
_SPREAD_DB = 15.0  # levels further from the mean are moved no more than this one: noise in pauses is not pulled up
_PIECE = (4000, 6000)  # frames, 20 to 30 s of output: memory does not grow with the clip


def apply(waveform: Waveform, sampling_rate: int, parameters: ProsodyParameters) -> Waveform:
    """Makes recorded or synthetic speech sound as the parameters say.

    Pitch, speed, pauses and breath change in WORLD's description of the voice (Morise et al. 2016): fundamental
    frequency, spectral envelope and noisiness every 5 ms. The envelope stays when the pitch moves, so the speaker
    keeps their vocal tract. Where none of these is asked for, the voice is not taken apart at all; `NEUTRAL` gives a
    copy.

    Args:
        waveform: One voice [samples], floats with full scale 1.
        sampling_rate: In Hz, 8000 to 192000.
        parameters: What to change.

    Returns:
        Waveform [samples] at the same rate, float32, within -1 to 1: peaks that a gain would lift beyond are held
        down for a few milliseconds. The same input gives the same output.

    Raises:
        AudioError: The waveform is empty, not of one channel, not finite, beyond 100 times full scale, or at a rate
            outside these.
        E2VError: pyworld is not installed: `pip install "e2v-port[express]"`.
    """
    rate = int(sampling_rate)
    voice = np.asarray(waveform, np.float64)
    if voice.ndim != 1 or not voice.size:
        raise AudioError(f"one voice [samples] is needed, not an array of shape {voice.shape}: mix its channels down")
    if not np.abs(voice).max() <= MAX_AMPLITUDE:  # nan is not
        raise AudioError(
            "the waveform has samples that are not finite or far beyond 1: floats of full scale 1 are needed"
        )
    if not 8_000 <= rate <= 192_000:
        raise AudioError(f"a sampling rate must be 8000 to 192000 Hz, not {sampling_rate!r}: resample the waveform")
    if parameters == NEUTRAL:
        return voice.astype(np.float32)

    level = _speech_level(voice, rate)
    if replace(parameters, volume_db=0.0, dynamic_range=1.0, tremolo_amount=0.0) != NEUTRAL:
        if rate < _RATE:
            wide = _revoiced(soxr.resample(voice, rate, _RATE), _RATE, parameters)
            voice = soxr.resample(wide, _RATE, rate)
        else:
            voice = _revoiced(voice, rate, parameters)
    if parameters.dynamic_range != 1:
        voice = voice * _dynamics(voice, rate, parameters.dynamic_range)
    if parameters.tremolo_amount:
        time = np.arange(voice.size) / rate
        voice = voice * (1 + _DEPTH * parameters.tremolo_amount * np.sin(2 * np.pi * _TREMOLO * time))
    now = _speech_level(voice, rate)
    if level is not None and now is not None:
        voice = voice * 10 ** ((level + parameters.volume_db - now) / 20)
    return _limited(voice, rate).astype(np.float32)


def _revoiced(voice: _Array, rate: int, parameters: ProsodyParameters) -> _Array:
    """Takes the voice apart, changes it, puts it together."""
    try:
        import pyworld
    except ImportError as error:
        raise E2VError('a voice cannot be changed without pyworld: pip install "e2v-port[express]"') from error

    rough, times = pyworld.dio(voice, rate, f0_floor=_LOWEST)
    pitch: _Array = pyworld.stonemask(voice, rough, times, rate)

    # When each frame comes [frames], in frames; then which one comes at each time [new frames].
    paused = _pauses(_levels(voice, rate, pitch.size))
    lengths = np.where(paused, parameters.pause_multiplier, 1.0) / parameters.speech_rate
    ends = np.concatenate([[0.0], np.cumsum(lengths[:-1])])
    places = np.interp(np.arange(int(ends[-1]) + 2), ends, np.arange(pitch.size))
    before = places.astype(int)
    after = np.minimum(before + 1, pitch.size - 1)
    share = places - before

    gliding = (pitch[before] > 0) & (pitch[after] > 0)
    nearest = pitch[np.where(share < 0.5, before, after)]
    new_pitch = np.where(gliding, pitch[before] * (1 - share) + pitch[after] * share, nearest)
    voiced = new_pitch > 0
    if voiced.any():
        middle = np.log2(pitch[pitch > 0]).mean()
        octaves = parameters.pitch_variance * (np.log2(new_pitch[voiced]) - middle)
        new_pitch[voiced] = np.clip(2 ** (middle + octaves + parameters.pitch_shift_semitones / 12), *_PITCH)

    size = pyworld.get_cheaptrick_fft_size(rate, _LOWEST)
    low, high = np.log2(_BREATH)
    weights = np.clip((np.log2(np.fft.rfftfreq(size, 1 / rate).clip(1)) - low) / (high - low), 0, 1)
    breath = (parameters.breathiness * weights) ** 2  # share of the power of the harmonics that turns into noise
    hop = _FRAME * rate
    made = []
    for first, last in _pieces(voiced):
        frames = slice(before[first], after[last] + 1)
        described = voice, pitch[frames].copy(), times[frames].copy(), rate
        envelope = pyworld.cheaptrick(*described, fft_size=size)
        noise = pyworld.d4c(*described, fft_size=size)
        here, there = before[first : last + 1] - frames.start, after[first : last + 1] - frames.start
        part = share[first : last + 1, None]
        envelope = envelope[here] * (1 - part) + envelope[there] * part
        noise = noise[here] * (1 - part) + noise[there] * part
        noise = np.sqrt(noise**2 + (1 - noise**2) * breath)
        spoken = pyworld.synthesize(new_pitch[first : last + 1], envelope, noise, rate, frame_period=1000 * _FRAME)
        made.append(spoken[: round(last * hop) - round(first * hop)])
    beyond = voice.size / rate - times[-1]  # the clip ends between two frames
    samples = round((ends[-1] * _FRAME + beyond / parameters.speech_rate) * rate)
    joined = np.concatenate(made)[:samples]
    return np.pad(joined, (0, samples - joined.size))


def _pieces(voiced: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First and last frame of each piece, which is the first of the next: in the middle of a voiceless stretch."""
    first, end = 0, voiced.size - 1
    while end - first > _PIECE[1]:
        window = np.arange(first + _PIECE[0], first + _PIECE[1])
        edges = np.flatnonzero(voiced[window])
        cuts = np.concatenate([[-1], edges, [window.size]])
        widest = np.diff(cuts).argmax()
        last = int(window[0] + (cuts[widest] + cuts[widest + 1]) // 2)
        yield first, last
        first = last
    yield first, end


def _levels(voice: _Array, rate: int, frames: int) -> _Array:
    """Level in dB around each frame, over 25 ms."""
    half = round(0.0125 * rate)
    power = np.concatenate([[0.0], np.cumsum(voice**2)])
    centres = np.minimum(np.round(np.arange(frames) * _FRAME * rate).astype(int), voice.size)
    first, last = np.maximum(centres - half, 0), np.minimum(centres + half, voice.size)
    levels: _Array = 10 * np.log10(np.maximum(power[last] - power[first], 0) / np.maximum(last - first, 1) + 1e-12)
    return levels


def _spoken(levels: _Array) -> NDArray[np.bool_]:
    """Which frames are not silent."""
    spoken: NDArray[np.bool_] = levels > np.percentile(levels, 99) + _SILENCE_DB
    return spoken


def _speech_level(voice: _Array, rate: int) -> float | None:
    """Mean level of what is not silent, in dB; None where all is."""
    levels = _levels(voice, rate, int(voice.size / rate / _FRAME) + 1)
    return 10 * math.log10((10 ** (levels[_spoken(levels)] / 10)).mean()) if levels.max() > -100 else None


def _pauses(levels: _Array) -> NDArray[np.bool_]:
    """Which frames lie in a pause."""
    spoken = _spoken(levels)
    edges = np.flatnonzero(np.diff(spoken)) + 1
    inside = np.zeros(levels.size, bool)
    for first, last in pairwise(edges):
        if not spoken[first] and (last - first) * _FRAME >= _PAUSE_SECONDS:
            inside[first:last] = True
    return inside


def _dynamics(voice: _Array, rate: int, factor: float) -> _Array:
    """Gain [samples] that moves the level of speech from or to its mean."""
    levels = _levels(voice, rate, int(voice.size / rate / _FRAME) + 1)
    away = np.clip(levels - levels[_spoken(levels)].mean(), -_SPREAD_DB, _SPREAD_DB)
    gains = 10 ** ((factor - 1) * away / 20)
    smooth: _Array = np.interp(np.arange(voice.size) / rate, np.arange(gains.size) * _FRAME, gains)
    return smooth


def _limited(voice: _Array, rate: int) -> _Array:
    """Turns down what is louder than full scale, smoothly and together with what is around it."""
    block = max(1, round(0.001 * rate))
    count = -(-voice.size // block)
    peaks = np.abs(np.pad(voice, (0, count * block - voice.size))).reshape(count, block).max(1)
    if peaks.max() <= 1:
        return voice
    gains = np.pad(1 / np.maximum(peaks, 1), 7, mode="edge")
    gains = sliding_window_view(gains, 9).min(1)  # each block as its neighbours need it,
    gains = sliding_window_view(gains, 7).mean(1)  # smoothed over fewer: none gets more than it may
    limited: _Array = voice * np.interp(np.arange(voice.size), (np.arange(count) + 0.5) * block, gains)
    return limited


# An engine: the parameters -> its own settings, and the values that these achieve, by name; what is not named stays
# undone. So a rounding of the engine's is known, too, and `remainder` gives it back.
_Settings: TypeAlias = tuple[dict[str, Any], dict[str, float]]


def to_engine(parameters: ProsodyParameters, engine: str) -> dict[str, Any]:
    """Returns the settings by which a speech engine comes as near to the parameters as it can.

    | engine | settings | for |
    |---|---|---|
    | `piper` | `length_scale`, `volume` | fields of `piper.SynthesisConfig`, options of `piper` |
    | `kokoro` | `speed` | `KPipeline.__call__` |
    | `xtts` | `speed` | `Xtts.inference`, `TTS.tts` of Coqui |
    | `espeak-ng` | `-s`, `-p`, `-a` | its command line, voices of the default pitch |
    | `say` | `-r`, `prefix` | its command line on macOS, and commands to put before the text |
    | `rvc` | see `to_rvc` | |

    What an engine cannot do is left out, see `remainder`. Neutral parameters give the defaults of each.

    Raises:
        ValueError: An unknown engine.
    """
    return _engine(engine)(parameters)[0]


def to_rvc(parameters: ProsodyParameters) -> dict[str, Any]:
    """Returns the settings of a voice conversion with RVC.

    * `f0_up_key`: semitones; RVC takes whole ones.
    * `rms_mix_rate`: 0.25, its default, or 0 where the loudness of its input is to be kept as it was shaped.
    * `protect`: 0.33, its default, or less: consonants and breath are left more as they were, the breathier.
    * `rate`: not RVC's, which keeps the length: how much faster the speech that goes in has to be.

    `apply(waveform, rate, remainder(parameters, "rvc"))`, before RVC, does what RVC does not: the rate, too.
    """
    return to_engine(parameters, "rvc")


def remainder(
    parameters: ProsodyParameters, engine: str | None = None, *, dialect: str | None = None
) -> ProsodyParameters:
    """Returns what the settings of an engine, or a document in a dialect of SSML, leave undone: for `apply`.

    Raises:
        ValueError: An unknown engine or dialect, or not one of the two.
    """
    if (engine is None) == (dialect is None):
        raise ValueError("either an engine or a dialect is needed: what is left depends on it")
    done = _engine(engine)(parameters)[1] if engine is not None else _dialect(str(dialect))(parameters)[1]
    left = {}
    for name, row in _rows().items():
        value = getattr(parameters, name)
        rest = value / done.get(name, 1.0) if row["kind"] == "factor" else value - done.get(name, 0.0)
        left[name] = min(max(rest, row["from"]), row["to"])
    return ProsodyParameters(**left)


def _engine(name: str) -> Callable[[ProsodyParameters], _Settings]:
    if name not in _ENGINES:
        raise ValueError(f"no engine is called {name!r}; known: {', '.join(ENGINES)}")
    return _ENGINES[name]


def _piper(p: ProsodyParameters) -> _Settings:
    softer = min(p.volume_db, 0.0)  # its audio fills the full scale: louder would clip
    settings = {"length_scale": 1 / p.speech_rate, "volume": 10 ** (softer / 20)}
    return settings, {"speech_rate": p.speech_rate, "volume_db": softer}


def _speed(p: ProsodyParameters) -> _Settings:
    return {"speed": p.speech_rate}, {"speech_rate": p.speech_rate}


# espeak-ng's default words per minute; what it makes of them: measured, length ~ wpm ** -1.15.
_ESPEAK_WPM = 175
_ESPEAK_RATE = 1 / 1.15
# Its -p scales the floor of the pitch, 2 ** (p / 50 - 1), to which the intonation is added: that floor is 0.71 of the
# mean in voices of its default pitch. Measured, as is what a wider intonation adds to the mean, in semitones.
_ESPEAK_FLOOR = 0.71
_ESPEAK_RANGE = 1.9


def _espeak_pitch(semitones: float) -> float:
    floor = 1 + (2 ** (semitones / 12) - 1) / _ESPEAK_FLOOR
    return min(max(50 + 50 * math.log2(floor), 0), 99)


def _espeak(p: ProsodyParameters) -> _Settings:
    settings = {
        "-s": round(_ESPEAK_WPM * p.speech_rate**_ESPEAK_RATE),
        "-p": round(_espeak_pitch(p.pitch_shift_semitones)),
        "-a": round(100 * 10 ** (p.volume_db / 20)),
    }
    done = ("speech_rate", "pitch_shift_semitones", "volume_db")
    return settings, {name: getattr(p, name) for name in done}


_SAY_WPM = 175  # of its default voices; others differ


def _say(p: ProsodyParameters) -> _Settings:
    softer = min(p.volume_db, 0.0)  # 1 is the loudest there is
    prefix = f"[[pbas {p.pitch_shift_semitones:+.2f}; volm {10 ** (softer / 20):.2f}]]"  # pbas counts as MIDI notes do
    settings = {"-r": round(_SAY_WPM * p.speech_rate), "prefix": prefix}
    done = {"speech_rate": p.speech_rate, "pitch_shift_semitones": p.pitch_shift_semitones, "volume_db": softer}
    return settings, done


def _rvc(p: ProsodyParameters) -> _Settings:
    key = round(p.pitch_shift_semitones)
    shaped = p.dynamic_range != 1 or p.tremolo_amount != 0
    settings = {
        "f0_up_key": key,
        "rms_mix_rate": 0.0 if shaped else 0.25,
        "protect": 0.33 * (1 - p.breathiness),
        "rate": p.speech_rate,
    }
    return settings, {"pitch_shift_semitones": key}


_ENGINES: dict[str, Callable[[ProsodyParameters], _Settings]] = {
    "piper": _piper,
    "kokoro": _speed,
    "xtts": _speed,
    "espeak-ng": _espeak,
    "say": _say,
    "rvc": _rvc,
}
ENGINES = tuple(_ENGINES)


def _w3c(p: ProsodyParameters) -> _Settings:
    attributes = {
        "pitch": f"{p.pitch_shift_semitones:+.2f}st",
        "range": f"{100 * (p.pitch_variance - 1):+.0f}%",
        "rate": f"{100 * p.speech_rate:.0f}%",
        "volume": f"{p.volume_db:+.1f}dB",
    }
    done = ("pitch_shift_semitones", "pitch_variance", "speech_rate", "volume_db", "pause_multiplier")
    return attributes, {name: getattr(p, name) for name in done}


def _azure(p: ProsodyParameters) -> _Settings:
    attributes, done = _w3c(p)
    attributes["rate"] = f"{100 * (p.speech_rate - 1):+.0f}%"  # a percentage is a change there
    attributes["volume"] = f"{100 * (10 ** (p.volume_db / 20) - 1):+.0f}%"
    return attributes, done


def _google(p: ProsodyParameters) -> _Settings:
    attributes, done = _w3c(p)
    del attributes["range"], done["pitch_variance"]
    return attributes, done


def _polly_neural(p: ProsodyParameters) -> _Settings:
    attributes, done = _google(p)
    del attributes["pitch"], done["pitch_shift_semitones"]
    return attributes, done


def _polly(p: ProsodyParameters) -> _Settings:
    attributes, done = _polly_neural(p)
    attributes["pitch"] = f"{100 * (2 ** (p.pitch_shift_semitones / 12) - 1):+.0f}%"
    return attributes, done | {"pitch_shift_semitones": p.pitch_shift_semitones}


def _espeak_ssml(p: ProsodyParameters) -> _Settings:
    """Percentages of its own settings: st and dB are read, but mean something else there."""
    pitch = _espeak_pitch(p.pitch_shift_semitones - _ESPEAK_RANGE * (p.pitch_variance - 1))
    attributes = {
        "pitch": f"{2 * pitch:.0f}%",
        "range": f"{100 * p.pitch_variance:.0f}%",
        "rate": f"{100 * p.speech_rate:.0f}%",
        "volume": f"{100 * 10 ** (p.volume_db / 20):.0f}%",
    }
    return attributes, _w3c(p)[1]


_DIALECTS: dict[str, Callable[[ProsodyParameters], _Settings]] = {
    "w3c": _w3c,
    "azure": _azure,
    "google": _google,
    "polly": _polly,
    "polly-neural": _polly_neural,
    "espeak-ng": _espeak_ssml,
}
DIALECTS = tuple(_DIALECTS)


def _dialect(name: str) -> Callable[[ProsodyParameters], _Settings]:
    if name not in _DIALECTS:
        raise ValueError(f"no dialect is called {name!r}; known: {', '.join(DIALECTS)}")
    return _DIALECTS[name]


_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML cannot hold
# Where a voice pauses, and for how long: as espeak-ng does, within 0.1 s.
_STOP = re.compile("(\\b\\w+|(?<!\\w))([.!?…]+)[\"'”’»)\\]]*(?=\\s+\\S)|[。！？](?=\\s*\\S)")
_COMMA = re.compile("[,;:](?=\\s+\\S)|[，、；：](?=\\s*\\S)")
_STOP_MS, _COMMA_MS = 400, 200


def to_ssml(
    text: str,
    parameters: ProsodyParameters,
    dialect: str = "w3c",
    *,
    language: str = "en-US",
    voice: str | None = None,
) -> str:
    """Returns a document that has a text spoken as the parameters say.

    Pitch, range, rate and volume become attributes; pauses other than the usual ones become breaks of a length of
    their own at commas and sentence ends. SSML has no words for the rest: see `remainder`.

    | dialect | differs from SSML 1.1 of the W3C |
    |---|---|
    | `w3c` | not at all: valid by its schema |
    | `azure` | percentages are changes, volume has no dB, pauses are `mstts:silence`; a voice must be named |
    | `google` | no range |
    | `polly` | no range, pitch in percent |
    | `polly-neural` | no range and no pitch, which it refuses |
    | `espeak-ng` | percentages of its own scales, measured: st and dB mean something else there |

    Args:
        text: Plain text. What has a meaning in XML is escaped; characters that XML cannot hold become spaces.
        parameters: How it is to be spoken; neutral ones leave the engine its own way.
        dialect: One of the six.
        language: Of the text, as `xml:lang` has it.
        voice: Name of a voice of the engine.

    Raises:
        ValueError: An unknown dialect, or no voice for `azure`.
    """
    spoken = _dialect(dialect)
    if dialect == "azure" and voice is None:
        raise ValueError("azure speaks only with a named voice: pass one, e.g. voice='en-US-AvaNeural'")

    body, silences = _UNPRINTABLE.sub(" ", text), ""
    if parameters.pause_multiplier != 1 and dialect != "azure":
        body = _COMMA.sub("\\g<0>\x02", _STOP.sub(_stopped, body))
    body = escape(body)
    if parameters.pause_multiplier != 1:
        stop, comma = (round(ms * parameters.pause_multiplier / parameters.speech_rate) for ms in (_STOP_MS, _COMMA_MS))
        if dialect == "azure":
            exact = {"Sentenceboundary-exact": stop, "Comma-exact": comma}
            silences = "".join(f'<mstts:silence type="{kind}" value="{ms}ms"/>' for kind, ms in exact.items())
        for mark, ms in (("\x01", stop), ("\x02", comma)):  # which the text does not have any more
            body = body.replace(mark, f'<break time="{ms}ms"/>')
    usual = spoken(NEUTRAL)[0]
    attributes = {name: value for name, value in spoken(parameters)[0].items() if value != usual[name]}
    if attributes:
        listed = " ".join(f'{name}="{value}"' for name, value in attributes.items())
        body = f"<prosody {listed}>{body}</prosody>"
    body = silences + body
    if voice is not None:
        body = f"<voice name={quoteattr(voice)}>{body}</voice>"
    head = f'version="1.1" xmlns="http://www.w3.org/2001/10/synthesis" xml:lang={quoteattr(language)}'
    if dialect == "azure":
        head = head.replace("1.1", "1.0") + ' xmlns:mstts="http://www.w3.org/2001/mstts"'
    return f"<speak {head}>{body}</speak>"


def _stopped(found: re.Match[str]) -> str:
    """Marks the end of a sentence, not an abbreviation: a short word with a capital, or a single letter."""
    word, mark = found[1], found[2]
    abbreviated = mark == "." and (len(word) == 1 or (0 < len(word) < 4 and not word.islower()))
    return found[0] if abbreviated else found[0] + "\x01"
