"""Reads corpora: the published ones from their layouts, any other from a csv.

file_names.py     RAVDESS, EmoDB, CREMA-D, EmoGator: names of files
nemo.py, iemocap.py, msp_podcast.py, meld.py, emo_emilia.py, emobox.py, zed.py
own_table.py      a csv of one's own
tables.py         tables and JSON Lines
findings.py       what a reader finds and leaves out
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from e2v_port.errors import CorpusError
from e2v_port.evaluation.datasets import NAMES, Corpus, Utterance, published
from e2v_port.evaluation.readers.emo_emilia import read_emo_emilia
from e2v_port.evaluation.readers.emobox import name_of_fold, read_emobox
from e2v_port.evaluation.readers.file_names import AUDIO, read_crema_d, read_emodb, read_emogator, read_ravdess
from e2v_port.evaluation.readers.findings import count_files
from e2v_port.evaluation.readers.iemocap import read_iemocap
from e2v_port.evaluation.readers.meld import read_meld
from e2v_port.evaluation.readers.msp_podcast import read_msp_podcast
from e2v_port.evaluation.readers.nemo import read_nemo
from e2v_port.evaluation.readers.own_table import read_csv
from e2v_port.evaluation.readers.zed import read_zed

__all__ = ["AUDIO", "read"]

_READERS: dict[str, Callable[[Path], tuple[list[Utterance], list[str]]]] = {
    "ravdess": read_ravdess,
    "emodb": read_emodb,
    "nemo": read_nemo,
    "crema-d": read_crema_d,
    "emogator": read_emogator,
    "iemocap": read_iemocap,
    "msp-podcast": read_msp_podcast,
    "meld": read_meld,
    "emo-emilia": read_emo_emilia,
    "emobox": read_emobox,
    "zed": read_zed,
    "csv": read_csv,
}


def read(spec: str) -> Corpus:
    """Lists the clips of a corpus.

    * `ravdess=FOLDER`: files named `03-01-EE-II-SS-RR-AA.wav`, in any subfolder. Song and video are left out. Calm
      counts as neutral.
    * `emodb=FOLDER`: files named `03a01Fa.wav`. Boredom has no counterpart.
    * `nemo=FOLDER`: the folder that holds `data.tsv` and `samples`.
    * `crema-d=FOLDER`: files named `1001_DFA_ANG_XX.wav`, in any subfolder. The actors' sexes are read from the
      corpus' `VideoDemographics.csv`, in this folder or its parent.
    * `emogator=FOLDER`: bursts named `000001-03-1.mp3`, without words. Five of the 30 categories have a counterpart.
    * `iemocap=FOLDER`: the folder that holds `Session1` to `Session5`.
    * `msp-podcast=FOLDER`: the folder that holds `Labels` and `Audios`.
    * `meld=FOLDER`: the folder `MELD.Raw`, with videos or with the sound taken out of them.
    * `emo-emilia=FOLDER`: the folder that holds `Emo-Emilia-ALL.jsonl` and `wav`.
    * `emobox=FOLDER`: a fold of EmoBox, such as `EmoBox/data/iemocap/fold_1`, with the corpus in `EmoBox/downloads`.
    * `zed=FOLDER`: the folder that holds `ZED.json`, which says which emotion appears when.
    * `csv=FILE`: a table in UTF-8 with a header. Required columns: `file` (relative to the table), `label`, `speaker`.
      Optional columns: `sex` (female, male), `language`, `text`, `intensity` (normal, strong), `split` (train, dev,
      test), and `arousal`, `dominance` and `valence` (0 to 1); others are ignored. Labels are emotion2vec's, or any
      that `label_of` knows; a row may have dimensions instead of a label.

    Only the first of several byte-identical files is kept, so that no clip is in both training and test. Where the
    corpus is split, this is done for each part, so that the test is as published; training leaves out copies of it.

    Args:
        spec: Kind and path, as above.

    Raises:
        CorpusError: The kind is unknown, the path has no clips of it, or a row of a table is invalid. The message
            names the line.
    """
    kind, equals, place = spec.partition("=")
    if not equals or not place or kind not in NAMES:
        raise CorpusError(f"{spec}: not a corpus: write NAME=PATH with one of the names {', '.join(NAMES)}")
    path = Path(os.path.expanduser(place))  # leaves a ~ that it does not know
    if kind != "csv" and not path.is_dir():
        raise CorpusError(f"{spec}: {path} is not a folder: pass the folder with the unpacked {kind}")
    listed, notes = _READERS[kind](path)
    name = path.stem if kind == "csv" else name_of_fold(path) if kind == "emobox" else kind
    licence = "" if kind == "csv" else published()["corpora"][kind]["licence"]
    utterances, copies = _once(listed)
    if copies:
        shown = ", ".join(f"{copy.name} = {first.name}" for copy, first in copies[:3])
        more = f" and {len(copies) - 3} more" if len(copies) > 3 else ""
        notes = [*notes, f"{count_files(len(copies))} left out as byte-identical copies: {shown}{more}"]
    mapping = {utterance.original: utterance.label for utterance in utterances if utterance.original}
    return Corpus(name, kind, path, licence, tuple(utterances), dict(sorted(mapping.items())), tuple(notes))


def _once(utterances: list[Utterance]) -> tuple[list[Utterance], list[tuple[Path, Path]]]:
    """Returns the clips without copies of earlier files in the same part, and each copy with its original."""
    sizes = {utterance.file: _size(utterance.file) for utterance in utterances}
    common = {size for size, count in Counter(sizes.values()).items() if count > 1 and size is not None}
    firsts: dict[tuple[str | None, bytes], Path] = {}
    kept: list[Utterance] = []
    copies: list[tuple[Path, Path]] = []
    for utterance in utterances:
        size = sizes[utterance.file]
        if size in common and (data := _digest(utterance.file)):
            first = firsts.setdefault((utterance.split, data), utterance.file)
            if first is not utterance.file:
                copies.append((utterance.file, first))
                continue
        kept.append(utterance)
    return kept, copies


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


def _digest(file: Path) -> bytes:
    """Returns a hash of the content; empty if the file cannot be read."""
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError:
        return b""
