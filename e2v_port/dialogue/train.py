"""Trains a speech language model on dialogues and writes its folder and its report."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from e2v_port.checkpoints.clients import without_telemetry
from e2v_port.checkpoints.hubs import offline_by_environment
from e2v_port.dialogue import features
from e2v_port.dialogue import report as pages
from e2v_port.dialogue.examples import Example, read
from e2v_port.dialogue.recipe import Recipe
from e2v_port.dialogue.stages import PARTS, Stages
from e2v_port.errors import CorpusError, RuntimeUnavailable, TrainingError
from e2v_port.evaluation.datasets import published
from e2v_port.host import limited, own_settings
from e2v_port.llm import language as languages
from e2v_port.llm import stored
from e2v_port.llm.card import card
from e2v_port.models import devices
from e2v_port.processes import peak_memory
from e2v_port.training import report as training_report
from e2v_port.training.task import SILENT, Progress, working

__all__ = ["train"]


def train(
    dialogues: Path,
    language: str,
    out: Path,
    recipe: Recipe,
    *,
    revision: str | None = None,
    device: str = "auto",
    number_of_threads: int | None = None,
    restart: bool = False,
    offline: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Trains a speech language model on dialogues and writes its folder and its report.

    The weights of the last epoch of either stage are kept: the learning rate has reached zero there, and nothing is
    chosen by the development set, so that its figures stay honest. After each epoch of stage 1, and every minute of
    stage 2, the state of the training is written to a hidden folder next to `out`. On a CPU, repeating an interrupted
    call with the same number of threads gives the same weights as an uninterrupted one.

    Args:
        dialogues: Folder of `e2v dialogue prepare`, with features unless the model hears text.
        language: Hub repository or folder of a causal language model, as for `llm.language.load`.
        out: Folder of the model.
        recipe: Settings of the training.
        revision: Revision of the language model on its hub.
        device: `auto`, `cpu` or `cuda`; the language model is in bfloat16 on `cuda`, in float32 elsewhere.
        number_of_threads: Number of threads of torch; by default its own choice.
        restart: Whether to discard an interrupted training and replace an existing model.
        offline: Never open a connection; `E2V_OFFLINE=1` does the same.
        progress: Receives a line per epoch or minute.

    Returns:
        The report, as stored in training.json.

    Raises:
        TrainingError: `out` is in use, another training was interrupted there, or memory on the GPU is not enough.
        CorpusError: The dialogues cannot be used.
        CheckpointError: The language model cannot be used.
        RuntimeUnavailable: The device or a library is missing.
        OSError: The disk is full.
    """
    device = _device(device)
    language = os.path.abspath(language) if os.path.exists(language) else language
    if 2 in recipe.stages:
        import_module("peft")  # raises at once rather than after stage 1
    clips = {part: read(dialogues, part) for part in PARTS}
    about = features.encoders(dialogues) if recipe.hears == "speech" else {}
    _check(clips, about, recipe)
    settings = {
        "kind": "speech language model",
        "dialogues": _hash(dialogues, about),
        "language": language,
        "revision": revision,
        "device": device,
        "recipe": recipe.to_dict(),
    }
    names = ("config.json", stored.WEIGHTS, "README.md")
    with (
        working(out, settings, restart, names) as work,
        limited(number_of_threads) as threads,
        own_settings(device, inference=False),
        _enough_memory(),
    ):
        dtype = "bfloat16" if device == "cuda" else "float32"
        lm = languages.load(language, revision=revision, device=device, dtype=dtype, offline=offline)
        run = Stages(lm, clips, recipe, work, progress)
        run.prepare()
        run.align()
        run.tune()
        licence = _licence(language, revision, offline)
        used = {"semantic": True, "emotion": recipe.emotion, "speaker": recipe.speaker}
        model = stored.Stored(
            hears=recipe.hears,
            system=recipe.system,
            language={
                "name": lm.name,
                "revision": lm.revision,
                "sha256": lm.sha256,
                "width": lm.width,
                "licence": licence,
            },
            encoders={kind: each if used[kind] else None for kind, each in about.items()},
            adapter=run.adapter.config if run.adapter else None,
            tensors=run.adapter.state_dict() if run.adapter else {},
            low_rank=stored.matrices(lm.model) if 2 in recipe.stages else {},
            training={**_corpora(clips), "recipe": recipe.to_dict(), "seconds": run.seconds, **run.figures()},
        )
        stored.write(model, out, card(model))
        report = {
            **settings,
            **model.training,
            "language": dict(model.language),
            "encoders": dict(model.encoders),
            "threads": threads,
            "parameters": {
                "adapter": sum(value.numel() for value in model.tensors.values()),
                "low_rank": sum(value.numel() for value in model.low_rank.values()),
            },
            "bytes": (out / stored.WEIGHTS).stat().st_size,
            "peak_bytes": peak_memory(),
            "device_peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
            "align": run.aligned,
            "tune": run.tuned,
        }
        training_report.write(out, report, pages.html)
    return report


