"""Replies to remarks with the speech language model: the tone first, then the words, then how to say them."""

import base64
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.emotions import taxonomy
from e2v_port.emotions.fusion import FusionSettings, unsure
from e2v_port.errors import E2VError
from e2v_port.expression.engines import to_engine
from e2v_port.expression.respond import Response, respond
from e2v_port.expression.speak import speak
from e2v_port.llm.speech import SpeechLM

__all__ = ["Replier"]


class Replier:
    """The speech language model of the service. It replies to one remark at a time, whatever thread asks.

    Args:
        folder: Folder of the model.
        runtime: Runtime of its encoders, as for `e2v_port.load`.
        offline: Never connect to a hub.

    Raises:
        E2VError: The model cannot be loaded, or hears text.
    """

    def __init__(self, folder: Path, runtime: str, offline: bool) -> None:
        self._model = SpeechLM.load(folder, runtime=runtime, offline=offline)
        if self._model.hears != "speech":
            raise E2VError(f"{folder}: this model hears {self._model.hears}, not speech: serve one that was trained to")

    def reply(
        self,
        waveform: Waveform,
        *,
        context: Sequence[Mapping[str, str]],
        words: str | None,
        aloud: bool,
        temperature: float,
        tell: Callable[[str, dict[str, Any]], None],
    ) -> dict[str, Any]:
        """Replies to a remark.

        Args:
            waveform: The remark, [samples] at 16 kHz.
            context: What was said before, oldest first: `role` and `content`.
            words: What a recognizer read in the remark; None if none did.
            aloud: Whether to speak the reply as well, if this machine has a speech engine.
            temperature: 0 for the most likely words, up to 2 to draw them, as for `SpeechLM`.
            tell: Called with the name and the content of each part: `tone`, then `text` for each piece of the reply.
                What it raises ends the reply.

        Returns:
            The whole reply, as `POST /v1/reply` returns it.
        """
        with closing(
            self._model.stream(waveform, SAMPLING_RATE, context=context, words=words, temperature=temperature)
        ) as speaking:
            heard = _heard(speaking.tone, words)
            tell("tone", heard)
            for piece in speaking:
                tell("text", {"text": piece})
        reply = speaking.reply
        manner = _manner(speaking.tone)
        spoken = speak(reply.text, manner.parameters) if aloud and reply.text else None
        return {
            "reply": reply.text,
            **heard,
            "notes": [{"kind": "reply", "text": note} for note in reply.notes],
            "seconds": dict(reply.seconds),
            "prosody": {
                "emotion": manner.emotion,
                "intensity": manner.intensity,
                **to_engine(manner.parameters, "browser"),
            },
            "audio": None if spoken is None else base64.b64encode(spoken).decode(),
        }


def _heard(tone: Mapping[str, float] | None, words: str | None) -> dict[str, Any]:
    """Returns the tone of a remark as the service reports it: with the mark of doubt that judgements have."""
    unclear = None
    if tone is not None:
        label, probability = max(tone.items(), key=lambda item: item[1])
        unclear = unsure(label, probability, tone, FusionSettings())
    return {"tone": None if tone is None else dict(tone), "unclear": unclear, "words": words}


def _manner(tone: Mapping[str, float] | None) -> Response:
    """Returns how the reply to a tone should sound: neutral, where no emotion is known."""
    label, probability = max(tone.items(), key=lambda item: item[1]) if tone else ("unknown", 0.0)
    return respond(label, probability) if taxonomy.names_emotion(label) else respond("neutral", 0.0)
