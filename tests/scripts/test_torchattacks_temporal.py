"""`scripts/tables/torchattacks_temporal`: a few attacks on few samples, and controls that show a wrong number."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("torchattacks", reason="the table is about it")

SCRIPTS = Path(__file__).parents[2] / "scripts" / "tables" / "torchattacks_temporal"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the script, which import each other by name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = ("direct", "moving_bars", "table")
    before = {name: sys.modules.pop(name, None) for name in names}  # `table` is a module of other scripts too
    found = {name: importlib.import_module(name) for name in names}
    for name, held in before.items():
        del sys.modules[name]
        if held is not None:
            sys.modules[name] = held
    return SimpleNamespace(**found)


@pytest.fixture
def quick(scripts: SimpleNamespace) -> Any:
    return scripts.table.Size(train=60, epochs=1, samples=6, steps=3, limit=40)


@pytest.fixture
def victims(scripts: SimpleNamespace, quick: Any) -> Any:
    """Untrained nets, whose own answers are the labels."""
    made = scripts.table.victims(replace(quick, epochs=0, samples=2))
    for domain, victim in made.items():
        data = scripts.moving_bars.events(quick.samples, seed=5)
        data = data if domain == "binary" else scripts.moving_bars.graded(data, seed=6)
        y = victim.model.predict(victim.model.logits(data.x)).detach()
        made[domain] = replace(victim, data=type(data).of(data.x, y))
    return made


def row(scripts: SimpleNamespace, victims: Any, size: Any, name: str) -> Any:
    beside = {(domain, norm): 0.5 for domain, norms in scripts.table.RADII.items() for norm in norms}
    return scripts.table.row_of(name, victims, beside, size)


def test_there_are_37_attacks(scripts: SimpleNamespace) -> None:
    assert len(scripts.direct.ATTACKS) == len(set(scripts.direct.ATTACKS)) == 37


def test_bars_move(scripts: SimpleNamespace) -> None:
    data = scripts.moving_bars.events(64, seed=0)
    assert set(data.x.unique().tolist()) == {0.0, 1.0}
    graded = scripts.moving_bars.graded(data, seed=1)
    assert 0 <= graded.x.min() <= graded.x.max() <= 1
    assert torch.equal(graded.x.round(), data.x)
    speed = torch.tensor(scripts.moving_bars.SPEEDS)[data.y // 2]
    along = torch.where((data.y % 2 == 1)[:, None, None], data.x[:, :, 0].sum(2), data.x[:, :, 0].sum(3))  # (N, T, 9)
    place = along.argmax(dim=2)
    assert float(((place[:, 1] - place[:, 0]) % 9 == speed % 9).float().mean()) > 0.8  # noise may outweigh a bar


@pytest.mark.parametrize(
    ("name", "unfolded", "norms", "why"),
    [
        ("PGD", "yes", ("linf", "linf"), ""),
        ("PGDL2", "no", ("l2", "l0"), ""),
        ("VANILA", "yes", ("", "l0"), "no radius"),
        ("TIFGSM", "no", ("", ""), "3 channels"),
        ("PIFGSM", "no", ("", ""), "no radius `eps`; RuntimeError"),
        ("Pixle", "no", ("", ""), "no radius `eps`; TooManyPassesError: more than 40 forward passes"),
    ],
)
def test_rows(
    scripts: SimpleNamespace, victims: Any, quick: Any, name: str, unfolded: str, norms: tuple[str, str], why: str
) -> None:
    found = row(scripts, victims, quick, name)
    assert len(found.cells) == len(scripts.table.COLUMNS)
    assert found.cells[0] == unfolded
    assert (found.cells[3], found.cells[6]) == norms
    assert why in found.why
    assert bool(why) == bool(found.why)
    assert found.wrong == []
    if norms[1]:
        assert 0.0 <= float(found.cells[9]) <= 1.0


def test_the_number_beside_is_that_of_the_evaluation(scripts: SimpleNamespace, victims: Any, quick: Any) -> None:
    """An attack that does nothing withstands all."""
    found = row(scripts, victims, quick, "VANILA")
    assert found.cells[7:10] == ["1.000", "1.000", "1.000"]


def test_an_attack_that_runs_by_hand_alone_is_wrong(
    scripts: SimpleNamespace, victims: Any, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.table, "bridged", lambda *_: (None, "expected a, got b; do c"))
    found = row(scripts, victims, quick, "FGSM")
    assert found.wrong == ["FGSM runs by hand and not here: expected a, got b; do c"]


def test_an_attack_that_runs_here_alone_is_wrong(
    scripts: SimpleNamespace, victims: Any, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.direct, "run", lambda *_, **__: scripts.direct.Returned(None, 0, "broken"))
    assert row(scripts, victims, quick, "FGSM").wrong == ["FGSM runs here and not by hand: broken"]


def test_the_page_gets_the_table_between_its_markers(
    scripts: SimpleNamespace, quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    text = (Path(__file__).parents[2] / "docs" / "torchattacks.md").read_text(encoding="utf-8")
    page.write_text(text, encoding="utf-8")
    monkeypatch.setattr(scripts.direct, "ATTACKS", ("FGSM", "TIFGSM"))
    threads = torch.get_num_threads()
    try:
        assert scripts.table.main(["--out", str(page)], quick) == 0
        first = page.read_text(encoding="utf-8")
        assert scripts.table.main(["--out", str(page)], quick) == 0
    finally:
        torch.set_num_threads(threads)
    assert page.read_text(encoding="utf-8") == first
    assert "| FGSM | yes | yes | 1 | linf |" in first
    assert "Of 2 attacks, 1 run on inputs [N,T,C,H,W] as they are, 1 folded, and 1 through" in first
    kept = text[: text.index(scripts.table.BEGIN)]
    assert first.startswith(kept)
    assert first.endswith(text[text.index(scripts.table.END) :])
