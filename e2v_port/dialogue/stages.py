"""Both stages of a training: run, measured on the development set, and resumed where they were interrupted."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from e2v_port.dialogue.align import Aligning, text_states
from e2v_port.dialogue.examples import Example, statistics
from e2v_port.dialogue.recipe import Recipe
from e2v_port.dialogue.replies import LABELS
from e2v_port.dialogue.tune import Tuning, low_rank
from e2v_port.errors import TrainingError
from e2v_port.llm.adapter import Adapter, AdapterConfig, gathered, shortened
from e2v_port.llm.language import Language
from e2v_port.training.task import Progress, by_corpus, load_state, save_state, seeded

__all__ = ["PARTS", "Stages"]

PARTS = ("train", "dev")
EVERY = 60.0  # seconds between two states of stage 2, which are written in about a second
MEMORY = 4e9  # bytes of features that are kept in memory; those of further clips are read in each epoch
LARGE = 1e9  # parameters from which on activations are computed twice on a GPU to save memory
_ADAPTER, _LOW_RANK = 4, 5  # mixed into the seed, so that the weights of both are drawn independently


@dataclass
class Stages:
    """A training in progress.

    Attributes:
        language: The language model.
        clips: The clips of `train` and `dev`.
        recipe: The settings.
        work: Folder of its states.
        progress: Receives lines and steps.
        adapter: None if the language model gets text.
        aligned: Figures of each epoch of stage 1.
        tuned: Losses of each step of stage 2 and, at the end of each epoch, `dev_text`.
        seconds: Time that both stages took, in all runs of an interrupted training.
    """

    language: Language
    clips: Mapping[str, Sequence[Example]]
    recipe: Recipe
    work: Path
    progress: Progress
    adapter: Adapter | None = None
    aligned: list[dict[str, Any]] = field(default_factory=list)
    tuned: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    _kept: dict[Path, dict[str, NDArray[np.float16]]] = field(default_factory=dict)
    _bytes: int = 0

    def load(self, clip: Example) -> Mapping[str, NDArray[np.float16]]:
        """Returns the shortened features of a clip, from memory as long as there is room."""
        assert clip.features is not None
        found = self._kept.get(clip.features)
        if found is None:
            found = shortened(clip.load(), self.recipe.average)
            if self._bytes < MEMORY:
                self._kept[clip.features] = found
                self._bytes += sum(values.nbytes for values in found.values())
        return found

    def prepare(self) -> None:
        """Makes the adapter with random weights."""
        recipe = self.recipe
        if recipe.hears != "speech":
            return
        widths = {name: values.shape[-1] for name, values in self.load(self.clips["train"][0]).items()}
        config = AdapterConfig(
            semantic=widths["semantic"],
            words=self.language.width,
            labels=LABELS,
            emotion=widths["emotion"] if recipe.emotion else None,
            speaker=widths["speaker"] if recipe.speaker else None,
            fusion=recipe.fusion,
            width=recipe.width,
            heads=recipe.heads,
            average=recipe.average,
            stack=recipe.stack,
            hidden=recipe.hidden,
            dropout=recipe.dropout,
            tone_token=recipe.tone_token,
        )
        with seeded(_seed(recipe.seed, _ADAPTER)):
            self.adapter = Adapter(config, self.language.loudness)
        self.adapter.name_tones(self.language.named(LABELS))
        with self.progress.bar(len(self.clips["train"]), "reading the features") as advance:
            self.adapter.standardize(statistics(_each(map(self.load, self.clips["train"]), advance)))
        self.adapter.to(self.language.device)

    def align(self) -> None:
        """Runs the remaining epochs of stage 1."""
        recipe, file = self.recipe, "align.pt"
        if self.adapter is None or 1 not in recipe.stages:
            return
        state = self._state(file)
        if state and len(state["curve"]) == recipe.aligning:
            self.adapter.load_state_dict(state["adapter"])
            self.aligned, self.seconds = state["curve"], state["seconds"]
            return
        texts = sorted({clip.words for clip in self.clips["train"]})
        states = text_states(self.language, texts)
        rows = {text: row for row, text in enumerate(texts)}
        training = Aligning(self.adapter, recipe, self.clips["train"], states, rows, self.load)
        if state:
            self.adapter.load_state_dict(state["adapter"])
            training.optimizer.load_state_dict(state["optimizer"])
            self.aligned, self.seconds = state["curve"], state["seconds"]
            training.curve = [{name: row[name] for name in ("loss", "emotion", "align")} for row in self.aligned]
            self.progress.say(f"stage 1: resuming after epoch {len(self.aligned)} of {recipe.aligning}")
        while len(self.aligned) < recipe.aligning:
            began = time.perf_counter()
            epoch = len(self.aligned) + 1
            with self.progress.bar(training.steps, f"stage 1, epoch {epoch} of {recipe.aligning}") as advance:
                training.epoch(advance)
            self.aligned.append(
                {**training.curve[-1], "dev": {name: figures["uar"] for name, figures in self._heard().items()}}
            )
            took = time.perf_counter() - began
            self.seconds += took
            self._save(
                file, training.optimizer, adapter=self.adapter.state_dict(), curve=self.aligned, seconds=self.seconds
            )
            self.progress.say(_epoch_line(self.aligned, recipe.aligning, took))

    def tune(self) -> None:
        """Runs the remaining steps of stage 2."""
        recipe, file = self.recipe, "tune.pt"
        if 2 not in recipe.stages:
            return
        with seeded(_seed(recipe.seed, _LOW_RANK)):
            low_rank(self.language, recipe.rank, recipe.alpha)
        model = self.language.model
        if self.language.device.type == "cuda" and model.num_parameters() > LARGE:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        training = Tuning(self.language, self.adapter, recipe, self.clips["train"], self.load, self.tuned)
        if state := self._state(file):
            _put(training.parameters, state["parameters"])
            training.optimizer.load_state_dict(state["optimizer"])
            training.curve[:] = state["curve"]
            self.seconds = state["seconds"]
            self.progress.say(f"stage 2: resuming after step {training.steps} of {training.total}")
        saved, first = time.perf_counter(), training.steps
        began = saved
        with self.progress.bar(training.total - first, "stage 2") as advance:
            while training.steps < training.total:
                last = training.step()
                advance()
                if training.steps % training.per_epoch == 0:
                    last["dev_text"] = training.loss(self.clips["dev"])
                now = time.perf_counter()
                if training.steps == training.total or (training.settled and now - saved >= EVERY):
                    self.seconds += now - saved
                    saved = now
                    parameters = [value.detach() for value in training.parameters]
                    self._save(
                        file, training.optimizer, parameters=parameters, curve=training.curve, seconds=self.seconds
                    )
                    per_step = (now - began) / (training.steps - first)
                    self.progress.say(_step_line(training, per_step))

    def figures(self) -> dict[str, Any]:
        """Returns the figures of the development set: `dev` by corpus, and the loss of its replies."""
        text = [row["dev_text"] for row in self.tuned if "dev_text" in row][-1:]
        return {"dev": self._heard() if self.adapter else {}, "dev_text": text[0] if text else None}

    @property
    def _version(self) -> str:
        """The language model's commit on a hub, or the hash of its weights in a folder."""
        return self.language.revision or self.language.sha256

    def _save(self, name: str, optimizer: torch.optim.Optimizer, **others: Any) -> None:
        state = {"language": self._version, "optimizer": optimizer.state_dict(), **others}
        save_state(state, self.work / name)

    def _state(self, name: str) -> dict[str, Any] | None:
        """Returns what `_save` wrote; None if there is none yet."""
        state = load_state(self.work / name)
        if state and state["language"] != self._version:
            raise TrainingError(
                f"{self.language.name} has changed since this training began: put back the one of then "
                f"({state['language']}), from a hub with --revision, or start over with --restart"
            )
        return state

    def _heard(self) -> dict[str, dict[str, Any]]:
        """Returns how well the adapter's own estimate of the emotion is right on the development clips, by corpus."""
        assert self.adapter is not None
        self.adapter.eval()
        clips, found = self.clips["dev"], []
        with torch.no_grad():
            for start in range(0, len(clips), self.recipe.aligning_batch):
                some = [self.load(clip) for clip in clips[start : start + self.recipe.aligning_batch]]
                batch = gathered(some, self.adapter.config).to(self.language.device)
                found += self.adapter(batch).emotions.argmax(1).tolist()
        truth = np.array([LABELS.index(clip.emotion) for clip in clips])
        return by_corpus(truth, np.array(found), [clip.corpus for clip in clips], len(LABELS))


