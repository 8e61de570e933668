"""The folder of a speech language model: config.json, adapter.safetensors and a card.

It holds what was trained, in 16 bits: the adapter, and the low-rank matrices of the language model. The language model
and the encoders are named, by hub or folder, revision and hash, and not copied.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from e2v_port.errors import CheckpointError
from e2v_port.files import replacing
from e2v_port.llm.adapter import Adapter, AdapterConfig
from e2v_port.llm.language import Language
from e2v_port.version import __version__

__all__ = ["FORMAT", "WEIGHTS", "Stored", "matrices", "merged", "read", "write"]

FORMAT = 1  # of config.json and of the names in adapter.safetensors; a reader refuses any other
WEIGHTS = "adapter.safetensors"
_KIND = "speech-lm"
_ADAPTER, _LANGUAGE = "adapter.", "language."


@dataclass(frozen=True)
class Stored:
    """A speech language model as it is stored.

    Attributes:
        hears: What the language model gets of a remark: `speech`, `words` or `label`, see `dialogue.recipe.Recipe`.
        system: Instruction to the language model.
        language: Where it is from: `name` (hub repository or folder), `revision`, `width`, `licence` and, if it is from
            a folder, `sha256` of its weights.
        encoders: Where `semantic`, `emotion` and `speaker` are from: `name`, `revision` and `sha256` of each; None for
            one that the adapter does not use. Empty without an adapter.
        adapter: Its sizes; None if the language model gets text.
        tensors: Tensors of the adapter.
        low_rank: Matrices by the name of their layer, `NAME.a` [rank, in] and `NAME.b` [out, rank]; their product is
            added to its weights, scaled already. Empty after stage 1 alone.
        training: What it was trained on and how, as JSON-compatible values.
    """

    hears: str
    system: str
    language: Mapping[str, Any]
    encoders: Mapping[str, Mapping[str, Any] | None]
    adapter: AdapterConfig | None
    tensors: Mapping[str, Tensor]
    low_rank: Mapping[str, Tensor]
    training: Mapping[str, Any]

    @property
    def speakers(self) -> frozenset[str]:
        """Speakers whose clips determined its weights, e.g. `ravdess/01`."""
        corpora = self.training.get("corpora", [])
        return frozenset(speaker for corpus in corpora for speaker in corpus.get("speakers", {}).get("train", ()))


def write(stored: Stored, folder: Path, card: str) -> None:
    """Writes the three files, config.json last; each appears complete or not at all.

    Args:
        stored: The model.
        folder: Folder to write to.
        card: Text of README.md.

    Raises:
        CheckpointError: A number does not fit into 16 bits: the training has diverged.
        OSError: The folder cannot be written to.
    """
    tensors = {_ADAPTER + name: value for name, value in stored.tensors.items()}
    tensors |= {_LANGUAGE + name: value for name, value in stored.low_rank.items()}
    halved = {name: value.detach().cpu().half().contiguous() for name, value in tensors.items()}
    if wrong := [name for name, value in halved.items() if not bool(torch.isfinite(value).all())]:
        raise CheckpointError(f"{folder}: {wrong[0]} does not fit into 16 bits: train again at a lower rate")
    config = {
        "kind": _KIND,
        "format": FORMAT,
        "hears": stored.hears,
        "system": stored.system,
        "language": dict(stored.language),
        "encoders": {name: value and dict(value) for name, value in stored.encoders.items()},
        "adapter": stored.adapter and stored.adapter.to_dict(),
        "training": dict(stored.training),
        "converter": f"e2v-port {__version__}",  # marks the folder as one that a training may replace
    }
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS) as partial:
        partial.write_bytes(save(halved))  # save_file would let nobody else read it
    with replacing(folder / "README.md") as partial:
        partial.write_text(card, "utf-8", newline="\n")
    with replacing(folder / "config.json") as partial:
        partial.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", "utf-8", newline="\n")


def read(folder: Path) -> Stored:
    """Reads what `write` wrote.

    Raises:
        CheckpointError: It is missing, damaged, of another format or not of this kind, or has numbers that are not
            finite.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        if not isinstance(config, dict) or config.get("kind") != _KIND:
            raise CheckpointError(f"{folder}: not a speech language model: make one with e2v dialogue train")
        if config["format"] != FORMAT:
            raise CheckpointError(f"{folder}: format {config['format']}, this program reads {FORMAT}: train it again")
        _check(config)
        tensors = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
        if wrong := [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]:
            raise ValueError(f"{wrong[0]} has numbers that are not finite")
        return Stored(
            hears=config["hears"],
            system=config["system"],
            language=config["language"],
            encoders=config["encoders"],
            adapter=config["adapter"] and AdapterConfig.from_dict(config["adapter"]),
            tensors=_within(tensors, _ADAPTER),
            low_rank=_within(tensors, _LANGUAGE),
            training=config["training"],
        )
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: no speech language model: make one with e2v dialogue train") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: damaged ({error}): copy it again") from error


