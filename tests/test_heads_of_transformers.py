"""Heads of fine-tuned transformers checkpoints, against transformers' own classes and the heads of model cards.

Each checkpoint is made by the class that published models are of, with random weights like those of training, and saved
in the layout of the published files. The models that compute the wanted outputs are those that were saved, not loaded
ones: newer versions of transformers initialize some weights again when they load an older file.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn
from toys import RUNTIMES

import e2v_port
from e2v_port.architectures.whisper import positions
from e2v_port.converters.random_weights import trained_like
from e2v_port.export.onnx_folder import export_onnx
from e2v_port.parity import verify

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")

RATE = 16_000
WIDTH = 48
SMALL = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 96,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 20,
}
BASE = SMALL | {"do_stable_layer_norm": False, "feat_extract_norm": "group", "conv_bias": False}
LARGE = SMALL | {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
WHISPER = {
    "d_model": WIDTH,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 96,
    "classifier_proj_size": 20,
    "vocab_size": 10,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}
SUPERB = ["neu", "hap", "ang", "sad"]
RAVDESS = ["angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised"]
DIMENSIONS = ["arousal", "dominance", "valence"]


class TwoLayers(nn.Module):
    """The head of audeering's model cards and of community classes; `out` is the name of its last layer."""

    def __init__(self, width: int, rows: int, out: str) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.out = out
        setattr(self, out, nn.Linear(width, rows))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = getattr(self, self.out)(torch.tanh(self.dense(x)))
        return scores


class OnTheMean(nn.Module):
    """An encoder with heads on the mean of its last hidden state, by the names of the attributes."""

    def __init__(self, config: Any, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.wav2vec2 = transformers.Wav2Vec2Model(config)
        for name, head in heads.items():
            setattr(self, name, head)
        self.heads = tuple(heads)

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        pooled = self.wav2vec2(values)[0].mean(1)
        return {name: getattr(self, name)(pooled)[0] for name in self.heads}


def classifier(kind: str, config: dict[str, Any], labels: list[str]) -> Callable[[], nn.Module]:
    """One of transformers' own classes for classification."""

    def build() -> nn.Module:
        names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
        of = "ForAudioClassification" if kind == "Whisper" else "ForSequenceClassification"
        model: nn.Module = getattr(transformers, kind + of)(getattr(transformers, f"{kind}Config")(**config, **names))
        return model

    return build


def published(config: dict[str, Any], heads: dict[str, Callable[[], nn.Module]]) -> Callable[[], nn.Module]:
    """A class of a model card."""
    return lambda: OnTheMean(transformers.Wav2Vec2Config(**config), {name: make() for name, make in heads.items()})


@dataclass(frozen=True)
class Case:
    build: Callable[[], nn.Module]
    labels: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)  # of config.json, where the class does not save them
    old: bool = False  # pytorch_model.bin with the old names of the weight norm


def two(rows: int, out: str = "out_proj") -> Callable[[], nn.Module]:
    return lambda: TwoLayers(WIDTH, rows, out)


def names(labels: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels))}


SUM = {"use_weighted_layer_sum": True}
CASES = {
    "superb/wav2vec2-base": Case(classifier("Wav2Vec2", BASE | SUM, SUPERB), SUPERB, old=True),
    "superb/hubert-base": Case(classifier("Hubert", BASE | SUM, SUPERB), SUPERB, old=True),
    "superb/hubert-large": Case(classifier("Hubert", LARGE | SUM, SUPERB), SUPERB, old=True),
    "wavlm": Case(classifier("WavLM", LARGE | SUM, SUPERB), SUPERB),
    "wav2vec2-base": Case(classifier("Wav2Vec2", BASE, RAVDESS), RAVDESS),
    "large": Case(classifier("Wav2Vec2", LARGE, DIMENSIONS), DIMENSIONS, {"problem_type": "regression"}),
    "firdhokk": Case(classifier("Whisper", WHISPER, SUPERB), SUPERB),
    "whisper, layers summed": Case(classifier("Whisper", WHISPER | SUM, SUPERB), SUPERB),
    "ehcalabres": Case(
        published(LARGE, {"classifier": two(8, "output")}), RAVDESS, names(RAVDESS) | {"pooling_mode": "mean"}, old=True
    ),
    "soxan": Case(published(LARGE, {"classifier": two(4)}), SUPERB, names(SUPERB) | {"pooling_mode": "mean"}, old=True),
    "age and gender": Case(published(LARGE, {"age": two(1), "gender": two(3)})),
}


