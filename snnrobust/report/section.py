"""The parts of a page: sections with tables and pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from snnrobust.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure with its file name, caption and alternative text."""

    name: str
    figure: Figure
    caption: str
    alt: str


@dataclass(frozen=True)
class Section:
    """A heading with text, tables and pictures."""

    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
