"""Downloads checkpoints from ModelScope and Hugging Face, or takes them from the hubs' caches on this machine."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from e2v_port.checkpoints import catalog
from e2v_port.checkpoints.checkpoint import Checkpoint, Find, from_files, gather, stays_inside
from e2v_port.checkpoints.clients import CLIENTS, Client, NotDelivered, asking, root_of, sha256_of
from e2v_port.errors import CheckpointError, DownloadError, ModelNotFound

__all__ = ["download", "download_files", "offline_by_environment"]

_logger = logging.getLogger(__name__)


def offline_by_environment() -> bool:
    """Returns whether `E2V_OFFLINE` forbids the network: 1, true, yes or on, in upper or lower case."""
    return os.environ.get("E2V_OFFLINE", "").strip().lower() in {"1", "true", "yes", "on"}


def download(
    name: str,
    *,
    hub: Literal["auto", "modelscope", "huggingface"] = "auto",
    revision: str | None = None,
    offline: bool = False,
) -> Checkpoint:
    """Downloads a checkpoint from a hub, or takes it from the hub's own cache on this machine.

    A complete copy in either hub's cache is used without a request, even if the hub has a newer version. To have the
    hub asked, name a branch or tag as `revision`. A commit never changes, so a cached one is used.

    Args:
        name: Known model, or any "owner/name" repository.
        hub: Hub to ask. `auto` asks ModelScope first for "iic/..." and Hugging Face first for others, then the other.
        revision: Branch, tag or commit; the hub's main branch by default. A revision exists on one hub only, so with
            one `auto` asks the first hub alone.
        offline: Use cached files only and open no connection; `E2V_OFFLINE=1` does the same.

    Raises:
        ModelNotFound: The name is neither a known model nor a repository name, or it is not on this machine while
            offline.
        DownloadError: No hub delivered, and the message gives the reason of each; or no client is installed.
        CheckpointError: A file's hash differs from the known one, or configuration.json is unusable.
    """
    model = catalog.lookup(name)
    found, client, commit = _delivered(name, hub, revision, offline, gather)
    checkpoint = from_files(found, client.repository, client.hub, commit)
    return _verified(checkpoint, model.sha256 if model else {})


def download_files(
    name: str,
    files: Sequence[str],
    *,
    hub: Literal["auto", "modelscope", "huggingface"] = "auto",
    revision: str | None = None,
    offline: bool = False,
) -> list[Path]:
    """Downloads some files of a repository, or takes them from the hub's own cache, all of one revision.

    Arguments and errors are those of `download`.

    Args:
        files: Names of the files in the repository.

    Returns:
        Their paths, in one folder if their names have none.
    """

    def all_of_them(find: Find, *, optional: bool) -> tuple[dict[str, Path | None], list[str], bool]:
        found = {file: find(file) for file in files}
        return found, [file for file in files if not found[file]], True

    found, _, _ = _delivered(name, hub, revision, offline, all_of_them)
    return [path for path in found.values() if path]


class _Gather(Protocol):
    """Returns files by role, the missing ones, and a third value, as `checkpoint.gather` does."""

    def __call__(self, find: Find, *, optional: bool) -> tuple[dict[str, Path | None], list[str], bool]: ...


def _delivered(
    name: str, hub: str, revision: str | None, offline: bool, collect: _Gather
) -> tuple[dict[str, Path | None], Client, str]:
    """Returns the files that `collect` looks for, the client of the hub that has them all, and their revision."""
    if os.path.expanduser("~") == "~":
        raise ModelNotFound(f"{name}: this user has no home folder for the caches of the hubs: set HOME to a folder")
    clients = _clients(name, hub, revision)
    offline = offline or offline_by_environment()
    if not any(client.installed() for client in clients):
        raise DownloadError(
            f'{name}: downloading needs the client of a hub: pip install "e2v-port[hub]", or download it by hand and '
            "pass its folder instead of its name"
        )

    lacking = []
    for client in clients:
        found, missing, commit = _from_cache(client, offline, collect)
        if not missing:
            return found, client, commit
        lacking.append(f"the cache of {client.title} has no {', no '.join(missing)}")
    if offline:
        raise ModelNotFound(
            f"{name} is not on this machine and this run is offline: {'; '.join(lacking)}; "
            f"run once online, or download it by hand and pass its folder instead of its name"
        )

    reasons: list[str] = []
    for client in clients:
        if reasons:
            _logger.warning("%s; trying %s", reasons[-1], client.title)
        try:
            return _from_hub(client, collect)
        except NotDelivered as error:
            at = f" at {revision}" if revision else ""
            reasons.append(f"{client.title} did not deliver {client.repository}{at}: {error}")
    if hub == "auto" and revision is not None:
        reasons.append("a revision belongs to one hub, so the other was not asked: pass --hub to ask that one")
    raise DownloadError(f"{name}: {'; '.join(reasons)}; or download it by hand and pass its folder instead of its name")


def _clients(name: str, hub: str, revision: str | None) -> list[Client]:
    """Returns the hubs to ask, in order."""
    model = catalog.lookup(name)
    if model is None and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII):
        raise catalog.not_found(name)
    if revision is not None and not stays_inside(revision):
        raise DownloadError(f"{name}: {revision!r} is not the name of a branch, tag or commit")
    order = [each for each in CLIENTS if model is None or getattr(model, each)]
    if not (name if model is None or name == model.huggingface else model.id).startswith("iic/"):
        order.reverse()
    if hub != "auto":
        order = [hub]
    elif revision is not None:
        order = order[:1]
    if hub != "auto" and model and not getattr(model, hub):
        raise DownloadError(f"{name} is not on {CLIENTS[hub].title}: leave --hub out")
    repositories = {each: getattr(model, each) if model else name for each in order}
    return [CLIENTS[each](repositories[each], revision) for each in order]


def _from_cache(client: Client, offline: bool, collect: _Gather) -> tuple[dict[str, Path | None], list[str], str]:
    """Returns the files in a hub's cache, the names of the missing ones, and the revision of a complete copy."""
    # A branch or tag that is named may have changed, and the newest is wanted. A commit cannot change.
    if client.revision is not None and not offline and not re.fullmatch(r"[0-9a-f]{40}", client.revision):
        return {}, [client.revision], ""
    roots = set()

    def find(file: str) -> Path | None:
        with asking(client):
            path = client.cached(file)
        if path is not None:
            roots.add(root_of(path, file))
        return path

    try:
        # Without configuration.json, a file that was never fetched looks like one that the repository lacks.
        found, missing, _ = collect(find, optional=offline)
    except NotDelivered as error:
        return {}, [f"usable copy ({error})"], ""
    if missing or len(roots) > 1:
        return {}, missing or ["copy of a single revision"], ""
    root = roots.pop()
    revision = root.name if root.parent.name == "snapshots" else client.asked
    return found, [], revision


def _from_hub(client: Client, collect: _Gather) -> tuple[dict[str, Path | None], Client, str]:
    with asking(client):
        commit, files = client.listing()

    def find(file: str) -> Path | None:
        if file not in files:
            return None
        with asking(client):
            return client.fetch(file, commit, files[file])

    found, missing, _ = collect(find, optional=True)
    if missing:
        raise NotDelivered(f"the repository has no {', no '.join(missing)}")
    return found, client, commit


def _verified(checkpoint: Checkpoint, known_hashes: Mapping[str, tuple[str, ...]]) -> Checkpoint:
    files = (
        checkpoint.weights,
        checkpoint.config,
        checkpoint.tokens,
        checkpoint.head_weights,
        checkpoint.cmvn,
        checkpoint.pieces,
    )
    for path in files:
        accepted = known_hashes.get(path.name, ()) if path else ()
        if path and accepted and (got := sha256_of(path)) not in accepted:
            # Resolved, because a path in the cache may be a link whose target has to be deleted.
            raise CheckpointError(
                f"{path}: sha256 is {got}, expected {' or '.join(accepted)} for {checkpoint.repository}: "
                f"delete {path.resolve()} and try again, or ask for another revision"
            )
    return checkpoint
