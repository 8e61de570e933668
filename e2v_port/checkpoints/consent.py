"""Licenses that a user has accepted: a file in the folder of settings, and `E2V_ACCEPT` for one run."""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from e2v_port.checkpoints import catalog
from e2v_port.checkpoints.licenses import Restriction, restriction
from e2v_port.errors import LicenseNotAccepted
from e2v_port.files import replacing

__all__ = ["Acceptance", "accept", "accepted", "lacking", "need", "place", "withdraw"]

_FORMAT = 1


@dataclass(frozen=True)
class Acceptance:
    """A license that was accepted.

    Attributes:
        model: Name of the model.
        licence: The license as it was shown.
        sha256: Hash of what was shown, as in `Restriction.sha256`.
        date: When it was accepted, in UTC, as in ISO 8601.
    """

    model: str
    licence: str
    sha256: str
    date: str


def place() -> Path:
    """Returns the file of accepted licenses: `e2v-port/accepted.json` in the user's folder of settings.

    That folder is `$XDG_CONFIG_HOME`, or else `~/.config`, on macOS `~/Library/Application Support`.

    Raises:
        LicenseNotAccepted: The user has no home folder.
    """
    if config_home := os.environ.get("XDG_CONFIG_HOME"):
        return Path(config_home, "e2v-port", "accepted.json")
    try:
        inside = "Library/Application Support" if sys.platform == "darwin" else ".config"
        return Path.home() / inside / "e2v-port" / "accepted.json"
    except RuntimeError as error:
        raise LicenseNotAccepted(
            "no place for accepted licenses, since this user has no home: set XDG_CONFIG_HOME to a folder, or "
            "E2V_ACCEPT to the names of the models"
        ) from error


def accepted() -> dict[str, Acceptance]:
    """Returns what was accepted, by model.

    Raises:
        LicenseNotAccepted: The file cannot be read.
    """
    path = place()
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']}")
        found = [Acceptance(**row) for row in content["accepted"]]
        if not all(isinstance(value, str) for each in found for value in asdict(each).values()):
            raise ValueError("values of a wrong type")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LicenseNotAccepted(
            f"{path}: not a list of accepted licenses ({type(error).__name__}): delete it, and accept them again"
        ) from error
    return {each.model: each for each in found}


def accept(restrictions: Iterable[Restriction]) -> None:
    """Remembers that the user has accepted licenses, with the date and the hash of what was shown.

    Raises:
        LicenseNotAccepted: The file exists and cannot be read.
        OSError: The file cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    new = {each.model: Acceptance(each.model, each.licence, each.sha256, now) for each in restrictions}
    _write(accepted() | new)


def withdraw(name: str) -> bool:
    """Forgets that the license of a model was accepted; returns whether it was.

    Raises:
        LicenseNotAccepted: The file cannot be read.
        OSError: The file cannot be written.
    """
    known = accepted()
    model = catalog.lookup(name)
    found = known.pop(model.id if model else name, None)
    if found:
        _write(known)
    return found is not None


def _write(known: dict[str, Acceptance]) -> None:
    path = place()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.touch(0o600)
        rows = [asdict(known[model]) for model in sorted(known)]
        partial.write_text(json.dumps({"format": _FORMAT, "accepted": rows}, indent=2) + "\n", "utf-8")


def lacking(names: Iterable[str]) -> list[Restriction]:
    """Returns the restricted licenses of known models that were not accepted in their present form.

    Args:
        names: Names of known models. Those whose license allows any use are never lacking.

    Raises:
        LicenseNotAccepted: The file of accepted licenses cannot be read.
    """
    found = [each for name in dict.fromkeys(names) if (each := restriction(name))]
    named = {name.strip() for name in os.environ.get("E2V_ACCEPT", "").split(",")}
    if "all" in named:
        return []
    by_environment = {model.id for name in named if name and (model := catalog.lookup(name))}
    found = [each for each in found if each.model not in by_environment]
    known = accepted() if found else {}
    return [each for each in found if each.model not in known or known[each.model].sha256 != each.sha256]


def need(names: Iterable[str]) -> None:
    """Raises LicenseNotAccepted unless each restricted license of these known models was accepted."""
    if missing := lacking(names):
        models = " ".join(each.model for each in missing)
        terms = "; ".join(dict.fromkeys(f"{each.title}: {each.terms}" for each in missing))
        raise LicenseNotAccepted(
            f"licenses not accepted yet ({terms}): run `e2v accept {models}`, or set "
            f"E2V_ACCEPT={models.replace(' ', ',')}"
        )
