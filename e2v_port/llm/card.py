"""The card of a speech language model: README.md of its folder."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from e2v_port.checkpoints import catalog
from e2v_port.checkpoints.licenses import free
from e2v_port.llm.stored import Stored

__all__ = ["card", "licence"]

_UNKNOWN = "not known"
_CLOSED = ("not for commercial use", "non-commercial", "noncommercial", "by-nc", "by nc", "for research")
_HEARS = {
    "speech": "the voice itself: its words and its tone. No label is handed to the language model",
    "words": "the words as text, and no tone",
    "label": "the words as text, and a label of the tone as a word",
}
_KINDS = {
    "semantic": "encoder of what is said",
    "emotion": "encoder of how it is said",
    "speaker": "encoder of who says it",
}


def card(stored: Stored) -> str:
    """Returns the card of a trained model, in Markdown: what it is, is for and is made of, and whose licenses bind it.

    Args:
        stored: The model. Of `training`, `corpora` (`name`, `licence`, `speakers` by set), `clips`, `seconds`, `recipe`
            and `dev` are used where they are there.
    """
    sections = [
        _head(stored),
        _facts(stored),
        _PURPOSE,
        _use(stored),
        _data(stored),
        _chain(stored),
        _figures(stored),
        _LIMITS,
    ]
    return "\n".join("\n".join(lines) + "\n" for lines in sections)


def licence(stored: Stored) -> str:
    """Returns the license that binds a trained model: the strictest of its language model, encoders and corpora.

    Not for commercial use if one of them is not; not known if the license of one is not.
    """
    parts = list(_parts(stored))
    found = []
    if closed := [terms for _, _, terms in parts if any(mark in terms.casefold() for mark in _CLOSED)]:
        found.append(f"not for commercial use ({'; '.join(dict.fromkeys(each.partition(':')[0] for each in closed))})")
    if unknown := [name for _, name, terms in parts if terms == _UNKNOWN or terms.casefold().startswith("unknown")]:
        found.append(f"not known for {', '.join(dict.fromkeys(unknown))}: find out before you pass the model on")
    if found:
        return "; ".join(found)
    if bound := [f"{terms} ({name})" for _, name, terms in parts if not free(terms)]:
        return f"bound by the terms of {'; '.join(dict.fromkeys(bound))}"
    return "free for any use, with attribution"


def _head(stored: Stored) -> list[str]:
    if stored.hears != "speech":
        return [
            "# A language model to compare speech language models with",
            "",
            *_wrapped(
                "It answers the text of a remark and hears no voice. It is there to be measured beside a model that "
                "does, with `e2v dialogue evaluate`."
            ),
            "",
            f"It gets {_HEARS[stored.hears]}.",
        ]
    return [
        "# A speech language model",
        "",
        *_wrapped(
            "It hears a remark and answers in words that fit the tone of voice. What it makes of a tone is an "
            "**estimate of how a voice sounds**, often wrong, and no finding about what somebody feels."
        ),
        "",
        "    e2v reply speech.wav --model FOLDER",
        "",
        f"The language model gets {_HEARS[stored.hears]}.",
    ]


def _facts(stored: Stored) -> list[str]:
    adapter = sum(value.numel() for value in stored.tensors.values())
    added = sum(value.numel() for value in stored.low_rank.values())
    rows = [("language model", _named(stored.language))]
    rows += [(_KINDS[kind], _named(found) if found else "none") for kind, found in stored.encoders.items()]
    if stored.adapter is not None:
        config = stored.adapter
        rows.append(("fusion", f"`{config.fusion}`, width {config.width}, {config.heads} heads"))
        rows.append(("a token stands for", f"{config.average * config.stack} frames of the semantic encoder"))
        rows.append(("adapter", f"{adapter:,} parameters"))
    rank = next((value.shape[0] for name, value in stored.low_rank.items() if name.endswith(".a")), 0)
    rows.append(("added to the language model", f"{added:,} parameters, rank {rank}" if added else "nothing"))
    rows.append(("size", f"{2 * (adapter + added) / 1e6:.1f} MB, 16 bits per number"))
    rows.append(("instruction", f"`{stored.system}`"))
    rows.append(("license", licence(stored)))
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


_PURPOSE = """\
## What it is for

Research and prototypes: short remarks of one adult voice, in a language of the training data, where a wrong answer does
no harm and a person can step in.

