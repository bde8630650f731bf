"""Builds the native kernel on first use, into a private folder of the user, and loads it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from snnrobust.errors import SnnRobustError

SOURCE = Path(__file__).with_name("native.cpp")
#: Headers that it includes.
HEADERS = (SOURCE.with_name("convolved.hpp"), SOURCE.with_name("event_driven.hpp"))
#: Exact arithmetic: no fast-math, and no contraction to fused multiply-adds.
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC", "-std=c++17")
#: Seconds that one call of a compiler may take.
COMPILER_TIMEOUT = 120
#: Bytes of the checksum that a library in the cache ends with; the loader ignores bytes after a library's end.
CHECKSUM = 16


class BuildError(SnnRobustError):
    """The native kernel can't be built here; the message says why and what to do."""


@cache
def library() -> ctypes.CDLL:
    """The native kernel, built unless the user's cache has an intact copy.

    Raises:
        BuildError: If there is no C++ compiler, or it fails, or there is no folder for the library.
    """
    compiler = find_compiler()
    path = cache_folder() / f"native-{_cache_key(compiler)}.so"
    if _is_intact(path):
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # for example, torch's libraries were changed
            pass
    _compile_library(compiler, path)
    return ctypes.CDLL(str(path))


def find_compiler() -> str:
    """The C++ compiler: that of CXX if it is set, else the first of g++, clang++ and c++ on the PATH.

    Raises:
        BuildError: If there is none.
    """
    chosen = os.environ.get("CXX")
    for name in (chosen,) if chosen else ("g++", "clang++", "c++"):
        if found := shutil.which(name):
            return found
    if chosen:
        raise BuildError(f"expected CXX to name a C++ compiler, got '{chosen}', which is not on the PATH; unset CXX")
    raise BuildError("expected a C++ compiler on the PATH, got none; install g++ or clang++ for a faster search")


def cache_folder() -> Path:
    """The user's folder for compiled code, which nobody else can write to.

    Raises:
        BuildError: If there is no place for it, or it belongs to somebody else or is open to others.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # A relative one is to be ignored, by the XDG base directory specification.
        base = base if base.is_absolute() else Path.home() / ".cache"
        base.mkdir(parents=True, exist_ok=True)
        for folder in (base / "snnrobust", base / "snnrobust" / "kernels"):
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_private(folder)
    except (OSError, RuntimeError) as error:
        raise BuildError(f"expected a folder for compiled code, got: {error}; set XDG_CACHE_HOME to one") from error
    return folder


def _check_private(folder: Path) -> None:
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise BuildError(
            f"expected '{folder}' to be yours and writable by you alone, since code is loaded from it, got owner "
            f"{status.st_uid} and mode {stat.filemode(status.st_mode)}; change that, or set XDG_CACHE_HOME"
        )


def _cache_key(compiler: str) -> str:
    """A digest of everything that the built code depends on."""
    version = _run_compiler([compiler, "--version"]).stdout
    digest = hashlib.blake2b(digest_size=8)
    code = "".join(each.read_text() for each in (SOURCE, *HEADERS))
    parts = (code, version, " ".join(FLAGS), torch.__version__, platform.machine(), _processor())
    digest.update("\0".join(parts).encode())
    return digest.hexdigest()


def _processor() -> str:
    """What -march=native depends on: a cache in a shared home folder is used by machines of several kinds."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _compile_library(compiler: str, path: Path) -> None:
    """Compiles to a temporary file first: a library is complete or absent, also with several processes."""
    libraries = Path(torch.__file__).with_name("lib")
    torch_exp = ("-fopenmp", "-DSLEEF", f"-L{libraries}", "-ltorch_cpu", "-lc10")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            target = Path(scratch) / path.name
            # Torch's own exponential where it can be had; the standard library's, slower, where it can't; one thread
            # for a compiler without OpenMP.
            for extra in (torch_exp, ("-fopenmp",), ()):
                built = _run_compiler([compiler, *FLAGS, str(SOURCE), "-o", str(target), *extra])
                reason = built.stderr or f"status {built.returncode}"
                if built.returncode == 0 and not (reason := _unloadable(target)):
                    with target.open("ab") as file:
                        file.write(_checksum(target.read_bytes()))
                    target.replace(path)
                    return
    except OSError as error:  # a full or read-only disk
        raise BuildError(f"expected room for the native kernel, got: {error}; set XDG_CACHE_HOME to one") from error
    reason = " ".join(reason.split())[-300:]
    raise BuildError(f"expected '{compiler}' to build the native kernel, got: {reason}; the search is slower without")


def _run_compiler(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=COMPILER_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"expected '{command[0]}' to be a C++ compiler, got: {error}; the search is slower") from error


def _unloadable(path: Path) -> str:
    """The error of loading the library, or ''."""
    try:
        ctypes.CDLL(str(path))
    except OSError as error:  # for example, a missing symbol of torch
        return str(error)
    return ""


def _is_intact(path: Path) -> bool:
    """Whether the checksum of the library fits: loading a damaged one may crash the process."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return len(content) > CHECKSUM and content[-CHECKSUM:] == _checksum(content[:-CHECKSUM])


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=CHECKSUM).digest()
