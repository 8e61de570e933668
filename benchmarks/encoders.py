"""Trains models for the package on Whisper's encoder: fine-tunes its first blocks with a head.

    python benchmarks/encoders.py --encoder MODEL --corpus emodb=FOLDER --everyone --licence MIT --epochs 20 --out OUT
    python benchmarks/encoders.py --encoder MODEL --corpus ravdess=FOLDER --corpus nemo=FOLDER --licence TEXT --out OUT

MODEL is a converted whisper-base in float32. Attention pools the outputs of one block; it begins with the direction
that separates frames of speech from silence, so that a clip may have pauses around its voice. A logistic regression on
the pooled mean and standard deviation is the head to begin with. Then attention, head and the last blocks that are kept
learn together, on augmented clips. What is kept is a moving average of all steps, and of several trainings the mean.
Clips are normalized, so that a loud voice is heard like a quiet one; the first convolution takes the change of level
back.
The number of epochs is fixed beforehand: the development speakers of the corpora are trained on as well, and with
--everyone those of the test too.
"""

import argparse
import copy
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from e2v_port import seam
from e2v_port.architectures.base import Readout, Transformer
from e2v_port.architectures.config import Label, ModelConfig, Source, TrainedOn
from e2v_port.architectures.whisper import WhisperConfig
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio, normalize
from e2v_port.errors import AudioError
from e2v_port.evaluation import readers
from e2v_port.evaluation.datasets import Utterance
from e2v_port.evaluation.sounds import sounds, trained_on
from e2v_port.training import task
from e2v_port.training.augmentation import Augmentation, augment, coloured_noise, gain, trim
from e2v_port.version import __version__

BLOCK = 3  # whose outputs are read: by `e2v probe`, the second and the third carry the labels best
TRAINED = 2  # blocks, of the three that are kept
BATCH = 32
LONGEST = int(2.5 * SAMPLING_RATE)  # samples of a voice that a step sees
CLEAN = 0.35  # share of clips without augmentation
PAUSES = 0.4  # share of clips with pauses around the voice
PAUSE = int(1.2 * SAMPLING_RATE)  # samples of the longest pause
FLOOR = (-80.0, -35.0)  # dB, level of the noise in pauses below the voice's peak
LEVEL = 0.05  # root mean square that a normalized clip has for the encoder, about that of a recording it knows
HEADS = 4  # of attention
LISTENED = 200  # clips whose frames give that direction
SILENCED = 50.0  # weight of speech in attention, of that of silence, to begin with
AVERAGE = 0.995  # weight of the average so far in each step
FEWEST = 2000  # clips that the regression begins with
AUGMENTATION = Augmentation(cut=0.2)


class Batches(IterableDataset[tuple[NDArray[np.int64], NDArray[np.float32], list[int]]]):
    """Endless batches of clips: their numbers, their waveforms [B, S] and lengths.

    Clips are drawn by the square root of how frequent their corpus and label are.
    """

    def __init__(self, waveforms: Sequence[NDArray[np.int16]], kinds: Sequence[object], seed: int) -> None:
        self._waveforms, self._seed = waveforms, seed
        counts = Counter(kinds)
        share = np.array([counts[kind] ** -0.5 for kind in kinds])
        self._share = share / share.sum()

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], list[int]]]:
        rng = np.random.default_rng(self._seed)
        while True:
            clips = rng.choice(len(self._waveforms), BATCH, p=self._share)
            batch = [self._drawn(clip, rng) for clip in clips]
            yield clips, padded(batch), [len(waveform) for waveform in batch]

    def _drawn(self, clip: int, rng: Generator) -> Waveform:
        waveform = trim(floats(self._waveforms[clip]), margin=rng.uniform(0.0, 0.3))
        at = int(rng.integers(max(1, len(waveform) - LONGEST)))
        waveform = waveform[at : at + LONGEST]
        if rng.random() < PAUSES:
            waveform = surrounded(waveform, rng)
        if rng.random() < CLEAN:
            return gain(waveform, rng, AUGMENTATION.peak)
        return augment(waveform, rng, self._waveforms, AUGMENTATION)


