"""Turns voice parameters into SSML."""

import re
from collections.abc import Callable
from xml.sax.saxutils import escape, quoteattr

from e2v_port.errors import need, quoted
from e2v_port.expression.engines import Settings, espeak_pitch
from e2v_port.expression.profiles import NEUTRAL, ProsodyParameters

__all__ = ["DIALECTS", "dialect_attributes", "to_ssml"]

_ESPEAK_RANGE = 1.9  # semitones that doubling the range of espeak-ng adds to the mean pitch; measured


def _w3c(p: ProsodyParameters) -> Settings:
    attributes = {
        "pitch": f"{p.pitch_shift_semitones:+.2f}st",
        "range": f"{100 * (p.pitch_variance - 1):+.0f}%",
        "rate": f"{100 * p.speech_rate:.0f}%",
        "volume": f"{p.volume_db:+.1f}dB",
    }
    done = ("pitch_shift_semitones", "pitch_variance", "speech_rate", "volume_db", "pause_multiplier")
    return attributes, {name: getattr(p, name) for name in done}


def _azure(p: ProsodyParameters) -> Settings:
    attributes, done = _w3c(p)
    attributes["rate"] = f"{100 * (p.speech_rate - 1):+.0f}%"  # Azure reads a percentage as a change
    attributes["volume"] = f"{100 * (10 ** (p.volume_db / 20) - 1):+.0f}%"
    return attributes, done


def _google(p: ProsodyParameters) -> Settings:
    attributes, done = _w3c(p)
    del attributes["range"], done["pitch_variance"]
    return attributes, done


def _polly_neural(p: ProsodyParameters) -> Settings:
    attributes, done = _google(p)
    del attributes["pitch"], done["pitch_shift_semitones"]
    return attributes, done


def _polly(p: ProsodyParameters) -> Settings:
    attributes, done = _polly_neural(p)
    attributes["pitch"] = f"{100 * (2 ** (p.pitch_shift_semitones / 12) - 1):+.0f}%"
    return attributes, done | {"pitch_shift_semitones": p.pitch_shift_semitones}


def _espeak_ssml(p: ProsodyParameters) -> Settings:
    """Returns percentages of espeak-ng's own scales: it accepts st and dB, but with another meaning."""
    pitch = espeak_pitch(p.pitch_shift_semitones - _ESPEAK_RANGE * (p.pitch_variance - 1))
    attributes = {
        "pitch": f"{2 * pitch:.0f}%",
        "range": f"{100 * p.pitch_variance:.0f}%",
        "rate": f"{100 * p.speech_rate:.0f}%",
        "volume": f"{100 * 10 ** (p.volume_db / 20):.0f}%",
    }
    return attributes, _w3c(p)[1]


_DIALECTS: dict[str, Callable[[ProsodyParameters], Settings]] = {
    "w3c": _w3c,
    "azure": _azure,
    "google": _google,
    "polly": _polly,
    "polly-neural": _polly_neural,
    "espeak-ng": _espeak_ssml,
}
DIALECTS = tuple(_DIALECTS)


def dialect_attributes(name: str) -> Callable[[ProsodyParameters], Settings]:
    """Returns the function that turns parameters into `prosody` attributes of a dialect.

    Raises:
        ValueError: The dialect is unknown.
    """
    if name not in _DIALECTS:
        raise ValueError(f"unknown dialect {quoted(name)}: choose one of {', '.join(DIALECTS)}")
    return _DIALECTS[name]


_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # not allowed in XML
# Places and lengths of pauses: those of espeak-ng, within 0.1 s. A row of stops is tried once, from its first.
_STOP = re.compile("(\\b\\w+|(?<![\\w.!?…]))([.!?…]+)[\"'”’»)\\]]*(?=\\s+\\S)|[。！？](?=\\s*\\S)")
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
    """Returns an SSML document that speaks a text with the given parameters.

    Pitch, range, rate and volume become attributes. Longer or shorter pauses become breaks of an explicit length at
    commas and sentence ends. SSML cannot express the other parameters; see `remainder`.

    | dialect | difference from SSML 1.1 of the W3C |
    |---|---|
    | `w3c` | none: valid by its schema |
    | `azure` | percentages are changes, volume has no dB, pauses are `mstts:silence`; a voice must be named |
    | `google` | no range |
    | `polly` | no range, pitch in percent |
    | `polly-neural` | no range and no pitch, which it rejects |
    | `espeak-ng` | percentages of its own scales, measured; it gives st and dB another meaning |

    Args:
        text: Plain text. XML markup is escaped; characters that XML does not allow become spaces.
        parameters: Voice parameters; neutral ones leave the engine its defaults.
        dialect: Name of one of the six dialects.
        language: Language of the text, as in `xml:lang`.
        voice: Name of a voice of the engine; required for `azure`.

    Raises:
        ValueError: The dialect is unknown, or `azure` has no voice.
        TypeError: Text, language or voice is no string, or the parameters are no ProsodyParameters.
    """
    need("text", text, str)
    need("parameters", parameters, ProsodyParameters)
    need("language", language, str)
    need("voice", voice, str, None)
    spoken = dialect_attributes(dialect)
    if dialect == "azure" and voice is None:
        raise ValueError("azure needs a named voice: pass one, such as voice='en-US-AvaNeural'")

    body, silences = _UNPRINTABLE.sub(" ", text), ""
    if parameters.pause_multiplier != 1 and dialect != "azure":
        body = _COMMA.sub("\\g<0>\x02", _STOP.sub(_stopped, body))
    body = escape(body)
    if parameters.pause_multiplier != 1:
        stop, comma = (round(ms * parameters.pause_multiplier / parameters.speech_rate) for ms in (_STOP_MS, _COMMA_MS))
        if dialect == "azure":
            exact = {"Sentenceboundary-exact": stop, "Comma-exact": comma}
            silences = "".join(f'<mstts:silence type="{kind}" value="{ms}ms"/>' for kind, ms in exact.items())
        for mark, ms in (("\x01", stop), ("\x02", comma)):  # removed from the text above
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


def _stopped(match: re.Match[str]) -> str:
    """Marks the end of a sentence, but not of an abbreviation: a short capitalized word, or a single letter."""
    word, mark = match[1], match[2]
    abbreviated = mark == "." and (len(word) == 1 or (0 < len(word) < 4 and not word.islower()))
    return match[0] if abbreviated else match[0] + "\x01"
