"""A loaded model: predictions, dimensions and embeddings of clips, one or many."""

import copy
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.runtime import Output, Runtime
from e2v_port.architectures.tensors import read_means
from e2v_port.audio import SAMPLING_RATE, Clip, load_audio
from e2v_port.emotions import taxonomy
from e2v_port.emotions.adaptation import Centers
from e2v_port.emotions.changes import DIARIZATION, Boundary, BoundarySettings, boundaries
from e2v_port.emotions.estimates import Dimensions, Prediction, softmax
from e2v_port.errors import AudioError, E2VError, NoLabels, quoted
from e2v_port.files import identity
from e2v_port.models.batches import Batched
from e2v_port.models.long_clips import prepared

__all__ = ["CLASSES", "SENSITIVE", "Model"]

SENSITIVE = ("age", "sex")
"""Further outputs about the person rather than the moment: given only where they are named."""

CLASSES = ("sex", "events", "language")
"""Further outputs whose numbers are logits of classes, so that a softmax makes probabilities of them."""

Vector = NDArray[np.float32]
_Found = TypeVar("_Found")


class Model(Batched):
    """A converted model on one runtime. May be used from several threads at once.

    Attributes:
        config: Content of config.json.
        runtime: `cuda`, `cpu`, `mps`, `mlx`, `numpy` or one of `devices.PROVIDERS`.
        dtype: Type of the arithmetic between waveform norm and pooling: `float32`, `float16` or `bfloat16`.
        labels: Names of its labels, in order; empty for a model without a head.
        limited_to: The labels that it was limited to, see `limited`; None for all of them.
        embed_dim: Length of an embedding.
        window_seconds: Approximate amount of audio that `each` sorts at a time, in seconds.
        readers: Number of clips that are read at the same time, ahead of the batches; 0 to read them one by one.
    """

    def __init__(
        self, config: ModelConfig, runtime: str, dtype: str, runner: Runtime, weights: Path | None = None
    ) -> None:
        super().__init__(config, runtime, dtype, runner)
        self.labels = tuple(label.name for label in config.labels if not label.unused)
        self.limited_to: tuple[str, ...] | None = None
        self.embed_dim = config.architecture.embed_dim
        self._weights = weights
        self._identity = identity(weights) if weights else None

    def __repr__(self) -> str:
        return f"Model({self.config.source.repository}, {self.dtype}, on {self.runtime})"

    @overload
    def predict(self, clips: Clip, sampling_rate: int | None = None, *, channel: int | str = "mix") -> Prediction: ...
    @overload
    def predict(
        self, clips: list[Clip] | tuple[Clip, ...], sampling_rate: int | None = None, *, channel: int | str = "mix"
    ) -> list[Prediction]: ...
    def predict(
        self,
        clips: Clip | list[Clip] | tuple[Clip, ...],
        sampling_rate: int | None = None,
        *,
        channel: int | str = "mix",
    ) -> Prediction | list[Prediction]:
        """Predicts the emotion of one clip, or of each clip of a list.

        Args:
            clips: Path, binary file object or array of samples; or a list of these, which runs in batches with the
                same results.
            sampling_rate: Sampling rate of arrays, in Hz; files have their own.
            channel: `mix`, `left`, `right` or a number from 1, as for `e2v_port.audio.load_audio`.

        Returns:
            A Prediction; for a list, one per clip in the same order.

        Raises:
            AudioError: A clip cannot be used, or is silent: all its samples are equal, but for the last of 16 bits. The
                message names it. Nothing is returned for the others: see `each`.
            NoLabels: The model has no labels.
        """
        self.need_labels()
        if not isinstance(clips, (list, tuple)):
            return self.predict([clips], sampling_rate, channel=channel)[0]
        results = self.each(clips, sampling_rate, channel=channel, refuse_silence=True)
        return [self.judge(_ok(result)) for result in results]

    @overload
    def dimensions(
        self, clips: Clip, sampling_rate: int | None = None, *, channel: int | str = "mix"
    ) -> Dimensions: ...
    @overload
    def dimensions(
        self, clips: list[Clip] | tuple[Clip, ...], sampling_rate: int | None = None, *, channel: int | str = "mix"
    ) -> list[Dimensions]: ...
    def dimensions(
        self,
        clips: Clip | list[Clip] | tuple[Clip, ...],
        sampling_rate: int | None = None,
        *,
        channel: int | str = "mix",
    ) -> Dimensions | list[Dimensions]:
        """Measures arousal, dominance and valence of one clip, or of each clip of a list.

        A silent clip is measured as well: published outputs for one serve to check a conversion. A log record says so.

        Args:
            clips: Clips, as for `predict`.
            sampling_rate: Sampling rate of arrays, as for `predict`.
            channel: Channel, as for `predict`.

        Returns:
            The model's raw outputs, nominally 0 to 1; for a list, one per clip in the same order.

        Raises:
            AudioError: A clip cannot be used; the message names it. Nothing is returned for the others: see `each`.
            NoLabels: The model has no dimensions.
        """
        self.need_dimensions()
        if not isinstance(clips, (list, tuple)):
            return self.dimensions([clips], sampling_rate, channel=channel)[0]
        return [self.measure(_ok(output)) for output in self.each(clips, sampling_rate, channel=channel)]

    @overload
    def embed(
        self,
        clips: Clip,
        sampling_rate: int | None = None,
        *,
        granularity: Literal["utterance", "frame"] = "utterance",
        channel: int | str = "mix",
    ) -> Vector: ...
    @overload
    def embed(
        self,
        clips: list[Clip] | tuple[Clip, ...],
        sampling_rate: int | None = None,
        *,
        granularity: Literal["utterance", "frame"] = "utterance",
        channel: int | str = "mix",
    ) -> list[Vector]: ...
    def embed(
        self,
        clips: Clip | list[Clip] | tuple[Clip, ...],
        sampling_rate: int | None = None,
        *,
        granularity: Literal["utterance", "frame"] = "utterance",
        channel: int | str = "mix",
    ) -> Vector | list[Vector]:
        """Embeds one clip, or each clip of a list.

        Args:
            clips: Clips, as for `predict`.
            sampling_rate: Sampling rate of arrays, as for `predict`.
            channel: Channel, as for `predict`.
            granularity: `utterance` for one vector per clip, [embed_dim]; `frame` for one every
                `config.architecture.hop` samples, [frames, frame_dim]: 50 a second for transformers. The two lengths
                are equal, unless the embedding also has deviations over time.

        Returns:
            A float32 array; for a list, one per clip in the same order.

        Raises:
            AudioError: A clip cannot be used; the message names it.
            ValueError: The granularity is unknown.
        """
        if granularity not in {"utterance", "frame"}:
            raise ValueError(f"granularity must be 'utterance' or 'frame', not {quoted(granularity)}")
        if not isinstance(clips, (list, tuple)):
            return self.embed([clips], sampling_rate, granularity=granularity, channel=channel)[0]
        outputs = map(_ok, self.each(clips, sampling_rate, frames=granularity == "frame", channel=channel))
        return [output.embedding if output.frames is None else output.frames for _, output in outputs]

    @overload
    def layers(self, clips: Clip, sampling_rate: int | None = None, *, channel: int | str = "mix") -> Vector: ...
    @overload
    def layers(
        self, clips: list[Clip] | tuple[Clip, ...], sampling_rate: int | None = None, *, channel: int | str = "mix"
    ) -> list[Vector]: ...
    def layers(
        self,
        clips: Clip | list[Clip] | tuple[Clip, ...],
        sampling_rate: int | None = None,
        *,
        channel: int | str = "mix",
    ) -> Vector | list[Vector]:
        """Returns the outputs of all blocks of a transformer for one clip, or for each clip of a list.

        Args:
            clips: Clips, as for `predict`. For more than memory holds, use `each_layers`.
            sampling_rate: Sampling rate of arrays, as for `predict`.
            channel: Channel, as for `predict`.

        Returns:
            A float32 array [blocks, frames, width], raw, before any final norm; for a list, one per clip in the same
            order.

        Raises:
            AudioError: A clip cannot be used; the message names it.
            E2VError: The model is no transformer.
        """
        if not isinstance(clips, (list, tuple)):
            return self.layers([clips], sampling_rate, channel=channel)[0]
        return [layers for _, layers in map(_ok, self.each_layers(clips, sampling_rate, channel=channel))]

    @overload
    def diarize(
        self,
        clips: Clip,
        sampling_rate: int | None = None,
        *,
        settings: BoundarySettings = DIARIZATION,
        channel: int | str = "mix",
    ) -> tuple[Boundary, ...]: ...
    @overload
    def diarize(
        self,
        clips: list[Clip] | tuple[Clip, ...],
        sampling_rate: int | None = None,
        *,
        settings: BoundarySettings = DIARIZATION,
        channel: int | str = "mix",
    ) -> list[tuple[Boundary, ...]]: ...
    def diarize(
        self,
        clips: Clip | list[Clip] | tuple[Clip, ...],
        sampling_rate: int | None = None,
        *,
        settings: BoundarySettings = DIARIZATION,
        channel: int | str = "mix",
    ) -> tuple[Boundary, ...] | list[tuple[Boundary, ...]]:
        """Returns which emotion appears when in one clip, or in each clip of a list.

        Silence is labeled like speech: `e2v_port.analyze` finds the segments of speech first.

        Args:
            clips: Clips, as for `predict`.
            sampling_rate: Sampling rate of arrays, as for `predict`.
            settings: How frames become spans. By default each frame has its most probable label and equal neighbors
                are merged (arXiv 2306.12991); `BoundarySettings()` smooths them first.
            channel: Channel, as for `predict`.

        Returns:
            Spans in seconds that cover the clip without gap or overlap, each with its label and the mean probability
            of that label; for a list, one such tuple per clip in the same order.

        Raises:
            AudioError: A clip cannot be used, or is silent, as for `predict`.
            NoLabels: The model has no labels, or they belong to whole clips alone.
        """
        self.need_labels()
        self.need_judged_frames()
        if not isinstance(clips, (list, tuple)):
            return self.diarize([clips], sampling_rate, settings=settings, channel=channel)[0]
        results = self.each(clips, sampling_rate, frames=True, channel=channel, refuse_silence=True)
        return [self.spans(_ok(result), settings) for result in results]

    def spans(self, result: tuple[float, Output], settings: BoundarySettings = DIARIZATION) -> tuple[Boundary, ...]:
        """Turns a clip's duration and output, as `each` yields them with frames, into spans: see `diarize`."""
        duration, output = result
        hop = self.config.architecture.hop / SAMPLING_RATE
        return tuple(boundaries(self.frame_scores(output), self.labels, (0.0, duration), hop, settings))

    def frame_scores(self, output: Output) -> NDArray[np.float64]:
        """Returns the probabilities of the labels for each frame of an output with frames: [frames, labels].

        Raises:
            NoLabels: The labels of the model belong to whole clips alone.
        """
        self.need_judged_frames()
        assert output.frame_logits is not None
        used = [not label.unused for label in self.config.labels]
        return softmax(output.frame_logits[:, used], self.config.temperature)

    def judge(self, result: tuple[float, Output]) -> Prediction:
        """Turns a clip's duration and output, as `each` yields them, into a Prediction.

        Raises:
            NoLabels: The model has no labels.
        """
        duration, output = result
        self.need_labels()
        assert output.logits is not None
        pairs = zip(self.config.labels, output.logits.tolist(), strict=True)
        logits = {label.name: logit for label, logit in pairs if not label.unused}
        probabilities = softmax(np.array([*logits.values()]), self.config.temperature)
        scores = dict(zip(logits, probabilities.tolist(), strict=True))
        label = max(scores, key=scores.__getitem__)
        return Prediction(label, scores[label], scores, logits, duration)

    def measure(self, result: tuple[float, Output]) -> Dimensions:
        """Turns a clip's duration and output, as `each` yields them, into Dimensions.

        Raises:
            NoLabels: The model has no dimensions.
        """
        _, output = result
        self.need_dimensions()
        if not self.config.dimensional:
            return Dimensions(**self.outputs(result, ["dimensions"])["dimensions"])
        assert output.logits is not None
        names = (label.name for label in self.config.labels)
        return Dimensions(**dict(zip(names, output.logits.tolist(), strict=True)))

    def outputs(self, result: tuple[float, Output], names: Iterable[str] | None = None) -> dict[str, dict[str, float]]:
        """Returns further outputs of a clip, from its duration and output as `each` yields them.

        Args:
            result: Duration and output of the clip.
            names: Names of the outputs. By default all but age and sex (`SENSITIVE`), which are only given where they
                are named: they are estimates about a person, and wrong for some groups more often than for others.

        Returns:
            The numbers of each output by their names, raw, such as `{"age": {"years": 31.4}}`: logits for those of
            `CLASSES`. An empty dict for a model without further outputs.

        Raises:
            NoLabels: The model has no further output of a name.
        """
        _, output = result
        others = self.config.others
        return {
            name: dict(zip(others[name], self._runner.score(output.embedding, name).tolist(), strict=True))
            for name in self.need_outputs(names)
        }

    def limited(self, labels: str | Iterable[str]) -> "Model":
        """Returns the same model limited to some of its labels, which share the probability among themselves.

        The probabilities are the softmax over the logits of these labels, so they answer "which of these is it", and
        say nothing about whether it is one of them. Logits, embeddings and temperature stay those of the model.

        Args:
            labels: Labels as the model spells them, in any case; or other words for them, as in the taxonomy: `anger`
                stands for every label that means `angry`, unless the model has a label of that name. As one text, they
                are separated by commas. To leave `other` and `unknown` out, name the rest.

        Raises:
            NoLabels: The model has no labels, or none of such a name, or fewer than two are left.
        """
        self.need_labels()
        names = labels.split(",") if isinstance(labels, str) else labels
        chosen = {found for name in names for found in self._named(name)}
        if len(chosen) < 2:
            raise NoLabels(f"{len(chosen)} label is no choice: name two or more of {', '.join(self.labels)}")
        limited = copy.copy(self)
        limited.__dict__.pop("centers", None)  # of all labels
        limited.labels = limited.limited_to = tuple(name for name in self.labels if name in chosen)
        kept = (replace(label, unused=label.name not in chosen) for label in self.config.labels)
        limited.config = replace(self.config, labels=tuple(kept))
        return limited

    def _named(self, name: str) -> list[str]:
        """Returns the labels that a user's name for them stands for."""
        name = name.strip()
        found = [label for label in self.labels if label.casefold() == name.casefold()]
        own, theirs = taxonomy.label_set_of(self.labels), taxonomy.label_set_of((name,))
        if not found and own and theirs:
            wanted = taxonomy.meaning(name, theirs).name
            found = [label for label in self.labels if taxonomy.meaning(label, own).name == wanted]
        if not found:
            raise NoLabels(
                f"{self.config.source.repository} has no label {quoted(name)}: its labels are {', '.join(self.labels)}"
            )
        return found

    @cached_property
    def centers(self) -> Centers:
        """Where the labels lie in the logits, from which the offsets of voices are learned: see `emotions.adaptation`.

        Raises:
            NoLabels: The model has no labels.
            E2VError: It stores no mean embeddings of its labels, or was replaced on the disk since it was loaded.
        """
        self.need_labels()
        name = self.config.source.repository
        if self._weights is None or not self.config.architecture.means:
            raise E2VError(
                f"{name} cannot adapt to a voice, as it stores no mean embeddings of its labels: add them with "
                f"`e2v means --model {name} --corpus NAME=PATH --out FOLDER`, and use FOLDER as the model"
            )
        means = read_means(self._weights)
        with self._weights.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if identity(self._weights) != self._identity:
            raise E2VError(f"{self._weights} was replaced since it was loaded: load the model again")
        used = np.array([not label.unused for label in self.config.labels])
        logits = self._runner.score(means).astype(np.float64)
        logits[~means.any(1)] = np.nan
        return Centers(self.labels, logits[used][:, used], self.config.temperature, sha256)

    def compile(self) -> bool:
        """Makes batches faster from now on; takes about 20 s (an estimate), so it pays for longer work only.

        On CUDA, torch's compiler fuses the operations between matrix products, and attention computes its bias where it
        is needed. If the compiler or Triton is missing, that is logged and everything runs as before. On other runtimes
        there is nothing to gain, and this does nothing.

        Returns:
            Whether anything is compiled.
        """
        return self._runner.compile()

    def stages(self, clip: Clip, sampling_rate: int | None = None) -> dict[str, Vector]:
        """Runs one clip and returns the value of every stage of the forward pass by name, in order."""
        waveform = prepared(load_audio(clip, sampling_rate), self.config.architecture)
        return {"waveform": waveform, **self._runner.stages(waveform)}

    def need_labels(self) -> None:
        """Raises NoLabels for a model without labels. Call it before long work."""
        if self.config.dimensional:
            raise NoLabels(
                f"{self.config.source.repository} predicts arousal, dominance and valence, not labels: use "
                f"dimensions, or a model with labels such as iic/emotion2vec_plus_base"
            )
        if not self.labels and self.config.architecture.speakers:
            raise NoLabels(
                f"{self.config.source.repository} is a speaker encoder: it says who speaks, and knows no emotions: "
                f"use embed, or a model with labels such as bundled"
            )
        if not self.labels:
            raise NoLabels(
                f"{self.config.source.repository} has no classification head: it returns embeddings, not labels: "
                f"use embed, or a model with labels such as iic/emotion2vec_plus_base"
            )

    def need_outputs(self, names: Iterable[str] | None = None) -> list[str]:
        """Returns the names of the further outputs that `outputs` gives for `names`. Call it before long work.

        Raises:
            NoLabels: The model has no further output of a name.
        """
        known = self.config.others
        if names is None:
            return [name for name in known if name not in SENSITIVE]
        chosen = list(dict.fromkeys(names))
        if unknown := [name for name in chosen if name not in known]:
            has = f"its further outputs are {', '.join(known)}" if known else "it has no further outputs"
            raise NoLabels(f"{self.config.source.repository} has no output {quoted(unknown[0])}: {has}")
        return chosen

    def need_judged_frames(self) -> None:
        """Raises NoLabels for a model whose labels belong to whole clips alone. Call it before long work."""
        if not self.config.architecture.judges_frames:
            raise NoLabels(
                f"{self.config.source.repository} judges whole clips, not their frames: leave out frames (--frames)"
            )

    def need_dimensions(self) -> None:
        """Raises NoLabels for a model without dimensions. Call it before long work."""
        if not self.config.measures:
            raise NoLabels(
                f"{self.config.source.repository} does not predict arousal, dominance and valence: use "
                f"audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim"
            )


def _ok(result: tuple[float, _Found] | AudioError) -> tuple[float, _Found]:
    if isinstance(result, AudioError):
        raise result
    return result
