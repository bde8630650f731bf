"""Data is checked once, before any long computation: each mistake gives a one-line error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.data import Dataset
from snnrobust.data.evaluation_data import EvaluationData, prepare
from snnrobust.errors import InputError, InputTypeError
from snnrobust.evaluation.compatibility import check_data_fits

N, D, K = 6, 4, 3


def x() -> Tensor:
    return torch.rand(N, D, generator=torch.Generator().manual_seed(0))


def y() -> Tensor:
    return torch.arange(N) % K


def model(**settings: Any) -> sr.SpikingModel:
    net = nn.Sequential(nn.Linear(D, K), neuron.IFNode())
    return sr.wrap(net, **{"layout": "step", "steps": 3, **settings})


def test_accepted_forms_mean_the_same() -> None:
    forms: list[Any] = [
        (x(), y()),
        [x(), y()],
        {"test": (x(), y())},
        Dataset.of(x(), y()),
        {"test": Dataset.of(x(), y()), "train": None},
        torch.utils.data.TensorDataset(x(), y()),
        (x().double(), y().int()),
        (x(), y().to(torch.uint8)),
    ]
    prints = {prepare(form, 5).fingerprint() for form in forms}
    assert len(prints) == 1
    data = prepare({"test": (x(), y()), "train": (x(), y()), "validation": (x(), y())}, 5)
    assert data.batch_size == 5
    assert data.training("curvature").name == "train"
    with pytest.raises(InputError, match="training data for curvature"):
        prepare((x(), y()), 5).training("curvature")


class Pairs(torch.utils.data.Dataset[Any]):
    """A map-style dataset of the given items."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


def nan() -> Tensor:
    bad = x()
    bad[2, 1] = torch.nan
    return bad


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (None, InputError),
        (3, InputTypeError),
        ("mnist", InputTypeError),
        ((x(),), InputError),
        ((x(), y(), y()), InputError),
        ((1, 2), InputTypeError),
        ((None, None), InputTypeError),
        ((x(), y().tolist()), InputTypeError),
        ((torch.tensor(1.0), torch.tensor(1)), InputTypeError),
        ((x().to(torch.uint8), y()), InputTypeError),
        ((x(), y().float()), InputTypeError),
        ((nan(), y()), InputError),
        ((x() / 0, y()), InputError),
        ((x()[:0], y()[:0]), InputError),
        ((x()[:, :0], y()), InputError),
        ((x(), y()[:4]), InputError),
        ((x(), y()[:, None]), InputError),
        ((x(), y() - 1), InputError),
        ((x()[:, 0], y()), InputError),
        ({}, InputError),
        ({"train": (x(), y())}, InputError),
        ({"test": None}, InputError),
        ({"test": (x(), y()), "dev": (x(), y())}, InputError),
        ({"test": (x(), y()), "train": (nan(), y())}, InputError),
        (Pairs([]), InputError),
        (Pairs([(x()[0], 0), (x()[0, :2], 1)]), InputError),
        (Pairs([(x()[0], 0, 1)]), InputError),
        (Pairs([(x()[0], "cat")]), InputTypeError),
        (Pairs([(object(), 0)]), InputTypeError),
    ],
)
def test_bad_data_is_refused_in_one_line(data: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"expected .*, got ") as caught:
        prepare(data, 5)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)


def test_errors_name_the_split() -> None:
    with pytest.raises(InputError, match="in 'train'"):
        prepare({"test": (x(), y()), "train": (nan(), y())}, 5)


def test_fingerprints_see_everything_that_decides_an_outcome() -> None:
    temporal, lengths = torch.rand(N, 5, D), torch.full((N,), 5)

    def of(**splits: Any) -> str:
        return prepare({"test": (x(), y()), **splits}, 5).fingerprint()

    prints = [
        of(),
        of(test=(x() + 1e-6, y())),
        of(test=(x(), y().flip(0))),
        of(test=Dataset.of(x(), y()).select([5, 4, 3, 2, 1, 0])),
        of(test=(x().reshape(N, 2, 2), y())),
        of(train=(x(), y())),
        of(validation=(x(), y())),
        of(test=Dataset.of(temporal, y())),
        of(test=Dataset.of(temporal, y(), lengths=lengths)),
        of(test=Dataset.of(temporal, y(), lengths=lengths - 1)),
    ]
    assert len(set(prints)) == len(prints)
    assert of() == of()
    assert prepare((x(), y()), 5).fingerprint() == prepare((x(), y()), 99).fingerprint()


def fit(wrapped: sr.SpikingModel, **splits: Any) -> None:
    check_data_fits(wrapped, prepare({"test": (x(), y()), **splits}, 5))


def test_what_fits_passes_and_leaves_the_net_alone() -> None:
    wrapped = model()
    wrapped.net.train()
    fit(wrapped)
    assert all(module.training for module in wrapped.net.modules())
    assert wrapped.net[1].v == 0.0
    fit(model(domain="integer", bounds=(0, 9)), test=((x() * 9).round(), y()))
    assert isinstance(prepare((x(), y()), 5), EvaluationData)


@pytest.mark.parametrize("split", ["test", "train", "validation"])
@pytest.mark.parametrize(
    ("settings", "bad_x", "bad_y", "message"),
    [
        ({}, x() * 2, y(), r"within the bounds \[0, 1\]"),
        ({}, x() - 0.5, y(), r"within the bounds \[0, 1\]"),
        ({}, x(), y() + 1, "labels below 3.*got 3"),
        ({"domain": "binary"}, x(), y(), "whole numbers in '.*' for domain 'binary'"),
        ({"domain": "integer", "bounds": (0, 5)}, x() * 3, y(), "whole numbers"),
    ],
)
def test_data_that_does_not_fit_the_model(
    split: str, settings: dict[str, Any], bad_x: Tensor, bad_y: Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        fit(model(**settings), **{"test": (x().round(), y()), split: (bad_x, bad_y)})
    assert f"'{split}'" in str(caught.value)
    assert "\n" not in str(caught.value)


class Fails(nn.Module):
    """A net that fails with a given error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    "wrapped",
    [
        model(encoder=None),
        sr.wrap(nn.Sequential(nn.Linear(D + 1, K)), layout="step", steps=3),
        sr.wrap(nn.Conv2d(1, 2, 3), layout="N"),
        sr.wrap(Fails(RuntimeError("two\nlines")), layout="N"),
        sr.wrap(Fails(AssertionError()), layout="N"),
        sr.wrap(Fails(IndexError("i")), layout="N"),
        sr.wrap(nn.Flatten(0), layout="N"),
        sr.wrap(nn.Linear(D, 1), layout="N"),
        model(normalize=([0.5] * 3, [0.5] * 3)),
    ],
)
def test_a_net_that_does_not_take_the_data_is_one_line(wrapped: sr.SpikingModel) -> None:
    with pytest.raises(InputError, match=r"expected .*got ") as caught:
        fit(wrapped)
    assert "\n" not in str(caught.value)


def test_a_bound_that_float32_cannot_hold_is_no_mistake() -> None:
    fit(model(bounds=(0.0, 0.1)), test=(torch.full((N, D), 0.1), y()))
    assert float(np.float32(0.1)) > 0.1
