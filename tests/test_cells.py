"""Tables that are opened in a spreadsheet: no text of a stranger runs there as a formula."""

import pytest

from e2v_port.cells import cell


@pytest.mark.parametrize("text", ["=1+1", "+49 40", "-x", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "－1"])
def test_text_that_a_spreadsheet_would_run(text: str) -> None:
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["ann", "", " =1", "1-1", "'=1", -0.5, 0, None, True])
def test_all_other_values_stay(value: object) -> None:
    assert cell(value) is value
