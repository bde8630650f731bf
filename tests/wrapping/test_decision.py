"""The one rule for "is it right?": each result on logits whose answer is known, and that everybody uses it."""

from __future__ import annotations

import torch
from torch import nn

import snnrobust as sr
from snnrobust.data.batch import Batch
from snnrobust.search.scoring import Scorer
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.wrapping.decision import Correctness, predict
from snnrobust_attacks.minimum_norm.shared import wrong

NAN, INF = torch.nan, torch.inf
#: Logits for label 0 -> correct, withstands, defined, silent, tied.
CASES = [
    ([2.0, 1.0], (True, True, True, False, False)),
    ([1.0, 2.0], (False, False, True, False, False)),
    ([1.0, 1.0], (True, True, True, False, True)),  # the lower class wins a tie
    ([-1.0, -1.0], (True, True, True, False, True)),
    ([0.0, 0.0], (False, False, True, True, True)),  # silent: no class
    ([0.0, -1.0], (True, True, True, False, False)),
    ([NAN, 1.0], (False, True, False, False, False)),  # no answer, and no success of an attack
    ([1.0, NAN], (False, True, False, False, False)),
    ([INF, 1.0], (True, True, True, False, False)),  # infinities are compared like numbers
    ([1.0, INF], (False, False, True, False, False)),
    ([-INF, 1.0], (False, False, True, False, False)),  # the log of a spike count of zero
    ([1.0, -INF], (True, True, True, False, False)),
    ([-INF, -INF], (True, True, True, False, True)),
    ([INF, INF], (True, True, True, False, True)),
    ([NAN, INF], (False, True, False, False, False)),
]


def test_each_case() -> None:
    logits = torch.tensor([row for row, _ in CASES])
    found = Correctness(logits, torch.zeros(len(CASES), dtype=torch.long))
    for at, (row, expected) in enumerate(CASES):
        names = ("correct", "withstands", "defined", "silent", "tied")
        assert tuple(bool(getattr(found, name)[at]) for name in names) == expected, row


def test_ties_and_silence_of_the_other_class() -> None:
    y = torch.ones(2, dtype=torch.long)
    found = Correctness(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), y)
    assert found.correct.tolist() == [False, False]
    assert predict(torch.tensor([[1.0, 1.0], [0.0, 0.0]])).tolist() == [0, -1]


class Given(nn.Module):
    """Returns its input as logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_scoring_and_black_box_searches_use_it() -> None:
    logits = torch.tensor([row for row, _ in CASES])
    y, index = torch.zeros(len(CASES), dtype=torch.long), torch.arange(len(CASES))
    expected = Correctness(logits, y).withstands
    model = sr.wrap(Given(), layout="N", bounds=(-INF, INF))
    assert torch.equal(Scorer(model, 0, 1).score(Batch(logits, y, index)).withstands, expected)
    assert torch.equal(wrong(logits, y), ~expected)


def test_clean_accuracy_noise_activity_and_loss_agree_on_a_silent_class() -> None:
    """A net of negative weights never spikes: no number may call that right."""
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.abs_().neg_()
    data = tiny_data(count=12)
    data = sr.data.Dataset.of(data.x, torch.zeros(12, dtype=torch.long))
    tasks = [sr.load("gaussian", severity=0.1), "activity", sr.load("line", samples=12, points=3)]
    report = sr.evaluate(model, {"test": data, "train": data}, tasks, evidence="none", progress=False)
    assert report.clean()["silent"].all()
    found = {(each.label, each.metric): each.value for each in report.records}
    assert found["clean", "accuracy"] == 0.0
    assert found["gaussian", "accuracy"] == 0.0
    assert max(value for (label, metric), value in found.items() if metric.startswith("accuracy")) == 0.0
    assert {each.values["accuracy"].max() for each in report.artifacts if "accuracy" in each.values} == {0.0}
