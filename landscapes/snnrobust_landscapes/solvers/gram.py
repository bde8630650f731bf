"""All eigenvalues of a Gauss-Newton or Fisher matrix at once, from the Gram matrix of few per-sample Jacobians."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from snnrobust.common.batching import GIB, even_parts, out_of_memory
from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust_landscapes.loss.landscape import Chunk, Landscape
from snnrobust_landscapes.operators.fused_nodes import SpikeContext
from snnrobust_landscapes.operators.gauss_newton import Fisher, GaussNewton
from snnrobust_landscapes.operators.operator import OperatorSpec

#: Most rows of a Gram matrix: with 25,000 weights it takes 5 seconds on a slow core, and its eigenvalues one.
LIMIT = 2000
#: Samples whose Jacobians are computed on one graph. Each row goes through all of them: more are slower on
#: convolutions, one is slower on small nets (measured from 1 to 16).
TOGETHER = 2
#: Float64 values in a block of a product of Jacobians.
BLOCK = 2**23
#: Rows in a strip of a product of Jacobians, to skip the entries that follow by symmetry.
STRIP = 256

#: S [n, R, K] with S^T S the symmetric matrix in the middle, from softmax p [n, K] and labels y [n].
Root = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class GramSpectrum:
    """The spectrum of a positive semidefinite matrix of low rank, exact up to rounding.

    Attributes:
        values: The largest eigenvalues, falling: [R] in weights, [N, R] in inputs, with R the smaller of the number of
            rows and coordinates, or the number of requested vectors if that is larger. All others are zero.
        rank: Number of eigenvalues that are not zero, [] or [N]; the other `size - rank` are.
        vectors: Unit eigenvectors of the first k, [k, P] or [k, N, D]; zeros where the eigenvalue is zero.
    """

    values: Tensor
    rank: Tensor
    vectors: Tensor


def rows(landscape: Landscape, spec: OperatorSpec) -> int | None:
    """Rows of the Gram matrix, N K (Gauss-Newton) or N (Fisher), in inputs K or 1; None for an operator without one."""
    if type(spec) not in ROOTS:
        return None
    chunk = next(_split(landscape, landscape.chunks[0], 1))
    with torch.no_grad():
        classes = landscape.logits(landscape.leaves(chunk), chunk).shape[1]
    landscape.model.reset()
    samples = 1 if landscape.space == "inputs" else len(landscape.samples)
    return samples * (classes if isinstance(spec, GaussNewton) else 1)


def spectrum(
    landscape: Landscape, spec: OperatorSpec, rng: Draws, *, vectors: int = 0, memory: float = 0.5
) -> GramSpectrum:
    """The spectrum of M = A^T A from that of A A^T, which has the same eigenvalues but for zeros.

    For the Gauss-Newton matrix 1/N sum_n J_n^T (diag p - p p^T) J_n the blocks of A are S_n J_n / sqrt(N) with

        S = diag(sqrt p) - sqrt(p) p^T,    S^T S = diag p - p p^T - p p^T + (sum_k p_k) p p^T = diag p - p p^T,

    for the Fisher matrix (p - onehot y)^T J_n / sqrt(N), one row a sample (in inputs without the N). Neither M nor the
    Jacobian of the logits is formed: each row of A takes one backward pass, and an eigenvector of M is
    A^T u / sqrt(lambda) with the eigenvector u of A A^T, one more backward pass.

    Eigenvalues below 1e3 eps^2 of the largest, with eps the rounding of the model's type, are taken for zero.

    Args:
        landscape: A loss over weights or inputs.
        spec: A `GaussNewton` or `Fisher`.
        rng: Draws, as for `OperatorSpec.on`.
        vectors: Number k of eigenvectors to compute, of the largest eigenvalues.
        memory: GiB for rows of A. If they don't fit, they are computed again for each pair of blocks of samples, with
            at least two blocks of `TOGETHER` samples in memory.

    Raises:
        InputError: For another operator, more than `LIMIT` rows, more eigenvectors than coordinates, or a loss that is
            not finite.
    """
    count = rows(landscape, spec)
    if count is None:
        raise InputError(f"expected the Gauss-Newton or the Fisher matrix, got the {spec.name}; use Lanczos")
    if count > LIMIT:
        raise InputError(
            f"expected at most {LIMIT} rows of per-sample Jacobians for an exact spectrum, got {count}; use fewer "
            f"samples, or Lanczos"
        )
    if not 0 <= vectors <= landscape.size:
        raise InputError(f"expected 0 to {landscape.size} eigenvectors, got {vectors}; there are no more")
    solve = _of_inputs if landscape.space == "inputs" else _of_weights
    spikes = spec.spikes(landscape, rng) if isinstance(spec, GaussNewton) else nullcontext
    return solve(_Jacobians(landscape, ROOTS[type(spec)], spikes), count, vectors, memory)


def softmax_root(p: Tensor, y: Tensor) -> Tensor:
    """S = diag(sqrt p) - sqrt(p) p^T, [n, K, K]."""
    identity = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
    return p.sqrt()[:, :, None] * (identity - p[:, None, :])


def residual_root(p: Tensor, y: Tensor) -> Tensor:
    """(p - onehot y)^T, [n, 1, K]."""
    return (p - functional.one_hot(y, p.shape[1]).to(p))[:, None, :]


ROOTS: dict[type, Root] = {GaussNewton: softmax_root, Fisher: residual_root}


class _Jacobians:
    """Rows of A, S_n J_n times the square root of a sample's share of the mean."""

    def __init__(self, landscape: Landscape, root: Root, spikes: SpikeContext) -> None:
        self.landscape = landscape
        self._spikes = spikes
        self._root = root
        self._share = landscape.blocks / len(landscape.samples)  # 1 / N in weights, 1 in inputs
        self._vectorised: bool | None = None  # checked at the first backward pass

    def graph(self, chunk: Chunk) -> tuple[list[Tensor], Tensor, Tensor]:
        """Leaves, logits [n, K] with a graph to them, and S [n, R, K]."""
        with torch.enable_grad():
            leaves = self.landscape.leaves(chunk)
            with self._spikes():
                logits = self.landscape.logits(leaves, chunk)
        self.landscape.model.reset()  # the nodes' state holds the graph
        p = functional.softmax(logits.detach().double(), dim=1)
        if not bool(torch.isfinite(p).all()):
            raise InputError(
                f"expected finite logits of model '{self.landscape.model.name}', got infinity or NaN; check weights "
                f"and data"
            )
        return leaves, logits, self._root(p, chunk.y) * self._share**0.5

    def rows(self, chunk: Chunk) -> Tensor:
        """[n R, P] in weights, [n, R, D] in inputs."""
        leaves, logits, root = self.graph(chunk)
        n, r, classes = root.shape
        if self.landscape.space == "inputs":  # row j of every sample at once: samples are independent
            found = self.backward(leaves, logits, root.transpose(0, 1))  # [R, n D]
            return found.reshape(r, n, -1).transpose(0, 1)
        vectors = root.new_zeros(n, r, n, classes)
        each = torch.arange(n, device=root.device)
        vectors[each, :, each] = root
        return self.backward(leaves, logits, vectors.reshape(n * r, n, classes))

    def stacked(self, pieces: Sequence[Chunk], each: int) -> Tensor:
        """Rows of several pieces in weights, `each` a sample, written into one tensor without a copy."""
        model = self.landscape.model
        samples = sum(len(piece.y) for piece in pieces)
        out = torch.empty(samples * each, self.landscape.size, dtype=model.dtype, device=model.device)
        at = 0
        for piece in pieces:
            out[at : at + len(piece.y) * each] = self.rows(piece)
            at += len(piece.y) * each
        return out

    def backward(self, leaves: Sequence[Tensor], logits: Tensor, vectors: Tensor) -> Tensor:
        """Vectors [B, n, K] times the Jacobian of the logits in the leaves, [B, coordinates]."""
        vectors = vectors.to(logits)
        if not logits.requires_grad:
            return vectors.new_zeros(len(vectors), sum(leaf.numel() for leaf in leaves))
        if self._vectorised is None:
            self._vectorised = self._vectorises(leaves, logits, vectors)
        if self._vectorised:
            return _vector_jacobian_rows(leaves, logits, vectors, batched=True)
        return torch.cat([_vector_jacobian_rows(leaves, logits, vector) for vector in vectors])

    def _vectorises(self, leaves: Sequence[Tensor], logits: Tensor, vectors: Tensor) -> bool:
        """Whether a backward pass with many vectors at once works and adds up to that with their sum."""
        try:
            together = _vector_jacobian_rows(leaves, logits, vectors, batched=True).sum(dim=0)
        except Exception as error:  # the backward pass may be user code that can't be vectorised
            if out_of_memory(error):
                raise
            return False
        total = _vector_jacobian_rows(leaves, logits, vectors.sum(dim=0))[0]
        scale = float(total.abs().max()) * torch.finfo(total.dtype).eps ** 0.5
        return bool(((together - total).abs() <= scale).all())


