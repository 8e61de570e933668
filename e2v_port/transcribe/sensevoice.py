"""SenseVoice on this project's runtimes: its text by CTC, and the times of its words from the frames."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from e2v_port import seam
from e2v_port.architectures import tensors
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.sensevoice import LANGUAGES, PIECES, TEXT, SensevoiceConfig
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.emotions.estimates import softmax
from e2v_port.errors import AudioError, CheckpointError, E2VError, RuntimeUnavailable, cut, quoted
from e2v_port.models import devices
from e2v_port.models.load import weights_of
from e2v_port.models.model import Model
from e2v_port.transcribe.words import Transcript, Word

__all__ = ["SensevoiceReader", "Token", "aligned", "joined", "recognize"]

BLANK = 0  # token of frames in which nothing new begins
WRITTEN = 14  # row of the queries for text with punctuation and digits, FunASR's `use_itn=True`
EARLY = 0.03  # seconds that FunASR puts a token before its frames (`SenseVoiceSmall.inference`)
AT_ONCE = 500  # frames scored at a time: 50 MB of scores of the published vocabulary
CHECKPOINT = ("configuration.json", "config.yaml")  # either is in the folder of an unconverted SenseVoice

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Token:
    """A token of the vocabulary and where it was read.

    Attributes:
        number: Its number in the vocabulary.
        start: Start in seconds.
        end: End in seconds.
        probability: Largest probability of it in one of its frames, 0 to 1.
    """

    number: int
    start: float
    end: float
    probability: float


class SensevoiceReader:
    """A loaded SenseVoice that reads words. Each passage is read by itself, and greedily: there is no language model.

    Attributes:
        name: Name or folder of the model.

    Args:
        model: Name of the model, its converted folder or its checkpoint, as for `e2v_port.load`.
        language: `zh`, `yue`, `en`, `ja` or `ko`; None to detect it in each passage.
        runtime: Runtime, as for `e2v_port.load`.
        offline: Never open a connection; `E2V_OFFLINE=1` does the same.

    Raises:
        RuntimeUnavailable: sentencepiece is not installed, or the runtime cannot run here.
        CheckpointError: The model is of another family, was converted without its text, or is damaged.
        E2VError: The model does not know the language, or see `e2v_port.load`.
    """

    def __init__(
        self, model: str | Path, *, language: str | None = None, runtime: str = "auto", offline: bool = False
    ) -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise RuntimeUnavailable(
                f"words of SenseVoice need sentencepiece, which cannot be imported ({error}): "
                'pip install "e2v-port[words]"'
            ) from error
        if language is not None and language not in LANGUAGES:
            raise E2VError(f"language {quoted(language)} is unknown to {model}: use {', '.join(sorted(LANGUAGES))}")
        self.name = str(model)
        self._language = language
        self._model, folder = _loaded(model, LANGUAGES.get(language or "", 0), runtime, offline)
        if missing := [name for name in (TEXT, PIECES) if not (folder / name).is_file()]:
            raise CheckpointError(
                f"{folder} was converted without its text (no {', no '.join(missing)}): convert the checkpoint again, "
                "with the *.bpe.model of its repository next to it"
            )
        try:
            stored = load_file(folder / TEXT)
            self._weight, self._bias = stored["weight"], stored["bias"]
            self._pieces: Any = SentencePieceProcessor(model_file=str(folder / PIECES))
        except (SafetensorError, OSError, KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder}: its text is damaged ({cut(str(error), 200)}): convert the checkpoint again"
            ) from error
        rows, pieces = len(self._weight), self._pieces.get_piece_size()
        if pieces > rows or self._weight.shape[1] != self._model.config.architecture.frame_dim:
            raise CheckpointError(
                f"{folder}: {pieces} pieces of words do not fit a layer of {list(self._weight.shape)}: "
                "convert the checkpoint again"
            )

    def read(
        self, waveform: Waveform, passages: Sequence[tuple[float, float]], *, language: str | None = None
    ) -> tuple[tuple[Word, ...], Transcript]:
        """Reads the words in passages of a clip; see `e2v_port.transcribe.words.Reader`.

        Raises:
            E2VError: Another language is asked for than the one it was loaded for, which is part of its network.
        """
        if language not in {None, self._language}:
            loaded = f"for {self._language}" if self._language else "to detect the language"
            raise E2VError(f"language {quoted(language)}: {self.name} was loaded {loaded}: leave the language out")
        parts = [waveform[round(start * SAMPLING_RATE) : round(end * SAMPLING_RATE)] for start, end in passages]
        words: list[Word] = []
        heard: dict[str, float] = {}  # seconds by language, weighted by probability
        results = self._model.each(parts, SAMPLING_RATE, frames=True)
        for (start, end), result in zip(passages, results, strict=True):
            if isinstance(result, AudioError):  # shorter than one window of the spectrogram
                continue
            duration, output = result
            assert output.frames is not None
            words += joined(self.tokens(output.frames), self._pieces, start, end)
            for name, share in self._shares(result).items():
                heard[name] = heard.get(name, 0.0) + duration * share
        if self._language or not heard:
            return tuple(words), Transcript(self.name, self._language, None)
        best = max(heard, key=heard.__getitem__)
        return tuple(words), Transcript(self.name, best, heard[best] / sum(heard.values()))

    def tokens(self, frames: Scores) -> list[Token]:
        """Reads the tokens in the frames of a passage, [frames, width]."""
        ids, probabilities = [], []
        for first in range(0, len(frames), AT_ONCE):
            scores = frames[first : first + AT_ONCE] @ self._weight.T + self._bias
            best = scores.argmax(1)
            top = scores[np.arange(len(best)), best]
            probabilities += (1 / np.exp(scores - top[:, None]).sum(1)).tolist()
            ids += best.tolist()
        return aligned(ids, probabilities, self._model.config.architecture.hop / SAMPLING_RATE)

    def _shares(self, result: Any) -> dict[str, float]:
        logits = self._model.outputs(result, ["language"])["language"]
        named = {name: logit for name, logit in logits.items() if name in LANGUAGES}
        return dict(zip(named, softmax(np.array([*named.values()]), 1.0).tolist(), strict=True))


def recognize(folder: Path) -> bool:
    """Returns whether a folder may hold a SenseVoice, converted or as its hub has it."""
    if any((folder / name).is_file() for name in CHECKPOINT):
        return True
    try:
        return "family" in json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def aligned(ids: Sequence[int], probabilities: Sequence[float], hop: float) -> list[Token]:
    """Returns the tokens that the most probable one of each frame stands for: equal neighbors are one, blanks are none.

    This is also their most probable alignment, so that FunASR's forced alignment puts them at the same times.

    Args:
        ids: Most probable token of each frame.
        probabilities: Its probability in each frame.
        hop: Seconds from one frame to the next.
    """
    found, at = [], 0
    last = len(ids) * hop - EARLY
    for number, run in groupby(ids):
        first, at = at, at + sum(1 for _ in run)
        if number != BLANK:
            times = max(first * hop - EARLY, 0.0), min(at * hop - EARLY, last)
            found.append(Token(number, *times, max(probabilities[first:at])))
    return found


def joined(tokens: Iterable[Token], pieces: Any, start: float, end: float) -> Iterator[Word]:
    """Joins tokens to words: at the spaces in the pieces; pieces of Chinese and Japanese are words of their own.

    Args:
        tokens: Tokens of a passage in order. Tags among them are left out.
        pieces: The `SentencePieceProcessor` of the vocabulary.
        start: Start of the passage in the clip, in seconds.
        end: Its end, which no word goes beyond.
    """
    word: list[Token] = []
    space = False  # before the word

    def closed() -> Iterator[Word]:
        text = pieces.decode([token.number for token in word])
        if text.strip():
            times = min(start + word[0].start, end), min(start + word[-1].end, end)
            mean = sum(token.probability for token in word) / len(word)
            yield Word(*times, (" " if space else "") + text.strip(), mean)

    for token in tokens:
        piece = pieces.id_to_piece(token.number) if token.number < pieces.get_piece_size() else "<||>"
        if piece.startswith("<|") and piece.endswith("|>"):
            continue
        bare = piece.lstrip("▁")
        alone = _stands_alone(bare) or (word and _stands_alone(pieces.id_to_piece(word[-1].number)))
        if word and (piece != bare or (alone and not _is_mark(bare))):
            yield from closed()
            word, space = [], False
        space = space or piece != bare
        if bare:  # a space alone belongs to the word after it
            word.append(token)
    if word:
        yield from closed()


def _stands_alone(piece: str) -> bool:
    """Returns whether a piece begins with a character of Chinese or Japanese, which are written without spaces."""
    code = ord(piece[0]) if piece else 0
    return 0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0x20000 <= code <= 0x3FFFF


def _is_mark(piece: str) -> bool:
    """Returns whether a piece is punctuation, which belongs to the word before it."""
    return bool(piece) and not any(char.isalnum() for char in piece)


def _loaded(model: str | Path, language: int, runtime: str, offline: bool) -> tuple[Model, Path]:
    """Loads a SenseVoice with the query of a language, and returns its converted folder as well."""
    chosen = devices.choose(runtime, None)
    weights = weights_of(model, chosen, offline=offline)
    config = ModelConfig.read(weights.parent)
    architecture = config.architecture
    if not isinstance(architecture, SensevoiceConfig):
        raise CheckpointError(
            f"{model} is a model of the family {config.family}, which reads no words: use SenseVoice or Whisper"
        )
    tensors.check(weights, architecture, config.dtype)
    _, emotion, event, _ = architecture.queries
    config = replace(config, architecture=replace(architecture, queries=(language, emotion, event, WRITTEN)))
    runner = seam.runtime(devices.RUNTIMES[chosen])(weights, config, chosen, None)
    return Model(config, chosen, config.arithmetic, runner, weights), weights.parent
