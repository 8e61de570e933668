"""Embeddings in scikit-learn: a classifier of your own.

python examples/classifier.py [FOLDER]    a folder with one subfolder of recordings per class

Without a folder, it learns to tell the four voices of benchmarks/speech apart. Needs scikit-learn.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import e2v_port
from e2v_port.audio import load_audio

RATE = 16_000
SPEECH = Path(__file__).parents[1] / "benchmarks" / "speech"

if len(sys.argv) > 1:
    files = sorted(file for file in Path(sys.argv[1]).glob("*/*") if file.is_file())
    clips, classes = [load_audio(file) for file in files], [file.parent.name for file in files]
else:
    # Half-second pieces of each clip stand in for a folder of recordings.
    clips, classes = [], []
    for file in sorted(SPEECH.glob("*.flac")):
        waveform = load_audio(file)
        for start in range(0, len(waveform) - RATE // 2, RATE // 4):
            clips.append(waveform[start : start + RATE // 2])
            classes.append(file.stem)

# A large model gives better embeddings: e2v_port.load("iic/emotion2vec_plus_base").
model = e2v_port.load("bundled")
embeddings = np.stack(model.embed(clips, sampling_rate=RATE))
print(f"{len(clips)} clips, {len(set(classes))} classes, embeddings of {embeddings.shape[1]} numbers")

# With real recordings, keep each speaker in one fold: StratifiedGroupKFold.
classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
folds = StratifiedKFold(3, shuffle=True, random_state=0)
scores = cross_val_score(classifier, embeddings, classes, cv=folds, scoring="balanced_accuracy")
print(f"balanced accuracy {scores.mean():.2f}, by chance {1 / len(set(classes)):.2f}")
