"""What minimum-norm members of ensembles find at the largest radius serves the smaller ones."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from snnrobust.search.attack_context import SearchResult


@dataclass(frozen=True)
class _Changes:
    """The entries in which an example differs from its original: flat positions and values, [m] each."""

    at: Tensor
    values: Tensor


class ClosestExamples:
    """Results of searches for the closest example, by search and sample; examples are kept as changes.

    In memory alone: a run that is resumed searches again, with the same draws.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, dict[int, tuple[SearchResult, _Changes]]] = {}

    def known(self, search: Hashable, samples: Tensor) -> Tensor:
        """Which of the sample ids [n] were searched, [n]."""
        found = self._found.get(search, {})
        return torch.tensor([sample in found for sample in samples.tolist()], dtype=torch.bool)

    def put(self, search: Hashable, samples: Tensor, result: SearchResult, originals: Tensor) -> None:
        """Keeps a result for n samples with ids [n] and inputs [n, *]; nothing of it is spent again."""
        found = self._found.setdefault(search, {})
        nothing = torch.zeros_like(result.forwards)
        free = replace(result, forwards=nothing, backwards=nothing, disagreements=nothing, undefined=nothing.bool())
        for row, sample in enumerate(samples.tolist()):
            x, origin = result.x[row].flatten(), originals[row].flatten()
            at = (x != origin).nonzero()[:, 0]
            part = {each.name: getattr(free, each.name)[[row]] for each in fields(SearchResult)}
            bare = SearchResult(**{**part, "x": x[:0], "last_x": x[:0]})
            found[sample] = bare, _Changes(at, x[at])

    def get(self, search: Hashable, samples: Tensor, rows: Tensor, originals: Tensor) -> SearchResult:
        """The results for samples with ids [n] at the positions `rows` [n], with inputs [n, *]."""
        kept = [self._found[search][sample] for sample in samples.tolist()]
        x = originals.flatten(1).clone()
        for row, (_, changes) in enumerate(kept):
            x[row, changes.at] = changes.values
        x = x.reshape(originals.shape)
        joined = {
            each.name: torch.cat([getattr(result, each.name) for result, _ in kept])
            for each in fields(SearchResult)
            if each.name not in ("x", "last_x", "rows")
        }
        return SearchResult(x=x, last_x=x, rows=rows, **joined)
