"""The gradient seam: by-hand gradients, forward untouched, everything put back, higher derivatives."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import base, functional, layer, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.errors import InputError, PluginError
from snnrobust.kernels.spike import spike
from snnrobust.spike_gradients.swap import Own, SpikeGradient, spike_gradient_contexts
from snnrobust_attacks.estimators.atan import ATan


def atan(u: Tensor, alpha: float) -> Tensor:
    return alpha / 2 / (1 + (math.pi / 2 * alpha * u) ** 2)


def net_of(step_mode: str, shared: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    one = surrogate.Sigmoid(alpha=4.0)
    two = one if shared else surrogate.Sigmoid(alpha=4.0)
    return nn.Sequential(
        nn.Linear(4, 5),
        neuron.IFNode(surrogate_function=one, step_mode=step_mode, v_reset=None),
        nn.Linear(5, 3),
        neuron.IFNode(surrogate_function=two, step_mode=step_mode, v_reset=None),
    ).double()


def run(net: nn.Sequential, x: Tensor, step_mode: str) -> Tensor:
    functional.reset_net(net)
    out: Tensor = net(x) if step_mode == "m" else torch.stack([net(step) for step in x])
    return out


def by_hand(net: nn.Sequential, x: Tensor, alphas: tuple[float, float]) -> Tensor:
    """Soft-reset IF dynamics written out, with d H(u) = atan_alpha(u) du; the surrogate as a linearised spike."""

    def fire(u: Tensor, alpha: float) -> Tensor:
        slope = atan(u, alpha).detach()
        return (u >= 0).double() + slope * (u - u.detach())

    v1, v2, out = torch.zeros(2, 5).double(), torch.zeros(2, 3).double(), []
    for step in x:
        v1 = v1 + net[0](step)
        s1 = fire(v1 - 1, alphas[0])
        v1 = v1 - s1
        v2 = v2 + net[2](s1)
        s2 = fire(v2 - 1, alphas[1])
        v2 = v2 - s2
        out.append(s2)
    return torch.stack(out)


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("each", [(3.0, 3.0), (1.0, 8.0)])
def test_gradients_equal_those_worked_out_by_hand(step_mode: str, each: tuple[float, float]) -> None:
    net = net_of(step_mode)
    x = (3 * torch.rand(6, 2, 4, dtype=torch.float64)).requires_grad_()
    weights = torch.randn(6, 2, 3, dtype=torch.float64)
    plain = run(net, x, step_mode)
    estimator = ATan(each[0]) if each[0] == each[1] else {"1": ATan(each[0]), "3": ATan(each[1])}
    with SpikeGradient(net, estimator):
        out = run(net, x, step_mode)
    assert torch.equal(out, plain)  # bitwise: only the backward is another
    assert 0 < float(out.detach().sum()) < out.numel()
    (gradient,) = torch.autograd.grad((out * weights).sum(), x)
    expected_out = by_hand(net, x, each)
    (expected,) = torch.autograd.grad((expected_out * weights).sum(), x)
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-12)
    (own,) = torch.autograd.grad((plain * weights).sum(), x)
    assert not torch.allclose(own, expected, atol=1e-3)  # the swap matters
    assert float(expected.abs().max()) > 1e-3


def test_nodes_left_out_keep_their_own() -> None:
    net = net_of("m")
    first, second = net[1].surrogate_function, net[3].surrogate_function
    with SpikeGradient(net, {"3": ATan(), "1": Own()}):
        assert net[1].surrogate_function is first
        assert net[3].surrogate_function is not second
        run(net, torch.ones(2, 2, 4).double(), "m")
    assert net[3].surrogate_function is second


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(fails: bool) -> None:
    net = net_of("m", shared=True)
    shared = net[1].surrogate_function
    before = [dict(vars(m)["_forward_hooks"]) for m in net.modules()]
    alpha, forward = shared.alpha, shared.forward
    swap = SpikeGradient(net, ATan())
    for _ in range(2):
        try:
            with swap:
                assert net[1].surrogate_function is not net[3].surrogate_function
                assert shared.alpha == alpha
                run(net, torch.ones(2, 2, 4).double(), "m")
                if fails:
                    raise RuntimeError("inside")
        except RuntimeError:
            assert fails
        assert net[1].surrogate_function is shared
        assert net[3].surrogate_function is shared
        assert shared.forward == forward
        assert [dict(vars(m)["_forward_hooks"]) for m in net.modules()] == before


def test_entering_twice_and_a_surrogate_changed_in_between() -> None:
    net = net_of("m")
    swap = SpikeGradient(net, ATan())
    mine = surrogate.Erf()
    net[1].surrogate_function = mine  # after the swap was made
    with swap, swap:
        pass
    assert net[1].surrogate_function is mine


def test_own_swaps_nothing_and_works_on_any_net() -> None:
    dense = nn.Linear(2, 2)
    with SpikeGradient(dense, Own()):
        dense(torch.ones(1, 2))
    u = torch.linspace(-1, 1, 9)
    expected = surrogate.Sigmoid(alpha=4.0)
    at = u.clone().requires_grad_()
    expected(at).sum().backward()
    assert at.grad is not None
    assert torch.allclose(Own().backward(u, {"surrogate": expected}), at.grad)


class Counter:
    """Counts its calls in the node's state."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        assert callable(state["surrogate"])
        state["count"] = state.get("count", 0) + 1
        self.counts[id(state)] = state["count"]
        return torch.ones_like(u)


