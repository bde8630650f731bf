"""Different estimators at different modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from snnrobust.errors import InputError
from snnrobust.plugin import AnyEstimator, Mixture, PerModule


@dataclass(frozen=True)
class Modules:
    """An estimator for each named module; spiking nodes that are not named keep their own surrogate.

    A module without a useful gradient, such as one that rounds its input, takes a `NodeEstimator` of your own: the
    backward pass differentiable approximation (BPDA) of Athalye et al. 2018 (arXiv 1802.00420).

    Attributes:
        entries: Pairs of a qualified module name and an estimator.

    Example:
        >>> from snnrobust_attacks.estimators.atan import ATan
        >>> Modules((("1", ATan()), ("3", ATan(alpha=8.0)))).modules["3"]
        ATan(alpha=8.0)
    """

    entries: tuple[tuple[str, AnyEstimator], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.entries, tuple) or not all(
            isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], str) for each in self.entries
        ):
            raise InputError(
                f"expected entries (('module name', estimator), ...), got {self.entries!r}; give a tuple of pairs"
            )
        names = [name for name, _ in self.entries]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"expected each module once, got {twice} repeatedly; give one estimator a module")
        if deep := [name for name, each in self.entries if isinstance(each, Mixture | PerModule)]:
            raise InputError(
                f"expected one estimator a module, got a mixture or mapping for {deep}; make the mixture the outer "
                f"estimator, with mappings as its parts"
            )

    @property
    def modules(self) -> Mapping[str, AnyEstimator]:
        """Qualified module name -> estimator."""
        return dict(self.entries)
