"""`wrap`: a stateless, batch-first function of any net, which leaves the net as it found it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import base, functional, layer, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr

T, N, D, K = 5, 4, 6, 3


class TimeFirst(nn.Module):
    """Takes and returns [T, N, *]; loops over single-step parts."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.step(s) for s in x])


class BatchFirst(TimeFirst):
    """The same with [N, T, *]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1)).transpose(0, 1)


class Whole(TimeFirst):
    """Static input in, logits out."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.stack([x] * T)).mean(0)


def stepwise(seed: int = 0, bn: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    hidden: list[nn.Module] = [nn.Linear(D, 8), nn.BatchNorm1d(8) if bn else nn.Identity()]
    return nn.Sequential(
        nn.Sequential(*hidden, neuron.LIFNode(v_threshold=0.3)), nn.Linear(8, K), neuron.IFNode(v_threshold=0.2)
    )


def inputs(n: int = N) -> Tensor:
    return torch.rand(n, D, generator=torch.Generator().manual_seed(1))


def multi(net: nn.Module) -> nn.Module:
    """The same weights in SpikingJelly's multi-step mode."""
    net = copy.deepcopy(net)
    functional.reset_net(net)
    steps = nn.Sequential(
        layer.SeqToANNContainer(net[0][0], net[0][1]), net[0][2], layer.SeqToANNContainer(net[1]), net[2]
    )
    functional.set_step_mode(steps, "m")
    return steps


def freeze(net: nn.Module) -> dict[str, Any]:
    """What a user can see of a net, by object and by content."""
    seen: dict[str, Any] = {}
    for name, module in net.named_modules():
        hooks = {key: list(value.items()) for key, value in vars(module).items() if key.endswith("_hooks")}
        seen[name] = (id(module), module.training, hooks)
        if isinstance(module, base.MemoryModule):
            seen[name] += tuple((key, id(value)) for key, value in module._memories.items())
            seen[name] += tuple(v.tolist() for v in module._memories.values() if isinstance(v, Tensor))
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        grad = None if tensor.grad is None else (id(tensor.grad), tensor.grad.tolist())
        seen[f"tensor {name}"] = (id(tensor), tensor.data_ptr(), tensor.tolist(), tensor.requires_grad, grad)
    return seen


def test_four_layouts_of_one_net_give_the_same_logits() -> None:
    net, x = stepwise().train(), inputs(30)
    with torch.no_grad():
        net(torch.rand(20, D))  # moves the batch norm statistics
    models = {
        "step": sr.wrap(net, layout="step", steps=T),
        "TN": sr.wrap(TimeFirst(net), layout="TN", steps=T),
        "NT": sr.wrap(BatchFirst(net), layout="NT", steps=T),
        "N": sr.wrap(Whole(net), layout="N"),
        "multi-step": sr.wrap(multi(net), layout="TN", steps=T),
        "temporal": sr.wrap(net, layout="step", encoder=None),
    }
    data = {name: torch.stack([x] * T, dim=1) if name == "temporal" else x for name in models}
    logits = {name: model.logits(data[name]) for name, model in models.items()}
    assert len(logits["step"].unique()) > 3  # not all silent or saturated
    for name, found in logits.items():
        assert torch.allclose(found, logits["step"], atol=1e-6), name
        outputs = models[name].outputs(data[name])
        assert outputs.shape == ((30, 1, K) if name == "N" else (30, T, K))
        assert torch.allclose(outputs.mean(1), logits["step"], atol=1e-6)


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_stale_state_makes_no_difference_and_survives(step_mode: str) -> None:
    net = stepwise().eval()
    net = multi(net) if step_mode == "m" else net
    model = sr.wrap(net, layout="TN" if step_mode == "m" else "step", steps=T)
    fresh = model.logits(inputs())
    net(torch.rand(T, 9, D) if step_mode == "m" else torch.rand(9, D))  # another batch size, so another shape of state
    node = next(m for m in net.modules() if isinstance(m, neuron.LIFNode))
    stale, values = node.v, node.v.clone()
    assert torch.equal(model.logits(inputs()), fresh)
    assert node.v is stale
    assert torch.equal(stale, values)
    with model.session():
        assert torch.equal(model.logits(inputs()), fresh)
        assert torch.equal(model.logits(inputs()), fresh)
    assert node.v is stale
    # Negative control: without the reset, state does carry over.
    functional.reset_net(net)
    one = torch.stack([inputs()] * T)
    call = net if step_mode == "m" else TimeFirst(net)
    assert not torch.equal(call(one).mean(0), call(one).mean(0))


class Boom(nn.Module):
    """Fails when told to, in the middle of a net."""

    def __init__(self) -> None:
        super().__init__()
        self.armed = False

    def forward(self, x: Tensor) -> Tensor:
        if self.armed:
            raise RuntimeError("boom")
        return x


@pytest.mark.parametrize("use", ["logits", "outputs", "record", "module", "gradient", "session", "reset in session"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_net_is_left_as_it_came(use: str, fails: bool) -> None:
    boom = Boom()
    net = nn.Sequential(*stepwise().children(), boom).train()
    net[0][1].eval()
    net(torch.rand(7, D)).sum().backward()  # memories with a graph, gradients, moved statistics
    net[1].weight.requires_grad_(False)
    net[1].bias.grad = None
    net[0].register_forward_hook(lambda *_: None)
    boom.armed = fails
    model = sr.wrap(net, layout="step", steps=T)
    x = inputs().requires_grad_(use == "gradient")

    def session() -> None:
        with model.session():
            model.logits(x)
            model.logits(x[:2])

    def reset() -> None:
        with model.session():
            model.reset()
            net.train()
            model.logits(x)

    uses: dict[str, Callable[[], object]] = {
        "logits": lambda: model.logits(x),
        "outputs": lambda: model.outputs(x),
        "record": lambda: model.record(x),
        "module": lambda: model.as_module()(x),
        "gradient": lambda: torch.autograd.grad(model.logits(x).sum(), x),
        "session": session,
        "reset in session": reset,
    }
    before = freeze(net)
    if fails:
        with pytest.raises(RuntimeError, match="boom"):
            uses[use]()
    else:
        uses[use]()
    assert freeze(net) == before


def test_negative_control_a_plain_call_is_seen() -> None:
    net = stepwise().train()
    before = freeze(net)
    net(inputs())
    assert freeze(net) != before


def test_a_sample_does_not_depend_on_its_batch() -> None:
    net = stepwise().train()  # batch norm in train mode would mix samples
    model = sr.wrap(net, layout="step", steps=T)
    x = inputs(8)
    whole = model.logits(x)
    assert torch.allclose(torch.cat([model.logits(x[i : i + 1]) for i in range(8)]), whole, atol=1e-6)


class HandMade(nn.Module):
    """A leaky integrator without any framework, changed in place and handed out as it is."""

    def __init__(self, returns_state: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(D, K)
        self.mem = torch.zeros(1, K)
        self.returns_state = returns_state

    def reset(self) -> None:
        self.mem = torch.zeros(1, K)

    def reset_in_place(self) -> None:
        self.mem.zero_()

    def forward(self, x: Tensor) -> Tensor:
        self.mem = 0.5 * self.mem + self.fc(x)
        return self.mem if self.returns_state else self.mem.clone()


class InPlace(HandMade):
    """The same, always in the same tensor."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.mem.mul_(0.5).add_(self.fc(x))
        return self.mem


@pytest.mark.parametrize("kind", [HandMade, InPlace])
def test_a_net_of_no_framework_is_reset_by_its_callable(kind: type[HandMade]) -> None:
    torch.manual_seed(0)
    net, x = kind(True), inputs(1)
    model = sr.wrap(net, layout="step", steps=T, reset=net.reset_in_place if kind is InPlace else net.reset)
    drive = net.fc(x)
    expected = torch.stack([(2 - 0.5**t) * drive for t in range(T)]).mean(0)  # sum of 0.5^i for i <= t
    net.mem = stale = torch.full((1, K), 7.0)
    for _ in range(2):
        assert torch.allclose(model.logits(x), expected, atol=1e-6)
    assert net.mem is stale
    assert torch.equal(stale, torch.full((1, K), 7.0))
    without = sr.wrap(net, layout="step", steps=T)
    assert not torch.allclose(without.logits(x), expected, atol=1e-3)


def test_an_output_that_is_the_nets_own_state_is_not_put_back() -> None:
    net = InPlace(True)
    model = sr.wrap(net, layout="N", reset=net.reset_in_place)
    assert torch.allclose(model.logits(inputs(1)), net.fc(inputs(1)), atol=1e-6)
    assert torch.equal(net.mem, torch.zeros(1, K))


def test_known_and_hand_kept_state_are_both_reset() -> None:
    """A reset= for the hand-made part must not switch off the framework's own."""
    torch.manual_seed(0)
    hand, node = HandMade(False), neuron.IFNode(v_threshold=5.0)
    nn.init.constant_(hand.fc.weight, 0.3)
    model = sr.wrap(nn.Sequential(hand, node), layout="step", steps=T, reset=hand.reset)
    with model.session():
        model.logits(inputs(1))
        charge = node.v.clone()
        assert float(charge.detach().max()) > 0.5
        model.logits(inputs(1))
        assert torch.equal(node.v, charge)


def test_a_node_swapped_after_wrapping_is_reset_too() -> None:
    """SpikingJelly's `reset_net` remembers the modules of a net and would miss the new node."""
    net = stepwise().eval()
    model = sr.wrap(net, layout="step", steps=T)
    model.logits(inputs())
    functional.reset_net(net)  # fills SpikingJelly's cache
    old, net[2] = net[2], neuron.IFNode(v_threshold=0.7)  # the old node lives on, so that the cache does too
    with model.session():
        first = model.logits(inputs())
        assert torch.equal(model.logits(inputs()), first)
        functional.reset_net(net)
        assert isinstance(net[2].v, Tensor)  # negative control: the cached reset leaves the new node charged
    assert old is not net[2]


@pytest.mark.parametrize("readout", ["mean", "sum", "last", "max", "first_spike"])
@pytest.mark.parametrize("layout", ["step", "NT"])
def test_lengths_equal_truncated_sequences(readout: str, layout: Any) -> None:
    net = stepwise().eval()
    model = sr.wrap(net if layout == "step" else BatchFirst(net), layout=layout, encoder=None, readout=readout)
    x = torch.rand(3, T, D, generator=torch.Generator().manual_seed(5))
    lengths = torch.tensor([5, 2, 4])
    together = model.logits(x, lengths=lengths)
    for i, length in enumerate(lengths.tolist()):
        assert torch.allclose(model.logits(x[i : i + 1, :length])[0], together[i], atol=1e-6)


def test_lengths_do_not_touch_a_net_that_reads_out_by_itself() -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1)[:, :K]

    model = sr.wrap(Own(), layout="NT", encoder=None)
    x = torch.rand(3, T, D)
    for readout in ("mean", "last"):
        model.readout = readout
        assert torch.equal(model.logits(x, lengths=torch.tensor([2, 3, 5])), model.logits(x))


@pytest.mark.parametrize("layout", ["N", "step", "TN", "NT"])
def test_normalization_is_per_channel_and_part_of_the_model(layout: Any) -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(2) if layout in ("TN", "NT") else x.flatten(1)

    x = torch.rand(3, 2, 2, 2)
    mean, std = [0.5, 0.1], [0.25, 2.0]
    expected = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(2)], dim=1).flatten(1)
    static = sr.wrap(Flat(), layout=layout, steps=T, normalize=(mean, std))
    assert torch.allclose(static.logits(x), expected, atol=1e-6)
    if layout != "N":
        temporal = sr.wrap(Flat(), layout=layout, encoder=None, normalize=(mean, std))
        assert torch.allclose(temporal.logits(torch.stack([x] * T, 1)), expected, atol=1e-6)

    def flattening(each: Tensor, steps: int) -> Tensor:  # [N, C, H, W] -> [N, T, C, H W]: as many axes as before
        return torch.stack([each.flatten(2)] * steps, dim=1)

    if layout != "N":
        encoded = sr.wrap(Flat(), layout=layout, steps=T, encoder=flattening, normalize=(mean, std))
        assert torch.allclose(encoded.logits(x), expected, atol=1e-6)


def test_argmin_negates_and_silence_is_no_class() -> None:
    net = nn.Identity()
    logits = torch.tensor([[0.2, 0.1, 0.5], [0.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    most, least = (sr.wrap(net, layout="N", decide=d, bounds=(-1, 1)) for d in ("argmax", "argmin"))
    assert torch.equal(most.logits(logits), logits)
    assert torch.equal(least.logits(logits), -logits)
    assert most.predict(most.logits(logits)).tolist() == [2, -1, 0]
    assert least.predict(least.logits(logits)).tolist() == [1, -1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_follow_the_nets_dtype(dtype: torch.dtype) -> None:
    model = sr.wrap(stepwise().to(dtype), layout="step", steps=T)
    assert model.dtype == dtype
    assert model.device == torch.device("cpu")
    assert model.logits(inputs().half()).dtype == dtype
    empty = sr.wrap(neuron.IFNode(), layout="step", steps=2)
    assert (empty.dtype, empty.device.type) == (torch.float32, "cpu")


def test_poisson_models_are_keyed_by_sample() -> None:
    model = sr.wrap(stepwise().eval(), layout="step", steps=T, encoder="poisson")
    x, keys = inputs(), torch.tensor([9, 3, 5, 7])
    whole = model.logits(x, keys=keys)
    assert torch.allclose(model.logits(x[2:3], keys=keys[2:3])[0], whole[2], atol=1e-6)
    assert not torch.equal(model.outputs(x, keys=keys, draw=1), model.outputs(x, keys=keys))
    assert model.stochastic
    assert model.straight_through


class Noisy(nn.Module):
    """Draws from torch's global generator in its forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :K] + torch.randn(len(x), K)


def test_a_stochastic_net_is_repeatable_and_leaves_the_global_generator_alone() -> None:
    model = sr.wrap(Noisy(), layout="N", stochastic=True)
    x = inputs()
    torch.manual_seed(4)
    expected = torch.rand(())
    torch.manual_seed(4)
    first = model.logits(x)
    assert torch.equal(torch.rand(()), expected)
    assert torch.equal(model.logits(x), first)
    assert not torch.equal(model.logits(x, draw=1), first)
    assert not torch.equal(model.logits(x, keys=torch.arange(4) + 1), first)
    plain = sr.wrap(Noisy(), layout="N")
    assert not torch.equal(plain.logits(x), plain.logits(x))


def test_fingerprints_tell_models_apart_and_are_stable() -> None:
    def make(change: Callable[[nn.Sequential], object] = lambda n: None, **settings: Any) -> str:
        net = stepwise()
        change(net)
        return sr.wrap(net, **{"layout": "step", "steps": T, **settings}).fingerprint()

    def nudge(net: nn.Sequential) -> None:
        with torch.no_grad():
            net[1].weight[0, 0] += 1e-6

    base_line = make()
    assert make() == base_line
    different = {
        "weight": make(nudge),
        "buffer": make(lambda n: n[0][1].running_mean.add_(1)),
        "unsaved buffer": make(lambda n: n[1].register_buffer("mask", torch.ones(2), persistent=False)),
        "structure": make(lambda n: n.append(nn.Identity())),
        "threshold": make(lambda n: setattr(n[2], "v_threshold", 0.9)),
        "steps": make(steps=T + 1),
        "readout": make(readout="sum"),
        "encoder": make(encoder="latency"),
        "bounds": make(bounds=(0.0, 2.0)),
        "decide": make(decide="argmin"),
        "normalize": make(normalize=([0.5], [0.5])),
        "domain": make(domain="binary"),
        "name": make(name="other"),
    }
    assert len({base_line, *different.values()}) == len(different) + 1
    net = stepwise()
    model = sr.wrap(net, layout="step", steps=T)
    net.train()(inputs())[0, 0].item()
    net.eval()
    again = stepwise()
    again.train()(inputs())
    assert model.fingerprint() == sr.wrap(again, layout="step", steps=T).fingerprint()  # state is no part of it
    plain = stepwise(bn=False)
    before = sr.wrap(plain, layout="step", steps=T).fingerprint()
    plain(inputs())
    assert sr.wrap(plain, layout="step", steps=T).fingerprint() == before
    shapes = []
    for shape in ((2, 3), (3, 2)):
        module = nn.Module()
        module.register_parameter("w", nn.Parameter(torch.arange(6.0).reshape(shape)))
        shapes.append(sr.wrap(module, layout="N").fingerprint())
    assert shapes[0] != shapes[1]


def test_renamed_models_share_the_net_but_not_a_session() -> None:
    net = stepwise().train()
    model = sr.wrap(net, name="a", layout="step", steps=T)
    assert model.renamed("a") is model
    with model.session():
        other = model.renamed("b")
    before = freeze(net)
    assert torch.equal(other.logits(inputs()), model.logits(inputs()))
    assert freeze(net) == before
    assert (model.name, other.name) == ("a", "b")


def test_as_module_is_stateless_and_trains_the_same_parameters() -> None:
    net = stepwise().eval()
    model = sr.wrap(net, layout="step", steps=T)
    module = model.as_module()
    assert isinstance(module, nn.Module)
    assert {id(p) for p in module.parameters()} == {id(p) for p in net.parameters()}
    assert torch.equal(module(inputs()), module(inputs()))
    assert torch.equal(module(inputs()), model.logits(inputs()))


def test_surrogates_and_settings_are_reported() -> None:
    net = stepwise()
    shared = surrogate.Erf()
    net[2].surrogate_function = shared
    model = sr.wrap(net, layout="step", steps=T, normalize=(torch.tensor([0.5]), torch.tensor([0.5])))
    model.logits(inputs())
    assert net[2].surrogate_function is shared
    settings = model.settings()
    assert settings["framework"] == "spikingjelly"
    assert settings["normalize"] == [[0.5], [0.5]]
    assert settings["parameters"] == sum(p.numel() for p in net.parameters())
    assert "model" in repr(model)
