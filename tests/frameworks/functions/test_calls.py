"""Watching the calls of a Function: values and gradients in place of its own, and everything as before afterwards."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from snnrobust.frameworks.functions.calls import Call, FunctionClass, replayed, watched


class WithNode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return (x > 0).to(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.slope * ctx.saved_tensors[0], None


class WithSetup(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, slope: float) -> Tensor:
        return (x > 0).to(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.slope = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.slope * ctx.saved_tensors[0], None


class Inherited(WithNode):
    """Its methods are those of another Function."""


FUNCTIONS: list[FunctionClass] = [WithNode, WithSetup, Inherited]
every_function = pytest.mark.parametrize("function", FUNCTIONS)


def cubed(call: Call) -> bool:
    call.backward = lambda gradient, args: {0: gradient * args[0] ** 3}
    return True


def point() -> Tensor:
    return torch.tensor([-1.5, 0.5, 2.0], requires_grad=True)


def gradient_of(apply: Callable[..., Tensor], x: Tensor) -> Tensor:
    found: Tensor = torch.autograd.grad(apply(x, 3.0).sum(), x)[0]
    return found


@every_function
def test_a_call_takes_another_gradient_and_the_class_is_as_before(function: FunctionClass) -> None:
    apply, x, before = function.apply, point(), dict(vars(function))
    with watched(function, cubed):
        assert torch.equal(gradient_of(apply, x), x**3)
    assert list(vars(function).items()) == list(before.items())
    assert all(vars(function)[name] is before[name] for name in before)
    assert torch.equal(gradient_of(apply, x), 3 * x)
    assert not function.__subclasses__() or function is WithNode


@every_function
def test_the_gradient_holds_after_the_scope_and_has_a_derivative(function: FunctionClass) -> None:
    x = point()
    with watched(function, cubed):
        spikes = function.apply(x, 3.0)
    assert torch.equal(spikes, (x > 0).float())
    (first,) = torch.autograd.grad(spikes.sum(), x, create_graph=True)
    assert torch.equal(first, x**3)
    assert torch.allclose(torch.autograd.grad(first.sum(), x)[0], 3 * x**2)


@every_function
def test_an_unclaimed_call_runs_as_it_is(function: FunctionClass) -> None:
    x, seen = point(), []

    def passing(call: Call) -> bool:
        seen.append(call)
        return False

    with watched(function, cubed), watched(function, passing):  # the next one is asked
        assert torch.equal(gradient_of(function.apply, x), x**3)
    with watched(function, passing):
        assert torch.equal(gradient_of(function.apply, x), 3 * x)
    assert len(seen) == 2


@every_function
def test_nested_scopes_of_which_the_inner_one_fails(function: FunctionClass) -> None:
    x, before = point(), dict(vars(function))

    def failing(call: Call) -> bool:
        raise KeyError("mine")

    with watched(function, cubed):
        with pytest.raises(KeyError, match="mine"), watched(function, failing):
            function.apply(x, 3.0)
        assert torch.equal(gradient_of(function.apply, x), x**3)
    assert dict(vars(function)) == before
    assert torch.equal(gradient_of(function.apply, x), 3 * x)


@every_function
def test_a_forward_pass_that_fails_leaves_nothing_behind(function: FunctionClass) -> None:
    with watched(function, cubed):
        with pytest.raises(TypeError):
            function.apply("no tensor", 3.0)
        x = point()
        assert torch.equal(gradient_of(function.apply, x), x**3)


@every_function
def test_another_thread_sees_the_own_gradient_and_has_scopes_of_its_own(function: FunctionClass) -> None:
    inside, done, found = threading.Event(), threading.Event(), {}

    def negative(call: Call) -> bool:
        call.backward = lambda gradient, args: {0: -gradient}
        return True

    def other() -> None:
        inside.wait(10)
        x = point()
        found["own"] = gradient_of(function.apply, x) / x
        with watched(function, negative):
            found["scope"] = gradient_of(function.apply, x)
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    before, x = dict(vars(function)), point()
    with watched(function, cubed):
        inside.set()
        assert done.wait(10)
        assert torch.equal(gradient_of(function.apply, x), x**3)
    thread.join()
    assert torch.equal(found["own"], torch.full((3,), 3.0))
    assert torch.equal(found["scope"], torch.full((3,), -1.0))
    assert dict(vars(function)) == before


@every_function
def test_a_replay_is_the_functions_own_and_unseen(function: FunctionClass) -> None:
    calls = []

    def keep(call: Call) -> bool:
        calls.append(call)
        return cubed(call)

    with watched(function, keep):
        function.apply(point(), 3.0)
        x = torch.tensor([4.0], requires_grad=True)
        again = replayed(calls[0], {0: x})
    assert len(calls) == 1
    assert torch.equal(torch.autograd.grad(again.sum(), x)[0], 3 * x)


@every_function
def test_activations_are_freed_without_the_garbage_collector(function: FunctionClass) -> None:
    gc.disable()
    try:
        x = point()
        with watched(function, cubed):
            held = x * 1
            spikes = function.apply(held, 3.0)
        gone = weakref.ref(held)
        spikes.sum().backward()
        del held, spikes
        assert gone() is None
    finally:
        gc.enable()
