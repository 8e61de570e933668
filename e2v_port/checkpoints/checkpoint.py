"""The files of one unconverted checkpoint: which they are, and how a folder names them."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from e2v_port.errors import CheckpointError, ModelNotFound, cut

__all__ = ["Checkpoint", "Find", "from_files", "gather", "local", "stays_inside"]

Find = Callable[[str], Path | None]  # from a file's name in the repository

# Files that FunASR itself looks for where a repository has no configuration.json; fetched in this order.
_USUAL = {"config": "config.yaml", "tokens": "tokens.txt", "weights": "model.pt"}
# Files that are used where they are, unless configuration.json names others: SenseVoice's scaling, vocabulary and
# pieces of words.
_OPTIONAL = {"cmvn": "am.mvn", "tokens": "tokens.json", "pieces": "chn_jpn_yue_eng_ko_spectok.bpe.model"}
# Files that transformers saves; the weights come in one of two formats, of which only this one is inherently safe. Next
# to a config.json, too, CTranslate2 has its weights.
_TRANSFORMERS = {"config": "config.json", "preprocessor": "preprocessor_config.json", "weights": "model.safetensors"}
# Where version 5 of transformers saves the preprocessor of a model that also has a tokenizer.
_PROCESSOR = "processor_config.json"
# Files of speechbrain's emotion models. Next to a hyperparams.yaml, config.json is not that of transformers.
_SPEECHBRAIN = {
    "config": "hyperparams.yaml",
    "tokens": "label_encoder.txt",
    "head_weights": "model.ckpt",
    "weights": "wav2vec2.ckpt",
}
_VOICES = {"config": "hyperparams.yaml", "weights": "embedding_model.ckpt"}  # files of its speaker encoders
_PICKLED = "pytorch_model.bin"
_CTRANSLATE2 = "model.bin"
_INDEX = ".index.json"  # ends the name of the file that lists weights in several files
_SHARD = "shard "  # begins the role of each of those
_ADAPTER = "adapter_config.json"  # of PEFT


@dataclass(frozen=True)
class Checkpoint:
    """The files of one unconverted checkpoint.

    Attributes:
        weights: PyTorch or safetensors file, or the model.bin of CTranslate2; or the index of weights in several files.
        config: config.yaml, the config.json of a transformers or CTranslate2 model, or hyperparams.yaml of speechbrain;
            None without one.
        tokens: File with the labels, one per line, or a vocabulary as a JSON list; None without one.
        preprocessor: preprocessor_config.json of a transformers model, or its processor_config.json; None without one.
        cmvn: am.mvn of a FunASR model with a front end, which scales its features; None without one.
        repository: Name of the repository on the hub, or the local path.
        hub: `modelscope`, `huggingface` or `local`.
        revision: Commit on Hugging Face; on ModelScope, which reports none, the requested revision; empty for a local
            checkpoint.
        head_weights: Weights of the head of a speechbrain model, which has two files; None for others.
        pieces: Pieces of words of a FunASR model that reads words, as sentencepiece stores them; None without them.
        shards: The files that hold the weights, where `weights` is their index.
    """

    weights: Path
    config: Path | None
    tokens: Path | None
    repository: str
    hub: str
    revision: str
    preprocessor: Path | None = None
    head_weights: Path | None = None
    cmvn: Path | None = None
    pieces: Path | None = None
    shards: tuple[Path, ...] = ()

    @property
    def tensors(self) -> tuple[Path, ...]:
        """The files that hold the weights, without those of `head_weights`."""
        return self.shards or (self.weights,)

    def sha256(self) -> str:
        """Returns the hash of these files, one after the other."""
        digest = hashlib.sha256()
        for path in self.tensors:
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        return digest.hexdigest()


def local(path: Path) -> Checkpoint:
    """Returns the checkpoint in a folder, or the one a weights file belongs to.

    A folder's configuration.json names its files. Without one, the weights are model.pt or else the only .pt file, and
    config.yaml and tokens.txt are used if they exist. In both cases so are am.mvn, and tokens.json in place of
    tokens.txt. The same files are used if they lie next to a given file.

    Args:
        path: Folder or weights file.

    Raises:
        ModelNotFound: There is no such file or folder.
        CheckpointError: The path is a device or a pipe; or the folder holds no weights or several weights files, or
            lacks a file that its configuration.json names.
    """
    if not path.exists():
        raise ModelNotFound(f"{path}: no such file or folder")
    if not (path.is_dir() or path.is_file()):
        raise CheckpointError(f"{path}: neither a folder nor a file, but a device or a pipe: pass the file itself")
    folder = path if path.is_dir() else path.parent

    def find(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    if not path.is_dir():
        beside = {
            "weights": path,
            "config": find(_VOICES["config"] if path.name == _VOICES["weights"] else _USUAL["config"])
            or find(_TRANSFORMERS["config"]),
            "tokens": find(_USUAL["tokens"]) or find(_OPTIONAL["tokens"]),
            "preprocessor": find(_preprocessor(find)),
            "cmvn": find(_OPTIONAL["cmvn"]),
            "pieces": find(_OPTIONAL["pieces"]),
            **{role: find(file) for role, file in _shards(path, path.name).items()},
        }
        if lost := [role.removeprefix(_SHARD) for role in beside if role.startswith(_SHARD) and not beside[role]]:
            raise CheckpointError(f"{path}: no {', no '.join(lost)} beside it; is the download complete?")
        return from_files(beside, str(path.resolve()), "local", "")
    found, missing, named = gather(find, optional=True)
    if not (named or found["weights"]):
        candidates = sorted(entry for entry in folder.glob("*.pt") if entry.is_file())
        if len(candidates) > 1:
            listed = ", ".join(entry.name for entry in candidates)
            raise CheckpointError(f"{path}: which of {listed} are the weights? pass that file, not the folder")
        if not candidates:
            raise CheckpointError(f"{path}: {_without_weights(folder)}")
        found["weights"], missing = candidates[0], []
    if missing:
        raise CheckpointError(f"{path}: no {', no '.join(missing)} in this folder; is the download complete?")
    return from_files(found, str(path.resolve()), "local", "")


def gather(find: Find, *, optional: bool) -> tuple[dict[str, Path | None], list[str], bool]:
    """Returns a checkpoint's files by role, the missing ones, and whether configuration.json named them.

    All the files it names are required, and all of a speechbrain model, which counts as named; but the pieces of words,
    which emotions do not need, not if `optional`. If it names none, the weights are required and, unless `optional`,
    the others.
    """
    configuration = find("configuration.json")
    named = _named(configuration) if configuration else None
    if not named and find(_SPEECHBRAIN["config"]):
        named = _VOICES if find(_VOICES["weights"]) else _SPEECHBRAIN
    names = dict(named or _USUAL)
    if not named and find(_TRANSFORMERS["config"]):
        forms = (_TRANSFORMERS["weights"], f"{_TRANSFORMERS['weights']}{_INDEX}", _PICKLED, f"{_PICKLED}{_INDEX}")
        weights = next(filter(find, (*forms, _CTRANSLATE2)), _PICKLED)
        names = _TRANSFORMERS | {"preprocessor": _preprocessor(find), "weights": weights}
        names |= _shards(find(weights), weights)
    found = {role: find(file) for role, file in names.items()}
    needed = set(names) - ({"pieces"} if optional else set())
    if optional and not named:
        needed = {role for role in names if role == "weights" or role.startswith(_SHARD)}
    if "preprocessor" not in names and named not in (_SPEECHBRAIN, _VOICES):
        found |= {role: find(file) for role, file in _OPTIONAL.items() if not found.get(role)}
    return found, [names[role] for role in names if role in needed and not found[role]], named is not None


def _preprocessor(find: Find) -> str:
    """Returns the file with the settings of the preprocessor; of two, the one that transformers prefers."""
    both = find(_PROCESSOR)
    if both is None:
        return _TRANSFORMERS["preprocessor"]
    content = _json(both)
    nested = isinstance(content, dict) and isinstance(content.get("feature_extractor"), dict)
    return _PROCESSOR if nested else _TRANSFORMERS["preprocessor"]


def _shards(index: Path | None, name: str) -> dict[str, str]:
    """Returns the files that an index of weights names, by role; none for weights in one file.

    Args:
        index: The index or the weights, if they are there.
        name: Name of that file in its repository.

    Raises:
        CheckpointError: The index cannot be read, or names a file outside its folder.
    """
    if index is None or not name.endswith(_INDEX):
        return {}
    content = _json(index)
    table = content.get("weight_map") if isinstance(content, dict) else None
    files = [*dict.fromkeys(table.values())] if isinstance(table, dict) else []
    if not files:
        raise CheckpointError(f"{index} names no file of weights; is the download complete?")
    for file in files:
        if not (isinstance(file, str) and stays_inside(file) and not file.endswith(_INDEX)):
            raise CheckpointError(f"{index}: {file!r} does not name a file of weights inside the repository")
    return {f"{_SHARD}{file}": file for file in files}


def _without_weights(folder: Path) -> str:
    """Returns what a folder without the weights of a model lacks, as far as its files show."""
    if (folder / _ADAPTER).is_file():
        return (
            "an adapter of PEFT, without the model that it changes: merge the two with merge_and_unload(), save the "
            "whole model with save_pretrained(), and convert that"
        )
    ends = (".safetensors", ".bin", ".pth", ".ckpt")
    others = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(ends) and entry.is_file())
    if not (folder / _TRANSFORMERS["config"]).is_file() and {_TRANSFORMERS["weights"], _PICKLED} & {*others}:
        return f"{others[0]} without its {_TRANSFORMERS['config']}: put that file next to it"
    usual = f"{_TRANSFORMERS['weights']}, {_PICKLED}, {_USUAL['weights']}"
    there = f"there are {cut(', '.join(others), 200)}: if one holds the weights, pass that file, not the folder"
    return f"no weights in this folder ({usual}); {there if others else 'is the download complete?'}"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not readable as JSON ({error}); delete {path.resolve()} and try again"
        ) from error


def _named(configuration: Path) -> dict[str, str] | None:
    """Returns the files that a configuration.json names, by role; None if it names no weights."""
    content = _json(configuration)
    metas = content.get("file_path_metas") if isinstance(content, dict) else None
    if not isinstance(metas, dict) or metas.get("init_param") is None:
        return None
    tokenizer, frontend = metas.get("tokenizer_conf"), metas.get("frontend_conf")
    names = {
        "config": metas.get("config"),
        "tokens": tokenizer.get("token_list") if isinstance(tokenizer, dict) else None,
        "cmvn": frontend.get("cmvn_file") if isinstance(frontend, dict) else None,
        "pieces": tokenizer.get("bpemodel") if isinstance(tokenizer, dict) else None,
        "weights": metas["init_param"],
    }
    for file in names.values():
        if file is not None and not (isinstance(file, str) and stays_inside(file)):
            raise CheckpointError(f"{configuration}: {file!r} does not name a file inside the repository")
    return {role: file for role, file in names.items() if file is not None}


def stays_inside(file: str) -> bool:
    """Returns whether a name is that of a file inside the folder it is relative to."""
    # As a Windows path, both kinds of separators count, and so do drive letters.
    path = PureWindowsPath(file)
    return bool(path.parts) and not path.anchor and ".." not in path.parts and file.isprintable()


def from_files(found: Mapping[str, Path | None], repository: str, hub: str, revision: str) -> Checkpoint:
    """Returns the checkpoint made of files by role, as `gather` returns them."""
    weights = found["weights"]
    assert weights is not None
    return Checkpoint(
        weights,
        found.get("config"),
        found.get("tokens"),
        repository,
        hub,
        revision,
        found.get("preprocessor"),
        found.get("head_weights"),
        found.get("cmvn"),
        found.get("pieces"),
        tuple(path for role, path in found.items() if path and role.startswith(_SHARD)),
    )
