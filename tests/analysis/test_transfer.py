"""The matrix of transfer attacks: examples made on one model and scored on another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import snnrobust as sr
from snnrobust.analysis.transfer import transfer_groups, transfer_strengths
from snnrobust.errors import InputError
from snnrobust.report import Report
from snnrobust.testing.tiny import tiny_data, tiny_model

SHARES = {"pgd": (0.2, 0.3), "from b": (0.6, 0.3), "from x": (0.9, 0.8)}  # robust shares of (a, b)


@pytest.fixture(scope="session")
def study(made: Any) -> Callable[..., Report]:
    """Makes a report of two models a and b; the source of "from b" is b, that of "from x" a model not evaluated."""

    def make(labels: tuple[str, ...], **more: dict[str, Any]) -> Report:
        tasks = [made.attack(label, source=label.partition(" ")[2] or None, **more.get(label, {})) for label in labels]
        cells = {}
        for task in tasks:
            for model, share in zip("ab", SHARES[task["label"]], strict=True):
                cell = made.cell((np.arange(10) < round(10 * share)).astype(int))
                cells[model, task["label"]] = [cell] * len(task["strengths"])
        built: Report = made.report(tasks, cells, [1] * 10, [made.model("a"), made.model("b")])
        return built

    return make


def test_rows_are_sources_and_columns_targets(study: Callable[..., Report]) -> None:
    found = study(("pgd", "from b", "from x")).transfer(0.1)
    assert (found.sources, found.targets) == (("a", "b", "x"), ("a", "b"))
    wanted = [[0.2, np.nan], [0.6, 0.3], [0.9, 0.8]]  # no attack from a to b
    assert np.allclose(found.values, wanted, equal_nan=True)
    known = np.isfinite(found.values)
    assert np.array_equal(known, np.isfinite(found.low))
    assert np.array_equal(known, np.isfinite(found.high))
    assert (found.low <= found.values)[known].all()
    assert (found.values <= found.high)[known].all()
    assert (found.count, found.labels) == (10, ("pgd", "from b", "from x"))


def test_without_the_attack_itself_only_sources_have_rows(study: Callable[..., Report]) -> None:
    found = study(("from b",)).transfer(0.1)
    assert found.sources == ("b",)
    assert np.allclose(found.values, [[0.6, 0.3]])


def test_another_setting_is_another_group(study: Callable[..., Report]) -> None:
    found = study(("pgd", "from b", "from x"), **{"from x": {"plugin": "PGD(steps=40)"}})
    assert transfer_groups(found) == [["pgd", "from b"], ["from x"]]
    with pytest.raises(InputError, match="label= with several groups"):
        found.transfer(0.1)
    assert found.transfer(0.1, "from x").sources == ("x",)
    assert found.transfer(0.1, "pgd").labels == ("pgd", "from b")


def test_a_radius_that_only_one_task_has(study: Callable[..., Report]) -> None:
    found = study(("pgd", "from b"), **{"pgd": {"strengths": [0.1, 0.3]}, "from b": {"strengths": [0.1, 0.2]}})
    assert transfer_strengths(found, ["pgd", "from b"]) == [0.1, 0.2]
    assert found.transfer(0.2).sources == ("b",)
    with pytest.raises(InputError, match="a strength of"):
        found.transfer(0.3)


def test_attacks_without_a_source_and_ensembles_are_no_transfer(made: Any) -> None:
    tasks = [made.attack("pgd"), made.ensemble("both", ["A", "B"])]
    found = made.report(tasks, {"pgd": [made.cell([1])], "both": [made.cell([1], [1])]}, [1])
    assert transfer_groups(found) == []
    with pytest.raises(InputError, match="expected attacks with a source"):
        found.transfer(0.1)


def test_an_unknown_label(study: Callable[..., Report]) -> None:
    with pytest.raises(InputError, match="expected a label in"):
        study(("pgd", "from b")).transfer(0.1, "clean")


def test_a_model_as_its_own_source_is_the_attack_on_itself() -> None:
    tasks = [sr.load("pgd", epsilon=0.1, steps=4), sr.load("pgd", label="own", epsilon=0.1, steps=4, source="tiny")]
    found = sr.evaluate(tiny_model(), tiny_data(), tasks, evidence="none", progress=False)
    white = found.curve("pgd").value[0]
    assert found.transfer(0.1).values.tolist() == [[white]] == [[found.curve("own").value[0]]]
    assert 0 < white < 1
