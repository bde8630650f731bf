"""Building the native kernel: its folder, failures, and machines without a compiler."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from snnrobust.kernels import build
from snnrobust.kernels.build import BuildError
from snnrobust.kernels.native import Native

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="shell scripts stand for compilers")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate cache, and no library loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "snnrobust" / "kernels"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


@pytest.fixture
def builds(native: Native, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that grows by a line with each build: CXX returns a library that was built before, which is quick."""
    ready, log = tmp_path / "ready.so", tmp_path / "builds"
    shutil.copy(native._library._name, ready)
    log.touch()
    fake = f'[ "$1" = --version ] && exit; echo >> {log}; while [ "$1" != -o ]; do shift; done; cp {ready} "$2"'
    monkeypatch.setenv("CXX", script(tmp_path / "fake", fake))
    return log


def count(builds: Path) -> int:
    return len(builds.read_text().splitlines())


def loaded() -> Path:
    return Path(build.library.__wrapped__()._name)


def test_a_library_is_built_once_into_a_private_folder(cache: Path, builds: Path) -> None:
    path = loaded()
    assert path.parent == cache
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert [each.name for each in cache.iterdir()] == [path.name]
    assert loaded() == path
    assert count(builds) == 1


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign"])
def test_a_damaged_library_is_built_anew_and_not_loaded(damage: str, cache: Path, builds: Path) -> None:
    path = loaded()
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    path.unlink()  # the one that is loaded stays as it was
    path.write_bytes({"empty": b"", "cut": content[:5000], "flipped": bytes(flipped), "foreign": b"x" * 9999}[damage])
    assert loaded() == path
    assert path.read_bytes() == content
    assert count(builds) == 2


def test_a_library_that_does_not_load_is_built_anew(cache: Path, builds: Path) -> None:
    path = build.cache_folder() / f"native-{build._cache_key(build.find_compiler())}.so"
    path.write_bytes(b"no library" + build._checksum(b"no library"))
    assert loaded() == path
    assert count(builds) == 1
    assert build._is_intact(path)
    assert path.stat().st_size > 1000


def test_several_may_build_at_once(cache: Path, builds: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: loaded(), range(4)))
    assert len(set(paths)) == 1
    assert list(cache.iterdir()) == paths[:1]
    assert build._is_intact(paths[0])


def test_another_compiler_gets_another_library(
    cache: Path, builds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = loaded()
    text = Path(os.environ["CXX"]).read_text().partition("\n")[2]
    monkeypatch.setenv("CXX", script(tmp_path / "newer", text.replace("&& exit", "&& echo 2.0 && exit")))
    assert loaded() != first


def test_another_part_of_the_code_gives_another_library(
    cache: Path, builds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = loaded()
    (tmp_path / "part.hpp").write_text(build.HEADERS[0].read_text() + "// changed\n")
    monkeypatch.setattr(build, "HEADERS", (tmp_path / "part.hpp",))
    assert loaded() != first


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("exit 1", "status 1"),
        ("echo no such option >&2; exit 1", "no such option"),
        (
            '[ "$1" = --version ] && exit; while [ "$1" != -o ]; do shift; done; echo text > "$2"',
            "(?i)elf|file too short",
        ),
        ("exec sleep 30", "timed out"),
    ],
)
def test_a_compiler_that_fails_is_named_with_its_reason(
    compiler: str, message: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "COMPILER_TIMEOUT", 1)
    monkeypatch.setenv("CXX", script(tmp_path / "broken", compiler))
    with pytest.raises(BuildError, match=message) as caught:
        loaded()
    assert "broken" in str(caught.value)
    assert list(cache.iterdir()) == []


def test_where_there_is_no_compiler_the_message_says_so(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"got none; install g\+\+"):
        loaded()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="'no-such-compiler', which is not on the PATH"):
        loaded()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_can_write_to_is_refused(mode: int, cache: Path, builds: Path) -> None:
    loaded()
    cache.chmod(mode)
    with pytest.raises(BuildError, match="writable by you alone, since code is loaded from it"):
        loaded()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
def test_a_folder_of_somebody_else_is_refused(cache: Path, builds: Path) -> None:
    loaded()
    os.chown(cache, 12345, -1)
    with pytest.raises(BuildError, match="owner 12345"):
        loaded()


def test_a_place_where_no_folder_can_be_is_named(builds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BuildError, match="set XDG_CACHE_HOME"):
        loaded()


def test_a_full_disk_is_a_reason_too(cache: Path, builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build.tempfile, "TemporaryDirectory", full)
    with pytest.raises(BuildError, match="No space left"):
        loaded()


@pytest.mark.parametrize("relative", ["", "cache", "./cache"])
def test_without_an_absolute_cache_home_it_is_below_the_home(
    relative: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", relative)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert build.cache_folder() == tmp_path / ".cache" / "snnrobust" / "kernels"


def test_without_a_home_the_message_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(BuildError, match=r"home directory.*set XDG_CACHE_HOME"):
        build.cache_folder()


@pytest.mark.slow
def test_two_processes_build_the_real_thing_at_once(native: Native, cache: Path) -> None:
    code = "from snnrobust.kernels.build import library; print(library()._name)"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {each.communicate(timeout=300)[0].strip() for each in both}
    assert [str(each) for each in cache.iterdir()] == [*paths]
    current = torch.randn(4, 2, 30)
    from snnrobust.kernels.derivative import Derivative
    from snnrobust.kernels.dynamics import Dynamics
    from snnrobust.kernels.unit import Unit

    fresh, unit = Native(), Unit(Dynamics("divide", 2.0, 1.0, "hard"), Derivative.atan(2.0), 4)
    fresh._library = build.library.__wrapped__()
    assert str(fresh._library._name) in paths
    assert torch.equal(fresh.forward(unit, current, None), unit.eager(current))