def _each(values: Iterator[Any], advance: Callable[[], None]) -> Iterator[Any]:
    for value in values:
        yield value
        advance()


def _seed(seed: int, purpose: int) -> int:
    return int(np.random.default_rng((seed, purpose)).integers(2**31))


def _put(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def _epoch_line(curve: Sequence[Mapping[str, Any]], epochs: int, took: float) -> str:
    last = curve[-1]
    each = "  ".join(f"{name} {value:.3f}" for name, value in last["dev"].items())
    return (
        f"stage 1, epoch {len(curve)}/{epochs}  loss {last['loss']:.3f} (emotion {last['emotion']:.3f}, align "
        f"{last['align']:.3f})  dev UAR {float(np.mean([*last['dev'].values()])):.3f} ({each})  {took:.0f} s, "
        f"{took * (epochs - len(curve)):.0f} s left"
    )


def _step_line(training: Tuning, per_step: float) -> str:
    recent = training.curve[-20:]
    names = ("text", "emotion") if training.adapter else ("text",)
    losses = "  ".join(f"{name} {np.mean([row[name] for row in recent]):.3f}" for name in names)
    dev = training.curve[-1].get("dev_text")
    return (
        f"stage 2, step {training.steps}/{training.total}  {losses}  "
        f"{f'dev text {dev:.3f}  ' if dev is not None else ''}{per_step:.2f} s per step, "
        f"{per_step * (training.total - training.steps) / 60:.0f} min left"
    )
