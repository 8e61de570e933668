"""Voices that are known by name: what is stored of them, where, and who counts as one of them."""

import base64
import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from e2v_port.errors import RosterError
from e2v_port.speakers.roster import LEAST_SECONDS, Roster, default_path, mean_of

DIM = 8


def towards(*weights: float) -> np.ndarray:
    """A vector of any length; its cosines with others follow from the weights."""
    vector = np.zeros(DIM, np.float32)
    vector[: len(weights)] = weights
    return 3 * vector


def empty(threshold: float = 0.8) -> Roster:
    return Roster("made/encoder", "ab" * 32, threshold)


def two() -> Roster:
    """Ann and Bob, whose voices have nothing in common."""
    roster = empty()
    assert roster.enroll("Ann", [towards(1, 0), towards(1, 0)], [6, 6]) == []
    assert roster.enroll("Bob", [towards(0, 1)], [12]) == []
    return roster


def test_a_voice_above_the_threshold_is_named_and_no_other() -> None:
    roster = two()
    for name, vector, cosine in (
        ("Ann", towards(1), 1.0),
        ("Ann", towards(0.81, 0, (1 - 0.81**2) ** 0.5), 0.81),
        (None, towards(0.79, 0, (1 - 0.79**2) ** 0.5), 0.79),
        ("Bob", towards(0, 1, 0.1), 1 / 1.01**0.5),
        (None, towards(0, 0, 1), 0.0),
        (None, towards(-1), 0.0),
    ):
        found, similarity = roster.identify(vector)
        assert found == name
        assert similarity == pytest.approx(cosine, abs=1e-6)


def test_nobody_is_recognized_where_nobody_is_enrolled() -> None:
    assert empty().identify(towards(1)) == (None, -1.0)


def test_two_that_sound_alike_are_not_told_apart_by_a_hair() -> None:
    roster = empty()
    roster.enroll("Ann", [towards(1, 0.1)], [10])
    notes = roster.enroll("Eve", [towards(1, -0.1)], [10])
    assert [note.kind for note in notes] == ["enrolled_twice"]
    assert "Eve sounds like Ann" in notes[0].text
    name, similarity = roster.identify(towards(1))  # just between them
    assert name is None
    assert similarity > 0.99
    assert roster.identify(towards(1, 0.4))[0] == "Ann"


def test_the_mean_of_a_voice_counts_seconds_not_clips() -> None:
    roster = empty()
    roster.enroll("Ann", [towards(1, 0), towards(0, 5)], [9, 1])
    expected = np.array([9, 1]) / 82**0.5
    np.testing.assert_allclose(roster.voice("ann").embedding[:2], expected, atol=1e-6)
    assert roster.voice("ann").seconds == 10
    assert np.linalg.norm(roster.voice("ann").embedding) == pytest.approx(1, abs=1e-6)


@given(st.lists(st.lists(st.integers(-9, 9), min_size=DIM, max_size=DIM), min_size=1, max_size=5))
def test_a_mean_has_length_one(rows: list[list[int]]) -> None:
    vectors = [np.array(row, np.float32) for row in rows]
    total = sum((vector / np.linalg.norm(vector) for vector in vectors if vector.any()), np.zeros(DIM))
    assume(all(vector.any() for vector in vectors) and np.linalg.norm(total) > 1e-6)
    assert np.linalg.norm(mean_of(vectors)) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(mean_of(vectors), total / np.linalg.norm(total), atol=1e-4)


@pytest.mark.parametrize(
    "rows",
    [[], [np.zeros(4)], [np.full(4, np.nan)], [np.ones(4), -np.ones(4)], [np.ones(4), np.ones(5)], [np.ones((2, 2))]],
)
def test_no_voice_is_made_of_nothing(rows: list[np.ndarray]) -> None:
    with pytest.raises(RosterError):
        mean_of(rows)


def test_too_little_speech_is_refused_with_what_is_needed() -> None:
    roster = empty()
    with pytest.raises(RosterError, match=r"'Ann': 4\.9 s of speech are too little .* at least 5 s"):
        roster.enroll("Ann", [towards(1)], [LEAST_SECONDS - 0.1])
    assert len(roster) == 0
    assert [note.kind for note in roster.enroll("Ann", [towards(1)], [LEAST_SECONDS])] == ["little_speech"]


def test_several_voices_in_the_recordings_are_noticed() -> None:
    one, other = towards(1), towards(0, 1)
    assert empty().enroll("Ann", [one, one, towards(1, 0.2)], [5, 5, 5]) == []
    [note] = empty().enroll("Ann", [one, one, other], [5, 5, 5])
    assert note.kind == "several_voices"
    assert "5.0 s of the speech do not sound like one voice (similarity 0.00): check that nobody but Ann" in note.text
    # as many of the one as of the other
    [note] = empty().enroll("Ann", [one, other, one, other], [5, 5, 5, 5])
    assert note.text.startswith("10.0 s and 10.0 s")
    # too short to say so
    assert empty().enroll("Ann", [one, one, other], [5, 5, 1]) == []


