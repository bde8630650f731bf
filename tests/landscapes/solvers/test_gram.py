"""The exact spectrum from per-sample Jacobians, against the dense matrix from explicit loops."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.errors import InputError
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.loss.inputs import InputLandscape
from snnrobust_landscapes.loss.landscape import Landscape
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.operators.fused_nodes import SpikeContext
from snnrobust_landscapes.operators.gauss_newton import Fisher, GaussNewton
from snnrobust_landscapes.operators.hessian import Formal
from snnrobust_landscapes.operators.operator import OperatorSpec
from snnrobust_landscapes.solvers import gram
from snnrobust_landscapes.solvers.gram import residual_root, rows, softmax_root, spectrum

DATA = tiny_data(count=10)
RNG = Draws(0, "gram")
KINDS: list[OperatorSpec] = [GaussNewton("own"), GaussNewton(), Fisher()]


def double() -> SpikingModel:
    model = tiny_model()
    model.net.double()
    return model


def spikes(kind: OperatorSpec, landscape: Landscape) -> SpikeContext:
    return kind.spikes(landscape, RNG) if isinstance(kind, GaussNewton) else nullcontext


def jacobian(model: SpikingModel, n: int, by: Callable[[Tensor], list[Tensor]], within: SpikeContext) -> Tensor:
    """d logits / d by of sample n, [K, coordinates], class by class."""
    x = DATA.x[n : n + 1].double().requires_grad_()
    leaves = by(x)
    found = []
    for k in range(3):
        with within():
            parts = torch.autograd.grad(2 * model.logits(x)[0, k], leaves, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(parts, leaves, strict=True)]
        found.append(torch.cat([each.flatten() for each in filled]))
    return torch.stack(found)


def middle(model: SpikingModel, kind: OperatorSpec, n: int) -> Tensor:
    p = functional.softmax(2 * model.logits(DATA.x[n : n + 1])[0].detach(), dim=0)
    rest = p - torch.eye(3).double()[DATA.y[n]]
    return torch.outer(rest, rest) if isinstance(kind, Fisher) else torch.diag(p) - torch.outer(p, p)


def dense(model: SpikingModel, kind: OperatorSpec, chosen: Callable[[str], bool], within: SpikeContext) -> Tensor:
    leaves = [p for name, p in model.net.named_parameters() if chosen(name)]
    each = ((jacobian(model, n, lambda _: leaves, within), middle(model, kind, n)) for n in range(len(DATA)))
    return torch.stack([j.T @ m @ j for j, m in each]).mean(0)


def test_the_roots_are_roots() -> None:
    p = functional.softmax(3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 1)
    y = torch.tensor([0, 1, 2, 3, 0])
    root, rest = softmax_root(p, y), residual_root(p, y)
    assert torch.allclose(root.mT @ root, torch.diag_embed(p) - p[:, :, None] * p[:, None, :], atol=1e-15)
    assert torch.allclose(rest.mT @ rest, (d := p - torch.eye(4)[y])[:, :, None] * d[:, None, :], atol=1e-15)
    wrong = torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]  # control: p and sqrt(p) exchanged
    assert not torch.allclose(wrong.mT @ wrong, torch.diag_embed(p) - p[:, :, None] * p[:, None, :], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("part", ["", "3.bias", "3"], ids=["all", "fewer-weights-than-rows", "layer"])
def test_the_dense_spectrum_in_weights(kind: OperatorSpec, part: str) -> None:
    model = double()

    def chosen(name: str) -> bool:
        return name.startswith(part)

    with model.session():
        landscape = WeightLandscape(model, DATA, chunk=4, logit_scale=2.0, chosen=chosen)
        found = spectrum(landscape, kind, RNG, vectors=3)
        assert torch.equal(found.values, spectrum(landscape, kind, RNG, vectors=3).values)
        applied = kind.on(landscape, 0.1, RNG).apply(found.vectors)
        within = spikes(kind, landscape)
    matrix = dense(model, kind, chosen, within)
    expected = np.linalg.eigvalsh(matrix.numpy())[::-1]
    assert expected[0] > 1e-2
    padded = np.zeros(len(matrix))
    padded[: len(found.values)] = found.values
    assert np.abs(padded - expected).max() < 1e-8
    assert int(found.rank) == (expected > 1e-12 * expected[0]).sum() <= len(matrix)
    assert torch.allclose(matrix @ found.vectors.T, found.vectors.T * found.values[:3], atol=1e-8)
    assert torch.allclose(applied, found.vectors * found.values[:3, None], atol=1e-8)
    there = found.vectors[: int(found.rank)]
    assert torch.allclose(there @ there.T, torch.eye(len(there)).double(), atol=1e-7)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_dense_spectrum_of_each_sample_in_inputs(kind: OperatorSpec) -> None:
    model = double()
    with model.session():
        landscape = InputLandscape(model, DATA, chunk=4, logit_scale=2.0)
        found = spectrum(landscape, kind, RNG, vectors=4)
        within = spikes(kind, landscape)
    assert found.vectors.shape == (4, len(DATA), 16)
    for n in range(len(DATA)):
        j = jacobian(model, n, lambda x: [x], within)
        matrix = (j.T @ middle(model, kind, n) @ j).numpy()
        expected = np.linalg.eigvalsh(matrix)[::-1]
        assert np.abs(found.values[n].numpy() - expected[:4]).max() < 1e-8
        assert int(found.rank[n]) == (expected > 1e-12 * expected[0]).sum() == (1 if isinstance(kind, Fisher) else 2)
        v = found.vectors[:, n].numpy()
        assert np.abs(matrix @ v.T - v.T * found.values[n].numpy()).max() < 1e-8
        assert not v[int(found.rank[n]) :].any()  # no eigenvector without curvature


def test_zeros_are_counted_in_single_precision_too() -> None:
    model = tiny_model()
    with model.session():
        landscape = WeightLandscape(model, DATA, logit_scale=2.0)
        found = spectrum(landscape, GaussNewton("own"), RNG)
    exact = dense(double(), GaussNewton("own"), lambda _: True, nullcontext)
    assert int(found.rank) == (np.linalg.eigvalsh(exact.numpy()) > 1e-12).sum() <= 20  # of 30: sqrt(p)^T S = 0
    assert len(found.values) == 30


def test_little_memory_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = double()
    held: list[int] = []
    stacked = gram._Jacobians.stacked

    def watched(self: Any, pieces: Any, each: int) -> Tensor:
        out = stacked(self, pieces, each)
        held.append(len(out))
        return out

    monkeypatch.setattr(gram._Jacobians, "stacked", watched)
    monkeypatch.setattr(gram, "BLOCK", 100)  # few columns at a time
    monkeypatch.setattr(gram, "STRIP", 7)
    with model.session():
        landscape = WeightLandscape(model, DATA, chunk=3)
        whole = spectrum(landscape, GaussNewton(), RNG, vectors=2)
        assert held == [30]
        row = 8 * landscape.size / 2**30
        held.clear()
        blocks = spectrum(
            landscape, GaussNewton(), RNG, vectors=2, memory=24.5 * row
        )  # eight samples, so four at a time
        assert max(held) <= 12
        assert len(held) == 10  # four blocks (chunks are 3, 3, 3 and 1, pieces at most 2), each pair once
        held.clear()
        spectrum(landscape, GaussNewton(), RNG, memory=1e-9)
        assert max(held) == 6
    assert torch.allclose(whole.values, blocks.values, atol=1e-14)
    assert torch.allclose((whole.vectors * blocks.vectors).sum(1).abs(), torch.ones(2).double(), atol=1e-10)


class _Opaque(torch.autograd.Function):
    """tanh with a backward pass that branches on values, which can't be vectorised."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        slope = 1 - np.tanh(ctx.saved_tensors[0].detach().numpy()) ** 2
        return torch.from_numpy(grad.numpy() * slope)


