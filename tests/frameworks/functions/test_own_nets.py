"""Nets with own neurons, spike functions and loops over time: found, recorded, swapped and left as they were."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.errors import InputError
from snnrobust.frameworks.functions.calls import FunctionClass
from snnrobust.kernels.derivative import Derivative
from snnrobust.spike_gradients.swap import SpikeGradient
from snnrobust_attacks.estimators.atan import ATan
from snnrobust_attacks.estimators.relaxation import Relaxed

IN, HIDDEN, CLASSES, T = 6, 8, 3, 5


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0).to(u)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return gradient / (1 + 10 * u.abs()) ** 2


class At(torch.autograd.Function):
    """Takes membrane potential and threshold apart."""

    @staticmethod
    def forward(v: Tensor, threshold: Tensor) -> Tensor:
        return (v >= threshold).to(v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        v, threshold = ctx.saved_tensors
        slope = gradient / (1 + 10 * (v - threshold).abs()) ** 2
        return slope, -slope.sum_to_size(threshold.shape)


class TwoLayers(nn.Module):
    """Two hidden layers of one size in the loop of the net itself, with one Function for both."""

    spike = staticmethod(Spike.apply)

    def __init__(self, steps: int = T, recurrent: bool = False) -> None:
        super().__init__()
        self.steps = steps
        self.first, self.second = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.back = nn.Linear(HIDDEN, HIDDEN) if recurrent else None
        self.out = nn.Linear(HIDDEN, CLASSES)
        with torch.no_grad():
            for layer in (self.first, self.second):
                layer.weight.mul_(4)

    def forward(self, x: Tensor) -> Tensor:
        u = v = torch.zeros(len(x), HIDDEN)
        spikes, total = None, torch.zeros(len(x), CLASSES)
        for _ in range(self.steps):
            current = self.first(x)
            if self.back is not None and spikes is not None:
                current = current + self.back(spikes)
            u = 0.8 * u + current
            a = self.spike(u - 1)
            u = u - a.detach()
            v = 0.8 * v + self.second(a)
            spikes = self.spike(v - 1)
            v = v - spikes.detach()
            total = total + self.out(spikes)
        return total / self.steps


class Blocks(TwoLayers):
    """The same, one layer after the other, each with all steps."""

    def forward(self, x: Tensor) -> Tensor:
        sequence = [self.first(x) for _ in range(self.steps)]
        for layer in (self.second, self.out):
            u, spikes = torch.zeros(len(x), HIDDEN), []
            for current in sequence:
                u = 0.8 * u + current
                spikes.append(self.spike(u - 1))
                u = u - spikes[-1].detach()
            sequence = [layer(each) for each in spikes]
        return torch.stack(sequence).mean(dim=0)


class Neuron(nn.Module):
    """A neuron with a learnt threshold, asked twice a step like snnTorch's: for the reset, without a gradient, too."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.9))
        self.v: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        v = torch.zeros_like(x) if self.v is None else self.v
        reset = At.apply(v, self.threshold).detach()
        self.v = 0.7 * v + x - reset * self.threshold
        out: Tensor = At.apply(self.v, self.threshold)
        return out


class Modules(nn.Module):
    def __init__(self, steps: int = T) -> None:
        super().__init__()
        self.steps = steps
        self.body = nn.Sequential(nn.Linear(IN, HIDDEN), Neuron(), nn.Linear(HIDDEN, HIDDEN), Neuron())
        self.out = nn.Linear(HIDDEN, CLASSES)
        with torch.no_grad():
            for layer in (self.body[0], self.body[2]):
                layer.weight.mul_(4)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.modules():
            if isinstance(module, Neuron):
                module.v = None
        total = torch.zeros(len(x), CLASSES)
        for _ in range(self.steps):
            total = total + self.out(self.body(x))
        return total / self.steps


def inputs(count: int = 7) -> Tensor:
    return torch.rand(count, IN, generator=torch.Generator().manual_seed(3))