def test_a_name_is_enrolled_once_and_replaced_aloud() -> None:
    roster = two()
    [note] = roster.enroll(" ann ", [towards(1, 0.1)], [10])
    assert note.kind == "replaced"
    assert note.text.startswith("Ann was enrolled on 20")
    assert "different" not in note.text
    [note] = roster.enroll("ANN", [towards(0, 0, 1)], [10])
    assert note.text.endswith("a voice that sounds different")
    assert roster.names == ("ANN", "Bob")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "  ",
        "\u200b",
        "speaker 1",
        "Speaker 12",
        "SPEAKER_00",
        "speaker",
        "channel 2",
        "left",
        "Right",
        "unknown",
        "other",
        "oth\u0435r",  # a Cyrillic letter
        "s\u0440e\u0430ker 1",
        "\u0405\u0420\u0415\u0410\u041aER_00",
        "\u0441h\u0430nnel 2",
        "\u03bfther",  # a Greek one
        "\u03bd\u03bfice 3",
        "spe\u0301aker 1",
        "m\u0456\u0445",
        "SPEAKER_UNKNOWN",
        "a\x00b",
        "x" * 101,
    ],
)
def test_names_that_programs_give_are_no_names(name: str) -> None:
    roster = empty()
    with pytest.raises(RosterError) as caught:
        roster.enroll(name, [towards(1)], [10])
    assert "\n" not in str(caught.value)
    assert len(roster) == 0


@pytest.mark.parametrize(
    "name",
    ["Ann Speaker", "Voicea", "\u0421\u043f\u0430\u0440\u043a 1", "Marina Left", "\u039d\u03b9\u03ba\u03bf\u03c2"],
)
def test_names_of_people_are_names(name: str) -> None:
    roster = empty()
    roster.enroll(name, [towards(1)], [10])
    assert roster.names == (name,)


def test_a_name_in_several_lines_is_stored_on_one() -> None:
    roster = empty()
    roster.enroll("Ann\n  Lee", [towards(1)], [10])
    assert roster.names == ("Ann Lee",)


def test_a_name_in_several_lines_is_read_on_one(tmp_path: Path) -> None:
    path = tmp_path / "voices.json"
    values = two().to_dict()
    values["voices"][0]["name"] = " A\nlice "
    path.write_text(json.dumps(values), "utf-8")
    assert Roster.load(path).names == ("A lice", "Bob")


def test_deleting() -> None:
    roster = two()
    assert roster.delete("ANN").name == "Ann"
    assert roster.names == ("Bob",)
    assert roster.identify(towards(1)) == (None, 0.0)
    with pytest.raises(RosterError, match=r"nobody named 'Ann' is enrolled: Bob"):
        roster.delete("Ann")


def test_what_a_file_holds_and_gives_back(tmp_path: Path) -> None:
    path = tmp_path / "voices.json"
    roster = two()
    roster.save(path)
    values = json.loads(path.read_text("utf-8"))
    # All that is stored: no sound, no file names.
    assert set(values) == {"format", "encoder", "sha256", "threshold", "voices"}
    assert [set(voice) for voice in values["voices"]] == [{"name", "enrolled", "seconds", "clips", "embedding"}] * 2
    again = Roster.load(path)
    assert (again.encoder, again.sha256, again.threshold) == ("made/encoder", "ab" * 32, 0.8)
    assert again.names == roster.names
    for mine, theirs in zip(roster.voices, again.voices, strict=True):
        np.testing.assert_array_equal(mine.embedding, theirs.embedding)
        assert (mine.seconds, mine.clips, mine.enrolled) == (theirs.seconds, theirs.clips, theirs.enrolled)
    # The documented encoding, read without this package.
    raw = np.frombuffer(base64.b64decode(values["voices"][1]["embedding"]), "<f4")
    np.testing.assert_array_equal(raw, roster.voice("Bob").embedding)


@pytest.mark.skipif(sys.platform == "win32", reason="no modes of files")
def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "voices.json"
    before = os.umask(0)
    try:
        two().save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)  # a group that the owner let in stays in
    two().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "voices.json"
    two().save(path)
    before = path.read_bytes()

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        empty().save(path)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


def broken(**changes: object) -> str:
    return json.dumps(two().to_dict() | changes)


def of_voice(**changes: object) -> str:
    values = two().to_dict()
    values["voices"][0] |= changes
    return json.dumps(values)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        broken(format="e2v-port voices 2"),
        broken(extra=1),
        broken(encoder=None),
        broken(threshold="high"),
        broken(threshold=2),
        broken(voices={}),
        broken(voices=[1]),
        broken(voices=two().to_dict()["voices"][:1] * 2),
        of_voice(embedding="no base64"),
        of_voice(embedding=base64.b64encode(np.zeros(DIM, "<f4").tobytes()).decode()),
        of_voice(embedding=base64.b64encode(np.full(DIM, np.nan, "<f4").tobytes()).decode()),
        of_voice(embedding=base64.b64encode(np.array([1, 0], "<f4").tobytes()).decode()),
        of_voice(embedding=""),
        of_voice(name=5),
        of_voice(name="speaker 1"),
        of_voice(enrolled="yesterday"),
        of_voice(seconds=-1),
        of_voice(clips="3"),
        of_voice(waveform=[0.1]),
    ],
)
def test_another_file_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "voices.json"
    path.write_text(text, "utf-8")
    with pytest.raises(RosterError) as caught:
        Roster.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RosterError, match=r"voices\.json: cannot be read .*e2v enroll NAME FILE"):
        Roster.load(tmp_path / "voices.json")


def test_where_the_file_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("E2V_VOICES", str(tmp_path / "mine.json"))
    assert default_path() == tmp_path / "mine.json"
    monkeypatch.delenv("E2V_VOICES")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_path() == tmp_path / "e2v-port" / "voices.json"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_path() == tmp_path / ".local" / "share" / "e2v-port" / "voices.json"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_path() == tmp_path / "Library" / "Application Support" / "e2v-port" / "voices.json"
