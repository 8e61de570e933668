"""Puts finished models into the package, with their figures, and writes the tables of the documents about them.

    python benchmarks/packing.py WORK --corpus emodb=FOLDER --corpus ravdess=FOLDER --corpus nemo=FOLDER

WORK holds a folder for each model, by its name in the package, as `e2v train` or benchmarks/encoders.py wrote it, with
a temperature. Encoders are packed into 8 bits. Each model is evaluated on every corpus and under conditions, by
benchmarks/cross_corpus.py: on the test speakers if the model was trained on others of that corpus, or else on all
speakers. What config.json and these figures say of it becomes its row in weights/manifest.json, the tables of facts and
figures in its card, and a row in README.md. Without WORK, only these are written again, from what weights/ holds.

The text of a card, weights/NAME/README.md, and the license, weights/NAME/LICENSE, are written by hand beforehand;
tests/test_packaging.py checks them against the training data.
"""

import argparse
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cross_corpus import TEST, accuracy, conditions_table, confidence, confusion, groups, measure, table, title
from safetensors.numpy import load_file

from e2v_port import load, seam
from e2v_port.architectures import tensors
from e2v_port.architectures.config import ModelConfig, Source
from e2v_port.evaluation import datasets, readers
from e2v_port.files import replacing

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "weights"
MANIFEST = WEIGHTS / "manifest.json"


def bundled() -> list[str]:
    """Returns the names of the models of emotions in weights/."""
    return sorted(evaluation.parent.name for evaluation in WEIGHTS.glob("*/evaluation.json"))


def corpora_of(config: ModelConfig) -> dict[str, int]:
    """Returns the corpora that a model was trained on or chosen by, with the number of their speakers in that."""
    speakers = {speaker for each in config.trained_on for speaker in (*each.train, *each.dev)}
    return dict(sorted(Counter(speaker.partition("/")[0] for speaker in speakers).items()))


def languages(config: ModelConfig) -> list[str]:
    """Returns the languages of these corpora; a corpus of vocal bursts has none."""
    known = datasets.published()["corpora"]
    return sorted({known[name]["language"] for name in corpora_of(config) if "language" in known[name]})


# ---- tables


def facts(name: str) -> str:
    """Returns the table of what config.json says about a model in weights/."""
    config = ModelConfig.read(WEIGHTS / name)
    trained = (f"{title(corpus)} ({count} speakers)" for corpus, count in corpora_of(config).items())
    return table(
        ["", ""],
        [
            ["output", f"probabilities of {', '.join(label.name for label in config.labels)}"],
            ["network", f"family `{config.family}` in [docs/port.md](../../docs/port.md)"],
            ["size", f"{tensors.parameters(config.architecture):,} parameters in {config.dtype}, {_megabytes(name)}"],
            ["license", f"[{config.licence}](LICENSE)"],
            ["labeled training data", ", ".join(trained)],
            ["languages", ", ".join(languages(config))],
            ["temperature", f"{config.temperature:.2f}"],
        ],
    )


def figures(name: str) -> str:
    """Returns the tables of what evaluation.json says about a model in weights/."""
    corpora = _evaluation(name)
    parts = [
        "Corpora that the model never met come first. Brackets are 95 % bootstrap intervals.\n",
        accuracy(corpora),
        "UAR among the labels of the corpus, by the sex of the speaker:\n",
        groups(corpora),
        "The same under [conditions](../../docs/evaluation.md#conditions), as a change of the first row:\n",
        conditions_table(corpora),
        "Share of wrong answers among the most confident ones, and with and without the note `uncertain` (clips):\n",
        confidence(corpora),
        *(confusion(corpus, each) for corpus, each in corpora.items()),
    ]
    return "\n".join(parts)


def overview() -> str:
    """Returns the table of all models in weights/. Other speakers of a corpus in italics were trained on."""
    models = {name: _evaluation(name) for name in bundled()}
    corpora = sorted({corpus for evaluation in models.values() for corpus in evaluation})
    rows = []
    for name, evaluation in models.items():
        config = ModelConfig.read(WEIGHTS / name)
        parameters = f"{tensors.parameters(config.architecture) / 1e6:.1f} M, {_megabytes(name)}"
        recalls = (_recall(evaluation[corpus]) if corpus in evaluation else "" for corpus in corpora)
        licence = config.licence.partition(":")[0]
        rows.append([f"[`{name}`]", parameters, ", ".join(languages(config)), *recalls, licence])
    heads = ["model", "parameters", "languages", *(title(corpus) for corpus in corpora), "license"]
    links = "".join(f"[`{name}`]: weights/{name}/README.md\n" for name in models)
    return f"{table(heads, rows)}\n{links}"


def _recall(one: Mapping[str, Any]) -> str:
    value = f"{one['closed_uar'][0]:.2f}"
    return f"*{value}*" if one["what"] == TEST else value


