"""Randomness keyed by (seed, label, sample, draw), so that results don't depend on batches or order."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

__all__ = ["Draws"]

#: Between the labels of a key.
SEPARATOR = "\x1f"


def key(seed: int, *parts: object, bits: int = 128) -> int:
    """A number from `seed` and any further labels, spread over `bits` bits by BLAKE2b.

    Example:
        >>> key(0, "pgd", 17) == key(0, "pgd", 17)
        True
        >>> key(0, "pgd", 17) == key(1, "pgd", 17)
        False
    """
    return int.from_bytes(digest(seed, *parts, bits=bits).digest(), "little")


def digest(seed: int, *parts: object, bits: int = 128) -> hashlib.blake2b:
    """The hash that `key` takes, which further labels can be added to."""
    return hashlib.blake2b(SEPARATOR.join([str(seed), *map(str, parts)]).encode(), digest_size=bits // 8)


@dataclass(frozen=True)
class Draws:
    """Keyed random tensors: sample `i` gets the same numbers whatever else is in its batch.

    Each sample's numbers come from a Philox generator (Salmon et al. 2011) whose key is BLAKE2b of
    (seed, label, sample id, draw); samples never share any.

    Example:
        >>> rng = Draws(seed=0, label="pgd")
        >>> together = rng.uniform(torch.tensor([3, 8]), (2,))
        >>> alone = rng.uniform(torch.tensor([8]), (2,))
        >>> bool((together[1] == alone[0]).all())
        True
    """

    seed: int
    label: str
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    def sub(self, *parts: object) -> Draws:
        """A separate stream derived from this one, for another purpose (a restart, a strength)."""
        return replace(self, label="/".join([self.label, *map(str, parts)]))

    def on(self, like: Tensor) -> Draws:
        """The same stream, on the device and in the dtype of `like`."""
        return replace(self, device=like.device, dtype=like.dtype)

    def number(self, *parts: object) -> int:
        """A 62-bit number, to seed a generator or to identify a draw."""
        return key(self.seed, self.label, *parts, bits=64) >> 2

    def uniform(
        self, index: Tensor, shape: Sequence[int], draw: int | Tensor = 0, low: float = 0.0, high: float = 1.0
    ) -> Tensor:
        """Uniform numbers in [low, high), of shape [N, *shape], for the sample ids `index` [N].

        `draw` tells apart repeated draws for a sample: one number for all, or one per sample [N].
        """
        unit = self._collect(index, shape, draw, lambda g, out: g.random(out=out, dtype=np.float32))
        return unit if (low, high) == (0.0, 1.0) else unit * (high - low) + low

    def normal(self, index: Tensor, shape: Sequence[int], draw: int | Tensor = 0) -> Tensor:
        """Standard normal numbers of shape [N, *shape] for the sample ids `index` [N]; `draw` as in `uniform`."""
        return self._collect(index, shape, draw, lambda g, out: g.standard_normal(out=out, dtype=np.float32))

    def _collect(
        self,
        index: Tensor,
        shape: Sequence[int],
        draw: int | Tensor,
        fill: Callable[[np.random.Generator, np.ndarray], object],
    ) -> Tensor:
        ids = index.tolist()
        block = np.empty((len(ids), *shape), dtype=np.float32)
        draws = draw.tolist() if isinstance(draw, Tensor) else [draw] * len(ids)
        # One generator whose state is set for each row: a new one would read system entropy that it does not use.
        philox = np.random.Philox(key=0)
        generator, fresh = np.random.Generator(philox), philox.state
        prefix = digest(self.seed, self.label)
        for row, (sample, number) in enumerate(zip(ids, draws, strict=True)):
            own = prefix.copy()
            own.update(f"{SEPARATOR}{sample}{SEPARATOR}{number}".encode())
            wide = int.from_bytes(own.digest(), "little")
            fresh["state"]["key"][:] = wide & (2**64 - 1), wide >> 64
            philox.state = fresh
            fill(generator, block[row])
        return torch.from_numpy(block).to(device=self.device, dtype=self.dtype)


@contextmanager
def global_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds the global generators of torch, numpy and `random` inside, and restores their states afterwards.

    For third-party code that draws from global generators; `torch.random.fork_rng` alone saves neither the state of
    numpy nor that of `random`.
    """
    cuda = device.type == "cuda"
    state_numpy, state_random = np.random.get_state(), random.getstate()  # noqa: NPY002  # the caller's global state, to restore
    with torch.random.fork_rng(devices=[device] if cuda else []):
        # torch.manual_seed would reseed every CUDA device, also those whose state is not kept here.
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  # third-party code draws from it
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state_numpy)  # noqa: NPY002  # the caller's state again
            random.setstate(state_random)
