"""Splits corpora by speaker, so that nobody is in two of train, dev and test, or as their authors do."""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence

from e2v_port.errors import CorpusError
from e2v_port.evaluation.datasets import SPLITS, Corpus, Utterance, published

__all__ = ["chosen", "split"]

# Share of the speakers of a csv without a split column that go to dev, and to test: the usual 70/15/15.
_SHARE = 0.15


def split(
    corpora: Sequence[Corpus], dev: Collection[str] = (), test: Collection[str] = (), seed: int = 0
) -> dict[str, list[Utterance]]:
    """Splits corpora into `train`, `dev` and `test`, so that no speaker is in two of them.

    The split in taxonomy/corpora.json applies; a csv is split by its split column, or by a hash of the speakers' names,
    about 70/15/15. A corpus whose authors have split it is split as they did, clip by clip, even where speakers are in
    several parts, as in MELD: its notes say so. Given development speakers replace those of their corpora, and so do
    given test speakers; those that are replaced go to train. So development speakers alone move no test speaker to
    train.

    Args:
        corpora: Corpora with distinct names.
        dev: Development speakers, e.g. `ravdess/19`, or a corpus' name for all its speakers.
        test: Test speakers, in the same form.
        seed: Seed of the hash.

    Raises:
        CorpusError: Two corpora have the same name, a speaker is unknown, or a speaker would be in two splits.
    """
    _check_names(corpora)
    speakers = {corpus.name: sorted({utterance.speaker for utterance in corpus.utterances}) for corpus in corpora}
    given: dict[str, str] = {}
    for part, chosen in (("dev", dev), ("test", test)):
        for name in chosen:
            selected = speakers.get(name) or [name]
            if selected == [name] and not any(name in known for known in speakers.values()):
                names = ", ".join(speakers)
                raise CorpusError(f"no speaker is called {name}: write CORPUS/SPEAKER, or CORPUS for all; of {names}")
            for speaker in selected:
                if given.setdefault(speaker, part) != part:
                    raise CorpusError(f"{speaker} would be in dev and test: list them in only one of the two")
    parts: dict[str, list[Utterance]] = {part: [] for part in SPLITS}
    for corpus in corpora:
        listed = {speaker: given[speaker] for speaker in speakers[corpus.name] if speaker in given}
        replaced = {*listed.values()}
        part_of = {} if {"dev", "test"} <= replaced else _parts(corpus, speakers[corpus.name], seed)
        for utterance in corpus.utterances:
            mine = listed.get(utterance.speaker) or part_of.get(utterance, "train")
            if mine in replaced and utterance.speaker not in listed:
                mine = "train"
            if mine:
                parts[mine].append(utterance)
    return parts


def chosen(corpora: Sequence[Corpus], part: str) -> dict[str, list[Utterance]]:
    """Returns the clips of one part of each corpus: `train`, `dev` or `test` of the default split, or `all`.

    Raises:
        CorpusError: See `split`; also if a corpus has no clip in that part.
    """
    _check_names(corpora)
    if part == "all":
        return {corpus.name: list(corpus.utterances) for corpus in corpora}
    utterances = split(corpora)[part]
    clips = {
        corpus.name: [utterance for utterance in utterances if utterance.corpus == corpus.name] for corpus in corpora
    }
    for name, part_of_corpus in clips.items():
        if not part_of_corpus:
            raise CorpusError(f"{name}: none of the {part} speakers is there: use --split all, or another split")
    return clips


def _parts(corpus: Corpus, speakers: list[str], seed: int) -> dict[Utterance, str | None]:
    """Returns the part of each clip; None for a clip that its authors left out of all three."""
    if corpus.kind == "csv":
        by_speaker = _csv_split(corpus, speakers, seed)
    else:
        fixed = published()["corpora"][corpus.kind].get("split", {})
        if "test" not in fixed:
            return {utterance: utterance.split for utterance in corpus.utterances}
        by_speaker = {f"{corpus.kind}/{speaker}": part for part in ("dev", "test") for speaker in fixed[part]}
    return {utterance: by_speaker.get(utterance.speaker, "train") for utterance in corpus.utterances}


def _check_names(corpora: Sequence[Corpus]) -> None:
    for name, count in Counter(corpus.name for corpus in corpora).items():
        if count > 1:
            raise CorpusError(f"{count} corpora are called {name}: pass each once, and rename tables that share a name")


def _csv_split(corpus: Corpus, speakers: list[str], seed: int) -> dict[str, str]:
    part_of: dict[str, str] = {}
    if any(utterance.split for utterance in corpus.utterances):
        for utterance in corpus.utterances:
            if utterance.split is None:
                raise CorpusError(f"{corpus.path}: {utterance.file.name} has no split, others do: fill in the column")
            if part_of.setdefault(utterance.speaker, utterance.split) != utterance.split:
                raise CorpusError(
                    f"{corpus.path}: {utterance.speaker} is in {part_of[utterance.speaker]} and {utterance.split}: "
                    f"assign each speaker to one split"
                )
        return part_of
    if len(speakers) < len(SPLITS):
        remedy = "add a column split, or list some for dev and for test"
        raise CorpusError(f"{corpus.path}: {len(speakers)} speakers cannot be split into three: {remedy}")
    ranked = sorted(speakers, key=lambda speaker: hashlib.sha256(f"{seed}/{speaker}".encode()).digest())
    each = max(1, round(_SHARE * len(ranked)))
    return {speaker: "test" if i < each else "dev" if i < 2 * each else "train" for i, speaker in enumerate(ranked)}
