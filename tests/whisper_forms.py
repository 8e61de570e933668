"""Whisper in the forms it is published in, made from transformers' model, and back: independent of the converter."""

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ctranslate2_file import model_bin

# transformers' names of an encoder's or a decoder's parts, and the others' names of them.
OPENAI = (
    (r"encoder\.embed_positions\.weight", "encoder.positional_embedding"),
    (r"decoder\.embed_positions\.weight", "decoder.positional_embedding"),
    (r"decoder\.embed_tokens", "decoder.token_embedding"),
    (r"encoder\.layer_norm\b", "encoder.ln_post"),
    (r"decoder\.layer_norm\b", "decoder.ln"),
    (r"\.layers\.", ".blocks."),
    (r"\.encoder_attn_layer_norm", ".cross_attn_ln"),
    (r"\.self_attn_layer_norm", ".attn_ln"),
    (r"\.final_layer_norm", ".mlp_ln"),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.self_attn\.", ".attn."),
    (r"\.(q|k|v)_proj", lambda found: f".{ {'q': 'query', 'k': 'key', 'v': 'value'}[found[1]] }"),
    (r"\.out_proj", ".out"),
    (r"\.fc1", ".mlp.0"),
    (r"\.fc2", ".mlp.2"),
)


def openai(model: Any, dtype: torch.dtype = torch.float16) -> dict[str, Any]:
    """Returns what openai publishes of a WhisperModel, as a .pt: sizes, and tensors by the names of its own class."""
    state = {}
    for source, tensor in model.state_dict().items():
        name = source
        for pattern, replacement in OPENAI:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor.to(dtype)
    sizes = model.config
    dims = {
        "n_mels": sizes.num_mel_bins,
        "n_vocab": sizes.vocab_size,
        "n_audio_ctx": sizes.max_source_positions,
        "n_audio_state": sizes.d_model,
        "n_audio_head": sizes.encoder_attention_heads,
        "n_audio_layer": sizes.encoder_layers,
        "n_text_ctx": sizes.max_target_positions,
        "n_text_state": sizes.d_model,
        "n_text_head": sizes.decoder_attention_heads,
        "n_text_layer": sizes.decoder_layers,
    }
    return {"dims": dims, "model_state_dict": state}


def variables(model: Any) -> dict[str, Any]:
    """Returns the variables that CTranslate2 stores of a WhisperModel, in float16 and in alphabetical order."""
    state = {name: tensor.half().numpy() for name, tensor in model.state_dict().items()}
    found: dict[str, Any] = {}

    def norm(name: str, source: str) -> None:
        found[f"{name}/gamma"], found[f"{name}/beta"] = state[f"{source}.weight"], state[f"{source}.bias"]

    def linear(name: str, *sources: str) -> None:
        found[f"{name}/weight"] = np.concatenate([state[f"{source}.weight"] for source in sources])
        lengths = [len(state[f"{source}.weight"]) for source in sources]
        parts = [state.get(f"{s}.bias", np.zeros(n, np.float16)) for s, n in zip(sources, lengths, strict=True)]
        found[f"{name}/bias"] = np.concatenate(parts)

    for side, depth in (("encoder", model.config.encoder_layers), ("decoder", model.config.decoder_layers)):
        norm(f"{side}/layer_norm", f"{side}.layer_norm")
        found[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
        found[f"{side}/num_heads"] = np.int16(getattr(model.config, f"{side}_attention_heads"))
        for i in range(depth):
            here, there = f"{side}/layer_{i}", f"{side}.layers.{i}"
            norm(f"{here}/self_attention/layer_norm", f"{there}.self_attn_layer_norm")
            linear(f"{here}/self_attention/linear_0", *(f"{there}.self_attn.{part}_proj" for part in "qkv"))
            linear(f"{here}/self_attention/linear_1", f"{there}.self_attn.out_proj")
            norm(f"{here}/ffn/layer_norm", f"{there}.final_layer_norm")
            linear(f"{here}/ffn/linear_0", f"{there}.fc1")
            linear(f"{here}/ffn/linear_1", f"{there}.fc2")
    for i in (1, 2):
        for part in ("weight", "bias"):
            found[f"encoder/conv{i}/{part}"] = state[f"encoder.conv{i}.{part}"]
    found["decoder/embeddings/weight"] = state["decoder.embed_tokens.weight"]
    found["decoder/scale_embeddings"] = np.int8(0)
    return dict(sorted(found.items()))


def ctranslate2(model: Any) -> bytes:
    """Returns the model.bin of a WhisperModel; of several equal variables, the later are aliases of the first."""
    first: dict[tuple[Any, ...], str] = {}
    kept, aliases = {}, {"decoder/projection/weight": "decoder/embeddings/weight"}
    for name, values in variables(model).items():
        found = first.setdefault((values.shape, values.tobytes()), name) if values.ndim else name
        if found == name:
            kept[name] = values
        else:
            aliases[name] = found
    return model_bin(kept, aliases)


def encoder_state(path: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of transformers' WhisperEncoder from a model.bin of CTranslate2."""
    stored = _numbers(path)
    width = len(stored["encoder/conv1/bias"])
    state = {
        "layer_norm.weight": stored["encoder/layer_norm/gamma"],
        "layer_norm.bias": stored["encoder/layer_norm/beta"],
        "embed_positions.weight": stored["encoder/position_encodings/encodings"],
    }
    for i in (1, 2):
        state |= {f"conv{i}.{part}": stored[f"encoder/conv{i}/{part}"] for part in ("weight", "bias")}
    for i in range(sum(name.endswith("/ffn/linear_0/bias") and name.startswith("encoder") for name in stored)):
        here, there = f"encoder/layer_{i}", f"layers.{i}"
        for part in ("weight", "bias"):
            mixed = stored[f"{here}/self_attention/linear_0/{part}"]
            state[f"{there}.self_attn.q_proj.{part}"] = mixed[:width]
            if part == "weight":
                state[f"{there}.self_attn.k_proj.{part}"] = mixed[width : 2 * width]
            else:
                assert not mixed[width : 2 * width].any()
            state[f"{there}.self_attn.v_proj.{part}"] = mixed[2 * width :]
            state[f"{there}.self_attn.out_proj.{part}"] = stored[f"{here}/self_attention/linear_1/{part}"]
            state[f"{there}.fc1.{part}"] = stored[f"{here}/ffn/linear_0/{part}"]
            state[f"{there}.fc2.{part}"] = stored[f"{here}/ffn/linear_1/{part}"]
        for source, target in (("self_attention", "self_attn"), ("ffn", "final")):
            state[f"{there}.{target}_layer_norm.weight"] = stored[f"{here}/{source}/layer_norm/gamma"]
            state[f"{there}.{target}_layer_norm.bias"] = stored[f"{here}/{source}/layer_norm/beta"]
    return {name: torch.from_numpy(values.astype(np.float32)) for name, values in state.items()}


def _numbers(path: Path) -> dict[str, np.ndarray]:
    """Returns the variables of a model.bin in float16."""
    with path.open("rb") as file:

        def take(layout: str) -> tuple[int, ...]:
            return struct.unpack(f"<{layout}", file.read(struct.calcsize(f"<{layout}")))

        def string() -> str:
            return file.read(*take("H"))[:-1].decode()

        take("I"), string(), take("I")
        found = {}
        for _ in range(*take("I")):
            name = string()
            shape = take(f"{take('B')[0]}I")
            kind, size = take("BI")
            values = file.read(size)
            if kind == 4:
                found[name] = np.frombuffer(values, np.float16).reshape(shape)
        return found
