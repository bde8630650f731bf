"""The batch size: halved where memory runs out, without losing results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from snnrobust.errors import MemoryLimitError

GIB = 2**30
P = ParamSpec("P")
R = TypeVar("R")


class BatchSizer:
    """The batch size; it is halved whenever memory runs out.

    Results don't depend on it: the samples of a failed attempt are run again in smaller batches.

    Args:
        size: The first batch size.
        halved: Called with each new size before work continues.
    """

    def __init__(self, size: int, halved: Callable[[int], None] | None = None) -> None:
        self.size = size
        self._halved = halved

    def at_most(self, size: int) -> BatchSizer:
        """This batch sizer, or one limited to `size` with the same callback if this one is larger."""
        return self if size >= self.size else BatchSizer(size, self._halved)

    def attempt(self, count: int, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """The result of `work` on `count` samples; None if memory ran out: try again with at most `size` samples.

        `work` must leave everything as it was when it fails. Other errors pass through.

        Raises:
            MemoryLimitError: If memory ran out with a single sample.
        """
        try:
            return work(*args, **kwargs)
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not out_of_memory(error):
                raise
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            if count <= 1:
                raise MemoryLimitError(
                    f"expected memory for one sample at a time, got none left ({reason}); "
                    f"free memory, use fewer time steps, or use a larger device"
                ) from error
        # After the except clause: the error referenced the frames, and so the tensors of the attempt.
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no annotations for it
            torch.cuda.empty_cache()
        self.size = max(1, min(self.size, count) // 2)
        if self._halved is not None:
            self._halved(self.size)
        return None

    def over(self, rows: Tensor, work: Callable[[Tensor], R]) -> Iterator[tuple[Tensor, R]]:
        """Chunks of `rows` [M] of at most `size` each, in order, each with the result of `work`.

        Raises:
            MemoryLimitError: If memory ran out with a single sample.
        """
        while len(rows):
            chunk = rows[: self.size]
            result = self.attempt(len(chunk), work, chunk)
            if result is not None:
                rows = rows[len(chunk) :]
                yield chunk, result


#: Messages of out-of-memory errors that torch raises as a plain RuntimeError.
_OUT_OF_MEMORY_MESSAGES = (
    *("DefaultCPUAllocator", "std::bad_alloc", "could not create a memory object", "CUDA error: out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)


def out_of_memory(error: BaseException) -> bool:
    """Whether the error means that memory ran out, on a device or on the CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        sign in str(error) for sign in _OUT_OF_MEMORY_MESSAGES
    )


def even_parts(count: int, most: int) -> list[slice]:
    """0..count-1 in as few slices as possible of at most `most`, the sizes of which differ by one at most."""
    number = max(1, -(-count // max(1, most)))
    cuts = [count * k // number for k in range(number + 1)]
    return [slice(low, high) for low, high in pairwise(cuts)]