@pytest.mark.parametrize("session_outside", [False, True])
def test_estimator_state_lives_as_long_as_the_object(session_outside: bool) -> None:
    """Also where a session, which restores what the net holds, opens and closes inside."""
    net, counter = net_of("s"), Counter()
    model = sr.wrap(net, layout="step", steps=1)
    swap = SpikeGradient(net, counter)
    x = torch.rand(2, 4).double().requires_grad_()
    for _ in range(3):
        with swap, model.session():
            logits = model.logits(x)
            if session_outside:
                torch.autograd.grad(logits.sum(), x)
        if not session_outside:
            torch.autograd.grad(logits.sum(), x)
    assert sorted(counter.counts.values()) == [3, 3]  # one state a node, three backward passes each


class Deaf(base.MemoryModule):
    """A node that has a surrogate function and computes its gradient elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.surrogate_function = surrogate.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid()


def _fail_after(net: nn.Module, x: Tensor) -> None:
    with SpikeGradient(net, ATan()):
        net(x)
        raise KeyError("mine")


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("through_model", [False, True])
def test_a_node_that_ignores_its_surrogate_is_reported(others: int, through_model: bool) -> None:
    net = nn.Sequential(*[neuron.IFNode() for _ in range(others)], Deaf())
    x = torch.rand(2, 3)
    with pytest.raises(PluginError, match=rf"nodes \['{others}'\] that never used"), SpikeGradient(net, ATan()):
        sr.wrap(net, layout="step", steps=2).logits(x) if through_model else net(x)
    with SpikeGradient(net, ATan()):
        pass  # nothing ran: nothing to report
    with pytest.raises(KeyError, match="mine"):
        _fail_after(net, x)  # an exception on its way is not covered up


def test_a_node_that_did_not_run_is_not_reported() -> None:
    net = nn.ModuleDict({"used": neuron.IFNode(), "spare": neuron.IFNode()})
    with SpikeGradient(net, ATan()):
        net["used"](torch.ones(2, 3))


def test_bad_names_and_nets_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected node names among \['1', '3'\], got \['7'\]"):
        SpikeGradient(net_of("m"), {"7": ATan()})
    for net in (nn.Linear(2, 2), nn.Sequential(layer.Dropout())):
        with pytest.raises(InputError, match=r"expected a net with spikes that can be .*got .*; use gradient='own'"):
            SpikeGradient(net, ATan())


def test_nodes_that_emit_smooth_values_are_refused() -> None:
    smooth = neuron.IFNode(surrogate_function=surrogate.Sigmoid(spiking=False))
    net = nn.Sequential(neuron.IFNode(), smooth)
    for estimator in (ATan(), {"1": ATan()}):
        with pytest.raises(InputError, match=r"nodes that emit spikes, got \['1'\] .*spiking=False"):
            SpikeGradient(net, estimator)
    SpikeGradient(net, Own())
    with SpikeGradient(net, {"0": ATan(), "1": Own()}):  # its forward values are left alone
        net(torch.rand(2, 3))


# ---- what an estimator is told: earlier comparisons, and what it remembers of each sample ------------------------


class Listener:
    """Writes down what it is told at each comparison, and counts its iterates for each sample."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        memory = state["memory"]
        count = memory.get("count", torch.zeros_like(u)) + 1
        memory["count"] = count
        calls = [each.clone() for each in state["calls"]]
        assert torch.equal(calls[state["call"]], u.detach())
        assert not any(each.requires_grad for each in state["calls"])
        told = {"call": state["call"], "calls": calls, "axis": state["axis"], "frozen": state["frozen"]}
        self.heard.append(told | {"count": count.movedim(state["axis"] or 0, 0).flatten(1)[:, 0].tolist()})
        return torch.ones_like(u)


class AllAtOnce(base.MemoryModule):
    """Compares all steps [T, N, *] in one call, without state; or in a shape of its own."""

    def __init__(self, flat: bool = False) -> None:
        super().__init__()
        self.surrogate_function = surrogate.Sigmoid()
        self.flat = flat
        self.step_mode = "m"

    def forward(self, x: Tensor) -> Tensor:
        u = x - 1
        return self.surrogate_function(u.flatten(1) if self.flat else u).reshape(x.shape)


