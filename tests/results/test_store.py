"""Results on disk: whole or absent, the same bytes for the same content, and never another run's."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrobust.common.files import check_folder, pack, slug, to_json, unpack, write, write_checkpoint
from snnrobust.errors import InputError, StoreError
from snnrobust.results.artifacts import Surface
from snnrobust.results.records import Finding, Record
from snnrobust.results.store import FORMAT, Store


def a_run(**changes: Any) -> dict[str, Any]:
    tasks = [
        a_task("pgd", "attack", strengths=[0.1, 0.2], attack={"norm": "linf", "eot": 1, "source": None}),
        a_task("clean", "clean"),
        a_task("flat", "measurement"),
    ]
    names = changes.get("models", ["lif", "if"])
    run: dict[str, Any] = {
        "format": FORMAT,
        "fingerprint": "f1",
        "models": {
            name: {"domain": "real", "bounds": [0, 1], "stochastic": False, "fingerprint": name} for name in names
        },
        "data": {"name": "d", "samples": 3, "classes": 2, "fingerprint": "d"},
        "tasks": tasks,
        "seed": 0,
        "mode": "nested",
        "evidence": "none",
        "examples": 0,
        "evidence_tasks": {name: [] for name in names},
        "skipped": {name: [] for name in names},
        "rows": [],
        "signature": {},
        "quoted": ["pgd"],
        "chunk": None,
        "notes": [],
        "environment": {},
    }
    return {**run, **{name: value for name, value in changes.items() if name != "models"}}


def a_task(label: str, kind: str, **more: Any) -> dict[str, Any]:
    task = {"name": label, "label": label, "kind": kind, "origin": "", "plugin": "", "parameters": {}, "strengths": []}
    return {**task, "members": [], "draws": 1, **more}


def arrays() -> dict[str, np.ndarray]:
    """The finished cell of an attack."""
    counts, flags = ("forwards", "backwards", "disagreements"), ("voted", "last_correct", "unchanged", "member")
    return {
        "margin": np.array([0.5, np.nan, -np.inf], np.float32),
        "distance": np.full(3, np.nan, np.float32),
        "correct": np.array([1, 0, 1], np.int8),
        **{name: np.zeros(3, np.int8) for name in flags},
        **{name: np.zeros(3, np.int32) for name in counts},
        "member_correct": np.ones((1, 3), np.int8),
        **{f"member_{name}": np.zeros((1, 3), np.int32) for name in counts[:2]},
    }


def a_partial() -> dict[str, np.ndarray]:
    """An attack's cell that is still running."""
    counts = {name: np.zeros(3, np.int32) for name in ("searches_done", "undefined")}
    return {**arrays(), **counts, "rank": np.zeros(3, np.float32)}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray] | None) -> bool:
    return (
        b is not None
        and list(a) == list(b)
        and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k], equal_nan=a[k].dtype.kind == "f") for k in a)
    )


# ---- names ---------------------------------------------------------------------------------------------------------

HOSTILE = [
    "../x", "..", ".", "/", "/etc/passwd", "a/b", "a\\b", "a:b", "", " ", "a b", "a\nb", "a\0b", "-rf", "~", "con.",
    "ü", "模型", "\ud800", "x" * 300, "x" * 301, ".hidden", "findings.json", "timings.json", "findings", "CON", "a-b",
    "a.b", "PGD", "pgd", "Pgd", "k.npz", "*", "a%2fb",
]  # fmt: skip


def check_safe(name: str) -> None:
    found = slug(name)
    assert found not in ("", ".", "..")
    assert not set(found) & set('/\\:*?"<>|\0\n ')
    assert len(found) <= 80
    assert not found.startswith((".", "-"))
    assert found not in ("findings.json", "timings.json")  # files beside the folders that labels name
    assert found.isascii()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_become_safe_file_names(name: str) -> None:
    check_safe(name)
    assert slug(name) == slug(name)


@given(st.text(max_size=100))
@settings(max_examples=200, deadline=None)
def test_any_name_becomes_a_safe_file_name(name: str) -> None:
    check_safe(name)


def test_slugs_are_unique_also_where_case_does_not_count() -> None:
    names = [*HOSTILE, *(f"model {i}/x" for i in range(500)), *("y" * 100 + str(i) for i in range(1500))]
    assert len({slug(name).lower() for name in names}) == len(names)


