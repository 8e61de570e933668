"""Computes the parameters that an engine or an SSML dialect leaves undone."""

from e2v_port.errors import need
from e2v_port.expression.engines import engine_settings
from e2v_port.expression.profiles import ProsodyParameters, parameter_rows
from e2v_port.expression.ssml import dialect_attributes

__all__ = ["remainder"]


def remainder(
    parameters: ProsodyParameters, engine: str | None = None, *, dialect: str | None = None
) -> ProsodyParameters:
    """Returns the parameters that an engine or an SSML dialect leaves undone, for `apply`.

    Args:
        parameters: Voice parameters given to `to_engine` or `to_ssml`.
        engine: Name of the engine.
        dialect: Name of the dialect, in place of an engine.

    Raises:
        ValueError: The engine or dialect is unknown, or both or none are given.
    """
    if (engine is None) == (dialect is None):
        raise ValueError("pass either an engine or a dialect")
    need("parameters", parameters, ProsodyParameters)
    done = (
        engine_settings(engine)(parameters)[1]
        if engine is not None
        else dialect_attributes(str(dialect))(parameters)[1]
    )
    left = {}
    for name, row in parameter_rows().items():
        value = getattr(parameters, name)
        rest = value / done.get(name, 1.0) if row["kind"] == "factor" else value - done.get(name, 0.0)
        left[name] = min(max(rest, row["from"]), row["to"])
    return ProsodyParameters(**left)