def _device(name: str) -> str:
    if name not in {"auto", "cpu", "cuda"}:
        raise RuntimeUnavailable(f"no training on {name}: use auto, cpu or cuda")
    if name == "auto":
        return "cpu" if devices.unavailable("cuda") else "cuda"
    if reason := devices.unavailable(name):
        raise RuntimeUnavailable(f"device {name} is not available: {reason}")
    return name


def _check(
    clips: Mapping[str, Sequence[Example]], about: Mapping[str, Mapping[str, Any] | None], recipe: Recipe
) -> None:
    """Raises CorpusError for dialogues that this recipe cannot train on, before anything takes time."""
    if len({clip.emotion for clip in clips["train"]}) < 2:
        raise CorpusError("all training clips have the same tone: prepare dialogues with at least two")
    if recipe.hears != "speech":
        return
    if recipe.speaker and about["speaker"] is None:
        raise CorpusError("the dialogues have no speaker features: prepare them with --speaker MODEL, or train without")
    for part in PARTS:
        for clip in clips[part]:
            if clip.features is None or not clip.features.is_file():
                raise CorpusError(f"{clip.audio}: has no features: run e2v dialogue prepare again with --semantic")


def _hash(dialogues: Path, about: Mapping[str, Any]) -> str:
    """Returns a hash of the rows and of the encoders of their features."""
    hashed = hashlib.sha256(repr({kind: each and each["sha256"] for kind, each in about.items()}).encode())
    for part in PARTS:
        hashed.update(hashlib.sha256((dialogues / f"{part}.jsonl").read_bytes()).digest())
    return hashed.hexdigest()


def _corpora(clips: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
    """Returns what was trained on: licenses and speakers by corpus, and the number of clips."""
    names = sorted({clip.corpus for part in PARTS for clip in clips[part]})
    known = published()["corpora"]
    return {
        "corpora": [
            {
                "name": name,
                "licence": known.get(name, {}).get("licence"),
                "speakers": {
                    part: sorted({clip.speaker for clip in clips[part] if clip.corpus == name}) for part in PARTS
                },
            }
            for name in names
        ],
        "clips": {part: len(clips[part]) for part in PARTS},
    }


def _licence(language: str, revision: str | None, offline: bool) -> str:
    """Returns the license that the model card of a language model declares; `unknown` without one."""
    from transformers.utils.hub import cached_file

    if Path(language).exists():
        file: str | Path | None = Path(language) / "README.md"
    else:  # transformers has just fetched its other files
        with without_telemetry():
            file = cached_file(
                language,
                "README.md",
                revision=revision,
                local_files_only=offline or offline_by_environment(),
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
    text = Path(file).read_text("utf-8", errors="replace") if file and Path(file).is_file() else ""
    found = re.match(r"---\n(?:.*\n)*?license: *([\w.-]+) *\n(?:.*\n)*?---", text)
    return found[1] if found else "unknown: see where the language model came from"


@contextmanager
def _enough_memory() -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        remedy = "halve batch and double accumulate in the recipe, which trains the same"
        raise TrainingError(f"the memory of the GPU is not enough: {remedy}") from error
