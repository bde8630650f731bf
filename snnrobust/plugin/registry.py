"""Finding plugins through entry points: listing imports nothing, and a broken plugin fails alone."""

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
    """An installed plugin as its entry point names it; nothing of it has been imported.

    Attributes:
        name: Name to load it by, unique across kinds.
        kind: Entry point group without the prefix, e.g. "optimisers".
        origin: Distribution and version that it comes from.
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
    return [_info(*each) for each in sorted(_points(), key=lambda each: (order.index(each[0]), each[1].name))]


def find(name: str) -> PluginInfo:
    """The plugin called `name`. A name "prefix:rest" belongs to the plugin called "prefix".

    Raises:
        InputError: If there is none; the message holds the nearest names.
        PluginError: If two distributions registered the name.
    """
    return _info(*_find(name))


def create(name: str, **parameters: Any) -> Any:
    """The plugin called `name`, built with its own parameters.

    Args:
        name: Name of the plugin; "prefix:rest" hands `rest` to the plugin's `from_name`.
        **parameters: Fields of the plugin.

    Raises:
        InputError: For an unknown name or parameter, or a parameter that the plugin refuses.
        PluginError: If the plugin can't be imported or does not implement its protocol.

    Example:
        >>> create("atan", alpha=4.0)
        ATan(alpha=4.0)
    """
    kind, point = _find(name)
    plugin_class = _load(kind, point)
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
        except TypeError as error:
            raise InputTypeError(f"expected fitting parameters for '{name}', got {parameters}: {error}") from error
        except ValueError as error:
            raise InputError(f"expected fitting parameters for '{name}', got {parameters}: {error}") from error
    if not isinstance(plugin, GROUPS[kind]):
        protocol = GROUPS[kind][0]
        raise PluginError(
            f"expected '{name}' to implement {protocol.__name__}, got {plugin_class.__qualname__} without "
            f"{sorted(_members(protocol) - set(dir(plugin)))}; see snnrobust.plugin.{protocol.__name__}"
        )
    return plugin


def parameter_names(name: str) -> list[str]:
    """Names of the fields that the plugin called `name` takes."""
    kind, point = _find(name)
    plugin_class = _load(kind, point)
    if not dataclasses.is_dataclass(plugin_class):
        raise PluginError(f"expected plugin '{name}' to be a frozen dataclass, got {plugin_class!r}; decorate it")
    return [field.name for field in dataclasses.fields(plugin_class) if field.init]


def path_parameters(name: str) -> list[str]:
    """Names of the fields of the plugin called `name` that hold paths of files, as its class attribute `paths` says."""
    return list(getattr(_load(*_find(name)), "paths", ()))


def check_parameters(name: str, given: dict[str, Any], known: list[str]) -> None:
    """Raises an `InputError` with the nearest known name if `given` holds an unknown parameter."""
    for parameter in given:
        if parameter not in known:
            raise InputError(
                f"expected parameters of '{name}' among {sorted(known)}, got '{parameter}'{_hint(parameter, known)}"
            )


def _points() -> tuple[tuple[str, EntryPoint], ...]:
    # A large ensemble asks a thousand times. An installation changes a folder on the path, and so what is asked for.
    return _installed(tuple((folder, _changed(folder)) for folder in sys.path))


@lru_cache(maxsize=1)
def _installed(folders: tuple[tuple[str, int], ...]) -> tuple[tuple[str, EntryPoint], ...]:
    """The entry points in `folders`, those of sys.path, each with the time that it was last changed."""
    installed = entry_points()  # once for all kinds: it reads files of every installed distribution
    return tuple((kind, point) for kind in GROUPS for point in installed.select(group=f"snnrobust.{kind}"))


def _changed(folder: str) -> int:
    try:
        return Path(folder or ".").stat().st_mtime_ns
    except OSError:
        return 0


def _info(kind: str, point: EntryPoint) -> PluginInfo:
    origin = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown"
    return PluginInfo(name=point.name, kind=kind, origin=origin, target=point.value)


def _find(name: str) -> tuple[str, EntryPoint]:
    if not isinstance(name, str):
        raise InputTypeError(f"expected the name of a plugin as text, got {name!r}; see `snnrobust list`")
    wanted = name.partition(":")[0]
    everything = _points()
    # The same distribution may be found twice, e.g. a source folder on the path beside an editable install.
    found = {(kind, point.value): (kind, point) for kind, point in everything if point.name == wanted}
    if not found:
        known = sorted({point.name for _, point in everything})
        raise InputError(f"expected the name of an installed plugin, got {name!r}{_hint(wanted, known)}")
    if len(found) > 1:
        origins = sorted({_info(kind, point).origin + " (" + point.value + ")" for kind, point in found.values()})
        raise PluginError(f"expected one plugin called '{wanted}', got {len(found)}: {origins}; uninstall one")
    return next(iter(found.values()))


def _load(kind: str, point: EntryPoint) -> Any:
    try:
        return point.load()
    except SnnRobustError:
        raise
    except Exception as error:  # a plugin's import can fail in any way, and must fail alone
        raise PluginError(
            f"expected plugin '{point.name}' of {_info(kind, point).origin} to import from '{point.value}', "
            f"got {type(error).__name__}: {error}; fix or uninstall it"
        ) from error


def _hint(wrong: str, known: list[str]) -> str:
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; choose one of {', '.join(sorted(known))}"


def _members(protocol: type) -> set[str]:
    return {name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")}
