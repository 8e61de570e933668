"""Profiles choose what their table says, options win over them, and restricted licenses are asked about first."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from served import Served

import e2v_port
from e2v_port.checkpoints import catalog, consent, licenses
from e2v_port.checkpoints.licenses import restriction
from e2v_port.errors import LicenseNotAccepted, ModelNotFound
from e2v_port.models.profiles import PROFILES, completed

CLIP = Path(__file__).parents[1] / "benchmarks" / "speech" / "calm.flac"
LARGE = "iic/emotion2vec_plus_large"
DIMENSIONAL = "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim"


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of settings of its own, where nothing is accepted yet; and no hub."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("E2V_OFFLINE", "1")
    for name in ("E2V_ACCEPT", "E2V_MODEL", "E2V_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "config" / "e2v-port" / "accepted.json"


def e2v(*arguments: str | Path, answer: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command line; with an answer, on a terminal of its own into which that is typed."""
    command = [sys.executable, "-m", "e2v_port", *map(str, arguments)]
    if answer is None:
        return subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    import pty

    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    out, _ = process.communicate()
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    return subprocess.CompletedProcess(command, process.returncode, out, shown)


def test_every_model_of_a_profile_is_known_and_can_do_what_it_is_for() -> None:
    from faster_whisper.utils import available_models

    for profile in PROFILES.values():
        model = catalog.lookup(profile.model)
        assert model
        assert model.id == profile.model
        assert len(model.labels) > 3
        if profile.dimensional:
            dimensional = catalog.lookup(profile.dimensional)
            assert dimensional
            assert set(dimensional.labels) == {"arousal", "dominance", "valence"}
        assert profile.words is None or profile.words in available_models()


def test_only_research_needs_a_restricted_license() -> None:
    for profile in PROFILES.values():
        named = filter(None, (profile.model, profile.dimensional))
        assert any(restriction(name) for name in named) == (profile.name == "research")


def test_every_license_of_the_manifest_is_free_or_has_terms_and_a_link() -> None:
    restricted = {model.id: found for model in catalog.known() if (found := restriction(model.id))}
    assert {"bundled-nc", DIMENSIONAL, LARGE, "tiantiaf/wavlm-large-categorical-emotion"} <= set(restricted)
    assert not {"bundled", "bundled-tiny", "openai/whisper-base", "superb/wav2vec2-base-superb-er"} & set(restricted)
    for model in catalog.known():
        says_so = any(words in model.licence.lower() for words in ("commercial", "funasr", "-nc", "-nd"))
        assert says_so == (model.id in restricted), f"{model.id}: {model.licence}"
    assert all(each.link.startswith("https://") for each in restricted.values())
    assert not any("not summarized" in each.terms for each in restricted.values()), "add its terms to licenses.py"


def test_fast_needs_nothing_but_the_package() -> None:
    analysis = e2v_port.analyze(CLIP, profile="fast", runtime="numpy")
    assert [model.name for model in analysis.models] == ["bundled-tiny"]
    assert analysis.segments[0].emotion
    done = e2v("analyze", CLIP, "--profile", "fast", "--runtime", "numpy", "--offline", "--json")
    assert json.loads(done.stdout)["models"][0]["name"] == "bundled-tiny"
    assert done.returncode == 0


def test_a_voice_and_the_service_take_a_profile_too() -> None:
    with Served("--profile", "fast") as served:
        assert [model["name"] for model in served.analyze(CLIP)["models"]] == ["bundled-tiny"]
    listen = ("listen", CLIP, "--fast", "--runtime", "numpy", "--jsonl")
    chosen, named, default = (
        e2v(*listen, *more).stdout for more in (["--profile", "fast"], ["-m", "bundled-tiny"], [])
    )
    assert json.loads(chosen.splitlines()[0])["emotion"] == json.loads(named.splitlines()[0])["emotion"]
    assert json.loads(chosen.splitlines()[0])["emotion"] != json.loads(default.splitlines()[0])["emotion"]
    for command in (["serve"], ["listen", CLIP, "--fast"]):
        refused = e2v(*command, "--profile", "research")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "e2v accept" in refused.stderr


def test_an_option_wins_over_the_profile() -> None:
    assert completed("balanced") == ("bundled", None, "auto", "base", 3600.0)
    given = completed("balanced", model="bundled-tiny", dtype="float32", words="none", timeout=5)
    assert given == ("bundled-tiny", None, "float32", None, 5)
    assert completed("accurate", dimensional="none")[1] is None
    assert completed(None, model="bundled-tiny", dimensional="none", words="none") == ("bundled-tiny", *[None] * 4)
    plain = e2v_port.analyze(CLIP, model="bundled-tiny", dimensional="none", words="none", runtime="numpy")
    assert [model.name for model in plain.models] == ["bundled-tiny"]
    analysis = e2v_port.analyze(CLIP, profile="balanced", model="bundled-tiny", words="none", runtime="numpy")
    assert [model.name for model in analysis.models] == ["bundled-tiny"]
    assert analysis.transcript is None
    with pytest.raises(ValueError, match="one of fast, balanced, accurate, research, not 'slow'"):
        e2v_port.analyze(CLIP, profile="slow")


