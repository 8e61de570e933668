"""Trains a small network on log-mel spectrograms from nothing: clips and their augmented copies, the loop, the folding.

The network is that of the wav2small runtimes, with a batch norm behind every convolution and before the head. At the
end these are multiplied into the weights, so that what is stored is a model like any other.
"""

import copy
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn

from e2v_port import __version__, training_report
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio, mel_filters, normalize
from e2v_port.augmentation import Augmentation, Range, augment, crop, trim
from e2v_port.config import Label, ModelConfig, Source, Wav2smallConfig
from e2v_port.errors import AudioError, TrainingError
from e2v_port.files import replacing
from e2v_port.training import SILENT, Progress, Task, by_corpus, load_state, save_state, threads, working

__all__ = ["Bank", "Recipe", "Student", "folded", "masked", "record", "train"]

_T = TypeVar("_T")

_AT_A_TIME = 256  # clips in the hands of the threads, so that an interruption is soon noticed
_EVALUATED = 32  # clips in a batch of development
_FULL_SCALE = 32767

# What keeps draws for different purposes apart, beside the seed.
_COPIES, _EPOCHS, _WEIGHTS = range(3)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a training depends on but corpora, seed and number of threads.

    Attributes:
        normalize: See `Wav2smallConfig`, as for all down to `width` without a word of their own.
        window: Samples.
        step: Samples.
        bands: Mel bands.
        lowest: Lower edge of the lowest band, in Hz.
        highest: Upper edge of the highest.
        floor: Least power in a band.
        band_norm: Whether each band is relative to its mean.
        stages: Channels.
        residual: Whether convolutions add to what they were given.
        pooling: `gram` or `deviation`.
        width: Of the pooling.
        copies: Augmented copies of each clip, made once. A copy or the clip itself is drawn each time it is used.
        augmentation: How they are made.
        trimmed: Probability that silence is cut off both ends of a clip.
        seconds: Length of what is cut out of a clip, drawn for each batch. Of one length, a batch needs no filling up,
            which would take a third of the time.
        masks: How often SpecAugment (arXiv 1904.08779) hides columns, and how often bands, of each clip.
        mask_columns: Highest number of neighbouring columns hidden.
        mask_bands: Highest number of neighbouring bands hidden.
        mixup: Both parameters of the beta distribution of the shares in which two clips are mixed (arXiv 1710.09412);
            0 for unmixed clips.
        smoothing: Share of the target that is spread over all labels.
        dropout: Share of the embedding that is hidden from the head.
        balance: Clips of a label with n of them in its corpus are drawn with a weight of n to the power of minus this:
            0 as often as they are there, 1 each label as often as any other. Corpora are drawn equally often.
        epochs: How often as many clips are drawn as there are.
        batch: Clips in a step.
        rate: Highest learning rate of AdamW, reached after `warm_up` of all steps, then falling to zero (one cycle,
            arXiv 1708.07120).
        warm_up: See `rate`.
        decay: Weight decay of AdamW, of everything but biases and norms.
        gradient: Highest norm of a gradient.
        average: Share of a step's weights in the moving average that is judged and kept; more in the first steps. 1 for
            the weights themselves.
        patience: Epochs without a better development set after which it ends early.
    """

    normalize: bool = True
    window: int = 640
    step: int = 320
    bands: int = 64
    lowest: float = 50.0
    highest: float = 8000.0
    floor: float = 1e-4
    band_norm: bool = False
    stages: tuple[tuple[int, ...], ...] = ((16,), (32, 32), (64, 64), (128, 128))
    residual: bool = True
    pooling: str = "deviation"
    width: int = 128
    copies: int = 8
    augmentation: Augmentation = field(default_factory=Augmentation)
    trimmed: float = 0.85
    seconds: Range = (1.8, 3.2)
    masks: int = 1
    mask_columns: int = 11
    mask_bands: int = 8
    mixup: float = 0.0
    smoothing: float = 0.1
    dropout: float = 0.3
    balance: float = 0.75
    epochs: int = 80
    batch: int = 32
    rate: float = 2e-3
    warm_up: float = 0.2
    decay: float = 0.05
    gradient: float = 5.0
    average: float = 0.005
    patience: int = 25

    def architecture(self, outputs: int) -> Wav2smallConfig:
        """Returns the sizes of a network with so many outputs."""
        bands = self.bands
        for _ in self.stages[1:]:
            bands = (bands + 1) // 2
        embedding = self.width * (bands + self.width) if self.pooling == "gram" else 2 * self.width
        return Wav2smallConfig(
            normalize=self.normalize,
            embed_dim=embedding,
            head_dim=0,
            num_labels=outputs,
            window=self.window,
            step=self.step,
            bands=self.bands,
            floor=self.floor,
            band_norm=self.band_norm,
            stages=self.stages,
            residual=self.residual,
            pooling=self.pooling,
            width=self.width,
        )


class Bank:
    """Clips [samples] of int16, one behind the other in a file that is mapped into memory.

    Attributes:
        lengths: Samples of each; 0 for one that is not there.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.lengths: NDArray[np.int64] = np.load(folder / f"{name}.npy")
        self._starts = np.cumsum(self.lengths) - self.lengths
        self._samples = np.memmap(folder / f"{name}.int16", dtype=np.int16, mode="r")

    def __getitem__(self, clip: int) -> NDArray[np.int16]:
        return self._samples[self._starts[clip] :][: self.lengths[clip]]

    def get(self, clip: int) -> Waveform:
        """Returns a clip with full scale 1."""
        return np.divide(self[clip], _FULL_SCALE, dtype=np.float32)

    @classmethod
    def write(cls, folder: Path, name: str, clips: Iterable[NDArray[np.int16] | None]) -> Self:
        """Writes a bank and returns it; at most one clip is held at a time. None becomes an empty clip.

        Raises:
            OSError: The disk is full.
        """
        lengths = []
        with (folder / f"{name}.int16").open("wb") as file:
            for clip in clips:
                lengths.append(0 if clip is None else len(clip))
                if clip is not None:
                    file.write(clip.data)
            if not any(lengths):
                file.write(bytes(2))  # an empty file cannot be mapped
        # The lengths come last and at once: they say that the bank is whole.
        with replacing(folder / f"{name}.npy") as partial:
            np.save(partial, np.array(lengths, dtype=np.int64))
        return cls(folder, name)


