"""Whisper through faster-whisper (CTranslate2), on a CPU or an NVIDIA GPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.checkpoints.clients import CLIENTS, NotDelivered, asking
from e2v_port.checkpoints.hubs import offline_by_environment
from e2v_port.errors import CheckpointError, DownloadError, E2VError, ModelNotFound, RuntimeUnavailable, cut, quoted
from e2v_port.transcribe.timing import in_sound
from e2v_port.transcribe.words import LOOPED, Transcript, Word

__all__ = ["Transcriber"]

FILES = ("model.bin", "config.json", "tokenizer.json")


class Transcriber:
    """A loaded recognizer.

    The same clip always gets the same words: where Whisper is in doubt, faster-whisper would draw others at random, and
    here it does not. Nor does a passage depend on the words before it, which keeps one mistake from spreading.

    Attributes:
        name: Name or folder of the model.

    Args:
        model: Name of a Whisper model, such as `tiny.en`, `base` or `large-v3`; `owner/name` on Hugging Face; or a
            folder in the form of CTranslate2.
        language: Code of the language, such as `en`; None to detect it in the first passage.
        offline: Never open a connection; `E2V_OFFLINE=1` does the same.

    Raises:
        RuntimeUnavailable: faster-whisper is not installed.
        ModelNotFound: No model has this name, or it is not on this machine while offline.
        DownloadError: It could not be downloaded.
        CheckpointError: The folder holds no model, or one that is damaged.
        E2VError: The model does not know the language.
    """

    def __init__(self, model: str | Path, *, language: str | None = None, offline: bool = False) -> None:
        try:
            from ctranslate2 import get_cuda_device_count
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise RuntimeUnavailable(
                f'words need faster-whisper, which cannot be imported ({error}): pip install "e2v-port[words]"'
            ) from error
        self.name = str(model)
        folder = _folder(model, offline=offline or offline_by_environment())
        device, numbers = ("cuda", "float16") if get_cuda_device_count() else ("cpu", "int8")
        try:
            self._whisper: Any = WhisperModel(str(folder), device=device, compute_type=numbers, local_files_only=True)
        except Exception as error:  # CTranslate2's and the tokenizer's errors have no common class
            raise CheckpointError(f"{folder} cannot be loaded as a Whisper model ({cut(str(error), 200)})") from error
        self._language = self._known(language)

    def _known(self, language: str | None) -> str | None:
        known = self._whisper.supported_languages
        if language is not None and language not in known:
            raise E2VError(f"language {quoted(language)} is unknown to {self.name}: use {', '.join(sorted(known))}")
        return language

    def read(
        self, waveform: Waveform, passages: Sequence[tuple[float, float]], *, language: str | None = None
    ) -> tuple[tuple[Word, ...], Transcript]:
        """Reads the words in passages of a clip.

        Args:
            waveform: [samples], float32, 16 kHz, of the whole clip.
            passages: Start and end of each part to read, in seconds, in order and apart.
            language: Code of the language in this clip; None for that of this reader, or else to detect it.

        Returns:
            All words in order, with times from the start of the clip, their texts as Whisper writes them: with a space
            in front where one belongs. And how they were read.

        Raises:
            E2VError: The model does not know the language.
        """
        language = self._known(language) or self._language
        if not passages:
            return (), Transcript(self.name, language, None)
        segments, info = self._whisper.transcribe(
            waveform,
            language=language,
            temperature=0.0,
            condition_on_previous_text=False,
            word_timestamps=True,
            vad_filter=False,
            clip_timestamps=[time for passage in passages for time in passage],
        )
        last = len(waveform) / SAMPLING_RATE
        words = [
            Word(min(float(word.start), last), min(float(word.end), last), word.word, float(word.probability))
            for segment in segments
            if segment.compression_ratio <= LOOPED
            for word in segment.words or ()
        ]
        detected = None if language else float(info.language_probability)
        return in_sound(words, waveform), Transcript(self.name, info.language, detected)


def _folder(model: str | Path, *, offline: bool) -> Path:
    """Returns the folder of a model in the form of CTranslate2; downloads it if necessary."""
    from faster_whisper.utils import available_models, download_model

    path, name = Path(model), str(model)
    known = model in available_models()  # a folder of such a name where the program runs is not meant: ./base is
    if path.is_dir() and not known:
        if missing := [name for name in FILES if not (path / name).is_file()]:
            raise CheckpointError(f"{path}: no {', no '.join(missing)}: not a Whisper model of CTranslate2")
        return path
    if not known and name.count("/") != 1:
        names = ", ".join(available_models())
        raise ModelNotFound(f"{cut(name, 80)}: no Whisper model or folder; known: {names}, or owner/name of one")
    try:
        return Path(download_model(name, local_files_only=True))
    except Exception as error:
        if offline:
            raise ModelNotFound(
                f"{name} is not on this machine and this run is offline: pass the folder of a Whisper model"
            ) from error
    try:
        with asking(CLIENTS["huggingface"](name, None)):
            return Path(download_model(name))
    except NotDelivered as error:
        raise DownloadError(
            f"{name} could not be downloaded ({error}): download it by hand and pass its folder"
        ) from error
