"""Retimings: inputs whose packets move in time, within budgets on the shifts.

A line is one entry over time, such as one pixel of one polarity. Its packets are its nonzero cells with their whole
counts (a spike, where inputs are binary). A retiming moves packets along their lines: none merges with another, splits,
appears or disappears. Packets of one line with equal counts can't be told apart, so a budget holds if there is a
matching of the packets to the original ones that meets it; several budgets hold if one matching meets them all.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from snnrobust.common.validate import check_choice
from snnrobust.errors import InputError
from snnrobust.threat_models.shift_budgets import Coupled, move_most_gain, spend
from snnrobust.threat_models.shift_exchanges import exchange
from snnrobust.threat_models.shift_lines import TIE, Lines, occupied_lines, place_in_order, scatter_lines

#: The largest shift of a packet, the sum of all shifts of a sample, and the number of packets of it that move.
SHIFTS = ("shift-linf", "shift-l1", "shift-l0")


def project_shifts(x: Tensor, x0: Tensor, budgets: Mapping[str, float]) -> Tensor:
    """The retiming of `x0` within `budgets` that is nearest to `x`, or nearly so.

    It maximises sum(a * x) over the allowed retimings a. As the values of a are those of x0 in another order, |a|^2 is
    fixed, and this a also minimises the Euclidean distance |a - x|. How near it comes to the best:

    - "shift-linf" alone, on lines with packets of one size: exact. With packets of several sizes: at least as near as
      all retimings that keep the packets of each line in order.
    - "shift-l0" alone, on binary inputs: exact.
    - All else couples the lines of a sample, and is solved by Lagrange multipliers: always allowed, but not always
      nearest. On binary inputs and up to a largest shift of 5, an allowed retiming is its own projection.

    Ties go to the packets that do not move: scores that differ by less than 1e-12 of the largest count as equal.
    A sample's result does not depend on the others.

    Args:
        x: Real scores [N, T, *]; NaN counts as 0.
        x0: Whole numbers >= 0 [N, T, *], all times of which packets may enter.
        budgets: For one or several of `SHIFTS` the most that is allowed, a whole number >= 0.

    Returns:
        A retiming [N, T, *], of the dtype of `x0`.

    Raises:
        InputError: For no budget, an unknown one, or one that is no whole number >= 0.

    Example:
        >>> x0 = torch.tensor([[[1.0], [0.0], [0.0], [1.0]]])
        >>> x = torch.tensor([[[0.1], [0.2], [0.9], [0.4]]])
        >>> project_shifts(x, x0, {"shift-linf": 1}).flatten()
        tensor([0., 1., 1., 0.])
        >>> project_shifts(x, x0, {"shift-linf": 1, "shift-l0": 1}).flatten()
        tensor([1., 0., 1., 0.])
    """
    check_shifts(budgets)
    if x.shape != x0.shape:
        raise InputError(f"expected x of the shape of x0, {tuple(x0.shape)}, got {tuple(x.shape)}; give a score each")
    if not x0.numel() or min(budgets.values()) == 0:
        return x0.clone()
    lines = occupied_lines(x, x0)
    if not len(lines.row):
        return x0.clone()
    return scatter_lines(lines, _places(lines, len(x0), budgets), x0)


def shift_distance(x: Tensor, x0: Tensor, norm: str) -> Tensor:
    """The least `norm` of the shifts that turn each `x0` [N, T, *] into `x`: [N], float64.

    Closed forms, per line and packet size: "shift-linf" is the largest difference of the sorted times, "shift-l1" the
    sum of |cumsum(x - x0)|, "shift-l0" the sum of relu(x - x0), each in packets. The three are minima over matchings of
    their own: a joint budget can be exceeded by an x that meets each of its parts.

    Args:
        x: Inputs [N, T, *].
        x0: Whole numbers >= 0 [N, T, *].
        norm: One of `SHIFTS`.

    Returns:
        Steps, or packets for "shift-l0"; infinity where `x` is no retiming of `x0`.

    Example:
        >>> x0, x = torch.tensor([[[1], [1], [0]]]), torch.tensor([[[0], [1], [1]]])
        >>> [float(shift_distance(x, x0, norm)) for norm in SHIFTS]
        [1.0, 2.0, 1.0]
    """
    check_choice("norm", norm, SHIFTS)
    distance = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    if not x0.numel():
        return distance
    now = x.detach().reshape(*x.shape[:2], -1).transpose(1, 2)  # (N, E, T)
    was = x0.detach().reshape(*x0.shape[:2], -1).transpose(1, 2)
    fits = (now != 0).sum(dim=2) == (was != 0).sum(dim=2)  # (N, E)
    for size in torch.unique(was[was != 0]):
        here, there = now == size, was == size
        alike = here.sum(dim=2) == there.sum(dim=2)
        fits &= alike
        if norm == "shift-l0":
            distance += (here & ~there).sum(dim=(1, 2))
        elif norm == "shift-l1":
            distance += (here.long() - there.long()).cumsum(dim=2).abs().sum(dim=(1, 2))
        else:
            sample, _, late = (here & alike[:, :, None]).nonzero(as_tuple=True)
            early = (there & alike[:, :, None]).nonzero(as_tuple=True)[2]
            distance.scatter_reduce_(0, sample, (late - early).abs().double(), "amax")
    return distance.masked_fill(~fits.all(dim=1), torch.inf)


def random_shifts(x0: Tensor, unit: Tensor, budgets: Mapping[str, float]) -> Tensor:
    """A random retiming of `x0` [N, T, *] within `budgets` that spends much of them.

    It is the projection of `unit`, lowered by 1 where x0 has packets, so that any move to a free time gains.

    Args:
        x0: Whole numbers >= 0 [N, T, *].
        unit: Uniform numbers in [0, 1) [N, T, *].
        budgets: As for `project_shifts`.
    """
    return project_shifts(unit - (x0 != 0).to(unit.dtype), x0, budgets)


def check_shifts(budgets: Mapping[str, float]) -> None:
    """Raises an `InputError` unless `budgets` has whole numbers >= 0 for one or several of `SHIFTS`."""
    if not budgets:
        raise InputError(f"expected a budget for at least one of {list(SHIFTS)}, got none; give one")
    for name, budget in budgets.items():
        check_choice("budget", name, SHIFTS)
        if not (budget >= 0 and float(budget).is_integer()):
            raise InputError(f"expected a whole number >= 0 for '{name}', got {budget!r}; give a count")


def _places(lines: Lines, batch: int, budgets: Mapping[str, float]) -> Tensor:
    """The new times of the packets of all lines [L, M]."""
    steps = lines.steps
    total = budgets.get("shift-l1", steps - 1)
    # No shift is larger than T - 1 or than all shifts together.
    reach = int(min(budgets.get("shift-linf", steps - 1), total, steps - 1))
    limited = budgets.get("shift-linf", steps) < min(total, steps - 1)
    coupled = {name: int(budgets[name]) for name in ("shift-l1", "shift-l0") if name in budgets}
    if not coupled:
        reaches, tie = torch.full_like(lines.count, reach), TIE * lines.scale
        return exchange(lines, place_in_order(lines, reaches, tie, None, None), reaches, tie, None)
    if limited or coupled.keys() != {"shift-l0"}:
        return spend(_coupled(lines, batch, reach, coupled, limited))
    mixed = torch.zeros(batch, dtype=torch.bool, device=lines.row.device)
    mixed[lines.sample[~lines.uniform]] = True
    places = lines.times.clone()
    for part, exact in ((~mixed, True), (mixed, False)):
        rows = part[lines.sample].nonzero()[:, 0]
        if len(rows):
            some = lines.select(rows)
            if exact:
                found = move_most_gain(some, batch, coupled["shift-l0"])
            else:
                found = spend(_coupled(some, batch, reach, coupled, limited))
            places[rows, : found.shape[1]] = found
    return places


def _coupled(lines: Lines, batch: int, reach: int, budgets: dict[str, int], limited: bool) -> Coupled:
    """The problem of lines that share `budgets`, where single shifts are `limited` to `reach` or not."""
    moves = "shift-l0" in budgets
    gap = lines.times[:, 1:] - lines.times[:, :-1]
    passes = (gap < reach) & (lines.times[:, 1:] < lines.steps)
    return Coupled(
        lines,
        batch,
        reach,
        budgets,
        lines.most_gain(),
        lines.retimed(batch),
        vacant=lines.free(lines.times) if moves and not limited else None,
        close=passes.any(dim=1) if moves and limited else None,
    )
