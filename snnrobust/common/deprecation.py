"""Former names of what is documented: they still work, and say what the thing is called now."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping


def former_names(module: str, renamed: Mapping[str, tuple[str, object]]) -> Callable[[str], object]:
    """The `__getattr__` of a module that some things were renamed in.

    Args:
        module: The module's name.
        renamed: Former name -> present name, and the thing itself.

    Example:
        >>> import warnings
        >>> lookup = former_names("package", {"old_name": ("new_name", 3)})
        >>> with warnings.catch_warnings(record=True) as heard:
        ...     warnings.simplefilter("always")
        ...     value = lookup("old_name")
        >>> value, str(heard[0].message)
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
    """Says that something is called otherwise now, to whoever called the function that calls this one."""
    warnings.warn(f"{former} is now {present}; use that name", DeprecationWarning, stacklevel=3)
