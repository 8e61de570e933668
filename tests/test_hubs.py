"""Downloads, with the hubs' own client libraries against a hub on this machine."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from loopback_hub import Fault, LoopbackHub

from e2v_port.checkpoints import checkpoint, hubs
from e2v_port.errors import CheckpointError, DownloadError, ModelNotFound

TOKENS = {"modelscope": "MODELSCOPE_API_TOKEN", "huggingface": "HF_TOKEN"}
HUBS = list(TOKENS)
WEIGHTS = Random(1).randbytes(300_000)
OTHER_WEIGHTS = Random(2).randbytes(300_000)


def configuration(**metas: Any) -> bytes:
    return json.dumps({"framework": "pytorch", "file_path_metas": metas}).encode()


FILES = {
    "configuration.json": configuration(
        init_param="model.pt", config="config.yaml", tokenizer_conf={"token_list": "tokens.txt"}
    ),
    "config.yaml": b"model: Emotion2vec\n",
    "tokens.txt": b"angry\nhappy\n",
    "model.pt": WEIGHTS,
    "README.md": b"not needed",
}

# The libraries read their endpoints and caches when imported, so every scenario runs in a separate process.
# It reports on stdout, which also shows that nothing else is printed there.
SCRIPT = """
import json, os, socket, sys, time
from dataclasses import asdict, replace

slept, opened = [], []
time.sleep = slept.append

{prelude}

from e2v_port import errors
from e2v_port.checkpoints import hubs

results = []
for arguments in json.loads(sys.argv[1]):
    try:
        results.append(asdict(hubs.download(arguments.pop("name"), **arguments)))
    except errors.E2VError as error:
        results.append({{"error": type(error).__name__, "message": str(error)}})
print(json.dumps({{"results": results, "slept": slept, "opened": opened}}, default=str))
"""

NO_SOCKETS = """
import urllib3  # binds a socket when it is imported, to see whether there is IPv6

class Forbidden(socket.socket):
    def __init__(self, *arguments, **named):
        opened.append("socket")
        raise AssertionError("opened a socket")

def forbidden(*arguments, **named):
    opened.append("connection or look-up")
    raise AssertionError("looked for a host")

socket.socket = Forbidden
socket.create_connection = socket.getaddrinfo = forbidden
"""


class Run:
    """The outcome of some downloads in a separate process."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        assert process.returncode == 0, process.stderr
        self.stderr = process.stderr
        report = json.loads(process.stdout)
        self.results: list[dict[str, Any]] = report["results"]
        self.slept: list[float] = report["slept"]
        self.opened: list[str] = report["opened"]

    @property
    def result(self) -> dict[str, Any]:
        assert len(self.results) == 1
        assert "error" not in self.results[0], self.results[0]["message"]
        return self.results[0]

    @property
    def error(self) -> tuple[str, str]:
        assert len(self.results) == 1
        assert "error" in self.results[0], self.results[0]
        message = self.results[0]["message"]
        assert "\n" not in message
        assert message.isascii()
        return self.results[0]["error"], message


