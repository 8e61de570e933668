"""Texts compared with texts: BLEU and ROUGE-L of replies, and errors in words."""

import re
from collections.abc import Sequence
from functools import cache

import numpy as np

from e2v_port.dialogue.examples import Example
from e2v_port.dialogue.replies import replies, topic_of
from e2v_port.evaluation.metrics import Array

__all__ = ["bleu", "each_bleu", "each_rouge", "edits", "references", "said"]

_ORDER = 4  # longest n-grams of BLEU
# Columns of the sums of BLEU: matches and n-grams of each order, and the lengths of replies and references in tokens.
_COLUMNS = 2 * _ORDER + 2


def references(example: Example) -> tuple[str, ...]:
    """Returns all replies that fit a remark as well as its own.

    Its own is one of several dozen that were written for the tone, drawn at random: no model can know which. A reply of
    another origin, such as a rewriter's, has no equals.
    """
    known = replies(example.emotion, example.intensity, topic_of(example.corpus, example.words))
    return tuple(known) if example.reply in known else (example.reply,)


def each_bleu(texts: Sequence[str], known: Sequence[tuple[str, ...]]) -> Array:
    """Returns what `bleu` sums up for each text, [texts, 10]; sacrebleu counts the n-grams.

    Args:
        texts: Replies.
        known: The references of each, as of `references`.
    """
    return np.array([_counted(*pair) for pair in zip(texts, known, strict=True)], float).reshape(-1, _COLUMNS)


@cache
def _counted(text: str, known: tuple[str, ...]) -> tuple[int, ...]:
    from sacrebleu.metrics.bleu import BLEU

    # `effective_order` is for the scores of sentences, which are not used; it changes no count.
    found = BLEU(effective_order=True).sentence_score(text, list(known))
    return (*found.counts, *found.totals, found.sys_len, found.ref_len)


def bleu(sums: Array) -> Array:
    """Returns corpus BLEU, 0 to 100, of sums [..., 10]: that of sacrebleu (Post 2018), Papineni et al. 2002."""
    from sacrebleu.metrics.bleu import BLEU

    rows = sums.reshape(-1, _COLUMNS).astype(int).tolist()
    scores = [
        BLEU.compute_bleu(
            correct=row[:_ORDER],
            total=row[_ORDER : 2 * _ORDER],
            sys_len=row[-2],
            ref_len=row[-1],
            smooth_method="exp",  # sacrebleu's own for a corpus
        ).score
        for row in rows
    ]
    return np.array(scores).reshape(sums.shape[:-1])


def each_rouge(texts: Sequence[str], known: Sequence[tuple[str, ...]]) -> Array:
    """Returns the ROUGE-L of each text, 0 to 1: the F measure with the reference that is nearest (Lin 2004).

    Args:
        texts: Replies.
        known: The references of each, as of `references`.
    """
    return np.array([_nearest(*pair) for pair in zip(texts, known, strict=True)], float)


@cache
def _nearest(text: str, known: tuple[str, ...]) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer(["rougeL"]).score_multi(list(known), text)["rougeL"].fmeasure)


def said(text: str) -> tuple[str, ...]:
    """Returns the words of a text as they are heard: without case and punctuation."""
    return tuple(re.findall(r"\w+", text.casefold()))


@cache
def edits(reference: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Returns how many words must be replaced, left out or put in to make one text of the other (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for number, word in enumerate(reference, 1):
        above, row[0] = row[0], number
        for at, candidate in enumerate(other, 1):
            above, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, above + (word != candidate))
    return row[-1]
