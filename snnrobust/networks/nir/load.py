"""`from_nir`: a net from a graph in the Neuromorphic Intermediate Representation."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from torch import nn

from snnrobust.common.validate import check_choice, check_flag, check_real
from snnrobust.errors import InputError, InputTypeError, MissingExtraError
from snnrobust.networks.nir.build import NEURONS, Builder, Reset, check_known, check_step, delays, fires
from snnrobust.networks.nir.flatten import flattened
from snnrobust.networks.nir.graph_net import GraphNet, Previous, without_default_state
from snnrobust.networks.nir.layers import Add
from snnrobust.networks.nir.neurons import OneStep, SpikeFunction, Stateful
from snnrobust.networks.nir.wiring import Feedback, Sum, Wiring, wired


def from_nir(
    graph: Any,
    *,
    dt: float,
    reset: Reset = "hard",
    surrogate: SpikeFunction | None = None,
    spikingjelly: bool = True,
) -> nn.Module:
    """A net from a graph in the Neuromorphic Intermediate Representation (NIR), wired by nirtorch.

    It maps [T, N, *] to [T, N, *] and keeps no state between calls, or has SpikingJelly's nodes, which `sr.wrap`
    resets: wrap it with `layout="TN"`, and `encoder=None` for temporal data. NIR's equations are solved by forward
    Euler; the new current of a synapse acts at once; a neuron fires above its threshold; a membrane potential starts at
    `v_reset`, or at 0 where there is none. In a loop, spikes that go back take one step. See docs/nir.md.

    Source: Pedersen et al. 2024, "Neuromorphic intermediate representation", Nature Communications 15, 8122.

    Args:
        graph: A `nir.NIRGraph`, or the path of a .nir file (HDF5).
        dt: Step in seconds, which NIR graphs do not hold; 1.0 for graphs whose integrators add up their input.
        reset: What a spike does to the membrane potential: "hard", to `v_reset` (0 in graphs that have none), as NIR
            has it since version 1.0.6; "soft", minus the threshold, as in the paper. Graphs do not hold it.
        surrogate: Maps u minus the threshold to spikes (1 from 0 on) and defines their gradient; copied for each node.
            None: SpikingJelly's `surrogate.ATan()`.
        spikingjelly: Whether to build SpikingJelly's IF and LIF nodes, which have fast kernels, in a graph without
            loops where all its neurons are equal to them in float32. Otherwise, and with False, neurons are plain
            torch code.

    Returns:
        An `nn.Sequential` if the graph is a chain, else a module that runs nirtorch's graph. Weights and scales are
        parameters, constants of neurons are buffers; biases that are all zero are left out.

    Raises:
        InputError: No such file, a damaged one, an unknown type of node, a loop without neuron, or parameters that do
            not fit the step.
        InputTypeError: A value of the wrong type.
        MissingExtraError: nir or nirtorch is not installed.

    Example:
        >>> net = from_nir("net.nir", dt=1e-4)  # doctest: +SKIP
        >>> model = sr.wrap(net, layout="TN", encoder=None, domain="binary")  # doctest: +SKIP
    """
    check_step(check_real("dt", dt))
    check_choice("reset", reset, get_args(Reset))
    check_flag("spikingjelly", spikingjelly)
    if surrogate is not None and not callable(surrogate):
        raise InputTypeError(
            f"expected surrogate to be a callable or None, got {surrogate!r}; "
            "pass e.g. spikingjelly.activation_based.surrogate.ATan()"
        )
    nir, nirtorch = _packages()
    graph = _read(graph, nir)
    nodes, edges = flattened(graph)
    check_known(nodes)
    wiring = wired(
        nodes,
        edges,
        stateful=[name for name, node in nodes.items() if type(node).__name__ in NEURONS],
        delays=[name for name, node in nodes.items() if delays(name, node, dt)],
    )
    builder = Builder(float(dt), reset, surrogate, "s" if wiring.loops else "m")
    if spikingjelly and not wiring.loops:
        # With nodes of both kinds, measurements that look for SpikingJelly's would miss the others.
        firing = {name: node for name, node in wiring.nodes.items() if fires(node)}
        builder = replace(builder, own_nodes=not all(builder.fits_spikingjelly(*each) for each in firing.items()))
    modules = {name: _module(name, wiring, builder) for name in wiring.nodes if name not in ("input", "output")}
    executable = _executable(wiring, modules, graph, nir, nirtorch)
    if wiring.is_chain:
        return nn.Sequential(OrderedDict((name, executable.get_submodule(name)) for name in modules))
    sources = {name: node.source for name, node in wiring.nodes.items() if isinstance(node, Feedback)}
    return GraphNet(executable, sources)


def _module(name: str, wiring: Wiring, builder: Builder) -> nn.Module:
    node = wiring.nodes[name]
    if isinstance(node, Sum):
        return Add()
    if isinstance(node, Feedback):
        source: Any = wiring.nodes[node.source]
        return Previous(tuple(int(each) for each in source.output_type["output"]))
    module = builder.build(name, node, shorter=name in wiring.shortened)
    return OneStep(module) if isinstance(module, Stateful) and wiring.loops else module


def _executable(wiring: Wiring, modules: dict[str, nn.Module], graph: Any, nir: Any, nirtorch: Any) -> nn.Module:
    """nirtorch's graph of modules that are built already."""

    class Placed(nir.NIRNode):  # type: ignore[misc]  # NIR ships no types: its base class is Any
        """A node of any type."""

        def __init__(self, module: nn.Module) -> None:
            self.module = module

    flat = copy.copy(graph)  # without NIR's checks of types, which know its own nodes only
    flat.nodes = {name: Placed(modules[name]) if name in modules else node for name, node in wiring.nodes.items()}
    flat.edges = wiring.edges
    return without_default_state(nirtorch.nir_to_torch(flat, {Placed: lambda node: node.module}))


def _packages() -> tuple[Any, Any]:
    try:
        import nir
        import nirtorch
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "nir", "networks in NIR") from error
    return nir, nirtorch


def _read(graph: Any, nir: Any) -> Any:
    if isinstance(graph, str | Path):
        path = Path(graph)
        if not path.is_file():
            raise InputError(f"expected a NIR file at '{path}', got no such file; pass the path of a .nir file")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                graph = nir.read(path)
        except Exception as error:  # NIR asserts, and h5py raises any kind of error
            raise InputError(
                f"expected a NIR graph in '{path}', got one that nir {nir.version} does not read: "
                f"{error or type(error).__name__}; write it again, or install another version of nir"
            ) from error
    if not isinstance(graph, nir.NIRGraph):
        raise InputTypeError(
            f"expected a nir.NIRGraph or the path of one, got {type(graph).__name__}; "
            "put a single node into nir.NIRGraph.from_list(node)"
        )
    return graph
