"""Where a checkpoint's files come from: ModelScope, Hugging Face, or a folder on this machine."""

import hashlib
import json
import logging
import os
import re
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from e2v_port import catalog
from e2v_port.errors import CheckpointError, DownloadError, ModelNotFound

__all__ = ["Checkpoint", "download", "local", "offline_by_environment"]

T = TypeVar("T")
_Find = Callable[[str], Path | None]  # from a file's name in the repository

# What FunASR itself looks for where a repository has no configuration.json; fetched in this order.
_USUAL = {"config": "config.yaml", "tokens": "tokens.txt", "weights": "model.pt"}
# What transformers saves; the weights in one of two formats, of which one is safe by itself.
_TRANSFORMERS = {"config": "config.json", "preprocessor": "preprocessor_config.json", "weights": "model.safetensors"}
_PICKLED = "pytorch_model.bin"

_WAITS = (1.0, 2.0, 4.0)  # seconds between the attempts at a request that a hub was too busy for
_LONGEST_WAIT = 30.0  # a hub that asks for more is given up for now

_REFUSED = "no such repository, or a private or gated one that needs a token in {token}"
_STATUSES = {
    401: _REFUSED,
    403: _REFUSED,
    404: "no such repository, revision or file",
    429: "too many requests, try later",
}


@dataclass(frozen=True)
class Checkpoint:
    """The files of one unconverted checkpoint.

    Attributes:
        weights: The PyTorch file.
        config: Its config.yaml, or the config.json of a transformers model; None where there is none.
        tokens: The labels, one to a line; None where there are none.
        preprocessor: The preprocessor_config.json of a transformers model; None where there is none.
        repository: The repository as the hub calls it, or the local path.
        hub: "modelscope", "huggingface" or "local".
        revision: A commit on Hugging Face; what was asked for on ModelScope, which does not tell; else "".
    """

    weights: Path
    config: Path | None
    tokens: Path | None
    repository: str
    hub: str
    revision: str
    preprocessor: Path | None = None


def offline_by_environment() -> bool:
    """Tells whether `E2V_OFFLINE` forbids the network: 1, true, yes or on, in upper or lower case."""
    return os.environ.get("E2V_OFFLINE", "").strip().lower() in {"1", "true", "yes", "on"}


