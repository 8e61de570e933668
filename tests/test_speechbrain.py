"""SpeechBrain's published emotion models: converted from their layout, equal to their forward pass on every runtime."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from speechbrain_folder import KINDS, Published, save
from toys import RUNTIMES, needs_mlx

import e2v_port
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.heads import Step
from e2v_port.converters import speechbrain
from e2v_port.errors import CheckpointError
from e2v_port.evaluation.datasets import label_of
from e2v_port.export.onnx_folder import export_onnx
from e2v_port.parity import speechbrain as parity
from e2v_port.parity import verify

RATE = 16_000
TOY = {"embed_dim": 48, "num_heads": 6, "depth": 3, "ffn_dim": 96, "conv_pos_kernel": 16, "conv_pos_groups": 4}
SETTINGS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "conv_dim",
    "feat_extract_norm",
    "do_stable_layer_norm",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
)
CONVOLUTIONS = ((32, 10, 5), *[(32, 3, 2)] * 4, *[(32, 2, 2)] * 2)
# A toy of each published encoder, which takes its place in the table of known ones.
ENCODERS = {"recognition": "facebook/wav2vec2-base", "diarization": "microsoft/wavlm-large"}
TOYS = {
    name: replace(speechbrain.ENCODERS[encoder], **TOY, conv_layers=CONVOLUTIONS) for name, encoder in ENCODERS.items()
}


@pytest.fixture(scope="module", autouse=True)
def toys_are_known():
    with pytest.MonkeyPatch.context() as patch:
        for name, encoder in ENCODERS.items():
            patch.setitem(speechbrain.ENCODERS, encoder, TOYS[name])
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("speechbrain")

    @lru_cache
    def make(name: str) -> tuple[Published, Path, Path]:
        kind = KINDS[name]
        model = Published(kind, TOYS[name])
        checkpoint = save(model, kind, ENCODERS[name], root / name)
        return model, checkpoint, e2v_port.convert(checkpoint, out=root / f"{name}-converted")

    return make


def clips() -> list[np.ndarray]:
    """Clips of several lengths; one is so quiet that the epsilon of the waveform norm counts."""
    draw = np.random.default_rng(0)
    waves = [0.1 * draw.standard_normal(count).astype(np.float32) for count in (16_000, 41_234, 9_999, 24_000)]
    waves[3] *= np.float32(0.003)
    return waves


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", KINDS)
def test_outputs_equal_those_of_speechbrain(made, name: str, runtime: str, record_property) -> None:
    reference, _, folder = made(name)
    model = e2v_port.load(folder, runtime=runtime)
    waves = clips()
    for wave, result in zip(waves, model.each(waves, RATE, frames=True), strict=True):
        assert not isinstance(result, e2v_port.AudioError)
        (alone,) = model.each([wave], RATE, frames=True)
        for _, output in (result, alone):
            expected = {
                "frames": reference.frames(wave).numpy(),
                "logits": reference.recognize(wave),
                "frame logits": reference.diarize(wave),
            }
            found = {"frames": output.frames, "logits": output.logits, "frame logits": output.frame_logits}
            differences = {stage: float(np.abs(found[stage] - expected[stage]).max()) for stage in expected}
            record_property("parity", (f"speechbrain {name}", runtime, f"{len(wave)} samples", differences))
            assert max(differences.values()) < 1e-4, differences


@pytest.mark.parametrize("name", KINDS)
def test_labels_and_description(made, name: str) -> None:
    config = ModelConfig.read(made(name)[2])
    assert tuple(label.name for label in config.labels) == KINDS[name].labels
    architecture = config.architecture
    assert (architecture.normalize, architecture.waveform_eps) == (True, 1e-5)
    assert architecture.head == (Step("linear", width=4, bias=False),)
    assert architecture.readout
    assert architecture.readout.steps == (Step("clip_norm"),)


@needs_mlx
def test_frames_of_a_long_clip_are_scaled_exactly() -> None:
    """60 s of a large model: a single sum of MLX over as many numbers was wrong by 0.008."""
    import mlx.core as mx

    from e2v_port.runtimes.layers_mlx import scale_clips

    x = np.random.default_rng(0).standard_normal((1, 3000, 1024), dtype=np.float32) + np.float32(0.3)
    expected = torch.nn.functional.layer_norm(torch.from_numpy(x).double(), x.shape[1:])
    found = scale_clips(mx.array(x), mx.ones((1, 3000, 1), mx.bool_))
    assert np.abs(np.array(found) - expected.numpy()).max() < 1e-5


def test_a_conversion_can_be_verified(made, monkeypatch) -> None:
    """`e2v verify` runs the published forward pass, stage by stage, from the checkpoint's own files."""
    for name in KINDS:
        reference, checkpoint, folder = made(name)
        settings = {key: getattr(reference.model.config, key) for key in SETTINGS}
        monkeypatch.setitem(parity.ENCODERS, ENCODERS[name], (KINDS[name].encoder, settings))
        rows, notes = verify.verify([e2v_port.load(folder, runtime="cpu")], checkpoint=checkpoint)
        stages = [check.name for (check,) in rows]
        assert {"waveform", "blocks.2", "refined", "logits", "probabilities"} <= {*stages}
        assert [check for (check,) in rows if not check.passed] == []
        assert len(notes) == 1  # no published outputs


