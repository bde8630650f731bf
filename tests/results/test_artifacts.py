"""Artifacts: shapes are checked where they are made, and a store gives them back as they were, byte for byte."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import snnrobust as sr
from snnrobust.common.files import pack, to_json, unpack
from snnrobust.errors import PluginError, StoreError
from snnrobust.results.artifacts import Artifact, Profile, Scatter, Spectrum, Surface
from snnrobust.results.records import Record
from snnrobust.results.serialise import as_plain, from_plain
from snnrobust.results.store import Store
from snnrobust.testing.tiny import tiny_data, tiny_model

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
DTYPES = st.sampled_from(["f8", "f4", "i8", "?", ">f8"])


def array(*shape: int) -> st.SearchStrategy[np.ndarray]:
    """Values of any kind in any memory order, NaN and infinities among them."""
    drawn = DTYPES.flatmap(lambda dtype: arrays(dtype, shape))
    return st.tuples(drawn, st.sampled_from("CF")).map(lambda each: np.asarray(each[0], order=each[1]))


def named(*shape: int) -> st.SearchStrategy[dict[str, np.ndarray]]:
    # Names that a file's entries could not have: "x" and "x.npy" would meet, as would "file" and the archive's own.
    return st.dictionaries(
        TEXT | st.sampled_from(["loss", "x.npy", "x", "file", "a/b", "\0"]), array(*shape), max_size=3
    )


@st.composite
def artifacts(draw: st.DrawFn) -> Artifact:
    x, y = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    words: dict[str, Any] = {name: draw(TEXT) for name in ("caption", "model", "label")}
    axes = draw(st.tuples(TEXT, TEXT))
    kind = draw(st.sampled_from(get_args(Artifact)))
    if kind is Surface:
        return Surface(draw(array(x)), draw(array(y)), draw(named(y, x)), axes, **words)
    if kind is Spectrum:
        return Spectrum(draw(array(x)), draw(array(x)), axes[0], **words)
    if kind is Profile:
        return Profile(draw(array(x)), draw(named(x)), axes[0], **words)
    return Scatter(draw(named(x, 2)), axes, **words)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    return type(one) is type(other) and one == other


def equal(one: Artifact, other: Artifact) -> bool:
    names = [each.name for each in dataclasses.fields(one)]
    return type(one) is type(other) and all(same(getattr(one, name), getattr(other, name)) for name in names)


def copied(value: Any) -> Any:
    """An equal value of another memory layout."""
    if isinstance(value, dict):
        return {name: copied(each) for name, each in value.items()}
    return np.array(value, order="F") if isinstance(value, np.ndarray) else value


@settings(max_examples=60, deadline=None)
@given(st.lists(artifacts(), max_size=3))
def test_artifacts_round_trip_and_equal_ones_give_equal_bytes(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Artifact]
) -> None:
    plain, held = as_plain(drawn)
    path = tmp_path_factory.mktemp("artifacts") / "arrays.npz"
    path.write_bytes(pack(held))
    again = from_plain(json.loads(to_json(plain)), unpack(path))
    assert len(again) == len(drawn)
    assert all(map(equal, drawn, again))
    copies = [
        dataclasses.replace(each, **{f.name: copied(getattr(each, f.name)) for f in dataclasses.fields(each)})
        for each in drawn
    ]
    other_plain, other_held = as_plain(copies)
    assert (to_json(other_plain), pack(other_held)) == (to_json(plain), pack(held))


def test_other_artifacts_give_other_bytes() -> None:
    x = np.linspace(0, 1, 3)
    one, other = (as_plain([Profile(x, {"loss": x + add}, "radius", "A line.")]) for add in (0.0, 1e-12))
    assert pack(one[1]) != pack(other[1])
    assert as_plain([Spectrum(x, x, "a", "b")])[0] != as_plain([Spectrum(x, x, "a", "c")])[0]


def test_a_store_gives_back_what_it_was_given(tmp_path: Path) -> None:
    x = np.linspace(-1, 1, 3)
    drawn: list[Artifact] = [
        Scatter({"random": np.eye(2), "leading": np.zeros((0, 2))}, ("predicted", "measured"), "Pairs.", "lif", "eig"),
        Spectrum(x, np.exp(-x), "eigenvalue", "A density.", "lif", "eig"),
        Profile(x, {"loss": x**2}, "radius", "A line.", "lif", "eig"),
        Surface(x, x[:2], {"loss": np.full((2, 3), np.nan)}, ("first", "second"), "A plane.", "lif", "eig"),
    ]
    sr.evaluate(tiny_model(), tiny_data(count=4), [sr.load("fgsm", epsilon=0.1)], evidence="none", out=tmp_path)
    Store.open(tmp_path).save_measurement("tiny", "eig", [Record("trace", 1.0)], drawn, 1.0)
    held = Store.open(tmp_path).measurement("tiny", "eig")
    assert held is not None
    assert all(map(equal, drawn, held[1]))
    assert len(held[1]) == len(drawn)


def test_a_run_of_an_older_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(to_json({"format": 2, "models": {}, "tasks": []}))
    with pytest.raises(StoreError, match=r"expected a run of format 3 .* use the version that wrote it"):
        Store.open(tmp_path)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(StoreError, match=r"expected an artifact of a kind in .*got 'Raster'"):
        from_plain([{"kind": "Raster"}], {})


X = np.zeros(3)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Surface(X, X[:2], {"loss": np.zeros((3, 2))}, ("a", "b"), ""), r"'loss' of a Surface .*\(2, 3\)"),
        (lambda: Surface(X[None], X, {}, ("a", "b"), ""), r"'x' of a Surface"),
        (lambda: Spectrum(X, X[:2], "a", ""), r"'density' of a Spectrum .*\(3,\), got dtype float64 of shape \(2,\)"),
        (lambda: Profile(X, {"loss": X.tolist()}, "a", ""), "'loss' of a Profile .*got list"),
        (lambda: Profile(X, {"loss": np.array(["a"] * 3)}, "a", ""), "'loss' of a Profile .*got dtype <U1 of shape"),
        (lambda: Profile(X, {"loss": X * 1j}, "a", ""), "'loss' of a Profile to be a numeric array"),
        (lambda: Scatter({"random": np.zeros((2, 3))}, ("a", "b"), ""), r"'random' of a Scatter .*\(any, 2\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_where_they_are_made(wrong: Any, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        wrong()


def test_all_kinds_are_exported() -> None:
    assert sr.Artifact is Artifact
    assert {getattr(sr, kind.__name__) for kind in get_args(Artifact)} == set(get_args(Artifact))
