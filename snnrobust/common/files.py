"""Atomic writes, safe file names, and deterministic file contents."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnrobust.errors import StoreError

Arrays = dict[str, np.ndarray]
#: What to do about a damaged file of which nothing more is known.
_ANOTHER = "name another file, or write it again"


def slug(name: str) -> str:
    """A file name from any name: safe characters, and a short digest where characters were replaced.

    Capitals are replaced too, since some file systems ignore case, and so is the dot, so that no name collides with
    another file of the folder.

    Example:
        >>> slug("pgd"), slug("torchattacks:MIFGSM")
        ('pgd', 'torchattacks-MIFGSM-99f8547f')
    """
    safe = re.sub(r"[^A-Za-z0-9_+=-]+", "-", name).strip("-")[:60]
    if safe and safe == name == name.lower():
        return safe
    return f"{safe or 'x'}-{hashlib.blake2b(name.encode(errors='surrogatepass'), digest_size=4).hexdigest()}"


def write(path: Path, content: bytes) -> None:
    """Writes a whole file or none: to a temporary name beside it, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def write_checkpoint(path: Path, state: dict[str, Tensor]) -> None:
    """Writes a state dict, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write(path, buffer.getvalue())


def check_folder(folder: Path) -> Path:
    """The folder itself, if a run could be written to or continued in it.

    Raises:
        StoreError: If it is a file, or holds anything but a run.
    """
    if exists(folder) and not folder.is_dir():
        raise StoreError(f"expected a folder at '{folder}', got a file; choose another output folder")
    # A run that was killed while writing its first file leaves this temporary file.
    held = {path.name for path in folder.iterdir()} - {".run.json.tmp"} if folder.exists() else set()
    if held and "run.json" not in held:
        raise StoreError(f"expected an empty folder or a run in '{folder}', got other files; choose another folder")
    return folder


def to_json(value: Any) -> bytes:
    """Readable JSON in the order given; NaN becomes null and infinity text, since JSON has neither."""
    return (json.dumps(_json_value(value), indent=1, allow_nan=False) + "\n").encode()


def from_json(content: bytes) -> Any:
    """The value of `to_json`; null stays None."""
    return json.loads(content)


def exists(path: Path) -> bool:
    """Whether anything is at `path`, be it a file, a folder or a broken link.

    Raises:
        StoreError: If a file is where a folder on the way should be, or a folder can't be searched.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        file = next(each for each in path.parents if os.path.lexists(each) and not each.is_dir())
        raise StoreError(
            f"expected a folder at '{file.absolute()}', got a file; delete it and resume, or choose another folder"
        ) from None
    except PermissionError as error:
        raise StoreError(
            f"expected a folder that can be read at '{path.parent.absolute()}', got {error.strerror}; "
            f"change its permissions, or choose another folder"
        ) from error
    return True


@contextmanager
def reading(path: Path, what: str, cure: str = _ANOTHER) -> Iterator[None]:
    """Around reading a file: any failure becomes a `StoreError` in one line, with the whole path and the cure."""
    try:
        yield
    except StoreError:
        raise
    except PermissionError as error:
        raise StoreError(
            f"expected {what} in '{path.absolute()}', got a file that can't be read ({error.strerror}); "
            f"change its permissions, or {cure}"
        ) from error
    except Exception as error:  # whatever it is: another type, a missing key and a wrong shape alike mean damage
        reason = f"missing {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        if isinstance(error, OSError):
            reason = error.strerror or reason
        raise StoreError(
            f"expected {what} in '{path.absolute()}', got a damaged file ({' '.join(reason.split())}); {cure}"
        ) from error


def read_json(path: Path, cure: str = _ANOTHER) -> Any:
    """The value in a JSON file.

    Args:
        path: The file.
        cure: What to do if it is damaged, for the error.

    Raises:
        StoreError: If the file is damaged.
    """
    with reading(path, "JSON", cure):
        return from_json(path.read_bytes())


def pack(arrays: Arrays) -> bytes:
    """Arrays as the bytes of an .npz file; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack(path: Path, cure: str = _ANOTHER) -> Arrays:
    """Arrays of an .npz file.

    Args:
        path: The file.
        cure: What to do if it is damaged, for the error.

    Raises:
        StoreError: If the file is damaged.
    """
    with reading(path, "arrays", cure), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _json_value(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()  # measurements compute in numpy
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
