"""The Hessian of the true loss at a stated scale: smoothed with a Gaussian, from values of the loss alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.batching import GIB
from snnrobust.common.random import Draws
from snnrobust.common.validate import check_count, check_positive
from snnrobust_landscapes.loss.landscape import Landscape

#: Bytes of draws in float64 that a product works with at a time.
BLOCK = 64 * 2**20


@dataclass(frozen=True)
class Smoothed:
    """The Hessian of L_sigma(theta) = E L(theta + sigma z) with z ~ N(0, I), estimated from keyed draws of z.

    The loss of a spiking net is piecewise constant in its hidden weights; smoothed with a Gaussian it is not, and has a
    Hessian at each scale sigma. No surrogate is used. With D_i = L(theta + sigma z_i) + L(theta - sigma z_i)
    - 2 L(theta) for m draws, Stein's identity applied twice to antithetic pairs gives

        H = E[D (z z^T - I)] / (2 sigma^2),    estimated by    1 / (m - 1) sum_i (D_i - mean D) z_i z_i^T / (2 sigma^2).

    The mean of z z^T - I is zero, so that H is the covariance of D and z z^T, and the estimate the sample covariance:
    unbiased, of rank m, zero in directions orthogonal to all draws. Without subtracting the mean, all of these would
    have the eigenvalue -mean D / (2 sigma^2), and the standard error of v^T H v was 2 to 3 times as large (digits MLP,
    25,450 weights, sigma .003 to .03).

    Eigenvalues are those of H only with more draws than coordinates. Draws in many coordinates are nearly orthogonal
    and |z_i|^2 is about P, so that for P >> m the matrix has the m eigenvalues (D_i - mean D) P / (2 sigma^2 (m - 1)),
    independent of H: noise of the draws. An eigenvector found from the draws also fits their noise, and its v^T H v is
    too large. Use v^T H v of directions found without these draws, with its error (`SmoothedHessian.standard_error`),
    or the trace (`SmoothedHessian.trace`), whose error does not grow with P.

    Attributes:
        sigma: Standard deviation, in units of the weights (or of the inputs), the same for each.
        draws: Draws m, each of which takes two evaluations of the loss.

    Raises:
        InputError: For a sigma that is not finite and positive, or fewer than two draws.
    """

    sigma: float = 0.03
    draws: int = 200

    def __post_init__(self) -> None:
        check_positive("sigma", self.sigma, "give it in units of the weights")
        check_count("draws", self.draws, 2)

    @property
    def name(self) -> str:
        """The second-order object in words."""
        return f"Hessian of the loss smoothed at sigma {self.sigma:g}"

    def on(self, landscape: Landscape, memory: float, rng: Draws) -> SmoothedHessian:
        """The operator of this landscape; takes 2 m + 1 evaluations of the loss.

        Args:
            landscape: A loss over weights or inputs.
            memory: GiB for storing the draws; if they don't fit, each product draws them again.
            rng: Keys the draws.
        """
        return SmoothedHessian(self, landscape, memory, rng)


class SmoothedHessian:
    """See `Smoothed`; one matrix in weights, one for each sample in inputs.

    Attributes:
        name: The second-order object in words.
        landscape: The loss whose curvature it is.
        products: Products so far, counted per vector.
        differences: D_i of each draw, [blocks, m].
    """

    symmetric = True

    def __init__(self, settings: Smoothed, landscape: Landscape, memory: float, rng: Draws) -> None:
        self.name = settings.name
        self.landscape = landscape
        self.products = 0
        self._settings = settings
        self._rng = rng
        each = 8 * landscape.blocks * landscape.size  # bytes of a draw
        rows = max(1, BLOCK // each)
        self._ranges = [range(low, min(low + rows, settings.draws)) for low in range(0, settings.draws, rows)]
        # Draws are made and stored in float32.
        self._stored: list[Tensor] | None = None
        if settings.draws * each / 2 <= memory * GIB:
            self._stored = [self._drawn(numbers) for numbers in self._ranges]
        self.differences = self._measured()
        centred = self.differences - self.differences.mean(dim=1, keepdim=True)
        self._coefficients = centred / (2 * settings.sigma**2)  # [blocks, m]

    def apply(self, vectors: Tensor) -> Tensor:
        """See `Operator.apply`."""
        v = self._by_block(vectors)  # [blocks, B, size]
        out = torch.zeros_like(v)
        for numbers, z in self._blocks(v.device):
            c = self._coefficients[:, None, numbers.start : numbers.stop].to(v)  # [blocks, 1, b]
            out += (v @ z.mT * c) @ z
        self.products += len(vectors) if self.landscape.blocks == 1 else 1
        return (out / (self._settings.draws - 1)).reshape(vectors.shape)

    def apply_transposed(self, vectors: Tensor) -> Tensor:
        """The same, as it is symmetric."""
        return self.apply(vectors)

    def standard_error(self, vectors: Tensor) -> Tensor:
        """Of v^T H v over the draws, for vectors v that do not depend on them: [B] in weights, [N] in inputs.

        The standard deviation of (D_i - mean D)(q_i - mean q) / (2 sigma^2) with q_i = (v . z_i)^2, over root m.
        """
        v = self._by_block(vectors)
        squares = torch.cat([(v @ z.mT).square() for _, z in self._blocks(v.device)], dim=2)  # [blocks, B, m]
        centred = squares - squares.mean(dim=2, keepdim=True)
        terms = centred * self._coefficients[:, None].to(v)
        return terms.std(dim=2).flatten() / math.sqrt(self._settings.draws)

    def trace(self) -> tuple[Tensor, Tensor]:
        """mean D / sigma^2 and its standard error over the draws, each [blocks].

        Its expectation is the trace of the smoothed Hessian averaged over the scales up to sigma, by Gauss's heat
        equation d/ds E L(theta + s z) = s tr H_s:

            E[D] / sigma^2 = (2 / sigma^2) integral_0^sigma s tr(H_s) ds

        It equals tr H_sigma where the curvature is the same at all scales, and is larger where it falls with the scale.
        The trace of the estimated matrix itself has the standard error std(D) sqrt(P / 2 m) / sigma^2 where P is large.
        """
        values = self.differences / self._settings.sigma**2
        return values.mean(dim=1), values.std(dim=1) / math.sqrt(self._settings.draws)

    def _measured(self) -> Tensor:
        """D_i, [blocks, m]."""
        rest = torch.zeros(self._shape, dtype=torch.float64, device=self.landscape.model.device)
        here = self._loss(rest)
        found = []
        for _, z in self._blocks(rest.device):
            for draw in z.unbind(dim=1):  # [blocks, size]
                offset = self._settings.sigma * draw.reshape(self._shape)
                found.append(self._loss(offset) + self._loss(-offset) - 2 * here)
        return torch.stack(found, dim=1)

    def _loss(self, offset: Tensor) -> Tensor:
        losses = self.landscape.loss(offset).losses
        return losses if self._inputs else losses.mean().reshape(1)  # [blocks]

    def _blocks(self, device: torch.device) -> Iterator[tuple[range, Tensor]]:
        """Numbers of draws and the draws [blocks, b, size], float64; the same blocks whether they are stored or not."""
        for at, numbers in enumerate(self._ranges):
            z = self._drawn(numbers) if self._stored is None else self._stored[at]
            yield numbers, z.to(device=device, dtype=torch.float64)

    def _drawn(self, numbers: range) -> Tensor:
        """Draws by number, [blocks, b, size]; in inputs keyed by sample."""
        if not self._inputs:
            return self._rng.normal(torch.tensor(numbers), (self.landscape.size,))[None]
        index = self.landscape.samples.index
        return torch.stack([self._rng.normal(index, (self.landscape.size,), draw=i) for i in numbers], dim=1)

    def _by_block(self, vectors: Tensor) -> Tensor:
        """[B, P] as [1, B, P], or [N, D] as [N, 1, D]."""
        return vectors[:, None] if self._inputs else vectors[None]

    @property
    def _inputs(self) -> bool:
        return self.landscape.space == "inputs"

    @property
    def _shape(self) -> tuple[int, ...]:
        size = self.landscape.size
        return (self.landscape.blocks, size) if self._inputs else (size,)
