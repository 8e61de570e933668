"""Turns voice parameters into settings of speech engines."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from e2v_port.errors import need, quoted
from e2v_port.expression.profiles import ProsodyParameters

__all__ = ["ENGINES", "Settings", "engine_settings", "espeak_pitch", "to_engine", "to_rvc"]


# Settings of an engine, and the parameters that they achieve, by name; parameters without a name are left undone. This
# includes the engine's rounding, which `remainder` returns.
Settings: TypeAlias = tuple[dict[str, Any], dict[str, float]]


def to_engine(parameters: ProsodyParameters, engine: str) -> dict[str, Any]:
    """Returns the settings that bring a speech engine as close to the parameters as possible.

    | engine | settings | for |
    |---|---|---|
    | `piper` | `length_scale`, `volume` | fields of `piper.SynthesisConfig`, options of `piper` |
    | `kokoro` | `speed` | `KPipeline.__call__` |
    | `xtts` | `speed` | `Xtts.inference`, `TTS.tts` of Coqui |
    | `espeak-ng` | `-s`, `-p`, `-a` | its command line; voices of the default pitch |
    | `say` | `-r`, `prefix` | its command line on macOS, and commands to put in front of the text |
    | `browser` | `rate`, `pitch`, `volume` | fields of `SpeechSynthesisUtterance` |
    | `rvc` | see `to_rvc` | |

    Parameters that an engine does not support are left out; see `remainder`. Neutral parameters return its defaults.

    Raises:
        ValueError: The engine is unknown.
        TypeError: The parameters are no ProsodyParameters.
    """
    need("parameters", parameters, ProsodyParameters)
    return engine_settings(engine)(parameters)[0]


def to_rvc(parameters: ProsodyParameters) -> dict[str, Any]:
    """Returns the settings of a voice conversion with RVC.

    * `f0_up_key`: shift in semitones; RVC takes whole ones.
    * `rms_mix_rate`: 0.25, its default, or 0 to keep the loudness of its input where that was shaped.
    * `protect`: 0.33, its default, or less: the breathier the voice, the more RVC leaves consonants and breath alone.
    * `rate`: factor by which the input has to be faster. Not a setting of RVC, which keeps the length.

    Call `apply(waveform, rate, remainder(parameters, "rvc"))` before RVC for everything that RVC does not do, including
    the rate.
    """
    return to_engine(parameters, "rvc")


def engine_settings(name: str) -> Callable[[ProsodyParameters], Settings]:
    """Returns the function that turns parameters into the settings of an engine.

    Raises:
        ValueError: The engine is unknown.
    """
    if name not in _ENGINES:
        raise ValueError(f"unknown engine {quoted(name)}: choose one of {', '.join(ENGINES)}")
    return _ENGINES[name]


def _piper(p: ProsodyParameters) -> Settings:
    softer = min(p.volume_db, 0.0)  # its audio is at full scale already: louder would clip
    settings = {"length_scale": 1 / p.speech_rate, "volume": 10 ** (softer / 20)}
    return settings, {"speech_rate": p.speech_rate, "volume_db": softer}


def _speed(p: ProsodyParameters) -> Settings:
    return {"speed": p.speech_rate}, {"speech_rate": p.speech_rate}


# Default words per minute of espeak-ng, and their measured effect: length ~ wpm ** -1.15.
_ESPEAK_WPM = 175
_ESPEAK_RATE = 1 / 1.15
# Its -p scales the floor of the pitch, 2 ** (p / 50 - 1), to which the intonation is added. Measured: in voices of its
# default pitch, that floor is 0.71 of the mean.
_ESPEAK_FLOOR = 0.71


def espeak_pitch(semitones: float) -> float:
    """Returns the value of espeak-ng's `-p`, 0 to 99, that shifts the pitch by a number of semitones."""
    floor = 1 + (2 ** (semitones / 12) - 1) / _ESPEAK_FLOOR
    return min(max(50 + 50 * math.log2(floor), 0), 99)


def _espeak(p: ProsodyParameters) -> Settings:
    settings = {
        "-s": round(_ESPEAK_WPM * p.speech_rate**_ESPEAK_RATE),
        "-p": round(espeak_pitch(p.pitch_shift_semitones)),
        "-a": round(100 * 10 ** (p.volume_db / 20)),
    }
    done = ("speech_rate", "pitch_shift_semitones", "volume_db")
    return settings, {name: getattr(p, name) for name in done}


_SAY_WPM = 175  # words per minute of its default voices; others differ


def _say(p: ProsodyParameters) -> Settings:
    softer = min(p.volume_db, 0.0)  # 1 is the maximum
    prefix = f"[[pbas {p.pitch_shift_semitones:+.2f}; volm {10 ** (softer / 20):.2f}]]"  # pbas is in MIDI notes
    settings = {"-r": round(_SAY_WPM * p.speech_rate), "prefix": prefix}
    done = {"speech_rate": p.speech_rate, "pitch_shift_semitones": p.pitch_shift_semitones, "volume_db": softer}
    return settings, done


def _browser(p: ProsodyParameters) -> Settings:
    softer = min(p.volume_db, 0.0)  # 1 is the maximum
    settings = {"rate": p.speech_rate, "pitch": 2 ** (p.pitch_shift_semitones / 12), "volume": 10 ** (softer / 20)}
    done = {"speech_rate": p.speech_rate, "pitch_shift_semitones": p.pitch_shift_semitones, "volume_db": softer}
    return settings, done


def _rvc(p: ProsodyParameters) -> Settings:
    key = round(p.pitch_shift_semitones)
    shaped = p.dynamic_range != 1 or p.tremolo_amount != 0
    settings = {
        "f0_up_key": key,
        "rms_mix_rate": 0.0 if shaped else 0.25,
        "protect": 0.33 * (1 - p.breathiness),
        "rate": p.speech_rate,
    }
    return settings, {"pitch_shift_semitones": key}


_ENGINES: dict[str, Callable[[ProsodyParameters], Settings]] = {
    "piper": _piper,
    "kokoro": _speed,
    "xtts": _speed,
    "espeak-ng": _espeak,
    "say": _say,
    "browser": _browser,
    "rvc": _rvc,
}
ENGINES = tuple(_ENGINES)
