"""e2v dialogue prepare."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from e2v_port.cli.options import CORPUS_OPTION, DevSpeakers, Offline, RuntimeName, TestSpeakers
from e2v_port.cli.output import complain, fail, progress_bar

__all__ = ["prepare"]

DialoguesFolder = Annotated[
    Path, typer.Option("--out", "-o", metavar="FOLDER", help="Output folder for the dialogues.")
]
Semantic = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="Also compute features: converted Whisper encoder, of what is said. Default: none."
    ),
]
Emotion = Annotated[str, typer.Option(metavar="MODEL", help="Model of how it is said, for the features.")]
Speaker = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Speaker encoder of who says it, for the features, such as bundled-voices. Default: none.",
        show_default=False,
    ),
]
Words = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Whisper model that reads the words of clips whose corpus does not give them."),
]
Rewriter = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Language model that rewrites the replies: address of an OpenAI-compatible endpoint, such as "
        "http://127.0.0.1:8080/v1. It gets replies and labels only. Its key, if it needs one: E2V_REWRITER_KEY.",
    ),
]
RewriterModel = Annotated[str | None, typer.Option(metavar="NAME", help="Name of that language model.")]
Unbalanced = Annotated[
    bool,
    typer.Option("--unbalanced", help="Keep sentences that are not said equally often in every tone of their corpus."),
]


def prepare(
    corpus: Annotated[list[str], CORPUS_OPTION],
    out: DialoguesFolder,
    semantic: Semantic = None,
    emotion: Emotion = "bundled",
    speaker: Speaker = None,
    words: Words = None,
    rewriter: Rewriter = None,
    rewriter_model: RewriterModel = None,
    dev: DevSpeakers = "",
    test: TestSpeakers = "",
    unbalanced: Unbalanced = False,
    runtime: RuntimeName = "auto",
    offline: Offline = False,
) -> None:
    """Make dialogues of corpora: remarks in different tones, with replies.

    Run the same command again to resume after an interruption.
    """
    if out.exists() and not out.is_dir():
        fail(f"--out {out}: is a file, not a folder")
    if (rewriter is None) != (rewriter_model is None):
        fail("--rewriter and --rewriter-model go together: pass both, or neither")
    from e2v_port.dialogue import features
    from e2v_port.dialogue.prepare import prepare as make
    from e2v_port.dialogue.prepare import write
    from e2v_port.dialogue.rewrite import Chat, distinct, rewrite
    from e2v_port.evaluation.datasets import SPLITS
    from e2v_port.evaluation.readers import read
    from e2v_port.llm.encoders import load as load_encoders
    from e2v_port.transcribe.load import load as load_reader

    chat = Chat(rewriter, rewriter_model, os.environ.get("E2V_REWRITER_KEY")) if rewriter and rewriter_model else None
    corpora = [read(spec) for spec in corpus]
    encoders = about = None
    if semantic:
        names = {"semantic": semantic, "emotion": emotion, "speaker": speaker}
        encoders, about = load_encoders(names, runtime=runtime, offline=offline)
    reader = load_reader(words, offline=offline) if words else None
    unknown = sum(clip.text is None for each in corpora for clip in each.utterances) if reader else 0
    with progress_bar(unknown, "reading") as advance:
        dialogues = make(
            corpora,
            dev=[name for name in dev.split(",") if name],
            test=[name for name in test.split(",") if name],
            reader=reader,
            balance=not unbalanced,
            step=advance,
        )
    if chat:
        with progress_bar(len(distinct(dialogues)), "rewriting") as advance:
            dialogues = rewrite(dialogues, chat, out, advance)
    if encoders:
        parts, failed = {}, []
        with progress_bar(sum(map(len, dialogues.parts.values())), "encoding") as advance:
            for part in SPLITS:
                parts[part], lost = features.compute(dialogues.parts[part], encoders, out, advance)
                failed += lost
        for line in failed:
            complain(line)
        dialogues = replace(dialogues, parts=parts, notes=(*dialogues.notes, *failed))
    features.record(None, out)
    write(dialogues, out)
    if about:
        features.record(about, out)
    for note in dialogues.notes:
        print(f"note: {note}")
    print(f"{', '.join(f'{len(dialogues.parts[part])} {part}' for part in SPLITS)}: {out}")