# ---- files ---------------------------------------------------------------------------------------------------------


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file"
    write(path, b"old")

    def half(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", half)
        with pytest.raises(OSError, match="disk full"):
            write(path, b"the new content")
        with pytest.raises(OSError, match="disk full"):
            write(path.with_name("other"), b"the new content")
    assert path.read_bytes() == b"old"
    assert not path.with_name("other").exists()
    write(path, b"new")
    assert path.read_bytes() == b"new"

    def never(self: Path, target: Path) -> Path:
        raise OSError("killed before the rename")

    monkeypatch.setattr(Path, "replace", never)
    with pytest.raises(OSError, match="killed"):
        write(path, b"newer")
    assert path.read_bytes() == b"new"


def test_a_run_killed_while_writing_its_first_file_can_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: Path, target: Path) -> Path:
        raise OSError("killed before the rename")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", never)
        with pytest.raises(OSError, match="killed"):
            Store(tmp_path, a_run())
    assert list(tmp_path.iterdir())
    Store(tmp_path, a_run())
    assert Store.open(tmp_path).run == a_run()


def test_equal_content_gives_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pack(arrays())
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(2e9))
    assert pack(arrays()) == first
    assert pack({**arrays(), "correct": np.array([1, 1, 1], np.int8)}) != first
    assert to_json({"a": [1.5, math.nan], "b": 1}) == to_json({"a": (np.float32(1.5), None), "b": np.int64(1)})
    for folder in (tmp_path / "a", tmp_path / "b"):
        store = Store(folder, a_run())
        store.save_cell("lif", "pgd", 0, arrays(), seconds=float(folder.name == "a"))
    names = [p.relative_to(tmp_path / "a") for p in sorted((tmp_path / "a").rglob("*")) if p.is_file()]
    different = [str(n) for n in names if (tmp_path / "a" / n).read_bytes() != (tmp_path / "b" / n).read_bytes()]
    assert different == ["cells/lif/timings.json"]  # the one file that is allowed to differ


def test_arrays_round_trip(tmp_path: Path) -> None:
    write(tmp_path / "x.npz", pack(arrays()))
    assert same(arrays(), unpack(tmp_path / "x.npz"))


def test_object_arrays_are_never_written_nor_read(tmp_path: Path) -> None:
    objects = {"x": np.array([object()], dtype=object)}
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        pack(objects)
    np.savez(tmp_path / "evil.npz", **objects)
    with pytest.raises(StoreError, match=r"damaged file"):
        unpack(tmp_path / "evil.npz")


def test_a_checkpoint_is_written_whole(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "net.pt", {"w": torch.arange(3.0)})
    assert torch.equal(torch.load(tmp_path / "net.pt", weights_only=True)["w"], torch.arange(3.0))
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


# ---- folders -------------------------------------------------------------------------------------------------------


def test_another_run_is_refused(tmp_path: Path) -> None:
    Store(tmp_path, a_run())
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(StoreError, match="got another run"):
        Store(tmp_path, a_run(fingerprint="f2"))
    assert (tmp_path / "run.json").read_bytes() == before
    assert Store(tmp_path, a_run(notes=["resumed"])).run == a_run()  # the run as it was started counts


@pytest.mark.parametrize("foreign", ["notes.txt", ".git", ".other.tmp"])
def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path, foreign: str) -> None:
    (tmp_path / foreign).write_text("mine")
    with pytest.raises(StoreError, match="got other files"):
        Store(tmp_path, a_run())
    assert [path.name for path in tmp_path.iterdir()] == [foreign]
    with pytest.raises(StoreError, match="got a file"):
        Store(tmp_path / foreign, a_run())
    with pytest.raises(StoreError, match=r"no run\.json"):
        Store.open(tmp_path)
    assert check_folder(tmp_path / "new") == tmp_path / "new"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"format": 99}', b"{}"])
def test_a_damaged_run_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"expected .*got "):
        Store.open(tmp_path)
    with pytest.raises(StoreError, match=r"expected .*got "):
        Store(tmp_path, a_run())


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_damaged_cells_are_named(tmp_path: Path, keep: float) -> None:
    store = Store(tmp_path, a_run())
    store.save_cell("lif", "pgd", 0, arrays(), 1.0)
    store.save_partial("lif", "pgd", 1, a_partial())
    store.save_measurement("lif", "flat", [Record("m", 1.0)], [], 1.0)
    store.save_findings("lif", [Finding("f", True, 1.0, 2.0, "w", "r")])
    for path in tmp_path.rglob("cells/**/*"):
        if path.is_file() and path.name != "timings.json":
            content = path.read_bytes()
            path.write_bytes(content[: int(len(content) * keep)])
    again = Store(tmp_path, a_run())
    for read in (
        lambda: again.cell("lif", "pgd", 0),
        lambda: again.partial("lif", "pgd", 1),
        lambda: again.measurement("lif", "flat"),
        lambda: again.probe_findings("lif"),
    ):
        with pytest.raises(StoreError, match=r"expected .*got a damaged file .*; delete it and resume"):
            read()
    (tmp_path / "cells/lif/timings.json").write_bytes(b"{")
    with pytest.warns(UserWarning, match=r"expected JSON in '/.*timings.json', got a damaged file .*; it is ignored"):
        assert Store(tmp_path, a_run()).seconds == {"lif": {}, "if": {}}


