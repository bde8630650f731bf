"""Layers of event-driven neurons: shapes, convolution and pooling against dense layers, input that is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snnrobust.errors import InputError, InputTypeError
from snnrobust.kernels.build import BuildError
from snnrobust.neurons import EventDriven, EventDrivenConv2d, EventPool2d, latency, merge, spike_counts
from snnrobust.neurons import event_driven as layers


def images(channels: int = 2, side: int = 6, spikes: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    times = torch.rand(3, channels, side, side, spikes, generator=generator, dtype=torch.float64)
    times[times > 0.7] = math.inf
    return times


def test_a_convolution_is_a_dense_layer_on_each_window() -> None:
    torch.manual_seed(0)
    times = images()
    layer = EventDrivenConv2d(2, 5, 3, 3, threshold=0.2, stride=2, padding=1, init=(-1, 2)).double()
    found = layer(times)
    assert found.shape == (3, 5, 3, 3, 3)
    dense = EventDriven(18, 5, 3, threshold=0.2).double()
    dense.load_state_dict(layer.state_dict())
    padded = nn.functional.pad(times, (0, 0, 1, 1, 1, 1), value=math.inf)
    for row in range(3):
        for column in range(3):
            window = padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3].reshape(3, 18, 2)
            assert torch.equal(found[:, :, row, column], dense(window))
    assert found.isfinite().any()
    assert found.isinf().any()


def test_pooling_keeps_the_first_spikes_of_a_window() -> None:
    times = images()
    found = EventPool2d(2)(times)
    assert found.shape == (3, 2, 3, 3, 8)
    first = times[1, 0, 2:4, 4:6].flatten().sort().values
    assert torch.equal(found[1, 0, 1, 2], first)
    assert torch.equal(EventPool2d(2, 3)(times), found[..., :3])


def test_the_convolutional_net_of_the_authors_has_gradients() -> None:
    """Bacho & Chu: 15C5-P2-40C5-P2-300-10, here narrower; thresholds as published."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(EventDrivenConv2d(1, 3, 5, 1, threshold=0.04, init=(-0.1, 1)), EventPool2d(2)),
        *(EventDrivenConv2d(3, 4, 5, 3, threshold=0.8, init=(-0.1, 1)), EventPool2d(2), nn.Flatten(1, 3)),
        *(EventDriven(64, 20, 10, threshold=0.6), EventDriven(20, 10, 30, threshold=0.3)),
    )
    times = latency(torch.rand(2, 1, 28, 28)).requires_grad_()
    out = net(times)
    assert out.shape == (2, 10, 30)
    out[out.isfinite()].sum().backward()
    assert times.grad is not None
    assert times.grad.isfinite().all()
    assert times.grad.abs().sum() > 0
    assert all(each.grad is not None and each.grad.isfinite().all() for each in net.parameters())


def test_backends_agree_and_a_missing_compiler_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, times = EventDriven(72, 4, 3, threshold=0.2).double(), images().flatten(1, 3)
    found = {}
    for backend in ("auto", "native", "eager"):
        layer.backend = backend
        found[backend] = layer(times)

    def missing(*_: Any) -> Tensor:
        raise BuildError("expected a C++ compiler on the PATH, got none; install g++")

    monkeypatch.setattr(layers, "native_spike_times", missing)
    layer.backend = "auto"
    found["no compiler"] = layer(times)
    for each in found.values():
        assert torch.allclose(each.nan_to_num(posinf=9.0), found["eager"].nan_to_num(posinf=9.0), atol=1e-9, rtol=0)
    layer.backend = "native"
    with pytest.raises(BuildError):
        layer(times)
    with pytest.raises(InputError, match="backend='auto'"):
        EventDriven(72, 4, backend="native", ratio=1).double()(times)


def test_latency_merge_and_counts() -> None:
    times = latency(torch.tensor([[0.0, 0.25, 1.0]]), duration=0.2)
    assert torch.allclose(times[0, 1:, 0], torch.tensor([0.15, 0.0]))
    assert times[0, 0, 0] == math.inf
    train = torch.tensor([0.3, math.inf, 0.1, 0.2])
    assert merge(train, 2).tolist() == pytest.approx([0.1, 0.2])
    assert spike_counts(train).item() == 3
    assert spike_counts(train, until=0.2).item() == 2


@pytest.mark.parametrize(
    ("times", "error", "message"),
    [
        (torch.full((2, 3, 1), math.nan), InputError, "NaN"),
        (torch.full((2, 3, 1), -0.5), InputError, "got -0.5"),
        (torch.full((2, 3, 1), -math.inf), InputError, "got -inf"),
        (torch.zeros(2, 3), InputError, r"\[N, in, K\]"),
        (torch.zeros(2, 4, 1), InputError, "3 input neurons, got 4"),
        (torch.zeros(2, 3, 1, dtype=torch.long), InputTypeError, "torch.int64"),
        ([[0.0]], InputTypeError, "list"),
    ],
)
def test_damaged_spike_times(times: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EventDriven(3, 2)(times)


def test_unsorted_and_silent_input_has_a_meaning() -> None:
    layer = EventDriven(3, 2, threshold=0.1, init=(1, 2))
    times = torch.tensor([[[0.3, 0.1], [math.inf, 0.2], [0.0, 0.4]]])
    assert torch.equal(layer(times), layer(times.sort(dim=2).values))
    assert layer(torch.full((1, 3, 2), math.inf)).isinf().all()
    assert layer(torch.zeros(0, 3, 2)).shape == (0, 2, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_spikes": 0}, "max_spikes"),
        ({"tau_s": 0.0}, "tau_s"),
        ({"threshold": -1.0}, "threshold"),
        ({"ratio": 3}, "ratio|tau / tau_s"),
        ({"duration": 0.0}, "duration"),
        ({"init": (1.0, -1.0)}, "init"),
        ({"backend": "cuda"}, "backend"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EventDriven(3, 2, **settings)


def test_windows_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="smaller kernel_size"):
        EventDrivenConv2d(2, 1, 7)(images())
    with pytest.raises(InputError, match="expected 3 channels, got 2"):
        EventDrivenConv2d(3, 1, 3)(images())
    with pytest.raises(InputError, match="values in"):
        latency(torch.tensor([1.5]))
