"""The straight line between two checkpoints: a loss that is known, its ends, its mirror image, and bad files."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData, prepare
from snnrobust.errors import InputError, StoreError
from snnrobust.plugin.task import load
from snnrobust.results.artifacts import Profile
from snnrobust.results.records import Record
from snnrobust.testing import check_plugin
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.measurements.connectivity import LINE, UNIT, Connectivity

Net = Callable[..., nn.Sequential]
Pair = Callable[[], tuple[nn.Sequential, nn.Sequential]]

RNG = Draws(0, "connectivity")


class Bump(nn.Module):
    """Two classes with logits (score, 0), where the score is w1 w2 plus a buffer."""

    shift: Tensor

    def __init__(self, first: float, second: float, shift: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor([[first]], dtype=torch.float64))
        self.second = nn.Parameter(torch.tensor([second], dtype=torch.float64), requires_grad=False)
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        score = (self.first[0, 0] * self.second[0] + self.shift) * torch.ones(len(x), dtype=torch.float64)
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def bump_data() -> EvaluationData:
    pair = torch.rand(4, 2), torch.zeros(4, dtype=torch.long)
    return prepare({"test": pair, "train": pair}, 3)


def saved(net: nn.Module, path: Path) -> str:
    torch.save(net.state_dict(), path)
    return str(path)


@pytest.fixture
def pair(conv_net: Net) -> Pair:
    """Makes two nets with running statistics of their own."""

    def make() -> tuple[nn.Sequential, nn.Sequential]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            nets = conv_net(), conv_net()
            for number, net in enumerate(nets):
                for module in net.modules():
                    if isinstance(module, layer.BatchNorm2d):
                        module.running_mean = torch.rand(3) * 0.2 + number * 0.1
                        module.running_var = torch.rand(3) + 0.5
        return nets

    return make


@pytest.fixture
def images(random_data: Callable[..., EvaluationData]) -> EvaluationData:
    """Samples for these nets."""
    return random_data(12, (1, 6, 6), 4, batch_size=8)


def measured(plugin: Connectivity, net: nn.Module, data: EvaluationData, **wrapping: Any) -> tuple[Profile, list[Any]]:
    profile, *records = plugin.measure(wrap(net, **wrapping), data, RNG)
    assert isinstance(profile, Profile)
    return profile, records


def value(records: list[Any], metric: str, strength: float | None = None) -> float:
    (found,) = [
        each.value
        for each in records
        if isinstance(each, Record) and each.metric == metric and strength in (None, each.strength)
    ]
    return float(found)


def test_a_known_barrier(tmp_path: Path) -> None:
    """From (1, 1) to (-1, -1) the score is (1 - 2 t)^2 and the loss softplus(-score): largest half way."""
    path = saved(Bump(-1.0, -1.0), tmp_path / "other.pt")
    net = Bump(1.0, 1.0)
    profile, records = measured(Connectivity(path, points=5, beyond=0.3), net, bump_data(), layout="N")
    t = np.array([-0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25])  # beyond goes by whole steps
    assert np.array_equal(profile.x, t)
    assert np.allclose(profile.values["loss"], np.logaddexp(0, -((1 - 2 * t) ** 2)), atol=1e-12)
    assert value(records, "loss", 0.0) == pytest.approx(np.logaddexp(0, -1))
    assert value(records, "loss", 1.0) == pytest.approx(np.logaddexp(0, -1))
    assert value(records, "barrier") == pytest.approx(np.log(2) - np.logaddexp(0, -1))
    assert {(each.threat, each.count) for each in records} == {(LINE, 4)}
    assert "other.pt" in profile.axis
    assert "in chunks of 3" in profile.caption
    assert UNIT in profile.axis


def test_frozen_parameters_and_buffers_go_along_and_whole_numbers_stay(tmp_path: Path) -> None:
    path = saved(Bump(1.0, 3.0, shift=2.0), tmp_path / "other.pt")
    net = Bump(1.0, 1.0)
    profile, records = measured(Connectivity(path, points=3), net, bump_data(), layout="N")
    assert np.allclose(profile.values["loss"], np.logaddexp(0, -np.array([1.0, 3.0, 5.0])), atol=1e-12)
    assert value(records, "barrier") == 0.0  # a convex loss along a straight score has none
    assert int(net.get_buffer("count")) == 3


def test_the_ends_are_the_two_nets(pair: Pair, images: EvaluationData, tmp_path: Path) -> None:
    first, second = pair()
    data = images
    path = saved(second, tmp_path / "second.pt")
    profile, _ = measured(Connectivity(path, points=5), first, data, steps=4)
    train = data.training("test")
    for at, net in ((0, first), (-1, second)):
        model = wrap(net, steps=4)
        with torch.no_grad():
            logits = model.logits(train.x)
        assert profile.values["loss"][at] == pytest.approx(
            float(nn.functional.cross_entropy(logits, train.y)), abs=1e-6
        )
        assert profile.values["accuracy"][at] == (model.predict(logits) == train.y).double().mean()


def test_swapping_the_ends_mirrors_the_line(pair: Pair, images: EvaluationData, tmp_path: Path) -> None:
    first, second = pair()
    paths = saved(first, tmp_path / "first.pt"), saved(second, tmp_path / "second.pt")
    there, records = measured(Connectivity(paths[1], points=5, beyond=0.25), first, images, steps=4)
    back, records_back = measured(Connectivity(paths[0], points=5, beyond=0.25), second, images, steps=4)
    assert np.allclose(there.values["loss"], back.values["loss"][::-1], atol=1e-6)
    assert np.array_equal(there.values["accuracy"], back.values["accuracy"][::-1])
    assert value(records, "barrier") == pytest.approx(value(records_back, "barrier"), abs=1e-6)
    assert np.ptp(there.values["loss"]) > 1e-3  # control


def test_the_way_to_itself_is_flat(pair: Pair, images: EvaluationData, tmp_path: Path) -> None:
    first, _ = pair()
    profile, records = measured(Connectivity(saved(first, tmp_path / "same.pt"), points=5), first, images, steps=4)
    assert np.ptp(profile.values["loss"]) == 0
    assert value(records, "barrier") == 0


def test_the_net_is_as_before(pair: Pair, images: EvaluationData, tmp_path: Path) -> None:
    first, second = pair()
    path = saved(second, tmp_path / "second.pt")
    before = copy.deepcopy(first.state_dict())
    tensors = {**dict(first.named_parameters()), **dict(first.named_buffers())}
    found = [measured(Connectivity(path, points=3), first, images, steps=4) for _ in range(2)]
    assert all(torch.equal(each, before[name]) for name, each in first.state_dict().items())
    after = {**dict(first.named_parameters()), **dict(first.named_buffers())}
    assert all(after[name] is each for name, each in tensors.items())
    assert found[0][1] == found[1][1]

    class Fragile(Bump):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 5:
                raise RuntimeError("worn out")
            return super().forward(x)

    net = Fragile(1.0, 1.0, shift=0.5)
    path = saved(Bump(2.0, 2.0, shift=1.0), tmp_path / "bump.pt")
    with pytest.raises(RuntimeError, match="worn out"):
        list(Connectivity(path).measure(wrap(net, layout="N"), bump_data(), RNG))
    assert [float(each) for each in net.state_dict().values()] == [1.0, 1.0, 0.5, 3.0]


def test_bad_files(pair: Pair, images: EvaluationData, tmp_path: Path) -> None:
    first, _ = pair()
    model, data, task = wrap(first, steps=4), images, load("clean")

    def check(path: str) -> None:
        Connectivity(path).check(model, data, task)

    with pytest.raises(InputError, match="No such file"):
        Connectivity(str(tmp_path / "none.pt"))
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(InputError, match="can't be read"):
        check(str(tmp_path / "text.pt"))
    torch.save(first, tmp_path / "net.pt")  # code, which is never run
    with pytest.raises(InputError, match="can't be read"):
        check(str(tmp_path / "net.pt"))
    torch.save({"net": first.state_dict()}, tmp_path / "nested.pt")
    with pytest.raises(InputError, match="expected a state dict"):
        check(str(tmp_path / "nested.pt"))
    with pytest.raises(InputError, match=r"without.*'0.weight'.*with.*'first'"):
        check(saved(Bump(1.0, 1.0), tmp_path / "other.pt"))
    wider = first.state_dict() | {"0.weight": torch.zeros(3, 1, 5, 5)}
    torch.save(wider, tmp_path / "wider.pt")
    with pytest.raises(InputError, match=r"'0.weight' of shape \(3, 1, 3, 3\).*\(3, 1, 5, 5\)"):
        check(str(tmp_path / "wider.pt"))
    torch.save(first.state_dict() | {"4.bias": torch.full((4,), torch.nan)}, tmp_path / "nan.pt")
    with pytest.raises(InputError, match="finite weights"):
        check(str(tmp_path / "nan.pt"))
    check(saved(first, tmp_path / "good.pt"))


@pytest.mark.parametrize("setting", [{"points": 1}, {"beyond": -0.1}, {"samples": 0}, {"logit_scale": 0.0}])
def test_settings_out_of_range(conv_net: Net, setting: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        Connectivity(saved(conv_net(), tmp_path / "net.pt"), **setting)


def test_another_content_is_another_run(tmp_path: Path) -> None:
    path = tmp_path / "end.pt"
    saved(tiny_model().net, path)
    data = tiny_data()

    def evaluate() -> sr.Report:
        task = sr.load("connectivity", checkpoint=str(path), points=3)
        splits = {"test": data, "train": data}
        return sr.evaluate(tiny_model(), splits, [task], out=tmp_path / "run", evidence="none")

    records = evaluate().to_frame()
    assert set(records[records.label == "connectivity"].metric) == {"loss", "barrier"}
    evaluate()  # goes on
    made = Connectivity(str(path))
    torch.save({name: each * 2 for name, each in tiny_model().net.state_dict().items()}, path)
    with pytest.raises(StoreError, match="tasks"):
        evaluate()
    with pytest.raises(InputError, match="other content"):
        list(made.measure(tiny_model(), EvaluationData(data, data, data, 4), RNG))


def test_a_run_is_the_same_wherever_the_file_is(pair: Pair, conv_net: Net, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    here, there = (saved(conv_net(), path) for path in (tmp_path / "end.pt", tmp_path / "folder" / "moved.pt"))
    Path(there).write_bytes(Path(here).read_bytes())
    first, second = Connectivity(here), Connectivity(there)
    assert first == second
    assert repr(first) == repr(second)
    assert str(tmp_path) not in repr(first)
    assert load("connectivity", checkpoint=here).settings() == load("connectivity", checkpoint=there).settings()
    other = Connectivity(saved(pair()[0], tmp_path / "end.pt"))  # control: another content at the same path
    assert first != other
    assert repr(first) != repr(other)


def test_conformance(tmp_path: Path) -> None:
    path = saved(tiny_model().net, tmp_path / "end.pt")
    check_plugin("connectivity", checkpoint=path, points=3)
    plugin = Connectivity(path)
    assert pickle.loads(pickle.dumps(plugin)).digest == plugin.digest
