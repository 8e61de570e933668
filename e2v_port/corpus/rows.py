"""The rows of a corpus: what their columns mean, and how clips become them."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import tee
from typing import TYPE_CHECKING, Any

import numpy as np

from e2v_port import __version__, context, emotions
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.config import DIMENSIONS, ModelConfig
from e2v_port.corpus.decoder import NO_SPEECH
from e2v_port.corpus.decoding import Decoded, Decoders, Stretch
from e2v_port.corpus.sources import Clip
from e2v_port.errors import AudioError
from e2v_port.fusion import FusionSettings, fuse
from e2v_port.model import Model, Output

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ABOUT", "Judge", "Shard", "Tally", "schema"]

ABOUT = b"e2v_port"  # key of what a shard says of itself, in its schema's metadata


@dataclass(frozen=True)
class Shard:
    """Clips whose rows are one file: they go through the models together, and with no others.

    Attributes:
        number: From 0.
        first: Number of its first clip in the source.
        clips: These, in order.
        key: Hash of everything that its rows depend on.
    """

    number: int
    first: int
    clips: Sequence[Clip]
    key: str


@dataclass
class Tally:
    """What is counted of rows.

    Attributes:
        clips: How many.
        rows: Likewise.
        seconds: Of all clips that could be read.
        labels: Rows by label.
        errors: Clips by the reason why they could not be judged.
    """

    clips: int
    rows: int
    seconds: float
    labels: Counter[str]
    errors: Counter[str]

    @classmethod
    def none(cls) -> "Tally":
        """Returns one of nothing."""
        return cls(0, 0, 0.0, Counter(), Counter())

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Tally":
        """Returns one that `vars` made JSON of."""
        return cls(**{**values, "labels": Counter(values["labels"]), "errors": Counter(values["errors"])})

    def add(self, other: "Tally") -> None:
        """Counts those of another as well."""
        self.clips += other.clips
        self.rows += other.rows
        self.seconds += other.seconds
        self.labels += other.labels
        self.errors += other.errors

    @property
    def failed(self) -> int:
        """How many clips could not be judged, beside those that hold no speech."""
        return sum(self.errors.values()) - self.errors[NO_SPEECH]


def schema(categorical: ModelConfig | None, dimensional: ModelConfig | None, embeddings: bool) -> "pa.Schema":
    """Returns the columns, each with what it is, its unit and its range as metadata.

    Args:
        categorical: Of the model with labels.
        dimensional: Of the model of arousal, dominance and valence.
        embeddings: Whether there is a column of them: of the categorical model, or else of the dimensional one.
    """
    import pyarrow as pa

    text, name, small, real = pa.string(), pa.dictionary(pa.int32(), pa.string()), pa.float32(), pa.float64()
    fields: list[pa.Field] = []

    def add(column: str, kind: Any, about: str, unit: str = "", span: str = "", *, null: bool = True) -> None:
        told = {"description": about, "unit": unit, "range": span}
        fields.append(pa.field(column, kind, null, {key: value for key, value in told.items() if value}))

    add("clip", pa.int64(), "number of the clip in the source", span="from 0", null=False)
    add("file", text, "the clip, as the source calls it", null=False)
    add("segment", pa.int32(), "number of the row in its clip", span="from 0", null=False)
    add("start", real, "of what was judged, from the start of the file", "s", "from 0")
    add("end", real, "likewise", "s", "from 0")
    add("speaker", name, "as the source says")
    add("reference", name, "the label that somebody gave the clip, as the source says")
    add(
        "quality", name, "how far the row can be trusted", span="normal, low_confidence (short), too_short (not judged)"
    )
    names = [label.name for label in categorical.labels if not label.unused] if categorical else []
    if names:
        add("label", name, "the most probable label", span=", ".join(names))
        add("confidence", small, "of the label, after fusion", "probability", "0 to 1")
        for label in names:
            add(f"score_{label}", small, f"of {label}, by the model with labels alone", "probability", "0 to 1")
    ends = ("from calm to activated", "from controlled to in control", "from unpleasant to pleasant")
    for dimension, about in zip(DIMENSIONS, ends, strict=True):
        add(dimension, small, about, span="0 to 1, measured ones may lie a little outside")
    add(
        "dimensions_from",
        name,
        "where the three are from",
        span="model (measured), labels (they follow from the scores)",
    )
    add("compound", name, "the label refined by measured arousal and dominance")
    add("octant", name, "Mehrabian's name for the octant of the three measured dimensions")
    for emotion in emotions.emotions():
        add(f"emotion_{emotion.name}", small, f"of {emotion.name}, one of 26", "probability", "0 to 1")
    if embeddings:
        of = categorical or dimensional
        assert of is not None
        dim = of.architecture.embed_dim
        add("embedding", pa.list_(pa.float16(), dim), f"of the row, by {of.source.repository}")
    add("duration", real, "of the clip", "s", "from 0.025")
    add("rate", pa.int32(), "of the file, before it was resampled to 16 kHz", "Hz", "1000 to 768000")
    add("level", small, "of the row: root mean square at 16 kHz, null where all is zero", "dB, 0 is full scale", "to 0")
    add("peak", small, "of the row: largest amount of a sample at 16 kHz, full scale is 1", span="0 to 100")
    clipped = (
        "of the row: samples at 16 kHz, mixed down, from 0.999 of full scale on; resampled or mixed ones show fewer"
    )
    add("clipping", small, clipped, "share", "0 to 1")
    add("model", name, "that gave label and scores")
    add("model_sha256", name, "of its weights, the first 16 digits")
    add("dimensional", name, "model that measured arousal, dominance and valence")
    add("dimensional_sha256", name, "of its weights, the first 16 digits")
    add("version", name, "of e2v-port", null=False)
    add("error", text, "why the clip could not be judged; null for all others")
    return pa.schema(fields)


class Judge:
    """Loaded models, and what makes rows of clips with them. May be used by several threads at once.

    Args:
        models: By kind, `categorical` and `dimensional`; either or both.
        digests: Of their weights, likewise.
        fusion: Of the two.
        embeddings: Whether rows have one.
        decoders: What reads the clips.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        digests: Mapping[str, str],
        fusion: FusionSettings,
        embeddings: bool,
        decoders: Decoders,
    ) -> None:
        self._models, self._fusion, self._embeddings, self._decoders = models, fusion, embeddings, decoders
        categorical, dimensional = models.get("categorical"), models.get("dimensional")
        self._label_set = context.label_set(categorical.labels) if categorical and categorical.labels else None
        self._schema = schema(
            categorical.config if categorical else None, dimensional.config if dimensional else None, embeddings
        )
        self._constant: dict[str, Any] = {"version": __version__}
        for kind, column in (("categorical", "model"), ("dimensional", "dimensional")):
            if kind in models:
                self._constant[column] = models[kind].config.source.repository
                self._constant[f"{column}_sha256"] = digests[kind][:16]

    def parquet(self, shard: Shard, advance: Callable[[int, float], None]) -> tuple[bytes, Tally]:
        """Returns the file of a shard, and what is to be counted of it.

        The same clips, models and settings give the same file, whatever else runs.

        Args:
            shard: Which clips.
            advance: Is told, for each clip that is read, 1 and its seconds.
        """
        import pyarrow as pa
        from pyarrow import parquet

        columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        tally = Tally.none()
        for row in self._rows(shard, tally, advance):
            for name, column in columns.items():
                column.append(row.get(name))
        arrays = [_array(columns.pop(field.name), field.type) for field in self._schema]
        about = {ABOUT: json.dumps({"key": shard.key, "tally": vars(tally)}, sort_keys=True)}
        table = pa.Table.from_arrays(arrays, schema=self._schema.with_metadata(about))
        file = BytesIO()
        parquet.write_table(table, file, compression="zstd")
        return file.getvalue(), tally

    def _rows(self, shard: Shard, tally: Tally, advance: Callable[[int, float], None]) -> Iterator[dict[str, Any]]:
        found: list[Decoded] = []
        # All answers are small beside the audio, of which a few minutes are held at a time.
        answers = iter([*self._answers(self._waveforms(shard.clips, found, advance))])
        for number, (clip, item) in enumerate(zip(shard.clips, found, strict=True), shard.first):
            about = {"clip": number, "file": clip.file, "speaker": clip.speaker, "reference": clip.reference}
            about |= self._constant | {"duration": item.duration, "rate": item.rate}
            rows = [_measured(segment) | (next(answers) if segment.judged else {}) for segment in item.segments]
            if not rows:
                rows = [{"start": clip.start, "end": clip.end, "error": item.error}]
            for i, row in enumerate(rows):
                yield about | row | {"segment": i}
                tally.labels.update([row["label"]] if "label" in row else [])
            tally.clips += 1
            tally.rows += len(rows)
            tally.seconds += item.duration or 0.0
            tally.errors.update([_kind(row["error"]) for row in rows if "error" in row][:1])

    def _waveforms(
        self, clips: Sequence[Clip], found: list[Decoded], advance: Callable[[int, float], None]
    ) -> Iterator[Waveform]:
        for item in self._decoders.each(clips):
            found.append(item)
            for segment in item.segments:
                if segment.waveform is not None:
                    waveforms = [segment.waveform]
                    segment.waveform = None
                    yield waveforms.pop()  # so that nothing here holds it while the models do
            advance(1, item.duration or 0.0)

    def _answers(self, waveforms: Iterator[Waveform]) -> Iterator[dict[str, Any]]:
        """Gives the cells of each segment; where there are two models, both run on it while it is there."""
        feeds = tee(waveforms, len(self._models))
        streams = [model.each(feed, SAMPLING_RATE) for model, feed in zip(self._models.values(), feeds, strict=True)]
        for results in zip(*streams, strict=True):
            yield self._cells(dict(zip(self._models, results, strict=True)))

    def _cells(self, results: Mapping[str, tuple[float, Output] | AudioError]) -> dict[str, Any]:
        answers: dict[str, tuple[float, Output]] = {}
        for kind, result in results.items():
            if isinstance(result, AudioError):
                return {"error": str(result)}
            answers[kind] = result
        prediction = dimensions = None
        if "categorical" in answers and self._models["categorical"].labels:
            prediction = self._models["categorical"].judge(answers["categorical"])
        if "dimensional" in answers:
            dimensions = self._models["dimensional"].measure(answers["dimensional"])
        duration, output = next(iter(answers.values()))
        cells: dict[str, Any] = {"embedding": output.embedding.astype(np.float16)} if self._embeddings else {}
        if prediction is None and dimensions is None:
            return cells
        judgement = fuse(prediction, dimensions, duration, self._fusion, label_set=self._label_set)
        cells |= {name: getattr(judgement, name) for name in ("dimensions_from", "compound", "octant")}
        if judgement.dimensions:
            cells |= judgement.dimensions.to_dict()
        if prediction:
            cells |= {"label": judgement.primary, "confidence": judgement.confidence}
            cells |= {f"score_{label}": score for label, score in prediction.scores.items()}
        return cells | {f"emotion_{name}": share for name, share in (judgement.distribution or {}).items()}


def _measured(segment: Stretch) -> dict[str, Any]:
    names = ("start", "end", "quality", "level", "peak", "clipping")
    return {name: getattr(segment, name) for name in names}


def _kind(error: str) -> str:
    """Returns an error without what differs from clip to clip: its numbers, and the remedy behind the colon."""
    head = re.match(r"(?:\([^)]*\)|[^:(])*", error)
    return re.sub(r"(?<!\w)\d[\d.]*(?:e[+-]?\d+)?", "#", head[0] if head else error)


def _array(values: list[Any], kind: "pa.DataType") -> "pa.Array":
    import pyarrow as pa

    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    missing = np.array([value is None for value in values])
    nothing = np.zeros(kind.list_size, np.float16)
    numbers = np.concatenate([nothing if value is None else value for value in values])
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers), type=kind, mask=pa.array(missing))