def train(model: nn.Module) -> None:
    """Fills a model with weights like those of training."""
    draw = np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = draw.standard_normal(parameter.shape, dtype=np.float32)
            if name.endswith("embed_positions.weight"):  # never trained
                values = positions(*parameter.shape)
            elif name.endswith("original0"):
                values = np.abs(4 + values)
            elif name != "layer_weights" and not name.endswith("gru_rel_pos_const"):
                values = trained_like(name, values)
            parameter.copy_(torch.from_numpy(values))
    model.eval()


def save(model: nn.Module, folder: Path, case: Case) -> Path:
    """Writes a checkpoint as the published ones are laid out."""
    model.config.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text()) | case.settings
    (folder / "config.json").write_text(json.dumps(settings))
    if settings["model_type"] == "whisper":
        transformers.WhisperFeatureExtractor().save_pretrained(folder)
    else:
        transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    if case.old:
        ends = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        pattern = "|".join(map(re.escape, ends))
        state = {re.sub(pattern, lambda found: ends[found[0]], name): x for name, x in model.state_dict().items()}
        torch.save(state, folder / "pytorch_model.bin")
    elif hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(settings))
    else:
        save_model(model, str(folder / "model.safetensors"))
    return folder


def wanted(model: nn.Module, clip: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of the original for one clip, the main one as `logits`."""
    with torch.inference_mode():
        if isinstance(model, OnTheMean):
            found = model(prepared(clip))
            named = {"classifier": "logits", "age": "age", "gender": "sex"}
            return {named[name]: scores.numpy() for name, scores in found.items()}
        if isinstance(model, transformers.WhisperForAudioClassification):
            features = transformers.WhisperFeatureExtractor()(clip, sampling_rate=RATE, return_tensors="pt")
            return {"logits": model(**features).logits[0].numpy()}
        encoder = getattr(model, model.base_model_prefix)
        if not (model.config.use_weighted_layer_sum and model.config.do_stable_layer_norm):
            return {"logits": model(prepared(clip)).logits[0].numpy()}
        # Version 5 of transformers leaves the final norm out of the last hidden state, which version 4, with which the
        # published models were made, applied. The sum and the head are those of the class.
        output = encoder(prepared(clip), output_hidden_states=True)
        states = torch.stack([*output.hidden_states[:-1], output.last_hidden_state], dim=1)
        frames = (states * torch.softmax(model.layer_weights, -1).view(-1, 1, 1)).sum(1)
        return {"logits": model.classifier(model.projector(frames).mean(1))[0].numpy()}


def prepared(clip: np.ndarray) -> Tensor:
    values: Tensor = transformers.Wav2Vec2FeatureExtractor()(clip, sampling_rate=RATE, return_tensors="pt").input_values
    return values


CLIPS = [verify.test_clip()[:RATE], verify.test_clip()[RATE : 8 * RATE // 5]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[nn.Module, Path, Path]]:
    """Returns the original of a case, the folder of its checkpoint and that of its conversion."""
    root = tmp_path_factory.mktemp("heads")

    @lru_cache
    def make(name: str) -> tuple[nn.Module, Path, Path]:
        torch.manual_seed(0)
        model = CASES[name].build()
        train(model)
        folder = save(model, root / name.replace("/", " "), CASES[name])
        return model, folder, e2v_port.convert(folder, out=root / f"{name} converted")

    return make


def outputs(model: e2v_port.Model, result: tuple[float, Any]) -> dict[str, np.ndarray]:
    """Every output of a clip, the main one as `logits`; years as shares of a hundred, as the original gives them."""
    found = {name: np.array([*rows.values()]) for name, rows in model.outputs(result, model.config.others).items()}
    if "age" in found:
        found["age"] = found["age"] / 100
    return found if result[1].logits is None else found | {"logits": result[1].logits}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_those_of_the_original(name, runtime, made, record_property):
    original, _, folder = made(name)
    model = e2v_port.load(folder, runtime=runtime)
    assert list(model.labels) == CASES[name].labels
    clips = CLIPS[:1] if isinstance(original, transformers.WhisperForAudioClassification) else CLIPS  # both take 30 s
    for number, clip in enumerate(clips):
        expected = wanted(original, clip)
        (result,) = model.each([clip], RATE)
        found = outputs(model, result)
        assert found.keys() == expected.keys()
        differences = {key: float(np.abs(found[key] - values).max()) for key, values in expected.items()}
        record_property("parity", (name, runtime, f"clip-{number}", differences))
        assert max(differences.values()) <= verify.LOGIT_TOLERANCES[runtime], differences


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["superb/hubert-large", "superb/wav2vec2-base", "wavlm", "firdhokk", "age and gender"])
def test_a_batch_of_mixed_lengths_equals_single_clips(name, runtime, made):
    model = e2v_port.load(made(name)[2], runtime=runtime)
    for together, clip in zip(model.each(CLIPS, RATE), CLIPS, strict=True):
        (alone,) = model.each([clip], RATE)
        found = outputs(model, together)
        for key, values in outputs(model, alone).items():
            np.testing.assert_allclose(found[key], values, rtol=0, atol=2e-5)


def test_a_generic_loader_makes_up_a_head(made):
    """What docs/models.md says of transformers' pipeline: another answer each time, none of them the model's own."""
    original, source, folder = made("ehcalabres")
    clip = {"raw": CLIPS[0], "sampling_rate": RATE}
    answers = []
    for _ in range(2):
        pipe = transformers.pipeline("audio-classification", model=str(source), feature_extractor=str(source))
        scores = {entry["label"]: entry["score"] for entry in pipe(dict(clip), top_k=None)}
        answers.append([scores[label] for label in RAVDESS])
    own = torch.softmax(torch.from_numpy(wanted(original, CLIPS[0])["logits"]), 0).numpy()
    found = [*e2v_port.load(folder, runtime="cpu").predict(CLIPS[0], RATE).scores.values()]
    np.testing.assert_allclose(found, own, atol=2e-5)
    assert np.abs(np.subtract(*answers)).max() > 1e-4
    for answer in answers:
        assert np.abs(np.subtract(answer, own)).max() > 0.05


@pytest.mark.parametrize("name", ["superb/hubert-large", "superb/wav2vec2-base", "firdhokk", "age and gender"])
def test_onnx_runtime_gives_the_same(name, made, tmp_path):
    pytest.importorskip("onnxruntime", reason='onnxruntime is not installed: pip install "e2v-port[onnx]"')
    original, _, folder = made(name)
    export_onnx(str(folder), tmp_path / "onnx")
    model = e2v_port.load(tmp_path / "onnx", runtime="onnx")
    for together, clip in zip(model.each(CLIPS, RATE), CLIPS, strict=True):
        found = outputs(model, together)
        for key, values in wanted(original, clip).items():
            np.testing.assert_allclose(found[key], values, rtol=0, atol=verify.LOGIT_TOLERANCES["cpu"])


@pytest.mark.parametrize("name", CASES)
def test_verify_compares_every_stage(name, made):
    """From the file, with the forward pass that is written out in `parity.heads`."""
    folder = made(name)[2]
    rows, _ = verify.verify([e2v_port.load(folder, runtime="cpu")])
    checks = [check for row in rows for check in row]
    assert all(check.passed for check in checks), checks
    names = {check.name for check in checks}
    assert "pooled" in names
    assert ("dimensions" in names or "logits" in names) == bool(CASES[name].labels)


class Stack(nn.Module):
    """A head whose operations do not show in the names of its tensors, on a weighted sum of the layers."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.hubert = transformers.HubertModel(config)
        self.mix = nn.Parameter(torch.zeros(config.num_hidden_layers + 1, 1))
        self.before = nn.Sequential(nn.Conv1d(WIDTH, 30, 1), nn.ReLU(), nn.Conv1d(30, 24, 1, bias=False))
        self.classifier = nn.Sequential(nn.LayerNorm(24), nn.GELU(), nn.Linear(24, 4))
        self.valence = nn.Sequential(nn.Linear(24, 1), nn.Sigmoid())
        self.center = nn.Linear(7, 7)  # of a loss

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        states = torch.stack(self.hubert(values, output_hidden_states=True).hidden_states)
        frames = (states * torch.softmax(self.mix, 0)[:, :, None, None]).sum(0)
        pooled = self.before(frames.mT).mean(2)
        return self.classifier(pooled)[0], self.valence(pooled)[0]


STACK = {
    "labels": ["neutral", "happy", "angry", "sad"],
    "layers": "all",
    "weights": "mix",
    "frames": [{"op": "linear", "tensors": "before.0"}, {"op": "relu"}, {"op": "linear", "tensors": "before.2"}],
    "pooling": "mean",
    "head": [{"op": "norm", "tensors": "classifier.0"}, {"op": "gelu"}, {"op": "linear", "tensors": "classifier.2"}],
    "others": {
        "pleasure": {"rows": ["valence"], "steps": [{"op": "linear", "tensors": "valence.0"}, {"op": "sigmoid"}]}
    },
    "ignore": {"center.weight": "a loss of training", "center.bias": "a loss of training"},
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = Stack(transformers.HubertConfig(**BASE))
    train(model)
    return model, save(model, tmp_path_factory.mktemp("stack") / "checkpoint", Case(lambda: model))


def described(tmp_path: Path, **changes: Any) -> Path:
    content = {key: value for key, value in (STACK | changes).items() if value is not None}
    (tmp_path / "head.json").write_text(json.dumps(content))
    return tmp_path / "head.json"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_described_head_equals_the_original(runtime, stack, tmp_path):
    original, checkpoint = stack
    folder = e2v_port.convert(checkpoint, head=described(tmp_path), out=tmp_path / "model")
    model = e2v_port.load(folder, runtime=runtime)
    assert model.labels == tuple(STACK["labels"])
    for together, clip in zip(model.each(CLIPS, RATE), CLIPS, strict=True):
        with torch.inference_mode():
            logits, valence = original(prepared(clip))
        np.testing.assert_allclose(together[1].logits, logits, rtol=0, atol=verify.LOGIT_TOLERANCES[runtime])
        assert model.outputs(together)["pleasure"]["valence"] == pytest.approx(float(valence), abs=2e-5)
    rows, notes = verify.verify([model])
    assert not rows
    assert "no forward pass is published for the head" in notes[0]


def test_a_head_that_is_not_known_is_refused_with_all_of_its_tensors(stack, tmp_path):
    with pytest.raises(e2v_port.CheckpointError) as caught:
        e2v_port.convert(stack[1], out=tmp_path / "model")
    message = str(caught.value)
    for name, parameter in stack[0].named_parameters():
        if not name.startswith("hubert."):
            assert f"{name} {list(parameter.shape)}" in message
    assert "--head" in message
    assert "\n" not in message
    assert not (tmp_path / "model").exists()


WRONG = {
    "a tensor left out": (
        {"ignore": None},
        r"center\.bias \[7\] matches no rule; center\.weight \[7, 7\] matches no rule",
    ),
    "a tensor that is not there": ({"head": [{"op": "linear", "tensors": "fc"}]}, r"no fc\.weight; the tensors .*mix"),
    "a tensor used twice": (
        {"head": [{"op": "linear", "tensors": "before.0"}, {"op": "linear", "tensors": "classifier.2"}]},
        "before.0.weight .*matches .* and ",
    ),
    "widths that do not follow": ({"frames": STACK["frames"][:1]}, "before.2|missing|unexpected|shape"),
    "an operation": ({"head": [{"op": "swish"}]}, "'swish'; known: linear, norm"),
    "a key of a step": ({"head": [{"op": "relu", "slope": 1}]}, "step 1 of head has unknown keys: slope"),
    "no tensors": ({"head": [{"op": "linear"}]}, "step 1 of head, linear, needs tensors"),
    "tensors of an activation": ({"head": [{"op": "relu", "tensors": "x"}]}, "step 1 of head, relu, has no tensors"),
    "pooling": ({"pooling": "max"}, "pooling is 'max'; only 'mean' is supported"),
    "no outputs": ({"head": None, "others": None, "labels": None}, "neither head nor others"),
    "labels": ({"labels": ["a", "b"]}, "2 labels for 4 rows"),
    "labels twice": ({"labels": ["a", "b", "c", "a"]}, "labels share a name"),
    "rows": ({"others": {"age": {"rows": ["a", "b"], "steps": STACK["others"]["pleasure"]["steps"]}}}, "2 names for 1"),
    "no rows": ({"others": {"age": {"steps": STACK["others"]["pleasure"]["steps"]}}}, "lacks 'rows'"),
    "no weights": ({"weights": None}, "lacks 'weights'"),
    "layers": ({"layers": [0, 1, 2, 3, 4]}, "layers|readout"),
    "a key": ({"poling": "mean"}, "unknown keys poling; known: labels"),
    "a list": ({"frames": 3}, "the description of the head is wrong"),
    "a pattern": ({"ignore": {"center.{*}": "all"}}, r"there is no center\.\{\*\}; the tensors"),
    "weights that are not there": ({"weights": "mixture"}, "there is no mixture; the tensors outside the encoder are"),
    "labels in one word": ({"labels": "abcd"}, "labels are 'abcd', not a list of names"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_description_is_refused(name, stack, tmp_path):
    changes, message = WRONG[name]
    with pytest.raises(e2v_port.CheckpointError, match=message) as caught:
        e2v_port.convert(stack[1], head=described(tmp_path, **changes), out=tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_a_description_that_is_no_json(stack, tmp_path):
    (tmp_path / "head.json").write_text("labels: a")
    with pytest.raises(e2v_port.CheckpointError, match=r"head\.json is not readable as JSON"):
        e2v_port.convert(stack[1], head=tmp_path / "head.json", out=tmp_path / "model")
    with pytest.raises(e2v_port.CheckpointError, match=r"missing\.json: no such file"):
        e2v_port.convert(stack[1], head=tmp_path / "missing.json")


def changed(source: Path, tmp_path: Path, *, processor: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A copy of a checkpoint with other settings in its config.json; None takes one away."""
    copy = Path(shutil.copytree(source, tmp_path / "changed"))
    for file, changes in (("config.json", settings), ("preprocessor_config.json", processor or {})):
        content = json.loads((copy / file).read_text()) | changes
        (copy / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return copy


REFUSED = {
    "another rate": ("wav2vec2-base", {"processor": {"sampling_rate": 8000}}, "sampling_rate is 8000; only 16000"),
    "maximum over time": ("soxan", {"pooling_mode": "max"}, "pooling_mode is 'max'; only 'mean' is supported"),
    "sum over time": ("ehcalabres", {"pooling_mode": "sum"}, "pooling_mode is 'sum'"),
    "a sum without weights": ("wav2vec2-base", SUM, "use_weighted_layer_sum is True, but there is no layer_weights"),
    "weights without a sum": (
        "superb/hubert-base",
        {"use_weighted_layer_sum": False},
        "use_weighted_layer_sum is False, but there is a layer_weights",
    ),
    "a missing layer": ("superb/hubert-base", {"num_hidden_layers": 2}, "layers"),
    "regression to names of no dimensions": (
        "wav2vec2-base",
        {"problem_type": "regression"},
        "problem_type is 'regression'",
    ),
    "several labels at once": (
        "wav2vec2-base",
        {"problem_type": "multi_label_classification"},
        "problem_type is 'multi",
    ),
    "fewer names": ("wav2vec2-base", {"id2label": {"0": "angry", "1": "sad"}}, "2 labels for 8 rows"),
    "more names": ("soxan", {"id2label": dict(enumerate(RAVDESS))}, "8 labels for 4 rows"),
    "names from one": ("soxan", {"id2label": {i + 1: name for i, name in enumerate(SUPERB)}}, "4 labels for 4 rows"),
    "no names": ("soxan", {"id2label": SUPERB}, "id2label is not a table of names by row"),
    "a name twice": ("soxan", {"id2label": dict(enumerate(["a", "b", "c", "a"]))}, "labels share a name"),
    "a name twice, as people read it": ("soxan", {"id2label": dict(enumerate(["a", "b", "c", "A "]))}, "labels share"),
    "a blank name": ("soxan", {"id2label": dict(enumerate(["a", "b", "c", " "]))}, "'' is no name of a label"),
    "a name for the terminal": ("soxan", {"id2label": dict(enumerate(["a", "b", "\x1b[31m", "d"]))}, "is no name of a"),
    "a gap": (
        "soxan",
        {"id2label": dict(zip([0, 1, 3, 4], SUPERB, strict=True))},
        "names the rows 0, 1, 3, 4 instead of 0 to 3: name the labels in a JSON file",
    ),
    "two orders of the same names": (
        "soxan",
        {"label2id": {name: 3 - i for i, name in enumerate(SUPERB)}},
        "id2label and label2id give the same names to different rows: name the labels in a JSON file",
    ),
    "dimensions among labels": (
        "soxan",
        {"id2label": dict(enumerate([*DIMENSIONS, "angry"]))},
        "the outputs are arousal, dominance, valence, angry",
    ),
    "a norm that is neither on nor off": (
        "wav2vec2-base",
        {"processor": {"do_normalize": "yes"}},
        r"preprocessor_config\.json: do_normalize is 'yes'; only True or False",
    ),
    "the preprocessor of a Whisper": (
        "wav2vec2-base",
        {"processor": {"feature_size": 80}},
        r"preprocessor_config\.json: feature_size is 80; only 1",
    ),
    "no kind": ("wav2vec2-base", {"model_type": None}, "config.json has no model_type: add that of the encoder"),
    "a setting left out": ("wav2vec2-base", {"conv_kernel": None}, "lacks 'conv_kernel'"),
    "strides of another number": ("wav2vec2-base", {"conv_stride": [5, 2]}, "have different lengths"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_contradict_the_head_are_refused(name, made, tmp_path):
    case, settings, message = REFUSED[name]
    with pytest.raises(e2v_port.CheckpointError, match=message) as caught:
        e2v_port.convert(changed(made(case)[1], tmp_path, **settings), out=tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_a_single_output_is_refused(made, tmp_path):
    """Its softmax would be 1 for every clip."""
    source = changed(made("soxan")[1], tmp_path, id2label={"0": "arousal"}, problem_type="regression")
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    one = {"classifier.out_proj.weight": torch.ones(1, WIDTH), "classifier.out_proj.bias": torch.ones(1)}
    torch.save(state | one, source / "pytorch_model.bin")
    with pytest.raises(
        e2v_port.CheckpointError, match=r"its only output is arousal, .* one of `others` in a JSON file"
    ):
        e2v_port.convert(source, out=tmp_path / "model")
    steps = [{"op": "linear", "tensors": "classifier.dense"}, {"op": "tanh"}]
    steps.append({"op": "linear", "tensors": "classifier.out_proj"})
    (tmp_path / "head.json").write_text(json.dumps({"others": {"arousal": {"rows": ["arousal"], "steps": steps}}}))
    folder = e2v_port.convert(source, head=tmp_path / "head.json", out=tmp_path / "model")
    assert e2v_port.load(folder, runtime="numpy").config.others == {"arousal": ("arousal",)}


def test_labels_of_label2id(made, tmp_path):
    names = {name: str(i) for i, name in enumerate(SUPERB)}
    source = changed(made("soxan")[1], tmp_path, id2label={i: f"LABEL_{i}" for i in range(4)}, label2id=names)
    notes: list[str] = []
    folder = e2v_port.convert(source, out=tmp_path / "model", note=notes.append)
    assert e2v_port.load(folder, runtime="numpy").labels == tuple(SUPERB)
    assert any("the labels are those of label2id, neu, hap, ang, sad" in note for note in notes)


def in_parts(model: nn.Module, folder: Path) -> None:
    model.save_pretrained(folder, max_shard_size="60KB")
    assert (folder / "model.safetensors.index.json").is_file()


def in_pickled_parts(model: nn.Module, folder: Path) -> None:
    state, files = model.state_dict(), ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    index = {name: files[i % 2] for i, name in enumerate(state)}
    for file in files:
        torch.save({name: state[name] for name in state if index[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def wrapped(model: nn.Module, folder: Path) -> None:
    """As training on several devices saves a compiled model."""
    state = {f"module._orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")


def without_the_weight_norm(model: nn.Module, folder: Path) -> None:
    position = "wav2vec2.encoder.pos_conv_embed.conv"
    state = {name: tensor for name, tensor in model.state_dict().items() if f"{position}.param" not in name}
    state[f"{position}.weight"] = model.get_submodule(position).weight.detach().clone()
    save_file(state, folder / "model.safetensors")


def with_a_shared_tensor(model: nn.Module, folder: Path) -> None:
    """As safetensors' save_model stores what two layers share: once, and the other name in the metadata."""
    first, second, *_ = model.wav2vec2.encoder.layers
    second.layer_norm.weight = first.layer_norm.weight
    save_model(model, str(folder / "model.safetensors"))
    second.layer_norm.weight = nn.Parameter(first.layer_norm.weight.detach().clone())


@pytest.mark.parametrize(
    "write",
    [in_parts, in_pickled_parts, wrapped, without_the_weight_norm, with_a_shared_tensor],
    ids=lambda f: f.__name__,
)
def test_the_same_model_however_it_is_saved(write, tmp_path):
    torch.manual_seed(0)
    model = CASES["wav2vec2-base"].build()
    train(model)
    source = save(model, tmp_path / "checkpoint", CASES["wav2vec2-base"])
    (source / "model.safetensors").unlink()
    write(model, source)
    found = e2v_port.load(e2v_port.convert(source, out=tmp_path / "model"), runtime="numpy")
    (result,) = found.each([CLIPS[0]], RATE)
    np.testing.assert_allclose(result[1].logits, wanted(model, CLIPS[0])["logits"], rtol=0, atol=2e-5)
    if write is in_parts:
        rows, _ = verify.verify([e2v_port.load(tmp_path / "model", runtime="cpu")])
        assert all(check.passed for row in rows for check in row)


def test_a_preprocessor_saved_with_a_tokenizer(made, tmp_path):
    """Version 5 of transformers then writes processor_config.json alone, and prefers it to the other file."""
    source = changed(made("wav2vec2-base")[1], tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4}))
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False)
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(source)
    if not (source / "processor_config.json").is_file():
        pytest.skip("version 4 of transformers writes another file")
    for name in ("beside", "alone"):
        folder = e2v_port.convert(source, out=tmp_path / name)
        assert e2v_port.load(folder, runtime="numpy").config.architecture.normalize is False
        (source / "preprocessor_config.json").unlink(missing_ok=True)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of peft, about transformers
def test_adapters_of_peft_have_to_be_merged(made, tmp_path):
    peft = pytest.importorskip("peft", reason='peft is not installed: pip install "e2v-port[dialogue]"')
    source = changed(made("wav2vec2-base")[1], tmp_path)
    adapted = peft.get_peft_model(CASES["wav2vec2-base"].build(), peft.LoraConfig(target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(e2v_port.CheckpointError, match="an adapter of PEFT, without the model that it changes: merge"):
        e2v_port.convert(tmp_path / "adapter")
    save_file(adapted.base_model.model.state_dict(), source / "model.safetensors")
    with pytest.raises(
        e2v_port.CheckpointError, match=r"tensors of an adapter of PEFT beside the weights .*merge them"
    ):
        e2v_port.convert(source, out=tmp_path / "model")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    model = e2v_port.load(e2v_port.convert(tmp_path / "merged", out=tmp_path / "model"), runtime="numpy")
    (result,) = model.each([CLIPS[0]], RATE)
    np.testing.assert_allclose(result[1].logits, wanted(merged.eval(), CLIPS[0])["logits"], rtol=0, atol=2e-5)


def test_a_pointer_of_git_lfs_is_named(made, tmp_path):
    source = changed(made("wav2vec2-base")[1], tmp_path)
    (source / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    with pytest.raises(e2v_port.CheckpointError, match=r"is a pointer of Git LFS.*run `git lfs pull`"):
        e2v_port.convert(source)


@pytest.mark.parametrize("missing", ["projector.bias", "classifier.weight", "layer_weights", "classifier.bias"])
def test_half_a_head_is_refused(missing, made, tmp_path):
    source = changed(made("superb/hubert-base")[1], tmp_path)
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    del state[missing]
    torch.save(state, source / "pytorch_model.bin")
    with pytest.raises(e2v_port.CheckpointError, match=r"no known head has|there is no layer_weights"):
        e2v_port.convert(source, out=tmp_path / "model")


def test_a_head_of_another_shape_is_refused(made, tmp_path):
    source = changed(made("superb/hubert-base")[1], tmp_path)
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    torch.save(state | {"layer_weights": torch.tensor(1.0)}, source / "pytorch_model.bin")
    with pytest.raises(e2v_port.CheckpointError, match="single number"):
        e2v_port.convert(source, out=tmp_path / "model")
    torch.save(state | {"projector.weight": torch.ones(20, 47)}, source / "pytorch_model.bin")
    with pytest.raises(e2v_port.CheckpointError, match=r"head.weight"):
        e2v_port.convert(source, out=tmp_path / "model")
    large = {"classifier.bias": torch.ones(60_000), "classifier.weight": torch.ones(60_000, 20)}
    torch.save(state | large, source / "pytorch_model.bin")
    with pytest.raises(e2v_port.CheckpointError, match="60000 labels from 20 features"):
        e2v_port.convert(source, out=tmp_path / "model")


def test_other_positions_are_refused_under_a_head(made, tmp_path):
    source = changed(made("firdhokk")[1], tmp_path)
    state = load_file(source / "model.safetensors")
    save_file(state | {"encoder.embed_positions.weight": torch.zeros(1500, WIDTH)}, source / "model.safetensors")
    with pytest.raises(e2v_port.CheckpointError, match="from the sines and cosines"):
        e2v_port.convert(source, out=tmp_path / "model")


def test_labels_without_names(made, tmp_path):
    """They are converted as they are, and a line says how to name them; a file with names alone keeps the head."""
    source = changed(made("wav2vec2-base")[1], tmp_path, id2label=None, label2id=None)
    notes: list[str] = []
    folder = e2v_port.convert(source, out=tmp_path / "model", note=notes.append)
    assert e2v_port.load(folder, runtime="numpy").labels == tuple(f"LABEL_{i}" for i in range(8))
    assert [note for note in notes if "LABEL_0 to LABEL_7" in note and "--head" in note]
    (tmp_path / "head.json").write_text(json.dumps({"labels": RAVDESS}))
    named = e2v_port.convert(source, head=tmp_path / "head.json", out=tmp_path / "named", note=notes.append)
    model = e2v_port.load(named, runtime="numpy")
    logits = model.predict(CLIPS[0], RATE).logits
    assert list(logits) == RAVDESS
    np.testing.assert_allclose([*logits.values()], wanted(made("wav2vec2-base")[0], CLIPS[0])["logits"], atol=2e-5)


def test_dimensions_in_capitals(made, tmp_path):
    source = changed(made("large")[1], tmp_path, id2label=dict(enumerate(["Arousal", "Dominance", "Valence"])))
    model = e2v_port.load(e2v_port.convert(source, out=tmp_path / "model"), runtime="numpy")
    found = model.dimensions(CLIPS[0], RATE)
    expected = wanted(made("large")[0], CLIPS[0])["logits"]
    np.testing.assert_allclose([found.arousal, found.dominance, found.valence], expected, atol=2e-5)


def test_what_was_assumed_is_reported(made, tmp_path):
    """An activation does not show in the tensors, nor does the version of transformers that trained a sum of layers."""
    quiet: list[str] = []
    e2v_port.convert(made("superb/hubert-base")[1], out=tmp_path / "quiet", note=quiet.append)
    assert not quiet
    notes: list[str] = []
    e2v_port.convert(made("soxan")[1], out=tmp_path / "soxan", note=notes.append)
    assert any("tanh" in note and "--head" in note for note in notes)
    e2v_port.convert(made("superb/hubert-large")[1], out=tmp_path / "hubert", note=notes.append)
    assert any("final norm" in note and "--head" in note for note in notes)
    normalized = changed(made("firdhokk")[1], tmp_path, processor={"do_normalize": True})
    e2v_port.convert(normalized, out=tmp_path / "whisper", note=notes.append)
    assert any("do_normalize" in note for note in notes)


def test_the_last_layer_of_a_sum_without_the_final_norm(made, tmp_path):
    """As version 5 of transformers sums."""
    original, source, _ = made("superb/hubert-large")
    head = {
        "layers": "all",
        "weights": "layer_weights",
        "final": False,
        "frames": [{"op": "linear", "tensors": "projector"}],
        "head": [{"op": "linear", "tensors": "classifier"}],
    }
    (tmp_path / "head.json").write_text(json.dumps(head))
    model = e2v_port.load(e2v_port.convert(source, head=tmp_path / "head.json", out=tmp_path / "model"), runtime="cpu")
    with torch.inference_mode():
        encoder = getattr(original, original.base_model_prefix)
        blocks: list[Tensor] = []
        for block in encoder.encoder.layers:
            block.register_forward_hook(lambda *values: blocks.append(values[2]))
        states = torch.stack([encoder(prepared(CLIPS[0]), output_hidden_states=True).hidden_states[0], *blocks])
        frames = (states * torch.softmax(original.layer_weights, 0)[:, None, None, None]).sum(0)
        expected = original.classifier(original.projector(frames).mean(1))[0]
    np.testing.assert_allclose([*model.predict(CLIPS[0], RATE).logits.values()], expected, rtol=0, atol=2e-5)


def test_on_the_command_line(stack, tmp_path):
    command = [sys.executable, "-m", "e2v_port", "convert", "--model", stack[1], "--out", tmp_path / "model"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "mix [4, 1]" in refused.stderr
    assert refused.stderr.count("\n") == 1
    done = subprocess.run([*command, "--head", described(tmp_path)], capture_output=True, text=True, check=True)
    assert "4 labels" in done.stdout
