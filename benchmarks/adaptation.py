"""What adapting to a voice gains, and what it costs where a voice was heard in one mood only.

    python benchmarks/adaptation.py --model MODEL --corpus nemo=PATH --unseen emodb=PATH

For each speaker, clips are drawn from which the offset is learned, without their labels, and all other clips of that
speaker are judged with it and without it: they are never those that it was learned from. The drawn clips are balanced
over the moods; or seven of ten are neutral; or all are of one mood, each mood in turn. The UAR counts the labels that
the corpus has. For one mood, the second figure is the recall of the other clips in that same mood: the clips that an
unguarded offset harms. In brackets is the share of the draws that were adapted to. docs/adaptation.md has the tables.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from labeled import model_and_clips

from e2v_port.emotions.adaptation import Centers, adapted
from e2v_port.emotions.estimates import Prediction
from e2v_port.evaluation.metrics import confusion, uar

CLIPS = (3, 5, 10, 20)
DRAWS = 10  # of each speaker and number of clips; a third as many for each single mood
NEUTRAL = "neutral"


def main() -> None:
    """Prints a table for each corpus, with the guard and without it."""
    model, corpora = model_and_clips(__doc__)
    centers = model.centers
    for name, clips in corpora.items():
        labels, speakers = (np.array([getattr(clip, field) for clip in clips]) for field in ("label", "speaker"))
        speech = Speech(model.predict([clip.file for clip in clips]), labels, speakers, centers)
        print(f"\n{name}: {len(clips)} clips, {len(np.unique(speakers))} speakers")
        for guarded in (True, False):
            print(f"\n| {'guarded' if guarded else 'not guarded'} | {' | '.join(f'{n} clips' for n in CLIPS)} |")
            print("|---" * (len(CLIPS) + 1) + "|")
            for line in speech.table(guarded=guarded):
                print(line)


@dataclass(frozen=True)
class Speech:
    """What a model says of the clips of a corpus, and what is true of them.

    Attributes:
        found: Prediction for each clip.
        labels: Label of each clip.
        speakers: Speaker of each clip.
        centers: Centers of the model.
    """

    found: Sequence[Prediction]
    labels: NDArray[np.str_]
    speakers: NDArray[np.str_]
    centers: Centers

    def table(self, *, guarded: bool) -> Iterator[str]:
        """Yields the rows of a table; without the guard, every offset is used."""
        moods = [str(label) for label in np.unique(self.labels)]
        for title, mixes in (("balanced", ["balanced"]), ("mostly neutral", ["mostly neutral"]), ("one mood", moods)):
            cells = []
            for clips in CLIPS:
                gain, same, share = self.compared(mixes, clips, guarded)
                more = f" / {100 * same:+.1f}" if title == "one mood" else ""
                cells.append(f"{100 * gain:+.1f}{more} ({share:.2f})")
            yield f"| {title} | {' | '.join(cells)} |"

    def compared(self, mixes: Sequence[str], clips: int, guarded: bool) -> tuple[float, float, float]:
        """Returns the change of UAR, that of the recall of the mood heard, and the share of draws adapted to."""
        rng = np.random.default_rng(0)
        kinds, truth = np.unique(self.labels, return_inverse=True)
        before = np.array([_answer(prediction, kinds) for prediction in self.found])
        counts = np.zeros((2, len(kinds), len(kinds)))
        heard = np.zeros(3)  # clips of the mood that was heard, and how many are right before and after
        used, draws = 0, 0
        for speaker in np.unique(self.speakers):
            mine = np.flatnonzero(self.speakers == speaker)
            for mix in mixes:
                for _ in range(DRAWS if len(mixes) == 1 else DRAWS // 3):
                    drawn = _drawn(rng.permutation(mine), self.labels, mix, clips)
                    if len(drawn) < clips or len(drawn) == len(mine):
                        continue
                    offset = self.centers.offset([self.found[i] for i in drawn])
                    if not guarded:
                        offset = replace(offset, reason=None)
                    used, draws = used + (offset.reason is None), draws + 1
                    rest = np.setdiff1d(mine, drawn)
                    known = [adapted(self.found[i], offset, self.centers.temperature) for i in rest]
                    answers = before[rest], np.array([_answer(prediction, kinds) for prediction in known])
                    same = self.labels[rest] == mix
                    counts += [confusion(truth[rest], answer, len(kinds)) for answer in answers]
                    heard += [same.sum(), *((answer == truth[rest])[same].sum() for answer in answers)]
        if not draws:
            return np.nan, np.nan, 0.0
        plain, known_voice = (float(uar(matrix)) for matrix in counts)
        return known_voice - plain, (heard[2] - heard[1]) / heard[0] if heard[0] else np.nan, used / draws


def _answer(prediction: Prediction, kinds: NDArray[np.str_]) -> int:
    return int(np.argmax([prediction.scores[kind] for kind in kinds]))


def _drawn(mine: NDArray[np.int64], labels: NDArray[np.str_], mix: str, clips: int) -> NDArray[np.int64]:
    """Takes shuffled clips of one speaker: from each mood in turn, mostly neutral ones, or those of one mood."""
    neutral = labels[mine] == NEUTRAL
    if mix == "mostly neutral":
        some = mine[neutral][: max(1, round(0.7 * clips))]
        return np.concatenate([some, mine[~neutral][: clips - len(some)]])
    if mix == "balanced":
        groups = [mine[labels[mine] == kind] for kind in dict.fromkeys(labels[mine])]
        turns = [group[i] for i in range(max(map(len, groups))) for group in groups if i < len(group)]
        return np.array(turns[:clips])
    same: NDArray[np.int64] = mine[labels[mine] == mix]
    return same[:clips]


if __name__ == "__main__":
    main()
