"""Heads of fine-tuned transformers checkpoints, against transformers' own classes and the heads of model cards.

Each checkpoint is made by the class that published models are of, with random weights like those of training, and saved
in the layout of the published files. The models that compute the wanted outputs are those that were saved, not loaded
ones: newer versions of transformers initialize some weights again when they load an older file.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import RUNTIMES

import e2v_port
from e2v_port.architectures.config import ModelConfig
from e2v_port.checkpoints import catalog
from e2v_port.cli import app
from e2v_port.converters.random_weights import trained_like
from e2v_port.parity import verify

transformers = pytest.importorskip("transformers")

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
    "dpngtm": Case(classifier("Wav2Vec2", BASE, RAVDESS), RAVDESS),
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
            if name.endswith("original0"):
                values = np.abs(4 + values)
            elif name != "layer_weights" and not name.endswith(("embed_positions.weight", "gru_rel_pos_const")):
                values = trained_like(name, values)
            if not name.endswith("embed_positions.weight"):
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
        from safetensors.torch import save_model

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


CLIPS = [verify.test_clip(), verify.test_clip()[: RATE // 2], verify.test_clip()[RATE // 3 : 2 * RATE]]


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
    found = {name: np.array([*rows.values()]) for name, rows in model.outputs(result).items()}
    if "age" in found:
        found["age"] = found["age"] / 100
    return found if result[1].logits is None else found | {"logits": result[1].logits}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_those_of_the_original(name, runtime, made, record_property):
    original, _, folder = made(name)
    model = e2v_port.load(folder, runtime=runtime)
    assert list(model.labels) == CASES[name].labels
    for number, clip in enumerate(CLIPS):
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
