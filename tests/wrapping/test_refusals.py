"""What `wrap` and a wrapped model refuse: settings, nets, outputs and read-outs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.errors import InputError, InputTypeError

T, N, D, K = 5, 4, 6, 3


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(D, K), neuron.IFNode())


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"layout": "NCHW"}, InputError, r"layout in \['N', 'TN', 'NT', 'step'\], got 'NCHW'"),
        ({"layout": ["TN"]}, InputError, "layout in"),
        ({"domain": "complex"}, InputError, "domain in"),
        ({"decide": "softmax"}, InputError, "decide in"),
        ({"encoder": "morse"}, InputError, "encoder in"),
        ({"encoder": 3}, InputError, "encoder in"),
        ({"readout": None}, InputError, "readout in"),
        ({"readout": "median"}, InputError, "readout in"),
        ({"steps": 0}, InputError, "steps to be a whole number >= 1, got 0"),
        ({"steps": True}, InputError, "steps"),
        ({"steps": 2.0}, InputError, "steps"),
        ({"steps": None}, InputError, "steps= with an encoder"),
        ({"layout": "N", "encoder": "poisson"}, InputError, "no encoder with layout 'N'"),
        ({"bounds": (1, 0)}, InputError, "bounds with low < high"),
        ({"bounds": (0, float("nan"))}, InputError, "bounds with low < high"),
        ({"bounds": (0,)}, InputTypeError, "bounds to be a pair of numbers"),
        ({"bounds": None}, InputTypeError, "bounds to be a pair of numbers"),
        ({"bounds": ("a", "b")}, InputTypeError, "bounds to be a pair of numbers"),
        ({"bounds": (0, 1, 2)}, InputTypeError, "bounds to be a pair of numbers"),
        ({"domain": "integer", "bounds": (0, 2.5)}, InputError, "whole bounds"),
        ({"domain": "integer", "bounds": (0, float("inf"))}, InputError, "whole bounds"),
        ({"domain": "binary", "bounds": (0, 2)}, InputError, r"bounds \(0, 1\)"),
        ({"silent": 2.0}, InputError, "silent within bounds"),
        ({"silent": float("nan")}, InputError, "silent within bounds"),
        ({"silent": "late"}, InputTypeError, "silent to be a real number"),
        ({"silent": 1.0, "domain": "integer"}, InputError, "no silent= in domain 'integer'"),
        ({"reset": "yes"}, InputTypeError, "reset to be callable, got str"),
        ({"normalize": (0.5, 0.5)}, InputTypeError, "normalize to be"),
        ({"normalize": ([0.5], [0.5, 0.5])}, InputError, "as many means"),
        ({"normalize": ([0.5], [0.0])}, InputError, "as many means as positive stds"),
        ({"normalize": ([0.5],)}, InputTypeError, "normalize to be"),
        ({"name": ""}, InputTypeError, "name to be text"),
        ({"name": 3}, InputTypeError, "name to be text"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"expected {message}") as caught:
        sr.wrap(net(), **{"layout": "step", "steps": T, **settings})
    text = str(caught.value)
    assert ", got " in text
    assert "\n" not in text


@pytest.mark.parametrize("given", [None, net, "net", nn.DataParallel(nn.Linear(1, 1))])
def test_what_is_no_plain_module_is_refused(given: Any) -> None:
    with pytest.raises(InputTypeError, match=r"expected .*odule, got "):
        sr.wrap(given, steps=2)


class Returns(nn.Module):
    """Returns what it is told."""

    def __init__(self, value: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Any:
        return self.value(x)


@pytest.mark.parametrize("layout", ["N", "TN", "NT", "step"])
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (lambda x: (x, x), InputError),
        (lambda x: {}, InputTypeError),
        (lambda x: None, InputTypeError),
        (lambda x: x.sum(), InputError),
        (lambda x: torch.zeros(99, K), InputError),
        (lambda x: torch.zeros(2, 2, 2, 2, 2), InputError),
    ],
)
def test_bad_outputs_are_refused(layout: Any, value: Callable[[Tensor], Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"expected .*, got .*; "):
        sr.wrap(Returns(value), layout=layout, steps=T).logits(torch.rand(N, D))


@pytest.mark.parametrize("bad", [lambda o, lengths: o, lambda o, lengths: o.mean(1)[:1]])
def test_a_bad_readout_callable_is_refused(bad: Callable[[Tensor, Any], Tensor]) -> None:
    with pytest.raises(InputError, match=r"expected logits \[N, K\] with N = 4, got .*; check the read-out"):
        sr.wrap(net(), layout="step", steps=T, readout=bad).logits(torch.rand(N, D))
