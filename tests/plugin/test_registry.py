"""Plugins through entry points: lazy imports, isolated failures, helpful errors; with fake distributions."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from snnrobust.errors import InputError, InputTypeError, MissingExtraError, PluginError
from snnrobust.plugin import registry

Install = Callable[..., None]

GOOD = """
import dataclasses
@dataclasses.dataclass(frozen=True)
class Plugin:
    amount: float = 1.0
    def __post_init__(self):
        if self.amount < 0:
            raise ValueError("amount is below zero")
    def apply(self, x, severity, rng, index):
        return x
    def backward(self, u, state):
        return u
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Writes a distribution with one module and entry points {group: {name: attribute}} onto the path."""

    def put(distribution: str, source: str, points: dict[str, dict[str, str]], folder: str = "site") -> None:
        root = tmp_path / folder
        package, info = root / distribution, root / f"{distribution}-1.0.dist-info"
        package.mkdir(parents=True)
        info.mkdir()
        (package / "__init__.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = []
        for group, named in points.items():
            lines += [f"[snnrobust.{group}]", *(f"{name} = {distribution}:{at}" for name, at in named.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(root))
        monkeypatch.delitem(sys.modules, distribution, raising=False)

    return put


def names() -> list[str]:
    return [plugin.name for plugin in registry.plugins()]


def test_a_plugin_is_found_and_built(install: Install) -> None:
    install("snnr_good", GOOD, {"corruptions": {"good": "Plugin"}})
    info = registry.plugin_info("good")
    assert info == registry.PluginInfo("good", "corruptions", "snnr_good 1.0", "snnr_good:Plugin")
    plugin = registry.create("good", amount=2.0)
    assert plugin.amount == 2.0
    assert registry.parameter_names("good") == ["amount"]


def test_listing_imports_nothing(install: Install) -> None:
    install("snnr_lazy", GOOD, {"corruptions": {"lazy": "Plugin"}})
    assert "lazy" in names()
    registry.plugin_info("lazy")
    assert "snnr_lazy" not in sys.modules
    registry.create("lazy")
    assert "snnr_lazy" in sys.modules


def test_importing_the_core_and_listing_imports_no_first_party_plugin() -> None:
    code = (
        "import sys, snnrobust; from snnrobust.plugin import registry; registry.plugins();"
        "bad = [m for m in sys.modules if m.split('.')[0] in"
        " ('snnrobust_attacks', 'snnrobust_landscapes', 'torchattacks', 'pyhessian')]; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_names_are_unique_and_every_installed_plugin_keeps_its_protocol() -> None:
    found = names()
    assert len(found) == len(set(found))
    for plugin in registry.plugins():
        if plugin.name in ("torchattacks", "pyhessian", "connectivity"):
            continue  # the bridges need their packages, the other a checkpoint; they have their own tests
        built = registry.create(plugin.name)
        assert isinstance(built, registry.GROUPS[plugin.kind])
        assert dataclasses.is_dataclass(built)
        assert type(built).__dataclass_params__.frozen
        assert hash(built) == hash(registry.create(plugin.name))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
        ("import a_package_that_is_not_there", "ModuleNotFoundError"),
        ("1 +", "SyntaxError"),
        ("other = 1", "AttributeError"),
    ],
)
def test_a_broken_plugin_fails_alone(install: Install, source: str, reason: str) -> None:
    install("snnr_broken", source, {"corruptions": {"broken": "Plugin"}})
    assert "broken" in names()
    assert registry.create("gaussian") is not None
    with pytest.raises(PluginError, match=rf"(?s)plugin 'broken' of snnr_broken 1\.0 .*got {reason}"):
        registry.create("broken")


def test_a_missing_extra_says_how_to_install_it(install: Install) -> None:
    source = "from snnrobust.errors import MissingExtraError as Missing\nraise Missing('dreams', 'dreams', 'dreaming')"
    install("snnr_extra", source, {"corruptions": {"extra": "Plugin"}})
    with pytest.raises(MissingExtraError, match=r"pip install 'snnrobust\[dreams\]'"):
        registry.create("extra")


def test_a_name_registered_twice_fails_only_when_that_name_is_loaded(install: Install) -> None:
    install("snnr_one", GOOD, {"corruptions": {"twice": "Plugin", "once": "Plugin"}})
    install("snnr_two", GOOD, {"estimators": {"twice": "Plugin"}})
    assert names().count("twice") == 2
    assert registry.create("once").amount == 1.0
    with pytest.raises(PluginError, match=r"one plugin called 'twice', got 2: .*snnr_one 1\.0.*snnr_two 1\.0"):
        registry.create("twice")


def test_a_third_party_name_that_hides_a_first_party_one_is_noticed(install: Install) -> None:
    install("snnr_squatter", GOOD, {"corruptions": {"pgd": "Plugin"}})
    with pytest.raises(PluginError, match="one plugin called 'pgd', got 2"):
        registry.plugin_info("pgd")


def test_the_same_distribution_seen_twice_is_one(install: Install) -> None:
    install("snnr_same", GOOD, {"corruptions": {"same": "Plugin"}}, folder="first")
    install("snnr_same", GOOD, {"corruptions": {"same": "Plugin"}}, folder="second")
    assert registry.create("same").amount == 1.0


def test_unknown_names_and_parameters_get_a_hint() -> None:
    with pytest.raises(InputError, match="got 'pgdd'; did you mean 'pgd'"):
        registry.create("pgdd")
    with pytest.raises(InputError, match=r"got 'zzzzzz'; choose one of .*gaussian"):
        registry.plugin_info("zzzzzz")
    with pytest.raises(InputError, match=r"parameters of 'pgd' .*got 'step'; did you mean 'steps'"):
        registry.create("pgd", step=3)
    with pytest.raises(InputError, match=r"parameters of 'pgd' among \[.*\], got 'zzzzzz'; use one of these"):
        registry.create("pgd", zzzzzz=3)
    with pytest.raises(InputError, match="without ':'"):
        registry.create("pgd:fast")
    with pytest.raises(InputTypeError, match="name of a plugin as text, got 3"):
        registry.plugin_info(3)


def test_refused_parameters_are_input_errors(install: Install) -> None:
    """Also where a third party's plugin raises plain Python errors."""
    install("snnr_strict", GOOD, {"corruptions": {"strict": "Plugin"}})
    with pytest.raises(InputError, match=r"fitting parameters for 'strict'.*amount is below zero"):
        registry.create("strict", amount=-1.0)
    with pytest.raises(InputTypeError, match="fitting parameters for 'strict'"):
        registry.create("strict", amount="much")
    with pytest.raises(InputError, match="steps"):
        registry.create("pgd", steps=0)


def test_a_plugin_of_the_wrong_protocol_is_refused(install: Install) -> None:
    install("snnr_wrong", GOOD, {"optimisers": {"wrong": "Plugin"}})
    with pytest.raises(
        PluginError, match=r"implement Optimiser, got Plugin without \['init', 'needs', 'step', 'steps'\]"
    ):
        registry.create("wrong")


@pytest.mark.parametrize("source", ["class Plugin: pass", "def Plugin(): pass", "Plugin = 3"])
def test_what_is_no_dataclass_is_refused(install: Install, source: str) -> None:
    install("snnr_plain", source, {"corruptions": {"plain": "Plugin"}})
    with pytest.raises(PluginError, match="'plain' to be a frozen dataclass"):
        registry.create("plain")
