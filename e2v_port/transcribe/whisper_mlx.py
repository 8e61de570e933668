"""Whisper through mlx-whisper, on Apple silicon, and wherever else MLX runs."""

import importlib.util
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.checkpoints.clients import CLIENTS, NotDelivered, asking
from e2v_port.checkpoints.hubs import offline_by_environment
from e2v_port.errors import CheckpointError, DownloadError, E2VError, ModelNotFound, RuntimeUnavailable, cut, quoted
from e2v_port.transcribe.timing import in_sound
from e2v_port.transcribe.words import LOOPED, Transcript, Word

__all__ = ["NAMES", "MlxTranscriber", "is_mlx", "preferred"]

SIZES = ("tiny.en", "tiny", "base.en", "base", "small.en", "small", "medium.en", "medium", "large-v2", "large-v3")
TURBO = "mlx-community/whisper-large-v3-turbo"
NAMES = {**{size: f"mlx-community/whisper-{size}-mlx" for size in SIZES}, "large-v3-turbo": TURBO, "turbo": TURBO}
"""Repositories on Hugging Face by the name of the Whisper model, without those that mlx-community does not have."""

WEIGHTS = ("weights.safetensors", "weights.npz")

_ONE_AT_A_TIME = Lock()  # mlx-whisper keeps one model for the whole process, by the name of its folder


class MlxTranscriber:
    """A loaded recognizer on MLX; it reads by the same rules as `e2v_port.transcribe.whisper.Transcriber`.

    Attributes:
        name: Name or folder of the model.

    Args:
        model: Name of a Whisper model, one of `NAMES`; `owner/name` on Hugging Face; or a folder in the form of MLX.
        language: Code of the language, such as `en`; None to detect it in the first passage.
        offline: Never open a connection; `E2V_OFFLINE=1` does the same.

    Raises:
        RuntimeUnavailable: mlx-whisper is not installed.
        ModelNotFound: No model has this name, or it is not on this machine while offline.
        DownloadError: It could not be downloaded.
        CheckpointError: The folder holds no model, or one that is damaged.
        E2VError: The model does not know the language.
    """

    def __init__(self, model: str | Path, *, language: str | None = None, offline: bool = False) -> None:
        try:
            import mlx.core as mx
            from mlx_whisper.tokenizer import LANGUAGES
        except ImportError as error:
            raise RuntimeUnavailable(
                f'words on MLX need mlx-whisper, which cannot be imported ({error}): pip install "e2v-port[words]"'
            ) from error
        self.name = str(model)
        self._folder = _folder(model, offline=offline or offline_by_environment())
        self._half = mx.default_device() == mx.gpu  # a CPU computes 16 bits more slowly than 32
        try:
            whisper = self._whisper()
        except Exception as error:  # MLX's errors, those of JSON and of the file system have no common class
            raise CheckpointError(
                f"{self._folder} cannot be loaded as a Whisper model of MLX ({cut(str(error), 200)})"
            ) from error
        self._languages = [*LANGUAGES][: whisper.num_languages] if whisper.is_multilingual else ["en"]
        self._language = self._known(language)

    def _known(self, language: str | None) -> str | None:
        known = self._languages
        if language is not None and language not in known:
            raise E2VError(f"language {quoted(language)} is unknown to {self.name}: use {', '.join(sorted(known))}")
        return language

    def _whisper(self) -> Any:
        import mlx.core as mx
        from mlx_whisper.transcribe import ModelHolder

        return ModelHolder.get_model(str(self._folder), mx.float16 if self._half else mx.float32)

    def read(
        self, waveform: Waveform, passages: Sequence[tuple[float, float]], *, language: str | None = None
    ) -> tuple[tuple[Word, ...], Transcript]:
        """Reads the words in passages of a clip; see `e2v_port.transcribe.words.Reader`."""
        language = self._known(language) or self._language
        if not passages:
            return (), Transcript(self.name, language, None)
        words: list[Word] = []
        with _ONE_AT_A_TIME:
            parts = [waveform[round(start * SAMPLING_RATE) : round(end * SAMPLING_RATE)] for start, end in passages]
            language, detected = (language, None) if language else self._detected(parts[0])
            for part, (start, end) in zip(parts, passages, strict=True):
                words += self._passage(part, start, end, language)
        return in_sound(words, waveform), Transcript(self.name, language, detected)

    def _detected(self, waveform: Waveform) -> tuple[str, float]:
        """Returns the language of a passage and its probability."""
        import mlx.core as mx
        from mlx_whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram, pad_or_trim

        whisper = self._whisper()
        if not whisper.is_multilingual:
            return "en", 1.0
        columns = log_mel_spectrogram(waveform, n_mels=whisper.dims.n_mels, padding=N_SAMPLES)
        window = pad_or_trim(columns, N_FRAMES, axis=-2).astype(mx.float16 if self._half else mx.float32)
        _, shares = whisper.detect_language(window)
        language = max(shares, key=shares.__getitem__)
        return language, float(shares[language])

    def _passage(self, waveform: Waveform, start: float, end: float, language: str | None) -> list[Word]:
        """Reads one passage; given several, mlx-whisper 0.4.3 also reads what lies between (mlx-examples #1452)."""
        import mlx_whisper

        found = mlx_whisper.transcribe(
            waveform,
            path_or_hf_repo=str(self._folder),
            language=language,
            temperature=0.0,
            condition_on_previous_text=False,
            word_timestamps=True,
            fp16=self._half,
        )
        return [
            Word(
                min(start + float(word["start"]), end),
                min(start + float(word["end"]), end),
                word["word"],
                float(word["probability"]),
            )
            for segment in found["segments"]
            if segment["compression_ratio"] <= LOOPED
            for word in segment["words"]
        ]


def preferred() -> bool:
    """Returns whether names of models stand for those of MLX: on Apple silicon, where mlx-whisper is installed."""
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    return apple and importlib.util.find_spec("mlx_whisper") is not None


def is_mlx(folder: Path) -> bool:
    """Returns whether a folder holds a Whisper model in the form of MLX."""
    if not any((folder / name).is_file() for name in WEIGHTS):
        return False
    try:
        return "n_audio_state" in json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _folder(model: str | Path, *, offline: bool) -> Path:
    """Returns the folder of a model in the form of MLX; downloads it if necessary."""
    path, name = Path(model), str(model)
    if path.is_dir() and name not in NAMES:
        if not is_mlx(path):
            raise CheckpointError(f"{path}: no {' or '.join(WEIGHTS)} with a config.json: not a Whisper model of MLX")
        return path
    if name not in NAMES and name.count("/") != 1:
        raise ModelNotFound(
            f"{cut(name, 80)}: no Whisper model or folder; known: {', '.join(NAMES)}, or owner/name of one"
        )
    from huggingface_hub import snapshot_download

    repository = NAMES.get(name, name)
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except Exception as error:
        if offline:
            raise ModelNotFound(
                f"{name} is not on this machine and this run is offline: pass the folder of a Whisper model"
            ) from error
    try:
        with asking(CLIENTS["huggingface"](repository, None)):
            return Path(snapshot_download(repository))
    except NotDelivered as error:
        raise DownloadError(
            f"{name} could not be downloaded ({error}): download it by hand and pass its folder"
        ) from error
