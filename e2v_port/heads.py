"""Trains a new head for a converted model: labels or dimensions from its embeddings, which stay as they are."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from e2v_port import __version__, conversion, metrics, npz, training_report
from e2v_port.config import DIMENSIONS, QUANTISED, Label, ModelConfig, Source
from e2v_port.corpora import Utterance
from e2v_port.errors import AudioError, TrainingError
from e2v_port.model import Model, load
from e2v_port.training import SILENT, Progress, Task, by_corpus, threads, working

__all__ = ["HeadRecipe", "ccc_loss", "train"]

Array = NDArray[np.float32]

_AT_A_TIME = 128  # clips whose embeddings are written together: what an interruption costs


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """Everything a head depends on but model, corpora and seed.

    Attributes:
        hidden: Width of a hidden layer, which ends in a tanh; 0 for a head of one linear layer.
        epochs: How often each clip is used at most.
        batch: Clips in a step.
        rate: Learning rate of AdamW.
        decay: Its weight decay, of matrices.
        patience: Epochs without a better development set after which it ends.
    """

    hidden: int = 0
    epochs: int = 100
    batch: int = 64
    rate: float = 1e-3
    decay: float = 0.05
    patience: int = 10


def ccc_loss(outputs: Tensor, truth: Tensor) -> Tensor:
    """Returns 1 - CCC summed over the dimensions, of [B, dimensions]; `metrics.ccc` says what CCC is."""
    mean, wanted = outputs.mean(0), truth.mean(0)
    covariance = ((outputs - mean) * (truth - wanted)).mean(0)
    spread = (outputs - mean).square().mean(0) + (truth - wanted).square().mean(0) + (mean - wanted).square()
    return (1 - 2 * covariance / (spread + 1e-8)).sum()


def train(
    model: str | Path,
    task: Task,
    out: Path,
    recipe: HeadRecipe,
    *,
    licence: str | None = None,
    number_of_threads: int | None = None,
    runtime: str = "auto",
    offline: bool = False,
    restart: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Trains a head and writes it with the tensors of its model, as they are, as a converted model.

    The embeddings are kept in a hidden folder beside `out` until it is done, so that the same call after an
    interruption does not compute them again. The report is written beside `out`.

    Args:
        model: As for `e2v_port.load`.
        task: What to learn.
        out: The folder to write.
        recipe: How.
        licence: Of the weights; by default what the model and the corpora say.
        number_of_threads: Of torch.
        runtime: That computes the embeddings.
        offline: As for `e2v_port.load`.
        restart: See `training.working`.
        progress: Told of the embeddings and of the best epoch.

    Returns:
        The report, as training.json holds it.

    Raises:
        TrainingError: The model is stored packed, `out` is taken, another training was interrupted there, or no file
            can be read.
        ModelNotFound, DownloadError, CheckpointError, RuntimeUnavailable: As for `e2v_port.load`.
        OSError: The disk is full.
    """
    folder = conversion.folder_of(model, offline=offline)
    old = ModelConfig.read(folder)
    if old.dtype in QUANTISED:  # packed numbers, unpacked and packed again, are others
        raise TrainingError(f"{folder} is stored as {old.dtype}: train on the model as float32, float16 or bfloat16")
    settings = {
        "kind": "head",
        **task.to_dict(),
        "model": {"repository": old.source.repository, "sha256": old.source.sha256, "dtype": old.dtype},
        "recipe": asdict(recipe),
    }
    with working(out, settings, restart) as work, threads(number_of_threads) as used:
        began = time.perf_counter()
        for note in task.notes:
            progress.say(note)
        config = replace(
            old,
            architecture=replace(old.architecture, head_dim=recipe.hidden, num_labels=len(task.outputs)),
            labels=tuple(Label(name, name, unused=False) for name in task.outputs),
            temperature=1.0,
            licence=licence or f"{old.licence}; head {task.licence}",
            source=Source(f"head trained here on {old.source.repository}", "local", "", "", ""),
            converter=f"e2v-port {__version__}",
        )
        loaded = load(folder, runtime=runtime, offline=offline)
        sets = {part: _Set(task, part, loaded, work, progress) for part in ("train", "dev")}
        head, curve, best = _fit(task, sets["train"], sets["dev"], recipe, config)
        backbone = {
            name: value.float().numpy()
            for name, value in load_file(folder / "model.safetensors").items()
            if not name.startswith("head.")
        }
        import_module("e2v_port.converters.weights").store(out, config, lambda: iter((backbone | head).items()))
        outputs = _applied(head, sets["dev"].embeddings, config)
        score = "CCC" if task.dimensional else "UAR"
        progress.say(f"best epoch {best} of {len(curve)}: dev {score} {curve[best - 1]['score']:.3f}")
        report = {
            **settings,
            "licence": config.licence,
            "threads": used,
            "parameters": sum(value.size for value in (backbone | head).values()),
            "hours": {part: found.seconds / 3600 for part, found in sets.items()},
            "curve": curve,
            "best": best,
            "score": score,
            "dev": _judged(task, sets["dev"], outputs),
            "seconds": time.perf_counter() - began,
        }
        training_report.write(out, report)
    return report