Do not use it to decide about people: to hire, grade, insure, diagnose or police them, or to find out whether they lie.
It is no help in a crisis, and no adviser on health. In the European Union, inferring emotions at work or in schools is
prohibited except for medical or safety reasons (Regulation (EU) 2024/1689, Article 5(1)(f)). Tell people before they
speak that they talk to a program and that it judges their tone (Article 50).""".splitlines()


def _use(stored: Stored) -> list[str]:
    argument = '"speech.wav"' if stored.hears == "speech" else '"The words."'
    call = f"pipe({argument})" if stored.hears == "speech" else f"pipe.replies([{argument}], [()])"
    return [
        "## Use",
        "",
        "```python",
        "import e2v_port",
        "",
        'pipe = e2v_port.SpeechLM.load("FOLDER")',
        call,
        "```",
        "",
        *_wrapped(
            "The folder holds what was trained. The language model and the encoders are named in `config.json` and "
            "loaded from where they are. Answers are checked by fixed rules before they leave, and no audio is stored."
        ),
    ]


def _data(stored: Stored) -> list[str]:
    lines = ["## Training data", ""]
    corpora = stored.training.get("corpora") or []
    if not corpora:
        return [*lines, "Not recorded."]
    sets = list(dict.fromkeys(part for corpus in corpora for part in corpus.get("speakers", {})))
    lines += [
        f"| corpus | license |{''.join(f' speakers in {part} |' for part in sets)}",
        "|---|---|" + "---|" * len(sets),
    ]
    for corpus in corpora:
        speakers = corpus.get("speakers", {})
        cells = "".join(f" {_people(speakers.get(part, []))} |" for part in sets)
        lines.append(f"| {corpus['name']} | {corpus.get('licence') or _UNKNOWN} |{cells}")
    lines.append("")
    if clips := stored.training.get("clips"):
        lines += [f"Clips: {', '.join(f'{number} {part}' for part, number in clips.items())}.", ""]
    return lines + _wrapped(
        "The emotions are labels that somebody gave, often to acted speech. Nobody said the replies: they were put "
        "together from sentences written for the purpose, or rewritten by another language model. The datasheet of the "
        "dialogues has the details."
    )


def _chain(stored: Stored) -> list[str]:
    lines = ["## License and provenance", "", "| part | from | license |", "|---|---|---|"]
    lines += [f"| {part} | {name} | {found} |" for part, name, found in _parts(stored)]
    lines += [f"| **this model** | all of these | **{licence(stored)}** |", ""]
    return lines + _wrapped(
        "Name these parts when you pass the model on, and keep a license that asks for it (share alike). This table "
        "lists what the training recorded; it is no legal advice."
    )


def _figures(stored: Stored) -> list[str]:
    lines = ["## Accuracy", ""]
    dev = stored.training.get("dev") or {}
    if rows := [(name, found["uar"]) for name, found in dev.items() if isinstance(found, Mapping) and "uar" in found]:
        lines += ["Its own estimate of the emotion, on the development speakers, after training:", ""]
        lines += ["| corpus | UAR |", "|---|---|", *(f"| {name} | {uar:.3f} |" for name, uar in rows), ""]
    return lines + _wrapped(
        "Its replies are **not evaluated** unless figures lie beside this file. `e2v dialogue evaluate` measures them "
        "on speakers that it never heard, by sex, speaker and intensity."
    )


_LIMITS = """\
## Limitations

- **Acted speech.** Nobody knows how it does with people who do not act, with other languages, with children and old
  voices, with accents, or with speech that an illness or a disability changes.
- **Wrong tones.** It answers the tone that it hears, and mishears many. It cannot know a cause or an intention.
- **Invention.** Like any language model, it may state what is not so. The rules that check its answers find words, not
  meaning.
- **No crisis line.** Where lives may be at stake, a person must listen.""".splitlines()


def _parts(stored: Stored) -> Iterator[tuple[str, str, str]]:
    """Yields each part of the model: what it is, its name and its license."""
    yield "language model", str(stored.language["name"]), stored.language.get("licence") or _UNKNOWN
    for kind, found in stored.encoders.items():
        if found is not None:
            known = catalog.lookup(str(found["name"]))
            stated = found.get("licence") or (known.licence if known else None)
            yield _KINDS[kind], str(found["name"]), stated or _UNKNOWN
    for corpus in stored.training.get("corpora") or []:
        yield "recordings and labels", str(corpus["name"]), corpus.get("licence") or _UNKNOWN


def _named(found: Mapping[str, Any]) -> str:
    return f"`{found['name']}`" + (f", revision `{found['revision']}`" if found.get("revision") else "")


def _people(names: Any) -> str:
    """Returns speakers by name, or how many there are if they are many."""
    short = [str(name).rpartition("/")[2] for name in names]
    return ", ".join(short) if len(short) <= 12 else str(len(short))


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)
