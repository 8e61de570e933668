"""Small speech language models and dialogues that tests make themselves: random weights, and features that can be
learned from.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from e2v_port.dialogue.replies import LABELS, replies
from e2v_port.llm.adapter import Adapter, AdapterConfig
from e2v_port.llm.stored import Stored, write

SENTENCES = ("Kids are talking by the door.", "It is eleven o'clock.", "The dogs are here.")
REPLIES = {
    label: min((text.partition(".")[0] + "." for text in replies(label, "normal")), key=lambda text: (len(text), text))
    for label in LABELS
}
"""The shortest opening of the published replies to each tone."""
TONES = ("angry", "happy", "neutral", "sad")
WIDTHS = (16, 12, 8)  # of semantic frames, emotion frames and speaker embeddings

_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As the chat templates of the published models, less their default instructions.
TEMPLATES = {
    "Llama": _CHATML,
    "Qwen2": _CHATML,
    "Phi3": "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "Mistral": "<s>{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }}"
    "[/INST]{% elif message['role'] == 'assistant' %} {{ message['content'] }}</s>{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
}
_ENDS = {"Llama": "<|im_end|>", "Qwen2": "<|im_end|>", "Phi3": "<|end|>", "Mistral": "</s>"}
_SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def toy_language(folder: Path, architecture: str = "Llama", *, width: int = 32, seed: int = 0) -> Path:
    """Writes a causal language model with random weights and its tokenizer, as transformers stores them.

    Args:
        folder: Folder to write to; it is made.
        architecture: A key of `TEMPLATES`.
        width: Width of the embeddings.
        seed: Of the weights.
    """
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = [*SENTENCES, *(text for label in LABELS for text in replies(label, "normal")), "system user assistant"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=_SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token=_ENDS[architecture], pad_token="<pad>"
    )
    wrapped.chat_template = TEMPLATES[architecture]
    wrapped.save_pretrained(folder)
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=len(wrapped) + 8,  # room for tokens that transformers adds for some architectures
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=wrapped.bos_token_id,
        eos_token_id=wrapped.eos_token_id,
        pad_token_id=wrapped.pad_token_id,
        tie_word_embeddings=True,
        initializer_range=0.2,  # as the layers are narrow; with the usual 0.02 they pass almost nothing on
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{architecture}ForCausalLM")(config)
        # With embeddings as small, no low-rank matrix could make one word much likelier than another.
        model.get_input_embeddings().weight.data *= 2.5
    model.generation_config.eos_token_id = wrapped.eos_token_id
    model.save_pretrained(folder)
    return folder


def encoders(speaker: bool = True) -> dict[str, dict[str, str] | None]:
    """Returns the bundled models as the encoders of dialogues or of a model: the content of encoders.json."""
    return {
        "semantic": _named("bundled"),
        "emotion": _named("bundled"),
        "speaker": _named("bundled-voices") if speaker else None,
    }


def _named(name: str) -> dict[str, str]:
    weights = Path(__file__).parents[1] / "weights" / name / "model.safetensors"
    return {"name": name, "revision": "", "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}


def toy_dialogues(
    folder: Path,
    *,
    speakers: Sequence[int] = (6, 2, 2),
    tones: Sequence[str] = TONES,
    widths: Sequence[int] = WIDTHS,
    with_features: bool = True,
) -> Path:
    """Writes dialogues in which emotion frames give the tone, semantic frames the words, and the reply fits the tone.

    Every speaker says each of `SENTENCES` in every tone. The audio that the rows name does not exist.

    Args:
        folder: Folder to write to; it is made.
        speakers: How many speak in train, dev and test.
        tones: Labels.
        widths: Of semantic frames, emotion frames and speaker embeddings.
        with_features: Whether to write features and encoders.json.
    """
    fixed = np.random.default_rng(0)
    words = {text: fixed.normal(size=(6, widths[0])) for text in SENTENCES}
    colors = {label: fixed.normal(size=widths[1]) for label in LABELS}
    (folder / "features").mkdir(parents=True)
    number = 0
    for part, count in zip(("train", "dev", "test"), speakers, strict=True):
        rows = []
        for _ in range(count):
            number += 1
            draw = np.random.default_rng(number)
            voice = draw.normal(size=widths[2])
            for sentence, text in enumerate(SENTENCES):
                for tone in tones:
                    name = f"{number:02}-{sentence}-{tone}"
                    length = int(draw.integers(30, 50))
                    semantic = np.repeat(words[text], -(-length // 6), axis=0)[:length]
                    if with_features:
                        np.savez(
                            folder / "features" / f"{name}.npz",
                            semantic=(semantic + 0.3 * draw.normal(size=semantic.shape)).astype(np.float16),
                            emotion=(colors[tone] + 0.3 * draw.normal(size=(length, widths[1]))).astype(np.float16),
                            speaker=(voice + 0.1 * draw.normal(size=widths[2])).astype(np.float16),
                        )
                    rows.append(
                        {
                            "audio_path": f"toy/{name}.wav",
                            "transcript": text,
                            "emotion_label": tone,
                            "intensity": "strong" if number % 2 else "normal",
                            "assistant_reply": REPLIES[tone],
                            "context": [],
                            "corpus": "toy",
                            "speaker": f"toy/{number:02}",
                            "sex": "female" if number % 2 else "male",
                            "language": "English",
                            "features": f"features/{name}.npz" if with_features else None,
                        }
                    )
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    if with_features:
        (folder / "encoders.json").write_text(json.dumps(encoders(), indent=2) + "\n", "utf-8")
    return folder


def toy_model(
    folder: Path,
    language: Path,
    *,
    hears: str = "speech",
    widths: Sequence[int] = (512, 512, 256),
    seed: int = 0,
    **sizes: Any,
) -> Path:
    """Writes a speech language model with random weights: as `e2v dialogue train` would, less the training.

    Args:
        folder: Folder to write to; it is made.
        language: Folder of `toy_language`, Llama.
        hears: `speech`, `words` or `label`.
        widths: Of semantic frames, emotion frames and speaker embeddings; by default those of the bundled models,
            which it names as its encoders.
        seed: Of the weights.
        sizes: Further settings of `AdapterConfig`.
    """
    layers = json.loads((language / "config.json").read_text("utf-8"))
    width = layers["hidden_size"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        low_rank = {}
        for number in range(layers["num_hidden_layers"]):
            for name in ("self_attn.q_proj", "self_attn.o_proj"):  # square ones
                low_rank[f"model.layers.{number}.{name}.a"] = 0.2 * torch.randn(4, width)
                low_rank[f"model.layers.{number}.{name}.b"] = 0.2 * torch.randn(width, 4)
        config, tensors = None, {}
        if hears == "speech":
            settings = {"width": 32, "heads": 4, "hidden": 32, **sizes}
            config = AdapterConfig(widths[0], width, LABELS, widths[1], widths[2], **settings)
            adapter = Adapter(config, loudness=0.5)
            adapter.name_tones(0.5 * torch.randn(len(LABELS), width))
            tensors = dict(adapter.state_dict())
    write(
        Stored(
            hears=hears,
            system="Reply to the words and the tone.",
            language={"name": str(language), "revision": "", "width": width, "licence": "unknown"},
            encoders=encoders() if config else {},
            adapter=config,
            tensors=tensors,
            low_rank=low_rank,
            training={"corpora": [{"name": "toy", "licence": None}], "seed": seed},
        ),
        folder,
        "A toy.\n",
    )
    return folder