def backward(net: Any, x: Tensor) -> None:
    torch.autograd.grad(net(x).sum(), x)


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_each_comparison_is_told_its_number_and_those_before(step_mode: str) -> None:
    node, listener = neuron.IFNode(step_mode=step_mode, v_reset=None), Listener()
    node(torch.ones(3, 2, 4) if step_mode == "m" else torch.ones(2, 4))  # state of an earlier pass, to be reset
    x = torch.rand(3, 2, 4, requires_grad=True)
    with SpikeGradient(node, listener):
        for _ in range(2):
            listener.heard.clear()
            node.reset()
            out = node(x) if step_mode == "m" else torch.stack([node(step) for step in x])
            torch.autograd.grad(out.sum(), x)
            assert [each["call"] for each in listener.heard] == [2, 1, 0]
            assert [len(each["calls"]) for each in listener.heard] == [3, 3, 3]
            assert [each["axis"] for each in listener.heard] == [0, 0, 0]
            first = listener.heard[0]["calls"][0]
            assert torch.equal(first, x[0].detach() - 1)
            assert [each["count"] for each in listener.heard] == [[1.0, 1.0]] * 3  # no samples told: no memory


def test_backward_passes_that_come_late_or_twice_know_their_own_comparisons() -> None:
    node, listener = neuron.IFNode(step_mode="m"), Listener()
    xs = [torch.rand(3, 2, 4, requires_grad=True) for _ in range(2)]
    outs = []
    with SpikeGradient(node, listener):
        for x in xs:
            node.reset()
            outs.append(node(x))
    node.reset()
    for x, out in zip(xs, outs, strict=True):  # outside, and in the wrong order
        for _ in range(2):
            listener.heard.clear()
            torch.autograd.grad(out.sum(), x, retain_graph=True)
            assert torch.equal(listener.heard[-1]["calls"][0], x[0].detach() - 1)
            assert len(listener.heard[0]["calls"]) == 3


def test_memory_follows_the_sample() -> None:
    node, listener = neuron.IFNode(step_mode="m"), Listener()
    swap = SpikeGradient(node, listener)

    def visit(ids: list[int], frozen: bool = False, times: int = 1) -> list[float]:
        listener.heard.clear()
        x = torch.rand(2, len(ids), 3, requires_grad=True)
        with swap.at(torch.tensor(ids), frozen=frozen):
            for _ in range(times):
                node.reset()
                backward(node, x)
        node.reset()
        counts = [each["count"] for each in listener.heard]
        assert all(each == counts[0] for each in counts[:2])  # both steps alike
        return counts[-1]

    assert visit([7, 3]) == [1, 1]
    assert visit([3, 9]) == [2, 1]  # 9 is new: zeros
    assert visit([9, 7, 3]) == [2, 2, 3]
    assert visit([3], frozen=True) == [4]  # seen, not kept
    assert visit([3], times=3) == [5]  # the first of three passes moves it on
    assert visit([3]) == [5]
    swap.forget(torch.tensor([3]))
    assert visit([5, 3, 7]) == [1, 1, 3]  # the row of 3 went to 5
    swap.forget()
    assert visit([7, 9]) == [1, 1]
    with pytest.raises(InputError, match="each sample id once"):
        visit([7, 7])


def test_nodes_that_compare_all_steps_at_once() -> None:
    node, listener = AllAtOnce(), Listener()
    swap = SpikeGradient(node, listener)
    for ids in ([4, 6], [6, 8, 4]):
        with swap.at(torch.tensor(ids)):
            backward(node, torch.rand(5, len(ids), 3, requires_grad=True))
    assert [each["axis"] for each in listener.heard] == [1, 1]
    assert [each["count"] for each in listener.heard] == [[1, 1], [2, 1, 2]]
    assert [each["call"] for each in listener.heard] == [0, 0]  # without state, each call begins a pass
    odd = SpikeGradient(AllAtOnce(flat=True), Listener())
    with odd:
        backward(odd._patched[0]._module, torch.rand(5, 2, 3, requires_grad=True))  # without samples: no matter
    with pytest.raises(PluginError, match=r"compare \[N, \*\] or \[T, N, \*\]"), odd.at(torch.arange(2)):
        backward(odd._patched[0]._module, torch.rand(5, 2, 3, requires_grad=True))


def test_memory_of_another_number_of_rows_is_refused() -> None:
    node = neuron.IFNode(step_mode="m")
    with (
        pytest.raises(PluginError, match=r"a row for each of 3 samples.* at node '.*', call 3; store"),
        SpikeGradient(node, Listener()).at(torch.arange(3)),
    ):
        backward(node, torch.rand(4, 2, 3, requires_grad=True))


