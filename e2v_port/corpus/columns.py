"""The columns of a corpus, with their types and their descriptions."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from e2v_port.analysis import schema as description
from e2v_port.architectures.config import ModelConfig
from e2v_port.emotions import taxonomy

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["schema"]

# Columns that only a model with labels fills.
_OF_LABELS = frozenset({"primary", "confidence", "shade", "shade_probability", "compound", "agreement"})


def schema(
    categorical: ModelConfig | None, dimensional: ModelConfig | None, *, embeddings: bool, adapt: bool = False
) -> "pa.Schema":
    """Returns the columns, with description, unit and range from analysis/schema.json as their metadata.

    Args:
        categorical: Configuration of the model with labels.
        dimensional: Configuration of the model of arousal, dominance and valence.
        embeddings: Whether to add a column of embeddings, by the categorical model or else the dimensional one.
        adapt: Whether to add a column that says whether a row was adapted to its speaker.
    """
    import pyarrow as pa

    row = description.schema()["$defs"]["corpus_row"]
    of_label, of_emotion = row["patternProperties"].values()
    labels = [label.name for label in categorical.labels if not label.unused] if categorical else []
    probabilities = {f"e2v_{label}": of_label for label in labels}
    probabilities |= {f"distribution_{emotion.name}": of_emotion for emotion in taxonomy.emotions()}
    embedder = categorical or dimensional
    fields: list[pa.Field] = []

    def add(name: str, column: Mapping[str, Any], kind: "pa.DataType") -> None:
        known = {**column, **({"enum": labels} if name == "primary" else {})}
        fields.append(pa.field(name, kind, "null" in column["type"], description.about(known)))

    for name, column in row["properties"].items():
        if name == "embedding":
            for probability, described in probabilities.items():
                add(probability, described, pa.float32())
            if embeddings:
                assert embedder is not None
                add(name, column, pa.list_(pa.float16(), embedder.architecture.embed_dim))
        elif (labels or name not in _OF_LABELS) and (adapt or name != "adaptation"):
            add(name, column, _kind_of(name, column))
    return pa.schema(fields)


def _kind_of(name: str, column: Mapping[str, Any]) -> "pa.DataType":
    """Returns the Arrow type of a column: text that repeats is a dictionary, times are float64."""
    import pyarrow as pa

    kinds = {"clip": pa.int64(), **dict.fromkeys(("start", "end", "duration"), pa.float64())}
    kinds |= dict.fromkeys(("file", "error"), pa.string())  # differ in most rows
    by_type = {"integer": pa.int32(), "number": pa.float32(), "string": pa.dictionary(pa.int32(), pa.string())}
    types = [column["type"]] if isinstance(column["type"], str) else column["type"]
    return kinds.get(name) or by_type[types[0]]