class _Set:
    """The clips of one part that can be read.

    Attributes:
        embeddings: [clips, D].
        targets: Indices of labels [clips], or dimensions [clips, 3].
        corpora: Names, [clips].
        seconds: Of all clips together.
    """

    def __init__(self, task: Task, part: str, model: Model, work: Path, progress: Progress) -> None:
        ones = task.parts[part]
        rows: list[Array] = []
        with progress.bar(len(ones), f"embeddings of {part}") as advance:
            for start in range(0, len(ones), _AT_A_TIME):
                rows.append(_embedded(ones[start : start + _AT_A_TIME], model, work / f"{part}-{start}.npz", progress))
                for _ in ones[start : start + _AT_A_TIME]:
                    advance()
        found = np.concatenate(rows)
        readable = np.flatnonzero(found[:, 0])
        if not len(readable):
            raise TrainingError(f"no file of {part} can be read: see above")
        known = [ones[i] for i in readable]
        self.seconds = float(found[:, 0].sum())
        self.embeddings: Array = found[readable, 1:]
        self.corpora = [one.corpus for one in known]
        self.targets: NDArray[Any] = (
            np.array([[getattr(one.dimensions, name) for name in DIMENSIONS] for one in known], dtype=np.float32)
            if task.dimensional
            else np.array([task.outputs.index(one.label or "") for one in known])
        )


def _embedded(ones: Sequence[Utterance], model: Model, kept: Path, progress: Progress) -> Array:
    """Returns a row for each clip, its length in seconds and its embedding; zeros for one that cannot be read."""
    if kept.is_file():
        with np.load(kept) as file:
            rows: Array = file["rows"]
            return rows
    rows = np.zeros((len(ones), 1 + model.embed_dim), dtype=np.float32)
    for row, result in zip(rows, model.each(one.file for one in ones), strict=True):
        if isinstance(result, AudioError):
            progress.say(f"left out: {result}")
        else:
            row[0], row[1:] = result[0], result[1].embedding
    with npz.writing(kept) as add:
        add("rows", rows)
    return rows


