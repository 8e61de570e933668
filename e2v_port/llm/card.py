"""The model card of a speech language model."""

from e2v_port.llm.stored import Stored

__all__ = ["card"]


def card(stored: Stored) -> str:
    """Returns the text of README.md."""
    return f"A speech language model that hears {stored.hears}, on {stored.language['name']}.\n"