def test_a_restricted_license_fails_closed_and_names_the_remedy(settings: Path) -> None:
    with pytest.raises(LicenseNotAccepted, match=f"run `e2v accept {LARGE} {DIMENSIONAL}`"):
        e2v_port.analyze(CLIP, profile="research")
    done = e2v("analyze", CLIP, "--profile", "research")
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert f"e2v accept {LARGE} {DIMENSIONAL}" in line
    assert f"E2V_ACCEPT={LARGE},{DIMENSIONAL}" in line
    assert not settings.exists()
    # Models that the caller names are his choice.
    assert completed("research", model="bundled", dimensional="bundled-tiny")[:2] == ("bundled", "bundled-tiny")
    with pytest.raises(LicenseNotAccepted, match=f"run `e2v accept {DIMENSIONAL}`"):
        completed("research", model="bundled")


@pytest.mark.parametrize("value", ["all", f"{LARGE}, {DIMENSIONAL}"])
def test_the_environment_accepts_for_one_run(value: str, settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2V_ACCEPT", value)
    assert completed("research")[:2] == (LARGE, DIMENSIONAL)
    assert not settings.exists()
    monkeypatch.setenv("E2V_ACCEPT", LARGE)
    with pytest.raises(LicenseNotAccepted, match=DIMENSIONAL):
        completed("research")


def test_what_was_accepted_is_remembered_until_it_is_withdrawn(settings: Path) -> None:
    done = e2v("accept", LARGE, DIMENSIONAL, "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("accepted: ") == 2
    assert "https://creativecommons.org/licenses/by-nc-sa/4.0" in done.stdout
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    assert [path.name for path in settings.parent.iterdir()] == [settings.name], "nothing else is left there"
    rows = json.loads(settings.read_text("utf-8"))["accepted"]
    assert [row["model"] for row in rows] == [DIMENSIONAL, LARGE]
    terms = restriction(LARGE)
    assert terms
    assert rows[1]["sha256"] == terms.sha256
    assert rows[1]["date"].endswith("+00:00")
    assert completed("research")[0] == LARGE
    assert "in force" in e2v("accept", "--list").stdout
    assert e2v("accept", "--withdraw", "emotion2vec_plus_large").stdout == "emotion2vec_plus_large: withdrawn\n"
    assert e2v("accept", "--withdraw", LARGE).stdout == f"{LARGE}: was not accepted\n"
    with pytest.raises(LicenseNotAccepted, match=f"`e2v accept {LARGE}`"):
        completed("research")


def test_a_license_that_changed_is_asked_about_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = restriction(LARGE)
    assert found
    consent.accept([found])
    assert consent.lacking([LARGE]) == []
    monkeypatch.setitem(licenses._TERMS, "FunASR Model License", ("new terms", "https://example.org/new"))
    assert [each.terms for each in consent.lacking([LARGE])] == ["new terms"]
    with pytest.raises(LicenseNotAccepted, match="new terms"):
        completed("research", dimensional="none")


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2, "accepted": []}', '{"format": 1, "accepted": [{}]}'])
def test_a_damaged_list_of_licenses_accepts_nothing(content: str, settings: Path) -> None:
    settings.parent.mkdir(parents=True)
    settings.write_text(content, "utf-8")
    with pytest.raises(LicenseNotAccepted, match=r"accepted\.json: not a list of accepted licenses .*: delete it"):
        completed("research")
    assert completed("fast")[0] == "bundled-tiny", "which needs none"


@pytest.mark.skipif(sys.platform == "win32", reason="no terminal to type into")
@pytest.mark.parametrize(("answer", "accepted"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_on_a_terminal_the_user_is_asked_once(answer: str, accepted: bool, settings: Path) -> None:
    done = e2v("analyze", CLIP, "--profile", "research", "--words", "none", "--runtime", "numpy", answer=answer)
    assert "Accept? [y/N]" in done.stderr
    assert "no commercial use" in done.stderr
    assert "https://creativecommons.org/licenses/by-nc-sa/4.0" in done.stderr
    assert settings.exists() == accepted
    assert done.returncode == 2, "as the models are not on this machine"
    assert ("is not on this machine" in done.stderr) == accepted
    if accepted:
        again = e2v("analyze", CLIP, "--profile", "research", "--words", "none", "--runtime", "numpy", answer=answer)
        assert "Accept?" not in again.stderr


def test_what_cannot_be_accepted_is_said() -> None:
    done = e2v("accept", "bundled", "--yes")
    assert (done.returncode, done.stdout) == (0, "bundled: its license allows any use, nothing to accept\n")
    assert e2v("accept", LARGE).stderr == "error: not accepted (--yes accepts without a terminal)\n"
    assert "not a known model" in e2v("accept", "nobody/knows", "--yes").stderr
    assert "one of the three" in e2v("accept").stderr
    with pytest.raises(ModelNotFound, match="not a known model"):
        restriction("nobody/knows")


def test_the_list_of_profiles_names_what_each_chooses() -> None:
    shown = e2v("models", "--profiles")
    assert shown.returncode == 0
    flat = " ".join(shown.stdout.replace("-\n", "-").split()).replace("- ", "-")
    for profile in PROFILES.values():
        assert f"{profile.name} for {profile.purpose} model {profile.model}" in flat
    assert flat.count("accept ") == 2, "both of research"
