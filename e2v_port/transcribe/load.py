"""Loads the recognizer that a name or folder stands for."""

from pathlib import Path

from e2v_port.checkpoints import catalog
from e2v_port.transcribe import sensevoice, whisper_mlx
from e2v_port.transcribe.sensevoice import SensevoiceReader
from e2v_port.transcribe.whisper import Transcriber
from e2v_port.transcribe.whisper_mlx import MlxTranscriber
from e2v_port.transcribe.words import Reader

__all__ = ["load"]


def load(model: str | Path, *, language: str | None = None, offline: bool = False) -> Reader:
    """Loads a recognizer of words.

    Args:
        model: Name of a Whisper model, such as `tiny.en`, `base` or `large-v3`, which runs on faster-whisper, or on
            mlx-whisper where that is installed on Apple silicon; `owner/name` of one on Hugging Face; or a folder in
            the form of CTranslate2 or MLX. Or `iic/SenseVoiceSmall`, its checkpoint or its converted folder, which runs
            on this project's runtimes.
        language: Code of the language, such as `en`; None to detect it.
        offline: Never open a connection; `E2V_OFFLINE=1` does the same.

    Raises:
        RuntimeUnavailable: What the model runs on is not installed.
        ModelNotFound: No model has this name, or it is not on this machine while offline.
        DownloadError: It could not be downloaded.
        CheckpointError: The folder holds no model that reads words, or one that is damaged.
        E2VError: The model does not know the language.
    """
    name, path = str(model), Path(model)
    folder = path.is_dir() and name not in whisper_mlx.NAMES  # ./base is a folder, base is not
    if catalog.lookup(name) or (folder and sensevoice.recognize(path)):
        return SensevoiceReader(model, language=language, offline=offline)
    if (folder and whisper_mlx.is_mlx(path)) or (not folder and _on_mlx(name)):
        return MlxTranscriber(model, language=language, offline=offline)
    return Transcriber(model, language=language, offline=offline)


def _on_mlx(name: str) -> bool:
    return name.startswith("mlx-community/") or (whisper_mlx.preferred() and name in whisper_mlx.NAMES)
