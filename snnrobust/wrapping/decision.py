"""Which class logits stand for, and whether it is right: used for every accuracy."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor


def predict(logits: Tensor) -> Tensor:
    """Classes [N] from logits [N, K]: the largest wins, and the lowest class among equals.

    -1, which equals no label, where all outputs are silent (zero).
    """
    return logits.argmax(dim=1).masked_fill((logits == 0).all(dim=1), -1)


class Correctness:
    """How logits [N, K] compare with labels [N]; each property is [N], bool.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 1.0], [1.0, 1.0], [0.0, 0.0], [torch.nan, 1.0]])
        >>> found = Correctness(logits, torch.tensor([0, 0, 0, 0]))
        >>> found.correct.tolist(), found.withstands.tolist()
        ([True, True, False, False], [True, True, False, True])
    """

    def __init__(self, logits: Tensor, y: Tensor) -> None:
        self._logits = logits
        self._y = y

    @cached_property
    def defined(self) -> Tensor:
        """No logit is NaN. Infinities are numbers like others: the log of a spike count of zero is one."""
        return ~self._logits.isnan().any(dim=1)

    @cached_property
    def correct(self) -> Tensor:
        """The predicted class is the label, and no logit is NaN: what accuracy counts."""
        return self._predicted & self.defined

    @cached_property
    def withstands(self) -> Tensor:
        """The net withstands an attack that produced these logits: NaN is never a success."""
        return self._predicted | ~self.defined

    @cached_property
    def silent(self) -> Tensor:
        """All logits are zero: no class is predicted."""
        return (self._logits == 0).all(dim=1)

    @cached_property
    def tied(self) -> Tensor:
        """Several classes share the largest logit."""
        return (self._logits == self._logits.amax(dim=1, keepdim=True)).sum(dim=1) > 1

    @cached_property
    def _predicted(self) -> Tensor:
        return predict(self._logits) == self._y
