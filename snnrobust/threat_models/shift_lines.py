"""Spike grids as lines of packets, and the best places of a line's packets where they keep their order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Gains below this share of the largest score count as ties, which are broken in favour of not moving.
TIE = 1e-12


@dataclass(frozen=True)
class Lines:
    """The occupied lines of a batch, those with most packets first.

    A line is one entry over time. It holds at most M packets: nonzero cells with their whole counts.

    Attributes:
        row: Number of each line among all lines of the batch, sample by sample [L].
        sample: Place in the batch of each line's sample [L].
        scores: What a unit is worth at each time, and 0 at time T, which stands for no packet [L, T + 1], float64.
        times: Times of the packets in order, then T [L, M].
        sizes: Counts of the packets, then 0 [L, M], float64.
        count: Number of packets [L].
        scale: What the largest packet of the sample is worth at its largest score, 1 if all are 0 [L], float64.
        uniform: Whether all packets of the line have one size [L].
    """

    row: Tensor
    sample: Tensor
    scores: Tensor
    times: Tensor
    sizes: Tensor
    count: Tensor
    scale: Tensor
    uniform: Tensor

    @property
    def steps(self) -> int:
        """T, the number of times."""
        return self.scores.shape[1] - 1

    def select(self, rows: Tensor) -> Lines:
        """The lines at `rows`, which must rise."""
        count = self.count[rows]
        most = int(count[0]) if len(count) else 1
        return Lines(
            self.row[rows],
            self.sample[rows],
            self.scores[rows],
            self.times[rows, :most],
            self.sizes[rows, :most],
            count,
            self.scale[rows],
            self.uniform[rows],
        )

    def gain(self, places: Tensor) -> Tensor:
        """What the packets are worth at `places` [L, M] beyond what they are worth where they are [L]."""
        return (self.sizes * (self.scores.gather(1, places) - self.scores.gather(1, self.times))).sum(dim=1)

    def most_gain(self) -> Tensor:
        """No packet gains more than this by a move, given the others, or alone where sizes are mixed [L]."""
        scores, free = self.scores[:, :-1], self.free(self.times)[:, :-1]
        highest = torch.where(free | ~self.uniform[:, None], scores, -torch.inf).amax(dim=1)
        lowest = torch.where(free & self.uniform[:, None], torch.inf, scores).amin(dim=1)
        return self.sizes.amax(dim=1) * (highest - lowest).clamp_min(0)

    def retimed(self, batch: int) -> Tensor:
        """Whether the scores of each sample of the batch are packets of the same sizes on every line [N]."""
        other = (self.scores[:, :-1].sort(dim=1).values != self.grid(self.times).sort(dim=1).values).any(dim=1)
        retimed = torch.ones(batch, dtype=torch.bool, device=other.device)
        retimed[self.sample[other]] = False
        return retimed

    def grid(self, places: Tensor) -> Tensor:
        """Counts over time with the packets at `places` [L, M]: [L, T], float64."""
        return self.sizes.new_zeros(self.scores.shape).scatter_(1, places, self.sizes)[:, :-1]

    def free(self, places: Tensor) -> Tensor:
        """Which times hold no packet when the packets are at `places` [L, M]: [L, T + 1], the last one False."""
        free = torch.ones(self.scores.shape, dtype=torch.bool, device=places.device).scatter_(1, places, False)
        free[:, -1] = False
        return free


def occupied_lines(x: Tensor, x0: Tensor) -> Lines:
    """The lines of `x0` [N, T, *] with at least one packet, scored by `x` [N, T, *]."""
    batch, steps = x0.shape[:2]
    entries = x0[0, 0].numel()
    flat = x0.detach().reshape(batch, steps, entries).transpose(1, 2).reshape(-1, steps)  # (N E, T)
    scores = x.detach().reshape(batch, steps, entries).transpose(1, 2).reshape(-1, steps)
    count = (flat != 0).sum(dim=1)  # (N E,)
    row = count.nonzero()[:, 0]
    row = row[count[row].argsort(descending=True, stable=True)]
    sample, count = row // entries, count[row]
    most = int(count[0]) if len(count) else 1
    line = flat[row]  # (L, T)
    where, time = line.nonzero(as_tuple=True)
    slot = torch.arange(len(where), device=x0.device) - (count.cumsum(0) - count)[where]
    times = torch.full((len(row), most), steps, device=x0.device)
    times[where, slot] = time
    sizes = torch.zeros((len(row), most), dtype=torch.float64, device=x0.device)
    sizes[where, slot] = line[where, time].double()
    padded = torch.zeros((len(row), steps + 1), dtype=torch.float64, device=x0.device)
    padded[:, :-1] = torch.nan_to_num(scores[row].double(), nan=0.0, posinf=1e100, neginf=-1e100)
    scale = torch.zeros(batch, dtype=torch.float64, device=x0.device)
    scale.scatter_reduce_(0, sample, padded.abs().amax(dim=1) * sizes.amax(dim=1), "amax")
    uniform = ((sizes == sizes[:, :1]) | (sizes == 0)).all(dim=1)
    scale = torch.where(scale > 0, scale, 1.0)
    return Lines(row, sample, padded, times, sizes, count, scale[sample], uniform)


def scatter_lines(lines: Lines, places: Tensor, x0: Tensor) -> Tensor:
    """A grid like `x0` [N, T, *] with the packets of `lines` at `places` [L, M]."""
    batch, steps = x0.shape[:2]
    entries = x0[0, 0].numel() if batch and steps else 0
    out = torch.zeros((batch, entries, steps), dtype=x0.dtype, device=x0.device)
    out.view(-1, steps)[lines.row] = lines.grid(places).to(x0.dtype)
    return out.transpose(1, 2).reshape(x0.shape)


def place_in_order(lines: Lines, reach: Tensor, far: Tensor, moved: Tensor | None, vacant: Tensor | None) -> Tensor:
    """The places [L, M] of the packets worth most, less their prices, among those that keep each line's order.

    Dynamic programme over the packets of a line: with F_i(q) the best worth of the first i packets with packet i at
    time q, F_i(q) = worth_i(q) + max over q' < q of F_{i-1}(q'). Exact. All lines take part in each operation, and the
    loop is over the packets of the fullest line: O(packets x (2 reach + 1)).

    Args:
        lines: The lines.
        reach: Largest shift, a whole number below T [L].
        far: Price of a shift by one step [L].
        moved: Price of a packet that moves [L], or None.
        vacant: If given, the times [L, T + 1] at which that price is due on lines with packets of one size, instead of
            where a packet is not at its own time.
    """
    steps, most = lines.steps, lines.times.shape[1]
    widest = int(reach.max()) if len(reach) else 0
    width = min(2 * widest + 1, steps)
    offsets = torch.arange(width, device=lines.times.device)
    rows = torch.bincount(lines.count, minlength=most + 1)[1:].flip(0).cumsum(0).flip(0).tolist()
    best, begin = lines.scores, lines.row
    chosen: list[tuple[Tensor, Tensor]] = []
    for i in range(most):
        own = lines.times[: rows[i], i, None]  # (L_i, 1)
        start = (own - widest).clamp(0, steps - width)
        cells = start + offsets  # (L_i, W)
        shift = (cells - own).abs()
        worth = lines.sizes[: rows[i], i, None] * lines.scores[: rows[i]].gather(1, cells)
        worth = worth - far[: rows[i], None] * shift
        if moved is not None:
            due = shift > 0
            if vacant is not None:
                due = torch.where(lines.uniform[: rows[i], None], vacant[: rows[i]].gather(1, cells), due)
            worth = worth - moved[: rows[i], None] * due
        worth = worth.masked_fill_(shift > reach[: rows[i], None], -torch.inf)
        if i:
            before = cells - 1 - begin[: rows[i], None]
            so_far = best[: rows[i]].gather(1, before.clamp(0, width - 1))
            worth = worth + so_far.masked_fill_(before < 0, -torch.inf)
        begin = start[:, 0]
        best, at = worth.cummax(dim=1)
        chosen.append((begin, at))
    places = lines.times.clone()
    following = torch.full_like(lines.count, 2 * steps)  # time of the next packet: none yet
    for i in reversed(range(most)):
        begin, at = chosen[i]
        last = (following[: rows[i]] - 1 - begin).clamp_max(width - 1)
        following[: rows[i]] = begin + at.gather(1, last[:, None])[:, 0]
        places[: rows[i], i] = following[: rows[i]]
    return places


def keep_common(lines: Lines, places: Tensor) -> Tensor:
    """The places [L, M] of another matching on lines with packets of one size: common ones stay, others keep order."""
    before, after = ~lines.free(lines.times), ~lines.free(places)  # (L, T + 1)
    before[:, -1] = after[:, -1] = False
    left, entered = before & ~after, after & ~before
    rank = left.long().cumsum(dim=1) - 1
    entry = entered.long().cumsum(dim=1) - 1
    places_of = torch.zeros_like(rank)
    times = torch.arange(places_of.shape[1], device=places.device).expand_as(entry)
    # Cells that are not entered are written to the last column, which no rank refers to.
    places_of.scatter_(1, torch.where(entered, entry, places_of.shape[1] - 1), times)
    goes = left.gather(1, lines.times)
    target = places_of.gather(1, rank.gather(1, lines.times).clamp_min(0))
    return torch.where(lines.uniform[:, None], torch.where(goes, target, lines.times), places)
