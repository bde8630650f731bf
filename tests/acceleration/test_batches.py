"""What an accelerated search runs on does not depend on the batch, and neither do its spikes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.acceleration.model import AcceleratedModel
from snnrobust.common.batching import even_parts, out_of_memory
from snnrobust.data.batch import Batch
from snnrobust.errors import InputError
from snnrobust.kernels.derivative import Derivative
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.fast import run_unit
from snnrobust.kernels.native import Native
from snnrobust.kernels.unit import Unit
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.search.queries import ModelQueries
from snnrobust.spike_gradients.swap import Own
from snnrobust.wrapping import model as model_module

STEPS = 4


def node() -> nn.Module:
    return neuron.IFNode(step_mode="m")


def tied() -> nn.Module:
    """A 1 x 1 convolution of tenths with a bias: many membranes end on the threshold, where rounding decides."""
    torch.manual_seed(0)
    net = nn.Sequential(layer.Conv2d(3, 8, 1, step_mode="m"), node(), nn.Flatten(2), nn.Linear(8 * 16, 3))
    with torch.no_grad():
        net[0].weight.copy_((net[0].weight * 10).round() / 10)
        net[0].bias.fill_(0.1)
    return net


class Aside(nn.Module):
    """A branch that the net's own gradient does not pass, active on some samples alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.main, self.side, self.node = nn.Linear(6, 4), nn.Linear(6, 4), node()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            aside = torch.relu(self.side(x) - 0.5)
        out: Tensor = self.node(self.main(x) + aside + 0.5)
        return out


def gradients(model: sr.SpikingModel, x: Tensor, sizes: int) -> Tensor:
    """Input gradients [N, *], asked for by an queries of its own for so many samples at a time."""
    queries = ModelQueries(model, CrossEntropy(), Own())
    y, index = torch.arange(len(x)) % 3, torch.arange(len(x))
    with model.session():
        parts = torch.arange(len(x)).split(sizes)
        return torch.cat([queries.gradient(Batch(x[at], y[at], index[at]))[0] for at in parts])


@pytest.mark.parametrize("size", [1, 3, 15])
def test_ties_fall_alike_in_batches_of_any_size(size: int) -> None:
    net = tied()
    x = (torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 10).round() / 10
    model = sr.wrap(net, steps=STEPS)
    assert torch.equal(gradients(model, x, size), gradients(model, x, len(x)))
    accelerated = AcceleratedModel(model, Own())
    with model.session():
        assert torch.equal(accelerated.outputs(x), model.outputs(x))
        assert torch.equal(accelerated.outputs(x[:size]), accelerated.outputs(x)[:size])


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(2), nn.Linear(48, 40), node(), nn.Linear(40, 12), node(), nn.Linear(12, 3))


def convolutional() -> nn.Module:
    first, second = (layer.Conv2d(a, b, 3, padding=1, bias=False, step_mode="m") for a, b in ((3, 8), (8, 12)))
    norm = layer.BatchNorm2d(12, step_mode="m")
    return nn.Sequential(first, node(), second, norm, node(), layer.AvgPool2d(2, step_mode="m"), nn.Flatten(2), out())


def strided() -> nn.Module:
    first, second = layer.Conv2d(3, 6, 2, stride=2, step_mode="m"), layer.Conv2d(6, 12, 1, bias=False, step_mode="m")
    return nn.Sequential(first, node(), second, node(), nn.Flatten(2), out())


def out() -> nn.Module:
    return nn.Linear(48, 3)


@pytest.mark.parametrize("steps", [1, 4, 9])
@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("build", [dense, convolutional, strided])
def test_bits_do_not_depend_on_the_number_of_samples(build: Any, temporal: bool, steps: int) -> None:
    """Few samples are filled up only as far as the rounding of their layers needs it."""
    torch.manual_seed(0)
    net = build().eval().requires_grad_(False)
    model = sr.wrap(net, encoder=None) if temporal else sr.wrap(net, steps=steps)
    x = torch.rand((40, *([steps] if temporal else []), 3, 4, 4), generator=torch.Generator().manual_seed(0))
    whole = gradients(model, x, len(x))
    accelerated = AcceleratedModel(model, Own())
    with model.session():
        outputs = accelerated.outputs(x)
        assert outputs.any()
        assert whole.any()
        for size in (1, 2, 3, 5, 8, 13):
            assert torch.equal(gradients(model, x, size), whole)
            assert torch.equal(torch.cat([accelerated.outputs(x[at]) for at in torch.arange(40).split(size)]), outputs)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("build", "static", "temporal"),
    [(dense, [16, 16, 16], [16, 4, 2]), (convolutional, [16, 4, 2], [16, 4, 2]), (strided, [16, 4, 2], [16, 4, 2])],
)
def test_the_least_number_of_samples_follows_from_the_layers(build: Any, static: Any, temporal: Any) -> None:
    """Before the first node a static input has a row for each sample, behind it one for each sample and step."""
    for steps, once, always in zip((1, 4, 9), static, temporal, strict=True):
        found = AcceleratedModel(sr.wrap(build().eval(), steps=steps), Own())
        assert found.least_batch(torch.rand(2, 3, 4, 4)) == once
        found = AcceleratedModel(sr.wrap(build().eval(), encoder=None), Own())
        assert found.least_batch(torch.rand(2, steps, 3, 4, 4)) == always


