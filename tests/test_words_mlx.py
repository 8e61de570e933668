"""Words through mlx-whisper: the real weights of whisper-tiny.en, put into the form of MLX."""

import json
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import e2v_port
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.converters import ctranslate2
from e2v_port.errors import CheckpointError, E2VError, ModelNotFound, RuntimeUnavailable
from e2v_port.transcribe import load as loading
from e2v_port.transcribe.whisper import Transcriber
from e2v_port.transcribe.whisper_mlx import NAMES, MlxTranscriber
from e2v_port.transcribe.words import Transcript, takes

pytest.importorskip(
    "mlx_whisper", reason='mlx-whisper is not installed: pip install "e2v-port[words]" on Apple silicon'
)

JFK = "And so my fellow Americans ask not what your country can do for you ask what you can do for your country"
TINY = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 384,
    "n_audio_head": 6,
    "n_audio_layer": 4,
    "n_vocab": 51864,
    "n_text_ctx": 448,
    "n_text_state": 384,
    "n_text_head": 6,
    "n_text_layer": 4,
}
# Parts of a block in CTranslate2's names, and in OpenAI's, which mlx-whisper keeps.
BLOCK = {
    "self_attention/layer_norm": "attn_ln",
    "self_attention/linear_1": "attn.out",
    "attention/layer_norm": "cross_attn_ln",
    "attention/linear_0": "cross_attn.query",
    "attention/linear_2": "cross_attn.out",
    "ffn/layer_norm": "mlp_ln",
    "ffn/linear_0": "mlp1",
    "ffn/linear_1": "mlp2",
}
STACKED = {
    "self_attention/linear_0": ("attn", "query", "key", "value"),
    "attention/linear_1": ("cross_attn", "key", "value"),
}
WHOLE = {
    "decoder/embeddings/weight": "decoder.token_embedding.weight",
    "decoder/position_encodings/encodings": "decoder.positional_embedding",
}
NORMS = {"encoder/layer_norm": "encoder.ln_post", "decoder/layer_norm": "decoder.ln"}
PARTS = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}


def renamed(name: str, values: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yields the tensors of mlx-whisper that one of CTranslate2 holds."""
    if name in WHOLE:
        yield WHOLE[name], values
        return
    layer, _, last = name.rpartition("/")
    if layer in NORMS:
        yield f"{NORMS[layer]}.{PARTS[last]}", values
    elif "/conv" in layer:
        yield f"{layer.replace('/', '.')}.{last}", values.swapaxes(1, 2) if values.ndim == 3 else values
    elif "/layer_" in layer:
        half, number, part = layer.split("/", 2)
        block = f"{half}.blocks.{number.removeprefix('layer_')}"
        if part in BLOCK:
            yield f"{block}.{BLOCK[part]}.{PARTS[last]}", values
        else:
            attention, *names = STACKED[part]
            for each, rows in zip(names, np.split(values, len(names)), strict=True):
                if not (
                    each == "key" and last == "bias"
                ):  # Whisper's keys have none, which CTranslate2 stores as zeros
                    yield f"{block}.{attention}.{each}.{last}", rows


@pytest.fixture(scope="module")
def folder(whisper_tiny_en: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mlx") / "tiny.en"
    place.mkdir()
    entries, _ = ctranslate2.read(whisper_tiny_en / "model.bin")
    arrays = dict(pair for name, tensor in entries for pair in renamed(name, tensor.numpy().astype(np.float32)))
    heads = json.loads((whisper_tiny_en / "config.json").read_text())["alignment_heads"]
    np.savez(place / "weights.npz", alignment_heads=np.array(heads, np.int32), **arrays)
    (place / "config.json").write_text(json.dumps({"model_type": "whisper", **TINY}))
    return place


def bare(text: str) -> list[str]:
    return re.sub(r"[^a-z ]", "", text.lower()).split()


def test_a_speech_is_read_as_by_faster_whisper(recordings: Path, folder: Path, whisper_tiny_en: Path) -> None:
    """The two search differently, so that commas may differ, and round differently, so that times may."""
    reader = loading.load(folder)
    assert isinstance(reader, MlxTranscriber)
    clip = load_audio(recordings / "jfk.flac")
    here = e2v_port.analyze(clip, sampling_rate=SAMPLING_RATE, words=reader)
    there, _ = Transcriber(whisper_tiny_en).read(clip, [(0.322, 10.622)])
    words = [word for segment in here.segments for word in segment.words or ()]
    assert bare(" ".join(word.text for word in words)) == bare(JFK)
    assert bare("".join(word.text for word in there)) == bare(JFK)
    late = [abs(one.start - other.start) for one, other in zip(words, there, strict=True)]
    assert np.median(late) <= 0.02
    assert here.transcript == Transcript(str(folder), "en", 1.0)
    plain = e2v_port.analyze(clip, sampling_rate=SAMPLING_RATE)
    assert [each.judgement for each in plain.segments] == [each.judgement for each in here.segments]


def test_nothing_between_passages_is_read(recordings: Path, folder: Path) -> None:
    reader = MlxTranscriber(folder, language="en")
    speech, other = (load_audio(recordings / name) for name in ("jfk.flac", "librispeech_198-209-0000.flac"))
    clip = np.concatenate([speech, other, speech])
    first, second = len(speech) / SAMPLING_RATE, (len(speech) + len(other)) / SAMPLING_RATE
    end = len(clip) / SAMPLING_RATE
    words, transcript = reader.read(clip, [(0.3, first), (second + 0.3, end)])
    assert bare("".join(word.text for word in words)) == bare(f"{JFK} {JFK}")
    assert all(word.end <= first or second <= word.start <= word.end <= end for word in words)
    assert transcript == Transcript(str(folder), "en", None)
    assert reader.read(clip, []) == ((), transcript)
    with pytest.raises(E2VError, match=r"language 'de' is unknown to .*: use en"):
        MlxTranscriber(folder, language="de")
    assert (takes(reader, "en"), takes(reader, "de")) == (True, False), "the language of one clip alone"


def cached(cache: Path, repository: str) -> Path:
    """Makes an empty copy of a repository in the cache of Hugging Face, and returns its folder."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    snapshot = place / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    return snapshot


def test_a_name_stands_for_mlx_on_apple_silicon_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of the two reads is seen from its error, as the copy in the cache is damaged."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (cached(tmp_path, NAMES["base"]) / "config.json").write_text("no json")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    with pytest.raises(CheckpointError, match="cannot be loaded as a Whisper model of MLX"):
        loading.load("base", offline=True)
    with pytest.raises(ModelNotFound, match="tiny is not on this machine and this run is offline"):
        loading.load("tiny", offline=True)
    with pytest.raises(ModelNotFound, match="distil-large-v3 is not on this machine"):  # only CTranslate2 has it
        loading.load("distil-large-v3", offline=True)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(ModelNotFound, match="base is not on this machine"):
        loading.load("base", offline=True)
    with pytest.raises(CheckpointError, match="of MLX"):
        loading.load(NAMES["base"], offline=True)


def test_what_is_no_whisper_of_mlx_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFound, match=r"bose: no Whisper model or folder; known: tiny\.en"):
        MlxTranscriber("bose")
    with pytest.raises(CheckpointError, match=r"no weights.safetensors or weights.npz with a config.json"):
        MlxTranscriber(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (tmp_path / "weights.npz").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="cannot be loaded as a Whisper model of MLX") as caught:
        loading.load(tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "mlx_whisper.tokenizer", None)
    with pytest.raises(RuntimeUnavailable, match=r'need mlx-whisper.*pip install "e2v-port\[words\]"'):
        MlxTranscriber(tmp_path)