class Judge(nn.Module):
    """Encoder, standardized embeddings, head."""

    def __init__(self, network: Any, mean: Tensor, deviation: Tensor, labels: int) -> None:
        super().__init__()
        self.network, self.drop = network, nn.Dropout(0.3)
        self.mean, self.deviation = nn.Buffer(mean), nn.Buffer(deviation)
        self.head = nn.Linear(len(mean), labels)

    def forward(self, waveforms: Tensor, samples: list[int]) -> Tensor:
        """Returns logits [B, labels] for waveforms [B, S] of these lengths."""
        embeddings = self.network(waveforms, samples)[1]
        logits: Tensor = self.head(self.drop((embeddings - self.mean) / self.deviation))
        return logits


def floats(samples: NDArray[np.int16]) -> Waveform:
    """Returns samples with full scale 1."""
    return (samples / 32768).astype(np.float32)


def surrounded(waveform: Waveform, rng: Generator) -> Waveform:
    """Returns a voice with pauses before and after it, and noise at a low level all along; often digital silence."""
    before, after = (int(rng.integers(PAUSE)) for _ in range(2))
    level = rng.uniform(*FLOOR)
    noise = coloured_noise(before + len(waveform) + after, rng) * np.abs(waveform).max() * 10 ** (level / 20)
    noise *= rng.random() < 0.7
    noise[before : before + len(waveform)] += waveform
    sound: Waveform = noise.astype(np.float32)
    return sound


