"""Profiles: which models, numbers, words and time limit go together, from fast to the best that is known."""

from dataclasses import dataclass
from typing import TypeVar

from e2v_port.checkpoints import consent
from e2v_port.errors import need, quoted

__all__ = ["NONE", "PROFILES", "Profile", "chosen_models", "completed", "named"]

NONE = "none"
"""Stands for no model, also where a profile would choose one: `words="none"`, `dimensional="none"`."""

_Model = TypeVar("_Model")
_Dimensional = TypeVar("_Dimensional")
_Words = TypeVar("_Words")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Profile:
    """A choice of models and limits.

    Attributes:
        name: Its name.
        purpose: What it is for, in one line.
        model: Model that gives labels.
        dimensional: Model that measures arousal, dominance and valence; None for none.
        dtype: Type of the arithmetic, as for `load`; None for the stored one.
        words: Whisper model that reads the words; None for none.
        timeout: Most seconds for one clip. A guard against clips that never end rather than a budget: none of these
            stops a recording of two hours on two cores (an estimate; not measured for `accurate` and `research`).
    """

    name: str
    purpose: str
    model: str
    dimensional: str | None
    dtype: str | None
    words: str | None
    timeout: float


PROFILES = {
    each.name: each
    for each in (
        Profile(
            name="fast",
            purpose="labels from the package alone, offline",
            model="bundled-tiny",
            dimensional=None,
            dtype=None,
            words=None,
            timeout=600.0,
        ),
        Profile(
            name="balanced",
            purpose="the bundled model, and words that a CPU reads faster than they are spoken",
            model="bundled",
            dimensional=None,
            dtype="auto",
            words="base",
            timeout=3600.0,
        ),
        Profile(
            name="accurate",
            purpose="large models under free licenses: labels, dimensions, words",
            model="3loi/SER-Odyssey-Baseline-WavLM-Categorical",
            dimensional="3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes",
            dtype="auto",
            words="small",
            timeout=14400.0,
        ),
        Profile(
            name="research",
            purpose="large models, not all of them for commercial use",
            model="iic/emotion2vec_plus_large",
            dimensional="audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
            dtype="auto",
            words="large-v3",
            timeout=28800.0,
        ),
    )
}


def named(name: str) -> Profile:
    """Returns a profile by its name.

    Raises:
        ValueError: No profile has this name.
    """
    need("profile", name, str)
    if name not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, not {quoted(name)}")
    return PROFILES[name]


def chosen_models(name: str, model: object, dimensional: object) -> list[str]:
    """Returns the models that a profile chooses, without those that the caller chose instead."""
    profile = named(name)
    found = [profile.model] if model is None else []
    return found + ([profile.dimensional] if dimensional is None and profile.dimensional else [])


def completed(
    name: str | None,
    *,
    model: _Model | None = None,
    dimensional: _Dimensional | None = None,
    dtype: str | None = None,
    words: _Words | None = None,
    timeout: float | None = None,
) -> tuple[_Model | str | None, _Dimensional | str | None, str | None, _Words | str | None, float | None]:
    """Completes the options of a caller with those of a profile, in the same order; `none` becomes None.

    Args:
        name: Name of the profile; None for none.
        model: Model that gives labels. Here as below, an option that is not None wins over the profile.
        dimensional: Model of arousal, dominance and valence; `none` for none.
        dtype: Type of the arithmetic.
        words: Recognizer of words; `none` for none.
        timeout: Most seconds for one clip; 0 for no limit.

    Raises:
        ValueError: No profile has this name.
        LicenseNotAccepted: The license of a model that the profile chooses restricts its use and was not accepted yet.
            Models that the caller chose are not asked about.
    """
    if name is None:
        return model, _either(dimensional, None), dtype, _either(words, None), timeout
    profile = named(name)
    consent.need(chosen_models(name, model, dimensional))
    return (
        profile.model if model is None else model,
        _either(dimensional, profile.dimensional),
        dtype or profile.dtype,
        _either(words, profile.words),
        profile.timeout if timeout is None else timeout,
    )


def _either(given: _Value | None, ours: str | None) -> _Value | str | None:
    if given is None:
        return ours
    return None if given == NONE else given
