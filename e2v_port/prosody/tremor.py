"""Measures tremor: how regularly the pitch of a voice trembles."""

import numpy as np

from e2v_port.prosody.frames import FRAME_SECONDS, Numbers, runs_of

__all__ = ["pitch_tremor"]


# All chosen here, not from a paper. The pitch of ordinary speech moves as fast as a trembling voice, but less
# regularly: over three waves, the best sine explains about half of the movement, in read speech a quarter.
_TREMOR = np.arange(4.0, 10.5, 0.5)  # Hz
_TREMOR_FRAMES, _TREMOR_WAVES, _TREMOR_ORDINARY = 50, 3, 0.5
_TREMOR_LEAST = 0.001  # octaves, root mean square: pitch that moves less is steady


def pitch_tremor(contour: Numbers) -> float | None:
    """Fits a sine to the pitch of each voiced run after removing its slow movement, a polynomial.

    Args:
        contour: [frames], fundamental frequency in Hz, NaN where there is no voice.

    Returns:
        Tremor, 0 to 1, as in `Prosody`; None if no voiced run lasts for 0.5 s.
    """
    shares, lengths = [], []
    for start, end in runs_of(~np.isnan(contour)):
        if end - start < _TREMOR_FRAMES:
            continue
        # In parts of 1 to 2 s, which a polynomial of a few degrees follows.
        for part in np.array_split(np.log2(contour[start:end]), max(1, (end - start) // 100)):
            times = FRAME_SECONDS * np.arange(len(part))
            moved = _rest(np.vander(np.linspace(-1, 1, len(part)), max(4, len(part) // 25)), part)
            power = float(moved @ moved)
            waves = [2 * np.pi * hz * times for hz in _TREMOR if hz * times[-1] >= _TREMOR_WAVES]
            rests = [_rest(np.stack([np.cos(wave), np.sin(wave)], axis=1), moved) for wave in waves]
            least = len(part) * _TREMOR_LEAST**2
            shares.append(1 - min(float(rest @ rest) for rest in rests) / power if power > least else 0.0)
            lengths.append(len(part))
    if not shares:
        return None
    return max(0.0, float(np.average(shares, weights=lengths)) - _TREMOR_ORDINARY) / (1 - _TREMOR_ORDINARY)


def _rest(basis: Numbers, values: Numbers) -> Numbers:
    """Returns the residual of a least-squares fit."""
    rest: Numbers = values - basis @ np.linalg.lstsq(basis, values, rcond=None)[0]
    return rest
