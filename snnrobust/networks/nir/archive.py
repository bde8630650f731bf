"""The nets and data of the NIR paper: part of nir's source distribution on PyPI, kept in the user's cache."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from snnrobust.common import files
from snnrobust.errors import InputError, SnnRobustError, StoreError

COMMAND = "python -m snnrobust.networks.nir.fetch"
"""Downloads the archive."""
VERSION = "1.0.3"
ARCHIVE = f"nir-{VERSION}.tar.gz"
SHA256 = "1ae65b549b46f2b4486ac7e8dd93c71422134a5bbcb53f07629d6a8ae8bdf100"
#: SHA-256 of the files that are used, by their path in the archive.
MEMBERS = {
    "paper/02_cnn/cnn_sinabs.nir": "e2fa55bda7aab5a772485e1b690358bcb825b303eca7dc426e3973937fcb5bcb",
    "paper/02_cnn/cnn_numbers.npy": "1bc5657eefadf5c26811bd3b5670f9aeb73776dd6c625ac3d928d962c9aa3e9c",
    "paper/03_rnn/braille_noDelay_bias_zero.nir": "f1aab3ce74024e7feac508a03b04c58d483ee3a01e293dba4b53d0b519b8650e",
    "paper/03_rnn/braille_noDelay_noBias_subtract.nir": (
        "14f59e0903d76437be3cb23d7e4be6b4e08ea476e482f7478dbb4592b29377d3"
    ),
    "paper/03_rnn/data/ds_test.pt": "1beaa818f646dccdca0ca26da613f8753c383c10ec902c9710418d14c20de75e",
}
#: Seconds that the download may take.
TIMEOUT = 900

_log = logging.getLogger(__name__)


class DownloadError(SnnRobustError):
    """A download that failed, or brought other files than expected."""


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
    at = _folder(folder)
    if all(_is_intact(at, name) for name in MEMBERS):
        return at
    with tempfile.TemporaryDirectory() as scratch:
        take_members(_download(Path(scratch)), at, sha256=SHA256)
    return at


def member(name: str, folder: str | Path | None = None) -> Path:
    """The path of a file that `fetch` has left, checked.

    Args:
        name: One of `MEMBERS`.
        folder: As for `fetch`.

    Raises:
        InputError: It was not downloaded.
        StoreError: It is damaged.
    """
    at = _folder(folder)
    path = at / Path(name).name
    if not path.is_file():
        raise InputError(f"expected '{path.name}' of the NIR paper in '{at}', got no such file; run {COMMAND}")
    if not _is_intact(at, name):
        raise StoreError(f"expected '{path}' with SHA-256 {MEMBERS[name]}, got another; delete it and run {COMMAND}")
    return path


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
    _check_sum(ARCHIVE, archive.read_bytes(), sha256)
    with tarfile.open(archive, "r:gz") as tar:
        for name, expected in MEMBERS.items():
            path = f"nir-{VERSION}/{name}"
            try:
                found = tar.getmember(path)
            except KeyError:
                raise DownloadError(f"expected '{path}' in {ARCHIVE}, got no such file; report this") from None
            # A link would be followed, to any other file of the archive.
            content = tar.extractfile(found) if found.isreg() else None
            if content is None:
                raise DownloadError(f"expected '{path}' in {ARCHIVE} as a plain file, got another kind; report this")
            data = content.read()
            _check_sum(path, data, expected)
            try:
                files.write(folder / Path(name).name, data)
            except OSError as error:
                raise InputError(
                    f"expected to write into '{folder}', got: {error}; set XDG_CACHE_HOME to another folder"
                ) from error


def _download(scratch: Path) -> Path:
    """The archive, by pip, which compares its hash too."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"nir=={VERSION} --hash=sha256:{SHA256}\n")
    # pip builds the metadata of what it downloads as source, in an environment of its own: with the present one the
    # version would be 0.0.0.
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "nir", "--require-hashes"),
        *("--retries", "2", "--dest", str(scratch), "--requirement", str(requirements)),
    ]
    _log.info("downloading %s with pip (16 MB)", ARCHIVE)
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False)
        reason = "" if done.returncode == 0 else _last_error(done.stderr) or f"exit status {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    archive = scratch / ARCHIVE
    if not reason and not archive.is_file():
        reason = f"no file {ARCHIVE}"
    if reason:
        raise DownloadError(
            f"expected pip to download {ARCHIVE} from PyPI, got: {reason}; connect to the network, or set "
            f"PIP_INDEX_URL to a mirror, and run {COMMAND} again"
        )
    return archive


def _last_error(output: str) -> str:
    lines = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    return (lines or output.split("\n"))[-1][-300:].strip()


def _folder(folder: str | Path | None) -> Path:
    if folder is not None:
        return Path(folder)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative one is to be ignored, by the XDG base directory specification.
    return (base if base.is_absolute() else Path.home() / ".cache") / "snnrobust" / f"nir-{VERSION}"


def _is_intact(folder: Path, name: str) -> bool:
    path = folder / Path(name).name
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == MEMBERS[name]


def _check_sum(what: str, content: bytes, expected: str) -> None:
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise DownloadError(
            f"expected '{what}' with SHA-256 {expected}, got {found}; do not use it, and download again"
        )
