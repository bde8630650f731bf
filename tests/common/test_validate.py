"""Checks of arguments: accepted and refused values, and the error texts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from snnrobust.common import validate
from snnrobust.errors import InputError, InputTypeError

NOT_NUMBERS = [True, False, None, "1", [1], math.nan]


@pytest.mark.parametrize("value", [2, 3, 10**9])
def test_counts(value: int) -> None:
    assert validate.is_count(value, 2)
    validate.check_count("steps", value, 2)


@pytest.mark.parametrize("value", [1, 0, -3, 2.0, 2.5, math.inf, *NOT_NUMBERS])
def test_what_is_no_count(value: Any) -> None:
    assert not validate.is_count(value, 2)
    with pytest.raises(InputError, match=r"expected steps to be a whole number >= 2, got .*; give a few"):
        validate.check_count("steps", value, 2, "give a few")


@pytest.mark.parametrize("value", [1, 0.5, 1e-300])
def test_positive_numbers(value: float) -> None:
    assert validate.is_positive(value)
    validate.check_positive("alpha", value)


@pytest.mark.parametrize("value", [0, -0.0, -1, math.inf, *NOT_NUMBERS])
def test_what_is_not_positive(value: Any) -> None:
    assert not validate.is_positive(value)
    with pytest.raises(InputError, match=r"expected a finite alpha > 0, got .*; give more"):
        validate.check_positive("alpha", value, "give more")


@pytest.mark.parametrize(
    ("ends", "interval", "inside"),
    [
        ({}, r"\(0, 1\)", []),
        ({"zero": True}, r"\[0, 1\)", [0, 0.0]),
        ({"one": True}, r"\(0, 1\]", [1, 1.0]),
        ({"zero": True, "one": True}, r"\[0, 1\]", [0, 0.0, 1, 1.0]),
    ],
)
def test_shares(ends: dict[str, bool], interval: str, inside: list[float]) -> None:
    for value in [0.5, 1e-9, *inside]:
        validate.check_share("decay", value, **ends)
    others = [value for value in (0, 0.0, 1, 1.0) if value not in inside]
    for wrong in [*others, -0.1, 1.1, math.inf, *NOT_NUMBERS]:
        with pytest.raises(InputError, match=rf"expected decay in {interval}, got .*; give a share"):
            validate.check_share("decay", wrong, **ends)


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (validate.check_flag, [True, False], [0, 1, None, "yes"]),
        (validate.check_real, [0, 1.5, -2], [True, None, "1"]),
        (lambda name, value: validate.check_choice(name, value, ["hard", "soft"]), ["hard", "soft"], [None, 1]),
    ],
)
def test_types(check: Callable[[str, Any], object], right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        check("setting", value)
    for value in wrong:
        with pytest.raises(InputTypeError, match=r"expected setting to be .*, got .*; "):
            check("setting", value)


def test_a_choice_that_is_nearly_right_gets_a_hint() -> None:
    with pytest.raises(InputError, match="did you mean 'hard'"):
        validate.check_choice("reset", "hrad", ["hard", "soft"])
