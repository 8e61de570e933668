"""Times in seconds, as they are stored and shown."""

__all__ = ["clock", "seconds"]


def seconds(value: float) -> float:
    """Rounds a time to 7 digits: a sample at 16 kHz is 6.25e-5 s, so that nothing is lost but the noise of sums."""
    return round(float(value), 7)


def clock(value: float) -> str:
    """Returns a time as people read it: `0:07` for 7.9 s, `1:02:03` from an hour on. A second begun is not counted."""
    minutes, rest = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
