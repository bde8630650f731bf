"""Spikes that are `autograd.Function`s, whose gradient is replaced by an estimator's for a while."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from snnrobust.frameworks.functions.calls import Call
from snnrobust.frameworks.functions.levels import Position
from snnrobust.frameworks.functions.sites import Site, Sites
from snnrobust.plugin.protocols import Relaxation
from snnrobust.spike_gradients.patched import PassContext, Patched
from snnrobust.wrapping.model import SpikingModel


class PatchedSite(Patched):
    """A place where a Function spikes, and the estimator for it."""

    def __init__(self, site: Site, estimator: Any) -> None:
        super().__init__(site.name, estimator)
        self._site = site

    def enter(self, context: PassContext | None, undo: ExitStack) -> None:
        """Puts the estimator in; closing `undo` removes it."""
        undo.callback(self._remove, self._context)
        self._context = context

    def restart(self) -> None:
        """A new forward pass begins."""
        self._calls = []  # a new list: graphs of earlier passes keep theirs

    def compare(self, call: Call) -> None:
        """Gives a call the estimator's gradient, or the smooth value of a relaxation."""
        site, calls, number = self._site, self._calls, len(self._calls)
        self.ran = self.used = True
        u = site.distance(call).detach()
        calls.append(u)
        if isinstance(self.estimator, Relaxation):
            call.output = self._smooth(call, u, calls, number).detach()
            call.backward = lambda gradient, args: self._through_primitive(gradient, args, call, calls, number)
            return
        context = self._context

        def backward(gradient: Tensor, args: tuple[Any, ...]) -> dict[int, Tensor]:
            at = site.levels.distance(args[site.argument], args)
            self._state["surrogate"] = site.own(call)
            slope = gradient * self._derivative(at, calls, number, site.sample_axis, context)
            return self._gradients(slope * site.levels.size if site.levels.size != 1 else slope, args)

        call.backward = backward

    def _smooth(self, call: Call, u: Tensor, calls: list[Tensor], number: int) -> Tensor:
        surrogate = self._site.own(call)
        self._state.update(
            calls=calls, call=number, axis=self._site.sample_axis, memory={}, frozen=False, surrogate=surrogate
        )
        smooth: Tensor = self.estimator.primitive(u, self._state)
        return self._site.levels.size * smooth

    def _through_primitive(
        self, gradient: Tensor, args: tuple[Any, ...], call: Call, calls: list[Tensor], number: int
    ) -> dict[int, Tensor]:
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            v = args[self._site.argument]
            v = v if v.requires_grad else v.detach().requires_grad_()
            u = self._site.levels.distance(v, args)
            smooth = self._smooth(call, u, calls, number)
            if not smooth.requires_grad:  # constant
                return {}
            (slope,) = torch.autograd.grad(smooth, v, gradient, create_graph=again)
        return self._gradients(slope, args)

    def _gradients(self, slope: Tensor, args: tuple[Any, ...]) -> dict[int, Tensor]:
        """By position of the argument."""
        found = {self._site.argument: slope}
        first = self._site.levels.first
        if self._site.threshold_learns and isinstance(first, Position):
            found[first.of] = (-slope).sum_to_size(args[first.of].shape)
        return found


class PatchedFunctions:
    """All sites of a net that are swapped."""

    def __init__(self, model: SpikingModel, sites: Sites, chosen: Mapping[str, Any]) -> None:
        by_name = sites.by_name
        self._model = model
        self._sites = sites
        self.places = {name: PatchedSite(by_name[name], estimator) for name, estimator in chosen.items()}
        self._pass = -1

    def place(self, context: PassContext | None) -> ExitStack:
        """Puts the estimators in; closing the result removes them."""
        with ExitStack() as undo:
            if self.places:
                for each in self.places.values():
                    each.enter(context, undo)
                model, self._pass = self._model, -1
                undo.enter_context(self._sites.followed(model.net, self._see, lambda: model.passes))
            return undo.pop_all()

    def _see(self, site: Site, call: Call) -> None:
        if self._pass != self._model.passes:
            self._pass = self._model.passes
            for each in self.places.values():
                each.restart()
        if (place := self.places.get(site.name)) is not None:
            place.compare(call)
