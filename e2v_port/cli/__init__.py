"""The command line: one module per subject. A command imports only what it uses."""

import gc
import io
import os
import signal
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

from e2v_port.cli import adaptation, analysis, bench, corpus, evaluation, models, probing, service, training, voice
from e2v_port.cli.dialogue import dialogue
from e2v_port.cli.dialogue.reply import reply
from e2v_port.cli.messages import showing_messages
from e2v_port.cli.options import Command
from e2v_port.cli.output import BAD_INPUT, PARTIAL_FAILURE, fail
from e2v_port.errors import E2VError
from e2v_port.version import __version__

__all__ = ["app", "main"]

# Extras of the libraries that whole commands are built on.
_EXTRAS = {
    "torch": "torch",
    "av": "media",
    "transformers": "reply",
    "peft": "dialogue",
    "sacrebleu": "dialogue",
    "rouge_score": "dialogue",
    "sklearn": "dialogue",
}

_UsageError: Any = typer.BadParameter.__base__  # of every missing, unknown or invalid option; it has no public name

app = typer.Typer(
    help="Emotions in speech, by models that are converted once and run on CUDA, MLX or the CPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Runs the command line.

    Every error is one line on stderr. Exits with code 2 for bad input and with 1 for a partial failure.
    """
    if sys.stderr is None:  # closed; print would fall back to stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (stays open until the end)
    if sys.stdout is None:
        fail("standard output is closed: redirect it to a file or to /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold characters that the encoding lacks
    gc.set_threshold(50_000)  # importing torch makes many lasting objects: collecting among them takes 0.1 s
    signal.signal(signal.SIGTERM, _terminated)
    try:
        try:
            with showing_messages():
                sys.exit(app(prog_name="e2v", standalone_mode=False) or 0)
        finally:
            sys.stdout.flush()  # not at exit, where an error would be a traceback
            gc.freeze()  # skips the collection at exit, which takes another 0.1 s
    except _UsageError as error:
        if not sys.argv[1:]:  # no command: the message is the help
            error.show()
            sys.exit(BAD_INPUT)
        command = error.ctx.command_path if error.ctx else "e2v"
        why = error.format_message().replace("Value error, ", "").rstrip(".")
        fail(f"{why}: see {command} --help")
    except E2VError as error:
        fail(str(error))
    except OSError as error:
        with suppress(OSError):
            sys.stdout.close()  # or Python would try to write the rest at exit
        if isinstance(error, BrokenPipeError):  # not an error: e2v analyze *.wav | head
            sys.exit(PARTIAL_FAILURE)
        fail(f"{error.filename or 'standard output'}: {error.strerror or error}")
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _EXTRAS:
            raise
        fail(f'this needs {library}, which is not installed: pip install "e2v-port[{_EXTRAS[library]}]"')
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _terminated(*_: object) -> None:
    """Leaves by an exception, so that partial files are removed."""
    sys.unraisablehook = lambda _: None  # an object that was interrupted while it was made may fail when it is deleted
    sys.exit(128 + signal.SIGTERM)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"e2v-port {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


for _command in (  # in the order of the help
    analysis.analyze,
    analysis.embed,
    analysis.outputs,
    models.convert,
    models.export,
    training.train,
    training.means,
    models.models,
    models.accept,
    models.doctor,
    models.verify,
    evaluation.evaluate,
    evaluation.compare,
    probing.probe,
    corpus.corpus,
    corpus.report,
    bench.bench,
    service.serve,
    voice.listen,
    reply,
    adaptation.adapt,
    adaptation.enroll,
    voice.express,
):
    app.command(cls=Command)(_command)
app.add_typer(dialogue)