def test_a_net_that_can_not_be_traced_or_has_products_of_its_own_is_filled_up() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.node, self.weight = node(), nn.Parameter(torch.rand(48, 3))

        def forward(self, x: Tensor) -> Tensor:
            spikes: Tensor = self.node(x.flatten(2))
            return spikes @ self.weight

    assert AcceleratedModel(sr.wrap(Product(), steps=4), Own()).least_batch(torch.rand(2, 3, 4, 4)) == 4
    assert AcceleratedModel(sr.wrap(Aside(), steps=4), Own()).least_batch(torch.rand(2, 6)) == 16


def test_what_a_net_hides_from_its_gradient_stays_hidden() -> None:
    """A trace can't tell that gradients were off: such a net is not traced, its nodes are accelerated in place."""
    model, plain = (sr.wrap(Aside(), steps=STEPS, accelerate=fast) for fast in (True, False))
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
    accelerated = AcceleratedModel(model, Own())
    assert list(accelerated.fast) == ["node"]
    assert len(accelerated._patched) == 1
    ours, theirs = gradients(model, x, 40), gradients(plain, x, 40)
    assert theirs.any()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_lists_of_a_net_keep_no_trace() -> None:
    class Keeps(Aside):
        def __init__(self) -> None:
            super().__init__()
            self.kept: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.kept.append(x)
            out: Tensor = self.node(self.main(x) + 0.5)
            return out

    net = Keeps()
    AcceleratedModel(sr.wrap(net, steps=STEPS), Own())
    assert net.kept == []


def test_a_session_has_one_accelerated_model_and_checks_it_on_its_own_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Tensor] = []
    check = AcceleratedModel.compare
    monkeypatch.setattr(
        AcceleratedModel, "compare", lambda self, x, keys: (checked.append(keys), check(self, x, keys))[1]
    )
    data = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 3
    tasks = [sr.load("pgd", epsilon=[0.1, 0.2, 0.3], steps=2)]
    report = sr.evaluate(sr.wrap(tied(), steps=STEPS), data, tasks, batch_size=4, evidence="none")
    assert [keys.tolist() for keys in checked] == [list(range(16))]  # the first of all, though batches have 4
    assert len(report.execution_paths()["pgd"]) == 1


def test_parts_are_even_and_whole() -> None:
    assert even_parts(65, 64) == [slice(0, 32), slice(32, 65)]
    assert even_parts(0, 64) == [slice(0, 0)]
    for count in range(1, 200):
        sizes = [part.stop - part.start for part in even_parts(count, 7)]
        assert sum(sizes) == count
        assert max(sizes) <= 7
        assert max(sizes) - min(sizes) <= 1


def test_a_large_batch_is_scored_in_parts_with_the_same_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch.rand(100, 3, 4, 4, generator=torch.Generator().manual_seed(2)), torch.arange(100) % 3
    tasks = [sr.load("pgd", epsilon=[0.1], steps=3)]
    cells = []
    for at_once in (7, 64, 1000):
        monkeypatch.setattr(model_module, "AT_ONCE", at_once)
        report = sr.evaluate(sr.wrap(tied(), steps=STEPS), data, tasks, batch_size=100, evidence="none")
        cells.append([report.cell("model", label, 0)["correct"].tolist() for label in ("clean", "pgd")])
    assert cells[0] == cells[1] == cells[2]


@pytest.mark.parametrize("said", ["std::bad_alloc", "CUDNN_STATUS_ALLOC_FAILED", "could not create a memory object"])
def test_memory_that_runs_out_below_torch_is_recognised(said: str) -> None:
    assert out_of_memory(RuntimeError(f"somewhere: {said}"))
    assert not out_of_memory(RuntimeError("somewhere else"))


def unit() -> Unit:
    return Unit(Dynamics("keep", 1.0, threshold=1.0, reset="hard"), Derivative.atan(2.0), steps=8)


def test_a_kernel_without_room_says_so() -> None:
    native = Native()

    class Full:
        @staticmethod
        def forward(*_: object) -> int:
            return 1

    native._library = Full()  # type: ignore[assignment]  # stands for one that returns 1
    with pytest.raises(MemoryError, match="no room for 8 steps"):
        native.forward(unit(), torch.rand(8, 2, 3), None)


def test_a_current_of_some_of_the_steps_is_refused() -> None:
    with pytest.raises(InputError, match="expected a current of 1 or 8 steps, got 3"):
        run_unit((), unit(), torch.rand(3, 2, 3))
