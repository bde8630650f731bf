"""Adversarial examples in hand: `sr.attack` and `report.examples` against what `evaluate` says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import snnrobust as sr
from snnrobust.evaluation.attack_outcomes import KeptExamples
from snnrobust.search.queries import ModelQueries
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.threat_models.verify import verify

COUNT = 24
ATTACKS: list[tuple[str, str, float, dict[str, Any]]] = [
    ("fgsm", "linf", 0.05, {}),
    ("r-fgsm", "linf", 0.05, {}),
    ("pgd", "linf", 0.04, {"steps": 4, "restarts": 2, "gradient": "atan"}),
    ("pgd", "l2", 0.2, {"steps": 4}),
    ("pgd", "l1", 0.6, {"steps": 4}),
    ("momentum", "linf", 0.04, {"steps": 4}),
    ("apgd", "linf", 0.04, {"steps": 5, "objective": "targeted-dlr"}),
    ("apgd", "l2", 0.2, {"steps": 5, "objective": "graded-margin"}),
    ("sa-pgd", "linf", 0.04, {"steps": 4}),
    ("square", "linf", 0.05, {"steps": 15}),
    ("square", "l2", 0.3, {"steps": 15}),
    ("random-search", "l1", 0.6, {"steps": 15}),
    ("flips", "l0", 3.0, {"steps": 4}),
    ("fast", "linf", 0.04, {}),
    ("minimum-norm", "linf", 0.05, {"steps": 6}),
    ("minimum-norm", "l2", 0.2, {"steps": 6}),
    ("hop-skip-jump", "l2", 0.4, {}),
]


def same(first: sr.AdversarialExamples, second: sr.AdversarialExamples) -> None:
    """Equal in every field, to the bit."""
    for name, value in vars(first).items():
        other = getattr(second, name)
        if isinstance(value, Tensor):
            assert torch.equal(value.nan_to_num(nan=-9.0), other.nan_to_num(nan=-9.0)), name
        else:
            assert value == other, name


def consistent(found: sr.AdversarialExamples, model: sr.SpikingModel, norm: Any) -> None:
    """What the fields say of each other, worked out anew."""
    threat = ThreatModel(norm, found.epsilon, model.bounds, model.domain)
    verify(found.x, found.original, threat, found.index.tolist(), "attack")
    change = (found.x - found.original).double().flatten(1).abs()
    size = {"linf": change.amax(1), "l2": (change**2).sum(1).sqrt(), "l1": change.sum(1), "l0": (change > 0).sum(1)}
    assert found.distance.isnan().equal(~found.success)
    torch.testing.assert_close(found.distance[found.success], size[norm].float()[found.success])
    changed = (found.x != found.original).flatten(1).any(dim=1)
    assert all(bool(name) for name, moved in zip(found.member, changed, strict=True) if moved)


@pytest.mark.parametrize(("name", "norm", "epsilon", "settings"), ATTACKS, ids=lambda value: str(value)[:20])
def test_equals_what_evaluate_says_for_every_attack_and_norm(
    name: str, norm: str, epsilon: float, settings: dict[str, Any]
) -> None:
    model, data = tiny_model(), tiny_data(count=COUNT)
    task = sr.load(name, norm=norm, epsilon=epsilon, **settings)
    found = sr.attack(model, data, task, seed=2, batch_size=10)
    report = sr.evaluate(model, data, [task], seed=2, evidence="none")
    cell = report.cell("tiny", name, 0)
    assert np.array_equal(~found.success.numpy(), report.robust(name)[0])
    assert np.array_equal(found.queries.numpy(), cell["forwards"])
    assert np.array_equal(found.backwards.numpy(), cell["backwards"])
    clean = report.clean()["correct"]
    assert np.array_equal(
        found.distance[clean & ~report.robust(name)[0]], cell["distance"][clean & (cell["correct"] == 0)]
    )
    labels = [each["label"] for each in report.task(name)["members"]] or [name]
    expected = [labels[k] if k >= 0 else "" for k in np.where(clean, cell["member"], -1)]
    assert list(found.member) == expected
    assert found.robust_accuracy == pytest.approx(report.curve(name).value[0])
    torch.testing.assert_close(found.logits, model.logits(found.x).detach())
    assert torch.equal(model.predict(found.logits) != found.y, found.success)
    consistent(found, model, norm)


@pytest.mark.parametrize("name", ["pgd", "square"])
def test_does_not_depend_on_the_batch_size(name: str) -> None:
    task = sr.load(name, epsilon=0.05, steps=6)
    whole, small = (sr.attack(tiny_model(), tiny_data(count=20), task, batch_size=size) for size in (20, 3))
    same(whole, small)
    assert 0 < int(whole.success.sum()) < 20


def test_samples_that_are_wrong_without_an_attack_stay_as_they_are() -> None:
    data = tiny_data(count=12)
    wrong = sr.data.Dataset.of(data.x, torch.where(torch.arange(12) < 4, (data.y + 1) % 3, data.y))
    found = sr.attack(tiny_model(), wrong, sr.load("pgd", epsilon=0.02, steps=2))
    assert found.success[:4].all()
    assert torch.equal(found.x[:4], data.x[:4])
    assert found.distance[:4].tolist() == [0.0] * 4
    assert found.member[:4] == ("",) * 4
    assert found.queries[:4].tolist() == [0] * 4
    assert not found.success.all()


def test_a_stochastic_net(poisson_model: Callable[..., sr.SpikingModel]) -> None:
    model, data = poisson_model(steps=6), tiny_data(count=12)
    task = sr.load("pgd", epsilon=0.03, steps=3, eot=2, restarts=2)
    found = sr.attack(model, data, task, batch_size=5)
    report = sr.evaluate(model, data, [task], evidence="none")
    assert np.array_equal(~found.success.numpy(), report.robust("pgd")[0])
    assert torch.equal(model.predict(found.logits) != found.y, found.success)  # the mean over scoring draws decides
    assert 0 < int(found.success.sum()) < len(found)
    other = sr.attack(model, data, task, batch_size=12)
    # Logits of another batch size are rounded otherwise, which may decide between two iterates of equal margin.
    assert torch.equal(found.success, other.success)
    assert torch.equal(found.queries, other.queries)
    assert torch.equal(found.x[found.success], other.x[found.success])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_examples_keep_the_precision_of_the_model(dtype: torch.dtype) -> None:
    """An example that is rounded on its way to the user may be none."""
    model, data = sr.wrap(tiny_model().net.to(dtype), name="tiny", steps=4), tiny_data(count=COUNT)
    found = sr.attack(model, data, sr.load("pgd", epsilon=0.05, steps=5))
    assert found.x.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(model.logits(found.x).detach().to(found.logits.dtype), found.logits)
    assert 0 < int(found.success.sum()) < COUNT
    assert torch.equal(found.original, data.x.to(found.x.dtype))
    verify(
        found.x, found.original, ThreatModel("linf", 0.05, model.bounds, model.domain), found.index.tolist(), "attack"
    )
    assert found.distance[found.success].max() <= 0.05 * (1 + 1e-6)  # the search is not rounded to the net's precision
    size = (found.x - found.original).double().flatten(1).abs().amax(1)
    torch.testing.assert_close(found.distance[found.success].double(), size[found.success])


def test_padded_sequences() -> None:
    model, plain = tiny_model(temporal=True), tiny_data(temporal=True, count=8)
    lengths = torch.tensor([1, 2, 3, 4, 1, 2, 3, 4])
    y = model.predict(model.logits(plain.x, lengths=lengths)).clamp_min(0).detach()
    data = sr.data.Dataset.of(plain.x, y, lengths=lengths)
    found = sr.attack(model, data, sr.load("flips", norm="l0", epsilon=2, steps=4))
    for row, steps in enumerate(lengths.tolist()):
        assert torch.equal(found.x[row, steps:], plain.x[row, steps:])
    torch.testing.assert_close(found.logits, model.logits(found.x, lengths=lengths).detach())
    assert (found.x != plain.x).any()
    assert np.array_equal(
        ~found.success.numpy(),
        sr.evaluate(model, data, [sr.load("flips", norm="l0", epsilon=2, steps=4)], evidence="none").robust("flips")[0],
    )


def test_saved_and_loaded(tmp_path: Path) -> None:
    found = sr.attack(tiny_model(), tiny_data(), sr.load("fast", epsilon=0.05))
    same(found, sr.AdversarialExamples.load(found.save(tmp_path / "examples.npz")))
    with pytest.raises(sr.StoreError, match="no such file"):
        sr.AdversarialExamples.load(tmp_path / "nothing.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(sr.StoreError, match="without"):
        sr.AdversarialExamples.load(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"model": {"tiny": tiny_model()}}, sr.InputTypeError, "one SpikingModel"),
        ({"task": "pgd"}, sr.InputTypeError, "an attack from sr.load"),
        ({"task": sr.load("gaussian", severity=0.1)}, sr.InputTypeError, "kind 'noise'"),
        ({"task": sr.load("pgd", epsilon=[0.1, 0.2])}, sr.InputError, "one epsilon"),
        ({"seed": -1}, sr.InputError, "seed"),
        ({"batch_size": 0}, sr.InputError, "batch_size"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    given = {"model": tiny_model(), "data": tiny_data(), "task": sr.load("pgd", epsilon=0.1), **arguments}
    with pytest.raises(kind, match=message):
        sr.attack(given.pop("model"), given.pop("data"), given.pop("task"), **given)


RADII = [0.0, 0.02, 0.05, 0.1, 0.3]


@pytest.mark.parametrize("mode", ["nested", "exhaustive", "bisect"])
@pytest.mark.parametrize("name", ["pgd", "fast", "minimum-norm"])
def test_kept_examples_are_what_the_curve_counts(mode: Any, name: str, tmp_path: Path) -> None:
    model, data = tiny_model(), tiny_data(count=20)
    settings = {} if name == "fast" else {"steps": 5}
    task = sr.load(name, epsilon=RADII, **settings)
    report = sr.evaluate(model, data, [task], mode=mode, evidence="none", examples=8, out=tmp_path)
    assert report.execution_paths() == sr.Report.load(tmp_path).execution_paths() != {}
    loaded = sr.Report.load(tmp_path)
    loaded.save(tmp_path / "copy")
    assert sr.Report.load(tmp_path / "copy").execution_paths() == report.execution_paths()
    for k, radius in enumerate(RADII):
        found = report.examples(name, radius)
        assert np.array_equal(~found.success.numpy(), report.robust(name)[k][:8])
        assert torch.equal(model.predict(model.logits(found.x)) != found.y, found.success)
        torch.testing.assert_close(found.logits, model.logits(found.x).detach())
        consistent(found, model, "linf")
        same(found, loaded.examples(name, radius))
        same(found, sr.Report.load(tmp_path / "copy").examples(name, radius))
    assert report.run["examples"] == 8
    assert report.run["example_bytes"] > 0


def test_more_examples_than_samples_are_all_samples() -> None:
    report = sr.evaluate(tiny_model(), tiny_data(), [sr.load("fgsm", epsilon=0.1)], examples=10**6, evidence="none")
    assert len(report.examples("fgsm", 0.1)) == len(tiny_data())


def test_outcomes_do_not_depend_on_what_is_kept(
    result_bytes: Callable[[Path], dict[str, bytes]], tmp_path: Path
) -> None:
    task = sr.load("pgd", epsilon=[0.05, 0.1], steps=3)
    for count in (0, 5):
        sr.evaluate(tiny_model(), tiny_data(), [task], examples=count, out=tmp_path / str(count))
    without, kept = (result_bytes(tmp_path / str(count)) for count in (0, 5))
    further = {name for name in kept if name.endswith(".examples.npz")}
    assert len(further) == 3
    changed = {name for name in without if without[name] != kept[name]}
    assert {Path(name).name for name in changed} <= {"run.json"}
    assert set(kept) - set(without) == further


@pytest.mark.parametrize("at", [2, 4, 7])
def test_an_interrupt_between_two_fields_of_an_outcome_leaves_no_contradiction(
    at: int, counted: Callable[..., Any], tmp_path: Path
) -> None:
    task = sr.load("pgd", epsilon=0.05, steps=4, restarts=2)
    run = partial(sr.evaluate, tiny_model(), tiny_data(count=20), [task], examples=20, batch_size=4, evidence="none")
    with pytest.MonkeyPatch.context() as patch:
        put, left = KeptExamples.put, [at]

        def interrupted(self: KeptExamples, *arguments: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            put(self, *arguments)

        patch.setattr(KeptExamples, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(out=tmp_path)
    report = run(out=tmp_path)
    found = report.examples("pgd", 0.05)
    assert np.array_equal(~found.success.numpy(), report.robust("pgd")[0])
    same(found, run().examples("pgd", 0.05))


def test_what_is_handed_out_is_a_copy() -> None:
    report = sr.evaluate(tiny_model(), tiny_data(), [sr.load("fgsm", epsilon=0.1)], evidence="none", examples=4)
    first = report.examples("fgsm", 0.1)
    for tensor in (first.x, first.original, first.y, first.index, first.logits, first.success, first.distance):
        tensor.zero_()
    assert torch.equal(report.examples("fgsm", 0.1).original, tiny_data().x[:4])
    assert torch.equal(report.examples("fgsm", 0.1).y, tiny_data().y[:4])


def test_an_interrupted_run_keeps_the_same_examples(
    counted: Callable[..., Any], result_bytes: Callable[[Path], dict[str, bytes]], tmp_path: Path
) -> None:
    task = sr.load("pgd", epsilon=[0.02, 0.05, 0.1], steps=4, restarts=2)
    run = partial(sr.evaluate, tiny_model(), tiny_data(count=20), [task], examples=15, batch_size=4, evidence="none")
    run(out=tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        gradient, left = ModelQueries.gradient, [20]

        def interrupted(self: ModelQueries, *arguments: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return gradient(self, *arguments)

        patch.setattr(ModelQueries, "gradient", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(out=tmp_path / "stopped")
    assert list((tmp_path / "stopped").rglob("*.partial.npz"))
    run(out=tmp_path / "stopped")
    assert result_bytes(tmp_path / "stopped") == result_bytes(tmp_path / "whole")
    with pytest.raises(sr.StoreError, match="examples"):
        run(out=tmp_path / "stopped", examples=3)


def test_a_run_without_examples_says_how_to_get_them() -> None:
    report = sr.evaluate(tiny_model(), tiny_data(), [sr.load("fgsm", epsilon=0.1)], evidence="none")
    with pytest.raises(sr.InputError, match="examples=N"):
        report.examples("fgsm", 0.1)
    kept = sr.evaluate(tiny_model(), tiny_data(), [sr.load("fgsm", epsilon=0.1)], evidence="none", examples=2)
    with pytest.raises(sr.InputError, match=r"a radius in \[0.1\]"):
        kept.examples("fgsm", 0.2)
    with pytest.raises(sr.InputError, match="label of an attack"):
        kept.examples("clean", 0.0)


def test_the_size_is_told_before_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    sr.evaluate(tiny_model(), tiny_data(), [sr.load("fgsm", epsilon=0.1)], evidence="none", examples=5, progress=True)
    assert "examples of the first 5 samples" in capsys.readouterr().err
