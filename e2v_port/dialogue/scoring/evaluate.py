"""Evaluates speech language models: runs them on a set of dialogues, and measures what they answer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from e2v_port.dialogue import examples, features
from e2v_port.dialogue.replies import LABELS
from e2v_port.dialogue.scoring import answers, empathy, figures, written
from e2v_port.dialogue.scoring.tone import Judge, Lexicon, Nearest
from e2v_port.errors import CorpusError, number
from e2v_port.llm import stored
from e2v_port.llm.speech import HOTTEST, placed

__all__ = ["RATINGS", "REPLIES", "Bar", "evaluate"]

REPLIES, RATINGS = "replies.jsonl", "ratings.jsonl"

Bar = Callable[[int, str], AbstractContextManager[Callable[[], None]]]
"""Shows progress: takes the number of steps and a title, and provides a function to call after each."""


@contextmanager
def _silent(total: int, title: str) -> Iterator[Callable[[], None]]:
    yield lambda: None


def evaluate(
    models: Sequence[Path],
    dialogues: Path,
    out: Path,
    *,
    part: str = "test",
    judges: Sequence[Judge] = (),
    labels_of: str | None = None,
    rater: empathy.Rater | None = None,
    rater_name: str = "",
    language: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    limit: int = 60,
    temperature: float = 0.0,
    seed: int = 0,
    offline: bool = False,
    bar: Bar = _silent,
) -> figures.Evaluation:
    """Evaluates models on the same clips.

    The answers are kept in `replies.jsonl`, those of these models alone. What the same model has answered there, to the
    same clips, is not answered again.

    Args:
        models: Folders of `e2v dialogue train`; the first is the one that others are compared with.
        dialogues: Folder of `e2v dialogue prepare`.
        out: Folder for the answers; it is made.
        part: `train`, `dev` or `test`.
        judges: Judges of the tone of replies, besides `Lexicon` and `Nearest`.
        labels_of: Emotion model whose labels models read that hear `label`; they get the true labels as well.
        rater: Rates the empathy of replies; None for no such figures.
        rater_name: Its name: of the ratings that are kept in `ratings.jsonl`, only those under this name count.
        language: Hub name or folder of the language model, in place of those that the models name.
        device: Where the language model computes, as for `SpeechLM.load`.
        dtype: Type of its weights, as there.
        limit: Most tokens of an answer.
        temperature: 0 for the most likely words; above, they are drawn, see `llm.language.Chance`.
        seed: Seed of what is drawn and of the bootstrap.
        offline: Never open a connection.
        bar: Shows the progress of each model.

    Raises:
        CheckpointError: A model cannot be loaded.
        CorpusError: The dialogues cannot be used, a model was trained on speakers of `dev` or `test`, or the
            features are of other encoders than those of a model.
        RuntimeUnavailable: The device or the type of the weights is not there.
        ValueError: The temperature is none.
        OSError: The folder cannot be written to.
    """
    number("temperature", temperature, 0, HOTTEST)
    dtype = placed(device, dtype)[1]
    found = examples.read(dialogues, part)
    if strange := sorted({example.emotion for example in found} - set(LABELS)):
        raise CorpusError(f"{dialogues}: {strange[0]} is no label that has replies: use {', '.join(LABELS)}")
    out.mkdir(parents=True, exist_ok=True)
    every: list[Judge] = [Lexicon(), Nearest(), *judges]  # before any model runs: they may lack a library
    asked = []
    for contender in answers.contenders(models, labels_of):
        if part != "train":
            _unheard(contender, found)
        if contender.hears == "speech":
            _encoded(contender, dialogues)
        labels = None
        if contender.labels == answers.TRUE:
            labels = [example.emotion for example in found]
        elif contender.labels:
            with bar(len(found), contender.labels) as advance:
                labels = answers.labels_of(contender.labels, found, out, offline=offline, advance=advance)
        key = answers.key(
            contender,
            found,
            labels,
            name=language,
            dtype=dtype,
            limit=limit,
            temperature=temperature,
            seed=seed,
        )
        asked.append((contender, labels, key))
    known = written.read(out / REPLIES)
    runs = {key: known[key] for _, _, key in asked if key in known and len(known[key].replies) == len(found)}
    for contender, labels, key in asked:
        if key in runs:
            continue
        with bar(len(found), contender.name) as advance:
            runs[key] = answers.answer(
                contender,
                found,
                labels,
                name=language,
                device=device,
                dtype=dtype,
                limit=limit,
                temperature=temperature,
                seed=seed,
                offline=offline,
                advance=advance,
            )
        written.write(list(runs.values()), found, out / REPLIES)
    answered = [runs[key] for _, _, key in asked]
    written.write(answered, found, out / REPLIES)
    ratings = None
    if rater is not None:
        wanted = dict.fromkeys(
            (example.words, example.emotion, reply)
            for replies in ([example.reply for example in found], *(run.replies for run in answered))
            for example, reply in zip(found, replies, strict=True)
        )
        with bar(len(wanted), "rating") as advance:
            ratings = empathy.rate(rater, rater_name, wanted, out / RATINGS, advance)
    return figures.evaluation(
        part, found, answered, every, ratings=ratings, dtype=dtype, temperature=temperature, seed=seed
    )


def _unheard(contender: answers.Contender, found: Sequence[examples.Example]) -> None:
    """Raises CorpusError if a model was trained on speakers of a set that is to show how it answers others."""
    trained = stored.read(contender.folder).speakers
    if known := sorted({example.speaker for example in found} & trained):
        names = f"{', '.join(known[:3])}{', ...' * (len(known) > 3)}"
        raise CorpusError(
            f"{contender.folder}: was trained on {names} of this set, and figures are of voices never heard: evaluate "
            "it on the dialogues that it was trained with, or train it again on these"
        )


def _encoded(contender: answers.Contender, dialogues: Path) -> None:
    """Raises CorpusError if the features are of other encoders than a model reads, which may be as wide."""
    here = features.encoders(dialogues)
    for kind, wanted in stored.read(contender.folder).encoders.items():
        if wanted and (here[kind] or {}).get("sha256") != wanted["sha256"]:
            name = (here[kind] or {}).get("name", "none")
            raise CorpusError(
                f"{dialogues}: {kind} features are of {name}, and {contender.folder} was trained with those of "
                f"{wanted['name']}: prepare the dialogues again with the encoders of the model"
            )