def padded(waveforms: Sequence[Waveform]) -> NDArray[np.float32]:
    """Returns normalized waveforms side by side, zeros after their ends."""
    batch = np.zeros((len(waveforms), max(map(len, waveforms))), np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = normalize(waveform, WhisperConfig.waveform_eps)
    return batch


def read(clips: Sequence[Utterance]) -> tuple[list[Utterance], list[NDArray[np.int16]]]:
    """Reads clips into memory; leaves out those that cannot be read, and says so."""
    found, waveforms = [], []
    for clip in clips:
        try:
            waveform = load_audio(clip.file)
        except AudioError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        found.append(clip)
        waveforms.append(np.rint(np.clip(waveform, -1, 1) * 32767).astype(np.int16))
    return found, waveforms


def cut(encoder: Path, work: Path) -> tuple[Any, ModelConfig]:
    """Returns the runtime of the first blocks, which attends to all frames equally, and its configuration."""
    config = ModelConfig.read(encoder)
    assert isinstance(config.architecture, Transformer)
    architecture = replace(config.architecture.read(Readout((BLOCK,), "attention", HEADS)), normalize=True)
    config = replace(config, architecture=architecture, labels=())
    stored = load_file(encoder / "model.safetensors")
    # A gain of g adds log10(g) / 2 to Whisper's spectrogram.
    stored["conv_layers.0.bias"] += np.log10(LEVEL) / 2 * stored["conv_layers.0.weight"].sum((1, 2))
    shapes = config.architecture.tensors()
    tensors = {name: stored.get(name, np.zeros(shape, np.float32)) for name, shape in shapes.items()}
    seam.store(work, config, lambda: iter(tensors.items()))
    runtime: Any = seam.runtime("torch_runtime")(work / "model.safetensors", config, "cpu", "float32")
    return runtime, config


def attentive(runtime: Any, waveforms: Sequence[Waveform], hop: int) -> Tensor:
    """Returns the direction [dim] that separates frames of speech from silent ones, labeled by their level.

    It is Fisher's linear discriminant, of a length that gives speech SILENCED times the weight of silence in a softmax,
    and all speech about the same.
    """
    states, voiced = [], []
    for waveform in waveforms:
        clip = waveform[: len(waveform) // hop * hop]
        [layers] = runtime.layers(padded([clip]), [len(clip)])
        level = 10 * np.log10(np.square(clip).reshape(-1, hop).mean(1) + 1e-12)
        level = level[: layers.shape[1]] - level.max()
        clear = (level > -30) | (level < -45)
        states.append(layers[-1][: len(level)][clear])
        voiced.append(level[clear] > -30)
    x, speech = np.concatenate(states).astype(np.float64), np.concatenate(voiced)
    apart = x[speech].mean(0) - x[~speech].mean(0)
    within = (np.cov(x[speech].T) + np.cov(x[~speech].T)) / 2
    within += 0.01 * np.trace(within) / len(within) * np.eye(len(within))
    direction = np.linalg.solve(within, apart)
    return torch.from_numpy(direction / (direction @ apart) * np.log(SILENCED)).float()


def in_half_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns a function that computes its matrix products in bfloat16."""

    def computed(*args: Any, **options: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return function(*args, **options)

    return computed


@torch.no_grad()
def embedded(network: Any, waveforms: Sequence[NDArray[np.int16]]) -> Tensor:
    """Returns the embeddings of whole trimmed clips, [clips, dim]."""
    clips = [trim(floats(waveform)) for waveform in waveforms]
    order = sorted(range(len(clips)), key=lambda i: len(clips[i]))
    rows: dict[int, Tensor] = {}
    for start in range(0, len(order), BATCH // 2):
        some = order[start : start + BATCH // 2]
        batch = padded([clips[i] for i in some])
        rows |= zip(some, network(torch.from_numpy(batch), [len(clips[i]) for i in some])[1], strict=True)
    return torch.stack([rows[i] for i in range(len(clips))])


def regression(x: Tensor, targets: Tensor, labels: int, strength: float = 0.003) -> nn.Linear:
    """Returns a logistic regression of standardized embeddings: balanced, penalized as scikit-learn's is by C."""
    head = nn.Linear(x.shape[1], labels)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    count = torch.bincount(targets, minlength=labels).clamp_min(1)
    weight = len(targets) / (labels * count)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        errors = F.cross_entropy(head(x), targets, weight=weight.float(), reduction="none").sum()
        total: Tensor = strength * errors + head.weight.square().sum() / 2
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return head


def tuned(judge: Judge, batches: Batches, targets: NDArray[np.int64], steps: int, rate: float) -> Judge:
    """Trains the last blocks and the head; returns the average."""
    encoder = judge.network.blocks[-TRAINED:], judge.network.readout
    for module in encoder:
        module.requires_grad_()
    groups: list[dict[str, Any]] = [
        {"params": [value for module in encoder for value in module.parameters()], "lr": rate, "weight_decay": 0.01},
        {"params": [*judge.head.parameters()], "lr": 10 * rate, "weight_decay": 0.05},
    ]
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, step / 30) * (0.5 + 0.5 * np.cos(np.pi * step / steps))
    )
    average = copy.deepcopy(judge).eval()
    began, losses = time.perf_counter(), []
    loader = iter(DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4))
    for step in range(steps):
        clips, waveforms, samples = next(loader)
        judge.train()
        loss = F.cross_entropy(
            judge(torch.as_tensor(waveforms), samples), torch.from_numpy(targets[clips]), label_smoothing=0.1
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([value for group in groups for value in group["params"]], 1.0)
        optimizer.step()
        schedule.step()
        share = min(AVERAGE, (step + 1) / (step + 20))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), judge.parameters(), strict=True):
                if value.requires_grad:
                    mean.lerp_(value, 1 - share)
        losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == steps:
            seconds = time.perf_counter() - began
            print(f"{step + 1}/{steps}  loss {np.mean(losses[-50:]):.3f}  {seconds:.0f} s", file=sys.stderr, flush=True)
    return average


