"""A new head for a model, trained on labeled clips.

python examples/finetune.py [TABLE.csv [OUT]]    a table with the columns file, label and speaker

Without a table, it makes one of a few seconds of synthetic speech, which shows the steps and learns nothing useful.
"""

import csv
import sys
from pathlib import Path

import soundfile

import e2v_port
from e2v_port.evaluation.readers import read
from e2v_port.training import head
from e2v_port.training.task import choose

SPEECH = Path(__file__).parents[1] / "benchmarks" / "speech"
LABELS = {"calm": "neutral", "bright": "happy", "low": "sad", "quick": "angry"}


def example_table(folder: Path) -> Path:
    """Cuts each clip into pieces of half a second, and calls every third piece another speaker."""
    folder.mkdir(exist_ok=True)
    table = folder / "table.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "speaker"])
        for stem, label in LABELS.items():
            samples, rate = soundfile.read(SPEECH / f"{stem}.flac")
            for number, start in enumerate(range(0, len(samples) - rate // 2, rate // 4)):
                name = f"{stem}{number}.wav"
                soundfile.write(folder / name, samples[start : start + rate // 2], rate)
                writer.writerow([name, label, "abc"[number % 3]])
    return table


table = Path(sys.argv[1]) if len(sys.argv) > 1 else example_table(Path("clips"))
out = Path(sys.argv[2] if len(sys.argv) > 2 else "my-model")

# No speaker is in two of the sets: the development speakers decide when to stop, the test speakers are left alone.
corpus = read(f"csv={table}")
speakers = sorted({clip.speaker for clip in corpus.utterances})
task = choose([corpus], dev=speakers[-2:-1], test=speakers[-1:])

report = head.train("bundled", task, out, head.HeadRecipe(epochs=20), restart=True)
best = report["curve"][report["best"] - 1]
print(f"{out}: epoch {report['best']} of {len(report['curve'])}, development {report['score']} {best['score']:.2f}")

# The folder is a model like any other.
print(e2v_port.load(out).predict(SPEECH / "calm.flac"))
