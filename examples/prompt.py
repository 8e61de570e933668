"""A prompt for a language model, with a line about the voice.

python examples/prompt.py [FILE [WORDS]]

Prints the messages as JSON, in the form that most chat interfaces take. WORDS is what a speech recognizer heard.
"""

import json
import sys
from pathlib import Path

import e2v_port

SPEECH = Path(__file__).parents[1] / "benchmarks" / "speech"

file = sys.argv[1] if len(sys.argv) > 1 else SPEECH / "low.flac"
words = sys.argv[2] if len(sys.argv) > 2 else "I waited, but nobody came."

analysis = e2v_port.analyze(file)

# The line describes the voice, not the person, and says so itself where the models are unsure. The instructions keep
# the language model from taking it for a fact.
system = (
    "You are a voice assistant. A line in brackets describes how the voice of the user sounds: an estimate by a "
    "program, which is often wrong. Let it shape the tone of your answer. Do not mention it unasked, and do not "
    "tell people what they feel."
)
messages = [
    {"role": "system", "content": system},
    {"role": "user", "content": f"{analysis.to_context()}\n{words}"},
]
# A model that calls tools can also ask for the voice itself: EmotionDetector.voice_state answers.
tool = e2v_port.tool_schema()
function = {"name": tool["name"], "description": tool["description"], "parameters": tool["inputSchema"]}

print(json.dumps({"messages": messages, "tools": [{"type": "function", "function": function}]}, indent=2))
