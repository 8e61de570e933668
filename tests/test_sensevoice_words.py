"""Words of SenseVoice: the tokens and times of FunASR, and text from the pieces that they stand for."""

import shutil
import sys
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from hypothesis import given
from hypothesis import strategies as st

import e2v_port
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.checkpoints.checkpoint import local
from e2v_port.errors import CheckpointError, E2VError
from e2v_port.parity import references
from e2v_port.parity.sensevoice import FunASR
from e2v_port.transcribe.load import load
from e2v_port.transcribe.sensevoice import SensevoiceReader, Token, aligned, joined
from e2v_port.transcribe.words import takes

SAID = Path(__file__).parents[1] / "benchmarks" / "speech" / "calm.flac"
BPE = "chn_jpn_yue_eng_ko_spectok.bpe.model"
BLANKER = 4.0  # added to the score of the blank
TEXTS = (
    ["the quick brown fox jumps over the lazy dog, isn't it?", "he said: yes. no! perhaps"] * 20
    + ["今天天气很好。", "我们去吃饭", "こんにちは、元気ですか"] * 20
    + ["안녕하세요 반갑습니다"] * 20
)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small table of pieces as sentencepiece trains it."""
    import sentencepiece

    place = tmp_path_factory.mktemp("pieces")
    (place / "texts.txt").write_text("\n".join(TEXTS), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(place / "texts.txt"),
        model_prefix=str(place / "small"),
        vocab_size=130,
        character_coverage=1.0,
        model_type="bpe",
        user_defined_symbols=["<|en|>"],
        minloglevel=2,
    )
    return place / "small.model"


@pytest.fixture(scope="module")
def checkpoint(pieces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SenseVoice of random weights that reads tokens of this table alone, with blanks in about half of the frames."""
    import torch

    folder = toys.make_sensevoice(tmp_path_factory.mktemp("sensevoice"), seed=5)
    shutil.copy(pieces, folder / BPE)
    saved = torch.load(folder / "model.pt")
    saved["state_dict"]["ctc.ctc_lo.bias"][130:] = -100.0
    saved["state_dict"]["ctc.ctc_lo.bias"][0] += BLANKER
    torch.save(saved, folder / "model.pt")
    return folder


@pytest.fixture(scope="module")
def folder(checkpoint: Path) -> Path:
    return e2v_port.convert(checkpoint, out=checkpoint.with_name("converted"))


@pytest.fixture(scope="module")
def speech() -> Waveform:
    return load_audio(SAID)


@pytest.fixture(scope="module")
def reader(folder: Path) -> SensevoiceReader:
    found = load(folder)
    assert isinstance(found, SensevoiceReader)
    return found


def funasr_scores(checkpoint: Path, waveform: Waveform, language: str) -> tuple[Any, Any]:
    """Returns FunASR's model, and its scores of the vocabulary as its `inference` computes them, with its own rows."""
    import torch

    reference = FunASR(local(checkpoint))
    model = reference.model
    rows = [model.lid_dict[language], 1, 2, model.textnorm_dict["withitn"]]
    with torch.inference_mode():
        features, lengths = reference.frontend(torch.from_numpy(waveform)[None], [len(waveform)])
        states = torch.cat([model.embed(torch.tensor([rows])), features], 1)
        return model, model.ctc.log_softmax(model.encoder(states, lengths + 4)[0])[0, 4:]


def test_the_language_is_part_of_the_loaded_network(folder: Path, reader: SensevoiceReader, speech: Waveform) -> None:
    with pytest.raises(E2VError, match=r"language 'en': .* was loaded to detect the language: leave the language out"):
        reader.read(speech, [], language="en")
    korean = load(folder, language="ko")
    assert [takes(korean, language) for language in ("ko", "en")] == [True, False]


@pytest.mark.skipif(not references.installed("sensevoice"), reason="FunASR is not installed")
@pytest.mark.parametrize("language", ["auto", "zh", "en", "ko"])
def test_tokens_and_times_are_those_of_funasr(language: str, checkpoint: Path, folder: Path, speech: Waveform) -> None:
    import torch
    from funasr.models.sense_voice.utils.ctc_alignment import ctc_forced_align

    model, scores = funasr_scores(checkpoint, speech, language)
    best = scores.argmax(-1)
    ids = torch.unique_consecutive(best)
    ids = ids[ids != model.blank_id]
    forced = scores.clone()
    forced[best == model.blank_id, model.blank_id] = 0  # as in its `inference`
    lengths = torch.tensor([len(forced)]), torch.tensor([len(ids)])
    path = ctc_forced_align(forced[None], ids[None].clone(), *lengths)[0].tolist()

    reader = SensevoiceReader(folder, language=None if language == "auto" else language, runtime="cpu")
    [(_, output)] = reader._model.each([speech], SAMPLING_RATE, frames=True)
    tokens = reader.tokens(output.frames)
    assert [token.number for token in tokens] == ids.tolist()
    assert len({token.number for token in tokens}) > 5, "the random weights read one thing throughout: no test"
    starts, ends, at = [], [], 0
    for number, run in groupby(path):
        first, at = at, at + len([*run])
        if number:
            starts.append(max(first * 60 - 30, 0) / 1000)
            ends.append(min(at * 60 - 30, len(path) * 60 - 30) / 1000)
    assert [token.start for token in tokens] == pytest.approx(starts)
    assert [token.end for token in tokens] == pytest.approx(ends)


