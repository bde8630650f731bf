"""The kinds of error that snnrobust raises, all of them a `SnnRobustError`.

Messages read "expected X, got Y; do Z", so that the one line a command-line user sees is enough to act on.
"""

from __future__ import annotations


class SnnRobustError(Exception):
    """Base of every error that snnrobust raises on purpose."""


class InputError(SnnRobustError, ValueError):
    """A value that can't be used: wrong shape, range, name or combination."""


class InputTypeError(SnnRobustError, TypeError):
    """A value of the wrong type."""


class PluginError(SnnRobustError):
    """A plugin that can't be loaded, or that breaks its protocol."""


class MissingExtraError(SnnRobustError, ImportError):
    """An optional package that is not installed; the message holds the command that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"expected the package '{package}' for {purpose}, got an installation without it; "
            f"do: pip install 'snnrobust[{extra}]'"
        )
        self.package = package
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), (self.package, self.extra, "this task")


class ViolationError(SnnRobustError):
    """An attack's output that its threat model does not allow: outside the budget, the bounds, the domain, or NaN."""


class MemoryLimitError(SnnRobustError):
    """Memory that ran out with a batch of a single sample."""


class StoreError(SnnRobustError):
    """An output folder that can't be used: it holds another run, or its files are damaged."""
