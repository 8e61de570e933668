"""The tone of a reply, judged from its text alone. No judge but `Nearest` knows the replies that models learn."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from e2v_port.dialogue.replies import LABELS, replies
from e2v_port.emotions import taxonomy
from e2v_port.errors import CorpusError, quoted
from e2v_port.evaluation.datasets import label_of

__all__ = ["Classifier", "Judge", "Lexicon", "Nearest", "sentences"]

_NEAR = 3  # words after a negation that it cancels


class Judge(Protocol):
    """Judges the tone of texts.

    Attributes:
        name: Name of the judge in tables.
    """

    name: str

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Returns one of `replies.LABELS` for each text."""


class Lexicon:
    """Counts words and phrases of emotion, those of taxonomy/tone_words.json.

    The emotion with most of them wins; among equals, the one that is named first. Without any, the tone is neutral. It
    does not see a tone that is in the manner alone: `Take your time.` is neutral.
    """

    name = "lexicon"

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Returns one of `replies.LABELS` for each text."""
        judged = {text: self._judged(text) for text in set(texts)}
        return [judged[text] for text in texts]

    def _judged(self, text: str) -> str:
        negations, phrases, stems, longest = _lexicon()
        said = re.findall(r"[\w'-]+", text.casefold().replace("’", "'"))
        found: Counter[str] = Counter()
        cancelled = at = 0  # words that a negation still cancels
        while at < len(said):
            size, label = next(
                (
                    (size, phrases[phrase])
                    for size in range(longest, 0, -1)
                    if (phrase := tuple(said[at : at + size])) in phrases
                ),
                (1, next((label for stem, label in stems if said[at].startswith(stem)), None)),
            )
            if label is not None and not cancelled:
                found[label] += 1
            cancelled = _NEAR if said[at] in negations else max(0, cancelled - size)
            at += size
        return found.most_common(1)[0][0] if found else "neutral"  # of equals, the first


@cache
def _lexicon() -> tuple[frozenset[str], dict[tuple[str, ...], str], list[tuple[str, str]], int]:
    """Returns negations, phrases with their labels, stems with theirs (the longest first), and the longest phrase."""
    table = taxonomy.table("tone_words")
    phrases: dict[tuple[str, ...], str] = {}
    stems = []
    for label, entries in table["words"].items():
        for entry in entries:
            if entry.endswith("*"):
                stems.append((entry[:-1], label))
            else:
                phrases[tuple(entry.split())] = label
    stems.sort(key=lambda stem: -len(stem[0]))
    return frozenset(table["negations"]), phrases, stems, max(map(len, phrases))


class Nearest:
    """Names the tone that the most similar of all written replies was written for: cosine of TF-IDF of up to 3 words.

    It knows by heart what models are trained on. So it says which tone a model took a remark for, not whether anybody
    else would read that tone in the reply. A reply that has no word in common with any is neutral.
    """

    name = "nearest reply"

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        written = {
            text: label
            for label in LABELS
            for intensity in ("normal", "strong")
            for text in replies(label, intensity, "that")
        }
        self._labels = list(written.values())
        self._features: Any = TfidfVectorizer(ngram_range=(1, 3), sublinear_tf=True, token_pattern=r"\w+")
        self._known = self._features.fit_transform(written)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Returns one of `replies.LABELS` for each text."""
        cosines = (self._features.transform(texts) @ self._known.T).toarray()
        nearest = cosines.argmax(1)
        return [self._labels[at] if row[at] > 0 else "neutral" for row, at in zip(cosines, nearest, strict=True)]


class Classifier:
    """A linear classifier that learns from labeled sentences: logistic regression on TF-IDF of words and pairs of them.

    All labels have equal weight, whatever their number of sentences.
    """

    name = "classifier"

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        """Learns from sentences.

        Args:
            texts: The sentences.
            labels: One of `replies.LABELS` for each.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        # Words that occur once teach nothing about others. The penalty is scikit-learn's default; nothing was tuned.
        features = TfidfVectorizer(sublinear_tf=True, min_df=2 if len(texts) > 1000 else 1, ngram_range=(1, 2))
        self._pipeline: Any = make_pipeline(features, LogisticRegression(class_weight="balanced", max_iter=500))
        self._pipeline.fit(list(texts), list(labels))

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Returns one of `replies.LABELS` for each text."""
        return [str(label) for label in self._pipeline.predict(list(texts))]


def sentences(file: Path) -> tuple[list[str], list[str]]:
    """Reads a table of sentences with emotions: a sentence, a tab, an emotion, and further columns that are ignored.

    GoEmotions (Demszky et al. 2020, arXiv 2005.00547) has this form: its emotions are numbers of the lines of
    `labels.txt` in the same folder. Sentences with several emotions, or with one that is none of `replies.LABELS`,
    are left out.

    Args:
        file: The table, in UTF-8.

    Returns:
        The sentences, and the label of each.

    Raises:
        CorpusError: It cannot be read, or has not at least two sentences for each of two labels.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
        numbered = file.with_name("labels.txt")
        names = numbered.read_text("utf-8").split() if numbered.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{file}: cannot be read: {error}") from error
    texts, labels = [], []
    for number, line in enumerate(lines, 1):
        text, tab, rest = line.partition("\t")
        name = rest.partition("\t")[0].strip()
        if not tab:
            raise CorpusError(f"{file}:{number}: no tab: each line is a sentence, a tab and an emotion")
        if name.isdecimal():
            if int(name) >= len(names):
                raise CorpusError(f"{file}:{number}: emotion {quoted(name)} is not in labels.txt beside the file")
            name = names[int(name)]
        if (label := label_of(name)) in LABELS:
            texts.append(text)
            labels.append(label)
    if sum(count > 1 for count in Counter(labels).values()) < 2:
        raise CorpusError(f"{file}: no two emotions with two sentences each: emotions are {', '.join(LABELS)}")
    return texts, labels
