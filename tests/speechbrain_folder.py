"""Folders in the layout of speechbrain's published emotion models, and the forward pass of its classes.

speechbrain itself cannot be a dependency of the tests: it imports torchaudio, whose wheel needs CUDA. `Published`
repeats its classes `Wav2Vec2` and `WavLM` (transformers' model between two layer norms), `Linear`, and the two ways
that `CustomEncoderWav2vec2Classifier` and `Speech_Emotion_Diarization` use them. One thing is left out: the pooling of
speechbrain adds noise of up to 9e-5 to each mean, also when it judges.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from e2v_port.architectures.wav2vec2 import Wav2vec2Config
from e2v_port.converters.random_weights import trained_like

RECOGNITION = """
# Hparams NEEDED
HPARAMS_NEEDED: ["encoder_dim", "out_n_neurons", "label_encoder", "softmax"]
# Modules Needed
MODULES_NEEDED: ["wav2vec2", "avg_pool", "output_mlp"]

# Feature parameters
wav2vec2_hub: {encoder}

# Pretrain folder (HuggingFace)
pretrained_path: speechbrain/emotion-recognition-wav2vec2-IEMOCAP

# parameters
encoder_dim: {width}
out_n_neurons: 4

wav2vec2: !new:speechbrain.lobes.models.huggingface_wav2vec.HuggingFaceWav2Vec2
    source: !ref <wav2vec2_hub>
    output_norm: True
    freeze: True
    save_path: wav2vec2_checkpoints

avg_pool: !new:speechbrain.nnet.pooling.StatisticsPooling
    return_std: False

output_mlp: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <encoder_dim>
    n_neurons: !ref <out_n_neurons>
    bias: False

model: !new:torch.nn.ModuleList
    - [!ref <output_mlp>]

modules:
    wav2vec2: !ref <wav2vec2>
    output_mlp: !ref <output_mlp>
    avg_pool: !ref <avg_pool>

softmax: !new:speechbrain.nnet.activations.Softmax

label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        wav2vec2: !ref <wav2vec2>
        model: !ref <model>
        label_encoder: !ref <label_encoder>
    paths:
        wav2vec2: !ref <pretrained_path>/wav2vec2.ckpt
        model: !ref <pretrained_path>/model.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""

