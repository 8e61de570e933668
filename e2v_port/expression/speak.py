"""Speaks a text with the speech engine of this machine."""

import io
import shutil
import subprocess

import soundfile

from e2v_port.expression.engines import to_engine
from e2v_port.expression.profiles import ProsodyParameters

__all__ = ["speak"]

_ENGINE = "espeak-ng"
_SECONDS = 20.0  # it takes well below one for a reply


def speak(text: str, parameters: ProsodyParameters, language: str = "en-US") -> bytes | None:
    """Speaks a text with espeak-ng: speed, pitch and level follow the parameters, see `to_engine`.

    The text reaches the engine through a pipe: no process list and no file holds it.

    Args:
        text: Plain text.
        parameters: Voice parameters.
        language: Language of the text, a BCP 47 tag that espeak-ng has a voice for.

    Returns:
        A WAV file with one channel; None if espeak-ng is not installed, or fails.
    """
    program = shutil.which(_ENGINE)
    if program is None:
        return None
    settings = [str(part) for item in to_engine(parameters, _ENGINE).items() for part in item]
    command = [program, "--stdin", "--stdout", "-v", language.lower(), *settings]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=_SECONDS, check=True)
        samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="int16")
    except (OSError, subprocess.SubprocessError, soundfile.SoundFileError):
        return None
    spoken = io.BytesIO()  # with its true length, which a pipe does not know in advance
    soundfile.write(spoken, samples, rate, format="WAV", subtype="PCM_16")
    return spoken.getvalue()