def test_passes_of_a_single_estimator() -> None:
    net = net_of("m")
    for estimator in (ATan(), Own()):
        (swap,) = spike_gradient_contexts(net, estimator)
        assert swap.exact
        with swap.at(torch.arange(2), frozen=True):
            run(net, torch.ones(2, 2, 4).double(), "m")


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_hessian_and_vmap_through_a_net(step_mode: str) -> None:
    net = net_of(step_mode)
    x = 2 * torch.rand(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def loss(at: Tensor) -> Tensor:
        return (run(net, at, step_mode) ** 2).sum()

    with SpikeGradient(net, ATan(2.0)):
        hessian = torch.autograd.functional.hessian(loss, x)
        gradients = torch.func.vmap(torch.func.grad(loss))(torch.stack([x, x.flip(0)]))
        mixed = torch.func.vmap(lambda v: torch.func.jvp(torch.func.grad(loss), (x,), (v,))[1])(x[None])
    at = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad((by_hand(net, at, (2.0, 2.0)) ** 2).sum(), at)
    assert torch.allclose(gradients[0], expected, rtol=0, atol=1e-12)
    assert float(hessian.abs().max()) > 1e-3
    product = (hessian.reshape(x.numel(), x.numel()) @ x.flatten()).reshape(x.shape)
    assert torch.allclose(mixed[0], product, rtol=0, atol=1e-10)


# ---- spike(): higher derivatives against a dense reference -------------------------------------------------------


def soft(u: Tensor, alpha: float = 2.0) -> Tensor:
    """A smooth function whose derivative is the arctangent surrogate: the reference that autograd can see through."""
    return torch.atan(math.pi / 2 * alpha * u) / math.pi + 0.5


def hard(u: Tensor, alpha: float = 2.0) -> Tensor:
    return spike(u, lambda at: atan(at, alpha))


@pytest.fixture
def point() -> Tensor:
    return torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_spike_is_the_heaviside_step_that_includes_zero() -> None:
    u = torch.tensor([-1e-30, 0.0, 1e-30, -0.0])
    assert hard(u).tolist() == [0.0, 1.0, 1.0, 1.0]
    assert hard(u.double()).dtype == torch.float64


def test_double_backward(point: Tensor) -> None:
    u = point.clone().requires_grad_()
    weights = torch.arange(1.0, 6.0, dtype=torch.float64)

    def second(f: Any) -> tuple[Tensor, Tensor]:
        (first,) = torch.autograd.grad((f(u) * weights).sum(), u, create_graph=True)
        return first, torch.autograd.grad((first * first).sum(), u)[0]

    for found, expected in zip(second(hard), second(soft), strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-8)
    third = torch.autograd.functional.hessian(lambda v: (torch.func.grad(lambda w: soft(w).sum())(v)).sum(), point)
    assert float(third.abs().max()) > 1e-3  # the reference is not trivially flat


@pytest.mark.parametrize("transform", ["grad", "vmap grad", "jvp", "jacrev", "jacfwd", "grad grad", "vmap jvp", "hvp"])
def test_torch_func_against_a_dense_reference(transform: str, point: Tensor) -> None:
    func = torch.func
    batch = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def apply(f: Any) -> Tensor:
        def scalar(v: Tensor) -> Tensor:
            return (f(v) * torch.arange(1.0, 6.0, dtype=torch.float64)).sum()

        match transform:
            case "grad":
                result = func.grad(scalar)(point)
            case "vmap grad":
                result = func.vmap(func.grad(scalar))(batch)
            case "jvp":
                result = func.jvp(f, (point,), (batch[0],))[1]
            case "jacrev":
                result = func.jacrev(f)(point)
            case "jacfwd":
                result = func.jacfwd(f)(point)
            case "grad grad":
                result = func.grad(lambda v: (func.grad(scalar)(v) ** 2).sum())(point)
            case "vmap jvp":
                result = func.vmap(lambda v, t: func.jvp(f, (v,), (t,))[1])(batch, batch.flip(0))
            case _:
                result = func.jvp(func.grad(scalar), (point,), (batch[0],))[1]  # forward over reverse
        assert isinstance(result, Tensor)
        return result

    assert torch.allclose(apply(hard), apply(soft), rtol=0, atol=1e-8)


def test_gradcheck_style_finite_difference_of_the_surrogate_gradient(point: Tensor) -> None:
    """The second derivative is the slope of the first: by central differences, with no autograd in the reference."""
    h = 1e-6
    slope = (atan(point + h, 2.0) - atan(point - h, 2.0)) / (2 * h)
    second = torch.func.grad(lambda v: torch.func.grad(lambda w: hard(w).sum())(v).sum())(point)
    assert torch.allclose(second, slope, atol=1e-7)