@pytest.fixture(scope="module")
def processor(pieces: Path) -> Any:
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(pieces))


def spoken(text: str, processor: Any) -> list[Token]:
    """Returns the tokens of a text, one every 0.1 s."""
    return [Token(number, i / 10, i / 10 + 0.06, 1.0) for i, number in enumerate(processor.encode(text))]


@pytest.mark.parametrize("text", sorted({*TEXTS}))
def test_the_words_are_the_text(text: str, processor: Any) -> None:
    words = [*joined(spoken(text, processor), processor, 0.0, 60.0)]
    assert "".join(word.text for word in words).strip() == text
    assert all(a.end <= b.start for a, b in pairwise(words))


def test_words_end_at_spaces_and_characters_without_spaces_are_words_of_their_own(processor: Any) -> None:
    def texts(text: str) -> list[str]:
        return [word.text.strip() for word in joined(spoken(text, processor), processor, 0.0, 60.0)]

    assert texts("he said: yes. no! perhaps") == ["he", "said:", "yes.", "no!", "perhaps"]
    assert texts("今天去。我") == ["今", "天", "去。", "我"]
    assert texts("안녕하세요 반갑습니다") == ["안녕하세요", "반갑습니다"]
    assert texts("<|en|> dog") == ["dog"], "tags are no words"


def test_times_of_words_are_those_of_funasr(processor: Any) -> None:
    """FunASR's own joining, `post`, from the same tokens."""
    model = pytest.importorskip("funasr.models.sense_voice.model")
    tokens = spoken("the quick brown fox jumps over", processor)
    given = [[processor.id_to_piece(token.number), token.start, token.end] for token in tokens]
    times, _ = model.SenseVoiceSmall.post(None, given)
    words = joined(tokens, processor, 0.0, 60.0)
    assert [[int(word.start * 1000), int(word.end * 1000)] for word in words] == times


@given(st.lists(st.integers(0, 3), max_size=40))
def test_every_token_has_the_frames_in_which_it_is_read(ids: list[int]) -> None:
    tokens = aligned(ids, [1.0] * len(ids), 0.06)
    frames = [0] * len(ids)
    for token in tokens:
        first, last = round((token.start + 0.03) / 0.06), round((token.end + 0.03) / 0.06)
        frames[first:last] = [token.number] * (last - first)
    # The first frame begins before the clip, by less than a frame.
    assert frames[1:] == ids[1:]
    assert all(0 <= token.start < token.end for token in tokens)


def test_an_analysis_reads_the_passages_of_speech_alone(reader: SensevoiceReader, speech: Waveform) -> None:
    import jsonschema

    from e2v_port.analysis.schema import schema

    silence = np.zeros(2 * SAMPLING_RATE, np.float32)
    clip = np.concatenate([silence, speech, silence])
    found = e2v_port.analyze(clip, sampling_rate=SAMPLING_RATE, words=reader)
    words = [word for segment in found.segments for word in segment.words or ()]
    assert len(words) > 5
    assert words[0].start > 1.5
    assert words[-1].end < len(clip) / SAMPLING_RATE - 1.5
    assert all(0 < word.probability <= 1 for word in words)
    assert found.transcript is not None
    assert found.transcript.language in {"zh", "en", "yue", "ja", "ko"}
    assert 0.2 <= (found.transcript.language_probability or 0) <= 1
    jsonschema.validate(found.to_dict(), schema())
    early, _ = reader.read(speech, [(0.0, 1.0), (2.0, 2.01), (3.0, 4.0)])
    assert early
    assert all(word.end <= 1 or 3 <= word.start <= word.end <= 4 for word in early)
    assert reader.read(speech, [])[0] == ()


def test_what_reads_no_words_is_refused_in_one_line(
    checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("model.pt", "config.yaml", "am.mvn", "tokens.json", "configuration.json"):
        shutil.copy(checkpoint / name, bare / name)
    old = e2v_port.convert(bare, out=tmp_path / "old")
    with pytest.raises(CheckpointError, match=r"without its text \(no text.safetensors, no text.model\): convert"):
        load(old)
    assert (old / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="wav2small, which reads no words: use SenseVoice or Whisper"):
        load("bundled-tiny")
    with pytest.raises(E2VError, match=r"language 'de' is unknown to .*: use en, ja, ko, yue, zh"):
        load(folder, language="de")
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (damaged / "text.model").write_bytes(b"no pieces")
    with pytest.raises(CheckpointError, match="its text is damaged"):
        load(damaged)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(E2VError, match=r'need sentencepiece.*pip install "e2v-port\[words\]"'):
        load(folder)


def test_a_checkpoint_converts_with_its_text_on_first_use(
    checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E2V_WEIGHTS", str(tmp_path))
    reader = load(checkpoint)
    assert reader.name == str(checkpoint)
    [converted] = tmp_path.glob("local/*")
    for name in ("text.safetensors", "text.model"):
        assert (converted / name).read_bytes() == (folder / name).read_bytes()
    e2v_port.convert(checkpoint, out=converted)  # over a model of the same kind
