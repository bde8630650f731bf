"""Better places for packets of several sizes, which need not keep their order: one move or exchange at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from snnrobust.threat_models.shift_lines import TIE, Lines

#: Most moves or exchanges on a line.
EXCHANGES = 32
#: Most pairs of a packet and a place that are held at a time.
PAIRS = 2**20


def exchange(lines: Lines, places: Tensor, reach: Tensor, far: Tensor, moved: Tensor | None) -> Tensor:
    """Improves `places` [L, M] of the lines whose packets have several sizes; returns new ones.

    In each round a line makes the move of one packet that gains most after its price: to a free time, or to that of
    another packet, which then takes the place of the first.

    Args:
        lines: The lines.
        places: Present places of the packets.
        reach: Largest shift [L].
        far: Price of a shift by one step [L].
        moved: Price of a packet that is not at its own time [L], or None.
    """
    places = places.clone()
    mixed = (~lines.uniform).nonzero()[:, 0]
    if not len(mixed):
        return places
    price = torch.zeros_like(far) if moved is None else moved
    width = min(2 * int(reach[mixed].max()) + 1, lines.steps)
    for part in torch.split(mixed, max(PAIRS // (width * lines.times.shape[1]), 1)):
        rows = part
        for _ in range(EXCHANGES):
            some = lines.select(rows)
            most = some.times.shape[1]
            now = places[rows, :most]
            found = _one_exchange(some, now, reach[rows], far[rows], price[rows])
            better = (found != now).any(dim=1)
            places[rows[better], :most] = found[better]
            rows = rows[better]
            if not len(rows):
                break
    return places


def best_packets(value: Tensor, line: Tensor, slot: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """The lines on which a packet has a positive `value` [P], and the number (below P) of the best one on each."""
    table = torch.zeros(shape, dtype=value.dtype, device=value.device)
    table[line, slot] = value
    number = torch.zeros(shape, dtype=torch.long, device=value.device)
    number[line, slot] = torch.arange(len(line), device=value.device)
    best, column = table.max(dim=1)
    lines = (best > 0).nonzero()[:, 0]
    return lines, number[lines, column[lines]]


def _one_exchange(lines: Lines, places: Tensor, reach: Tensor, far: Tensor, moved: Tensor) -> Tensor:
    steps, widest = lines.steps, int(reach.max())
    width = min(2 * widest + 1, steps)
    line, slot = (places < steps).nonzero(as_tuple=True)  # (P,)
    own, now, size = lines.times[line, slot, None], places[line, slot, None], lines.sizes[line, slot, None]
    cells = (own - widest).clamp(0, steps - width) + torch.arange(width, device=own.device)  # (P, W)
    holder = torch.full_like(lines.scores, -1, dtype=torch.long)
    holder[line, now[:, 0]] = slot
    other = holder[line].gather(1, cells)  # slot of the packet that is there, -1 without one
    taken, other = (other >= 0) & (other != slot[:, None]), other.clamp_min(0)
    other_own, other_size = lines.times[line].gather(1, other), lines.sizes[line].gather(1, other)
    far, moved, reach = far[line, None], moved[line, None], reach[line, None]

    def price(place: Tensor, home: Tensor) -> Tensor:
        return far * (place - home).abs() + moved * (place != home)

    scores = lines.scores[line]
    rise = scores.gather(1, cells) - scores.gather(1, now)
    gain = size * rise - price(cells, own) + price(now, own)
    back = price(cells, other_own) - price(now, other_own) - other_size * rise
    gain = gain + torch.where(taken, back, 0.0)
    allowed = ((cells - own).abs() <= reach) & (~taken | ((now - other_own).abs() <= reach))
    allowed &= gain > TIE * lines.scale[line, None]
    gain, at = gain.masked_fill_(~allowed, 0.0).max(dim=1)  # (P,)
    rows, packet = best_packets(gain, line, slot, places.shape)
    at = at[packet, None]
    target, swapped = cells[packet].gather(1, at)[:, 0], taken[packet].gather(1, at)[:, 0]
    partner = other[packet].gather(1, at)[:, 0]
    found = places.clone()
    found[rows[swapped], partner[swapped]] = now[packet[swapped], 0]
    found[rows, slot[packet]] = target
    return found
