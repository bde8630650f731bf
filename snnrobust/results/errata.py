"""What may be wrong in stored runs of earlier versions; CHANGELOG.md describes each case under "Errata"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from snnrobust.common.files import Arrays

#: Attacks, objectives and estimators that counted padded entries under any norm.
_PADDED = ("square", "flips", "sa-pgd", "random-search", "hop-skip-jump")
_PADDED_FACTORS = ("PerStep", "HART", "RGA", "RateReLU")


def errata(run: Mapping[str, Any], cells: Mapping[tuple[str, str, int], Arrays]) -> list[str]:
    """The cases in which numbers of a stored run are wrong, as far as the run does not exclude them.

    Args:
        run: The content of run.json, brought to the present format.
        cells: Its cells by model, label and position.
    """
    if run.get("written_by_format") != 3:
        return []
    attacks = [each for task in run["tasks"] if task["kind"] == "attack" for each in task["members"] or [task]]
    found = []
    if any(each["name"] == "torchattacks:SPSA" for each in attacks):
        found.append("the robust accuracy under 'torchattacks:SPSA' is too high")
    if any(np.isinf(cell["margin"]).any() for cell in cells.values() if "margin" in cell):
        found.append("robust accuracy is too high, since the net has infinite logits")
    sequences = any(model["encoder"] is None and model["layout"] != "N" for model in run["models"].values())
    if sequences and any(map(_counted_padding, attacks)):
        found.append("robust accuracy is too high if sequences were padded to different lengths")
    if attacks:
        found.append("robust accuracy is wrong if the net is in half precision, or was called in inference mode")
    swapped = any(each["attack"].get("gradient", "Own()") != "Own()" for each in attacks)
    if swapped or any(task["name"] == "activity" for task in run["tasks"]):
        found.append(
            "outcomes with a swapped gradient, and activity, are wrong if spikes are not 0 and 1 (ILIF, ternary)"
        )
    return found


def _counted_padding(attack: Mapping[str, Any]) -> bool:
    factors = str(attack["attack"].get("objective", "")), str(attack["attack"].get("gradient", ""))
    named = attack["name"] in _PADDED or any(each.startswith(_PADDED_FACTORS) for each in factors)
    return named or attack["attack"]["norm"] != "linf"
