"""The frozen encoders of a speech language model: what is said, how, and by whom."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.errors import E2VError
from e2v_port.models.load import load as load_model
from e2v_port.models.load import weights_of
from e2v_port.models.model import Model

__all__ = ["ENCODERS", "Encoders", "load"]

ENCODERS = ("semantic", "emotion", "speaker")
"""What is said, how, and by whom: the names of features, and of the models that make them."""

_VERSION = 1  # of the content of features
_MOST = 60_000.0  # largest magnitude in float16, less a little


@dataclass(frozen=True)
class Encoders:
    """The models that features are made with.

    Attributes:
        semantic: Encoder of what is said: a Whisper encoder.
        emotion: Encoder of how it is said: any model of this package with frames; None without one.
        speaker: Encoder of who says it; None without one.

    Raises:
        E2VError: `semantic` is no Whisper encoder, or `speaker` no speaker encoder.
    """

    semantic: Model
    emotion: Model | None = None
    speaker: Model | None = None

    def __post_init__(self) -> None:
        """Raises E2VError for a model of another kind than it is used as."""
        if self.semantic.config.family != "whisper":
            raise E2VError(f"{self.semantic.config.source.repository} is no Whisper encoder: convert one, such as base")
        if self.speaker is not None and not self.speaker.config.architecture.speakers:
            raise E2VError(f"{self.speaker.config.source.repository} is no speaker encoder: use bundled-voices")

    def of(self, waveform: Waveform) -> dict[str, NDArray[np.float16]]:
        """Returns the features of a clip: `semantic` and `emotion` [frames, width], `speaker` [width].

        Args:
            waveform: One voice at 16 kHz, mono.

        Raises:
            AudioError: The clip cannot be used.
            E2VError: A model gives numbers that 16 bits cannot hold.
        """
        found: dict[str, NDArray[Any]] = {
            "semantic": self.semantic.embed(waveform, SAMPLING_RATE, granularity="frame"),
        }
        if self.emotion is not None:
            found["emotion"] = self.emotion.embed(waveform, SAMPLING_RATE, granularity="frame")
        if self.speaker is not None:
            found["speaker"] = self.speaker.embed(waveform, SAMPLING_RATE)
        for name, values in found.items():
            if not np.abs(values).max() < _MOST:
                raise E2VError(f"the {name} features do not fit into 16 bits: use another model")
        return {name: values.astype(np.float16) for name, values in found.items()}

    def key(self) -> str:
        """Returns a hash of everything that features depend on besides the clip."""
        models = (self.semantic, self.emotion, self.speaker)
        about = [_VERSION, *(model and [repr(model.config), model.runtime, model.dtype] for model in models)]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def load(
    names: Mapping[str, str | Path | None], *, runtime: str = "auto", offline: bool = False
) -> tuple[Encoders, dict[str, dict[str, str] | None]]:
    """Loads the encoders.

    Args:
        names: Model of each of `ENCODERS`, as for `e2v_port.load`; None to go without, but for `semantic`.
        runtime: Same as for `e2v_port.load`.
        offline: Same as for `e2v_port.load`.

    Returns:
        The encoders, and what each of them is: `name` to load it by (absolute, if it is a folder), `revision`,
        `licence`, and `sha256` of its weights. Two encoders whose weights have the same hash give the same features.

    Raises:
        E2VError: A model cannot be loaded, or is of another kind than it is used as.
    """
    models: dict[str, Model | None] = {}
    about: dict[str, dict[str, str] | None] = {}
    for kind in ENCODERS:
        name = names.get(kind)
        models[kind] = about[kind] = None
        if name is not None:
            models[kind] = model = load_model(name, runtime=runtime, offline=offline)
            with weights_of(name, model.runtime, offline=offline).open("rb") as file:
                about[kind] = {
                    "name": os.path.abspath(name) if os.path.exists(name) else str(name),
                    "revision": model.config.source.revision,
                    "licence": model.config.licence,
                    "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                }
    if models["semantic"] is None:
        raise E2VError("a semantic encoder is needed: name a converted Whisper model")
    return Encoders(models["semantic"], models["emotion"], models["speaker"]), about
