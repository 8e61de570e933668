"""e2v dialogue: a speech language model, from its data to its figures; one module per command."""

import typer

from e2v_port.cli.dialogue.evaluate import evaluate
from e2v_port.cli.dialogue.prepare import prepare
from e2v_port.cli.dialogue.rate import rate
from e2v_port.cli.dialogue.train import train
from e2v_port.cli.options import Command

__all__ = ["dialogue"]

dialogue = typer.Typer(
    name="dialogue",
    help="Make a speech language model that answers the tone of a voice: its data, its training, its figures.",
    short_help="Data, training and figures of a speech language model.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

for _command in (prepare, train, evaluate, rate):  # in the order of the help
    dialogue.command(cls=Command)(_command)
