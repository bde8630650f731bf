"""README, CONTRIBUTING and the example are correct."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import snnrobust as sr
from snnrobust.audit import judgement
from snnrobust.testing.tiny import tiny_data, tiny_model

ROOT = Path(__file__).parent.parent
TESTS = "ruff check . && ruff format --check . && mypy && lint-imports && pytest -n auto"


def blocks(document: str, language: str) -> list[str]:
    """Fenced code blocks of a document."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_test_command_is_the_same_everywhere() -> None:
    for document in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        assert TESTS in (ROOT / document).read_text(encoding="utf-8"), document


def test_the_readme_program_runs(tmp_path: Path) -> None:
    """The Python blocks, one after the other."""
    pytest.importorskip("sklearn", reason="needs data: pip install 'snnrobust[data]'")
    program = "\n".join(blocks("README.md", "python"))
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "examples.npz").is_file()
    assert "Curve(" in ran.stdout


@pytest.mark.parametrize(("ensemble", "norm"), [("fast", "linf"), ("standard", "linf"), ("standard", "l0")])
def test_the_members_of_ensembles_are_listed(ensemble: str, norm: str) -> None:
    text = (ROOT / "docs" / "ensembles.md").read_text(encoding="utf-8")
    for number, (member, attack) in enumerate(sr.load(ensemble, norm=norm, epsilon=1.0).attacks, 1):
        cells = [f"`{member.name}`", f"`{attack.gradient!r}`", f"`{attack.objective!r}`"]
        row = " | ".join([str(number), *cells, str(member.plugin.steps), str(attack.restarts)])
        assert f"| {row} |" in text
    assert f"{len(sr.load('exhaustive', epsilon=1.0).members)} members" in text


def test_every_finding_is_explained() -> None:
    """The table of findings names all that the code can make, read from its source, and all that two nets get."""
    text = (ROOT / "docs" / "reporting.md").read_text(encoding="utf-8")
    made = set()
    for path in (*(ROOT / "snnrobust" / "audit").glob("*.py"), *(ROOT / "snnrobust" / "evaluation").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("inding"):
                names = [each.value for each in node.args if isinstance(each, ast.Constant)]
                made |= {name for name in names if isinstance(name, str) and " " not in name and name}
    assert {"surrogate-gap", "epsilon-zero", "finite-outputs", "attack-forward", "curvature-validity"} <= made
    assert {name for name in made if f"`{name}`" not in text} == set()
    models = {"plain": tiny_model(), "poisson": sr.wrap(tiny_model().net, steps=4, encoder="poisson")}
    task = sr.load("pgd", epsilon=0.1, steps=2)
    for model in models.values():
        report = sr.evaluate(model, tiny_data(), [task], evidence="basic")
        assert {each.name for each in report.findings if f"`{each.name}`" not in text} == set()


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="needs data: pip install 'snnrobust[data]'")
    folder = tmp_path / "digits"
    shutil.copytree(ROOT / "examples" / "digits", folder, ignore=shutil.ignore_patterns("*.pt", "__pycache__"))
    for command in (["train.py"], ["-m", "snnrobust", "run", "digits.toml"]):
        ran = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
    assert (folder / "digits" / "report.html").is_file()


def recipe(heading: str) -> str:
    """The first Python block under a heading of CONTRIBUTING."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    return text.partition("```python\n")[2].partition("```")[0]


def test_the_plugins_that_contributing_adds_conform(tmp_path: Path) -> None:
    """An optimiser in 20 lines, a corruption and a measurement: each a file, an entry point, and its test."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    optimiser = recipe("Add an optimiser in 20 lines")
    assert len(optimiser.split("@dataclass")[1].strip().splitlines()) <= 20
    (tmp_path / "my_attacks.py").write_text(optimiser)
    (tmp_path / "my_noise.py").write_text(recipe("Add a corruption"))
    (tmp_path / "my_numbers.py").write_text(recipe("Add a measurement"))
    metadata = tmp_path / "mine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (entry,) = re.findall(r'\[project.entry-points."(snnrobust\.\w+)"\]\n(.+)', text)
    more = re.findall(r'`([\w-]+ = "[\w:]+")`\s+under\s+`\[project.entry-points."(snnrobust\.\w+)"\]`', text)
    points = [entry, *((group, line) for line, group in more)]
    assert [group for group, _ in points] == ["snnrobust.optimisers", "snnrobust.corruptions", "snnrobust.measurements"]
    lines = [f"[{group}]\n{line.replace(chr(34), '')}\n" for group, line in points]
    (metadata / "entry_points.txt").write_text("".join(lines))
    (_, check, *_) = blocks("CONTRIBUTING.md", "python")
    (tmp_path / "test_mine.py").write_text(
        f"{check}\n\ndef test_others():\n    check_plugin('my-speckle')\n    check_plugin('my-weight-norm')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."})
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_finding_that_contributing_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"__name__": "fragile"}
    exec(recipe("Add a finding"), names)
    monkeypatch.setattr(judgement, "CLAIM_FINDINGS", (*judgement.CLAIM_FINDINGS, names["fragile_findings"]))
    report = sr.evaluate(tiny_model(), tiny_data(), [sr.load("pgd", epsilon=[0.01, 0.2], steps=2)])
    found = [each for each in report.findings if each.name == "fragile"]
    assert [each.strength for each in found] == [0.01, 0.2]
    assert all(each.passed is (each.value <= 0.1) for each in found)


def test_the_operator_that_contributing_adds() -> None:
    names: dict[str, Any] = {"__name__": "ridge"}
    exec(recipe("Add a second-order operator"), names)
    data = {"test": tiny_data(), "train": tiny_data()}
    with pytest.warns(UserWarning, match="expected curvature"):  # the identity predicts no loss
        report = sr.evaluate(tiny_model(), data, [sr.load("eigenvalues", operator=names["Ridge"](), k=2, samples=12)])
    values = [each.value for each in report.records if each.metric.startswith("eigenvalue:")]
    assert values == pytest.approx([1.0, 1.0])
    assert "identity" in {each.threat for each in report.records}
