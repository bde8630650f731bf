"""The layers of the packages, held by tools: what imports what, circles, the root's files, and former paths."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import grimp
import pytest

import snnrobust.plugin
from snnrobust.kernels.backends import backends

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "snnrobust": ROOT / "snnrobust",
    "snnrobust_attacks": ROOT / "attacks" / "snnrobust_attacks",
    "snnrobust_landscapes": ROOT / "landscapes" / "snnrobust_landscapes",
}
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]


def contract(name: str) -> dict[str, Any]:
    (found,) = (each for each in LINTER["contracts"] if each["name"] == name)
    return dict(found)


def circles(imports: Mapping[str, Set[str]]) -> list[set[str]]:
    """Sets of modules that import each other, directly or not: strongly connected components (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        path.append(module)
        for other in sorted(imports[module]):
            if other not in order:
                visit(other)
            if other in path:
                low[module] = min(low[module], low[other])
        if low[module] == order[module]:
            at = path.index(module)
            found.append(set(path[at:]))
            del path[at:]

    for module in sorted(imports):
        if module not in order:
            visit(module)
    return [each for each in found if len(each) > 1]


def test_a_circle_is_found() -> None:
    imports = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert sorted(map(sorted, circles(imports))) == [["a", "b", "c"], ["d", "e"]]


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Faces (`__init__`) and imports for types included."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    assert len(graph.modules) > 200
    assert circles({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}) == []


def test_no_contract_looks_away() -> None:
    """Neither imports that a contract leaves out, nor imports for types that none of them sees."""
    assert not re.search(r"ignore_imports|exclude_type_checking|allow_indirect", (ROOT / "pyproject.toml").read_text())
    assert {"layers", "forbidden", "acyclic_siblings"} <= {each["type"] for each in LINTER["contracts"]}


def test_the_plugin_packages_know_no_layer_above_theirs() -> None:
    """The lists of what they may not import are all the layers from the first one on that is not theirs to use."""
    layers = [name.strip() for layer in contract("layers of the core")["layers"] for name in layer.split("|")]
    former = {"nets", "partial", "spike_gradient", "__main__"}
    for package, highest, other in (
        (
            "attacks import nothing above objectives and spike_gradients, and no landscapes",
            "acceleration",
            "landscapes",
        ),
        ("landscapes import nothing above acceleration, and no attacks", "search", "attacks"),
    ):
        above = {f"snnrobust.{name}" for name in layers[: layers.index(highest) + 1] if name not in former}
        assert set(contract(package)["forbidden_modules"]) == above | {f"snnrobust_{other}"}


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("snnrobust/common/files.py", "from snnrobust.results.store import Store", "layers of the core"),
        ("snnrobust/search/loop.py", "import snnrobust_attacks", "the core never imports"),
        ("snnrobust/kernels/unit.py", "import snnrobust.kernels.fast", "no circle"),
        (
            "attacks/snnrobust_attacks/optimisers/pgd.py",
            "import snnrobust.search.queries",
            "attacks import nothing above",
        ),
    ],
)
def test_import_linter_sees(file: str, line: str, broken: str, tmp_path: Path) -> None:
    """Negative controls, each an import that looks harmless: one for types is enough."""
    for package, folder in PACKAGES.items():
        shutil.copytree(folder, tmp_path / folder.relative_to(ROOT), ignore=shutil.ignore_patterns("__pycache__"))
        assert (tmp_path / folder.relative_to(ROOT) / "__init__.py").is_file(), package
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    source = tmp_path / file
    source.write_text(f"{source.read_text()}\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    {line}\n")
    paths = [str(tmp_path), str(tmp_path / "attacks"), str(tmp_path / "landscapes")]
    command = f"import sys; sys.path[:0] = {paths}; from importlinter.cli import lint_imports_command as main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(rf"{broken}.* BROKEN", done.stdout), done.stdout


def test_no_own_import_is_hidden_in_a_function() -> None:
    hidden = []
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                    for node in ast.walk(function):
                        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
                        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                        hidden += [f"{path}: {name}" for name in names if name.partition(".")[0] in PACKAGES]
        assert folder.is_dir(), package
    assert hidden == []


def test_the_root_of_the_core_is_small() -> None:
    assert len(list(PACKAGES["snnrobust"].glob("*.py"))) <= 15


def test_every_folder_says_what_it_holds() -> None:
    for folder in PACKAGES.values():
        for path in folder.rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("snnrobust.nets", {"mlp": "snnrobust.networks.mlp", "conv": "snnrobust.networks.conv"}),
        (
            "snnrobust.partial",
            {
                "Partial": "snnrobust.plugin.MeasurementCheckpoint",
                "measured": "snnrobust.evaluation.run_measurement.run_measurement",
            },
        ),
        (
            "snnrobust.spike_gradient",
            {
                "SpikeGradient": "snnrobust.SpikeGradient",
                "passes": "snnrobust.spike_gradients.swap.spike_gradient_contexts",
                "Own": "snnrobust.spike_gradients.swap.Own",
                "spike": "snnrobust.kernels.spike.spike",
            },
        ),
    ],
)
def test_a_documented_path_that_moved_still_works_and_says_where_to(former: str, now: dict[str, str]) -> None:
    sys.modules.pop(former, None)
    with pytest.warns(DeprecationWarning, match=f"{former}.* is now snnrobust") as warned:
        module = importlib.import_module(former)
    assert len(warned) == 1
    for name, home in now.items():
        package, _, present = home.rpartition(".")
        assert getattr(module, name) is getattr(importlib.import_module(package), present)


def test_a_documented_name_that_changed_still_works_and_says_what_it_is_called_now() -> None:
    with pytest.warns(DeprecationWarning, match=r"snnrobust.plugin.Partial is now .*plugin.MeasurementCheckpoint"):
        assert snnrobust.plugin.Partial is snnrobust.plugin.MeasurementCheckpoint
    with pytest.raises(AttributeError, match="no attribute 'Partiall'"):
        snnrobust.plugin.Partiall  # noqa: B018  # the lookup is what fails


def rows(heading: str) -> list[list[str]]:
    """The names in backticks in the first column of the table under a heading of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    lines = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    return [re.findall(r"`([^`]+)`", line.split("|")[1]) for line in lines]


def test_the_documented_layers_are_those_that_are_held() -> None:
    former = {"nets", "partial", "spike_gradient", "__main__"}
    lines = [[name.strip() for name in line.split("|")] for line in contract("layers of the core")["layers"]]
    assert rows("Layers") == [line for line in lines if not former & set(line)]


@pytest.mark.skipif("native" not in {each.name for each in backends("cpu")[0]}, reason="needs a C++ compiler")
def test_the_documented_step_of_pgd_is_the_one_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "studies"))
    files = [file for file, _ in importlib.import_module("pgd_step").trip(accelerate=True)]
    assert [f"snnrobust/{name}" if "snnrobust" not in name else name for (name,) in rows("One step of PGD")] == list(
        dict.fromkeys(files)
    )