class Machine:
    """Fresh caches, and the way to the hubs: a refused connection where none is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self.nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"

    def environment(self, modelscope: LoopbackHub | None, huggingface: LoopbackHub | None) -> dict[str, str]:
        hidden = (
            "HF_",
            "HUGGING",
            "MODELSCOPE",
            "E2V_",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "XDG_",
            "TQDM",
        )
        kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(hidden)}
        return kept | {
            "HOME": str(self.folder),
            "HF_HOME": str(self.folder / "huggingface"),
            "HF_ENDPOINT": huggingface.url if huggingface else self.nowhere,
            "HF_HUB_ETAG_TIMEOUT": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "1",
            "MODELSCOPE_CACHE": str(self.folder / "modelscope"),
            "MODELSCOPE_HOME": str(self.folder / "modelscope-home"),
            "MODELSCOPE_ENDPOINT": modelscope.url if modelscope else self.nowhere,
            "MODELSCOPE_REPO_TREE_PAGE_TIMEOUT_SECONDS": "1",
            "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "2",
            "MODELSCOPE_DOWNLOAD_TIMEOUT": "1",
            "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
        }

    def download(
        self,
        *arguments: dict[str, Any],
        server: LoopbackHub | None = None,
        modelscope: LoopbackHub | None = None,
        huggingface: LoopbackHub | None = None,
        prelude: str = "",
        stderr: int = subprocess.PIPE,
        **environment: str,
    ) -> Run:
        """Runs `download` once for each of `arguments`; `server` stands for both hubs."""
        process = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(prelude=prelude), json.dumps(arguments)],
            env=self.environment(server or modelscope, server or huggingface) | environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        return Run(process)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def server() -> Iterator[LoopbackHub]:
    with LoopbackHub({"someone/model": dict(FILES)}) as running:
        yield running


def content(path: str | None) -> bytes:
    assert path is not None
    return Path(path).read_bytes()


def asked(hub: str, **more: Any) -> dict[str, Any]:
    return {"name": "someone/model", "hub": hub, **more}


# ---- what comes down


@pytest.mark.parametrize("hub", HUBS)
def test_the_named_files_come_down_once(hub: str, machine: Machine, server: LoopbackHub) -> None:
    run = machine.download(asked(hub), asked(hub), server=server)
    first, second = run.results
    assert content(first["weights"]) == WEIGHTS
    assert content(first["config"]) == FILES["config.yaml"]
    assert content(first["tokens"]) == FILES["tokens.txt"]
    assert first["repository"] == "someone/model"
    assert first["hub"] == hub
    assert first["revision"] == ("master" if hub == "modelscope" else server.commit)
    assert second == first
    assert run.stderr == ""
    once = ["listing", "configuration.json", "config.yaml", "tokens.txt", "model.pt"]
    assert server.requests == dict.fromkeys(once, 1)


@pytest.mark.parametrize("hub", HUBS)
def test_configuration_json_names_the_files(hub: str, machine: Machine, server: LoopbackHub) -> None:
    server.repositories["someone/model"] = {
        "configuration.json": configuration(init_param="weights/emotion2vec_base.pt", config="conf/base.yaml"),
        "weights/emotion2vec_base.pt": WEIGHTS,
        "conf/base.yaml": b"a: 1",
        "model.pt": OTHER_WEIGHTS,
        "tokens.txt": b"not named",
    }
    first, second = machine.download(asked(hub), asked(hub), server=server).results
    assert content(first["weights"]) == WEIGHTS
    assert content(first["config"]) == b"a: 1"
    assert first["tokens"] is None
    assert second == first
    assert "tokens.txt" not in server.requests


@pytest.mark.parametrize("hub", HUBS)
def test_the_scaling_and_the_vocabulary_of_sensevoice_come_down(
    hub: str, machine: Machine, server: LoopbackHub
) -> None:
    """configuration.json names am.mvn as the front end's; tokens.json it does not name, and it may be absent.

    So may the pieces of words, which it names: emotions do not need them.
    """
    server.repositories["someone/model"] = {
        "configuration.json": configuration(
            init_param="model.pt",
            config="config.yaml",
            tokenizer_conf={"bpemodel": "spectok.bpe.model"},
            frontend_conf={"cmvn_file": "am.mvn"},
        ),
        "config.yaml": b"model: SenseVoiceSmall\n",
        "am.mvn": b"<Nnet>",
        "tokens.json": b"[]",
        "model.pt": WEIGHTS,
        "spectok.bpe.model": b"pieces",
    }
    first, second = machine.download(asked(hub), asked(hub, offline=True), server=server).results
    assert content(first["cmvn"]) == b"<Nnet>"
    assert content(first["tokens"]) == b"[]"
    assert content(first["pieces"]) == b"pieces"
    assert second == first


@pytest.mark.parametrize("hub", HUBS)
def test_a_repository_without_its_pieces_of_words_comes_down(hub: str, machine: Machine, server: LoopbackHub) -> None:
    server.repositories["someone/model"] = {
        "configuration.json": configuration(
            init_param="model.pt", config="config.yaml", tokenizer_conf={"bpemodel": "spectok.bpe.model"}
        ),
        "config.yaml": b"model: SenseVoiceSmall\n",
        "model.pt": WEIGHTS,
    }
    first, second = machine.download(asked(hub), asked(hub, offline=True), server=server).results
    assert first["pieces"] is None
    assert second == first


@pytest.mark.parametrize("hub", HUBS)
def test_a_repository_that_lacks_the_scaling_it_names(hub: str, machine: Machine, server: LoopbackHub) -> None:
    server.repositories["someone/model"]["configuration.json"] = configuration(
        init_param="model.pt", frontend_conf={"cmvn_file": "am.mvn"}
    )
    kind, message = machine.download(asked(hub), server=server).error
    assert kind == "DownloadError"
    assert "the repository has no am.mvn" in message


@pytest.mark.parametrize("hub", HUBS)
def test_without_configuration_json_the_usual_names_are_taken(hub: str, machine: Machine, server: LoopbackHub) -> None:
    server.repositories["someone/model"] = {"model.pt": WEIGHTS, "config.yaml": b"a: 1"}
    online, offline = machine.download(asked(hub), asked(hub, offline=True), server=server).results
    assert content(online["weights"]) == WEIGHTS
    assert content(online["config"]) == b"a: 1"
    assert online["tokens"] is None
    assert offline == online


@pytest.mark.parametrize("hub", HUBS)
def test_a_repository_that_lacks_a_named_file(hub: str, machine: Machine, server: LoopbackHub) -> None:
    del server.repositories["someone/model"]["tokens.txt"]
    kind, message = machine.download(asked(hub), server=server).error
    assert kind == "DownloadError"
    assert "the repository has no tokens.txt" in message


@pytest.mark.parametrize("hub", HUBS)
def test_a_configuration_json_cannot_leave_the_repository(hub: str, machine: Machine, server: LoopbackHub) -> None:
    server.repositories["someone/model"]["configuration.json"] = configuration(init_param="../../model.pt")
    kind, message = machine.download(asked(hub), server=server).error
    assert kind == "CheckpointError"
    assert "'../../model.pt'" in message
    assert set(server.requests) == {"listing", "configuration.json"}


@pytest.mark.parametrize(("hub", "variable"), list(TOKENS.items()))
def test_the_token_named_in_the_message_is_sent(hub: str, variable: str, machine: Machine, server: LoopbackHub) -> None:
    machine.download(asked(hub), server=server, **{variable: "secret"})
    assert "Bearer secret" in server.tokens


# ---- what goes wrong on the way

LISTING_FAULTS = {
    "no repository": (
        Fault(status=404, code="RepoNotFound"),
        "no such repository, revision or file (HTTP 404)",
    ),
    "unauthorized": (Fault(status=401), "needs a token in {token} (HTTP 401)"),
    "gated": (Fault(status=403, code="GatedRepo"), "needs a token in {token} (HTTP 403)"),
    "broken": (Fault(status=503), "the request failed (HTTP 503)"),
    "busy for long": (Fault(status=429, retry_after="3600"), "too many requests, try later (HTTP 429)"),
    # ModelScope's client also has a watchdog that closes the connection, at the same time as the read times out.
    "slow": (Fault(silent=True), "timed out|Remote end closed connection"),
}

FILE_FAULTS = {
    "no file": (Fault(status=404, code="EntryNotFound"), "no such repository, revision or file (HTTP 404)"),
    "gated": (Fault(status=403, code="GatedRepo"), "needs a token in {token} (HTTP 403)"),
    "broken": (Fault(status=500), "the request failed (HTTP 500)"),
    "cut off": (Fault(cut=100_000), "100000 bytes"),
    "wrong bytes": (Fault(instead=OTHER_WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest()[:16]),
    "slow": (Fault(silent=True), "timed out"),
}


@pytest.mark.parametrize("hub", HUBS)
@pytest.mark.parametrize("case", LISTING_FAULTS)
def test_a_failing_hub(hub: str, case: str, machine: Machine, server: LoopbackHub) -> None:
    server.faults["listing"], reason = LISTING_FAULTS[case]
    run = machine.download(asked(hub), server=server)
    kind, message = run.error
    assert kind == "DownloadError"
    assert any(each in message for each in reason.format(token=TOKENS[hub]).split("|"))
    assert message.endswith("download it by hand and pass its folder instead of its name")
    assert run.stderr == ""
    assert sum(run.slept) <= 30


@pytest.mark.parametrize("hub", HUBS)
@pytest.mark.parametrize("case", FILE_FAULTS)
def test_a_failed_transfer_leaves_nothing_that_looks_complete(
    hub: str, case: str, machine: Machine, server: LoopbackHub
) -> None:
    server.faults["model.pt"], reason = FILE_FAULTS[case]
    server.ranges = False
    run = machine.download(asked(hub), server=server)
    kind, message = run.error
    assert kind == "DownloadError"
    assert reason.format(token=TOKENS[hub]) in message
    assert run.stderr == ""
    assert sum(run.slept) <= 30

    server.faults.clear()
    offline, healed = machine.download(asked(hub, offline=True), asked(hub), server=server).results
    assert offline["error"] == "ModelNotFound"
    assert "no model.pt" in offline["message"]
    assert content(healed["weights"]) == WEIGHTS


@pytest.mark.parametrize("hub", HUBS)
@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_cut_off_once_is_taken_up_again(
    hub: str, ranges: bool, machine: Machine, server: LoopbackHub
) -> None:
    server.faults["model.pt"] = Fault(cut=100_000, times=1)
    server.ranges = ranges
    assert content(machine.download(asked(hub), server=server).result["weights"]) == WEIGHTS
    assert server.requests["model.pt"] == 2


@pytest.mark.parametrize("hub", HUBS)
@pytest.mark.parametrize("step", ["listing", "model.pt"])
def test_a_busy_hub_is_asked_again(hub: str, step: str, machine: Machine, server: LoopbackHub) -> None:
    server.faults[step] = Fault(status=429, retry_after="2" if step == "listing" else "1", times=1)
    run = machine.download(asked(hub), server=server)
    assert content(run.result["weights"]) == WEIGHTS
    assert server.requests[step] == 2
    if step == "listing":
        assert run.slept == [2]


@pytest.mark.parametrize("step", ["listing", "model.pt"])
def test_a_broken_hugging_face_is_asked_again(step: str, machine: Machine, server: LoopbackHub) -> None:
    server.faults[step] = Fault(status=502, times=3)
    run = machine.download(asked("huggingface"), server=server)
    assert content(run.result["weights"]) == WEIGHTS
    assert run.slept == [1, 2, 4]


def test_hugging_face_cutting_off_without_end(machine: Machine, server: LoopbackHub) -> None:
    server.faults["model.pt"] = Fault(cut=290_000)
    server.ranges = False
    # The client forgets its count of attempts when a whole chunk came through: 10 MB, or here 64 kB.
    prelude = "import huggingface_hub.constants\nhuggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 65536"
    kind, message = machine.download(asked("huggingface"), server=server, prelude=prelude).error
    assert kind == "DownloadError"
    assert "model.pt was cut off repeatedly" in message
    assert server.requests["model.pt"] <= 5


def test_hugging_face_moving_on_during_a_download(machine: Machine, server: LoopbackHub) -> None:
    server.moved_to = "d" * 40
    kind, message = machine.download(asked("huggingface"), server=server).error
    assert kind == "DownloadError"
    assert "main changed during the download" in message


# ---- which hub


@pytest.mark.parametrize(
    ("name", "modelscope_first", "repository", "other"),
    [
        ("iic/emotion2vec_plus_base", True, "iic/emotion2vec_plus_base", "emotion2vec/emotion2vec_plus_base"),
        ("emotion2vec_plus_base", True, "iic/emotion2vec_plus_base", "emotion2vec/emotion2vec_plus_base"),
        ("iic/unheard_of", True, "iic/unheard_of", "iic/unheard_of"),
        ("emotion2vec/emotion2vec_base", False, "emotion2vec/emotion2vec_base", "iic/emotion2vec_base"),
        ("someone/model", False, "someone/model", "someone/model"),
    ],
)
def test_the_other_hub_is_the_fallback(
    name: str, modelscope_first: bool, repository: str, other: str, machine: Machine
) -> None:
    first, second = ("ModelScope", "Hugging Face") if modelscope_first else ("Hugging Face", "ModelScope")
    hub = second.replace(" ", "").lower()
    with LoopbackHub({other: FILES}) as server:
        run = machine.download({"name": name}, **{hub: server})
    assert run.result["hub"] == hub
    assert run.result["repository"] == other
    assert content(run.result["weights"]) == WEIGHTS
    assert run.stderr == f"{first} did not deliver {repository}: Connection refused; trying {second}\n"


def test_no_hub_delivers(machine: Machine, server: LoopbackHub) -> None:
    run = machine.download({"name": "iic/emotion2vec_base"}, huggingface=server)
    kind, message = run.error
    assert kind == "DownloadError"
    assert message == (
        "iic/emotion2vec_base: ModelScope did not deliver iic/emotion2vec_base: Connection refused; "
        "Hugging Face did not deliver emotion2vec/emotion2vec_base: "
        "no such repository, revision or file (HTTP 404); "
        "or download it by hand and pass its folder instead of its name"
    )


def test_a_revision_belongs_to_one_hub(machine: Machine, server: LoopbackHub) -> None:
    kind, message = machine.download(
        {"name": "someone/model", "revision": "v2"}, modelscope=server, huggingface=server
    ).error
    assert kind == "DownloadError"
    assert "Hugging Face did not deliver someone/model at v2: no such repository, revision or file" in message
    assert "the other was not asked" in message
    assert server.requests == {"listing": 1}


@pytest.mark.parametrize("name", ["nonsense", "a/b/c", "../b", "a/..", "a/b c", ""])
def test_names_that_are_no_repository(name: str) -> None:
    with pytest.raises(ModelNotFound, match="e2v models lists the known ones"):
        hubs.download(name)


@pytest.mark.parametrize("revision", ["../../elsewhere", "/root", ""])
def test_revisions_that_are_none(revision: str) -> None:
    with pytest.raises(DownloadError, match="not the name of a branch, tag or commit"):
        hubs.download("someone/model", revision=revision)


# ---- caches and revisions


@pytest.mark.parametrize("hub", HUBS)
def test_only_a_named_branch_is_asked_for_again(hub: str, machine: Machine, server: LoopbackHub) -> None:
    before, old_commit = machine.download(asked(hub), server=server).result, server.commit
    server.repositories["someone/model"]["model.pt"] = OTHER_WEIGHTS
    server.commit = "beef" * 10
    server.requests.clear()

    branch = "master" if hub == "modelscope" else "main"
    assert machine.download(asked(hub), server=server).result == before
    assert not server.requests
    after = machine.download(asked(hub, revision=branch), server=server).result
    assert content(after["weights"]) == OTHER_WEIGHTS
    assert machine.download(asked(hub), server=server).result == after

    server.requests.clear()
    pinned, again = machine.download(
        asked(hub, revision=server.commit), asked(hub, revision=server.commit), server=server
    ).results
    assert pinned == again
    assert pinned["revision"] == server.commit != old_commit
    assert server.requests["listing"] == (1 if hub == "modelscope" else 0)


@pytest.mark.parametrize("hub", HUBS)
def test_offline_from_the_cache_without_a_socket(hub: str, machine: Machine, server: LoopbackHub) -> None:
    online = machine.download(asked(hub), server=server).result
    requests = server.requests.total()
    # The name decides which hub is first: the other one's cache serves as well.
    run = machine.download(
        asked(hub, offline=True),
        {"name": "someone/model"},
        server=server,
        prelude=NO_SOCKETS,
        E2V_OFFLINE="1",
    )
    assert run.results == [online, online]
    assert run.opened == []
    assert server.requests.total() == requests


def test_offline_with_empty_caches(machine: Machine, server: LoopbackHub) -> None:
    run = machine.download(
        {"name": "iic/emotion2vec_plus_base"},
        {"name": "someone/model", "revision": "v2"},
        server=server,
        prelude=NO_SOCKETS,
        E2V_OFFLINE="1",
    )
    assert [result["error"] for result in run.results] == ["ModelNotFound"] * 2
    assert run.results[0]["message"] == (
        "iic/emotion2vec_plus_base is not on this machine and this run is offline: "
        "the cache of ModelScope has no model.pt; the cache of Hugging Face has no model.pt; "
        "run once online, or download it by hand and pass its folder instead of its name"
    )
    assert run.opened == []
    assert not server.requests


@pytest.mark.parametrize(
    ("library", "module", "call"),
    [
        ("transformers", "e2v_port.llm.language", "load('owner/model', revision='v2', offline=True)"),
        ("transformers", "e2v_port.dialogue.train", "_licence('owner/model', None, True)"),
        ("faster_whisper", "e2v_port.transcribe.whisper", "_folder('base', offline=True)"),
        ("mlx", "e2v_port.transcribe.whisper_mlx", "_folder('base', offline=True)"),
    ],
)
def test_libraries_that_load_models_open_no_socket_offline(
    library: str, module: str, call: str, machine: Machine
) -> None:
    """Their client of Hugging Face asks for other things than files, and hides that it failed."""
    pytest.importorskip(library)
    program = f"""
