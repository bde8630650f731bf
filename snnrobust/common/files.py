"""Atomic writes, safe file names, and deterministic file contents."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnrobust.errors import StoreError

Arrays = dict[str, np.ndarray]


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
    if folder.exists() and not folder.is_dir():
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


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        StoreError: If the file is damaged.
    """
    try:
        return from_json(path.read_bytes())
    except ValueError as error:
        raise StoreError(
            f"expected JSON in '{path}', got a damaged file ({error}); delete it and resume, or start again elsewhere"
        ) from error


def pack(arrays: Arrays) -> bytes:
    """Arrays as the bytes of an .npz file; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack(path: Path) -> Arrays:
    """Arrays of an .npz file.

    Raises:
        StoreError: If the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zip, header and value errors alike mean a damaged file
        raise StoreError(
            f"expected arrays in {path.name}, got a damaged file ({error}); delete it and resume"
        ) from error


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
