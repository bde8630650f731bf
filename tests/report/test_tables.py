"""How numbers read in tables."""

from __future__ import annotations

import pytest

from snnrobust.report.tables import number, strength


@pytest.mark.parametrize(
    ("value", "text"),
    [(8 / 255, "8/255"), (0.2, "0.2"), (0.0, "0"), (1.0, "1"), (51 / 255, "0.2"), (0.12345, "0.1235")],
)
def test_strengths_read_as_people_write_them(value: float, text: str) -> None:
    assert strength(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(float("nan"), "–"), (123456.0, "123,456"), (0.01234, "0.0123"), (0.0, "0")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text
