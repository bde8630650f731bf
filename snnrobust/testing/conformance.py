"""`check_plugin`: checks that a plugin fulfils the contract of its kind."""

from __future__ import annotations

import pickle
from typing import Any

from snnrobust.errors import PluginError
from snnrobust.plugin import registry
from snnrobust.testing.attacks import check_attack
from snnrobust.testing.checks import check_promise
from snnrobust.testing.corruptions import check_corruption
from snnrobust.testing.ensembles import check_ensemble
from snnrobust.testing.estimators import check_estimator
from snnrobust.testing.measurements import check_measurement
from snnrobust.testing.objectives import check_objective


def check_plugin(name: str, **parameters: Any) -> None:
    """Loads the plugin called `name` and checks that it fulfils the contract of its kind.

    All kinds: a frozen dataclass with an informative `repr` that can be pickled. Optimisers and perturbations:
    allowed examples only (L-inf), the original at epsilon 0, the model unchanged, and for optimisers equal
    examples for every batch size. Corruptions: shape kept, nothing changed at severity 0, keyed randomness.
    Estimators: finite derivatives and input gradients, forward values unchanged unless it is a relaxation, no influence
    of batch mates unless `batch_dependent = True`, and a `derivative`, if any, that agrees with `backward`.
    Objectives: one finite value per sample, also at ties and for silent outputs. Measurements: records or artifacts,
    the same from a second call, and from one resumed after an interruption where `resumable = True`.

    Args:
        name: Name that the plugin is registered under.
        **parameters: Its parameters.

    Raises:
        PluginError: If a check fails.
        InputError: If there is no such plugin.

    Example:
        >>> check_plugin("pgd", steps=3)
    """
    plugin = registry.create(name, **parameters)
    kind = registry.plugin_info(name).kind
    _check_dataclass(name, plugin)
    {
        "optimisers": check_attack,
        "perturbations": check_attack,
        "corruptions": check_corruption,
        "estimators": check_estimator,
        "objectives": check_objective,
        "measurements": check_measurement,
        "ensembles": check_ensemble,
    }[kind](name, plugin)


def _check_dataclass(name: str, plugin: Any) -> None:
    settings = getattr(type(plugin), "__dataclass_params__", None)
    check_promise(name, settings is not None and settings.frozen, "a frozen dataclass", type(plugin).__name__)
    check_promise(name, " object at 0x" not in repr(plugin), "a repr that shows its parameters", repr(plugin))
    try:
        same = pickle.loads(pickle.dumps(plugin)) == plugin
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise PluginError(
            f"expected a plugin that can be pickled from '{name}', got {error}; use only numbers, text, tuples and "
            f"nested frozen dataclasses as fields"
        ) from error
    check_promise(name, same, "a plugin equal to its pickled copy", "an unequal one")
