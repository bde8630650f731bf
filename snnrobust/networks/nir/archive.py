"""The nets and data of the NIR paper: part of nir's source distribution on PyPI, kept in the user's cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from snnrobust.data import download
from snnrobust.data.releases import NIR

COMMAND = "python -m snnrobust.networks.nir.fetch"
"""Downloads the archive."""
VERSION = NIR.version
ARCHIVE = NIR.archive
SHA256 = NIR.sha256
#: SHA-256 of the files that are used, by their path in the archive.
MEMBERS = dict(NIR.members)


def fetch(folder: str | Path | None = None) -> Path:
    """Downloads the nets and data of the NIR paper (16 MB) with pip, unless they are there already.

    Both the archive and the files taken out of it are compared with fixed SHA-256 sums.

    Args:
        folder: Where to keep them; None: "snnrobust/nir-1.0.3" in `XDG_CACHE_HOME`, by default ~/.cache.

    Returns:
        The folder.

    Raises:
        DownloadError: No network, or other contents than expected.
        InputError: The folder can't be made or written to.
    """
    return download.download_release(_paper(), folder)


def member(name: str, folder: str | Path | None = None) -> Path:
    """The path of a file that `fetch` has left, checked.

    Args:
        name: One of `MEMBERS`.
        folder: As for `fetch`.

    Raises:
        InputError: It was not downloaded.
        StoreError: It is damaged.
    """
    return download.downloaded_member(_paper(), name, folder)


def take_members(archive: Path, folder: Path, *, sha256: str) -> None:
    """Takes the files in `MEMBERS` out of the archive. Nothing else is read, and no path of the archive is used.

    Args:
        archive: A .tar.gz file.
        folder: Where to write them.
        sha256: Of the archive.

    Raises:
        DownloadError: The archive or a file in it has another sum, or a file is missing or a link.
        InputError: The folder can't be written to.
    """
    download.extract_members(replace(_paper(), sha256=sha256), archive, folder)


def _paper() -> download.Release:
    return replace(NIR, sha256=SHA256, members=MEMBERS, command=COMMAND)