def local(path: Path) -> Checkpoint:
    """Returns the checkpoint in a folder, or the one a .pt file belongs to.

    A folder's configuration.json names its files. Without one, the weights are model.pt or else the only .pt
    file, and config.yaml and tokens.txt are taken where they exist, as they are from beside a given file.

    Raises:
        ModelNotFound: Nothing is there.
        CheckpointError: The folder holds no weights, or several, or lacks what its configuration.json names.
    """
    if not path.exists():
        raise ModelNotFound(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent

    def find(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    if not path.is_dir():
        config, tokens = find(_USUAL["config"]) or find(_TRANSFORMERS["config"]), find(_USUAL["tokens"])
        return Checkpoint(path, config, tokens, str(path.resolve()), "local", "", find(_TRANSFORMERS["preprocessor"]))
    found, missing, named = _gather(find, optional=True)
    if missing and not named:
        candidates = sorted(entry for entry in folder.glob("*.pt") if entry.is_file())
        if len(candidates) > 1:
            listed = ", ".join(entry.name for entry in candidates)
            raise CheckpointError(f"{path}: which of {listed} are the weights? pass that file, not the folder")
        found["weights"] = candidates[0] if candidates else None
        missing = [] if candidates else [f"{_USUAL['weights']}, nor any other .pt file"]
    if missing:
        raise CheckpointError(f"{path}: no {', no '.join(missing)} in this folder; is the download complete?")
    return _checkpoint(found, str(path.resolve()), "local", "")


def download(
    name: str,
    *,
    hub: Literal["auto", "modelscope", "huggingface"] = "auto",
    revision: str | None = None,
    offline: bool = False,
) -> Checkpoint:
    """Returns a checkpoint from a hub, or from the hub's own cache on this machine.

    A complete copy in either hub's cache is taken without a request, even if the hub has moved on since: name
    a branch or tag as `revision` to have the hub asked. A commit cannot move, so a cached one is taken, too.

    Args:
        name: A known model, or any "owner/name" repository.
        hub: "auto" asks ModelScope first for "iic/..." and Hugging Face first for others, then the other one.
        revision: Branch, tag or commit; the hub's main branch by default. It means something on one hub only:
            with it, "auto" asks the first hub alone.
        offline: Take cached files only and open no connection, as with `E2V_OFFLINE`.

    Raises:
        ModelNotFound: The name is neither known nor a repository's, or offline it is not on this machine.
        DownloadError: No hub delivered, and the message gives each one's reason.
        CheckpointError: A file has not the hash it is known to have, or configuration.json is unusable.
    """
    clients, known_hashes = _clients(name, hub, revision)
    offline = offline or offline_by_environment()

    lacking = []
    for client in clients:
        checkpoint, missing = _from_cache(client, offline)
        if checkpoint:
            return _verified(checkpoint, known_hashes)
        lacking.append(f"the cache of {client.title} has no {', no '.join(missing)}")
    if offline:
        raise ModelNotFound(
            f"{name} is not on this machine and this run is offline: {'; '.join(lacking)}; "
            f"run once online, or download it by hand and pass --model FOLDER"
        )

    reasons: list[str] = []
    for client in clients:
        if reasons:
            print(f"e2v: {reasons[-1]}; trying {client.title}", file=sys.stderr)
        try:
            checkpoint = _from_hub(client)
        except _NotDelivered as error:
            at = f" at {revision}" if revision else ""
            reasons.append(f"{client.title} did not deliver {client.repository}{at}: {error}")
        else:
            return _verified(checkpoint, known_hashes)
    if hub == "auto" and revision is not None:
        reasons.append("a revision belongs to one hub, so the other was not asked: name the hub if it is its")
    raise DownloadError(f"{name}: {'; '.join(reasons)}; or download it by hand and pass --model FOLDER")


class _NotDelivered(Exception):
    """One hub's reason, as one line."""


class _Listed(NamedTuple):
    """What a hub says about one file."""

    size: int | None
    sha256: str | None


class _Client(ABC):
    """One hub's client library, for one repository at one revision."""

    hub: ClassVar[str]
    title: ClassVar[str]
    library: ClassVar[str]
    branch: ClassVar[str]  # what the hub calls its main branch
    token: ClassVar[str]  # the environment variable that an access token is read from

    def __init__(self, repository: str, revision: str | None) -> None:
        self.repository = repository
        self.revision = revision
        self.asked = revision or self.branch

    @abstractmethod
    def cached(self, file: str) -> Path | None:
        """Returns a file that is in the hub's cache, without a request."""

    @abstractmethod
    def listing(self) -> tuple[str, dict[str, _Listed]]:
        """Returns the revision, as a commit where the hub tells it, and its files."""

    @abstractmethod
    def fetch(self, file: str, commit: str, listed: _Listed) -> Path:
        """Returns a file after bringing it into the hub's cache."""


class _ModelScope(_Client):
    hub = "modelscope"
    title = "ModelScope"
    library = "modelscope_hub"  # what `modelscope` wraps; importing that takes 2 s and brings torch along
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
        # Up to version 1.37 the cache had no revisions; the client offers such a copy for every revision.
        if self.revision is not None:
            known = found and _root(found, file).as_posix().endswith(f"/snapshots/{self.revision}")
            return found if known else None
        # Older caches had no "models" folder either, and there the client no longer looks.
        cache = get_default_config().cache_dir
        older = (cache / "hub" / self.repository / file, cache / self.repository / file)
        return found or next((path for path in older if path.is_file()), None)

    def listing(self) -> tuple[str, dict[str, _Listed]]:
        files = self.api.list_repo_files(self.repository, "model", revision=self.asked)
        # Size 0 also stands for an unknown one.
        return self.asked, {file.path: _Listed(file.size or None, file.sha256 or None) for file in files}

    def fetch(self, file: str, commit: str, listed: _Listed) -> Path:
        # The client retries, resumes, and compares size and hash itself.
        download_file = partial(self.api.download_file, self.repository, "model", file)
        return Path(download_file(revision=commit, file_size=listed.size, expected_sha256=listed.sha256))


class _HuggingFace(_Client):
    hub = "huggingface"
    title = "Hugging Face"
    library = "huggingface_hub"
    branch = "main"
    token = "HF_TOKEN"

    def cached(self, file: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repository, file, revision=self.asked)
        return Path(found) if isinstance(found, str) else None

    def listing(self) -> tuple[str, dict[str, _Listed]]:
        from huggingface_hub import HfApi, constants

        timeout = constants.HF_HUB_ETAG_TIMEOUT
        model_info = partial(HfApi().model_info, self.repository, revision=self.asked, timeout=timeout)
        info = _retried(lambda: model_info(files_metadata=True), busy=(429, 500, 502, 503, 504))
        files = {
            file.rfilename: _Listed(file.size, file.lfs.sha256 if file.lfs else None) for file in info.siblings or []
        }
        return info.sha or self.asked, files

    def fetch(self, file: str, commit: str, listed: _Listed) -> Path:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

        class Bar(tqdm):
            received = 0.0

            def update(self, n: float | None = 1) -> Any:
                # With a server that cuts files off and cannot resume, the client starts over for ever.
                self.received += max(n or 0, 0)
                if self.total and self.received > 3 * self.total:
                    raise OSError(f"{file} was cut off again and again")
                return super().update(n)

        # By name, not by commit: only so does the cache learn what the name stands for. Rate limits and lost
        # connections the client waits out itself, but not a server's errors during the transfer.
        fetch = partial(hf_hub_download, self.repository, file, revision=self.asked, tqdm_class=Bar)
        timeout = constants.HF_HUB_ETAG_TIMEOUT
        path = Path(_retried(lambda: fetch(etag_timeout=timeout), busy=(500, 502, 503, 504)))
        if _root(path, file).name != commit:
            raise OSError(f"{self.asked} moved on during the download: try again")
        # The client compares sizes only, and the next run would take a damaged file for a complete one.
        if listed.sha256 and (got := _sha256(path)) != listed.sha256:
            path.resolve().unlink()
            raise OSError(f"{file} arrived damaged, with sha256 {got} instead of {listed.sha256}: try again")
        return path


_CLIENTS: dict[str, type[_Client]] = {"modelscope": _ModelScope, "huggingface": _HuggingFace}


def _clients(name: str, hub: str, revision: str | None) -> tuple[list[_Client], dict[str, tuple[str, ...]]]:
    """Returns the hubs to ask, in this order, and the hashes known for the files."""
    model = catalog.lookup(name)
    if model is None and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII):
        raise catalog.not_found(name)
    if revision is not None and not _stays_inside(revision):
        raise DownloadError(f"{name}: {revision!r} is not the name of a branch, tag or commit")
    order = [each for each in _CLIENTS if model is None or getattr(model, each)]
    if not (name if model is None or name == model.huggingface else model.id).startswith("iic/"):
        order.reverse()
    if hub != "auto":
        order = [hub]
    elif revision is not None:
        order = order[:1]
    if hub != "auto" and model and not getattr(model, hub):
        raise DownloadError(f"{name} is not on {_CLIENTS[hub].title}: leave --hub out")
    repositories = {each: getattr(model, each) if model else name for each in order}
    return [_CLIENTS[each](repositories[each], revision) for each in order], model.sha256 if model else {}


def _from_cache(client: _Client, offline: bool) -> tuple[Checkpoint | None, list[str]]:
    """Returns the checkpoint that a hub's cache holds, or None and what it lacks."""
    # A branch or tag may have moved: whoever names one wants to know. A commit cannot.
    if client.revision is not None and not offline and not re.fullmatch(r"[0-9a-f]{40}", client.revision):
        return None, [client.revision]
    roots = set()

    def find(file: str) -> Path | None:
        with _asking(client):
            path = client.cached(file)
        if path is not None:
            roots.add(_root(path, file))
        return path

    try:
        # Without configuration.json, a file not fetched yet looks like one that the repository lacks.
        found, missing, _ = _gather(find, optional=offline)
    except _NotDelivered as error:
        return None, [f"usable copy ({error})"]
    if missing or len(roots) > 1:
        return None, missing or ["copy of a single revision"]
    root = roots.pop()
    revision = root.name if root.parent.name == "snapshots" else client.asked
    return _checkpoint(found, client.repository, client.hub, revision), []


def _from_hub(client: _Client) -> Checkpoint:
    with _asking(client):
        commit, files = client.listing()

    def find(file: str) -> Path | None:
        if file not in files:
            return None
        with _asking(client):
            return client.fetch(file, commit, files[file])

    found, missing, _ = _gather(find, optional=True)
    if missing:
        raise _NotDelivered(f"the repository has no {', no '.join(missing)}")
    return _checkpoint(found, client.repository, client.hub, commit)


def _gather(find: _Find, *, optional: bool) -> tuple[dict[str, Path | None], list[str], bool]:
    """Returns a checkpoint's files by role, the missing ones, and whether configuration.json named them.

    All that it names is needed. If it names nothing, the weights are, and unless `optional` the rest too.
    """
    configuration = find("configuration.json")
    named = _named(configuration) if configuration else None
    names = dict(named or _USUAL)
    if not named and find(_TRANSFORMERS["config"]):
        names = dict(_TRANSFORMERS)
        if not find(names["weights"]):
            names["weights"] = _PICKLED
    found = {role: find(file) for role, file in names.items()}
    needed = {"weights"} if optional and not named else set(names)
    return found, [names[role] for role in names if role in needed and not found[role]], named is not None


def _named(configuration: Path) -> dict[str, str] | None:
    """Returns the files by role that a configuration.json names, or None where it names no weights."""
    try:
        content = json.loads(configuration.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{configuration}: not readable as JSON ({error}); delete {configuration.resolve()} and try again"
        ) from error
    metas = content.get("file_path_metas") if isinstance(content, dict) else None
    if not isinstance(metas, dict) or metas.get("init_param") is None:
        return None
    tokenizer = metas.get("tokenizer_conf")
    names = {
        "config": metas.get("config"),
        "tokens": tokenizer.get("token_list") if isinstance(tokenizer, dict) else None,
        "weights": metas["init_param"],
    }
    for file in names.values():
        if file is not None and not (isinstance(file, str) and _stays_inside(file)):
            raise CheckpointError(f"{configuration}: {file!r} does not name a file inside the repository")
    return {role: file for role, file in names.items() if file is not None}


def _stays_inside(file: str) -> bool:
    # Read as a Windows path, both kinds of separator count, and drive letters too.
    path = PureWindowsPath(file)
    return bool(path.parts) and not path.anchor and ".." not in path.parts and file.isprintable()


def _checkpoint(found: Mapping[str, Path | None], repository: str, hub: str, revision: str) -> Checkpoint:
    weights = found["weights"]
    assert weights is not None
    return Checkpoint(
        weights, found.get("config"), found.get("tokens"), repository, hub, revision, found.get("preprocessor")
    )


def _verified(checkpoint: Checkpoint, known_hashes: Mapping[str, tuple[str, ...]]) -> Checkpoint:
    for path in (checkpoint.weights, checkpoint.config, checkpoint.tokens):
        accepted = known_hashes.get(path.name, ()) if path else ()
        if path and accepted and (got := _sha256(path)) not in accepted:
            # Resolved, because a path in the cache may be a link, and its target is what has to go.
            raise CheckpointError(
                f"{path}: sha256 is {got}, expected {' or '.join(accepted)} for {checkpoint.repository}: "
                f"delete {path.resolve()} and try again, or ask for another revision"
            )
    return checkpoint


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _root(path: Path, file: str) -> Path:
    """Returns the folder that a repository's file is cached under."""
    return path.parents[len(PurePosixPath(file).parts) - 1]


def _retried(call: Callable[[], T], busy: tuple[int, ...]) -> T:
    """Calls again, a few times, while the answer is one of these statuses."""
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
def _asking(client: _Client) -> Iterator[None]:
    """Silences the client library and turns whatever it raises into one line.

    Progress bars get through to a terminal. Nothing gets to stdout, which belongs to the results.
    """
    import_module(client.library)  # first, because it sets its logger's level
    loggers = [logging.getLogger(name) for name in (client.library, "urllib3")]
    levels = [logger.level for logger in loggers]
    with ExitStack() as stack:
        stderr = sys.stderr
        if stderr is None or not stderr.isatty():
            stderr = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(redirect_stdout(stderr))
        stack.enter_context(redirect_stderr(stderr))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        except Exception as error:
            # Two libraries over two HTTP clients: their errors have no narrower base in common.
            raise _NotDelivered(_reason(error, client.token)) from error
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


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
    # What the operating system said is clearer than what the libraries made of it.
    system = (each for each in chain if isinstance(each, OSError) and type(each).__module__ == "builtins")
    plain = next(system, chain[-1])
    text = " ".join((getattr(plain, "strerror", None) or str(plain) or type(plain).__name__).split())
    return text if len(text) <= 200 else f"{text[:199]}…"
