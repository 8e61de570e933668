"""Two models on the same clips: where they agree, and where they do not.

python examples/compare.py MODEL MODEL [FILE...]
"""

import sys
from pathlib import Path

import e2v_port

SPEECH = Path(__file__).parents[1] / "benchmarks" / "speech"

if len(sys.argv) < 3:
    sys.exit("usage: compare.py MODEL MODEL [FILE...], such as: compare.py bundled iic/emotion2vec_plus_base")
files = sys.argv[3:] or sorted(map(str, SPEECH.glob("*.flac")))
first, second = (e2v_port.load(name) for name in sys.argv[1:3])

# Models may have other labels: emotion2vec also knows "other" and "unknown".
shared = [label for label in first.labels if label in second.labels]
print(f"{len(shared)} labels in common: {', '.join(shared)}")

agreed = judged = 0
for file, one, two in zip(files, first.each(files), second.each(files), strict=True):
    # A clip that cannot be used gives an error in the place of a result.
    if isinstance(one, e2v_port.AudioError) or isinstance(two, e2v_port.AudioError):
        print(f"{file}: {one}")
        continue
    a, b = first.judge(one), second.judge(two)
    judged += 1
    agreed += a.label == b.label
    mark = "=" if a.label == b.label else "!"
    print(f"{mark} {Path(file).name:20} {a.label} {a.confidence:.2f}   {b.label} {b.confidence:.2f}")
print(f"{agreed} of {judged} clips have the same label")
