"""A processor of a Pipecat pipeline: takes the audio of a turn, pushes the reply to it. Tested with pipecat-ai 1.4.

python examples/pipecat_reply.py MODEL [FILE]

MODEL is a folder of `e2v dialogue train`; FILE stands for the microphone.
"""

import asyncio
import sys
from pathlib import Path

import numpy as np
from pipecat.frames import frames
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.tests.utils import run_test

import e2v_port
from e2v_port.audio import load_audio

SPEECH = Path(__file__).parents[1] / "benchmarks" / "speech" / "low.flac"


class SpokenReply(FrameProcessor):
    """Replies to each turn; a new turn interrupts the reply."""

    def __init__(self, model: e2v_port.SpeechLM) -> None:
        super().__init__()
        self.model, self.heard, self.context, self.task, self.speaking = model, bytearray(), [], None, False

    async def process_frame(self, frame: frames.Frame, direction: FrameDirection) -> None:
        """Collects what is said, and passes every frame on."""
        await super().process_frame(frame, direction)
        if isinstance(frame, frames.InputAudioRawFrame):
            before = len(self.heard) if self.speaking else 16_000  # turns are noticed half a second after they begin
            self.heard = self.heard[-before:] + frame.audio  # 16 bits, mono, 16 kHz
        elif isinstance(frame, frames.UserStartedSpeakingFrame):
            self.speaking = True
            if self.task:
                await self.cancel_task(self.task)
        elif isinstance(frame, frames.UserStoppedSpeakingFrame):
            self.task, self.speaking = self.create_task(self.answer(np.frombuffer(bytes(self.heard), "<i2"))), False
        elif isinstance(frame, frames.EndFrame) and self.task:
            await self.task
        await self.push_frame(frame, direction)

    async def answer(self, turn: np.ndarray) -> None:
        """Pushes the reply, sentence by sentence."""
        speaking = await asyncio.to_thread(self.model.stream, turn, 16_000, context=self.context[-6:])
        while (piece := await asyncio.to_thread(next, speaking, None)) is not None:
            await self.push_frame(frames.LLMTextFrame(piece))
        self.context += [{"role": "assistant", "content": speaking.reply.text}] if speaking.reply.text else []


if __name__ == "__main__":
    said = (load_audio(sys.argv[2] if len(sys.argv) > 2 else SPEECH) * 32767).astype("<i2").tobytes()
    audio = frames.InputAudioRawFrame(said, 16_000, 1)
    turn = [frames.UserStartedSpeakingFrame(), audio, frames.UserStoppedSpeakingFrame()]
    pushed, _ = asyncio.run(run_test(SpokenReply(e2v_port.SpeechLM.load(sys.argv[1])), frames_to_send=turn))
    print("".join(frame.text for frame in pushed if isinstance(frame, frames.LLMTextFrame)))
