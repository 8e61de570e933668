"""What a loaded model is and needs: parameters, numbers, device, memory, time to load, license."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ModelInfo"]


@dataclass(frozen=True)
class ModelInfo:
    """What a loaded model is and needs.

    Attributes:
        name: Repository of the model.
        family: Family of its network.
        parameters: Number of its weights, exact.
        stored: Type that the weights are stored in.
        dtype: Type that it computes in.
        runtime: Runtime it is on, as in `Model.runtime`.
        device: Device and library of the runtime, in words.
        disk_bytes: Size of the file of weights; None for a model that was not loaded from one.
        memory_bytes: An estimate of the memory that the weights take: their number times the bytes of a number, or the
            size of the file where they stay packed. What a batch takes between its layers comes on top.
        load_seconds: Seconds that loading took, without a conversion or download; None if it was not measured.
        licence: License of the weights.
        labels: Names of its labels, or of its dimensions.
        outputs: Names of its further outputs.
        embed_dim: Length of an embedding.
        closed: Whether it is closed, so that the weights take no memory anymore.
    """

    name: str
    family: str
    parameters: int
    stored: str
    dtype: str
    runtime: str
    device: str
    disk_bytes: int | None
    memory_bytes: int
    load_seconds: float | None
    licence: str
    labels: tuple[str, ...]
    outputs: tuple[str, ...]
    embed_dim: int
    closed: bool

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain numbers, strings and tuples."""
        return asdict(self)
