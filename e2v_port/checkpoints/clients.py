"""The client libraries of the hubs, with one interface."""

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple, TypeVar

from e2v_port.host import fork_safe_lock
from e2v_port.quiet import quiet

__all__ = ["CLIENTS", "Client", "NotDelivered", "asking", "root_of", "sha256_of", "without_telemetry"]

T = TypeVar("T")

_WAITS = (1.0, 2.0, 4.0)  # seconds between attempts, while a hub is too busy
_LONGEST_WAIT = 30.0  # seconds; a hub that asks for more counts as failed

_REFUSED = "no such repository, or a private or gated one that needs a token in {token}"
_STATUSES = {
    401: _REFUSED,
    403: _REFUSED,
    404: "no such repository, revision or file",
    429: "too many requests, try later",
}


class NotDelivered(Exception):
    """Why a hub did not deliver, as one line."""


class Listed(NamedTuple):
    """Size and hash that a hub lists for a file; None where unknown."""

    size: int | None
    sha256: str | None


class Client(ABC):
    """A hub's client library, for one repository at one revision.

    Attributes:
        hub: Name of the hub, as in `Checkpoint.hub`.
        title: Name of the hub in messages.
        library: Package of the client library.
        branch: Name of the hub's main branch.
        token: Environment variable that an access token is read from.
        repository: Name of the repository.
        revision: Branch, tag or commit; None for the main branch.
        asked: Revision that is requested.
    """

    hub: ClassVar[str]
    title: ClassVar[str]
    library: ClassVar[str]
    branch: ClassVar[str]
    token: ClassVar[str]

    def __init__(self, repository: str, revision: str | None) -> None:
        self.repository = repository
        self.revision = revision
        self.asked = revision or self.branch

    @classmethod
    def installed(cls) -> bool:
        """Returns whether the client library can be imported."""
        try:
            return find_spec(cls.library) is not None
        except ImportError:  # the host program keeps it from being imported
            return False

    @abstractmethod
    def cached(self, file: str) -> Path | None:
        """Returns a file that is in the hub's cache, without a request."""

    @abstractmethod
    def listing(self) -> tuple[str, dict[str, Listed]]:
        """Returns the revision, as a commit if the hub reports one, and its files."""

    @abstractmethod
    def fetch(self, file: str, commit: str, listed: Listed) -> Path:
        """Downloads a file to the hub's cache and returns its path."""


class ModelScope(Client):
    hub = "modelscope"
    title = "ModelScope"
    library = "modelscope_hub"  # `modelscope` wraps it, but takes 2 s to import and imports torch
    branch = "master"
    token = "MODELSCOPE_API_TOKEN"

    @cached_property
    def api(self) -> Any:
        from modelscope_hub import HubApi

        return HubApi()

    def cached(self, file: str) -> Path | None:
        from modelscope_hub import get_default_config
        from modelscope_hub.errors import CacheNotFound

        download_file = partial(self.api.download_file, self.repository, "model", file)
        try:
            found = Path(download_file(revision=self.asked, local_files_only=True))
        except CacheNotFound:
            found = None
        # Up to version 1.37 the cache had no revisions; the client returns such a copy for any revision.
        if self.revision is not None:
            known = found and root_of(found, file).as_posix().endswith(f"/snapshots/{self.revision}")
            return found if known else None
        # Older caches had no "models" folder either; the client no longer searches them.
        cache = get_default_config().cache_dir
        older = (cache / "hub" / self.repository / file, cache / self.repository / file)
        return found or next((path for path in older if path.is_file()), None)

    def listing(self) -> tuple[str, dict[str, Listed]]:
        files = self.api.list_repo_files(self.repository, "model", revision=self.asked)
        # Size 0 may also mean unknown.
        return self.asked, {file.path: Listed(file.size or None, file.sha256 or None) for file in files}

    def fetch(self, file: str, commit: str, listed: Listed) -> Path:
        # The client retries, resumes, and compares size and hash itself.
        download_file = partial(self.api.download_file, self.repository, "model", file)
        return Path(download_file(revision=commit, file_size=listed.size, expected_sha256=listed.sha256))


