"""Trains a new head, for labels or dimensions, on a converted model: on its embeddings, or on layers of a transformer.

The layers may be weighted and pooled by attention, both learned with the head, and the last blocks may be fine-tuned.
"""

import copy
import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from e2v_port import seam
from e2v_port.architectures import tensors as layout
from e2v_port.architectures.base import POOLINGS, Architecture, Readout, Transformer
from e2v_port.architectures.config import Label, ModelConfig, Source
from e2v_port.architectures.quantization import QUANTIZED, unpack
from e2v_port.checkpoints import catalog
from e2v_port.emotions.adaptation import label_means
from e2v_port.errors import TrainingError, quoted
from e2v_port.host import limited, own_settings
from e2v_port.models import convert, means
from e2v_port.models.load import load
from e2v_port.training import report as training_report
from e2v_port.training.augmentation import Augmentation
from e2v_port.training.features import Features, Part, gather, recorded
from e2v_port.training.finetuning import Clips, Schedule, Start, finetune
from e2v_port.training.objective import Objective
from e2v_port.training.pooling import Own, Pooling
from e2v_port.training.task import SILENT, Progress, Task, check_readable, load_state, save_state, seeded, working
from e2v_port.version import __version__

__all__ = ["HeadRecipe", "layers_of", "train"]

Array = NDArray[np.float32]

_AT_A_TIME = 256  # clips whose embeddings are made at once


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """Everything a head depends on, except the model, the corpora and the seed.

    Attributes:
        layers: Layers of a transformer that the embedding is made of: `3`, `2-4`, `2,4` or `weighted` for all. Several
            are summed with learned weights. Empty for the model's own embedding.
        pooling: How they are pooled over time, as in `architectures.base.Readout`.
        heads: Heads of attention pooling.
        hidden: Width of a hidden layer with tanh activation; 0 for a single linear layer.
        dropout: Share of the embedding that is hidden from the head.
        epochs: Largest number of epochs.
        batch: Number of clips per step.
        rate: Learning rate of AdamW.
        decay: Weight decay of AdamW, for matrices only.
        patience: Number of epochs without a better development score after which training stops.
        copies: Number of augmented copies of each training clip. Each time a clip is used, the clip itself or one of
            its copies is drawn; the development score counts one copy of each clip as well.
        augmentation: How the copies are made.
        finetune: Number of blocks, counted from the last one that is kept, that are trained after the head is.
        finetune_rate: Highest learning rate of these blocks. The head then learns at ten times this rate.
        finetune_epochs: Number of epochs in which they are trained.
        finetune_batch: Number of clips per step.
    """

    layers: str = ""
    pooling: str = "deviation"
    heads: int = 4
    hidden: int = 0
    dropout: float = 0.0
    epochs: int = 100
    batch: int = 64
    rate: float = 1e-3
    decay: float = 0.05
    patience: int = 10
    copies: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    finetune: int = 0
    finetune_rate: float = 1e-5
    finetune_epochs: int = 10
    finetune_batch: int = 16


