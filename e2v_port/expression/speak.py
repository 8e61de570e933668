"""Speaks a text with the speech engine of this machine."""

import io
import shutil
import subprocess

import soundfile

from e2v_port.expression.profiles import ProsodyParameters
from e2v_port.expression.ssml import to_ssml

__all__ = ["speak"]

_ENGINE = "espeak-ng"
_SECONDS = 20.0  # it takes well below one for a reply


def speak(text: str, parameters: ProsodyParameters, language: str = "en-US") -> bytes | None:
    """Speaks a text with espeak-ng, with the parameters that its SSML can express.

    The text reaches the engine through a pipe: no process list and no file holds it.

    Args:
        text: Plain text.
        parameters: Voice parameters.
        language: Language of the text, as in `xml:lang`.

    Returns:
        A WAV file with one channel; None if espeak-ng is not installed, or fails.
    """
    program = shutil.which(_ENGINE)
    if program is None:
        return None
    command = [program, "-m", "--stdin", "--stdout", "-v", language.lower()]
    ssml = to_ssml(text, parameters, _ENGINE, language=language)
    try:
        done = subprocess.run(command, input=ssml.encode(), capture_output=True, timeout=_SECONDS, check=True)
        samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="int16")
    except (OSError, subprocess.SubprocessError, soundfile.SoundFileError):
        return None
    spoken = io.BytesIO()  # with its true length, which a pipe does not know in advance
    soundfile.write(spoken, samples, rate, format="WAV", subtype="PCM_16")
    return spoken.getvalue()