def test_spans_are_those_of_the_authors(made) -> None:
    """Frame by frame, as `Speech_Emotion_Diarization.diarize_batch` and `preds_to_diarization` make them."""
    reference, _, folder = made("diarization")
    model, labels = e2v_port.load(folder, runtime="cpu"), KINDS["diarization"].labels
    for wave, spans in zip(clips(), model.diarize(clips(), RATE), strict=True):
        answers = [labels[i] for i in reference.diarize(wave).argmax(1)]
        expected: list[list] = []
        for i, label in enumerate(answers):
            start = round(0.02 * i, 2)
            if expected and expected[-1][2] == label:
                expected[-1][1] = round(start + 0.02, 2)
            else:
                expected.append([start, round(start + 0.02, 2), label])
        expected[-1][1] = len(wave) / RATE  # where theirs ends with the last frame
        assert [[round(span.start, 2), span.label] for span in spans] == [
            [start, label] for start, _, label in expected
        ]
        assert [span.end for span in spans] == pytest.approx([end for _, end, _ in expected])


def test_labels_of_both_models_mean_the_same(made) -> None:
    """So that EDER compares them with the words of an annotation."""
    meanings = {"neu": "neutral", "ang": "angry", "hap": "happy", "sad": "sad"}
    meanings |= {"n": "neutral", "a": "angry", "h": "happy", "s": "sad"}
    for kind in KINDS.values():
        assert [label_of(label) for label in kind.labels] == [meanings[label] for label in kind.labels]


def test_an_export_gives_the_same(made, tmp_path: Path) -> None:
    reference, _, folder = made("recognition")
    export_onnx(folder, tmp_path / "onnx")
    model = e2v_port.load(tmp_path / "onnx", runtime="onnx")
    for wave, result in zip(clips(), model.each(clips(), RATE, frames=True), strict=True):
        assert not isinstance(result, e2v_port.AudioError)
        np.testing.assert_allclose(result[1].logits, reference.recognize(wave), atol=1e-4)
        np.testing.assert_allclose(result[1].frame_logits, reference.diarize(wave), atol=1e-4)


# ---- hyperparams.yaml is data