class HuggingFace(Client):
    hub = "huggingface"
    title = "Hugging Face"
    library = "huggingface_hub"
    branch = "main"
    token = "HF_TOKEN"

    def cached(self, file: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repository, file, revision=self.asked)
        return Path(found) if isinstance(found, str) else None

    def listing(self) -> tuple[str, dict[str, Listed]]:
        from huggingface_hub import HfApi, constants

        timeout = constants.HF_HUB_ETAG_TIMEOUT
        model_info = partial(HfApi().model_info, self.repository, revision=self.asked, timeout=timeout)
        info = _retried(lambda: model_info(files_metadata=True), busy=(429, 500, 502, 503, 504))
        files = {
            file.rfilename: Listed(file.size, file.lfs.sha256 if file.lfs else None) for file in info.siblings or []
        }
        return info.sha or self.asked, files

    def fetch(self, file: str, commit: str, listed: Listed) -> Path:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

        class Bar(tqdm):
            received = 0.0

            def update(self, n: float | None = 1) -> Any:
                # If a server keeps cutting a file off and cannot resume, the client starts over forever.
                self.received += max(n or 0, 0)
                if self.total and self.received > 3 * self.total:
                    raise OSError(f"{file} was cut off repeatedly")
                return super().update(n)

        # By name, not by commit, so that the cache records what the name refers to. The client itself retries after
        # rate limits and lost connections, but not after a server error during the transfer.
        fetch = partial(hf_hub_download, self.repository, file, revision=self.asked, tqdm_class=Bar)
        timeout = constants.HF_HUB_ETAG_TIMEOUT
        path = Path(_retried(lambda: fetch(etag_timeout=timeout), busy=(500, 502, 503, 504)))
        if root_of(path, file).name != commit:
            raise OSError(f"{self.asked} changed during the download: try again")
        # The client compares sizes only, so that the next run would use a damaged file.
        if listed.sha256 and (got := sha256_of(path)) != listed.sha256:
            path.resolve().unlink()
            raise OSError(f"{file} arrived damaged, with sha256 {got} instead of {listed.sha256}: try again")
        return path


CLIENTS: dict[str, type[Client]] = {"modelscope": ModelScope, "huggingface": HuggingFace}


_mute = fork_safe_lock()
_muted: list[bool] = []  # for each block below that is open now, what the setting was before


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Keeps the client library of Hugging Face from requests that are not for files, until the block ends.

    To name the program in its headers, the library asks its hub for a list of programs once a day, even if it shall
    only look into its cache. It has no such list with its telemetry switched off, a setting of the whole process.
    """
    from huggingface_hub import constants

    with _mute:
        _muted.append(constants.HF_HUB_DISABLE_TELEMETRY)
        constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        with _mute:
            before = _muted.pop()  # the last one to end takes off the first, which is the setting of the user
            if not _muted:
                constants.HF_HUB_DISABLE_TELEMETRY = before


def sha256_of(path: Path) -> str:
    """Returns the hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def root_of(path: Path, file: str) -> Path:
    """Returns the folder that a repository's file is cached under."""
    return path.parents[len(PurePosixPath(file).parts) - 1]


def _retried(call: Callable[[], T], busy: tuple[int, ...]) -> T:
    """Calls a function, and again up to three times while it fails with one of these HTTP statuses."""
    for wait in _WAITS:
        try:
            return call()
        except Exception as error:
            response = getattr(error, "response", None)
            if response is None or response.status_code not in busy:
                raise
            asked = response.headers.get("Retry-After", "")
            pause = float(asked) if asked.isdecimal() else wait
            if pause > _LONGEST_WAIT:
                raise
        time.sleep(pause)
    return call()


@contextmanager
def asking(client: Client) -> Iterator[None]:
    """Silences the client library, except for progress bars on a terminal, and turns its errors into one line."""
    try:
        import_module(client.library)  # first, because importing it installs its log handlers
    except ModuleNotFoundError as error:
        raise NotDelivered(f'{client.library} is not installed: pip install "e2v-port[hub]"') from error
    with quiet(progress=True):
        try:
            yield
        except Exception as error:
            # Two libraries over two HTTP clients: their errors have no narrower common base.
            raise NotDelivered(_reason(error, client.token)) from error


def _reason(error: Exception, token: str) -> str:
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for each in chain:
        response = getattr(each, "response", None)
        status = getattr(each, "status_code", None) or getattr(response, "status_code", None)
        if status is not None and status >= 400:
            meaning = _STATUSES.get(status, "the request failed").format(token=token)
            return f"{meaning} (HTTP {status})"
    # The operating system's message is clearer than the one the libraries make of it.
    system = (each for each in chain if isinstance(each, OSError) and type(each).__module__ == "builtins")
    plain = next(system, chain[-1])
    text = " ".join((getattr(plain, "strerror", None) or str(plain) or type(plain).__name__).split())
    return text if len(text) <= 200 else f"{text[:199]}…"
