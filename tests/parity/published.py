"""The published classes of Vox-Profile and of the Odyssey baselines, rebuilt from their tensors' names and equations.

Sizes are small; all else is as published: https://github.com/tiantiaf0627/vox-profile-release, and the code next to
3loi/SER-Odyssey-Baseline-WavLM-Categorical.
"""

import json
from pathlib import Path
from typing import Any

import loralib
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from e2v_port.converters.random_weights import trained_like

MEAN, DEVIATION = -8.278621631819787e-05, 0.08485510250851999
RANK = 16


def small_whisper() -> WhisperModel:
    """A Whisper of 15 s, with a decoder, as from_pretrained(..., max_source_positions=750) gives it."""
    return WhisperModel(
        WhisperConfig(
            d_model=128,
            encoder_layers=5,
            encoder_attention_heads=2,
            encoder_ffn_dim=192,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=64,
            num_mel_bins=128,
            vocab_size=60,
            max_source_positions=750,
            max_target_positions=16,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
    )


def small_wavlm() -> WavLMModel:
    """A WavLM with everything that wavlm-large has."""
    return WavLMModel(
        WavLMConfig(
            hidden_size=48,
            num_hidden_layers=3,
            num_attention_heads=6,
            intermediate_size=96,
            conv_dim=(32,) * 7,
            conv_bias=False,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=4,
        )
    )


def outputs(width: int, rows: int, *, sigmoid: bool = False) -> nn.Sequential:
    layers = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, rows)]
    return nn.Sequential(*layers, *([nn.Sigmoid()] if sigmoid else []))