import socket
import huggingface_hub.constants, huggingface_hub.utils, torch, {library}, {module}
opened = []
{NO_SOCKETS}
try:
    {module}.{call}
except e2v_port.errors.ModelNotFound:
    pass
print(opened, huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=machine.environment(None, None),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[] False\n", done.stderr


@pytest.mark.parametrize("hub", HUBS)
def test_offline_with_a_part_of_the_files(hub: str, machine: Machine, server: LoopbackHub) -> None:
    Path(machine.download(asked(hub), server=server).result["tokens"]).unlink()
    kind, message = machine.download(asked(hub, offline=True), server=server).error
    assert kind == "ModelNotFound"
    assert "has no tokens.txt" in message
    healed = machine.download(asked(hub), server=server).result
    assert content(healed["tokens"]) == FILES["tokens.txt"]


@pytest.mark.parametrize(
    ("value", "offline"),
    [("1", True), ("true", True), ("Yes", True), (" ON ", True), ("0", False), ("", False), ("no", False)],
)
def test_values_of_the_offline_variable(value: str, offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2V_OFFLINE", value)
    assert hubs.offline_by_environment() is offline


@pytest.mark.parametrize(
    "layout", ["models/someone/model", "hub/models/someone/model", "hub/someone/model", "someone/model"]
)
def test_caches_of_older_modelscope_versions(layout: str, machine: Machine, server: LoopbackHub) -> None:
    folder = machine.folder / "modelscope" / layout
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    run = machine.download(
        asked("modelscope"), asked("modelscope", revision=server.commit, offline=True), server=server
    )
    assert run.results[0]["weights"] == str(folder / "model.pt")
    assert run.results[0]["revision"] == "master"
    assert not server.requests
    # They do not record their revision.
    assert run.results[1]["error"] == "ModelNotFound"


# ---- known hashes


@pytest.mark.parametrize("hub", HUBS)
def test_a_known_hash_is_compared(hub: str, machine: Machine, server: LoopbackHub) -> None:
    name = "iic/emotion2vec_plus_large" if hub == "modelscope" else "emotion2vec/emotion2vec_plus_large"
    expected = hashlib.sha256(WEIGHTS).hexdigest()
    # The manifest's hash belongs to two gigabytes; this one replaces it.
    prelude = f"""
from e2v_port.checkpoints import catalog
model = replace(catalog.lookup({name!r}), sha256={{"model.pt": ({expected!r},)}})
catalog.lookup = lambda name: model
"""
    server.repositories = {name: {**FILES, "model.pt": OTHER_WEIGHTS}}
    arguments = {"name": name, "hub": hub}
    kind, message = machine.download(arguments, server=server, prelude=prelude).error
    assert kind == "CheckpointError"
    assert expected in message
    assert hashlib.sha256(OTHER_WEIGHTS).hexdigest() in message
    damaged = Path(message.split("delete ")[1].split(" and try again")[0])
    assert damaged.read_bytes() == OTHER_WEIGHTS

    damaged.unlink()
    server.repositories = {name: FILES}
    server.commit = "beef" * 10
    assert content(machine.download(arguments, server=server, prelude=prelude).result["weights"]) == WEIGHTS


@pytest.mark.parametrize("hub", HUBS)
def test_damage_in_the_cache_is_found_and_can_be_mended(hub: str, machine: Machine, server: LoopbackHub) -> None:
    expected = hashlib.sha256(WEIGHTS).hexdigest()
    prelude = f"""
from e2v_port.checkpoints import catalog
model = replace(catalog.known()[0], modelscope="someone/model", huggingface="someone/model",
                sha256={{"model.pt": ({expected!r},)}})
catalog.lookup = lambda name: model
"""
    path = Path(machine.download(asked(hub), server=server, prelude=prelude).result["weights"])
    with path.open("r+b") as file:
        file.write(b"damage")
    kind, message = machine.download(asked(hub), server=server, prelude=prelude).error
    assert kind == "CheckpointError"
    assert str(path) in message
    Path(message.split("delete ")[1].split(" and try again")[0]).unlink()
    assert content(machine.download(asked(hub), server=server, prelude=prelude).result["weights"]) == WEIGHTS


# ---- manners


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("hub", HUBS)
def test_progress_is_shown_on_a_terminal(hub: str, machine: Machine, server: LoopbackHub) -> None:
    import termios

    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))  # without a width nothing is drawn
    try:
        machine.download(asked(hub), server=server, stderr=theirs)
        os.set_blocking(ours, False)
        assert b"model.pt" in os.read(ours, 100_000)
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_libraries_are_loaded_when_needed() -> None:
    code = (
        "import sys, e2v_port.checkpoints.hubs; "
        "print(*{'torch', 'numpy', 'modelscope', 'modelscope_hub', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_light_client_is_enough(machine: Machine, server: LoopbackHub) -> None:
    prelude = "sys.modules['torch'] = sys.modules['modelscope'] = None"
    run = machine.download(asked("modelscope"), asked("huggingface"), server=server, prelude=prelude)
    assert [content(result["weights"]) for result in run.results] == [WEIGHTS, WEIGHTS]


def test_without_the_client_of_a_hub_the_other_is_asked(machine: Machine, server: LoopbackHub) -> None:
    run = machine.download(asked("auto"), server=server, prelude="sys.modules['huggingface_hub'] = None")
    assert content(run.result["weights"]) == WEIGHTS
    assert 'huggingface_hub is not installed: pip install "e2v-port[hub]"; trying ModelScope' in run.stderr


def test_without_any_client_the_error_names_the_remedy(machine: Machine) -> None:
    prelude = "sys.modules['huggingface_hub'] = sys.modules['modelscope_hub'] = None"
    kind, message = machine.download(asked("auto"), prelude=prelude).error
    assert kind == "DownloadError"
    assert message.startswith('someone/model: downloading needs the client of a hub: pip install "e2v-port[hub]"')


# ---- a checkpoint on this machine


def folder_of(tmp_path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_a_folder_with_configuration_json(tmp_path: Path) -> None:
    named = configuration(init_param="weights/base.pt", config="base.yaml", tokenizer_conf={"token_list": "labels.txt"})
    files = {
        "configuration.json": named,
        "weights/base.pt": b"1",
        "base.yaml": b"2",
        "labels.txt": b"3",
        "model.pt": b"4",
    }
    folder = folder_of(tmp_path, files)
    assert checkpoint.local(folder) == checkpoint.Checkpoint(
        folder / "weights/base.pt", folder / "base.yaml", folder / "labels.txt", str(folder), "local", ""
    )


def test_a_folder_that_lacks_what_its_configuration_json_names(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {key: FILES[key] for key in ["configuration.json", "config.yaml"]} | {"best.pt": b"1"})
    with pytest.raises(CheckpointError, match=r"no tokens\.txt, no model\.pt in this folder"):
        checkpoint.local(folder)


@pytest.mark.parametrize("unnamed", [None, b"{}", b'{"file_path_metas": {"config": "x"}}', b"[1]"])
def test_a_folder_without_named_files(unnamed: bytes | None, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"other.pt": b"1", "tokens.txt": b"2"})
    if unnamed is not None:
        (folder / "configuration.json").write_bytes(unnamed)
    expected = checkpoint.Checkpoint(folder / "other.pt", None, folder / "tokens.txt", str(folder), "local", "")
    assert checkpoint.local(folder) == expected
    (folder / "more.pt").write_bytes(b"3")
    with pytest.raises(CheckpointError, match=r"which of more\.pt, other\.pt are the weights"):
        checkpoint.local(folder)
    (folder / "model.pt").write_bytes(b"4")
    assert checkpoint.local(folder).weights == folder / "model.pt"


def test_a_folder_without_weights(tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            checkpoint.local(tmp_path)

    refused(r"no weights in this folder .*is the download complete")
    (tmp_path / "model.fp16.safetensors").touch()
    refused(r"there are model\.fp16\.safetensors: if one holds the weights, pass that file")
    (tmp_path / "model.safetensors").touch()
    refused(r"without its config\.json: put that file next to it")
    (tmp_path / "adapter_config.json").touch()
    refused("an adapter of PEFT, .*merge_and_unload")


def test_weights_in_several_files(server: LoopbackHub, machine: Machine, tmp_path: Path) -> None:
    files = {
        "config.json": b"{}",
        "processor_config.json": b'{"feature_extractor": {}}',
        "model.safetensors.index.json": json.dumps(
            {"weight_map": {"x": "b.safetensors", "y": "a.safetensors"}}
        ).encode(),
        "a.safetensors": b"1",
        "b.safetensors": b"2",
    }
    server.repositories["someone/model"] = files
    found = machine.download(asked("huggingface"), huggingface=server).result
    assert [content(path) for path in found["shards"]] == [b"2", b"1"]
    assert Path(found["preprocessor"]).name == "processor_config.json"
    folder = folder_of(tmp_path, files)
    assert checkpoint.local(folder).shards == (folder / "b.safetensors", folder / "a.safetensors")
    assert checkpoint.local(folder).sha256() == hashlib.sha256(b"21").hexdigest()
    assert checkpoint.local(folder / "model.safetensors.index.json").shards == checkpoint.local(folder).shards
    (folder / "a.safetensors").unlink()
    for path in (folder, folder / "model.safetensors.index.json"):
        with pytest.raises(CheckpointError, match=r"no a\.safetensors .*is the download complete"):
            checkpoint.local(path)
    for listed in ("../a.safetensors", "model.safetensors.index.json", 3):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": listed}}))
        with pytest.raises(CheckpointError, match="does not name a file of weights inside the repository"):
            checkpoint.local(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(CheckpointError, match="names no file of weights"):
        checkpoint.local(folder)


def test_a_file(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"mine.pt": b"1", "other.pt": b"2", "config.yaml": b"3"})
    path = folder / "mine.pt"
    assert checkpoint.local(path) == checkpoint.Checkpoint(path, folder / "config.yaml", None, str(path), "local", "")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file or folder"):
        checkpoint.local(tmp_path / "nothing")


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../model.pt",
        "a/../../model.pt",
        "C:\\model.pt",
        "\\\\host\\model.pt",
        "..\\model.pt",
        "",
        "a\nb",
        7,
    ],
)
def test_names_that_leave_the_folder(name: object, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"model.pt": b"1", "config.yaml": b"2", "tokens.txt": b"3"})
    for metas in (
        {"init_param": name},
        {"init_param": "model.pt", "config": name},
        {"init_param": "model.pt", "tokenizer_conf": {"token_list": name}},
    ):
        (folder / "configuration.json").write_bytes(configuration(**metas))
        with pytest.raises(CheckpointError, match="does not name a file inside the repository"):
            checkpoint.local(folder)


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_configuration_json_that_is_not_json(data: bytes, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"configuration.json": data, "model.pt": b"1"})
    with pytest.raises(CheckpointError, match="not readable as JSON"):
        checkpoint.local(folder)
