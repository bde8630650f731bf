"""The best retimings under budgets that couple the lines of a sample: total shift and number of packets moved."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.threat_models.shift_crossing import place_with_crossing
from snnrobust.threat_models.shift_exchanges import best_packets, exchange
from snnrobust.threat_models.shift_lines import TIE, Lines, keep_common, place_in_order

#: Steps of the search for a multiplier: divisions by 4 until the budget is exceeded, then halvings of the interval.
DESCENT, HALVINGS = 12, 14
#: A search ends where spending all of the budget at the present price would gain at most this share more.
GAP = 1e-3
#: Or where the interval is no wider than this share of the price.
NARROW = 1e-3
#: Steps of the search for the price of a shift where both prices matter, and the share that may be left there.
OUTER, GAP_BOTH = 10, 5e-3
#: Rounds in which a line may move one more packet with what is left of the budgets.
FILLS = 8
#: Most pairs of a packet and a place in a sample for such rounds: on larger ones what is left is a small share.
PAIRS = 2**14


@dataclass(frozen=True)
class Coupled:
    """Lines whose packets may move by `reach` each, and what each sample may spend in all.

    Attributes:
        lines: The lines of all samples.
        batch: N, the number of samples.
        reach: Largest shift.
        budgets: What a sample may spend: "shift-l1" (total shift), "shift-l0" (packets moved), or both.
        most_gain: What the packets of a line can gain by each unit of cost, at most [L].
        retimed: Samples whose scores are a retiming, which is then the best one if it is allowed [N].
        vacant: Times without a packet [L, T + 1], where nothing limits a single shift. On lines with packets of one
            size, the packets moved are then those at vacant times. None, and elsewhere: those not at their own time.
        close: Lines in which a packet could pass one that stays, if that is to be allowed [L].
    """

    lines: Lines
    batch: int
    reach: int
    budgets: dict[str, int]
    most_gain: Tensor
    retimed: Tensor
    vacant: Tensor | None
    close: Tensor | None

    def best(self, rows: Tensor, prices: dict[str, Tensor]) -> Tensor:
        """The places [l, M] worth most on the lines `rows` at the `prices` [N] of each budget."""
        places = self.lines.times[rows]
        # Each move costs at least one unit of each budget.
        sample = self.lines.sample[rows]
        moving = (self.most_gain[rows] > sum(price[sample] for price in prices.values())).nonzero()[:, 0]
        passing = torch.zeros_like(rows, dtype=torch.bool)
        if self.close is not None:
            passing = self.close[rows]
        elif "shift-l0" in prices:
            passing = ~self.lines.uniform[rows]
        passing = passing[moving]
        for part, any_order in ((moving[passing], True), (moving[~passing], False)):
            if len(part):
                found = self._solve(rows[part], prices, any_order)
                places[part, : found.shape[1]] = found
        return places

    def _solve(self, rows: Tensor, prices: dict[str, Tensor], any_order: bool) -> Tensor:
        lines = self.lines.select(rows)
        zero = torch.zeros_like(lines.scale)
        tie = TIE * lines.scale
        shift = prices["shift-l1"][lines.sample] if "shift-l1" in prices else zero
        moved = tie + prices["shift-l0"][lines.sample] if "shift-l0" in prices else None
        if any_order and moved is not None:
            if self.close is not None:
                return place_with_crossing(lines, self.reach, tie + shift, moved)
            return exchange(lines, lines.times, torch.full_like(lines.count, self.reach), tie + shift, moved)
        # A packet that shifts further than this saves more by returning to a free place than it can lose.
        spread = self.most_gain[rows] if moved is None else self.most_gain[rows] - moved
        reach = (spread / shift).nan_to_num(nan=torch.inf).clamp(0, self.reach).ceil().long() + 1
        vacant = None if self.vacant is None else self.vacant[rows]
        return place_in_order(lines, reach.clamp_max(self.reach), tie + shift, moved, vacant)

    def polish(self, places: Tensor, prices: dict[str, Tensor]) -> Tensor:
        """Places [L, M] at least as good at the `prices` [N], where packets of several sizes need not keep order."""
        lines, tie = self.lines, TIE * self.lines.scale
        far = tie + prices["shift-l1"][lines.sample] if "shift-l1" in prices else tie
        moved = tie + prices["shift-l0"][lines.sample] if "shift-l0" in prices else None
        return exchange(lines, places, torch.full_like(lines.count, self.reach), far, moved)

    def costs(self, rows: Tensor, places: Tensor) -> Tensor:
        """What the lines `rows` spend of each budget with their packets at `places` [l, M]: [l, budgets]."""
        times, uniform = self.lines.times[rows], self.lines.uniform[rows]
        parts = []
        for name in self.budgets:
            if name == "shift-l1":
                parts.append((places - times).abs().sum(dim=1))
                continue
            moved = places != times
            if self.vacant is not None:
                moved = torch.where(uniform[:, None], self.vacant[rows].gather(1, places), moved)
            parts.append(moved.sum(dim=1))
        return torch.stack(parts, dim=1)

    def per_sample(self, values: Tensor, sample: Tensor | None = None) -> Tensor:
        """Sums over the lines of each sample: [L, *] to [N, *]."""
        out = torch.zeros((self.batch, *values.shape[1:]), dtype=values.dtype, device=values.device)
        return out.index_add_(0, self.lines.sample if sample is None else sample, values)


def spend(problem: Coupled) -> Tensor:
    """Places [L, M] of all packets within the budgets, worth nearly as much as any.

    Lagrange relaxation: at given prices (multipliers) the lines are independent, and the dynamic programme solves each.
    One price is found per sample by bisection; of two, one inside the bisection for the other. The lines on which the
    two ends of the last interval differ are then switched to the dearer end while the budgets allow, those with the
    largest gain per cost first. Should the cheaper end exceed a budget, the lines with the least gain per cost stay as
    they were. Last, single packets move with what is left.
    """
    lines = problem.lines
    every = torch.arange(len(lines.row), device=lines.row.device)
    prices = {name: torch.zeros_like(problem.per_sample(lines.scale)) for name in problem.budgets}
    low, high = lines.times.clone(), lines.times.clone()
    if len(prices) == 1:
        for name, most in problem.budgets.items():
            _search(problem, every, name, prices, torch.full_like(prices[name], most), low, high)
    else:
        _search_both(problem, prices, low, high)
    budget = torch.tensor(list(problem.budgets.values()), device=lines.row.device)
    room = budget.expand(problem.batch, -1).clone()  # (N, budgets)
    places = lines.times.clone()
    for candidate in (high, problem.polish(high, prices), problem.polish(low, prices)):
        gain = lines.gain(candidate) - lines.gain(places)
        cost = problem.costs(every, candidate) - problem.costs(every, places)
        chosen = _take(lines.sample, gain, cost, room)
        places[chosen] = candidate[chosen]
    if problem.vacant is not None:
        places = keep_common(lines, places)
    return _fill(problem, places, room)


def _search_both(problem: Coupled, prices: dict[str, Tensor], low: Tensor, high: Tensor) -> None:
    """Sets the prices of total shift and moves so that both budgets are met, and fills `low` and `high` as `_search`.

    With the price of a move found for each price of a shift, the total shift falls with the latter, which is divided by
    4 until that budget is exceeded, and then found by bisection. A line whose cost is the same at both ends is done.
    """
    lines, sample = problem.lines, problem.lines.sample
    every = torch.arange(len(lines.row), device=lines.row.device)
    shift, moved = "shift-l1", "shift-l0"
    budget = torch.tensor([problem.budgets[shift], problem.budgets[moved]], device=sample.device)
    _search(problem, every, shift, prices, budget[0].expand(problem.batch), low, high)
    exceeds = problem.per_sample(problem.costs(every, high))[:, 1] > budget[1]  # elsewhere one price is enough
    upper, lower = prices[shift].clone(), torch.zeros_like(prices[shift])
    best = {name: price.clone() for name, price in prices.items()}
    outside, inside = low.clone(), high.clone()
    tried = exceeds.clone()  # samples
    beyond, known = torch.zeros_like(exceeds), torch.zeros_like(exceeds)  # ends of the interval that have been found
    open_ = exceeds[sample]  # lines
    for _ in range(OUTER):
        rows = open_.nonzero()[:, 0]
        if not len(rows):
            break
        prices[shift] = torch.where(tried, torch.where(beyond, (lower + upper) / 2, upper / 4), prices[shift])
        fixed = (exceeds[sample] & ~open_)[:, None]
        held = problem.per_sample(torch.where(fixed, problem.costs(every, high), 0))
        _search(problem, rows, moved, prices, budget[1] - held[:, 1], outside, inside)
        cost = problem.costs(every, torch.where(fixed, high, inside))
        spent = problem.per_sample(cost)
        within = tried & (spent <= budget).all(dim=1)
        upper, lower = torch.where(within, prices[shift], upper), torch.where(tried & ~within, prices[shift], lower)
        good, bad = open_ & within[sample], open_ & ~within[sample]
        high[good], low[bad] = inside[good], inside[bad]
        low[good & ~beyond[sample]] = outside[good & ~beyond[sample]]
        for name, price in prices.items():
            best[name] = torch.where(within, price, best[name])
        beyond |= tried & ~within
        known |= within
        # By duality no retiming is worth more than what is left of the budgets at these prices.
        room = budget - problem.per_sample(problem.costs(every, high))
        more = best[shift] * room[:, 0] + best[moved] * room[:, 1]
        tried &= ~known | (more > GAP_BOTH * problem.per_sample(lines.gain(high)))
        same = (problem.costs(every, low) == problem.costs(every, high)).all(dim=1)
        open_ &= tried[sample] & ~(same & (beyond & known)[sample])
    missed = (exceeds & ~known)[sample].nonzero()[:, 0]
    high[missed] = inside[missed]
    prices.update(best)


def _search(
    problem: Coupled, rows: Tensor, name: str, prices: dict[str, Tensor], budget: Tensor, low: Tensor, high: Tensor
) -> None:
    """Sets the price of one budget for the samples of the lines `rows`, given the other prices.

    `low` and `high` [L, M] receive, on these lines, the best places at two nearby prices, where what they may spend,
    `budget` [N], is exceeded and where it is met. A line's cost falls with the price, so a line with the same cost at
    both is done. From the highest useful price downwards, few packets move, and not far, so the first steps are cheap.
    """
    lines = problem.lines
    part = list(problem.budgets).index(name)
    sample = lines.sample[rows]
    top = torch.zeros_like(prices[name]).scatter_reduce_(0, sample, problem.most_gain[rows], "amax")
    lower, upper = torch.zeros_like(top), top.clone()  # at `top` nothing moves
    known = (prices[name] > 0) & (prices[name] < top)
    first = torch.where(problem.retimed, 0.0, torch.where(known, prices[name], top / 4))
    exceeded = torch.zeros_like(top, dtype=torch.bool)
    done = top == 0
    high[rows] = low[rows] = lines.times[rows]
    high_cost = torch.zeros_like(sample)
    low_cost = torch.full_like(sample, -1)  # not known yet
    gain = torch.zeros_like(problem.most_gain[rows])
    for step in range(DESCENT + HALVINGS):
        tried = (~done[sample] & (low_cost != high_cost)).nonzero()[:, 0]
        if not len(tried):
            break
        middle = (lower + upper) / 2
        middle = torch.where(lower > 0, torch.minimum(middle, 2 * lower), middle)
        price = torch.where(exceeded, middle, upper / 4 if step < DESCENT - 1 else 0.0) if step else first
        found = problem.best(rows[tried], {**prices, name: price})
        cost = problem.costs(rows[tried], found)[:, part]
        spent = problem.per_sample(high_cost.index_fill(0, tried, 0).index_add(0, tried, cost), sample)
        inside = spent <= budget
        lower, upper = torch.where(inside | done, lower, price), torch.where(inside & ~done, price, upper)
        exceeded |= ~inside
        within = inside[sample[tried]]
        for mine, places, costs in ((within, high, high_cost), (~within, low, low_cost)):
            places[rows[tried[mine]]], costs[tried[mine]] = found[mine], cost[mine]
        some = rows[tried[within]]
        if len(some):
            gain[tried[within]] = lines.select(some).gain(found[within, : int(lines.count[some[0]])])
        enough = upper * (budget - spent) <= GAP * problem.per_sample(gain, sample)
        done |= (upper == 0) | (inside & enough) | (upper - lower <= NARROW * upper)
    low[rows[low_cost < 0]] = high[rows[low_cost < 0]]
    mine = torch.zeros_like(done).index_fill_(0, sample, True)
    prices[name] = torch.where(mine, upper, prices[name])


def _take(sample: Tensor, gain: Tensor, cost: Tensor, room: Tensor) -> Tensor:
    """Which changes [K] to make: those of largest gain per cost that fit in `room` [N, B], which is reduced by them.

    A change that does not fit beside those before it is passed over, and the next ones are tried, a few times.
    """
    chosen = torch.zeros_like(sample, dtype=torch.bool)
    share = room.clamp_min(1)
    for _ in range(4):
        open_ = (~chosen & (gain > 0) & (cost <= room[sample]).all(dim=1)).nonzero()[:, 0]
        if not len(open_):
            break
        whose, costs = sample[open_], cost[open_]
        paid = costs.clamp_min(0)
        ratio = gain[open_] / ((paid / share[whose]).sum(dim=1) + 1e-9)
        order = ratio.argsort(descending=True, stable=True)
        order = order[whose[order].argsort(stable=True)]  # by sample, then by ratio
        whose, paid, costs = whose[order], paid[order], costs[order]
        sums = paid.cumsum(dim=0)
        first = torch.searchsorted(whose, whose)
        sums = sums - (sums[first] - paid[first])
        fits = (sums <= room[whose]).all(dim=1)
        chosen[open_[order[fits]]] = True
        room.index_add_(0, whose[fits], -costs[fits])
    return chosen


def _fill(problem: Coupled, places: Tensor, room: Tensor) -> Tensor:
    """Moves single packets to free places while that gains and `room` [N, budgets] allows; the places [L, M]."""
    width = min(2 * problem.reach + 1, problem.lines.steps)
    small = problem.per_sample(problem.lines.count) * width <= PAIRS
    for _ in range(FILLS):
        rows = (small & (room > 0).all(dim=1))[problem.lines.sample].nonzero()[:, 0]
        if not len(rows):
            break
        lines = problem.lines.select(rows)
        most = lines.times.shape[1]
        line, slot, place, gain, cost = _single_moves(problem, lines, places[rows, :most], room)
        chosen = _take(lines.sample[line], gain, cost, room)
        if not bool(chosen.any()):
            break
        places[rows[line[chosen]], slot[chosen]] = place[chosen]
    return places


def _single_moves(
    problem: Coupled, lines: Lines, places: Tensor, room: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """For each line its best move of one packet from `places` [L, M]: line, slot, place, gain, costs [K, budgets]."""
    steps, reach = lines.steps, problem.reach
    width = min(2 * reach + 1, steps)
    line, slot = (places < steps).nonzero(as_tuple=True)  # (P,)
    own, now = lines.times[line, slot], places[line, slot]
    start = (own - reach).clamp(0, steps - width)
    cells = start[:, None] + torch.arange(width, device=own.device)  # (P, W)
    shift = (cells - own[:, None]).abs()
    scores = lines.scores[line]
    gain = lines.sizes[line, slot, None] * (scores.gather(1, cells) - scores.gather(1, now[:, None]))
    parts = []
    for name in problem.budgets:
        if name == "shift-l1":
            parts.append(shift - (now - own).abs()[:, None])
        else:
            parts.append((shift > 0).long() - (now != own).long()[:, None])
    cost = torch.stack(parts, dim=2)  # (P, W, budgets)
    left = room[lines.sample[line]][:, None]
    allowed = lines.free(places)[line].gather(1, cells) & (shift <= reach) & (cost <= left).all(dim=2)
    allowed &= gain > TIE * lines.scale[line, None]
    ratio = gain / ((cost.clamp_min(0) / left.clamp_min(1)).sum(dim=2) + 1e-9)
    ratio, at = ratio.masked_fill_(~allowed, 0).max(dim=1)  # (P,)
    rows, packet = best_packets(ratio, line, slot, places.shape)
    at = at[packet]
    return rows, slot[packet], cells[packet, at], gain[packet, at], cost[packet, at]


def move_most_gain(lines: Lines, batch: int, budget: int) -> Tensor:
    """The places [L, M] worth most with at most `budget` moved packets a sample, on lines with packets of one size.

    On each line the j-th swap, of the occupied time of the j-th lowest score for the free time of the j-th highest,
    gains less than the one before, so the `budget` largest gains of a sample are the best it can have. Exact.
    """
    scores = lines.scores[:, :-1]
    held = ~lines.free(lines.times)[:, :-1]
    out_of = scores.masked_fill(~held, torch.inf).sort(dim=1, stable=True)
    into = scores.masked_fill(held, -torch.inf).sort(dim=1, stable=True, descending=True)
    gain = lines.sizes[:, :1] * (into.values - out_of.values)  # (L, T), falling
    line, rank = (gain > TIE * lines.scale[:, None]).nonzero(as_tuple=True)
    one = torch.ones((len(line), 1), dtype=torch.long, device=line.device)
    room = torch.full((batch, 1), budget, device=line.device)
    chosen = _take(lines.sample[line], gain[line, rank], one, room)
    target = torch.arange(lines.steps + 1, device=line.device).repeat(len(lines.row), 1)  # (L, T + 1): time to time
    line, rank = line[chosen], rank[chosen]
    target[line, out_of.indices[line, rank]] = into.indices[line, rank]
    return target.gather(1, lines.times)
