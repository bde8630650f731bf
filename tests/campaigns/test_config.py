"""Config files: checked before a run, executing only the named factory."""

from __future__ import annotations

import pickle
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import snnrobust as sr
from snnrobust.campaigns import config, config_run
from snnrobust.errors import InputError
from snnrobust.testing.tiny import tiny_data, tiny_model

FACTORY = """
from snnrobust.testing import tiny_model

def build(scale=1.0):
    return tiny_model().net

def fail():
    raise RuntimeError("no such thing")

def number():
    return 3

def leave():
    raise SystemExit("enough")

def late():
    import sibling
    return sibling.net()

def drawn():
    import random, numpy, torch
    net = tiny_model().net
    with torch.no_grad():
        net[1].bias += torch.rand(12) + random.random() + numpy.random.rand()
    return net
"""
CONFIG = """
[models.tiny]
factory = "factory_module:build"
checkpoint = "tiny.pt"
wrap = { steps = 4 }

[data]
file = "data.npz"

[evaluate]
seed = 3

[[tasks]]
name = "pgd"
epsilon = [0.0, 0.1]
steps = 3
gradient = { name = "atan", alpha = 4.0 }

[[tasks]]
name = "gaussian"
severity = 0.1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "factory_module.py").write_text(FACTORY)
    (tmp_path / "config.toml").write_text(CONFIG)
    torch.save(tiny_model().net.state_dict(), tmp_path / "tiny.pt")
    data = tiny_data(count=20)
    np.savez(tmp_path / "data.npz", x=data.x.numpy(), y=data.y.numpy())
    monkeypatch.delitem(sys.modules, "factory_module", raising=False)
    return tmp_path


def test_a_config_runs(folder: Path) -> None:
    report = config_run.evaluate_config(folder / "config.toml", folder / "out")
    assert report.models == ["tiny"]
    assert report.run["seed"] == 3
    assert report.task("pgd")["attack"]["gradient"] == "ATan(alpha=4.0)"
    assert report.curve("pgd").value[0] == 1.0
    direct = sr.evaluate(
        {"tiny": tiny_model()},
        tiny_data(count=20),
        [sr.load("pgd", epsilon=[0.0, 0.1], steps=3, gradient={"name": "atan", "alpha": 4.0})],
        seed=3,
    )
    assert direct.curve("pgd") == report.curve("pgd")


def test_a_config_keeps_examples(folder: Path) -> None:
    (folder / "config.toml").write_text(change("seed = 3", "seed = 3\nexamples = 4"))
    report = config_run.evaluate_config(folder / "config.toml", folder / "out")
    assert len(report.examples("pgd", 0.1)) == 4
    assert report.examples("pgd", 0.0).distance.isnan().all()


@pytest.mark.slow
def test_workers_give_the_same_result(folder: Path) -> None:
    text = CONFIG.replace(
        "[models.tiny]", "[models.other]\nfactory = 'factory_module:build'\nwrap = { steps = 4 }\n\n[models.tiny]"
    )
    (folder / "config.toml").write_text(text)
    alone = config_run.evaluate_config(folder / "config.toml", folder / "alone")
    together = config_run.evaluate_config(folder / "config.toml", folder / "together", workers=2)
    assert together.models == ["other", "tiny"]
    columns = [column for column in alone.to_frame().columns if column != "seconds"]
    assert together.to_frame()[columns].equals(alone.to_frame()[columns])
    assert not together.to_frame()["seconds"].isna().any()


def change(old: str, new: str) -> str:
    assert old in CONFIG
    return CONFIG.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[tasks", "expected TOML"),
        (change("[data]", "[dta]"), "did you mean 'data'"),
        (change('file = "data.npz"', 'fil = "data.npz"'), "did you mean 'file'"),
        (change('file = "data.npz"', ""), "either name or file"),
        (change('file = "data.npz"', 'file = "data.npz"\nname = "digits"'), "either name or file"),
        (change('file = "data.npz"', 'file = "nothing.npz"'), "nothing.npz"),
        (change('file = "data.npz"', 'name = "digitz"'), "did you mean 'digits'"),
        (change('file = "data.npz"', 'file = "data.npz"\noptions = { bin_ms = 10 }'), "data by name"),
        (change('file = "data.npz"', 'name = "saccades"\noptions = { bin = 10 }'), "bin_ms"),
        (change('file = "data.npz"', 'name = "digits"\noptions = { bin_ms = 10 }'), "no bin_ms for 'digits'"),
        (change("seed = 3", "sed = 3"), "did you mean 'seed'"),
        (change("seed = 3", 'seed = "three"'), "expected int"),
        (change("seed = 3", "seed = -3"), "expected seed"),
        (change("seed = 3", "examples = -1"), "expected examples"),
        (change("factory_module:build", "factory_module"), "module:function"),
        (change("factory_module:build", "no_such_module:build"), "importable factory"),
        (change("factory_module:build", "factory_module:bild"), "importable factory"),
        (change("factory_module:build", "factory_module:fail"), "no such thing"),
        (change("factory_module:build", "factory_module:number"), "nn.Module"),
        (change("factory_module:build", "factory_module:leave"), "SystemExit: enough"),
        (change("factory_module:build", "broken_syntax:build"), "SyntaxError"),
        (change("factory_module:build", "broken_import:build"), "ZeroDivisionError"),
        (change("factory_module:build", ".factory_module:build"), "module:function"),
        (change('checkpoint = "tiny.pt"', 'checkpoint = "empty.pt"'), "weights only"),
        (change('checkpoint = "tiny.pt"', 'checkpoint = "numbers.pt"'), "fits the net"),
        (change('checkpoint = "tiny.pt"', 'device = "nonsense"'), "usable device"),
        (change("{ steps = 4 }", "{ steps = 4, bounds = 1.0 }"), "pair of numbers"),
        (change("{ steps = 4 }", "{ steps = 4, normalize = 3 }"), "(mean, std)"),
        (change("{ steps = 4 }", '{ steps = 4, encoder = "nine" }'), "'nine'"),
        (change('checkpoint = "tiny.pt"', 'checkpoint = "none.pt"'), "no such file"),
        (change('checkpoint = "tiny.pt"', 'checkpont = "tiny.pt"'), "did you mean 'checkpoint'"),
        (change('checkpoint = "tiny.pt"', 'checkpoint = "other.pt"'), "fits the net"),
        (change('checkpoint = "tiny.pt"', 'checkpoint = "evil.pt"'), "weights only"),
        (change('checkpoint = "tiny.pt"', "arguments = { scal = 2.0 }"), "scal"),
        (change("{ steps = 4 }", "{ step = 4 }"), "did you mean 'steps'"),
        (change("{ steps = 4 }", "{ steps = 0 }"), "expected steps"),
        (change("{ steps = 4 }", "{ steps = 4, bounds = [1, 0] }"), "low < high"),
        (change('name = "pgd"', 'name = "pgdd"'), "did you mean 'pgd'"),
        (change("steps = 3", "stesp = 3"), "did you mean 'steps'"),
        (change("epsilon = [0.0, 0.1]", "epsilon = -0.1"), "epsilon >= 0"),
        (change('name = "atan"', 'name = "pgd"'), "one of the estimators"),
        (change('name = "gaussian"', 'nam = "gaussian"'), "[[tasks]]"),
    ],
)
def test_bad_configs_are_refused(folder: Path, text: str, message: str) -> None:
    (folder / "config.toml").write_text(text)
    torch.save({"layer.weight": torch.zeros(1)}, folder / "other.pt")
    torch.save({1: 2}, folder / "numbers.pt")
    (folder / "empty.pt").touch()
    (folder / "broken_syntax.py").write_text("def build(:\n")
    (folder / "broken_import.py").write_text("1 / 0\n")
    with (folder / "evil.pt").open("wb") as file:
        pickle.dump(print, file)
    with pytest.raises(sr.SnnRobustError) as caught:
        config_run.evaluate_config(folder / "config.toml", folder / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "out").exists()


def test_a_missing_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sr.InputError, match="config file"):
        config.read_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (None, "got no such file; write one with torch.save"),
        (print, "got a file that can't be read as weights only"),
        ([torch.zeros(1)], "got list; save net.state_dict()"),
        ({"layer.weight": torch.zeros(1)}, "': RuntimeError: "),
    ],
)
def test_messages_about_checkpoints_name_the_full_path(
    folder: Path, held: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tiny.pt").unlink()
    if held is not None:
        torch.save(held, folder / "tiny.pt")
    monkeypatch.chdir(folder)
    with pytest.raises(sr.InputError) as caught:
        config.read_config(Path("config.toml")).load_models()
    assert f"'{folder / 'tiny.pt'}'" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_checkpoints_may_wrap_their_state_dict(folder: Path, wrapper: str) -> None:
    torch.save({wrapper: tiny_model().net.state_dict(), "epoch": 3}, folder / "tiny.pt")
    (model,) = config.read_config(folder / "config.toml").load_models().values()
    expected: Any = tiny_model().net.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.net.state_dict().items())


@pytest.mark.parametrize("error", [RuntimeError("no NVIDIA driver\nhere"), AssertionError("not compiled with CUDA")])
def test_a_device_that_is_not_there_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def to(self: torch.nn.Module, device: str) -> torch.nn.Module:
        raise error

    monkeypatch.setattr(torch.nn.Module, "to", to)
    (folder / "config.toml").write_text(change('checkpoint = "tiny.pt"', 'device = "cuda"'))
    with pytest.raises(sr.InputError, match=r"^expected a usable device for 'tiny', got 'cuda': .*; name another"):
        config.read_config(folder / "config.toml").load_models()


def test_options_of_data_by_name(folder: Path) -> None:
    text = change('file = "data.npz"', 'name = "delayed-xor"\noptions = { sizes = [8, 4, 6] }')
    (folder / "config.toml").write_text(text)
    loaded = config.read_config(folder / "config.toml").load_data()
    assert [len(each) for each in loaded.values() if each is not None] == [6, 8, 4]


def test_temporal_data_runs(folder: Path) -> None:
    (folder / "events.py").write_text(FACTORY.replace("tiny_model()", "tiny_model(temporal=True)"))
    data = tiny_data(temporal=True, count=20)
    np.savez(folder / "events.npz", x=data.x.numpy(), y=data.y.numpy())
    (folder / "events.toml").write_text("""
