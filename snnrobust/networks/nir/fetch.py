"""`python -m snnrobust.networks.nir.fetch`: downloads the nets and data of the NIR paper."""

from __future__ import annotations

import sys

import typer

from snnrobust.errors import SnnRobustError
from snnrobust.networks.nir import archive


def run() -> int:
    """Exit status 0, or 2 with the reason."""
    try:
        folder = archive.fetch()
    except SnnRobustError as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    typer.echo(f"the nets and data of the NIR paper are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(run())
