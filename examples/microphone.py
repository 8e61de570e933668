"""A microphone loop: what a voice assistant does while somebody speaks.

python examples/microphone.py [FILE]

With FILE, or where no microphone is available, it follows a recording instead.
"""

import sys
from contextlib import nullcontext
from pathlib import Path

import e2v_port
from e2v_port.live.microphone import Microphone
from e2v_port.live.sources import Recording

EXAMPLE = Path(__file__).parents[1] / "e2v_port" / "service" / "page" / "example.flac"

detector = e2v_port.EmotionDetector()  # backend="hybrid" also judges pitch, pace and loudness

source: Microphone | Recording
if len(sys.argv) > 1:
    source = Recording(sys.argv[1], paced=False)
else:
    try:
        source = Microphone()
        print("Speak; Ctrl-C ends it.")
    except e2v_port.AudioError as error:
        print(f"{error}\nFollowing {EXAMPLE.name} instead.")
        source = Recording(str(EXAMPLE), paced=False)

with source if isinstance(source, Microphone) else nullcontext():
    blocks = (block.samples for block in source)
    try:
        for segment in detector.stream(blocks, sampling_rate=source.sampling_rate):
            # During speech, windows of a second show the emotion of the moment. A final segment has ended, and
            # its judgement rests on all of it.
            if segment.final and segment.judgement:
                # In words: "angry", or "unclear: angry or disgusted".
                print(f"{segment.start:6.2f} to {segment.end:6.2f} s  {segment.judgement.words}")
                print(f"        for the language model: {detector.to_context()}")
    except KeyboardInterrupt:
        pass
print(f"{len(detector.history())} segments; trend over minutes: {detector.trajectory().trend}")
