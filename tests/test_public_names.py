"""docs/api.md lists the public names: it equals `__all__` of each module, and documents and examples use no others."""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.py"))
)
#: (document, import) -> why it may use a name that is not public.
EXCEPTIONS = {
    ("CONTRIBUTING.md", "snnrobust.audit.audited_attack.AuditedAttack"): "findings are part of this repository",
    ("CONTRIBUTING.md", "snnrobust.results.records.Finding"): "`snnrobust.Finding` is a layer above the audit",
}


def public_names() -> dict[str, list[str]]:
    """Module -> its public names, from the tables of docs/api.md."""
    names: dict[str, list[str]] = {}
    module = ""
    for line in (ROOT / "docs" / "api.md").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"##+ `(snnrobust[\w.]*)`", line):
            module = heading[1]
            names[module] = []
        elif line.startswith("| `"):
            names[module] += re.findall(r"`([^`]+)`", line.split("|")[1])
    return names


PUBLIC = public_names()


def is_public(name: str) -> bool:
    """Whether a dotted name is a public module or a public name of one."""
    module, _, last = name.rpartition(".")
    return name in PUBLIC or last in PUBLIC.get(module, ())


def python_code(document: str) -> list[str]:
    """The Python code of a document: an example, or fenced and indented blocks that can be parsed."""
    text = (ROOT / document).read_text(encoding="utf-8")
    if document.endswith(".py"):
        return [text]
    fenced = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    indented = [textwrap.dedent(block) for block in re.findall(r"(?:^ {4}.*\n)+", text, flags=re.MULTILINE)]
    return [*fenced, *(block for block in indented if is_python(block))]


def is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def used_names(code: str) -> set[str]:
    """The dotted names of this package that code imports or looks up in `sr`."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("snnrobust"):
            found |= {f"{node.module}.{each.name}" for each in node.names}
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names if each.name.startswith("snnrobust")}
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("sr", "snnrobust")
        ):
            found.add(f"snnrobust.{node.attr}")
    return found


@pytest.mark.parametrize("module", PUBLIC)
def test_the_documented_names_are_those_that_are_exported(module: str) -> None:
    exported = importlib.import_module(module).__all__
    assert len(PUBLIC[module]) == len(set(PUBLIC[module]))
    assert sorted(PUBLIC[module]) == sorted(exported)
    assert all(hasattr(importlib.import_module(module), name) for name in exported)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_use_public_names_only(document: str) -> None:
    used = {name for code in python_code(document) for name in used_names(code)}
    text = (ROOT / document).read_text(encoding="utf-8")
    used |= {f"snnrobust.{name}" for name in re.findall(r"\bsr\.([a-zA-Z]\w*)", text)}  # in the running text too
    assert {name for name in used if not is_public(name)} == {name for where, name in EXCEPTIONS if where == document}


def test_a_private_name_is_found() -> None:
    code = (
        "import snnrobust as sr\nfrom snnrobust import networks\nfrom snnrobust.search.loop import search\nsr.wrong()"
    )
    private = {"snnrobust.search.loop.search", "snnrobust.wrong"}
    assert used_names(code) == {"snnrobust", "snnrobust.networks", *private}
    assert {name for name in used_names(code) if not is_public(name)} == private


@pytest.mark.parametrize(
    ("former", "present"),
    [("snnrobust.networks.Node", "NodeFactory"), ("snnrobust.neurons.Row", "VariantRow")],
)
def test_a_renamed_public_name_still_works_with_a_warning(former: str, present: str) -> None:
    module, _, name = former.rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"{former} is now {module}.{present}"):
        old = getattr(importlib.import_module(module), name)
    assert old is getattr(importlib.import_module(module), present)


#: Importable names that are defined in several modules, with the reason.
SHARED_NAMES = {
    "Relaxed": "an estimator and an operator, both plugins whose repr is recorded",
    "load": "snnrobust.load and snnrobust.data.load, both documented",
    "verify": "snnrobust.events.verify, and the check that it calls, which names plugin and samples",
}


def test_one_name_is_one_thing() -> None:
    """No public class or function name is defined in two modules of the packages."""
    homes: dict[str, list[str]] = {}
    for package in ("snnrobust", "attacks", "landscapes"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                    homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    several = {name: found for name, found in homes.items() if len(found) > 1}
    assert several.keys() == SHARED_NAMES.keys(), several
