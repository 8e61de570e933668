"""An answer in a fitting tone, as SSML for a speech engine.

python examples/answer.py [FILE [TEXT]]
"""

import sys
from pathlib import Path

import e2v_port
from e2v_port.expression.respond import respond
from e2v_port.expression.ssml import to_ssml

SPEECH = Path(__file__).parents[1] / "benchmarks" / "speech"

file = sys.argv[1] if len(sys.argv) > 1 else SPEECH / "quick.flac"
text = sys.argv[2] if len(sys.argv) > 2 else "I am closing the windows. Take your time."

# The answer follows the last judged segment: what the voice sounds like now.
analysis = e2v_port.analyze(file)
judged = [segment for segment in analysis.segments if segment.shade]
if not judged:
    sys.exit(f"{file}: {analysis.reason or 'no emotion to answer'}")
heard = judged[-1]
print(f"heard {heard.judgement.words}, shade: {heard.shade.name}", file=sys.stderr)

# Strategies answer the shade, one of the 26 emotions, at the confidence of the label.
# "complement" calms an agitated voice and warms a sad one; "match", "amplify" and "neutral" are the others.
answer = respond(heard.shade.name, heard.confidence or 0.0, "complement")
print(f"answer {answer.emotion}, intensity {answer.intensity:.2f}", file=sys.stderr)

# Dialects of Azure, Google, Polly and espeak-ng differ: see docs/expression.md.
print(to_ssml(text, answer.parameters, "w3c", language="en-US"))