def main() -> None:
    """Trains a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--corpus", action="append", required=True)
    parser.add_argument("--everyone", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--licence", required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--seeds", type=int, default=1, help="trainings whose weights are averaged")
    args = parser.parse_args()

    chosen = task.choose([readers.read(spec) for spec in args.corpus])
    parts = ("train", "dev", "test") if args.everyone else ("train", "dev")
    speakers = {clip.speaker for part in parts for clip in chosen.parts[part]}
    clips, waveforms = read(
        [clip for corpus in chosen.corpora for clip in corpus.utterances if clip.speaker in speakers]
    )
    # All that has another label is one more class, which the model in the package does not have.
    classes = [*chosen.outputs, None]
    targets = np.array([classes.index(clip.label if clip.label in chosen.outputs else None) for clip in clips])
    print(f"{len(clips)} clips of {len(speakers)} speakers: {', '.join(chosen.outputs)}", file=sys.stderr)

    runtime, config = cut(args.encoder, args.out.with_name(f"{args.out.name}-start"))
    network = runtime.model
    rng = np.random.default_rng(0)
    listened = [surrounded(floats(waveforms[i]), rng) for i in rng.permutation(len(clips))[:LISTENED]]
    weight = attentive(runtime, listened, config.architecture.hop)
    network.readout.attention.weight.data[:] = weight
    for module in (*network.conv_layers, *network.blocks):
        module.forward = in_half_precision(module.forward)
    torch.manual_seed(0)
    first = rng.permutation(len(clips))[:FEWEST]
    x = embedded(network, [waveforms[i] for i in first])
    mean, deviation = x.mean(0), x.std(0) + 1e-3
    judge = Judge(network, mean, deviation, len(classes))
    judge.head = regression((x - mean) / deviation, torch.from_numpy(targets[first]), len(classes))

    steps = max(1, len(clips) // BATCH) * args.epochs
    total: dict[str, Tensor] = {}
    for seed in range(args.seeds):
        torch.manual_seed(seed)
        batches = Batches(waveforms, [(clip.corpus, clip.label) for clip in clips], seed)
        average = tuned(copy.deepcopy(judge), batches, targets, steps, args.rate)
        for name, value in average.named_parameters():
            total[name] = total.get(name, torch.zeros_like(value)) + value.detach()
        write(args, config, chosen, {name: value / (seed + 1) for name, value in total.items()}, (mean, deviation))


def write(
    args: argparse.Namespace,
    config: ModelConfig,
    chosen: task.Task,
    trained: dict[str, Tensor],
    standard: tuple[Tensor, Tensor],
) -> None:
    """Writes the mean of the trainings so far as a converted model, with the head for raw embeddings."""
    mean, deviation = (value.double() for value in standard)
    arrays = {name: trained[f"network.{name}"].numpy() for name in config.architecture.tensors()}
    labels = len(chosen.outputs)
    weight = trained["head.weight"][:labels].double() / deviation
    arrays["head.weight"] = weight.float().numpy()
    arrays["head.bias"] = (trained["head.bias"][:labels].double() - weight @ mean).float().numpy()
    new = replace(
        config,
        architecture=replace(config.architecture, num_labels=labels),
        labels=tuple(Label(name, name, unused=False) for name in chosen.outputs),
        licence=args.licence,
        source=Source("fine-tuned here on openai/whisper-base", "local", "", "", config.source.sha256),
        converter=f"e2v-port {__version__}",
        trained_on=(everyone(chosen) if args.everyone else chosen.trained_on,),
    )
    seam.store(args.out, new, lambda: iter(arrays.items()))


def everyone(chosen: task.Task) -> TrainedOn:
    """Returns who a model was trained on if the speakers of the test were, too."""
    parts: dict[str, list[Utterance]] = {
        "train": [clip for part in ("train", "dev", "test") for clip in chosen.parts[part]],
        "dev": [],
        "test": [],
    }
    return trained_on(parts, {part: sounds(clips) for part, clips in parts.items()})


if __name__ == "__main__":
    main()
