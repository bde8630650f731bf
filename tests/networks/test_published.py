"""Published nets: their download, and the accuracies of the paper."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import torch

import snnrobust as sr
from snnrobust.data import download
from snnrobust.networks import fetch_published, published
from snnrobust.networks.nir import archive, fetch

CONTENTS = {name: f"content of {name}".encode() for name in archive.MEMBERS}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def packed(path: Path, contents: dict[str, bytes], links: dict[str, str] | None = None) -> str:
    """Writes an archive like nir's; returns its sum."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name if name.startswith(("/", "..")) else f"nir-1.0.3/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(f"nir-1.0.3/{name}")
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return sha256(path.read_bytes())


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small archive in place of nir's."""
    monkeypatch.setattr(archive, "MEMBERS", {name: sha256(content) for name, content in CONTENTS.items()})
    path = tmp_path / archive.ARCHIVE
    monkeypatch.setattr(archive, "SHA256", packed(path, CONTENTS))
    return path


class Pip:
    """In place of `subprocess.run`: puts an archive where pip would."""

    def __init__(self, source: Path | None, error: str = "", status: int = 0) -> None:
        self.source, self.error, self.status = source, error, status
        self.commands: list[list[str]] = []
        self.requirements = ""

    def __call__(self, command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        self.requirements = Path(command[command.index("--requirement") + 1]).read_text()
        if self.source is not None:
            (Path(command[command.index("--dest") + 1]) / archive.ARCHIVE).write_bytes(self.source.read_bytes())
        return subprocess.CompletedProcess(command, self.status, "", self.error)


def use(pip: Pip, monkeypatch: pytest.MonkeyPatch) -> Pip:
    monkeypatch.setattr(download.subprocess, "run", pip)
    return pip


def test_pip_downloads_once(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip, folder = use(Pip(made), monkeypatch), tmp_path / "cache"
    for _ in range(2):
        assert fetch_published(folder) == folder
    assert len(pip.commands) == 1
    assert "--require-hashes" in pip.commands[0]
    assert pip.requirements == f"nir==1.0.3 --hash=sha256:{archive.SHA256}\n"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        Path(name).name: content for name, content in CONTENTS.items()
    }
    assert archive.member("paper/02_cnn/cnn_sinabs.nir", folder).read_bytes() == CONTENTS["paper/02_cnn/cnn_sinabs.nir"]


def test_damaged_files_are_named_and_downloaded_again(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip, folder = use(Pip(made), monkeypatch), tmp_path / "cache"
    name = "paper/02_cnn/cnn_numbers.npy"
    fetch_published(folder)
    (folder / "cnn_numbers.npy").write_bytes(b"else")
    with pytest.raises(sr.StoreError, match=r"cnn_numbers.npy' with SHA-256 .*delete it and run python -m"):
        archive.member(name, folder)
    fetch_published(folder)
    assert len(pip.commands) == 2
    assert archive.member(name, folder).read_bytes() == CONTENTS[name]


def test_cache_is_the_users(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(Pip(made), monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert fetch_published() == tmp_path / "xdg" / "snnrobust" / "nir-1.0.3"


def test_doctored_archives_are_refused(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.tar.gz"
    packed(other, {**CONTENTS, "paper/02_cnn/cnn_sinabs.nir": b"weights of somebody else"})
    use(Pip(other), monkeypatch)
    with pytest.raises(download.DownloadError, match=r"expected 'nir-1.0.3.tar.gz' with SHA-256 .*, got"):
        fetch_published(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_each_file_is_compared(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.tar.gz"
    total = packed(other, {**CONTENTS, "paper/02_cnn/cnn_sinabs.nir": b"weights of somebody else"})
    with pytest.raises(download.DownloadError, match=r"cnn_sinabs.nir' with SHA-256"):
        archive.take_members(other, tmp_path / "cache", sha256=total)
    total = packed(other, {name: CONTENTS[name] for name in list(CONTENTS)[1:]})
    with pytest.raises(download.DownloadError, match="got no such file"):
        archive.take_members(other, tmp_path / "cache", sha256=total)


def test_no_path_of_the_archive_is_used(made: Path, tmp_path: Path) -> None:
    """Members that point outside are not written; a link in place of a file is refused."""
    folder, other = tmp_path / "a" / "cache", tmp_path / "other.tar.gz"
    total = packed(other, {**CONTENTS, "../../evil": b"x", str(tmp_path / "evil"): b"x"})
    archive.take_members(other, folder, sha256=total)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        *(Path(name).name for name in CONTENTS),
        made.name,
        other.name,
    }
    name, *rest = CONTENTS
    for target in ("../../../evil", "/etc/passwd", Path(rest[0]).name):
        total = packed(other, {each: CONTENTS[each] for each in rest}, {name: target})
        with pytest.raises(download.DownloadError, match="as a plain file, got another kind"):
            archive.take_members(other, tmp_path / "b", sha256=total)


@pytest.mark.parametrize(
    ("pip", "reason"),
    [
        (
            Pip(None, "WARNING: x\nERROR: No matching distribution found for nir==1.0.3\n", 1),
            "No matching distribution",
        ),
        (Pip(None, "", 3), "exit status 3"),
        (Pip(None), "no file nir-1.0.3.tar.gz"),
    ],
)
def test_no_network(pip: Pip, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(pip, monkeypatch)
    with pytest.raises(download.DownloadError, match=rf"expected pip to download .*got: {reason}.*; connect"):
        fetch_published(tmp_path)


def test_command(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    use(Pip(None, "ERROR: no route\n", 1), monkeypatch)
    assert fetch.run() == 2
    assert capsys.readouterr().err.startswith("error: expected pip to download")
    use(Pip(made), monkeypatch)
    assert fetch.run() == 0
    assert str(tmp_path) in capsys.readouterr().out


def test_names_and_steps_are_checked(tmp_path: Path) -> None:
    with pytest.raises(sr.InputError, match="did you mean 'braille-rsnn'"):
        published("braille-rnn")
    with pytest.raises(sr.InputError, match="no steps for 'braille-rsnn'"):
        published("braille-rsnn", steps=60)
    for steps in (0, 7):
        with pytest.raises(sr.InputError, match="expected steps to"):
            published("nmnist-scnn", steps=steps)
    with pytest.raises(sr.InputError, match=r"no such file; run python -m snnrobust.networks.nir.fetch"):
        published("nmnist-scnn", folder=tmp_path)


@pytest.fixture(scope="module")
def real() -> Path:
    """The real files, from the user's own cache or the network."""
    pytest.importorskip("nir")
    pytest.importorskip("nirtorch")
    return fetch_published()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "right"),
    [
        ("nmnist-scnn", None, 10),
        ("nmnist-scnn", 60, 9),
        ("braille-rsnn", None, 133),
        ("braille-rsnn-subtract", None, 131),
    ],
)
def test_accuracy_is_that_of_the_paper(real: Path, name: str, steps: int | None, right: int) -> None:
    found = published(name, steps=steps)
    model = sr.wrap(found.net, **found.wrap)
    with torch.no_grad():
        correct = model.logits(found.x).argmax(1) == found.y
    assert int(correct.sum()) == right
    assert found.accuracy == pytest.approx(right / len(found.y))


@pytest.mark.slow
def test_real_archive_in_an_empty_cache(tmp_path: Path) -> None:
    folder = fetch_published(tmp_path)
    assert {path.name for path in folder.iterdir()} == {Path(name).name for name in archive.MEMBERS}
    assert all(os.access(path, os.R_OK) for path in folder.iterdir())