def _of_weights(jacobians: _Jacobians, count: int, k: int, memory: float) -> GramSpectrum:
    landscape = jacobians.landscape
    gram = _gram(jacobians, count, memory)
    out = torch.zeros(k, landscape.size, dtype=torch.float64, device=landscape.model.device)
    if not k:
        return GramSpectrum(*_sorted(torch.from_numpy(np.linalg.eigvalsh(gram, UPLO="U")), landscape, k), vectors=out)
    found, columns = np.linalg.eigh(gram, UPLO="U")
    values, rank = _sorted(torch.from_numpy(found), landscape, k)
    u = torch.from_numpy(columns[:, ::-1][:, : min(k, int(rank))].copy()).T.to(out)  # [k, M]
    u = u.reshape(len(u), len(landscape.samples), count // len(landscape.samples))  # [k, N, R]
    for chunk in landscape.chunks:
        leaves, logits, root = jacobians.graph(chunk)
        for number, along in enumerate(u[:, chunk.rows]):
            vector = (along[:, None] @ root).transpose(0, 1)  # [1, n, K]
            out[number] += jacobians.backward(leaves, logits, vector)[0].double()
    return GramSpectrum(values, rank, functional.normalize(out, dim=1))


def _of_inputs(jacobians: _Jacobians, count: int, k: int, memory: float) -> GramSpectrum:
    landscape = jacobians.landscape
    values, ranks, vectors = [], [], []
    for chunk in landscape.chunks:
        a = jacobians.rows(chunk).double().cpu()  # [n, R, D]
        found, u = torch.linalg.eigh(a @ a.mT)
        each, rank = _sorted(found, landscape, k)
        u = functional.pad(u.flip(2).mT, (0, 0, 0, max(0, k - count)))[:, :k]  # [n, k, R]
        there = torch.arange(k) < rank[:, None]
        values.append(each)
        ranks.append(rank)
        vectors.append(functional.normalize((u * there[:, :, None]) @ a, dim=2))
    return GramSpectrum(torch.cat(values), torch.cat(ranks), torch.cat(vectors).transpose(0, 1))


def _gram(jacobians: _Jacobians, count: int, memory: float) -> np.ndarray:
    """The upper triangle of A A^T, [M, M] in float64, by pairs of blocks of samples."""
    landscape = jacobians.landscape
    pieces = [piece for chunk in landscape.chunks for piece in _split(landscape, chunk, TOGETHER)]
    each = count // len(landscape.samples)  # rows of a sample
    bytes_each = each * landscape.size * torch.empty((), dtype=landscape.model.dtype).element_size()
    fitting = int(memory * GIB / bytes_each)  # samples
    # Two blocks are in memory, unless there is only one.
    number = len(pieces) if len(landscape.samples) <= fitting else max(1, fitting // 2 // TOGETHER)
    blocks = [pieces[part] for part in even_parts(len(pieces), number)]
    gram = torch.zeros(count, count, dtype=torch.float64)
    at = 0
    for first, block in enumerate(blocks):
        a = jacobians.stacked(block, each)
        column = at
        for other in blocks[first:]:
            b = a if other is block else jacobians.stacked(other, each)
            gram[at : at + len(a), column : column + len(b)] = _inner(a, b).cpu()
            column += len(b)
        at += len(a)
    return gram.numpy()


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """A B^T in float64, by blocks of columns and strips of rows; where B is A, entries left of the strips are zero."""
    out = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    width = max(1, BLOCK // (len(a) + len(b)))
    for first in range(0, a.shape[1], width):
        part = slice(first, first + width)
        left = a[:, part].double()
        right = left if b is a else b[:, part].double()
        for low in range(0, len(a), STRIP):
            start = low if b is a else 0
            out[low : low + STRIP, start:] += left[low : low + STRIP] @ right[start:].T
    return out


def _sorted(found: Tensor, landscape: Landscape, k: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues [..., M] in rising order as those of the matrix in falling order, and how many are not zero."""
    falling = found.flip(-1)[..., : landscape.size].clamp(min=0)
    largest = falling[..., :1]
    eps = torch.finfo(landscape.model.dtype).eps
    share = max(1e3 * eps**2, found.shape[-1] * torch.finfo(torch.float64).eps)
    nonzero = torch.where(falling > share * largest, falling, 0.0)
    return functional.pad(nonzero, (0, max(0, k - nonzero.shape[-1]))), (nonzero > 0).sum(dim=-1)


def _vector_jacobian_rows(leaves: Sequence[Tensor], logits: Tensor, vectors: Tensor, batched: bool = False) -> Tensor:
    """A vector [n, K], or several [B, n, K] at once, times the Jacobian: [B, coordinates]."""
    found = torch.autograd.grad(logits, leaves, vectors, retain_graph=True, allow_unused=True, is_grads_batched=batched)
    count = len(vectors) if batched else 1
    filled = (
        leaf.new_zeros(count, leaf.numel()) if each is None else each.reshape(count, -1)
        for leaf, each in zip(leaves, found, strict=True)
    )
    return torch.cat(list(filled), dim=1)


def _split(landscape: Landscape, chunk: Chunk, size: int) -> Iterator[Chunk]:
    """A chunk in parts of `size` samples; whole if the net draws random numbers by the batch."""
    size = len(chunk.y) if landscape.model.foreign_randomness else size
    parts = (torch.split(each, size) for each in (chunk.x, chunk.y, chunk.index))
    for low, x, y, index in zip(range(0, len(chunk.y), size), *parts, strict=True):
        lengths = None if chunk.lengths is None else chunk.lengths[low : low + size]
        start = chunk.rows.start + low
        yield Chunk(slice(start, start + len(y)), x, y, index, lengths)