def _megabytes(name: str) -> str:
    return f"{(WEIGHTS / name / 'model.safetensors').stat().st_size / 1e6:.1f} MB"


def _evaluation(name: str) -> dict[str, Any]:
    corpora: dict[str, Any] = json.loads((WEIGHTS / name / "evaluation.json").read_text("utf-8"))["corpora"]
    return corpora


def filled(text: str, name: str, content: str) -> str:
    """Returns a document with new content between `<!-- NAME -->` and `<!-- /NAME -->`."""
    between = re.compile(rf"(<!-- {name}\b[^>]*-->\n).*?(<!-- /{name} -->)", re.S)
    text, places = between.subn(lambda match: f"{match[1]}\n{content}\n{match[2]}", text)
    if places != 1:
        raise SystemExit(f"error: {places} places for the table: keep one <!-- {name} --> <!-- /{name} -->")
    return text


def documents() -> dict[Path, str]:
    """Returns each document with tables about the models in weights/, with these tables as they should be."""
    readme = ROOT / "README.md"
    texts = {readme: filled(readme.read_text("utf-8"), "bundled", overview())}
    for name in bundled():
        card = WEIGHTS / name / "README.md"
        texts[card] = filled(filled(card.read_text("utf-8"), "facts", facts(name)), "figures", figures(name))
    return texts


# ---- files


def packed(folder: Path, out: Path) -> Path:
    """Writes a model as the package has it, and returns its folder."""
    config = ModelConfig.read(folder)
    config = replace(
        config,
        dtype="q8" if tensors.packed(config.architecture) else config.dtype,
        licence=config.licence.partition(";")[0],  # means of labels come from corpora that it was trained on anyway
        # Without a hash: it was trained, so that `e2v verify` and `e2v bench` look for no checkpoint that it came from.
        source=Source(out.name, "local", "", "", ""),
    )
    stored = load_file(folder / "model.safetensors")
    seam.store(out, config, lambda: iter(stored.items()))
    return out


def put_in_place(name: str, folder: Path, measured: Mapping[str, Any]) -> None:
    """Copies a model into weights/, under its name there."""
    place = WEIGHTS / name
    place.mkdir(exist_ok=True)
    for file in ("model.safetensors", "config.json"):
        shutil.copyfile(folder / file, place / file)
    (place / "evaluation.json").write_text(json.dumps(measured, indent=1) + "\n", "utf-8")
    for path in place.iterdir():
        path.chmod(0o644)


def manifest() -> str:
    """Returns manifest.json with the rows of the models trained here; their data is described there by hand."""
    known = json.loads(MANIFEST.read_text("utf-8"))
    data = {row["id"]: row.get("data", "") for row in known["models"]}
    others = [row for row in known["models"] if row["id"] not in bundled()]
    rows = [_row(name, data.get(name, "")) for name in bundled()]
    return json.dumps({"models": [*rows, *others]}, indent=2, ensure_ascii=False) + "\n"


def _row(name: str, data: str) -> dict[str, Any]:
    config = ModelConfig.read(WEIGHTS / name)
    met = sorted(_evaluation(name).items(), key=lambda item: item[1]["what"] == TEST)  # strange corpora first
    return {
        "id": name,
        "family": config.family,
        "modelscope": "",
        "huggingface": "",
        "embed_dim": config.architecture.embed_dim,
        "parameters": tensors.parameters(config.architecture),
        "classes": [label.name for label in config.labels],
        "licence": config.licence,
        "languages": languages(config),
        "data": data,
        "accuracy": [
            {
                "set": f"{title(corpus)}, {'test speakers' if one['what'] == TEST else 'never trained on'}",
                "figure": f"UAR {one['closed_uar'][0]:.3f}",
                "source": f"measured by this project: weights/{name}/README.md",
            }
            for corpus, one in met
        ],
    }


def main() -> None:
    """Evaluates and copies the models of the work folder, if there is one, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", metavar="WORK", help="folder of finished models")
    parser.add_argument("--corpus", action="append", default=[], metavar="NAME=PATH", help="corpus to evaluate on")
    options = parser.parse_args()
    if options.work:
        corpora = [readers.read(spec) for spec in options.corpus]
        for config in sorted(options.work.glob("bundled*/config.json")):
            name = config.parent.name
            print(name, flush=True)
            with tempfile.TemporaryDirectory() as work:
                folder = packed(config.parent, Path(work) / name)
                measured = measure(load(folder, runtime="cpu"), corpora, conditions=True)
                put_in_place(name, folder, {"corpora": measured})
    MANIFEST.write_text(manifest(), "utf-8")
    for path, text in documents().items():
        with replacing(path) as partial:
            partial.write_text(text, "utf-8", newline="\n")


if __name__ == "__main__":
    main()
