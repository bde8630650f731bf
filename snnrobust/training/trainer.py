"""A short trainer for small nets on static data, for demos, tests and studies."""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from spikingjelly.activation_based import functional as spiking
from torch import Tensor, nn

from snnrobust.common.random import global_rng
from snnrobust.data.dataset import Dataset
from snnrobust.errors import InputError, InputTypeError
from snnrobust.training.losses import LOGIT_LOSSES, RATE_LOSSES, Loss
from snnrobust.training.silence import SilentNeurons
from snnrobust.wrapping.decision import Correctness

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class History:
    """Loss and accuracy of a training.

    Attributes:
        loss: Mean training loss of each epoch.
        accuracy: Share of training samples that were right when their batch came up, for each epoch.
        seconds: Wall-clock time of the whole training.
    """

    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    seconds: float


def train(
    net: nn.Module,
    data: Dataset,
    *,
    steps: int | None,
    epochs: int,
    lr: float = 4e-3,
    batch_size: int = 50,
    seed: int = 0,
    loss: str | Loss | None = None,
    raise_silent: float = 0.0,
    progress: Callable[[int, int, float, float], None] | None = None,
) -> History:
    """Trains `net` in place with Adam, its step size falling to 0 along a half cosine.

    Each batch is shown `steps` times, to a net whose SpikingJelly state has just been reset. A net without time steps
    (event-driven, or no SNN) gets it once. Afterwards, also after an error, the net is in eval mode, reset, and without
    gradients. The order of the samples and anything random in the
    net, such as dropout, depend on `seed`; the global generators are restored.

    Args:
        net: Maps [T, N, *] to [T, N, K], or without `steps` [N, *] to [N, K]; runs on the device of its parameters.
        data: Static samples [N, *].
        steps: T; None for a net without time steps.
        epochs: Passes over the data.
        lr: Adam's first step size.
        batch_size: Samples a batch; the last batch of an epoch may be smaller.
        seed: Of everything random.
        loss: A name in `RATE_LOSSES`, without `steps` in `LOGIT_LOSSES`, or a function of outputs and labels [N]; by
            default the cross entropy.
        raise_silent: What is added, after each batch, to the weights of event-driven neurons that spiked for none of
            its samples (`SilentNeurons`).
        progress: Called after each epoch with its number from 1, `epochs`, the loss and the training accuracy.

    Returns:
        Loss and accuracy of each epoch.

    Raises:
        InputError: An argument is out of range, the data are sequences, the outputs have the wrong shape, or the loss
            is no longer finite.
        InputTypeError: An argument is of the wrong type.

    Example:
        >>> from snnrobust.networks import mlp
        >>> from spikingjelly.activation_based import neuron
        >>> data = Dataset.of(torch.eye(4).repeat(8, 1), torch.arange(4).repeat(8))
        >>> net = initialised(lambda: mlp(lambda n: neuron.IFNode(step_mode="m"), (4, 32, 4)), seed=0)
        >>> history = train(net, data, steps=4, epochs=20, lr=0.02, batch_size=8)
        >>> accuracy(net, data, steps=4)
        1.0
    """
    _check_arguments(net, data, steps=steps, epochs=epochs, batch_size=batch_size)
    if isinstance(lr, bool) or not isinstance(lr, int | float):
        raise InputTypeError(f"expected lr as a number, got {lr!r}; pass a float")
    if not (math.isfinite(lr) and lr > 0):
        raise InputError(f"expected lr above 0, got {lr}; pass something like 0.004")
    _check_seed(seed)
    if not 0 <= raise_silent < math.inf:
        raise InputError(f"expected raise_silent >= 0, got {raise_silent!r}; 0 leaves silent neurons alone")
    objective = _objective(loss, steps)
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError("expected a net with parameters to train, got none that requires a gradient; unfreeze some")
    started = time.perf_counter()
    device = parameters[0].device
    optimiser = torch.optim.Adam(parameters, lr=lr)
    batches = math.ceil(len(data) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * batches)
    shuffle = torch.Generator().manual_seed(seed)
    losses, accuracies = [], []
    classes = data.classes
    with global_rng(seed, device), SilentNeurons(net) as silent:
        net.train()
        try:
            for epoch in range(1, epochs + 1):
                total, right = 0.0, 0
                for at in torch.split(torch.randperm(len(data), generator=shuffle), batch_size):
                    y = data.y[at].to(device)  # [N]
                    outputs = _outputs(net, data.x[at].to(device), steps, classes)
                    value = objective(outputs, y)
                    if not math.isfinite(batch_loss := value.item()):
                        raise InputError(f"expected a finite loss, got {batch_loss} in epoch {epoch}; lower lr={lr}")
                    optimiser.zero_grad()
                    torch.autograd.backward(value)
                    optimiser.step()
                    schedule.step()
                    silent.raise_weights(raise_silent)
                    total += batch_loss * len(at)
                    right += _right(outputs, y)
                losses.append(total / len(data))
                accuracies.append(right / len(data))
                if progress is not None:
                    progress(epoch, epochs, losses[-1], accuracies[-1])
        finally:
            net.eval()
            net.zero_grad(set_to_none=True)
            _reset(net)
    return History(tuple(losses), tuple(accuracies), time.perf_counter() - started)


