"""A causal language model of transformers that reads embeddings among its words: its prompt, batches and answers."""

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from e2v_port.checkpoints.clients import HuggingFace, without_telemetry
from e2v_port.checkpoints.hubs import offline_by_environment
from e2v_port.errors import CheckpointError, ModelNotFound, RuntimeUnavailable
from e2v_port.host import own_settings
from e2v_port.quiet import quiet

__all__ = ["Batch", "Chance", "Language", "Turn", "load"]

_HERE = "\u2402remark\u2402"  # stands for the remark while the chat template is applied; no template has such signs


@dataclass(frozen=True)
class Turn:
    """What was said before.

    Attributes:
        role: `user` or `assistant`.
        content: The words.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Batch:
    """Prompts, and answers if there are any, padded on the left so that their ends are in line.

    Attributes:
        embeddings: [rows, tokens, width].
        mask: Where they are true, [rows, tokens].
        positions: Number of each token in its row, [rows, tokens].
        targets: Ids of the answers, [rows, tokens], and -100 elsewhere; None without answers.
        longest: Tokens of the longest answer.
    """

    embeddings: Tensor
    mask: Tensor
    positions: Tensor
    targets: Tensor | None
    longest: int


@dataclass(frozen=True)
class Chance:
    """How tokens are drawn, in place of the most likely ones.

    Attributes:
        temperature: Above 0. At 1 tokens are drawn by the probabilities of the model, below by ones that prefer the
            likely more, above by ones that prefer them less.
        draws: Decides what is drawn: one for each row, so that no answer depends on the other rows.
    """

    temperature: float
    draws: Sequence[np.random.Generator]

    @classmethod
    def of(cls, temperature: float, draws: Sequence[np.random.Generator]) -> Self | None:
        """Returns how tokens are drawn at a temperature; None at 0, for the most likely ones."""
        return cls(temperature, draws) if temperature else None

    def token(self, logits: Tensor) -> Tensor:
        """Returns a token for each row of logits [rows, tokens], by inverting the distribution function."""
        below = (logits.cpu().double() / self.temperature).softmax(1).cumsum(1)
        at = torch.tensor([[draw.random()] for draw in self.draws], dtype=below.dtype)
        # Rounding may leave the last sum below 1.
        found = torch.searchsorted(below, at, right=True).clamp(max=logits.shape[1] - 1)[:, 0]
        return found.to(logits.device)


@dataclass
class Language:
    """A language model with its tokenizer.

    Attributes:
        model: Of transformers, or wrapped by peft.
        tokenizer: Of transformers, with a chat template.
        name: Hub repository or folder.
        revision: Commit on the hub; empty for a folder.
        sha256: Hash of the weights in a folder or file; empty for those of a hub, where the commit names them.
    """

    model: Any
    tokenizer: Any
    name: str
    revision: str = ""
    sha256: str = ""

    @property
    def width(self) -> int:
        """Width of its embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def loudness(self) -> float:
        """Root mean square of its embeddings."""
        return float(self.model.get_input_embeddings().weight.float().square().mean().sqrt())

    @property
    def longest(self) -> int:
        """Most tokens that it reads and writes together."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2**31)

    @property
    def memory(self) -> int:
        """Size of its weights in memory, in bytes."""
        packed = [
            layer
            for layer in self.model.modules()
            if hasattr(layer, "in_features") and not hasattr(layer.weight, "numel")
        ]
        plain = sum(weights.numel() * weights.element_size() for weights in self.model.parameters())
        return int(plain + sum(layer.in_features * layer.out_features for layer in packed))

    def pack(self) -> None:
        """Packs its linear layers at 8 bits, for the CPU; the numbers between them are rounded as they are used.

        Raises:
            RuntimeUnavailable: This torch cannot do it.
        """
        try:
            with quiet():  # torch announces that it will move
                quantize: Any = import_module("torch.ao.quantization").quantize_dynamic
                self.model = quantize(self.model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)
        except (ImportError, AttributeError, RuntimeError) as error:
            raise RuntimeUnavailable(f"this torch has no int8 on this CPU ({error}): use dtype float32") from error

    def ids(self, text: str) -> list[int]:
        """Returns the tokens of a text, without any that mark its start or end."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def prompt(self, system: str, context: Sequence[Turn] = ()) -> tuple[list[int], list[int]]:
        """Returns the ids before and after the remark, by the chat template of the model.

        Turns in a row of the same role become one, since many templates want the roles to alternate. Signs that have a
        meaning of their own in the template are taken out of what was said.

        Args:
            system: Instruction; templates without that role get it in front of the first turn of the user.
            context: What was said before, oldest first.

        Raises:
            CheckpointError: The template cannot be used.
        """
        turns: list[dict[str, str]] = []
        for role, content in [*((turn.role, self._plain(turn.content)) for turn in context), ("user", _HERE)]:
            if turns and turns[-1]["role"] == role:
                content = f"{turns.pop()['content']}\n{content}"  # noqa: PLW2901
            turns.append({"role": role, "content": content})
        try:
            text = self._rendered([{"role": "system", "content": system}, *turns])
        except Exception:  # a template raises what it likes: TemplateError, KeyError
            if turns[0]["role"] == "user":
                first = [{**turns[0], "content": f"{system}\n\n{turns[0]['content']}"}, *turns[1:]]
            else:
                first = [{"role": "user", "content": system}, *turns]
            try:
                text = self._rendered(first)
            except Exception as error:
                raise CheckpointError(f"{self.name}: its chat template cannot be used: {error}") from error
        before, found, after = text.partition(_HERE)
        if not found or _HERE in after:
            raise CheckpointError(f"{self.name}: its chat template does not repeat what the user says once")
        return self.ids(before), self.ids(after)

    def _plain(self, text: str) -> str:
        for sign in (_HERE[0], *self.tokenizer.get_added_vocab()):
            text = text.replace(sign, " ")
        return text

    def _rendered(self, turns: Sequence[Mapping[str, str]]) -> str:
        text: str = self.tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True)
        return text

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Returns the embeddings of tokens, [tokens, width]."""
        found: Tensor = self.model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long, device=self.device))
        return found

    def named(self, words: Sequence[str]) -> Tensor:
        """Returns the embedding of each word in the middle of a sentence: the mean of its tokens, [words, width]."""
        return torch.stack([self.embed(self.ids(f" {word}")).mean(0) for word in words])

    def batch(
        self,
        prompts: Sequence[tuple[Sequence[int], Sequence[int]]],
        remarks: Sequence[Tensor],
        answers: Sequence[Sequence[int]] | None = None,
    ) -> Batch:
        """Puts remarks into prompts, and answers after them.

        Args:
            prompts: Ids before and after each remark, as of `prompt`.
            remarks: Embeddings of each, [tokens, width].
            answers: Ids of the answer to each, with the sign that ends it.
        """
        rows, lengths = [], []
        for index, ((before, after), remark) in enumerate(zip(prompts, remarks, strict=True)):
            answer = answers[index] if answers else ()
            tail = self.embed([*after, *answer])
            rows.append(torch.cat([self.embed(before), remark.to(tail.dtype), tail]))
            lengths.append(len(answer))
        longest = max(map(len, rows))
        mask = torch.zeros(len(rows), longest, dtype=torch.long, device=self.device)
        targets = torch.full((len(rows), longest), -100, device=self.device) if answers else None
        padded = []
        for index, row in enumerate(rows):
            padded.append(torch.cat([row.new_zeros(longest - len(row), row.shape[1]), row]))
            mask[index, longest - len(row) :] = 1
            if targets is not None and answers is not None:
                targets[index, longest - lengths[index] :] = torch.tensor(answers[index], device=self.device)
        embeddings = torch.stack(padded)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return Batch(embeddings, mask, positions, targets, max(lengths))

    def loss(self, batch: Batch) -> Tensor:
        """Returns the mean negative log-likelihood of the tokens of the answers."""
        assert batch.targets is not None
        kept = batch.longest + 1
        out = self.model(
            inputs_embeds=batch.embeddings,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            logits_to_keep=kept,
            use_cache=False,
        )
        logits = out.logits[:, :-1].flatten(0, 1).float()
        return torch.nn.functional.cross_entropy(logits, batch.targets[:, -batch.longest :].flatten())

    def answers(self, batch: Batch, limit: int, chance: Chance | None = None) -> Iterator[list[int | None]]:
        """Yields the next token of each row, or None where the answer has ended, until all have.

        Args:
            batch: Prompts without answers.
            limit: Most tokens of an answer.
            chance: How tokens are drawn; None for the most likely ones.
        """
        ends, cache, done = self.ends, None, [False] * len(batch.mask)
        embeddings, mask, positions = batch.embeddings, batch.mask, batch.positions
        named = self._cache_name
        for _ in range(limit):
            with own_settings(self.device.type):
                out = self.model(
                    inputs_embeds=embeddings,
                    attention_mask=mask,
                    position_ids=positions,
                    logits_to_keep=1,
                    use_cache=True,
                    **{named: cache},
                )
                cache = getattr(out, named)
                logits = out.logits[:, -1]
                chosen = chance.token(logits) if chance else logits.argmax(-1)
                embeddings = self.model.get_input_embeddings()(chosen)[:, None]
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
                positions = positions[:, -1:] + 1
            found: list[int | None] = []
            for index, token in enumerate(chosen.tolist()):
                done[index] = done[index] or token in ends
                found.append(None if done[index] else token)
            if all(done):
                return
            yield found

    @property
    def _cache_name(self) -> str:
        """Name of the argument that holds keys and values; newer versions of transformers have renamed it."""
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    @property
    def ends(self) -> set[int]:
        """Tokens that end an answer."""
        configured = self.model.generation_config.eos_token_id
        listed = configured if isinstance(configured, list) else [configured]
        return {token for token in (*listed, self.tokenizer.eos_token_id) if token is not None}

    def text(self, ids: Sequence[int]) -> str:
        """Returns the words of an answer."""
        words: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return words.strip()

    def states(self, texts: Sequence[str]) -> Tensor:
        """Returns the last hidden states of texts, each as its mean over the tokens, [texts, width]."""
        found = []
        for text in texts:
            with torch.inference_mode():
                ids = torch.tensor([self.ids(text)], device=self.device)
                out = self.model(input_ids=ids, output_hidden_states=True, logits_to_keep=1, use_cache=False)
                found.append(out.hidden_states[-1][0].float().mean(0))
        return torch.stack(found)


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    offline: bool = False,
) -> Language:
    """Loads a causal language model of transformers, without running code of its repository.

    Args:
        name: Hub repository, such as `HuggingFaceTB/SmolLM2-135M-Instruct`; a folder that transformers can load; or a
            file in the form GGUF, whose weights are unpacked.
        revision: Commit, branch or tag on the hub; its commit is kept.
        device: `cpu`, `cuda` or `mps`.
        dtype: Type of its weights: `float32`, `bfloat16` or `float16`; for `int8` they are in float32 until `pack`.
        offline: Never open a connection; `E2V_OFFLINE=1` does the same.

    Raises:
        CheckpointError: Nothing can be loaded, or it has no chat template.
        ModelNotFound: It is not on this machine while offline.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    local = Path(name).exists()
    options: dict[str, Any] = {"local_files_only": local or offline or offline_by_environment()}
    place = name
    if Path(name).is_file():
        place, options["gguf_file"] = Path(name).parent, Path(name).name
    else:
        options["revision"] = revision
    weights = torch.float32 if dtype == "int8" else getattr(torch, dtype)
    try:
        with quiet(), without_telemetry():
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
            model: Any = AutoModelForCausalLM.from_pretrained(place, dtype=weights, use_safetensors=True, **options)
    except ImportError as error:
        if "gguf_file" not in options:
            raise
        raise CheckpointError(f"{name}: reading GGUF needs two libraries: pip install gguf accelerate") from error
    except OSError as error:
        if local or not options["local_files_only"]:
            raise _unusable(name, error) from error
        raise ModelNotFound(
            f"{name} is not on this machine and this run is offline: run once online, or name its folder"
        ) from error
    except Exception as error:  # ValueError, KeyError, SafetensorError: whatever a damaged file leads to
        raise _unusable(name, error) from error
    if not tokenizer.chat_template:
        raise CheckpointError(f"{name}: has no chat template: use a model that was trained to answer (Instruct)")
    model.requires_grad_(False)
    model.get_output_embeddings().register_forward_pre_hook(_contiguous)
    cached = None if local else HuggingFace(str(name), revision).cached("config.json")
    commit = cached.parent.name if cached else ""  # of .../snapshots/COMMIT/config.json
    return Language(model.to(device).eval(), tokenizer, str(name), commit, _hash(Path(name)) if local else "")


def _contiguous(layer: torch.nn.Module, states: tuple[Tensor]) -> tuple[Tensor]:
    """Copies the states that the output layer reads, which are a part of all.

    Of a part, torch on a CPU makes a product for each row of the batch (in bfloat16 each with a copy of the layer's
    weights, which are the largest of the model), and of a whole it makes one.
    """
    return (states[0].contiguous(),)


def _hash(place: Path) -> str:
    found = hashlib.sha256()
    for file in [place] if place.is_file() else sorted(place.glob("*.safetensors")):
        with file.open("rb") as opened:
            hashlib.file_digest(opened, lambda: found)
    return found.hexdigest()


def _unusable(name: str | Path, error: Exception) -> CheckpointError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return CheckpointError(f"{name}: no language model can be loaded: {reason}")
