"""e2v reply."""

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e2v_port.cli.options import ChannelName, LanguageDevice, LanguageDtype, Offline, RuntimeName
from e2v_port.cli.output import complain, fail, finish
from e2v_port.errors import AudioError
from e2v_port.files import printable

if TYPE_CHECKING:
    from e2v_port.audio import Clip
    from e2v_port.llm.reply import Speaking

__all__ = ["reply"]

Files = Annotated[
    list[str], typer.Argument(metavar="FILE...", help="Audio files with one remark each, of up to 30 s; - for stdin.")
]
ReplyModel = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        metavar="FOLDER",
        envvar="E2V_REPLY",
        help="Speech language model, from `e2v dialogue train`.",
        show_default=False,
    ),
]
Context = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TURN",
        help='What was said before, such as "assistant: How can I help?" or "user: ...". Repeatable, oldest first.',
        show_default=False,
    ),
]
LanguageModel = Annotated[
    str | None,
    typer.Option(
        "--language",
        metavar="MODEL",
        help="Folder or .gguf file of the language model, in place of the one that FOLDER names.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per file, on a line.")]
Tone = Annotated[bool, typer.Option("--tone/--no-tone", help="Also print how the voice sounds, as an estimate.")]
MostTokens = Annotated[int, typer.Option("--max-tokens", metavar="NUMBER", help="Most tokens of a reply, 1 to 1000.")]
Temperature = Annotated[
    float,
    typer.Option(
        metavar="NUMBER",
        help="Draw words, at 1 by their probabilities, so that replies vary; up to 2. At 0, say the most likely ones.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Makes what is drawn repeatable.", show_default=False),
]


def reply(
    files: Files,
    model: ReplyModel = None,
    context: Context = None,
    language: LanguageModel = None,
    tone: Tone = True,
    max_tokens: MostTokens = 60,
    temperature: Temperature = 0.0,
    seed: Seed = None,
    channel: ChannelName = "mix",
    as_json: Json = False,
    runtime: RuntimeName = "auto",
    device: LanguageDevice = "auto",
    dtype: LanguageDtype = "auto",
    offline: Offline = False,
) -> None:
    """Reply to spoken remarks, by their words and their tone.

    A research prototype, in English: replies can be wrong.
    """
    if model is None:
        fail("no speech language model: pass --model FOLDER or set E2V_REPLY, see e2v dialogue train")
    if not 1 <= max_tokens <= 1000:
        fail(f"--max-tokens {max_tokens}: must be from 1 to 1000")
    from e2v_port.llm.speech import HOTTEST, SpeechLM

    if not 0 <= temperature <= HOTTEST:
        fail(f"--temperature {temperature:g}: must be from 0 to {HOTTEST:g}")
    turns = [_turn(text) for text in context or ()]
    chosen: dict[str, Any] = {"max_new_tokens": max_tokens, "temperature": temperature, "seed": seed}
    failed = 0
    with SpeechLM.load(
        model, language=language, runtime=runtime, device=device, dtype=dtype, offline=offline
    ) as loaded:
        for file in files:
            try:
                speaking = loaded.stream(_clip(file), context=turns, channel=channel, **chosen)
            except AudioError as error:
                failed += 1
                complain(str(error))
                if as_json:
                    print(json.dumps({"file": file, "error": str(error)}), flush=True)
            else:
                _show(file, speaking, tone=tone, as_json=as_json, named=len(files) > 1)
    finish(len(files), failed)


def _turn(text: str) -> dict[str, str]:
    role, _, content = text.partition(":")
    if role.strip() not in {"user", "assistant"} or not content.strip():
        fail(f'--context {text!r}: must be "user: TEXT" or "assistant: TEXT"')
    if any("\ud800" <= char <= "\udfff" for char in content):  # what Python makes of other bytes
        fail(f"--context {text!r}: is not in UTF-8")
    return {"role": role.strip(), "content": content.strip()}


def _clip(file: str) -> "Clip":
    if file != "-":
        return file
    if sys.stdin is None or sys.stdin.isatty():
        fail("-: no audio on stdin: pipe a file in, as in e2v reply - < remark.wav")
    return io.BytesIO(sys.stdin.buffer.read())


def _show(file: str, speaking: "Speaking", *, tone: bool, as_json: bool, named: bool) -> None:
    """Prints a reply as it is made; as JSON once it is whole."""
    from e2v_port.llm.reply import sounds

    if as_json:
        for _ in speaking:
            pass
        answer = speaking.reply.to_dict()
        print(json.dumps({"file": file, **answer, "tone": answer["tone"] if tone else None}), flush=True)
        return
    start = f"{printable(file)}: " if named else ""
    if tone and speaking.tone:
        print(f"{start}voice sounds {sounds(speaking.tone)}, an estimate", flush=True)
    print(start, end="", flush=True)
    for piece in speaking:
        print(piece, end="", flush=True)
    print("" if speaking.reply.text else "(no reply)", flush=True)
    for note in speaking.reply.notes:
        print(f"note: {note}", flush=True)