class _Net(nn.Module):
    def __init__(self, opaque: bool) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(3, 16).sin())
        self.unused = nn.Parameter(torch.ones(4, dtype=torch.float64))
        self.opaque = opaque

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1) @ self.w.T
        out: Tensor = _Opaque.apply(h) if self.opaque else torch.tanh(h)
        return out


def test_a_backward_pass_that_can_not_be_vectorised_goes_row_by_row() -> None:
    found = []
    for opaque in (True, False):
        model = wrap(_Net(opaque), layout="N", encoder=None, reset=lambda: None)
        with model.session():
            found.append(spectrum(WeightLandscape(model, DATA), GaussNewton(), RNG, vectors=1))
    assert torch.allclose(found[0].values, found[1].values, atol=1e-14)
    assert torch.allclose(found[0].vectors.abs(), found[1].vectors.abs(), atol=1e-10)
    assert found[0].values[0] > 1e-3
    assert not found[0].vectors[:, 48:].any()  # what the loss does not depend on


def test_the_net_is_left_alone() -> None:
    model = tiny_model()
    model.net.train()
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    with model.session():
        spectrum(WeightLandscape(model, DATA), GaussNewton(), RNG, vectors=1)
        assert all(not isinstance(node.v, Tensor) for node in model.net if hasattr(node, "v"))  # no graph is kept alive
    assert model.net.training
    assert all(p.grad is None for p in model.net.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.net.state_dict().items())


def test_what_it_refuses() -> None:
    model = tiny_model()
    with model.session():
        landscape = WeightLandscape(model, DATA)
        assert (rows(landscape, GaussNewton()), rows(landscape, Fisher())) == (30, 10)
        assert rows(InputLandscape(model, DATA), GaussNewton()) == 3
        assert rows(landscape, Formal()) is None
        with pytest.raises(InputError, match=r"expected the Gauss-Newton or the Fisher matrix.*use Lanczos"):
            spectrum(landscape, Formal(), RNG)
        many = Dataset.of(DATA.x.repeat(70, 1, 1, 1), DATA.y.repeat(70))
        with pytest.raises(InputError, match=r"at most 2000 rows.*got 2100"):
            spectrum(WeightLandscape(model, many), GaussNewton(), RNG)
        assert int(spectrum(WeightLandscape(model, many), Fisher(), RNG).rank) <= 10  # a row a sample
        with pytest.raises(InputError, match="eigenvectors"):
            spectrum(landscape, GaussNewton(), RNG, vectors=landscape.size + 1)
        with torch.no_grad():
            model.net[3].bias[0] = torch.nan
            model.net[4] = nn.Identity()  # logits of NaN
        with pytest.raises(InputError, match="finite logits"):
            spectrum(WeightLandscape(model, DATA), GaussNewton(), RNG)