@torch.no_grad()
def accuracy(net: nn.Module, data: Dataset, steps: int | None, batch_size: int = 500) -> float:
    """Share of the samples whose true class has the largest output, a mean over time; an all-silent output is wrong.

    The net runs in eval mode. Its modes are restored afterwards, and its state is reset.

    Args:
        net: Maps [T, N, *] to [T, N, K], or without `steps` [N, *] to [N, K].
        data: Static samples [N, *].
        steps: T; None for a net without time steps.
        batch_size: Samples a batch.

    Raises:
        InputError: A number is below 1, the data are sequences, or the outputs have the wrong shape.
        InputTypeError: An argument is of the wrong type.
    """
    _check_arguments(net, data, steps=steps, batch_size=batch_size)
    device = next((parameter.device for parameter in net.parameters()), data.x.device)
    classes, right = data.classes, 0
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        for at in torch.split(torch.arange(len(data)), batch_size):
            right += _right(_outputs(net, data.x[at].to(device), steps, classes), data.y[at].to(device))
    finally:
        for module, mode in modes:
            module.training = mode
        _reset(net)
    return right / len(data)


def initialised(factory: Callable[[], Net], seed: int) -> Net:
    """What `factory` builds with seeded global generators, which are restored afterwards.

    The net is built on the CPU: move it to another device afterwards.

    Example:
        >>> first, second = (initialised(lambda: nn.Linear(2, 2), seed=7) for _ in range(2))
        >>> torch.equal(first.weight, second.weight)
        True
    """
    if not callable(factory) or isinstance(factory, nn.Module):
        raise InputTypeError(f"expected a callable that builds a net, got {factory!r}; pass lambda: ...")
    _check_seed(seed)
    with global_rng(seed, torch.device("cpu")):
        return factory()


def _reset(net: nn.Module) -> None:
    """SpikingJelly's `reset_net` without its cache, which goes stale when a node of the net is replaced."""
    spiking.reset_collected_modules(spiking.collect_reset_modules(net))


def _outputs(net: nn.Module, x: Tensor, steps: int | None, classes: int) -> Tensor:
    """Outputs of the freshly reset net for samples x [N, *], [T, N, K] or [N, K], with room for all classes."""
    _reset(net)
    outputs = net(x if steps is None else x.expand(steps, *x.shape))
    expected = (len(x),) if steps is None else (steps, len(x))
    if not isinstance(outputs, Tensor):
        raise InputTypeError(f"expected a net that returns a tensor, got {type(outputs).__name__}; return its outputs")
    if outputs.ndim != len(expected) + 1 or outputs.shape[:-1] != expected or outputs.shape[-1] < classes:
        advice = "set steps for a net over time" if steps is None else 'return every step (step_mode="m")'
        raise InputError(
            f"expected outputs [{', '.join(map(str, expected))}, K] with K of at least {classes} classes, got "
            f"{list(outputs.shape)}; {advice} and widen the last layer if it is too small"
        )
    return outputs


def _right(outputs: Tensor, y: Tensor) -> int:
    """How many samples are right by outputs [N, K], or by the mean over time of [T, N, K]; labels [N]."""
    return int(Correctness(outputs if outputs.ndim == 2 else outputs.mean(0), y).correct.sum())


def _objective(loss: str | Loss | None, steps: int | None) -> Loss:
    known = LOGIT_LOSSES if steps is None else RATE_LOSSES
    if loss is None:
        return next(iter(known.values()))
    if callable(loss):
        return loss
    if loss in known:
        return known[loss]
    close = difflib.get_close_matches(str(loss), known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else "pass a known name or a function of outputs and labels"
    kind = "without steps" if steps is None else "over time"
    raise InputError(f"expected a loss of a net {kind} among {', '.join(known)}, got {loss!r}; {hint}")


def _check_arguments(net: nn.Module, data: Dataset, steps: int | None, **counts: int) -> None:
    if not isinstance(net, nn.Module):
        raise InputTypeError(f"expected net as an nn.Module, got {type(net).__name__}; pass the net itself")
    if not isinstance(data, Dataset):
        raise InputTypeError(f"expected a snnrobust.data.Dataset, got {type(data).__name__}; pass Dataset.of(x, y)")
    if data.lengths is not None:
        raise InputError(f"expected static samples, got the sequences of '{data.name}'; train on them yourself")
    for name, count in (counts if steps is None else {"steps": steps, **counts}).items():
        _check_integer(name, count)
        if count < 1:
            raise InputError(f"expected {name} of at least 1, got {count}; pass a positive number")


def _check_seed(seed: int) -> None:
    _check_integer("seed", seed)
    if not 0 <= seed < 2**63:
        raise InputError(f"expected a seed from 0 to 2**63 - 1, got {seed}; pick another")


def _check_integer(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"expected {name} as an integer, got {value!r}; pass an int")