class VoxProfile(nn.Module):
    """WhisperWrapper and WavLMWrapper, for labels or for dimensions."""

    def __init__(self, backbone: Any, *, labels: bool, lora: bool = False, hidden: int = 24) -> None:
        super().__init__()
        self.backbone_model = backbone
        self.labels = labels
        self.whisper = isinstance(backbone, WhisperModel)
        config = backbone.config
        if self.whisper:
            self.embed_positions = nn.Parameter(backbone.encoder.embed_positions.weight.clone(), requires_grad=False)
            for i, layer in enumerate(backbone.encoder.layers):
                if lora and i > config.encoder_layers // 2:
                    layer.fc1 = loralib.Linear(config.d_model, config.encoder_ffn_dim, r=RANK)
                    layer.fc2 = loralib.Linear(config.encoder_ffn_dim, config.d_model, r=RANK)
        self.model_seq = nn.Sequential(
            nn.Conv1d(config.hidden_size, hidden, 1),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv1d(hidden, hidden, 1),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv1d(hidden, hidden, 1),
        )
        self.weights = nn.Parameter(torch.zeros(config.num_hidden_layers + 1))
        if labels or self.whisper:  # the class of Whisper's dimensions has them, too
            self.emotion_layer = outputs(hidden, 9)
            self.detailed_out_layer = outputs(hidden, 17)
        self.arousal_layer = outputs(hidden, 1, sigmoid=True)
        self.valence_layer = outputs(hidden, 1, sigmoid=True)
        self.dominance_layer = outputs(hidden, 1, sigmoid=True)

    @torch.inference_mode()
    def forward(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        if self.whisper:
            prepare = WhisperFeatureExtractor(feature_size=128, chunk_length=15)
            features = prepare(waveform, sampling_rate=16_000, max_length=15 * 16_000, return_tensors="pt")
            x = self.backbone_model.encoder(features["input_features"])[0]
            length = (len(waveform) // 160 - 1) // 2 + 1
        else:
            prepare = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
            values = prepare(waveform, sampling_rate=16_000, return_tensors="pt")["input_values"]
            encoded = self.backbone_model(values, output_hidden_states=True)
            # Of transformers 4, which the models were trained with: the last state has passed the final norm.
            states = torch.stack([*encoded.hidden_states[:-1], encoded.last_hidden_state])
            x = (torch.softmax(self.weights, -1)[:, None, None, None] * states).sum(0)
            length = x.shape[1]
        x = self.model_seq(x.mT).mT[:, :length].mean(1)
        found = {"dimensions": torch.cat([self.arousal_layer(x), self.dominance_layer(x), self.valence_layer(x)], 1)}
        if self.labels:
            found["logits"] = self.emotion_layer(x)
        return {name: value[0].numpy() for name, value in found.items()}


class Statistics(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.sap_linear = nn.Linear(width, width)
        self.attention = nn.Parameter(torch.zeros(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(torch.tanh(self.sap_linear(x)) @ self.attention, 1)
        mean = (x * weights).sum(1)
        return torch.cat([mean, torch.sqrt(((x**2 * weights).sum(1) - mean**2).clamp(min=1e-5))], 1)


class Layers(nn.Module):
    def __init__(self, width: int, hidden: int, layers: int, rows: int) -> None:
        super().__init__()
        sizes = [width, *[hidden] * layers]
        self.fc = nn.ModuleList(
            nn.Sequential(nn.Linear(sizes[i], hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(0.5))
            for i in range(layers)
        )
        self.out = nn.Sequential(nn.Linear(hidden, rows))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.fc:
            x = layer(x)
        out: Tensor = self.out(x)
        return out


class Odyssey(nn.Module):
    """SERModel."""

    def __init__(self, backbone: WavLMModel, rows: int, layers: int = 1) -> None:
        super().__init__()
        width = backbone.config.hidden_size
        self.ssl_model = backbone
        self.pool_model = Statistics(width)
        self.ser_model = Layers(2 * width, width, layers, rows)

    @torch.inference_mode()
    def forward(self, waveform: np.ndarray) -> np.ndarray:
        scaled = (waveform.astype(np.float64) - MEAN) / (DEVIATION + 1e-6)
        values = torch.from_numpy(scaled.astype(np.float32))[None]
        x = self.ssl_model(values)[0]  # as with the published mask, which is 1 all over a single clip
        logits: np.ndarray = self.ser_model(self.pool_model(x))[0].numpy()
        return logits


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Gives all parameters values of the sizes that training leaves; frozen weights under LoRA are in float16."""
    draw = np.random.default_rng(seed)
    adapted = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, loralib.Linear)}
    for name, tensor in model.named_parameters():
        if "embed_positions" in name and "decoder" not in name:
            continue
        values = draw.standard_normal(tuple(tensor.shape), dtype=np.float32)
        if name.endswith("original0"):
            values = np.abs(4 + values)
        elif name in {"weights"} or "gru_rel_pos_const" in name:
            pass
        else:
            values = trained_like(name, values)
        if name in adapted:
            values = values.astype(np.float16).astype(np.float32)
        tensor.data = torch.from_numpy(values)
    return model


def save(model: nn.Module, folder: Path, settings: dict[str, Any], **changes: Any) -> Path:
    """Writes model.safetensors and config.json; `changes` add tensors, or remove those that are None."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.clone().contiguous() for name, value in model.state_dict().items()} | changes
    save_file({name: value for name, value in state.items() if value is not None}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def vox_profile_settings(kind: str, *, labels: bool, lora: bool = False) -> dict[str, Any]:
    return {
        "pretrain_model": kind,
        "hidden_dim": 24,
        "finetune_method": "lora" if lora else "finetune",
        "lora_rank": RANK,
        "freeze_params": True,
        "output_class_num": 9,
        "use_conv_output": True,
        "detailed_class_num": 17,
        **({} if labels else {"predict_gender": False}),
    }


def odyssey_settings(names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "model_type": "ser",
        "architectures": ["SERModel"],
        "auto_map": {"AutoConfig": "pipeline_utils.SERConfig", "AutoModelForAudioClassification": "x.SERModel"},
        "ssl_type": "microsoft/wavlm-large",
        "num_classes": len(names),
        "classifier_hidden_layers": 1,
        "hidden_size": 48,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "mean": MEAN,
        "std": DEVIATION,
        "maxlen": 192_000,
        "sampling_rate": 16_000,
    }


def answers(model: nn.Module, clips: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What the class makes of clips, one by one: `logits`, `dimensions` or both. Merges LoRA, as `eval` does."""
    model.eval()
    found = [model(clip) for clip in clips]
    return [each if isinstance(each, dict) else {"dimensions" if len(each) == 3 else "logits": each} for each in found]