def layers_of(text: str, blocks: int) -> tuple[int, ...]:
    """Returns the numbers of the layers that a text such as `3`, `2-4`, `2,4` or `weighted` stands for.

    Args:
        text: The text.
        blocks: Number of blocks of the model.

    Raises:
        TrainingError: The text stands for no layers, or for some that the model does not have.
    """
    if text == "weighted":
        return tuple(range(1, blocks + 1))
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdecimal() and 1 <= int(end) <= blocks for end in ends):
            found = set()
            break
        found |= {*range(int(ends[0]), int(ends[1]) + 1)}
    if not found:
        raise TrainingError(
            f"--layers must be like 3, 2-4, 2,4 or weighted, from 1 to {blocks} for this model, not {quoted(text)}"
        )
    return tuple(sorted(found))


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
    features: Path | None = None,
    restart: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Trains a head and writes it, with the tensors of its model that are still used, as a converted model.

    Only the blocks that are fine-tuned change. Features of clips are kept in files until the training is complete, or
    for good in a folder of one's own, so that they are not computed again. The report is written next to `out`.

    Args:
        model: Model as for `e2v_port.load`.
        task: The clips and the outputs to learn.
        out: Folder of the new model.
        recipe: Settings of the training.
        licence: License of the weights; by default derived from the model and the corpora.
        number_of_threads: Number of threads of torch; by default its own choice.
        runtime: Runtime that computes the features. Blocks are fine-tuned on `cuda` if that is it, else on the CPU.
        offline: Whether to avoid all network access.
        features: Folder to keep features in, for other heads on the same clips: a few kilobytes per clip and layer, or
            50 KB per second and layer for attention. By default they are deleted at the end.
        restart: Whether to discard an interrupted training and replace an existing model; see `task.working`.
        progress: Receives the progress of the features and the best epoch.

    Returns:
        The report, as stored in training.json.

    Raises:
        TrainingError: The model does not have these layers, `out` is in use, another training was interrupted there, or
            no file can be read.
        ModelNotFound, DownloadError, CheckpointError, RuntimeUnavailable: See `e2v_port.load`.
        OSError: The disk is full.
    """
    folder = convert.folder_of(model, offline=offline)
    old = ModelConfig.read(folder)
    config = _config(old, task, recipe, licence)
    settings = {
        "kind": "head",
        **task.to_dict(),
        "model": {"repository": old.source.repository, "sha256": old.source.sha256, "dtype": old.dtype},
        "recipe": asdict(recipe),
    }
    with (
        working(out, settings, restart) as work,
        limited(number_of_threads) as threads,
        own_settings(inference=False),
    ):
        began = time.perf_counter()
        for note in task.notes:
            progress.say(note)
        backbone = _backbone(folder, old, config, recipe)
        loaded = load(_cut(work, folder, config, backbone, recipe), runtime=runtime, offline=offline)
        kept = Features(loaded, _hash(folder), _readout(config, recipe), features or work / "features", progress)
        parts = gather(task, kept, work, copies=recipe.copies, augmentation=recipe.augmentation, progress=progress)
        check_readable(task, parts["train"].targets, progress)
        objective = Objective(task, parts["train"])
        fit = _fitted(objective, parts, recipe, config, seed=task.seed, work=work)
        tensors, outputs = backbone | fit.tensors, fit.outputs
        curve, best = fit.curve, fit.best
        if recipe.finetune:
            seam.store(work / "start", config, lambda: iter((backbone | fit.tensors).items()))
            start = Start(work / "start", config, _head(config, fit.head), fit.mean, fit.deviation, curve, best)
            clips = Clips(task, parts, recorded(work, task, recipe.copies, recipe.augmentation, progress))
            device = "cuda" if loaded.runtime == "cuda" else "cpu"
            schedule = Schedule(recipe.finetune, recipe.finetune_rate, recipe.finetune_epochs, recipe.finetune_batch)
            tuned = finetune(start, schedule, clips, objective, device=device, work=work, progress=progress)
            curve, best = tuned.curve, tuned.best
            if tuned.blocks:
                outputs = tuned.outputs
                tensors |= tuned.blocks | _folded(tuned.head, fit.mean, fit.deviation, config)
        seam.store(out, config, lambda: iter(tensors.items()))
        if recipe.finetune:
            means.complete(out, task.parts["train"], runtime=runtime, bar=progress.bar)
        progress.say(f"best epoch {best} of {len(curve)}: dev {objective.score} {curve[best - 1]['score']:.3f}")
        report = {
            **settings,
            "licence": config.licence,
            "threads": threads,
            "parameters": sum(value.size for name, value in tensors.items() if name != layout.MEANS),
            "hours": {part: clips.seconds / 3600 for part, clips in parts.items()},
            "curve": curve,
            "best": best,
            "score": objective.score,
            "dev": objective.judged(parts["dev"], outputs),
            "seconds": time.perf_counter() - began,
        }
        training_report.write(out, report)
    return report


def _config(old: ModelConfig, task: Task, recipe: HeadRecipe, licence: str | None) -> ModelConfig:
    return replace(
        old,
        architecture=replace(
            _architecture(old, recipe),
            head_dim=recipe.hidden,
            head=(),
            others=(),
            num_labels=len(task.outputs),
            means=not task.dimensional,
        ),
        labels=tuple(Label(name, name, unused=False) for name in task.outputs),
        dtype=old.arithmetic,  # packing again would change the numbers
        temperature=1.0,
        calibrated_on=(),
        licence=licence or f"{old.licence}; head {task.licence}",
        source=Source(f"head trained here on {old.source.repository}", "local", "", "", ""),
        converter=f"e2v-port {__version__}",
        trained_on=(*old.trained_on, task.trained_on),
    )


def _architecture(old: ModelConfig, recipe: HeadRecipe) -> Architecture:
    """Returns the architecture of the new model, up to its head.

    Raises:
        TrainingError: The model does not have the layers, or not as many blocks as are fine-tuned.
    """
    architecture = old.architecture
    if not recipe.layers and not recipe.finetune:
        return architecture
    if not isinstance(architecture, Transformer):
        raise TrainingError(
            f"{old.source.repository} has no layers to {'read' if recipe.layers else 'fine-tune'}: it is no "
            f"transformer; use a model such as iic/emotion2vec_plus_base"
        )
    if recipe.layers:
        if recipe.pooling not in POOLINGS:
            raise TrainingError(f"pooling must be one of {', '.join(POOLINGS)}, not {quoted(recipe.pooling)}")
        heads = recipe.heads if recipe.pooling == "attention" else 0
        layers = layers_of(recipe.layers, architecture.blocks)
        architecture = architecture.read(Readout(layers, recipe.pooling, heads))
    if recipe.finetune > architecture.blocks:
        raise TrainingError(f"{recipe.finetune} blocks cannot be fine-tuned: {architecture.blocks} are kept")
    if recipe.finetune and old.dtype != "float32":  # the figures are those of weights that are not rounded
        raise TrainingError(f"a model stored as {old.dtype} cannot be fine-tuned: use one in float32")
    return architecture


def _backbone(folder: Path, old: ModelConfig, config: ModelConfig, recipe: HeadRecipe) -> dict[str, Array]:
    """Returns the tensors of a model that the new one keeps: all but the head, and with new layers their readout."""
    new = ("head.", "readout.") if recipe.layers else ("head.",)
    stored = load_file(folder / "model.safetensors")
    packed = set(layout.packed(old.architecture)) if old.dtype in QUANTIZED else set()

    def values(name: str) -> Array:
        if name in packed:
            return unpack(*(stored[part].numpy() for part in layout.parts(name)))
        found: Array = stored[name].float().numpy()
        return found

    return {name: values(name) for name in config.architecture.tensors() if not name.startswith(new)}


def _cut(work: Path, folder: Path, config: ModelConfig, backbone: Mapping[str, Array], recipe: HeadRecipe) -> Path:
    """Returns the folder of a model that computes the features: cut after the last layer, or the model itself."""
    if not recipe.layers:
        return folder
    cut = work / "cut"
    if not catalog.is_converted(cut):
        bare = replace(config.architecture, head_dim=0, num_labels=0, means=False, head=(), others=())
        shapes = bare.tensors()
        arrays = {name: backbone.get(name, np.zeros(shapes[name], np.float32)) for name in shapes}
        seam.store(cut, replace(config, architecture=bare, labels=()), lambda: iter(arrays.items()))
    return cut


def _hash(folder: Path) -> str:
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _readout(config: ModelConfig, recipe: HeadRecipe) -> Readout | None:
    """Returns the readout that is trained; None for a model's own embedding, whatever that is made of."""
    architecture = config.architecture
    return architecture.readout if recipe.layers and isinstance(architecture, Transformer) else None