def record(
    folder: Path, train: Sequence[Path], dev: Sequence[Path], recipe: Recipe, *, seed: int, progress: Progress = SILENT
) -> list[Bank]:
    """Decodes clips and makes their augmented copies.

    What is in the folder already is kept. Threads do the work: transforms, resampling and libsndfile let go of Python's
    lock, and two of them take two thirds of the time of one.

    Args:
        folder: Where to keep them: 115 MB for an hour, and as much for each copy.
        train: Files to train on. Babble is made of them.
        dev: Files of development, counted behind those.
        recipe: Of the copies.
        seed: Of the copies: each depends on it, on its own number and that of its clip, and on nothing else.
        progress: Told how far it is, and which file cannot be read.

    Returns:
        The clips, then `recipe.copies` banks of copies; the first has copies of `dev` as well.

    Raises:
        TrainingError: No file can be read, or there is no room for the copies.
    """
    files = [*train, *dev]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        if (folder / "0.npy").is_file():
            plain = Bank(folder, "0")
        else:
            with progress.bar(len(files), "decoding") as advance:
                plain = Bank.write(folder, "0", _each(pool, _decoded, [(file, progress) for file in files], advance))
        readable = set(np.flatnonzero(plain.lengths).tolist())
        voices = [plain[clip] for clip in range(len(train)) if clip in readable]
        if not voices or len(voices) == len(readable):
            raise TrainingError(f"no file of {'development' if voices else 'training'} can be read: see above")
        banks = [plain]
        _check_room(folder, 2 * int(plain.lengths.sum()) * recipe.copies)

        def copied(copy: int, clip: int) -> NDArray[np.int16] | None:
            if clip not in readable or (copy > 1 and clip >= len(train)):
                return None
            rng = np.random.default_rng((seed, _COPIES, copy, clip))
            return _stored(augment(plain.get(clip), rng, voices, recipe.augmentation))

        missing = [copy for copy in range(1, recipe.copies + 1) if not (folder / f"{copy}.npy").is_file()]
        with progress.bar(len(missing) * len(files), "augmenting") as advance:
            for copy in range(1, recipe.copies + 1):
                if copy in missing:
                    jobs = [(copy, clip) for clip in range(len(files))]
                    banks.append(Bank.write(folder, str(copy), _each(pool, copied, jobs, advance)))
                else:
                    banks.append(Bank(folder, str(copy)))
    return banks


