"""Random directions in weight space, scaled so that nets of different weight norms can be compared."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from snnrobust.draws import Draws


def filter_normalised(parameters: Mapping[str, Tensor], rng: Draws) -> dict[str, Tensor]:
    """A Gaussian direction with each filter scaled to the norm of that filter in `parameters`.

    d_ij <- d_ij |theta_ij| / |d_ij| for filter j of layer i (Li et al. 2018, arXiv 1712.09913, section 4): the slices
    along the first axis, which are output channels of a convolution and rows of a linear layer. Parameters of fewer
    than two axes (biases, batch norm, learnable leaks) do not move, as with "ignore" in the authors' code.

    Args:
        parameters: Parameters by name.
        rng: Draws, keyed further by the names.

    Returns:
        A direction for each parameter, of its shape, dtype and device.

    Example:
        >>> theta = {"weight": torch.tensor([[3.0, 4.0], [0.0, 2.0]]), "bias": torch.ones(2)}
        >>> d = filter_normalised(theta, Draws(0, "plane"))
        >>> d["weight"].norm(dim=1), d["bias"]
        (tensor([5., 2.]), tensor([0., 0.]))
    """
    return {name: _scaled(theta.detach(), rng.sub(name)) for name, theta in parameters.items()}


def _scaled(theta: Tensor, rng: Draws) -> Tensor:
    if theta.ndim < 2:
        return torch.zeros_like(theta)
    direction = rng.on(theta).normal(torch.tensor([0]), theta.shape)[0].flatten(1)  # [filters, weights]
    norm: Tensor = torch.linalg.vector_norm(theta.flatten(1), dim=1, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(direction, dim=1, keepdim=True)
    return (direction * (norm / length)).reshape(theta.shape)
