"""A speech language model in use: hears a remark, answers in words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from e2v_port.llm.adapter import Adapter, heard
from e2v_port.llm.language import Language, Turn

__all__ = ["answers"]


def answers(
    language: Language,
    adapter: Adapter | None,
    remarks: Sequence[Mapping[str, Any] | str],
    *,
    system: str,
    contexts: Sequence[Sequence[Turn]] | None = None,
    limit: int = 60,
) -> Iterator[list[int | None]]:
    """Yields the next token of the answer to each remark, see `Language.answers`.

    Args:
        language: The language model, with what was trained merged in.
        adapter: Turns features into embeddings; None if remarks are texts.
        remarks: Features by encoder, or texts.
        system: Instruction.
        contexts: What was said before each; by default nothing.
        limit: Most tokens of an answer.
    """
    with torch.inference_mode():
        if adapter is None:
            embedded = [language.embed(language.ids(str(remark))) for remark in remarks]
        else:
            clips = [remark for remark in remarks if not isinstance(remark, str)]
            fused = adapter(heard(clips, adapter.config).to(language.device))
            embedded = [tokens[mask] for tokens, mask in zip(fused.tokens, fused.mask, strict=True)]
        prompts = [language.prompt(system, context) for context in contexts or [()] * len(remarks)]
        batch = language.batch(prompts, embedded)
    yield from language.answers(batch, limit)
