"""A call as a timeline.

python examples/timeline.py [FILE]
"""

import sys
from pathlib import Path

import e2v_port

EXAMPLE = Path(__file__).parents[1] / "e2v_port" / "service" / "page" / "example.flac"
COLUMNS = 60

file = sys.argv[1] if len(sys.argv) > 1 else EXAMPLE
analysis = e2v_port.analyze(file)

# One column of the timeline is a few hundred milliseconds of the call.
print(f"{Path(file).name}: {analysis.duration:.1f} s")
for segment in analysis.segments:
    start = round(segment.start / analysis.duration * COLUMNS)
    end = max(start + 1, round(segment.end / analysis.duration * COLUMNS))
    bar = "." * start + "#" * (end - start) + "." * (COLUMNS - end)
    # Segments that are too short are not judged. The words say where an emotion is unclear.
    emotion = segment.judgement.words if segment.judgement else "not judged"
    print(f"{segment.start:7.2f} s  {bar}  {segment.speaker or ''} {emotion}")

# How long each emotion lasted.
seconds: dict[str, float] = {}
for segment in analysis.segments:
    if segment.emotion and not segment.judgement.doubtful:
        seconds[segment.emotion] = seconds.get(segment.emotion, 0) + segment.end - segment.start
for emotion, total in sorted(seconds.items(), key=lambda item: -item[1]):
    print(f"{emotion:10} {total:5.1f} s")