@dataclass(frozen=True)
class _Fit:
    """A head after its training.

    Attributes:
        tensors: Tensors of readout and head by their stored names.
        head: State of the head before it was folded.
        mean: Mean of the embeddings that it expects standardized, [embed_dim].
        deviation: Their standard deviation, [embed_dim].
        outputs: Outputs for the development clips, [clips, outputs].
        curve: Figures of each epoch.
        best: Number of the best epoch.
    """

    tensors: dict[str, Array]
    head: dict[str, Tensor]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    outputs: Array
    curve: list[dict[str, Any]]
    best: int


def _fitted(
    objective: Objective, parts: Mapping[str, Part], recipe: HeadRecipe, config: ModelConfig, *, seed: int, work: Path
) -> _Fit:
    """Returns the trained head; that of an interrupted training, if it had come to fine-tuning."""
    kept = work / "head.pt"
    if state := load_state(kept):
        tensors = {name: value.numpy() for name, value in state["tensors"].items()}
        arrays = {name: state[name].numpy() for name in ("mean", "deviation", "outputs")}
        return _Fit(tensors=tensors, head=state["head"], curve=state["curve"], best=state["best"], **arrays)
    with seeded(seed):
        fit = _fit(objective, parts["train"], parts["dev"], recipe, config)
    if recipe.finetune:
        tensors = {name: torch.from_numpy(value) for name, value in fit.tensors.items()}
        arrays = {name: torch.from_numpy(getattr(fit, name)) for name in ("mean", "deviation", "outputs")}
        save_state({"tensors": tensors, "head": fit.head, "curve": fit.curve, "best": fit.best, **arrays}, kept)
    return fit


