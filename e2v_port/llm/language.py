"""A causal language model of transformers that reads embeddings among its words: its prompt, batches and answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from e2v_port.errors import CheckpointError

__all__ = ["Batch", "Language", "Turn", "load"]

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


@dataclass
class Language:
    """A language model with its tokenizer.

    Attributes:
        model: Of transformers, or wrapped by peft.
        tokenizer: Of transformers, with a chat template.
        name: Hub repository or folder.
        revision: Commit on the hub; empty for a folder.
    """

    model: Any
    tokenizer: Any
    name: str
    revision: str = ""

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

    def ids(self, text: str) -> list[int]:
        """Returns the tokens of a text, without any that mark its start or end."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def prompt(self, system: str, context: Sequence[Turn] = ()) -> tuple[list[int], list[int]]:
        """Returns the ids before and after the remark, by the chat template of the model.

        Args:
            system: Instruction; templates without that role get it in front of the first turn of the user.
            context: What was said before, oldest first.
        """
        turns = [{"role": turn.role, "content": turn.content} for turn in context]
        remark = {"role": "user", "content": _HERE}
        try:
            text = self._rendered([{"role": "system", "content": system}, *turns, remark])
        except Exception as error:  # a template raises what it likes: TemplateError, KeyError
            if "system" not in str(error).lower() and "roles" not in str(error).lower():
                raise CheckpointError(f"{self.name}: its chat template cannot be used: {error}") from error
            first = [*turns, remark]
            first[0] = {**first[0], "content": f"{system}\n\n{first[0]['content']}"}
            text = self._rendered(first)
        before, found, after = text.partition(_HERE)
        if not found or _HERE in after:
            raise CheckpointError(f"{self.name}: its chat template does not repeat what the user says once")
        return self.ids(before), self.ids(after)

    def _rendered(self, turns: Sequence[Mapping[str, str]]) -> str:
        text: str = self.tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True)
        return text

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Returns the embeddings of tokens, [tokens, width]."""
        found: Tensor = self.model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long, device=self.device))
        return found

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
        for number, ((before, after), remark) in enumerate(zip(prompts, remarks, strict=True)):
            answer = answers[number] if answers else ()
            tail = self.embed([*after, *answer])
            rows.append(torch.cat([self.embed(before), remark.to(tail.dtype), tail]))
            lengths.append(len(answer))
        longest = max(map(len, rows))
        mask = torch.zeros(len(rows), longest, dtype=torch.long, device=self.device)
        targets = torch.full((len(rows), longest), -100, device=self.device) if answers else None
        padded = []
        for number, row in enumerate(rows):
            padded.append(torch.cat([row.new_zeros(longest - len(row), row.shape[1]), row]))
            mask[number, longest - len(row) :] = 1
            if targets is not None and answers is not None:
                targets[number, longest - lengths[number] :] = torch.tensor(answers[number], device=self.device)
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

    def answers(self, batch: Batch, limit: int) -> Iterator[list[int | None]]:
        """Yields the most likely next token of each row, or None where the answer has ended, until all have.

        Args:
            batch: Prompts without answers.
            limit: Most tokens of an answer.
        """
        ends = self.ends
        embeddings, mask, positions = batch.embeddings, batch.mask, batch.positions
        cache: Any = None
        done = [False] * len(mask)
        for _ in range(limit):
            with torch.inference_mode():
                out = self.model(
                    inputs_embeds=embeddings,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    logits_to_keep=1,
                    use_cache=True,
                )
                cache = out.past_key_values
                chosen = out.logits[:, -1].argmax(-1)
                found: list[int | None] = []
                for number, token in enumerate(chosen.tolist()):
                    done[number] = done[number] or token in ends
                    found.append(None if done[number] else token)
                if all(done):
                    return
                yield found
                embeddings = self.model.get_input_embeddings()(chosen)[:, None]
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
                positions = positions[:, -1:] + 1

    @property
    def ends(self) -> set[int]:
        """Tokens that end an answer."""
        configured = self.model.generation_config.eos_token_id
        listed = configured if isinstance(configured, list) else [configured]
        return {token for token in (*listed, self.tokenizer.eos_token_id) if token is not None}

    def text(self, ids: Sequence[int]) -> str:
        """Returns the words of an answer."""
        words: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
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
    dtype: torch.dtype = torch.float32,
    offline: bool = False,
) -> Language:
    """Loads a causal language model of transformers.

    Args:
        name: Hub repository, such as `HuggingFaceTB/SmolLM2-135M-Instruct`, or a folder that transformers can load.
        revision: Commit, branch or tag on the hub; its commit is kept.
        device: `cpu`, `cuda` or `mps`.
        dtype: Type of its weights.
        offline: Never open a connection.

    Raises:
        CheckpointError: Nothing can be loaded, or it has no chat template.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"revision": revision, "local_files_only": offline}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{name}: no language model can be loaded: {reason}") from error
    if not tokenizer.chat_template:
        raise CheckpointError(f"{name}: has no chat template: use a model that was trained to answer (Instruct)")
    model.requires_grad_(False)
    commit = "" if Path(name).is_dir() else getattr(model.config, "_commit_hash", None) or ""
    return Language(model.to(device).eval(), tokenizer, str(name), commit)  # type: ignore[arg-type]
