"""Each name that a script takes from this package exists: most scripts run for too long to be run here."""

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
PACKAGES = ("snnrobust", "snnrobust_attacks", "snnrobust_landscapes")


def missing(source: str) -> list[str]:
    """Names of the package that a source takes and that don't exist."""
    tree, modules, absent = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            for alias in node.names:
                module = importlib.import_module(node.module)
                try:
                    value = getattr(module, alias.name, None) or importlib.import_module(f"{node.module}.{alias.name}")
                except ModuleNotFoundError:
                    absent.append(f"{node.module}.{alias.name}")
                    continue
                modules[alias.asname or alias.name] = value
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in PACKAGES:
                    modules[alias.asname or alias.name.split(".")[0]] = importlib.import_module(alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if isinstance(module, ModuleType) and not hasattr(module, node.attr):
                absent.append(f"{node.value.id}.{node.attr}, line {node.lineno}")
    return absent


@pytest.mark.parametrize("path", sorted(SCRIPTS.rglob("*.py")), ids=lambda path: str(path.relative_to(SCRIPTS)))
def test_each_exists(path: Path) -> None:
    assert missing(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "from snnrobust.training import trainer\ntrainer.RATE_SCALE",
        "import snnrobust as sr\nsr.evaluated",
        "from snnrobust.training import scale",
    ],
)
def test_an_absent_name_is_found(source: str) -> None:
    assert len(missing(source)) == 1