def _each(
    pool: ThreadPoolExecutor, work: Callable[..., _T], jobs: Sequence[tuple[Any, ...]], advance: Callable[[], None]
) -> Iterator[_T]:
    """Yields the results in order. A few are in the threads' hands at a time, so that they soon stop when asked to."""
    for start in range(0, len(jobs), _AT_A_TIME):
        for result in pool.map(work, *zip(*jobs[start : start + _AT_A_TIME], strict=True)):
            advance()
            yield result


def _decoded(file: Path, progress: Progress) -> NDArray[np.int16] | None:
    try:
        return _stored(load_audio(file))
    except AudioError as error:
        progress.say(f"left out: {error}")
        return None


def _stored(waveform: Waveform) -> NDArray[np.int16]:
    return np.rint(np.clip(waveform, -1, 1) * _FULL_SCALE).astype(np.int16)


def _check_room(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise TrainingError(f"{folder}: augmented copies take {wanted / 1e9:.1f} GB, {free / 1e9:.1f} are free")


class Normed(nn.Module):
    """A convolution of the runtime with a batch norm behind it."""

    def __init__(self, layer: nn.Module, channels: int) -> None:
        super().__init__()
        self.layer = layer
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, F] -> [B, C', T, F]."""
        out: Tensor = self.norm(self.layer(x))
        return out


class NormedHead(nn.Module):
    """A head of the runtime with a batch norm and dropout before it."""

    def __init__(self, head: nn.Module, inputs: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs)
        self.dropout = nn.Dropout(dropout)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, outputs]."""
        out: Tensor = self.head(self.dropout(self.norm(x)))
        return out


class Student(nn.Module):
    """The runtime's network as it is trained.

    Attributes:
        twin: The network, its convolutions and its head wrapped in norms.
    """

    def __init__(self, config: Wav2smallConfig, recipe: Recipe) -> None:
        super().__init__()
        self.twin = import_module("e2v_port.runtimes.wav2small_torch").Wav2small(config)
        self.twin.mel = torch.from_numpy(mel_filters(recipe.bands, recipe.window, recipe.lowest, recipe.highest))
        for i, layer in enumerate(self.twin.layers):
            # As torch starts its own convolutions. The norm takes the scale out, but it sets how fast they turn.
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias).requires_grad_(False)  # the norm has one
            self.twin.layers[i] = Normed(layer, len(layer.weight))
        self.twin.head = NormedHead(self.twin.head, config.embed_dim, recipe.dropout)

    def spectrogram(self, waveforms: Sequence[Waveform]) -> tuple[Tensor, list[int]]:
        """Returns [B, T, F] and how many columns of it are each clip's own."""
        config = self.twin.config
        if config.normalize:
            waveforms = [normalize(waveform, config.waveform_eps) for waveform in waveforms]
        samples = [len(waveform) for waveform in waveforms]
        batch = torch.zeros(len(waveforms), max(samples))
        for row, waveform in zip(batch, waveforms, strict=True):
            row[: len(waveform)] = torch.from_numpy(waveform)
        found: tuple[Tensor, list[int]] = self.twin.spectrogram(batch, samples)
        return found

    def forward(self, spectrogram: Tensor, lengths: list[int]) -> Tensor:
        """Returns logits [B, outputs]."""
        logits: Tensor = self.twin.network(spectrogram, lengths)[2]
        return logits

    @torch.inference_mode()
    def judge(self, waveforms: Sequence[Waveform]) -> NDArray[np.float32]:
        """Returns the logits [clips, outputs] that the finished network gives."""
        self.eval()
        logits = np.empty((len(waveforms), self.twin.config.num_labels), dtype=np.float32)
        # Of one length as far as possible: what a batch is filled up with is computed for nothing.
        order = sorted(range(len(waveforms)), key=lambda clip: len(waveforms[clip]))
        for start in range(0, len(order), _EVALUATED):
            batch = order[start : start + _EVALUATED]
            logits[batch] = self(*self.spectrogram([waveforms[clip] for clip in batch])).numpy()
        self.train()
        return logits