def _fit(
    task: Task, train: _Set, dev: _Set, recipe: HeadRecipe, config: ModelConfig
) -> tuple[dict[str, Array], list[dict[str, Any]], int]:
    """Returns the tensors of the best head, the curve and the epoch it is from."""
    torch.manual_seed(task.seed)
    mean = train.embeddings.mean(0, dtype=np.float64)
    deviation = np.maximum(train.embeddings.std(0, dtype=np.float64), 1e-6)  # what never changes says nothing
    inputs = torch.from_numpy(((train.embeddings - mean) / deviation).astype(np.float32))
    targets = torch.from_numpy(train.targets)
    head = import_module("e2v_port.runtimes.layers_torch").Head(config.architecture)
    matrices = [value for value in head.parameters() if value.ndim > 1]
    biases = [value for value in head.parameters() if value.ndim == 1]
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate)
    # As scikit-learn's "balanced": each label counts as much as any other.
    weights = None if task.dimensional else torch.from_numpy(_balanced(train.targets)).float()
    curve: list[dict[str, Any]] = []
    best, best_head = 0, _folded(head, mean, deviation, config)
    while len(curve) < recipe.epochs and len(curve) - best < recipe.patience:
        losses = []
        for batch in torch.split(torch.randperm(len(inputs)), recipe.batch):
            if task.dimensional and len(batch) < 2:
                continue  # one clip correlates with nothing
            outputs = head(inputs[batch])
            if task.dimensional:
                loss = ccc_loss(outputs, targets[batch])
            else:
                loss = F.cross_entropy(outputs, targets[batch], weights)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        folded = _folded(head, mean, deviation, config)
        judged = _development(task, dev, _applied(folded, dev.embeddings, config))
        curve.append({"epoch": len(curve) + 1, "loss": float(np.mean(losses)), **judged})
        if best == 0 or judged["score"] > curve[best - 1]["score"]:
            best, best_head = len(curve), folded
    return best_head, curve, best


def _balanced(targets: NDArray[Any]) -> NDArray[np.float64]:
    counts = np.bincount(targets)
    return np.asarray(len(targets) / (len(counts) * np.maximum(counts, 1)))


def _folded(head: nn.Module, mean: NDArray[Any], deviation: NDArray[Any], config: ModelConfig) -> dict[str, Array]:
    """Returns the head's tensors for embeddings as they are, rounded to the type they are stored in."""
    tensors = {f"head.{name}": value.detach().double() for name, value in head.state_dict().items()}
    first = "head.dense" if config.architecture.head_dim else "head"
    weight = tensors[f"{first}.weight"] / torch.from_numpy(deviation)
    tensors[f"{first}.bias"] = tensors[f"{first}.bias"] - weight @ torch.from_numpy(mean)
    tensors[f"{first}.weight"] = weight
    dtype: torch.dtype = getattr(torch, config.dtype)
    return {name: value.float().to(dtype).float().numpy() for name, value in tensors.items()}


def _applied(head: Mapping[str, Array], embeddings: Array, config: ModelConfig) -> Array:
    """Returns what a stored head makes of embeddings: [clips, outputs]."""
    stored = import_module("e2v_port.runtimes.layers_torch").Head(config.architecture)
    stored.load_state_dict({name.removeprefix("head."): torch.from_numpy(value) for name, value in head.items()})
    with torch.inference_mode():
        outputs: Array = stored(torch.from_numpy(embeddings)).numpy()
    return outputs


def _development(task: Task, dev: _Set, outputs: Array) -> dict[str, Any]:
    """Returns the score of each corpus, or CCC of each dimension over all of them; their mean; the loss."""
    given, truth = torch.from_numpy(outputs), torch.from_numpy(dev.targets)
    if task.dimensional:
        scores = _ccc(dev.targets, outputs)
        loss = ccc_loss(given, truth)
    else:
        judged = _judged(task, dev, outputs)
        scores = {name: found["uar"] for name, found in judged.items()}
        loss = F.cross_entropy(given, truth)
    return {"scores": scores, "score": float(np.mean([*scores.values()])), "dev_loss": loss.item()}


def _judged(task: Task, dev: _Set, outputs: Array) -> dict[str, dict[str, Any]]:
    """Returns the figures of each corpus."""
    if not task.dimensional:
        return by_corpus(dev.targets, outputs.argmax(1), dev.corpora, len(task.outputs))
    names = np.array(dev.corpora)
    return {
        name: {"ccc": _ccc(dev.targets[names == name], outputs[names == name])} for name in dict.fromkeys(dev.corpora)
    }


def _ccc(truth: NDArray[Any], outputs: Array) -> dict[str, float]:
    pairs = zip(DIMENSIONS, truth.T.astype(np.float64), outputs.T.astype(np.float64), strict=True)
    found = {name: float(metrics.ccc(metrics.moments(wanted, given))) for name, wanted, given in pairs}
    return {name: value if np.isfinite(value) else 0.0 for name, value in found.items()}
