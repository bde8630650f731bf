"""What an attack may ask of a model: logits and objective gradients, counted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snnrobust.errors import PluginError
from snnrobust.model import SpikingModel
from snnrobust.plugin import Estimator, Objective
from snnrobust.spike_gradient import SpikeGradient


class Oracle:
    """Answers an attack's questions about a model; nothing else of the model is in reach.

    For a stochastic model each answer is the mean over `eot` draws (expectation over transformation, Athalye et al.
    2018), a fresh set at each `query`.

    Attributes:
        forwards: Forward passes so far, counted per sample.
        backwards: Backward passes so far, counted per sample.
    """

    def __init__(
        self,
        model: SpikingModel,
        objective: Objective,
        estimator: Estimator,
        eot: int,
        first_draw: int,
        lengths: dict[int, int] | None,
    ) -> None:
        self.bounds = model.bounds
        self.static = model.static
        self.stochastic = model.stochastic
        self.eot = eot
        self.forwards = 0
        self.backwards = 0
        self._model = model
        self._objective = objective
        self._estimator = estimator
        self._swap = SpikeGradient(model.net, estimator)
        self._first_draw = first_draw
        self._lengths = lengths

    def logits(self, x: Tensor, index: Tensor, query: int | Tensor = 0) -> Tensor:
        """Logits [N, K] without a gradient for inputs x [N, *] of the samples `index` [N]."""
        with torch.no_grad():
            return torch.stack([self._forward(x, index, query, e) for e in range(self.eot)]).mean(dim=0)

    def gradient(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Objective gradient [N, *], objective [N] and logits [N, K] at x, with spikes passed by the estimator.

        Raises:
            PluginError: If the gradient is not finite, or does not exist.
        """
        at = x.detach().requires_grad_()
        gradient, loss, logits = torch.zeros_like(x), x.new_zeros(len(x)), []
        for e in range(self.eot):
            with torch.enable_grad(), self._swap:
                out = self._forward(at, index, query, e)
                objective = self._objective(out, y)
            if objective.requires_grad:
                (part,) = torch.autograd.grad(objective.sum(), at, allow_unused=True)
                gradient += 0 if part is None else part
            self.backwards += len(x)
            loss += objective.detach()
            logits.append(out.detach())
        if not torch.isfinite(gradient).all():
            bad = index.cpu()[~torch.isfinite(gradient).flatten(1).all(dim=1).cpu()][0]
            raise PluginError(
                f"expected a finite gradient of {self._objective!r} through {self._estimator!r}, got NaN or infinity "
                f"for sample {int(bad)} of model '{self._model.name}'; check the net's outputs or use another estimator"
            )
        return gradient / self.eot, loss / self.eot, torch.stack(logits).mean(dim=0)

    def as_module(self, index: Tensor) -> nn.Module:
        """A stateless module from inputs scaled to [0, 1] to logits, for third-party attacks on the samples `index`."""
        return _UnitModule(self, index)

    def _forward(self, x: Tensor, index: Tensor, query: int | Tensor, e: int) -> Tensor:
        self.forwards += len(x)
        draw = self._first_draw + query * self.eot + e
        lengths = None if self._lengths is None else torch.tensor([self._lengths[int(i)] for i in index])
        return self._model.logits(x, keys=index, draw=draw, lengths=lengths)


class _UnitModule(nn.Module):
    """The oracle behind the face that torchattacks expects: a module with a parameter, inputs in [0, 1]."""

    def __init__(self, oracle: Oracle, index: Tensor) -> None:
        super().__init__()
        self._oracle = oracle
        self._index = index
        model = oracle._model
        self.anchor = nn.Parameter(torch.zeros((), device=model.device), requires_grad=False)
        self._queries = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] for x [N, *] in [0, 1]."""
        oracle = self._oracle
        low, high = oracle.bounds
        index = self._index if len(x) == len(self._index) else torch.arange(len(x))
        with oracle._swap:
            total = oracle._forward(low + x * (high - low), index, self._queries, 0)
            for e in range(1, oracle.eot):
                total = total + oracle._forward(low + x * (high - low), index, self._queries, e)
        self._queries += 1
        if total.requires_grad:
            total.register_hook(self._count)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return total / oracle.eot

    def _count(self, gradient: Tensor) -> None:
        self._oracle.backwards += len(gradient) * self._oracle.eot
