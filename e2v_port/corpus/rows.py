"""Makes the rows of a corpus: clips through the models to a Parquet file."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from e2v_port.analysis.judge import Judge, JudgedWaveform
from e2v_port.analysis.voices import Voices
from e2v_port.audio import Waveform
from e2v_port.corpus.columns import schema
from e2v_port.corpus.decoding import Decoded, DecodedSegment, Decoders
from e2v_port.corpus.shards import ABOUT, Shard, Tally
from e2v_port.corpus.sources import Clip
from e2v_port.emotions.fusion import FusionSettings
from e2v_port.emotions.judgement import columns
from e2v_port.errors import AudioError
from e2v_port.models.model import Model
from e2v_port.seconds import seconds
from e2v_port.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa


__all__ = ["ShardWriter"]


class ShardWriter:
    """Makes the files of shards with loaded models. Safe to use from several threads.

    Args:
        models: Models by kind, `categorical` and `dimensional`; either or both.
        digests: SHA-256 of the weights of each model, by kind.
        fusion: Settings of the fusion of the two models.
        embeddings: Whether rows have an embedding.
        decoders: Processes that decode the clips.
        adapt: Whether to adapt to each named speaker of a shard, from all rows of that speaker.

    Raises:
        E2VError: The models cannot adapt: see `Voices`.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        digests: Mapping[str, str],
        fusion: FusionSettings,
        embeddings: bool,
        decoders: Decoders,
        *,
        adapt: bool = False,
    ) -> None:
        self._embeddings, self._decoders, self._adapt = embeddings, decoders, adapt
        categorical, dimensional = models.get("categorical"), models.get("dimensional")
        self._judge = Judge(categorical, dimensional, fusion)
        if adapt:
            Voices(self._judge, {}, learn=True)  # an error comes before any clip is read
        self._schema = schema(
            categorical.config if categorical else None,
            dimensional.config if dimensional else None,
            embeddings=embeddings,
            adapt=adapt,
        )
        self._constant: dict[str, Any] = {"version": __version__}
        for kind, column in (("categorical", "model"), ("dimensional", "dimensional")):
            if kind in models:
                self._constant[column] = models[kind].config.source.repository
                self._constant[f"{column}_sha256"] = digests[kind][:16]

    def parquet(self, shard: Shard, advance: Callable[[int, float], None]) -> tuple[bytes, Tally]:
        """Returns the file of a shard, and its tally.

        Equal clips, models and settings give identical files, whatever runs at the same time.

        Args:
            shard: The clips.
            advance: Receives 1 and the seconds of audio of each clip that is read.
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
        decoded: list[Decoded] = []
        # The answers are small; of the audio only a few minutes are held at a time.
        results = [*self._judge.each(self._waveforms(shard.clips, decoded, advance))]
        answers = iter(self._answers(shard.clips, decoded, results))
        for number, (clip, item) in enumerate(zip(shard.clips, decoded, strict=True), shard.first):
            about = {"clip": number, "file": clip.file, "speaker": clip.speaker, "reference": clip.reference}
            about |= self._constant | {"duration": item.duration, "rate": item.rate}
            rows = [self._measured(segment) | (next(answers) if segment.judged else {}) for segment in item.segments]
            if not rows:
                rows = [{"start": clip.start, "end": clip.end, "error": item.error}]
            for i, row in enumerate(rows):
                yield about | row | {"segment": i, "speaker": clip.speaker or row.get("speaker")}
                tally.labels.update([row["primary"]] if row.get("primary") else [])
            tally.clips += 1
            tally.rows += len(rows)
            tally.seconds += item.duration or 0.0
            tally.errors.update([_kind(row["error"]) for row in rows if "error" in row][:1])

    def _waveforms(
        self, clips: Sequence[Clip], decoded: list[Decoded], advance: Callable[[int, float], None]
    ) -> Iterator[Waveform]:
        """Yields the waveforms to be judged, and appends the decoded clips to `decoded` without them."""
        for item in self._decoders.each(clips):
            decoded.append(item)
            for segment in item.segments:
                if segment.waveform is not None:
                    waveforms = [segment.waveform]
                    segment.waveform = None
                    yield waveforms.pop()  # not held here while the models have it
            advance(1, item.duration or 0.0)

    def _answers(
        self, clips: Sequence[Clip], decoded: Sequence[Decoded], results: Sequence[JudgedWaveform | AudioError]
    ) -> list[dict[str, Any]]:
        """Returns the cells of each judged segment; with adaptation, once all of a speaker's are known."""
        if not self._adapt:
            return [self._answer(result) for result in results]
        voices = Voices(self._judge, {}, learn=True)
        pairs = zip(clips, decoded, strict=True)
        speakers = [clip.speaker or part.speaker for clip, item in pairs for part in item.segments if part.judged]
        heard = [*zip(speakers, results, strict=True)]
        for speaker, result in heard:
            if speaker is not None and not isinstance(result, AudioError):
                voices.hear(speaker, result.prediction)
        answers = []
        for speaker, result in heard:
            if isinstance(result, AudioError):
                answers.append(self._answer(result))
            elif speaker is None:
                answers.append(self._answer(result) | {"adaptation": "not adapted: no speaker"})
            else:
                offset = voices.offset(speaker)
                answers.append(self._answer(voices.adapted(speaker, result)) | {"adaptation": str(offset)})
        return answers

    def _answer(self, result: JudgedWaveform | AudioError) -> dict[str, Any]:
        return {"error": str(result)} if isinstance(result, AudioError) else self._cells(result)

    def _measured(self, segment: DecodedSegment) -> dict[str, Any]:
        names = ("channel", "speaker", "notes", "quality", "level", "peak", "clipping", "snr")
        cells = {name: getattr(segment, name) for name in names}
        if segment.quality == "normal" and segment.snr is not None and segment.snr < self._judge.fusion.noisy:
            cells["quality"] = "low_confidence"
        return {"start": seconds(segment.start), "end": seconds(segment.end), **cells}

    def _cells(self, result: JudgedWaveform) -> dict[str, Any]:
        cells: dict[str, Any] = {"embedding": result.embedding.astype(np.float16)} if self._embeddings else {}
        return cells if result.judgement is None else cells | columns(result.judgement.to_dict())


def _kind(error: str) -> str:
    """Returns an error without the parts that differ from clip to clip: its numbers, and the remedy after the colon."""
    head = re.match(r"(?:\([^)]*\)|[^:(])*", error)
    return re.sub(r"(?<!\w)\d[\d.]*(?:e[+-]?\d+)?", "#", head[0] if head else error)


def _array(values: list[Any], kind: "pa.DataType") -> "pa.Array":
    import pyarrow as pa

    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    missing = np.array([value is None for value in values])
    empty = np.zeros(kind.list_size, np.float16)
    numbers = np.concatenate([empty if value is None else value for value in values])
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers), type=kind, mask=pa.array(missing))
