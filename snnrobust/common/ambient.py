"""Evaluation does not depend on torch modes that happen to be on around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def neutral_modes() -> Iterator[None]:
    """Gradients on, inference mode and autocast off, new tensors float32 on the CPU; restored on leaving.

    Modes that a net sets in its own forward pass are its own business.

    Example:
        >>> with torch.inference_mode(), neutral_modes():
        ...     x = torch.ones(1, requires_grad=True)
        ...     (2 * x).backward()
        >>> x.grad
        tensor([2.])
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":  # the context slows every call of torch down
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        yield
