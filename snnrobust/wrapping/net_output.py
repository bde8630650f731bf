"""What a net returned, as one tensor: of tuples, dicts and lists of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from snnrobust.errors import InputError, InputTypeError

#: Where the outputs are in what the net returns: a position, a key, or a function that takes all of it.
OutputChoice = int | str | Callable[[Any], Tensor]


def chosen_output(returned: Any, choice: OutputChoice | None, count: int) -> Tensor:
    """The tensor of outputs among what a net returned for `count` samples, without trailing axes of length 1.

    Without a choice, the only tensor is taken, or the only one that may be outputs of this many samples; a list of
    [N, K] is one for each step, [T, N, K].

    Raises:
        InputError: If there is none, or several may be meant; the message has the arguments of `wrap` to choose by.
        InputTypeError: If what was chosen is no tensor.
    """
    if choice is not None:
        found = _by_choice(returned, choice)
        if _is_steps(found):
            found = torch.stack(list(found))
        if not isinstance(found, Tensor):
            raise InputTypeError(
                f"expected a tensor from output={choice!r}, got {type(found).__name__}; the net returned "
                f"{_described(returned)}"
            )
        return _squeezed(found)
    if isinstance(returned, Tensor):
        return _squeezed(returned)
    if isinstance(returned, list) and _is_steps(returned):
        return torch.stack([_squeezed(each) for each in returned])
    entries = _entries(returned)
    candidates = {key: _squeezed(each) for key, each in entries.items() if isinstance(each, Tensor)}
    if len(candidates) > 1:
        candidates = {key: each for key, each in candidates.items() if _may_be_outputs(each, count)}
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    if not candidates:
        raise InputTypeError(
            f"expected a tensor from the net, got {_described(returned)}; pass output= to wrap, a function that takes "
            f"this and returns the outputs"
        )
    calls = " or ".join(f"output={key!r}" for key in candidates)
    raise InputError(f"expected one tensor of outputs from the net, got {_described(returned)}; pass {calls} to wrap")


def _by_choice(returned: Any, choice: OutputChoice) -> Any:
    if callable(choice):
        return choice(returned)
    try:
        return returned[choice]
    except (KeyError, IndexError, TypeError):
        raise InputError(
            f"expected output={choice!r} in what the net returns, got {_described(returned)}; name one of its entries"
        ) from None


def _entries(returned: Any) -> dict[int | str, Any]:
    if isinstance(returned, Mapping):
        return dict(returned)
    return dict(enumerate(returned)) if isinstance(returned, tuple | list) else {}


def _is_steps(found: Any) -> bool:
    """Whether it is a list, or a tuple, of tensors [N, K], one for each step."""
    if not isinstance(found, Sequence) or isinstance(found, str) or len(found) == 0:
        return False
    shapes = {tuple(_squeezed(each).shape) if isinstance(each, Tensor) else None for each in found}
    only = shapes.pop()
    return not shapes and only is not None and len(only) == 2


def _may_be_outputs(out: Tensor, count: int) -> bool:
    return out.is_floating_point() and (
        (out.ndim == 2 and out.shape[0] == count) or (out.ndim == 3 and count in out.shape[:2])
    )


def _squeezed(out: Tensor) -> Tensor:
    """Without the height and width of 1 that a net without flattening leaves: [..., K, 1, 1] as [..., K]."""
    while out.ndim >= 4 and out.shape[-1] == out.shape[-2] == 1:
        out = out[..., 0, 0]
    return out


def _described(returned: Any) -> str:
    entries = _entries(returned)
    if not entries:
        return f"a tensor {list(returned.shape)}" if isinstance(returned, Tensor) else type(returned).__name__
    parts = [
        f"{key!r}: {list(each.shape) if isinstance(each, Tensor) else type(each).__name__}"
        for key, each in entries.items()
    ]
    return f"a {type(returned).__name__} {{{', '.join(parts)}}}"