[models.tiny]
factory = "events:build"
wrap = { encoder = "none", domain = "binary" }

[data]
file = "events.npz"

[[tasks]]
name = "pgd"
epsilon = 1
steps = 3

[[tasks]]
name = "spike-deletion"
severity = 0.5
""")
    report = config_run.evaluate_config(folder / "events.toml", folder / "out")
    assert report.run["models"]["tiny"]["encoder"] is None
    tasks = [sr.load("pgd", epsilon=1, steps=3), sr.load("spike-deletion", severity=0.5)]
    direct = sr.evaluate({"tiny": tiny_model(temporal=True)}, data, tasks)
    assert direct.curve("pgd") == report.curve("pgd")
    assert direct.curve("spike-deletion") == report.curve("spike-deletion")


def test_a_factory_may_import_beside_the_config_while_it_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "sibling.py").write_text(FACTORY.replace("build(scale=1.0)", "net()"))
    monkeypatch.delitem(sys.modules, "sibling", raising=False)
    (folder / "config.toml").write_text(change("factory_module:build", "factory_module:late"))
    before = list(sys.path)
    assert config.read_config(folder / "config.toml").load_models()
    assert sys.path == before


def test_weights_that_a_factory_draws_are_the_same_each_time(folder: Path) -> None:
    text = change("factory_module:build", "factory_module:drawn").replace('checkpoint = "tiny.pt"', "")
    (folder / "config.toml").write_text(text)
    states = torch.random.get_rng_state(), random.getstate(), str(np.random.get_state())
    prints = [config.read_config(folder / "config.toml").load_models()["tiny"].fingerprint() for _ in range(2)]
    assert prints[0] == prints[1]
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]
    (folder / "config.toml").write_text(text.replace("seed = 3", "seed = 4"))
    assert config.read_config(folder / "config.toml").load_models()["tiny"].fingerprint() != prints[0]


def test_paths_of_plugins_start_at_the_config(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    found = []
    for path in ("tiny.pt", str(folder / "tiny.pt")):
        text = (
            f"{CONFIG}\n[[tasks]]\nname = 'connectivity'\npoints = 3\ncheckpoint = '{path}'\n[[tasks]]\nname = 'clean'"
        )
        (folder / "config.toml").write_text(text)
        found.append([task.settings() for task in config.read_config(folder / "config.toml").load_tasks()])
    assert found[0] == found[1]
    assert [each["name"] for each in found[0]] == ["pgd", "gaussian", "connectivity", "clean"]
    assert str(folder) not in str(found)
    with pytest.raises(InputError, match="No such file"):
        sr.load("connectivity", checkpoint="tiny.pt")  # control: not from Python


def test_the_root_of_data_starts_at_the_config(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(config.named_data, "load", lambda name, root: asked.append(root) or tiny_data())
    for root in ('"sets"', f'"{folder / "elsewhere"}"'):
        (folder / "config.toml").write_text(change('file = "data.npz"', f'name = "torchvision:MNIST"\nroot = {root}'))
        config.read_config(folder / "config.toml").load_data()
    assert asked == [folder / "sets", folder / "elsewhere"]
