"""The contract of the two engines: what a run asks of them, and what they return."""

import hashlib
import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from e2v_port.corpus.cutting import Rules
from e2v_port.corpus.shards import Shard, Tally
from e2v_port.emotions.fusion import FusionSettings
from e2v_port.errors import CorpusError

__all__ = ["Engine", "Job", "Progress", "Results", "Summary", "TooManyErrors", "digest"]

Results: TypeAlias = Generator[tuple[int, bytes, Tally], None, None]  # number, file and tally of each shard

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Everything an engine needs besides the clips.

    Attributes:
        models: Name or folder of each model, by kind: `categorical` and `dimensional`.
        digests: SHA-256 of the weights of each model, by kind.
        runtime: `cuda`, `cpu`, `mps`, `mlx` or `numpy`.
        dtype: Type as for `load`.
        labels: Labels that the answers are limited to, separated by commas; None for all of the model's.
        offline: Whether to avoid all network access.
        rules: How clips are cut.
        fusion: Settings of the fusion of the two models.
        embeddings: Whether rows have an embedding.
        adapt: Whether to adapt to each speaker, from the clips of that speaker in the same shard.
        decoders: Number of decoding processes for each set of models; None for one per core.
        workers: Number of sets of models that work in parallel; None for as many as the machine can use.
    """

    models: dict[str, str]
    digests: dict[str, str]
    runtime: str
    dtype: str | None
    labels: str | None
    offline: bool
    rules: Rules
    fusion: FusionSettings
    embeddings: bool
    adapt: bool
    decoders: int | None
    workers: int | None


@dataclass
class Progress:
    """Callbacks that receive the progress of a run.

    Attributes:
        start: Receives, once, the number of clips, how many of them are done, and the seconds of audio in these.
        advance: Receives 1 and the seconds of audio of each clip that is read. Called from several threads.
        note: Receives a line about clips left out, or about a problem. By default it is logged.
    """

    start: Callable[[int, int, float], None] = lambda clips, done, seconds: None
    advance: Callable[[int, float], None] = lambda clips, seconds: None
    note: Callable[[str], None] = _logger.info


class Engine(Protocol):
    """The interface of an engine: `machine` for this machine, `cluster` for Ray."""

    def opened(self, runtime: str, dtype: str | None, address: str | None) -> AbstractContextManager[str]:
        """Connects to the engine and provides the runtime that `runtime`, possibly `auto`, stands for."""

    def run(self, job: Job, count: int, shards: Iterable[Shard], progress: Progress) -> Results:
        """Yields the number, the file and the tally of each of `count` shards, in the order they are finished."""


@dataclass(frozen=True)
class Summary:
    """The result of a run.

    Attributes:
        clips: Number of clips in the folder.
        rows: Number of rows in the folder.
        hours: Hours of audio in all readable clips.
        errors: Number of clips by the reason why they could not be judged, most frequent first.
        failed: Number of clips that could not be judged, not counting those without speech.
        labels: Number of rows by label, most frequent first.
        done: Number of clips processed by this run.
        seconds: Duration of this run, including loading the models.
        speed: Seconds of audio processed per second, by this run.
    """

    clips: int
    rows: int
    hours: float
    errors: dict[str, int]
    failed: int
    labels: dict[str, int]
    done: int
    seconds: float
    speed: float


class TooManyErrors(CorpusError):
    """More clips than allowed cannot be judged.

    Attributes:
        summary: The result up to that point.
    """

    def __init__(self, message: str, summary: Summary) -> None:
        super().__init__(message)
        self.summary = summary


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
