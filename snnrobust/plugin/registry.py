"""Finds plugins through entry points: listing imports nothing, and a broken plugin does not affect others."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from snnrobust.errors import InputError, InputTypeError, PluginError, SnnRobustError
from snnrobust.plugin.protocols import GROUPS


@dataclass(frozen=True)
class PluginInfo:
    """The entry point of an installed plugin; the plugin is not imported.

    Attributes:
        name: Its name, unique across kinds.
        kind: Entry point group without the prefix, e.g. "optimisers".
        origin: Its distribution and version.
        target: Import path.
    """

    name: str
    kind: str
    origin: str
    target: str


def plugins() -> list[PluginInfo]:
    """All installed plugins, by kind and name; a name that appears twice was registered twice.

    Example:
        >>> "pgd" in {plugin.name for plugin in plugins()}
        True
    """
    order = list(GROUPS)
    return [_to_info(*each) for each in sorted(_entry_points(), key=lambda each: (order.index(each[0]), each[1].name))]


def plugin_info(name: str) -> PluginInfo:
    """The plugin called `name`. A name "prefix:rest" belongs to the plugin called "prefix".

    Raises:
        InputError: If there is none; the message holds the nearest names.
        PluginError: If two distributions registered the name.
    """
    return _to_info(*_find_entry_point(name))


def create(name: str, **parameters: Any) -> Any:
    """The plugin called `name`, built with its own parameters.

    Args:
        name: Name of the plugin; "prefix:rest" passes `rest` to the plugin's `from_name`.
        **parameters: Fields of the plugin.

    Raises:
        InputError: For an unknown name or parameter, or a parameter that the plugin refuses.
        PluginError: If the plugin can't be imported or does not implement its protocol.

    Example:
        >>> create("atan", alpha=4.0)
        ATan(alpha=4.0)
    """
    kind, point = _find_entry_point(name)
    plugin_class = _import_plugin(kind, point)
    prefix, _, rest = name.partition(":")
    if rest:
        if not hasattr(plugin_class, "from_name"):
            raise InputError(f"expected a plugin name without ':', got {name!r}; '{prefix}' takes no further name")
        plugin = plugin_class.from_name(rest, **parameters)
    else:
        check_parameters(name, parameters, parameter_names(name))
        try:
            plugin = plugin_class(**parameters)
        except SnnRobustError:
            raise
        except (TypeError, ValueError) as error:
            kind_of_error = InputTypeError if isinstance(error, TypeError) else InputError
            raise kind_of_error(
                f"expected fitting parameters for '{name}', got {parameters}: {error}; check them against "
                f"`snnrobust list` and the plugin's docstring"
            ) from error
    if not isinstance(plugin, GROUPS[kind]):
        protocol = GROUPS[kind][0]
        raise PluginError(
            f"expected '{name}' to implement {protocol.__name__}, got {plugin_class.__qualname__} without "
            f"{sorted(_protocol_members(protocol) - set(dir(plugin)))}; see snnrobust.plugin.{protocol.__name__}"
        )
    return plugin


def parameter_names(name: str) -> list[str]:
    """Names of the fields that the plugin called `name` takes."""
    kind, point = _find_entry_point(name)
    plugin_class = _import_plugin(kind, point)
    if not dataclasses.is_dataclass(plugin_class):
        raise PluginError(f"expected plugin '{name}' to be a frozen dataclass, got {plugin_class!r}; decorate it")
    return [field.name for field in dataclasses.fields(plugin_class) if field.init]


def path_parameters(name: str) -> list[str]:
    """Names of the fields of the plugin called `name` that hold paths of files, from its class attribute `paths`."""
    return list(getattr(_import_plugin(*_find_entry_point(name)), "paths", ()))


def check_parameters(name: str, given: dict[str, Any], known: list[str]) -> None:
    """Raises an `InputError` with the nearest known name if `given` holds an unknown parameter."""
    for parameter in given:
        if parameter not in known:
            raise InputError(
                f"expected parameters of '{name}' among {sorted(known)}, got '{parameter}'"
                f"{_hint(parameter, known, 'use one of these')}"
            )


def _entry_points() -> tuple[tuple[str, EntryPoint], ...]:
    # Cached, for large ensembles. An installation changes the modification time of a folder, and so the cache key.
    return _installed_entry_points(tuple((folder, _modification_time(folder)) for folder in sys.path))


@lru_cache(maxsize=1)
def _installed_entry_points(folders: tuple[tuple[str, int], ...]) -> tuple[tuple[str, EntryPoint], ...]:
    """The entry points in `folders`, those of sys.path, each with its modification time."""
    installed = entry_points()  # once for all kinds: this reads files of every installed distribution
    return tuple((kind, point) for kind in GROUPS for point in installed.select(group=f"snnrobust.{kind}"))


def _modification_time(folder: str) -> int:
    try:
        return Path(folder or ".").stat().st_mtime_ns
    except OSError:
        return 0


def _to_info(kind: str, point: EntryPoint) -> PluginInfo:
    origin = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown"
    return PluginInfo(name=point.name, kind=kind, origin=origin, target=point.value)


def _find_entry_point(name: str) -> tuple[str, EntryPoint]:
    if not isinstance(name, str):
        raise InputTypeError(f"expected the name of a plugin as text, got {name!r}; see `snnrobust list`")
    wanted = name.partition(":")[0]
    everything = _entry_points()
    # The same distribution may be found twice, e.g. a source folder on the path beside an editable install.
    found = {(kind, point.value): (kind, point) for kind, point in everything if point.name == wanted}
    if not found:
        known = sorted({point.name for _, point in everything})
        hint = _hint(wanted, known, f"choose one of {', '.join(known)}")
        raise InputError(f"expected the name of an installed plugin, got {name!r}{hint}")
    if len(found) > 1:
        origins = sorted({_to_info(kind, point).origin + " (" + point.value + ")" for kind, point in found.values()})
        raise PluginError(f"expected one plugin called '{wanted}', got {len(found)}: {origins}; uninstall one")
    return next(iter(found.values()))


def _import_plugin(kind: str, point: EntryPoint) -> Any:
    try:
        return point.load()
    except SnnRobustError:
        raise
    except Exception as error:  # a plugin's import can fail in any way
        raise PluginError(
            f"expected plugin '{point.name}' of {_to_info(kind, point).origin} to import from '{point.value}', "
            f"got {type(error).__name__}: {error}; fix or uninstall it"
        ) from error


def _hint(wrong: str, known: list[str], otherwise: str) -> str:
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; {otherwise}"


def _protocol_members(protocol: type) -> set[str]:
    return {name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")}
