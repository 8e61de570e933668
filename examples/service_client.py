"""A client of the service that works without it.

python examples/service_client.py [FILE [URL]]    start the service with: e2v serve
"""

import sys
from pathlib import Path

from e2v_port.client import Client

SPEECH = Path(__file__).parents[1] / "benchmarks" / "speech"

file = sys.argv[1] if len(sys.argv) > 1 else str(SPEECH / "calm.flac")
url = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:9101"

# Speech recognition knows the segments already; the service judges exactly these.
transcript = [{"start": 0.0, "end": 2.5, "speaker": "ann", "text": "The kettle is on, and the rain has stopped."}]

# Needs the standard library alone. A request takes 5 s at most, so that emotions never hold up a pipeline.
client = Client(url)
answer = client.analyze(file, segments=transcript)

if answer.unavailable:
    # Nothing is raised: the segments come back, without emotions.
    print(f"continuing without emotions: {answer.unavailable}")
for segment in answer.segments:
    emotion = segment.emotion
    # A label with the note `uncertain` must not be shown as if it were known.
    if emotion and emotion.confidence is not None and "uncertain" not in emotion.notes:
        shown = f"{emotion.primary} ({emotion.confidence:.0%})"
    else:
        shown = "unclear"
    print(f"{segment.speaker}: {segment.text}  [{shown}]")
