"""Whose voice may be listened to, by the name that a request gives."""

import pytest

from e2v_port.speech.enrolment import Enrolment


@pytest.mark.parametrize(
    "name",
    [
        "other",
        "Other",
        " OTHER ",
        "ｏｔｈｅｒ",
        "o\u200bther",
        "\ufeffother\u2060",
        "o\u00adther",
        "oth\u0435r",  # a Cyrillic letter
        "\u041e\u0422\u041d\u0415\u0413",  # all of them Cyrillic
        "\u00f6ther",
        "o\u0301ther",
        "𝐨𝐭𝐡𝐞𝐫",
        "𝐎𝐓𝐇𝐄𝐑",
        "other\ufe0f",
        "o t h e r",
        "other_",
        "SPEAKER_UNKNOWN",
        "SPEAKER UNKNOWN",
        "speaker-unknown",
        "Speaker  Unknown",
        "SPEAKER\u00a0UNKNOWN",
        "ＳＰＥＡＫＥＲ＿ＵＮＫＮＯＷＮ",
        "SPEAKER\u200d_UNKNOWN",
    ],
)
def test_unknown_voices_are_never_enrolled(name: str) -> None:
    assert not Enrolment(None).admits(name)
    assert not Enrolment([name, "ann"]).admits(name)


@pytest.mark.parametrize("name", ["SPEAKER_00", "mother", "others", "brother", "Ann", "", "声", "unknown"])
def test_every_other_name_is_heard_where_nobody_is_enrolled(name: str) -> None:
    assert Enrolment(None).admits(name)
    assert Enrolment(None).admits(None)


def test_names_are_compared_as_people_read_them() -> None:
    enrolled = Enrolment(["ann", "José Ángel ", "Straße"])
    for name in "ann", "Ann", "ＡＮＮ", " ann\n", "a\u200bnn", "jose\u0301  a\u0301ngel", "JOSÉ ÁNGEL", "STRASSE":
        assert enrolled.admits(name), name
    # a letter of another alphabet is another name, and the gate stays shut
    for name in "\u0430nn", "anna", "an", "a nn", "jose angel", "", None, "\u200b", "other":
        assert not enrolled.admits(name), name


def test_a_name_of_nothing_enrolls_nobody() -> None:
    for names in ["", " "], []:
        assert not Enrolment(names).admits("")
        assert not Enrolment(names).admits(None)
