"""FGSM and PGD equal torchattacks' own, run on a plain module that resets and repeats."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from snnrobust.common.batching import BatchSizer
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.plugin import Optimiser
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.loop import search
from snnrobust.search.queries import ModelQueries
from snnrobust.search.scoring import Scorer
from snnrobust.spike_gradients.swap import Own
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_attacks.optimisers.fgsm import FGSM
from snnrobust_attacks.optimisers.pgd import PGD

torchattacks = pytest.importorskip("torchattacks", reason="the extra 'torchattacks' is not installed")

STEPS = 6


class Plain(nn.Module):
    """The module that torchattacks needs; without `reset`, a common mistake."""

    def __init__(self, net: nn.Module, reset: bool = True) -> None:
        super().__init__()
        self.net = net
        self.reset = reset

    def forward(self, x: Tensor) -> Tensor:
        if self.reset:
            functional.reset_net(self.net)
        rates: Tensor = self.net(x.unsqueeze(0).repeat(STEPS, 1, 1, 1, 1)).mean(dim=0)
        return rates


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(2),
            nn.Linear(64, 40),
            neuron.IFNode(surrogate_function=surrogate.ATan(), v_threshold=0.3, step_mode="m"),
            nn.Linear(40, 5),
            neuron.LIFNode(surrogate_function=surrogate.ATan(), v_threshold=0.1, step_mode="m"),
        ).eval()


DATA = Dataset.of(
    torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(2)),
    torch.randint(5, (20,), generator=torch.Generator().manual_seed(3)),
)


def ours(model: SpikingModel, optimiser: Optimiser, norm: Norm, epsilon: float) -> Tensor:
    queries = ModelQueries(model, CrossEntropy(), Own())
    threat = ThreatModel(norm, epsilon, model.bounds)
    context = AttackContext(
        Scorer(model, 0, 1), queries, DATA, threat, Draws(0, "t"), sizer=BatchSizer(7), stop=False, name="ours"
    )
    out = torch.full_like(DATA.x, torch.nan)

    def done(found: SearchResult) -> None:
        out[found.rows] = found.last_x

    with model.session():
        search(context, optimiser, torch.arange(len(DATA)), done)
    return out


def test_fgsm() -> None:
    theirs = torchattacks.FGSM(Plain(net()), eps=0.05)(DATA.x, DATA.y)
    found = ours(wrap(net(), steps=STEPS), FGSM(), "linf", 0.05)
    assert (theirs - DATA.x).abs().max() > 0.04
    assert (found - theirs).abs().max() <= 1e-6


def test_pgd() -> None:
    theirs = torchattacks.PGD(Plain(net()), eps=0.05, alpha=0.01, steps=10, random_start=False)(DATA.x, DATA.y)
    found = ours(wrap(net(), steps=STEPS), PGD(steps=10, step_size=0.01, random_start=False), "linf", 0.05)
    assert (theirs - DATA.x).abs().max() > 0.04
    assert (found - theirs).abs().max() <= 1e-6


def test_pgd_l2_away_from_the_box() -> None:
    # Their L2 step clips to the box after the ball, ours projects onto both at once: equal where the box does not bind.
    theirs = torchattacks.PGDL2(Plain(net()), eps=0.3, alpha=0.1, steps=5, random_start=False)(DATA.x, DATA.y)
    found = ours(wrap(net(), steps=STEPS), PGD(steps=5, step_size=0.1, random_start=False), "l2", 0.3)
    free = ((theirs > 0) & (theirs < 1) & (found > 0) & (found < 1)).flatten(1).all(dim=1)
    assert free.any()
    assert (found - theirs)[free].abs().max() <= 1e-5


def test_control_without_the_reset_they_differ() -> None:
    stale = Plain(net(), reset=False)
    with torch.no_grad():
        stale(DATA.x)
    theirs = torchattacks.FGSM(stale, eps=0.05)(DATA.x, DATA.y)
    found = ours(wrap(net(), steps=STEPS), FGSM(), "linf", 0.05)
    assert (found - theirs).abs().max() > 1e-3
