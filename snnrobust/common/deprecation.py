"""Former public names: they still work, with a warning that gives the new name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping


def former_names(module: str, renamed: Mapping[str, tuple[str, object]]) -> Callable[[str], object]:
    """The `__getattr__` of a module with renamed attributes.

    Args:
        module: The module's name.
        renamed: Former name -> (present name, the object itself).

    Example:
        >>> import warnings
        >>> lookup = former_names("package", {"old_name": ("new_name", 3)})
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     value = lookup("old_name")
        >>> value, str(caught[0].message)
        (3, 'package.old_name is now package.new_name; use that name')
    """

    def lookup(name: str) -> object:
        if name not in renamed:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        present, value = renamed[name]
        warn_renamed(f"{module}.{name}", f"{module}.{present}")
        return value

    return lookup


def warn_renamed(former: str, present: str) -> None:
    """Warns that `former` is now called `present`; the warning points two frames above this function."""
    warnings.warn(f"{former} is now {present}; use that name", DeprecationWarning, stacklevel=3)
