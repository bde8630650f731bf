"""Examples of one model tried on another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor

import snnrobust as sr
from snnrobust.objectives.logits import margin
from snnrobust.search.queries import ModelQueries
from snnrobust.testing.tiny import tiny_data, tiny_model


def other() -> sr.SpikingModel:
    """A net of the same shape with slightly other weights."""
    model = sr.wrap(tiny_model().net, name="other", steps=4)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def pgd(**settings: Any) -> sr.Task:
    return sr.load("pgd", **{"epsilon": [0.05, 0.15], "steps": 5, **settings})


def test_a_model_as_its_own_source_is_the_white_box() -> None:
    tasks = [pgd(label="white"), pgd(label="self", source="tiny")]
    report = sr.evaluate(tiny_model(), tiny_data(count=30), tasks, evidence="none")
    for k in (0, 1):
        white, own = (report.cell("tiny", label, k) for label in ("white", "self"))
        for name, array in white.items():
            assert np.array_equal(array, own[name], equal_nan=array.dtype.kind == "f")


def test_examples_come_from_the_source_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target is asked for no gradient; the search does not even hear when it has won."""
    asked: list[str] = []
    gradient = ModelQueries.gradient

    def listening(self: ModelQueries, *arguments: Any) -> Any:
        asked.append(self._model.name)
        return gradient(self, *arguments)

    monkeypatch.setattr(ModelQueries, "gradient", listening)
    data, source = tiny_data(count=20), other()
    backwards: list[Tensor] = []
    target = tiny_model()
    for node in target.net:
        if isinstance(node, neuron.BaseNode):
            node.register_full_backward_hook(lambda *arguments: backwards.append(arguments[1][0]))
    sr.evaluate(target, data, [pgd(source="other")], sources={"other": source}, evidence="none")
    assert set(asked) == {"other"}
    assert backwards == []


def test_transferred_examples_are_those_of_the_source() -> None:
    """Scored by hand: the strongest example against the source, shown to the target."""
    data, source, target = tiny_data(count=30), other(), tiny_model()
    task = sr.load("fgsm", epsilon=0.1, source="other")
    report = sr.evaluate(target, data, [task], sources={"other": source}, evidence="none")
    x = data.x.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(source.logits(x), data.y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    stepped = (data.x + 0.1 * gradient.sign()).clamp(0, 1)
    at = {"start": source.logits(data.x), "end": source.logits(stepped)}
    sizes = {name: margin(logits, data.y) for name, logits in at.items()}
    wrong = {name: source.predict(logits) != data.y for name, logits in at.items()}
    ended = (wrong["end"] & ~wrong["start"]) | ((wrong["end"] == wrong["start"]) & (sizes["end"] < sizes["start"]))
    chosen = torch.where(ended[:, None, None, None], stepped, data.x)
    expected = target.predict(target.logits(chosen)) == data.y
    assert np.array_equal(report.robust("fgsm")[0], expected.numpy())
    assert 0 < expected.sum() < len(data)


def test_both_models_of_an_evaluation_may_lend_to_each_other() -> None:
    models = {"a": tiny_model(), "b": other()}
    tasks = [pgd(label="white"), pgd(label="from a", source="a"), pgd(label="from b", source="b")]
    report = sr.evaluate(models, tiny_data(count=30), tasks, evidence="none")
    for name in models:
        own, theirs = f"from {name}", f"from {'b' if name == 'a' else 'a'}"
        assert np.array_equal(report.robust(own, name), report.robust("white", name))
        assert not np.array_equal(report.robust(theirs, name), report.robust("white", name))


def test_outcomes_do_not_depend_on_the_batch_size() -> None:
    data, sources = tiny_data(count=20), {"other": other()}
    whole, small = (
        sr.evaluate(tiny_model(), data, [pgd(source="other")], sources=sources, evidence="none", batch_size=size)
        for size in (64, 3)
    )
    assert np.array_equal(whole.robust("pgd"), small.robust("pgd"))
    assert np.allclose(whole.margins("pgd"), small.margins("pgd"), atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    ("source", "sources", "message"),
    [
        ("nobody", {}, "name one of the evaluated models"),
        ("tiny", {"tiny": "other"}, "expected other names for sources"),
        ("wide", {"wide": "bounds"}, "bounds and domain"),
    ],
)
def test_sources_that_do_not_fit_are_refused(source: str, sources: dict[str, str], message: str) -> None:
    made = {
        "other": other(),
        "bounds": sr.wrap(tiny_model().net, steps=4, bounds=(0.0, 2.0)),
    }
    lent = {name: made[kind] for name, kind in sources.items()}
    with pytest.raises(sr.InputError, match=message):
        sr.evaluate(tiny_model(), tiny_data(), [pgd(source=source)], sources=lent)
