"""How many samples are in flight at once: fewer where memory runs out, with nothing lost."""

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
    """The number of samples that go through a net at once; it is halved whenever memory runs out.

    Outcomes don't depend on it, so that the samples of a failed attempt are taken up again, fewer at a time.

    Args:
        size: Samples at first.
        halved: Called with each new size, before anything goes on with it.
    """

    def __init__(self, size: int, halved: Callable[[int], None] | None = None) -> None:
        self.size = size
        self._halved = halved

    def at_most(self, size: int) -> BatchSizer:
        """A pool of its own, no larger than `size`, that tells of its halvings like this one; or this one."""
        return self if size >= self.size else BatchSizer(size, self._halved)

    def attempt(self, count: int, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """What `work` returns for `count` samples; None if memory ran out: ask again, for at most `size` of them.

        `work` must leave everything as it was when it fails. Other errors pass through.

        Raises:
            MemoryLimitError: If memory ran out with a single sample.
        """
        try:
            return work(*args, **kwargs)
        except (MemoryError, RuntimeError) as error:  # torch's own kind is a RuntimeError
            if not out_of_memory(error):
                raise
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            if count <= 1:
                raise MemoryLimitError(
                    f"expected memory for one sample at a time, got none left ({reason}); "
                    f"free memory, use fewer time steps, or use a larger device"
                ) from error
        # Past the except clause: the error held the frames, and with them the tensors of the attempt.
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
            torch.cuda.empty_cache()
        self.size = max(1, min(self.size, count) // 2)
        if self._halved is not None:
            self._halved(self.size)
        return None

    def over(self, rows: Tensor, work: Callable[[Tensor], R]) -> Iterator[tuple[Tensor, R]]:
        """Chunks of `rows` [M], at most `size` each, in order, and what `work` returns for each.

        Raises:
            MemoryLimitError: If memory ran out with a single sample.
        """
        while len(rows):
            chunk = rows[: self.size]
            result = self.attempt(len(chunk), work, chunk)
            if result is not None:
                rows = rows[len(chunk) :]
                yield chunk, result


#: What the libraries under torch say, whose errors have no kind of their own.
_SIGNS = (
    *("DefaultCPUAllocator", "std::bad_alloc", "could not create a memory object", "CUDA error: out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a device or on the CPU, where torch has no kind of error for it."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in str(error) for sign in _SIGNS)


def even_parts(count: int, most: int) -> list[slice]:
    """0..count-1 in as few slices as possible of at most `most`, the sizes of which differ by one at most."""
    number = max(1, -(-count // max(1, most)))
    cuts = [count * k // number for k in range(number + 1)]
    return [slice(low, high) for low, high in pairwise(cuts)]