def folded(student: Student) -> dict[str, NDArray[np.float32]]:
    """Multiplies the norms into the weights, in float64, and returns every stored tensor."""
    twin = student.twin
    tensors: dict[str, NDArray[np.float32]] = {"mel": twin.mel.numpy()}
    for i, normed in enumerate(twin.layers):
        scale, shift = _affine(normed.norm)
        weight = normed.layer.weight.detach().double() * scale[:, None, None, None]
        tensors |= _named(f"layers.{i}", weight, shift)
    for name, layer in twin.pooling.named_children():
        tensors |= _named(f"pooling.{name}", layer.weight, layer.bias)
    scale, shift = _affine(twin.head.norm)
    weight = twin.head.head.weight.detach().double()
    tensors |= _named("head", weight * scale, twin.head.head.bias.detach().double() + weight @ shift)
    return tensors


def _affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a batch norm multiplies by and adds once it is trained."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def _named(name: str, weight: Tensor, bias: Tensor) -> dict[str, NDArray[np.float32]]:
    return {f"{name}.weight": weight.detach().float().numpy(), f"{name}.bias": bias.detach().float().numpy()}


@dataclass(frozen=True)
class _Clips:
    """What an epoch draws from."""

    banks: Sequence[Bank]
    targets: NDArray[np.int64]  # of the clips to train on, then of those of development
    corpora: Sequence[str]  # likewise
    train: NDArray[np.int64]  # numbers of those that can be read
    dev: NDArray[np.int64]