def _fit(objective: Objective, train: Part, dev: Part, recipe: HeadRecipe, config: ModelConfig) -> _Fit:
    pooling = _pooling(train, recipe, config)
    learned = [*pooling.parameters()]
    raw = torch.stack([_embeddings(pooling, train, i) for i in range(1 + train.copies)], 1)  # [clips, copies, D]
    mean = raw.double().mean((0, 1))
    deviation = raw.double().std((0, 1), correction=0).clamp_min(1e-6)  # constant inputs carry no information
    head, hide = _head(config), nn.Dropout(recipe.dropout)
    targets = torch.from_numpy(train.targets)
    optimizer = _optimizer(head, learned, recipe)

    def standardized(x: Tensor) -> Tensor:
        return ((x - mean) / deviation).float()

    curve: list[dict[str, Any]] = []
    best: _Fit | None = None
    while len(curve) < recipe.epochs and (best is None or len(curve) - best.best < recipe.patience):
        losses = []
        for batch in torch.split(torch.randperm(len(targets)), recipe.batch):
            if len(batch) < objective.fewest:
                continue
            copies = torch.randint(1 + train.copies, (len(batch),)) if train.copies else torch.zeros_like(batch)
            x = pooling(*train.batch(batch, copies)) if learned else raw[batch, copies]
            loss = objective.loss(head(hide(standardized(x))), targets[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        tensors = _folded(head.state_dict(), mean.numpy(), deviation.numpy(), config)
        outputs = [_applied(tensors, _embeddings(pooling, dev, i).numpy(), config) for i in range(1 + dev.copies)]
        figures = objective.figures(dev, outputs)
        curve.append({"epoch": len(curve) + 1, "loss": float(np.mean(losses)), **figures})
        if best is None or figures["score"] > curve[best.best - 1]["score"]:
            state = {name: value.clone() for name, value in head.state_dict().items()}
            tensors |= _rounded(pooling.stored(), config)
            best = _Fit(tensors, state, mean.numpy(), deviation.numpy(), outputs[0], curve, len(curve))
            kept = copy.deepcopy(pooling)
    assert best is not None
    if config.architecture.means:
        speakers = [clip.speaker for clip in train.clips]
        embeddings = _embeddings(kept, train, 0).numpy()
        best.tensors[layout.MEANS] = label_means(embeddings, train.targets, speakers, config.architecture.num_labels)
    return best


def _pooling(train: Part, recipe: HeadRecipe, config: ModelConfig) -> Pooling | Own:
    if not recipe.layers:
        return Own()
    assert isinstance(config.architecture, Transformer)
    if recipe.pooling != "attention":
        return Pooling(config.architecture, torch.ones(1))
    return Pooling(config.architecture, _spread(train))


def _spread(train: Part) -> Tensor:
    """Returns the standard deviation of the frames of all layers, [width]."""
    count, total, squares = 0, torch.zeros(1), torch.zeros(1)
    for clips in torch.split(torch.arange(len(train.clips)), _AT_A_TIME):
        frames, lengths = train.batch(clips, torch.zeros_like(clips))
        frames = frames.double()  # zero after a clip's end
        count += int(lengths.sum()) * frames.shape[2]
        total, squares = total + frames.sum((0, 1, 2)), squares + frames.square().sum((0, 1, 2))
    return (squares / count - (total / count) ** 2).clamp_min(0).sqrt().clamp_min(1e-6).float()


@torch.no_grad()
def _embeddings(pooling: Pooling | Own, part: Part, number: int) -> Tensor:
    """Returns the embeddings of all clips of a part, or of one of their copies, [clips, embed_dim]."""
    blocks = torch.split(torch.arange(len(part.clips)), _AT_A_TIME)
    return torch.cat([pooling(*part.batch(clips, torch.full_like(clips, number))) for clips in blocks])


def _head(config: ModelConfig, state: Mapping[str, Tensor] | None = None) -> nn.Module:
    head: nn.Module = seam.Head(config.architecture)
    if state is not None:
        head.load_state_dict(state)
    return head


def _optimizer(head: nn.Module, learned: list[nn.Parameter], recipe: HeadRecipe) -> torch.optim.Optimizer:
    """Returns AdamW with weight decay for the matrices of the head only."""
    matrices = [value for value in head.parameters() if value.ndim > 1]
    others = [*(value for value in head.parameters() if value.ndim == 1), *learned]
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.rate)


def _folded(
    head: Mapping[str, Tensor], mean: NDArray[Any], deviation: NDArray[Any], config: ModelConfig
) -> dict[str, Array]:
    """Returns the tensors of a head for raw embeddings, rounded to the type they are stored in."""
    tensors = {f"head.{name}": value.detach().double() for name, value in head.items()}
    first = "head.dense" if config.architecture.head_dim else "head"
    weight = tensors[f"{first}.weight"] / torch.from_numpy(deviation)
    tensors[f"{first}.bias"] = tensors[f"{first}.bias"] - weight @ torch.from_numpy(mean)
    tensors[f"{first}.weight"] = weight
    return _rounded({name: value.float().numpy() for name, value in tensors.items()}, config)


def _rounded(tensors: Mapping[str, Array], config: ModelConfig) -> dict[str, Array]:
    dtype: torch.dtype = getattr(torch, config.dtype)
    return {name: torch.from_numpy(value).to(dtype).float().numpy() for name, value in tensors.items()}


def _applied(head: Mapping[str, Array], embeddings: Array, config: ModelConfig) -> Array:
    """Returns the outputs [clips, outputs] of a stored head."""
    state = {name.removeprefix("head."): torch.from_numpy(value) for name, value in head.items() if "head." in name}
    with torch.inference_mode():
        outputs: Array = _head(config, state)(torch.from_numpy(embeddings)).numpy()
    return outputs
