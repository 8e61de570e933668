"""Licenses of weights: which of them restrict what the weights may be used for, and how."""

import hashlib
import re
from dataclasses import dataclass

from e2v_port.checkpoints import catalog

__all__ = ["Restriction", "free", "restriction"]

# Licenses that allow any use, by how their names begin, whether as the manifest or as a hub writes them. All others
# count as restricted.
_FREE = ("mit", "apache-2.0", "apache license 2.0", "bsd", "cc by 4.0", "cc-by-4.0", "cc0")
# What the others restrict and where their text is, by how their names begin.
_TERMS = {
    "CC BY-NC-SA 4.0": (
        "no commercial use; attribution; changed weights stay under the same license",
        "https://creativecommons.org/licenses/by-nc-sa/4.0/legalcode",
    ),
    "FunASR Model License": (
        "attribution; the names of the models are kept; terms of its own",
        "https://github.com/modelscope/FunASR/blob/main/MODEL_LICENSE",
    ),
    "OpenRAIL": ("no commercial use; further uses are excluded", "https://huggingface.co/{id}"),
}


@dataclass(frozen=True)
class Restriction:
    """A license that does not allow every use.

    Attributes:
        model: Name of the model.
        licence: The license as the manifest writes it.
        terms: What it restricts, in a few words.
        link: Where its text is.
    """

    model: str
    licence: str
    terms: str
    link: str

    @property
    def title(self) -> str:
        """Name of the license, without what the manifest adds to it."""
        return re.split(r"[:(]", self.licence)[0].strip()

    @property
    def sha256(self) -> str:
        """Hash of what a user is shown: license, terms and link, one per line, in UTF-8.

        The license itself lies at the link, not in this package: a new version of it that keeps its name and its
        address does not change the hash.
        """
        return hashlib.sha256("\n".join((self.licence, self.terms, self.link)).encode()).hexdigest()


def free(licence: str) -> bool:
    """Returns whether a license allows any use, attribution aside; False for one that is not known.

    Args:
        licence: The license as the manifest, a corpus or a hub writes it.
    """
    return re.match(rf"({'|'.join(map(re.escape, _FREE))})(?!\w)", licence.casefold()) is not None


def restriction(name: str) -> Restriction | None:
    """Returns how the license of a known model restricts its use; None if it allows any.

    Args:
        name: Known model, as for `catalog.lookup`.

    Raises:
        ModelNotFound: The manifest has no such model.
    """
    model = catalog.lookup(name)
    if model is None:
        raise catalog.not_found(name)
    if free(model.licence):
        return None
    unknown = "terms that are not summarized here", "https://huggingface.co/{id}"
    terms, link = next((found for start, found in _TERMS.items() if model.licence.startswith(start)), unknown)
    return Restriction(model.id, model.licence, terms, link.format(id=model.huggingface or model.id))
