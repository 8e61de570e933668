"""The families of models. Adding one means its own files and one line here.

A family is one word, NAME, and these modules:

    architectures/NAME.py                       sizes, stored tensors, operations, window rule
    converters/NAME.py                          renames from the original's checkpoint, and a synthetic checkpoint
    runtimes/NAME_torch.py, NAME_mlx.py, NAME_numpy.py   the network, three times
    runtimes/NAME_onnx.py                       the network as an ONNX graph, for `e2v export`
    parity/NAME.py                              the original implementation to compare with, where there is one
"""

from dataclasses import dataclass
from importlib import import_module

from e2v_port.architectures.base import Architecture

__all__ = ["FAMILIES", "Family", "family_of"]


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        name: Name of its modules, as in config.json.
        sizes: Name of its `Architecture` in architectures/NAME.py.
        network: Name of its network in runtimes/NAME_torch.py, NAME_mlx.py, NAME_numpy.py and NAME_onnx.py.
    """

    name: str
    sizes: str
    network: str

    @property
    def architecture(self) -> type[Architecture]:
        """Its `Architecture`."""
        kind: type[Architecture] = getattr(import_module(f"e2v_port.architectures.{self.name}"), self.sizes)
        return kind


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("emotion2vec", "Emotion2vecConfig", "Emotion2vec"),
        Family("wav2vec2", "Wav2vec2Config", "Wav2vec2"),  # and HuBERT
        Family("wavlm", "WavlmConfig", "Wavlm"),
        Family("sensevoice", "SensevoiceConfig", "Sensevoice"),
        Family("wav2small", "Wav2smallConfig", "Wav2small"),
        Family("whisper", "WhisperConfig", "Whisper"),
        Family("ge2e", "Ge2eConfig", "Ge2e"),  # speakers, not emotions
        Family("ecapa", "EcapaConfig", "Ecapa"),  # speakers, too
    )
}


def family_of(architecture: Architecture) -> Family:
    """Returns the family that an architecture belongs to; ValueError if it is not registered."""
    for family in FAMILIES.values():
        if type(architecture) is family.architecture:
            return family
    raise ValueError(f"{type(architecture).__name__} belongs to none of the families {', '.join(FAMILIES)}")
