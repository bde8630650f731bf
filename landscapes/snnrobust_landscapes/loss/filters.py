"""Filters: the weights of one output unit, whose norms make moves of different layers comparable."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from snnrobust.common.random import Draws


class Filters:
    """The filters of named parameters: slices along the first axis, which are output channels of a convolution and
    rows of a linear layer. All parameters of a module with fewer than two axes (biases, batch norm, learnable leaks)
    together are one filter.

    Args:
        parameters: Parameters by qualified name.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = {name: p.detach() for name, p in parameters.items()}
        self._norms = self._of(self._parameters)
        large = [norms for name, norms in self._norms.items() if self._large(name)]
        self._count = max(1, sum(int((norms > 0).sum()) for norms in large))

    def random(self, rng: Draws) -> dict[str, Tensor]:
        """A Gaussian direction with each filter scaled to the norm of that filter of the parameters.

        d_ij <- d_ij |theta_ij| / |d_ij| for filter j of layer i (Li et al. 2018, arXiv 1712.09913, section 4).
        Parameters of fewer than two axes do not move, as with "ignore" in the authors' code.

        Args:
            rng: Draws, keyed further by the names.

        Returns:
            A direction for each parameter, of its shape, dtype and device; its relative norm is 1.

        Example:
            >>> theta = {"weight": torch.tensor([[3.0, 4.0], [0.0, 2.0]]), "bias": torch.ones(2)}
            >>> d = Filters(theta).random(Draws(0, "plane"))
            >>> d["weight"].norm(dim=1), d["bias"]
            (tensor([5., 2.]), tensor([0., 0.]))
        """
        return {name: _scaled(theta, rng.sub(name)) for name, theta in self._parameters.items()}

    def relative_norm(self, direction: Mapping[str, Tensor]) -> Tensor:
        """Root mean square of |d_f| / |theta_f| over filters f of two axes or more, plus the small parameters' share.

        Filters of zeros are left out.

        Example:
            >>> theta = {"weight": torch.tensor([[3.0, 4.0], [0.0, 2.0]])}
            >>> Filters(theta).relative_norm({"weight": torch.tensor([[0.0, 5.0], [2.0, 0.0]])})
            tensor(1., dtype=torch.float64)
        """
        total = torch.zeros((), dtype=torch.float64)
        for name, theta in self._parameters.items():
            norms = self._norm(name, theta)
            there = norms > 0
            total += (direction[name].detach().double()[there] / norms[there]).square().sum().cpu()
        return (total / self._count).sqrt()

    def scales(self) -> dict[str, Tensor]:
        """The scale of each coordinate, such that the relative norm is the Euclidean norm of d / scale.

        |theta_f| sqrt(F) in filter f, with F the number of filters of two axes or more; 0 in filters of zeros. Float64,
        of the parameters' shapes.

        Example:
            >>> theta = {"weight": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "bias": torch.tensor([0.0, 2.0])}
            >>> Filters(theta).scales()["weight"][:, 0], Filters(theta).scales()["bias"]
            (tensor([5., 0.], dtype=torch.float64), tensor([2., 2.], dtype=torch.float64))
        """
        root = math.sqrt(self._count)
        return {name: root * self._norm(name, theta) for name, theta in self._parameters.items()}

    def _norm(self, name: str, theta: Tensor) -> Tensor:
        """The norm of the filter that each coordinate of a parameter is in, of its shape."""
        if self._large(name):
            return self._norms[name].reshape(-1, *[1] * (theta.ndim - 1)).expand(theta.shape)
        return self._norms[_small(name)][0].expand(theta.shape)

    def _large(self, name: str) -> bool:
        return name in self._parameters and self._parameters[name].ndim >= 2

    def _of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The norm of each filter: [filters] for each large parameter, [1] for each module's small ones."""
        norms: dict[str, Tensor] = {}
        small: dict[str, list[Tensor]] = {}
        for name, value in tensors.items():
            if self._large(name):
                norms[name] = value.double().flatten(1).norm(dim=1)
            else:
                small.setdefault(_small(name), []).append(value.double().flatten())
        return norms | {group: torch.cat(parts).norm().reshape(1) for group, parts in small.items()}


def _small(name: str) -> str:
    """The name of the filter of a module's small parameters."""
    return name.rpartition(".")[0] + ":small"


def _scaled(theta: Tensor, rng: Draws) -> Tensor:
    if theta.ndim < 2:
        return torch.zeros_like(theta)
    direction = rng.on(theta).normal(torch.tensor([0]), theta.shape)[0].flatten(1)  # [filters, weights]
    norm: Tensor = torch.linalg.vector_norm(theta.flatten(1), dim=1, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(direction, dim=1, keepdim=True)
    return (direction * (norm / length)).reshape(theta.shape)
