"""TEMPORARY stand-in for e2v_port.llm.speech.SpeechLM until the real one is merged; removed before the end."""
import time
from dataclasses import dataclass
import os

@dataclass
class Reply:
    text: str
    tone: dict
    notes: tuple
    seconds: dict

class Speaking:
    def __init__(self, pieces):
        self.tone = {"angry": 0.7, "happy": 0.2, "neutral": 0.1}
        self.pieces = pieces
        self.given = []
    def __iter__(self):
        for piece in self.pieces:
            time.sleep(float(os.environ.get("E2V_TEST_SLOW", "0.02")))
            self.given.append(piece)
            if p := os.environ.get("E2V_TEST_SAID"):
                open(p, "a").write(piece + "\n")
            yield piece
    def close(self): pass
    @property
    def reply(self):
        return Reply("".join(self.given), self.tone, (), {"first": 0.02, "total": 0.1})

class SpeechLM:
    @classmethod
    def load(cls, folder, **kw):
        return cls()
    def stream(self, waveform, context=()):
        return Speaking(["That ", "sounds ", "hard. ", f"{len(context)} ", "turns ", "so ", "far."] * int(os.environ.get("E2V_TEST_LONG", "1")))