# ---- what is kept --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_disk", [False, True])
def test_cells_and_partial_cells(tmp_path: Path, on_disk: bool) -> None:
    folder = tmp_path / "run" if on_disk else None
    store = Store(folder, a_run())
    assert store.cell("lif", "pgd", 0) is None
    assert store.partial("lif", "pgd", 0) is None
    store.save_partial("lif", "pgd", 0, a_partial())
    assert store.cell("lif", "pgd", 0) is None  # a partial cell is no result
    assert (store.partial("lif", "pgd", 0) is not None) == on_disk
    store.save_cell("lif", "pgd", 0, arrays(), 2.5)
    assert store.partial("lif", "pgd", 0) is None
    assert same(arrays(), store.cell("lif", "pgd", 0))
    assert store.cell("lif", "pgd", 1) is None
    assert store.cell("if", "pgd", 0) is None
    assert store.seconds["lif"] == {"pgd/0": 2.5}
    if folder is not None:
        again = Store.open(folder)
        assert same(arrays(), again.cell("lif", "pgd", 0))
        assert again.seconds["lif"] == {"pgd/0": 2.5}
        with pytest.raises(InputError, match="got one without 'pgd' on 'lif'; resume it"):
            again.load_all()


def test_records_surfaces_and_findings_round_trip(tmp_path: Path) -> None:
    records = [
        Record("eigenvalue:1", 2.5, low=math.nan, high=3.0, count=4, strength=0.1, unit="epsilon", model="lif"),
        Record("broken", math.nan),
        Record("numpy", np.float32(0.5), count=np.int64(3)),
    ]
    surface = Surface(
        np.linspace(0, 1, 3), np.linspace(0, 2, 2), {"loss": np.full((2, 3), np.nan), "a/b": np.eye(2, 3)},
        ("first", "second"), "a plane", "lif", "flat",
    )  # fmt: skip
    findings = [
        Finding("ok", True, 0.5, 1.0, "why", "remedy", required=False, fatal=True, model="lif"),
        Finding("unknown", None, math.nan, 1.0, "why", "remedy"),
        Finding("bad", False, 2.0, math.nan, "wörter – ", ""),
    ]
    store = Store(tmp_path, a_run())
    assert store.measurement("lif", "flat") is None
    assert store.probe_findings("lif") is None
    store.save_measurement("lif", "flat", records, [surface, surface], 1.0)
    store.save_findings("lif", findings)
    again = Store.open(tmp_path)
    held = again.measurement("lif", "flat")
    assert held is not None
    assert repr(held[0]) == repr([*records[:2], Record("numpy", 0.5, count=3)])
    for found in held[1]:
        assert isinstance(found, Surface)
        assert list(found.values) == ["loss", "a/b"]
        assert np.array_equal(found.values["loss"], surface.values["loss"], equal_nan=True)
        assert np.array_equal(found.values["a/b"], surface.values["a/b"])
        assert np.array_equal(found.x, surface.x)
        assert np.array_equal(found.y, surface.y)
        assert (found.axes, found.caption, found.model, found.label) == (("first", "second"), "a plane", "lif", "flat")
    assert repr(again.probe_findings("lif")) == repr(findings)
    json.loads((tmp_path / "cells/lif/flat/measure.json").read_bytes())  # plain JSON: no NaN in it
    assert b"NaN" not in (tmp_path / "cells/lif/flat/measure.json").read_bytes()


def test_labels_of_any_name_do_not_meet(tmp_path: Path) -> None:
    names = ["../x", "a/b", "a-b", "findings.json", "timings.json", "PGD", "pgd", "x" * 300, "ü"]
    store = Store(tmp_path / "run", a_run(models=names))
    store.save_findings("pgd", [])
    for i, model in enumerate(names):
        for j, label in enumerate(names):
            store.save_cell(model, label, 0, {**arrays(), "id": np.array([i, j])}, 0.0)
    again = Store.open(tmp_path / "run")
    for i, model in enumerate(names):
        for j, label in enumerate(names):
            cell = again.cell(model, label, 0)
            assert cell is not None
            assert cell["id"].tolist() == [i, j]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_in_memory_touches_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(None, a_run())
    store.save_partial("lif", "pgd", 0, arrays())
    for label, positions in (("pgd", 2), ("clean", 1)):
        for model in ("lif", "if"):
            for k in range(positions):
                store.save_cell(model, label, k, arrays(), 1.0)
    for model in ("lif", "if"):
        store.save_measurement(model, "flat", [], [], 1.0)
        store.save_findings(model, [])
    store.load_all()
    assert list(tmp_path.iterdir()) == []
