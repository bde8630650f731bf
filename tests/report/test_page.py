"""The page of a report: well-formed, whole, the same each time, and safe from names."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from snnrobust.report import Report
from snnrobust.report.tables import percent
from snnrobust.report.terminal import terminal_table

Page = Any  # a page that was parsed
Html = Callable[..., str]


def test_the_page_is_balanced_and_its_headings_are_in_order(page: Page) -> None:
    assert page.open == []
    ranks = [rank for rank, _ in page.headings]
    assert ranks[0] == 1
    assert ranks.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(ranks))
    assert page.all("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))


def test_every_section_is_there_and_every_link_leads_to_one(page: Page) -> None:
    titles = [title for rank, title in page.headings if rank == 2]
    wanted = (
        "Summary,Notes,Findings,Noise,Surfaces,Curvature,Activity and energy,Other measurements,Compute cost,Settings"
    )
    assert set(wanted.split(",")) < set(titles)
    assert "Attacks: linf in [0, 1], real" in titles
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link["href"] for link in page.all("a")} == {f"#{anchor}" for anchor in anchors}


def test_the_page_needs_nothing_from_outside(page: Page) -> None:
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"url\(|@import", page.text)


def test_every_picture_has_words(page: Page) -> None:
    pictures = page.all("img")
    assert len(pictures) == 4 + 3 + 6 + 3 + 3  # attacks, noise, surfaces (two each), eigenvalues, activity
    assert len(page.all("figcaption")) == len(page.all("figure")) == len(pictures)
    assert all(picture["alt"] and picture["width"] and picture["height"] for picture in pictures)


def test_every_table_says_what_its_headers_head(page: Page) -> None:
    assert len(page.all("caption")) == len(page.all("table")) > 8
    assert all(header["scope"] in ("col", "row", "rowgroup") for header in page.all("th"))


def test_the_numbers_of_the_report_are_on_the_page(full: Report, page: Page) -> None:
    curve = full.curve("pgd", "no-leak")
    assert f"{percent(curve.value[-1])}{100 * curve.low[-1]:.1f} to {100 * curve.high[-1]:.1f}" in page.text
    worst = full.worst_case("lif")
    assert worst.attribution["pgd"] > 0
    assert f"pgd {worst.attribution['pgd']}" in page.text
    assert "8/255" in page.text
    assert "zero-gradient" in page.text
    assert "torchattacks is not installed" in page.text


def test_failed_findings_come_before_missing_and_passed_ones(page: Page) -> None:
    states = re.findall(r"[✗?✓] (failed|missing|passed) +", page.text.replace("\n", " "))
    assert {"failed", "missing", "passed"} == set(states)
    own = page.text[page.text.index("no-leak: ") :]
    assert own.index("✗ failed") < own.index("✓ passed")


def test_equal_reports_give_equal_bytes(made_up: Any, full: Report, page: Page, tmp_path: Path) -> None:
    first = full.to_html(tmp_path / "a" / "report.html")
    second = made_up.report(full.models, **made_up.everything).to_html(tmp_path / "b" / "report.html")
    assert first.read_bytes() == second.read_bytes()
    names = sorted(path.name for path in (tmp_path / "a" / "report_files").iterdir())
    assert len(names) == len(page.all("img"))
    for name in names:
        beside = (tmp_path / "a" / "report_files" / name).read_bytes()
        assert beside == (tmp_path / "b" / "report_files" / name).read_bytes()
        assert beside.startswith(b"\x89PNG")


def test_a_report_from_disk_gives_the_same_page(html: Html, full: Report, tmp_path: Path) -> None:
    full.save(tmp_path / "run")
    loaded = Report.load(tmp_path / "run")
    seconds = re.compile(r"<td>[0-9.–]+</td></tr>")  # those of the last column of the compute table
    first, second = (html(each) for each in (full, loaded))
    assert seconds.sub("", first) == seconds.sub("", second)


def test_a_section_without_content_is_left_out(made_up: Any, page_of: Callable[..., Page], tmp_path: Path) -> None:
    bare = page_of(made_up.report(["lif"], []))
    assert [title for _, title in bare.headings] == [
        "Robustness of lif",
        "Summary",
        "Compute cost",
        "How to read this page",
        "Settings",
    ]
    assert not bare.all("img")
    assert "No evidence was collected" in bare.text
    assert not (tmp_path / "report_files").exists()


def test_one_model_has_all_its_attacks_in_one_picture(made_up: Any, page_of: Callable[..., Page]) -> None:
    tasks = [made_up.attack("fgsm"), made_up.attack("pgd"), made_up.attack("pgd-l2", "l2", (0.5, 1.0))]
    page = page_of(made_up.report(["lif"], tasks))
    assert len(page.all("img")) == 2
    assert [title for _, title in page.headings if "Attacks" in title] == [
        "Attacks: linf in [0, 1], real",
        "Attacks: l2 in [0, 1], real",
    ]
    assert "Worst case over all attacks, linf" in page.text
    assert "Worst case over all attacks, l2" not in page.text


def test_the_last_iterate_is_shown_where_it_was_recorded(made_up: Any, page_of: Callable[..., Page]) -> None:
    report = made_up.report(["lif"], [made_up.attack("pgd")], mode="exhaustive")
    page = page_of(report)
    assert "pgd, last iterate" in page.text
    assert "only the final iterate of the attack is scored" in page.text


HOSTILE = "<script>alert('x')</script> $\\frac{ & [bold]"


@pytest.mark.parametrize("name", [HOSTILE, "../../outside", "_hidden", "n" * 300, "神经"])
def test_names_stay_names(
    made_up: Any, page_of: Callable[..., Page], printed: Callable[..., str], name: str, tmp_path: Path
) -> None:
    tasks = [made_up.attack(name), made_up.attack(f"{name}2"), made_up.noise(f"{name}3", [0.1]), *made_up.measurements]
    report = made_up.report([name, f"{name} b"], tasks, evidence="basic", notes=[name])
    folder = tmp_path / "inner" / "deep"
    page = page_of(report, folder)
    assert page.open == []
    assert not page.all("script")
    assert name in page.text
    written = {path.parent for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {folder, folder / "report_files"}
    assert name[:5] in printed(terminal_table(report.audit, report.records), width=140)


def test_a_model_that_is_never_right_and_one_sample_still_give_a_page(
    made_up: Any, page_of: Callable[..., Page]
) -> None:
    report = made_up.report(["lif"], [made_up.attack("pgd"), made_up.noise("gaussian", [0.0])], samples=1)
    report.clean("lif")["correct"][:] = False
    assert page_of(report).open == []


def test_models_of_several_domains_have_their_own_threat_models(made_up: Any, page_of: Callable[..., Page]) -> None:
    report = made_up.report(["real", "binary"], [made_up.attack("pgd"), made_up.attack("fgsm")])
    report.run["models"]["binary"]["domain"] = "binary"
    page = page_of(report)
    assert [title for _, title in page.headings if "Attacks" in title] == [
        "Attacks: linf in [0, 1], real",
        "Attacks: linf in [0, 1], binary",
    ]
