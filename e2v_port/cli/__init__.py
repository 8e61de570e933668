"""The command line: a module for each subject, and every command loads only what it uses."""

import gc
import io
import os
import signal
import sys
from contextlib import suppress
from typing import Annotated

import typer

from e2v_port import __version__
from e2v_port.cli import analysis, bench, corpus, evaluation, models, service, training, voice
from e2v_port.cli.output import PARTIAL_FAILURE, fail
from e2v_port.errors import E2VError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Speech emotion, by models converted once and run on CUDA, MLX or the CPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Runs the command line: one line on stderr for every error; exit 2 for bad input, 1 for a partial failure."""
    if sys.stderr is None:  # closed; print would take stdout in its place
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the end)
    if sys.stdout is None:
        fail("standard output is closed: there is nowhere to write to")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may hold what the terminal's encoding lacks
    gc.set_threshold(50_000)  # importing torch makes many objects that stay: looking for cycles among them takes 0.1 s
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that partial files are removed
    try:
        try:
            app(prog_name="e2v")
        finally:
            sys.stdout.flush()  # here, not at exit, where an error would be a traceback
            gc.freeze()  # nor look for cycles at exit, for another 0.1 s
    except E2VError as error:
        fail(str(error))
    except OSError as error:
        with suppress(OSError):
            sys.stdout.close()  # what is left in it would be tried again at exit
        if isinstance(error, BrokenPipeError):  # `e2v analyze *.wav | head` is no error
            sys.exit(PARTIAL_FAILURE)
        fail(f"{error.filename or 'cannot write'}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


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


for _command in (  # as the help lists them
    analysis.analyze,
    analysis.embed,
    models.convert,
    training.train,
    models.models,
    models.doctor,
    models.verify,
    evaluation.evaluate,
    corpus.corpus,
    corpus.report,
    bench.bench,
    service.serve,
    voice.listen,
    voice.express,
):
    app.command()(_command)
