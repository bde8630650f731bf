"""Small nets for static images, as demos and baselines: [T, N, *] in, spikes [T, N, K] out (layout "TN").

Spiking nodes come from a callable, so that one net serves every neuron model: `node(features)` returns a multi-step
module of its own for each place, where `features` is the number of neurons (after a convolution: of channels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from spikingjelly.activation_based import layer
from torch import nn

from snnrobust.errors import InputError, InputTypeError

NodeFactory = Callable[[int], nn.Module]


def mlp(node: NodeFactory, features: Sequence[int] = (784, 512, 10)) -> nn.Sequential:
    """A fully connected net: flatten, then `nn.Linear` and a node in turn; the last node's spikes are the output.

    Weights start after He et al. 2015 and biases at 0. On MNIST with a threshold of 1, an untrained hidden layer then
    fires at a rate of about .06; with PyTorch's own start it is all but silent (.001).

    Args:
        node: Builds the spiking node that follows a layer, from the number of its neurons.
        features: Inputs, hidden sizes and classes.

    Returns:
        A net that maps [T, N, *] with `features[0]` values a step to spikes [T, N, features[-1]].

    Raises:
        InputError: Fewer than two features, or one below 1.
        InputTypeError: A feature is not an integer, or `node` returns no module.

    Example:
        >>> import torch
        >>> from spikingjelly.activation_based import neuron
        >>> net = mlp(lambda features: neuron.IFNode(step_mode="m"), features=(4, 8, 3))
        >>> net(torch.rand(5, 2, 1, 2, 2)).shape
        torch.Size([5, 2, 3])
    """
    _check_sizes(features=features)
    if len(features) < 2:
        raise InputError(f"expected at least inputs and classes in features, got {features!r}; add the missing size")
    modules: list[nn.Module] = [nn.Flatten(start_dim=2)]  # [T, N, F]
    for fan_in, fan_out in pairwise(features):
        modules += [_initialise(nn.Linear(fan_in, fan_out)), _build_node(node, fan_out)]  # [T, N, fan_out]
    return nn.Sequential(*modules)


def conv(
    node: NodeFactory,
    channels: Sequence[int] = (16, 32),
    classes: int = 10,
    size: int = 28,
    in_channels: int = 1,
) -> nn.Sequential:
    """A convolutional net: for each entry of `channels` 3x3 convolution, batch norm, node and 2x2 mean pooling.

    A linear layer and the output node follow. Mean pooling keeps the gradient of all four spikes.

    Args:
        node: Builds the spiking node that follows a layer, from the number of its channels or neurons.
        channels: Channels of the convolutions.
        classes: K.
        size: Height and width of the images.
        in_channels: Channels of the images.

    Returns:
        A net that maps [T, N, in_channels, size, size] to spikes [T, N, classes].

    Raises:
        InputError: No channels, a number below 1, or images too small for so many poolings.
        InputTypeError: A number is not an integer, or `node` returns no module.

    Example:
        >>> import torch
        >>> from spikingjelly.activation_based import neuron
        >>> net = conv(lambda features: neuron.IFNode(step_mode="m"), channels=(2, 4), classes=3, size=8)
        >>> net(torch.rand(5, 2, 1, 8, 8)).shape
        torch.Size([5, 2, 3])
    """
    _check_sizes(channels=channels, classes=[classes], size=[size], in_channels=[in_channels])
    side = size >> len(channels)  # each pooling halves, rounding down
    if size < 2:
        raise InputError(f"expected size >= 2, got {size}; each convolution halves the images, use larger ones")
    if not channels or side < 1:
        raise InputError(
            f"expected channels with 1 to {size.bit_length() - 1} entries for {size} x {size} images (each halves the "
            f"size), got {channels!r}; use fewer convolutions or larger images"
        )
    modules: list[nn.Module] = []
    for fan_in, fan_out in pairwise((in_channels, *channels)):
        modules += [
            _initialise(layer.Conv2d(fan_in, fan_out, kernel_size=3, padding=1, bias=False, step_mode="m")),
            layer.BatchNorm2d(fan_out, step_mode="m"),
            _build_node(node, fan_out),  # [T, N, fan_out, H, W]
            layer.AvgPool2d(2, step_mode="m"),  # [T, N, fan_out, H // 2, W // 2]
        ]
    out = _initialise(nn.Linear(channels[-1] * side * side, classes))
    return nn.Sequential(*modules, nn.Flatten(start_dim=2), out, _build_node(node, classes))


def _initialise(module: nn.Module) -> nn.Module:
    """He's weights and zero biases."""
    for name, parameter in module.named_parameters():
        if name == "bias":
            nn.init.zeros_(parameter)
        else:
            nn.init.kaiming_uniform_(parameter, nonlinearity="relu")
    return module


def _build_node(node: NodeFactory, features: int) -> nn.Module:
    if not callable(node) or isinstance(node, nn.Module):
        raise InputTypeError(
            f"expected node as a callable that builds one, got {node!r}; pass lambda features: LIFNode(...)"
        )
    module = node(features)
    if not isinstance(module, nn.Module):
        raise InputTypeError(
            f"expected node({features}) to return a spiking nn.Module, got {module!r}; return a new module each time"
        )
    return module


def _check_sizes(**sizes: Sequence[int]) -> None:
    for name, values in sizes.items():
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise InputTypeError(f"expected {name} as a tuple of integers, got {values!r}; pass a tuple")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int):
                raise InputTypeError(f"expected integers in {name}, got {value!r}; pass whole numbers")
            if value < 1:
                raise InputError(f"expected {name} of at least 1, got {value}; pass positive sizes")
