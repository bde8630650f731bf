"""Attack success after each time step, against numbers by hand and against the attack itself."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.report import plots
from snnrobust.report.attack_over_time import BATCH, AttackOverTime, attack_over_time
from snnrobust.testing.tiny import tiny_data, tiny_model

#: Output spikes of two classes over three steps: samples of class 0, without and with an attack.
BEFORE = torch.tensor([[[1, 0], [1, 0], [0, 1]], [[1, 0], [0, 0], [0, 0]], [[0, 1], [0, 1], [0, 0]]]).float()
AFTER = torch.tensor([[[1, 0], [0, 1], [0, 1]], [[1, 0], [0, 0], [0, 0]], [[0, 1], [0, 1], [0, 0]]]).float()


def echo(name: str = "echo") -> sr.SpikingModel:
    """A net whose outputs are its inputs, summed."""
    return sr.wrap(nn.Identity(), name=name, encoder=None, domain="binary", readout="sum")


def examples() -> sr.AdversarialExamples:
    logits = AFTER.sum(dim=1)
    return sr.AdversarialExamples(
        x=AFTER,
        original=BEFORE,
        y=torch.zeros(3, dtype=torch.long),
        index=torch.arange(3),
        success=logits.argmax(dim=1) != 0,
        distance=torch.ones(3),
        logits=logits,
        member=("by hand",) * 3,
        queries=torch.zeros(3, dtype=torch.long),
        backwards=torch.zeros(3, dtype=torch.long),
        model="echo",
        label="by hand",
        threat="l0",
        epsilon=2.0,
    )


@pytest.fixture(scope="module")
def flipped() -> tuple[sr.SpikingModel, sr.AdversarialExamples]:
    model = tiny_model(temporal=True)
    task = sr.load("flips", norm="l0", epsilon=3, steps=10)
    return model, sr.attack(model, tiny_data(temporal=True, count=40), task, progress=False)


def test_numbers_by_hand() -> None:
    found = attack_over_time(echo(), examples())
    assert found.steps.tolist() == [1, 2, 3]
    # Counts of the first sample: (1,0) (2,0) (2,1) before, (1,0) (1,1) (1,2) after; a tie goes to the lowest class.
    assert found.original.correct.tolist() == [[True, True, False]] * 3
    assert found.adversarial.correct.tolist() == [[True, True, False], [True, True, False], [False, True, False]]
    assert found.original_accuracy.tolist() == [2 / 3] * 3
    assert found.adversarial_accuracy.tolist() == [2 / 3, 2 / 3, 1 / 3]
    assert found.success.tolist() == [0, 0, 0.5]
    assert found.adversarial.margin.T.tolist() == [[1, 0, -1], [1, 1, 1], [-1, -2, -2]]
    assert found.original.mean_margin.tolist() == [1 / 3, 1 / 3, 0]
    assert found.broken_from.tolist() == [3, math.inf, 1]
    assert found.success_interval[2] == pytest.approx([0.01258, 0.98742], abs=1e-5)  # Clopper-Pearson of 1 in 2
    assert "success 0.0 % after step 1, 50.0 % after step 3" in repr(found)


def test_the_last_step_is_the_attack(flipped: tuple[sr.SpikingModel, sr.AdversarialExamples]) -> None:
    model, examples = flipped
    found = attack_over_time(model, examples)
    assert 0 < examples.success.sum() < len(examples)
    assert (~found.adversarial.correct[-1]).tolist() == examples.success.tolist()
    assert found.original_accuracy[-1] == 1.0  # its labels are the model's
    assert found.success[-1] == examples.success.double().mean().item()
    true = examples.logits.gather(1, examples.y[:, None])[:, 0]
    other = examples.logits.scatter(1, examples.y[:, None], -torch.inf).amax(dim=1)
    np.testing.assert_allclose(found.adversarial.margin[-1], (true - other).numpy(), atol=1e-6)
    assert np.array_equal(np.isfinite(found.broken_from), examples.success.numpy())


def test_earlier_steps_are_those_of_a_shorter_input(flipped: tuple[sr.SpikingModel, sr.AdversarialExamples]) -> None:
    """The net is causal: the first steps of the outputs belong to the first steps of the inputs."""
    model, examples = flipped
    found = attack_over_time(model, examples)
    for step in (1, 2, 3):
        logits = model.logits(examples.x[:, :step])
        assert found.adversarial.correct[step - 1].tolist() == (model.predict(logits) == examples.y).tolist()


def test_more_samples_than_a_batch() -> None:
    few = examples()
    many: dict[str, Any] = {
        name: torch.cat([getattr(few, name)] * BATCH)
        for name in ("x", "original", "y", "success", "distance", "logits", "queries", "backwards")
    }
    found = attack_over_time(echo(), replace(few, **many, index=torch.arange(3 * BATCH), member=few.member * BATCH))
    assert found.original.correct.shape == (3, 3 * BATCH)
    assert found.success.tolist() == [0, 0, 0.5]


def test_padding_keeps_the_last_decision(tmp_path: Path) -> None:
    lengths = torch.tensor([2, 3, 3])
    known = replace(examples(), lengths=lengths)
    for found in (attack_over_time(echo(), examples(), lengths=lengths), attack_over_time(echo(), known)):
        assert found.success.tolist() == [0, 0, 0]  # the step that breaks the first sample is padding
    loaded = sr.AdversarialExamples.load(known.save(tmp_path / "examples.npz"))
    assert loaded.lengths is not None
    assert loaded.lengths.tolist() == lengths.tolist()
    assert sr.AdversarialExamples.load(examples().save(tmp_path / "whole.npz")).lengths is None


def test_no_right_original_has_no_success() -> None:
    wrong = replace(examples(), y=torch.ones(3, dtype=torch.long))
    right = BEFORE[[0, 1, 1]]  # of class 0, so that no label is right
    found = attack_over_time(echo(), replace(wrong, original=right, x=right))
    assert np.isnan(found.success).all()
    assert np.isnan(found.success_interval).all()
    assert plots.png(found.plot()).startswith(b"\x89PNG")


def test_the_plot_shows_the_numbers() -> None:
    found = attack_over_time(echo(), examples())
    figure = found.plot()
    upper, lower = figure.axes
    shares = [np.asarray(line.get_ydata()).tolist() for line in upper.get_lines()]
    expected = (found.original_accuracy, found.adversarial_accuracy, found.success)
    assert shares == [(100 * each).tolist() for each in expected]
    curves = [np.asarray(line.get_ydata()).tolist() for line in lower.get_lines()]
    assert curves[:2] == [found.original.mean_margin.tolist(), found.adversarial.mean_margin.tolist()]
    for axes in figure.axes:
        assert axes.get_xlabel() == "Time (steps)"
        assert axes.get_ylabel() in ("Samples (%)", "Margin (logits)")
        assert axes.get_title()
    assert [text.get_text().strip("\u200b") for text in figure.legends[0].get_texts()] == [
        "original",
        "after the attack",
        "attack success",
    ]
    assert plots.png(found.plot()) == plots.png(figure)
    assert not Gcf.figs


def test_infinite_margins_are_drawn(flipped: tuple[sr.SpikingModel, sr.AdversarialExamples]) -> None:
    def logs(outputs: Tensor, lengths: Tensor | None) -> Tensor:
        return outputs.sum(dim=1).log()

    model = sr.wrap(nn.Identity(), name="logs", encoder=None, domain="binary", readout=logs)
    found = attack_over_time(model, examples())
    assert plots.png(found.plot()).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (torch.tensor([1, 2]), "expected lengths"),
        (torch.tensor([0, 1, 1]), "expected lengths"),
        (torch.tensor([1, 2, 4]), "expected lengths"),
        (torch.tensor([1.0, 2.0, 3.0]), "expected lengths"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths: Tensor, message: str) -> None:
    with pytest.raises(sr.InputError, match=message):
        attack_over_time(echo(), examples(), lengths=lengths)


def test_nets_without_time_are_refused() -> None:
    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=1)

    whole: Any = sr.wrap(Whole(), layout="NT", encoder=None, domain="binary", name="whole")
    with pytest.raises(sr.InputError, match=r"two or more time steps.*'whole'"):
        attack_over_time(whole, examples())
    net: Any = nn.Identity()
    with pytest.raises(sr.InputTypeError, match="expected a SpikingModel, got Identity"):
        attack_over_time(net, examples())
    with pytest.raises(sr.InputError, match="draws"):
        attack_over_time(echo(), examples(), draws=0)


def test_images_behind_an_encoder_have_time_steps_too() -> None:
    model = tiny_model()
    examples = sr.attack(model, tiny_data(), sr.load("pgd", epsilon=0.1, steps=3), progress=False)
    found = attack_over_time(model, examples)
    assert isinstance(found, AttackOverTime)
    assert len(found.steps) == 4
    assert (~found.adversarial.correct[-1]).tolist() == examples.success.tolist()