DIARIZATION = """
wav2vec2_hub: {encoder}
pretrained_path: speechbrain/emotion-diarization-wavlm-large
encoder_dim: {width}
out_n_neurons: 4
window_length: 1 # win_len = 0.02 * 1 = 0.02s
stride: 1 # stride = 0.02 * 1 = 0.02s

input_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

wav2vec2: !new:speechbrain.lobes.models.huggingface_transformers.wavlm.WavLM
    source: !ref <wav2vec2_hub>
    output_norm: True
    freeze: True
    save_path: wav2vec2_checkpoints

avg_pool: !new:speechbrain.nnet.pooling.Pooling1d
    pool_type: "avg"
    kernel_size: !ref <window_length>
    stride: !ref <stride>
    ceil_mode: True

output_mlp: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <encoder_dim>
    n_neurons: !ref <out_n_neurons>
    bias: False

log_softmax: !new:speechbrain.nnet.activations.Softmax
    apply_log: True

modules:
    input_norm: !ref <input_norm>
    wav2vec2: !ref <wav2vec2>
    output_mlp: !ref <output_mlp>

model: !new:torch.nn.ModuleList
    - [!ref <output_mlp>]

label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        wav2vec2: !ref <wav2vec2>
        model: !ref <model>
        label_encoder: !ref <label_encoder>
    paths:
        wav2vec2: !ref <pretrained_path>/wav2vec2.ckpt
        model: !ref <pretrained_path>/model.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""


@dataclass(frozen=True)
class Kind:
    """One of the published models: its file of settings, the class of its encoder in transformers, its labels."""

    text: str
    encoder: str
    labels: tuple[str, ...]


KINDS = {
    "recognition": Kind(RECOGNITION, "Wav2Vec2", ("neu", "ang", "hap", "sad")),
    "diarization": Kind(DIARIZATION, "WavLM", ("n", "a", "h", "s")),
}


class Published(nn.Module):
    """The forward pass of speechbrain's classes on one clip."""

    def __init__(self, kind: Kind, sizes: Wav2vec2Config, seed: int = 0) -> None:
        import transformers

        super().__init__()
        self.normalize = sizes.normalize
        dims, kernels, strides = zip(*sizes.conv_layers, strict=True)
        settings: dict[str, Any] = {
            "hidden_size": sizes.embed_dim,
            "num_hidden_layers": sizes.depth,
            "num_attention_heads": sizes.num_heads,
            "intermediate_size": sizes.ffn_dim,
            "conv_dim": dims,
            "conv_kernel": kernels,
            "conv_stride": strides,
            "conv_bias": sizes.conv_bias,
            "feat_extract_norm": sizes.conv_norm,
            "do_stable_layer_norm": sizes.pre_norm,
            "num_conv_pos_embeddings": sizes.conv_pos_kernel,
            "num_conv_pos_embedding_groups": sizes.conv_pos_groups,
            "num_feat_extract_layers": len(dims),
        }
        self.model = getattr(transformers, f"{kind.encoder}Model")(
            getattr(transformers, f"{kind.encoder}Config")(**settings)
        )
        self.output_mlp = nn.Linear(sizes.embed_dim, len(kind.labels), bias=False)
        draw = np.random.default_rng(seed)
        for name, weight in self.named_parameters():
            values = draw.standard_normal(tuple(weight.shape), dtype=np.float32)
            made = np.abs(4 + values) if name.endswith("original0") else trained_like(name, values)
            weight.data = torch.from_numpy(np.ascontiguousarray(made, np.float32))
        self.eval()

    def frames(self, waveform: np.ndarray) -> Tensor:
        """Frames [T, D] of a clip [samples], as the encoder with `output_norm` returns them."""
        with torch.inference_mode():
            wav = torch.from_numpy(waveform)[None]
            if self.normalize:
                wav = functional.layer_norm(wav, wav.shape[1:])
            out = self.model(wav).last_hidden_state
            return functional.layer_norm(out, out.shape[1:])[0]

    def recognize(self, waveform: np.ndarray) -> np.ndarray:
        """Outputs for the whole clip, [labels]."""
        with torch.inference_mode():
            return np.asarray(self.output_mlp(self.frames(waveform).mean(0)).numpy())

    def diarize(self, waveform: np.ndarray) -> np.ndarray:
        """Outputs for each frame, [T, labels]."""
        with torch.inference_mode():
            return np.asarray(self.output_mlp(self.frames(waveform)).numpy())


def save(model: Published, kind: Kind, encoder: str, folder: Path) -> Path:
    """Writes a model in the layout of the published ones, with the old names of the weight norm."""
    folder.mkdir(parents=True)
    width = model.output_mlp.in_features
    (folder / "hyperparams.yaml").write_text(kind.text.format(encoder=encoder, width=width), "utf-8")
    lines = [f"{label!r} => {i}" for i, label in enumerate(kind.labels)]
    (folder / "label_encoder.txt").write_text(
        "\n".join([*lines, "================", "'starting_index' => 0", ""]), "utf-8"
    )
    (folder / "config.json").write_text('{"speechbrain": {"speechbrain_interface": "foreign_class"}}', "utf-8")
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {}
    for name, tensor in model.model.state_dict().items():
        for new, before in old.items():
            name = name.replace(new, before)  # noqa: PLW2901
        state[f"model.{name}"] = tensor
    torch.save(state, folder / "wav2vec2.ckpt")
    torch.save({"0.w.weight": model.output_mlp.weight.data}, folder / "model.ckpt")
    return folder