def _check(config: Mapping[str, Any]) -> None:
    """Raises ValueError for values that `write` does not write; those of `adapter` are left to its own check."""
    kinds = {"hears": str, "system": str, "language": dict, "encoders": dict, "training": dict}
    for name, kind in kinds.items():
        if not isinstance(config[name], kind):
            raise ValueError(f"{name} is no {'text' if kind is str else 'object'}")
    for name, about in {"language": config["language"], **config["encoders"]}.items():
        if about is not None and not (isinstance(about, dict) and isinstance(about.get("name"), str)):
            raise ValueError(f"{name} has no name")
    if config["hears"] not in ("speech", "words", "label") or (config["hears"] == "speech") != bool(config["adapter"]):
        raise ValueError(f"no model hears {config['hears']} {'with' if config['adapter'] else 'without'} an adapter")
    corpora = config["training"].get("corpora", [])
    if not isinstance(corpora, list) or not all(isinstance(corpus, dict) for corpus in corpora):
        raise ValueError("training has no list of corpora")


def _within(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def merged(stored: Stored, language: Language) -> Adapter | None:
    """Adds the low-rank matrices to the weights of a language model, and returns the adapter.

    Args:
        stored: The model.
        language: The language model it names, as it was loaded; changed in place.

    Returns:
        The adapter, on the device of the language model; None if the language model gets text.

    Raises:
        CheckpointError: The tensors do not fit, or its folder holds other weights than in training.
    """
    if stored.adapter and stored.adapter.words != language.width:
        raise CheckpointError(
            f"{language.name}: embeddings of {language.width} numbers, the adapter gives {stored.adapter.words}: load "
            f"{stored.language['name']}"
        )
    wanted = stored.language.get("sha256", "")
    if language.name == stored.language["name"] and language.sha256 != wanted != "":
        raise CheckpointError(
            f"{language.name}: holds another language model than this one was trained with (sha256 "
            f"{language.sha256[:12]}..., not {wanted[:12]}...): put that one back, or train again with this"
        )
    layers = dict(language.model.named_modules())
    names = {name.rpartition(".")[0] for name in stored.low_rank}
    for name in sorted(names):
        try:
            weight, first, second = layers[name].weight, stored.low_rank[f"{name}.a"], stored.low_rank[f"{name}.b"]
            added = second @ first
            if added.shape != weight.shape:  # which torch might repeat until it fits
                raise RuntimeError(f"{list(added.shape)} to {list(weight.shape)}")
            with torch.no_grad():
                weight += added.to(weight.device, weight.dtype)
        except (KeyError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{language.name}: does not fit the matrices of {name}: load the model named"
            ) from error
    if stored.adapter is None:
        return None
    try:
        adapter = Adapter(stored.adapter)
        adapter.load_state_dict(dict(stored.tensors))
    except RuntimeError as error:
        raise CheckpointError(f"the tensors of the adapter do not fit its sizes: {error}") from error
    return adapter.to(language.device).eval()


def matrices(model: Any) -> dict[str, Tensor]:
    """Returns the low-rank matrices that peft trained, under the names of `Stored.low_rank`.

    Args:
        model: Of `peft.get_peft_model`.
    """
    found: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A") and "default" in layer.lora_A:
            short = name.removeprefix("base_model.model.")
            scale = float(np.sqrt(layer.scaling["default"]))  # half of it each, so that both stay within 16 bits
            found[f"{short}.a"] = layer.lora_A["default"].weight.detach() * scale
            found[f"{short}.b"] = layer.lora_B["default"].weight.detach() * scale
    return found
