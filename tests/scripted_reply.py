"""A language model that says what the tests expect: sentences that count the tokens of its prompt."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from e2v_port.llm.language import Chance, Language

# Runs at the start of every Python of a service: the process of the engine says what is said here.
IN_PLACE_OF_GENERATION = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
if any("spawn_main" in argument for argument in sys.orig_argv):
    import scripted_reply
    scripted_reply.install()
"""


def install() -> None:
    """Lets every language model say the sentences."""
    Language.answers = answers  # type: ignore[method-assign]


def answers(self: Language, batch: Any, limit: int, chance: Chance | None = None) -> Iterator[list[int | None]]:
    """Stands for `Language.answers`, for one prompt.

    The number of the sentence goes to the file in E2V_TEST_SAID before each token. As long as the file in E2V_TEST_WAIT
    exists, the second sentence stops where it is known to be one, so that the first may leave.
    """
    tokens = batch.embeddings.shape[1]
    last = " Tell me more."
    if chance is not None:  # no digits and no words, which a safety rule might change
        last = f" At {chance.temperature:g} I drew {''.join(chance.draws[0].choice([*'bcdfgh'], 9))}."
    for number, sentence in enumerate(("That sounds hard.", f" I heard {tokens} tokens.", last)):
        for place, token in enumerate(self.ids(sentence)):
            _log(number, waits=number == 1 and place > 1)
            yield [token]


def _log(sentence: int, waits: bool) -> None:
    while waits and (path := os.environ.get("E2V_TEST_WAIT")) and Path(path).exists():
        time.sleep(0.02)
    if path := os.environ.get("E2V_TEST_SAID"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{sentence}\n")
