"""What users have as data is taken as it is or refused in one line; labels are never rounded or read from text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import snnrobust as sr
from snnrobust.data.convert import to_dataset
from snnrobust.data.evaluation_data import prepare
from snnrobust.testing.tiny import tiny_data, tiny_model

X, Y = torch.rand(10, 3, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 3


class Items(torch.utils.data.Dataset[Any]):
    """A map-style data set of given items."""

    def __init__(self, item: Callable[[int], Any]) -> None:
        self.item = item

    def __len__(self) -> int:
        return 10

    def __getitem__(self, at: int) -> Any:
        return self.item(at)


def keyed(x: str, y: str) -> Items:
    return Items(lambda at: {x: X[at], y: Y[at]})


TAKEN: dict[str, Any] = {
    "tensors": (X, Y),
    "a list": [X, Y],
    "numpy": (X.numpy(), Y.numpy()),
    "int32 labels": (X.numpy(), Y.numpy().astype(np.int32)),
    "int8 labels": (X, Y.to(torch.int8)),
    "float64 inputs": (X.double().numpy(), Y),
    "arrays by key": {"image": X.numpy(), "label": Y.numpy()},
    "items": Items(lambda at: (X[at], int(Y[at]))),
    "items of tensors": Items(lambda at: (X[at], Y[at])),
    "items of numpy": Items(lambda at: (X[at].numpy(), np.int64(Y[at]))),
    "items of 0-d arrays": Items(lambda at: [X[at], np.array(int(Y[at]))]),
    "dict items": keyed("pixel_values", "labels"),
    "a loader": DataLoader(TensorDataset(X, Y), batch_size=4),
    "a loader of dict items": DataLoader(keyed("img", "target"), batch_size=3),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken(name: str) -> None:
    found = to_dataset(TAKEN[name], "test")
    assert torch.equal(found.x, X)
    assert torch.equal(found.y, Y)
    assert torch.equal(found.index, torch.arange(10))
    assert torch.equal(prepare(TAKEN[name]).test.x, X)
    assert torch.equal(prepare({"test": TAKEN[name]}).test.x, X)


class Picture:
    """As PIL's: not an array."""

    def convert(self, mode: str) -> Picture:
        return self


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (Items(lambda at: (X[at], 0.9 * float(Y[at]))), sr.InputTypeError, r"whole numbers .* got 0.0 \(float\)"),
    (Items(lambda at: (X[at], torch.tensor(0.15))), sr.InputTypeError, "whole numbers"),
    (Items(lambda at: (X[at], np.float32(1.0))), sr.InputTypeError, "whole numbers"),
    (Items(lambda at: (X[at], np.array([1]))), sr.InputTypeError, "whole numbers"),
    (Items(lambda at: (X[at], "1")), sr.InputTypeError, r"got '1' \(str\)"),
    (Items(lambda at: (X[at], True)), sr.InputTypeError, "got True"),
    (Items(lambda at: (X[at], None)), sr.InputTypeError, "got None"),
    (Items(lambda at: (X[at], Y[at], at)), sr.InputError, "got 3 parts; drop the others"),
    (Items(lambda at: (Picture(), 1)), sr.InputTypeError, "got Picture; convert it with torchvision"),
    (Items(lambda at: (X[at, : at + 1], 1)), sr.InputError, "can't be stacked"),
    (Items(lambda at: X[at]), sr.InputTypeError, "got Tensor"),
    (keyed("picture", "label"), sr.InputError, r"expected one key .* got \['picture', 'label'\]"),
    (Items(lambda at: {"x": X[at], "image": X[at], "y": 1}), sr.InputError, "expected one key"),
    (DataLoader(TensorDataset(X, Y), shuffle=True), sr.InputError, "pass shuffle=False"),
    (DataLoader(TensorDataset(X, Y.float())), sr.InputTypeError, "y as torch.int64"),
    ((X, Y.float() * 0.9), sr.InputTypeError, "y as torch.int64"),
    ((X, ["0"] * 10), sr.InputTypeError, "got list"),
    ((np.array(["a"]), Y), sr.InputTypeError, "an array of <U1"),
    ((X, Y, Y), sr.InputError, "got 3 parts"),
    ((torch.tensor(1.0), torch.tensor(1)), sr.InputTypeError, "single number"),
    (3, sr.InputTypeError, "got int"),
]


@pytest.mark.parametrize(("data", "kind", "message"), REFUSED)
def test_what_is_refused(data: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as raised:
        prepare(data)
    assert "\n" not in str(raised.value)
    assert "; " in str(raised.value)


def test_a_loader_gives_the_numbers_of_its_tensors() -> None:
    data, task = tiny_data(count=20), sr.load("pgd", epsilon=0.05, steps=2)
    loader = DataLoader(TensorDataset(data.x, data.y), batch_size=7)
    reports = [sr.evaluate(tiny_model(), each, [task], evidence="none") for each in (loader, (data.x, data.y))]
    assert np.array_equal(*(report.robust("pgd") for report in reports))


def test_overlap() -> None:
    data = tiny_data(count=12)
    assert sr.data.overlap(data, data).all()
    changed = sr.data.Dataset.of(torch.cat([data.x[:4] + 1e-6, data.x[4:]]), data.y)
    assert sr.data.overlap(changed, data).tolist() == [False] * 4 + [True] * 8
    with pytest.raises(sr.InputError, match="inputs of one shape"):
        sr.data.overlap(data, to_dataset((X, Y), "other"))


def test_bool_and_complex_arrays() -> None:
    def data(x: Any) -> Tensor:
        return to_dataset((x, Y), "test").x

    with pytest.raises(sr.InputTypeError, match=r"x as torch.float32"):
        data(X > 0.5)
    with pytest.raises(sr.InputTypeError, match="an array of complex"):
        data(X.numpy().astype(np.complex64))
