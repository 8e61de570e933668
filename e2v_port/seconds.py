"""Times in seconds, as they are stored and shown."""

__all__ = ["seconds"]


def seconds(value: float) -> float:
    """Rounds a time to 7 digits: a sample at 16 kHz is 6.25e-5 s, so that nothing is lost but the noise of sums."""
    return round(float(value), 7)