def seeded(kind: type[nn.Module], **settings: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(**settings)


NETS: list[Callable[[], nn.Module]] = [
    lambda: seeded(TwoLayers),
    lambda: seeded(TwoLayers, recurrent=True),
    lambda: seeded(Blocks),
    lambda: seeded(Modules),
]
every_net = pytest.mark.parametrize("build", NETS, ids=["loop", "recurrent", "blocks", "modules"])


def wrapped(net: nn.Module, **settings: Any) -> sr.SpikingModel:
    return sr.wrap(net, layout="N", **settings)


def gradient(model: sr.SpikingModel) -> tuple[Tensor, Tensor]:
    """Logits, and the input gradient of the cross entropy."""
    x = inputs().requires_grad_()
    logits = model.logits(x)
    labels = torch.arange(len(x)) % CLASSES
    return logits.detach(), torch.autograd.grad(F.cross_entropy(logits, labels), x)[0]


@contextmanager
def by_hand(function: FunctionClass, derivative: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Another backward pass, written into the class."""
    own = vars(function)["backward"]

    def backward(ctx: Any, gradient: Tensor) -> Any:
        saved = ctx.saved_tensors
        slope = gradient * derivative(saved[0] if len(saved) == 1 else saved[0] - saved[1])
        return slope if len(saved) == 1 else (slope, -slope.sum_to_size(saved[1].shape))

    function.backward = staticmethod(backward)  # type: ignore[assignment, method-assign]  # as a user would
    try:
        yield
    finally:
        function.backward = own


def assert_swap_is_that_by_hand(model: sr.SpikingModel) -> None:
    plain, own = gradient(model)
    function = next(iter(model.find_spikes(inputs()).functions))
    with SpikeGradient(model, ATan(alpha=4.0)):
        logits, swapped = gradient(model)
    with by_hand(function, Derivative.atan(4.0)):
        expected = gradient(model)[1]
    assert torch.equal(logits, plain)
    assert torch.allclose(swapped, expected, rtol=1e-5, atol=1e-9)
    assert not torch.allclose(swapped, own, rtol=1e-2)
    assert torch.equal(gradient(model)[1], own)


@every_net
def test_a_swap_equals_one_by_hand(build: Callable[[], nn.Module]) -> None:
    assert_swap_is_that_by_hand(wrapped(build()))


@every_net
def test_layers_are_told_apart(build: Callable[[], nn.Module]) -> None:
    model = wrapped(build())
    model.logits(inputs())
    names = list(model.find_spikes(inputs()).by_name)
    assert names == (["body.1", "body.3"] if isinstance(model.net, Modules) else ["Spike:0", "Spike:1"])
    with SpikeGradient(model, {names[0]: ATan(alpha=4.0)}):
        first = gradient(model)[1]
    with SpikeGradient(model, {names[1]: ATan(alpha=4.0)}):
        second = gradient(model)[1]
    with SpikeGradient(model, ATan(alpha=4.0)):
        both = gradient(model)[1]
    own = gradient(model)[1]
    different = [(a - b).abs().max() > 1e-6 for a, b in ((first, second), (first, both), (second, both), (first, own))]
    assert all(different)
    with pytest.raises(InputError, match="expected node names among"):
        SpikeGradient(model, {"nothing": ATan()})


class Counting(TwoLayers):
    """Counts its spikes by hand; on the class, since what a net holds is put back."""

    counts: ClassVar[list[Tensor]] = []

    def spike(self, u: Tensor) -> Tensor:  # type: ignore[override]  # an instance method here
        out: Tensor = Spike.apply(u)
        self.counts.append(out.detach())
        return out


def test_recorded_spikes_are_those_of_the_net() -> None:
    model = wrapped(seeded(Counting))
    model.find_spikes(inputs())
    found = model.record(inputs())
    counts = Counting.counts[-2 * T :]  # of the last pass
    for k in range(2):
        assert torch.equal(found.spikes[f"Spike:{k}"], torch.stack(counts[k::2], dim=1))  # [N, T, HIDDEN]
        assert torch.equal((found.distances[f"Spike:{k}"] > 0).float(), found.spikes[f"Spike:{k}"])
    assert 0.05 < found.spikes["Spike:0"].mean() < 0.95
    report = sr.evaluate(model, (inputs(), torch.zeros(7).long()), ["activity"], progress=False, evidence="none")
    rates = {each.metric: each.value for each in report.records}
    assert rates["firing_rate:Spike:0"] == pytest.approx(float(found.spikes["Spike:0"].mean()))


def test_membranes_and_thresholds_of_a_function_that_takes_both() -> None:
    model = wrapped(seeded(Modules))
    found = model.record(inputs())
    assert found.thresholds["body.1"] == pytest.approx(0.9)
    assert torch.allclose(found.membranes["body.1"] - 0.9, found.distances["body.1"])
    data = inputs(), torch.zeros(7).long()
    report = sr.evaluate(model, data, [sr.load("threshold-margins", deltas=(0.1,))], progress=False, evidence="none")
    near = {each.strength: each.value for each in report.records if each.metric == "near_threshold:body.1"}
    shares = (found.distances["body.1"].abs() < 0.09).float().mean(dim=(0, 2))
    assert [near[t + 1] for t in range(T)] == pytest.approx(shares.tolist())
    active = [each.value for each in report.records if each.metric == "surrogate_active:body.1"]
    assert active == [1.0] * T


@every_net
def test_estimators_with_a_memory_and_over_calls_run(build: Callable[[], nn.Module]) -> None:
    model = wrapped(build())
    data = inputs(), model.logits(inputs()).argmax(dim=1)
    for estimator in ("atan", "pdsg", "pdsg-sample", "assg", "relaxation", "straight-through"):
        task = sr.load("pgd", epsilon=[0.1], steps=3, gradient=estimator)
        report = sr.evaluate(model, data, [task], progress=False, evidence="none")
        assert 0 <= report.curve("pgd").value[0] <= 1
    with pytest.raises(InputError, match="nodes with a known equation for RateReLU"):
        sr.evaluate(model, data, [sr.load("pgd", epsilon=[0.1], gradient="rate-relu")], progress=False)


def test_a_relaxation_has_the_gradient_of_the_smooth_net() -> None:
    model = wrapped(seeded(TwoLayers))
    model.logits(inputs())
    relaxed = Relaxed()

    class Smooth(TwoLayers):
        @staticmethod
        def spike(u: Tensor) -> Tensor:
            smooth: Tensor = relaxed.primitive(u, {})
            return smooth

    smooth = seeded(Smooth)
    smooth.load_state_dict(model.net.state_dict())
    with SpikeGradient(model, relaxed) as swap:
        assert not swap.exact
        logits, found = gradient(model)
    expected = gradient(wrapped(smooth))
    assert torch.allclose(logits, expected[0], atol=1e-6)
    assert torch.allclose(found, expected[1], atol=1e-7)


def test_an_error_in_the_middle_of_a_pass_is_not_covered_up() -> None:
    """Half a pass has another order of calls, which is said of whole passes alone."""
    model = wrapped(seeded(TwoLayers))
    expected = gradient(model)[1]

    def fail(*_: Any) -> None:
        raise KeyError("mine")

    handle = model.net.get_submodule("second").register_forward_hook(fail)
    for _ in range(2):
        with pytest.raises(KeyError, match="mine"):
            model.find_spikes(inputs())  # nothing is kept of it
    handle.remove()
    swap = SpikeGradient(model, ATan())
    handle = model.net.get_submodule("second").register_forward_hook(fail)
    with pytest.raises(KeyError, match="mine"), swap:
        gradient(model)
    with pytest.raises(KeyError, match="mine"):
        model.record(inputs())
    handle.remove()
    assert torch.equal(gradient(model)[1], expected)


def test_two_nets_that_share_a_function() -> None:
    one, two = wrapped(seeded(TwoLayers)), wrapped(seeded(TwoLayers, recurrent=True))
    own = [gradient(each)[1] for each in (one, two)]
    with SpikeGradient(one, ATan(alpha=4.0)):
        alone = gradient(one)[1]
        assert torch.equal(gradient(two)[1], own[1])
        with SpikeGradient(two, ATan(alpha=1.0)):
            both = gradient(two)[1]
            assert torch.equal(gradient(one)[1], alone)
        with SpikeGradient(one, ATan(alpha=1.0)):  # the inner scope holds
            inner = gradient(one)[1]
    with SpikeGradient(one, ATan(alpha=1.0)):
        assert torch.equal(gradient(one)[1], inner)
    assert not torch.allclose(alone, inner)
    assert not torch.allclose(both, own[1])
    assert [torch.equal(gradient(each)[1], own[k]) for k, each in enumerate((one, two))] == [True, True]


def test_two_threads_that_swap_one_function() -> None:
    models = [wrapped(seeded(TwoLayers)) for _ in range(2)]
    own = gradient(models[0])[1]
    expected, found, failed = [], [[], []], []
    for alpha, model in zip((1.0, 4.0), models, strict=True):
        model.logits(inputs())
        with SpikeGradient(model, ATan(alpha=alpha)):
            expected.append(gradient(model)[1])
    start = threading.Barrier(3)

    def run(k: int) -> None:
        try:
            start.wait(10)
            for _ in range(20):
                with SpikeGradient(models[k], ATan(alpha=(1.0, 4.0)[k])):
                    found[k].append(gradient(models[k])[1])
        except BaseException as error:  # to be raised in the test's thread
            failed.append(error)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    start.wait(10)
    third = wrapped(seeded(TwoLayers))
    unswapped = [gradient(third)[1] for _ in range(20)]
    for thread in threads:
        thread.join()
    assert not failed
    assert all(torch.equal(each, expected[k]) for k in range(2) for each in found[k])
    assert all(torch.equal(each, own) for each in unswapped)


def held(net: nn.Module) -> list[tuple[int, dict[str, Any]]]:
    return [(id(module), dict(vars(module))) for module in net.modules()]


@every_net
@pytest.mark.parametrize("interrupted", [False, True])
def test_an_evaluation_leaves_net_and_function_as_they_were(
    build: Callable[[], nn.Module], interrupted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = build().train()
    before = held(net)
    functions = {each: (dict(vars(each)), list(each.__subclasses__())) for each in (Spike, At)}
    data = inputs(), torch.zeros(7).long()
    tasks = [sr.load("pgd", epsilon=[0.1], steps=4, gradient="atan"), "activity"]
    if interrupted:
        steps = iter(range(30))

        def stop(self: Any, *args: Any) -> Any:
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return F.linear(*args, self.weight, self.bias)

        monkeypatch.setattr(nn.Linear, "forward", stop)
        with pytest.raises(KeyboardInterrupt):
            sr.evaluate(wrapped(net), data, tasks, progress=False)
    else:
        sr.evaluate(wrapped(net), data, tasks, progress=False)
    assert all(a[0] == b[0] for a, b in zip(held(net), before, strict=True))
    for (_, now), (_, then) in zip(held(net), before, strict=True):
        assert now.keys() == then.keys()
        assert all(now[key] is then[key] for key in then)
        assert not now["_forward_hooks"]
        assert not now["_forward_pre_hooks"]
    for function, (attributes, subclasses) in functions.items():
        assert list(vars(function)) == list(attributes)
        assert all(vars(function)[name] is value for name, value in attributes.items())
        assert function.__subclasses__() == subclasses


def test_steps_may_differ_from_those_of_the_first_pass() -> None:
    model = wrapped(seeded(TwoLayers))
    model.find_spikes(inputs())
    model.net.steps = 3  # type: ignore[assignment]  # a number
    assert model.record(inputs()).spikes["Spike:1"].shape == (7, 3, HIDDEN)


def test_layers_one_after_the_other_need_the_steps_of_the_first_pass() -> None:
    """Which layer a call belongs to is known by its place in the pass alone."""
    model = wrapped(seeded(Blocks))
    assert model.record(inputs()).spikes["Spike:1"].shape == (7, T, HIDDEN)
    model.net.steps = 3  # type: ignore[assignment]  # a number
    with pytest.raises(InputError, match=r"expected 10 spikes in each step of Blocks.*got 6 in all; keep the number"):
        model.record(inputs())


class Late(TwoLayers):
    """Called step by step; the second layer begins at the second step."""

    def __init__(self) -> None:
        super().__init__()
        self.u: Tensor | None = None
        self.before: Tensor | None = None

    def forget(self) -> None:
        self.u = self.before = None

    def forward(self, x: Tensor) -> Tensor:
        self.u = self.first(x) if self.u is None else 0.8 * self.u + self.first(x)
        spikes = self.spike(self.u - 1)
        out = torch.zeros(len(x), CLASSES) if self.before is None else self.out(self.spike(self.second(self.before)))
        self.before = spikes
        return out


def test_a_first_step_with_fewer_spikes() -> None:
    net = seeded(Late)
    assert_swap_is_that_by_hand(sr.wrap(net, layout="step", steps=T, reset=net.forget))