def train(
    task: Task,
    out: Path,
    recipe: Recipe,
    *,
    licence: str | None = None,
    number_of_threads: int | None = None,
    restart: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Trains a network from nothing and writes it as a converted model.

    After each epoch all that is needed to go on is written to a hidden folder beside `out`; the same call after an
    interruption, with as many threads, ends with the same weights as one without. The report is written beside `out`.

    Args:
        task: What to learn; labels.
        out: The folder to write.
        recipe: How.
        licence: Of the weights; by default what the corpora say.
        number_of_threads: Of torch.
        restart: See `training.working`.
        progress: Told of each epoch.

    Returns:
        The report, as training.json holds it.

    Raises:
        TrainingError: `out` is taken, another training was interrupted there, or no file can be read.
        OSError: The disk is full.
    """
    settings = {"kind": "student", **task.to_dict(), "recipe": asdict(recipe)}
    with working(out, settings, restart) as work, threads(number_of_threads) as used:
        began = time.perf_counter()
        for note in task.notes:
            progress.say(note)
        clips = _clips(task, work, recipe, progress)
        student, curve, best = _fit(task, clips, recipe, work, progress)
        config = ModelConfig(
            family="wav2small",
            architecture=student.twin.config,
            labels=tuple(Label(name, name, unused=False) for name in task.outputs),
            dtype="float32",
            sampling_rate=SAMPLING_RATE,
            temperature=1.0,
            licence=licence or task.licence,
            source=Source(repository=out.resolve().name, hub="local", revision="", file="", sha256=""),
            converter=f"e2v-port {__version__}",
        )
        tensors = folded(student)
        import_module("e2v_port.converters.weights").store(out, config, lambda: iter(tensors.items()))
        logits = student.judge([clips.banks[0].get(clip) for clip in clips.dev])
        report = {
            **settings,
            "licence": config.licence,
            "threads": used,
            "parameters": sum(value.size for value in tensors.values()),
            "hours": {
                part: float(clips.banks[0].lengths[those].sum() / SAMPLING_RATE / 3600)
                for part, those in (("train", clips.train), ("dev", clips.dev))
            },
            "curve": curve,
            "best": best,
            "score": "UAR",
            "dev": by_corpus(
                clips.targets[clips.dev],
                logits.argmax(1),
                [clips.corpora[clip] for clip in clips.dev],
                len(task.outputs),
            ),
            "seconds": time.perf_counter() - began,
        }
        training_report.write(out, report)
    return report


def _clips(task: Task, work: Path, recipe: Recipe, progress: Progress) -> _Clips:
    ones = [*task.parts["train"], *task.parts["dev"]]
    number = len(task.parts["train"])
    files = [one.file for one in ones]
    banks = record(work, files[:number], files[number:], recipe, seed=task.seed, progress=progress)
    readable = np.flatnonzero(banks[0].lengths)
    hours = banks[0].lengths.sum() / SAMPLING_RATE / 3600
    size = 2 * sum(int(bank.lengths.sum()) for bank in banks) / 1e9
    progress.say(
        f"{hours:.2f} h of speech, {len(banks) - 1} augmented copies of it: {size:.2f} GB in {work}; "
        f"labels: {', '.join(task.outputs)}"
    )
    return _Clips(
        banks,
        np.array([task.outputs.index(one.label or "") for one in ones]),
        [one.corpus for one in ones],
        readable[readable < number],
        readable[readable >= number],
    )


def _fit(
    task: Task, clips: _Clips, recipe: Recipe, work: Path, progress: Progress
) -> tuple[Student, list[dict[str, Any]], int]:
    """Runs the epochs that are still to be run, and returns the best student, the curve and the epoch it is from."""
    torch.manual_seed(_seed(task.seed, _WEIGHTS))
    student = Student(recipe.architecture(len(task.outputs)), recipe)
    matrices = [value for value in student.parameters() if value.requires_grad and value.ndim > 1]
    others = [value for value in student.parameters() if value.requires_grad and value.ndim <= 1]
    average = copy.deepcopy(student)
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.rate,
        betas=(0.9, 0.99),
    )
    steps = max(1, len(clips.train) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=steps * recipe.epochs, pct_start=recipe.warm_up
    )
    state = load_state(work / "state.pt")
    curve: list[dict[str, Any]] = []
    best: dict[str, Any] = {"epoch": 0}
    if state:
        student.load_state_dict(state["student"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        curve, best = state["curve"], state["best"]
        progress.say(f"going on after epoch {len(curve)} of {recipe.epochs}")
    weights = _weights(clips, recipe.balance)
    while len(curve) < recipe.epochs and len(curve) - best["epoch"] < recipe.patience:
        began = time.perf_counter()
        epoch = len(curve) + 1
        rng = np.random.default_rng((task.seed, _EPOCHS, epoch))
        torch.manual_seed(int(rng.integers(1 << 62)))
        drawn = rng.choice(clips.train, steps * recipe.batch, p=weights).reshape(steps, recipe.batch)
        losses = []
        with progress.bar(steps, f"epoch {epoch} of {recipe.epochs}") as advance:
            for batch in drawn:
                loss = _loss(student, clips, batch, recipe, rng)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(student.parameters(), recipe.gradient)
                optimizer.step()
                schedule.step()
                # As exponential moving averages begin in TensorFlow: of the first steps, with most of each.
                _average(average, student, max(recipe.average, 9 / (9 + schedule.last_epoch)))
                losses.append(loss.item())
                advance()
        judged = _development(average, clips, task)
        curve.append({"epoch": epoch, "loss": float(np.mean(losses)), **judged})
        # Of two epochs that are as often right, the one that is surer of it.
        if epoch == 1 or (judged["score"], -judged["dev_loss"]) > (best["score"], -best["dev_loss"]):
            best = {
                "epoch": epoch,
                "score": judged["score"],
                "dev_loss": judged["dev_loss"],
                "average": {name: value.clone() for name, value in average.state_dict().items()},
            }
        state = {
            "student": student.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "curve": curve,
            "best": best,
        }
        save_state(state, work / "state.pt")
        seconds = time.perf_counter() - began
        each = "  ".join(f"{name} {value:.3f}" for name, value in judged["scores"].items())
        progress.say(
            f"epoch {epoch}/{recipe.epochs}  loss {curve[-1]['loss']:.3f}  dev UAR {judged['score']:.3f}  ({each})  "
            f"best {best['score']:.3f} of epoch {best['epoch']}  {seconds:.0f} s, "
            f"at most {seconds * (recipe.epochs - epoch):.0f} s left"
        )
    average.load_state_dict(best["average"])
    return average, curve, best["epoch"]


@torch.no_grad()
def _average(average: nn.Module, student: nn.Module, share: float) -> None:
    """Moves the average of weights and statistics by a share of the way to those of a step."""
    for kept, new in zip(average.state_dict().values(), student.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, min(share, 1))
        else:
            kept.copy_(new)


def _seed(seed: int, purpose: int) -> int:
    return int(np.random.default_rng((seed, purpose)).integers(1 << 62))


def _weights(clips: _Clips, balance: float) -> NDArray[np.float64]:
    """Returns the probability of each clip to train on: corpora equally often, and see `Recipe.balance`."""
    kinds = [(clips.corpora[clip], int(clips.targets[clip])) for clip in clips.train]
    counts = Counter(kinds)
    weights = np.array([counts[kind] ** -balance for kind in kinds])
    for corpus in {corpus for corpus, _ in kinds}:
        own = np.array([name == corpus for name, _ in kinds])
        weights[own] /= weights[own].sum()
    return np.asarray(weights / weights.sum())


def _loss(student: Student, clips: _Clips, batch: NDArray[np.int64], recipe: Recipe, rng: Generator) -> Tensor:
    """Draws a copy and a part of each clip, and returns the cross-entropy."""
    seconds = rng.uniform(*recipe.seconds)
    waveforms = []
    for clip in batch.tolist():
        waveform = clips.banks[int(rng.integers(len(clips.banks)))].get(clip)
        if rng.random() < recipe.trimmed:
            waveform = trim(waveform)
        waveforms.append(crop(waveform, rng, (seconds, seconds)))
    spectrogram, lengths = student.spectrogram(waveforms)
    masked(spectrogram, lengths, recipe, rng)
    labels = student.twin.config.num_labels
    targets = F.one_hot(torch.from_numpy(clips.targets[batch]), labels).float()
    targets = targets * (1 - recipe.smoothing) + recipe.smoothing / labels
    if recipe.mixup:
        share = float(rng.beta(recipe.mixup, recipe.mixup))
        other = rng.permutation(len(batch))
        spectrogram = share * spectrogram + (1 - share) * spectrogram[other]
        targets = share * targets + (1 - share) * targets[other]
        lengths = [max(lengths[i], lengths[j]) for i, j in enumerate(other)]
    with torch.autocast("cpu", torch.bfloat16, enabled=_has_bfloat16()):
        logits = student(spectrogram, lengths)
    return F.cross_entropy(logits.float(), targets)


def masked(spectrogram: Tensor, lengths: Sequence[int], recipe: Recipe, rng: Generator) -> None:
    """Hides columns and bands of each clip [B, T, F], in place, under the mean of the clip."""
    for clip, length in zip(spectrogram, lengths, strict=True):
        own = clip[:length]
        mean = own.mean()
        for _ in range(recipe.masks):
            for axis, highest in ((0, recipe.mask_columns), (1, recipe.mask_bands)):
                size = min(int(rng.integers(highest + 1)), own.shape[axis] // 2)  # something has to be left
                own.narrow(axis, int(rng.integers(own.shape[axis] - size + 1)), size).fill_(mean)


def _has_bfloat16() -> bool:
    """Tells whether the CPU multiplies in bfloat16; where it does not, that takes longer than float32."""
    supported: Callable[[], bool] = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return supported()


def _development(student: Student, clips: _Clips, task: Task) -> dict[str, Any]:
    """Returns the UAR of each corpus, as it is and, with copies, in the first of them; their mean; the loss.

    In the arithmetic of training, which takes half the time where the CPU has it.
    """
    truth, corpora = clips.targets[clips.dev], [clips.corpora[clip] for clip in clips.dev]
    uars: dict[str, float] = {}
    losses = []
    for bank, suffix in zip(clips.banks, ("", " augmented"), strict=False):
        with torch.autocast("cpu", torch.bfloat16, enabled=_has_bfloat16()):
            logits = student.judge([bank.get(clip) for clip in clips.dev])
        losses.append(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(truth)).item())
        figures = by_corpus(truth, logits.argmax(1), corpora, len(task.outputs))
        uars |= {f"{name}{suffix}": float(found["uar"]) for name, found in figures.items()}
    return {"scores": uars, "score": float(np.mean([*uars.values()])), "dev_loss": float(np.mean(losses))}