def changed(source: Path, folder: Path, old: str, new: str) -> Path:
    """A copy of a checkpoint's folder whose hyperparams.yaml has something else in one place."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).hardlink_to(path)
    text = (source / "hyperparams.yaml").read_text("utf-8")
    assert old in text
    (folder / "hyperparams.yaml").unlink()
    (folder / "hyperparams.yaml").write_text(text.replace(old, new), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("recognition", "facebook/wav2vec2-base", "facebook/wav2vec2-huge", "'facebook/wav2vec2-huge', whose sizes"),
        ("recognition", "    output_norm: True\n", "", "lacks output_norm, whose default has changed"),
        ("recognition", "output_norm: True", "output_norm: maybe", "output_norm of HuggingFaceWav2Vec2 is 'maybe'"),
        ("recognition", "freeze: True", "dropout: 1", "arguments that are not understood: dropout"),
        ("recognition", "return_std: False", "return_std: True", "return_std of StatisticsPooling is True"),
        ("recognition", "speechbrain.nnet.linear.Linear", "os.system", "the module output_mlp is 'new:os.system'"),
        ("recognition", "speechbrain.nnet.linear.Linear", "speechbrain.nnet.RNN.GRU", "output_mlp is 'new:speech"),
        ("recognition", "!new:speechbrain.nnet.linear.Linear", "!name:speechbrain.nnet.linear.Linear", "'name:speech"),
        ("recognition", "    avg_pool: !ref <avg_pool>\n", "    gate: !ref <softmax>\n", "the module gate is"),
        (
            "recognition",
            "output_mlp: !ref <output_mlp>\n",
            "output_mlp: !ref <nothing>\n",
            "!ref <nothing> leads nowhere",
        ),
        ("recognition", "encoder_dim: 48", "encoder_dim: !ref <encoder_dim>", "references lead in a circle"),
        ("recognition", "modules:", "parts:", "it has no table of modules"),
        ("diarization", "window_length: 1", "window_length: 5", "kernel_size of Pooling1d is 5"),
        ("diarization", "norm_type: sentence", "norm_type: global", "norm_type of InputNormalization is 'global'"),
        ("diarization", "    output_mlp: !ref <output_mlp>\n\nmodel", "\nmodel", "0 modules for a head"),
    ],
)
def test_a_model_that_is_not_understood_is_refused(
    made, tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    folder = changed(made(name)[1], tmp_path / "changed", old, new)
    with pytest.raises(CheckpointError, match=message.replace("(", r"\(")):
        e2v_port.convert(folder, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_in_hyperparams_is_run(made, tmp_path: Path) -> None:
    """Objects outside of the model are not even looked at; speechbrain would run this one."""
    spare = f"spare: !apply:pathlib.Path.mkdir [!apply:pathlib.Path [{tmp_path / 'ran'}]]\nmodules:"
    folder = changed(made("recognition")[1], tmp_path / "changed", "modules:", spare)
    e2v_port.convert(folder, out=tmp_path / "out")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["'neu' = 0", "__import__('os') => 0", "'a' => 0\n'b' => 2", "'a' => 0\n'b' => 0", ""])
def test_a_damaged_label_encoder_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "label_encoder.txt"
    path.write_text(text, "utf-8")
    with pytest.raises(CheckpointError, match=r"label_encoder\.txt"):
        speechbrain.read_labels(path)


def test_a_missing_file_is_named(made, tmp_path: Path) -> None:
    folder = changed(made("recognition")[1], tmp_path / "changed", "modules:", "modules:")
    (folder / "model.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.ckpt in this folder"):
        e2v_port.convert(folder, out=tmp_path / "out")


def test_other_tensors_of_a_head_are_listed(made, tmp_path: Path) -> None:
    folder = changed(made("recognition")[1], tmp_path / "changed", "modules:", "modules:")
    (folder / "model.ckpt").unlink()
    torch.save({"0.w.weight": torch.ones(4, 48), "1.w.weight": torch.ones(4, 4)}, folder / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"no known head has the tensors 1\.w\.weight \[4, 4\], output_mlp"):
        e2v_port.convert(folder, out=tmp_path / "out")
