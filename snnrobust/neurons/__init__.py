"""Spiking neurons that differ in one modelling component at a time: leakage, reset, lateral recurrence.

    >>> from snnrobust.neurons import PRESETS, lif
    >>> PRESETS["no-reset"].equation
    'u[t] = k u[t-1] + x[t]'
    >>> type(lif(k=0.8)).__name__, type(lif(reset="none", k=0.8)).__name__
    ('LIFNode', 'LoopNode')

Source: Yin et al. 2024, "Understanding the Functional Roles of Modelling Components in Spiking Neural Networks",
arXiv 2403.16674.
"""

from __future__ import annotations

from snnrobust.common.deprecation import former_names
from snnrobust.kernels.dynamics import Reset
from snnrobust.neurons.event_driven import EventBackend, EventDriven, EventDrivenConv2d
from snnrobust.neurons.event_readouts import FirstSpike, Latency, SpikeCount
from snnrobust.neurons.node import Leak, LoopNode
from snnrobust.neurons.one_spike import first_spike_only
from snnrobust.neurons.overview import VariantRow, table
from snnrobust.neurons.presets import PRESETS
from snnrobust.neurons.spike_trains import EventPool2d, latency, merge, spike_counts
from snnrobust.neurons.swap import replace
from snnrobust.neurons.variants import NodeOptions, Variant, lif

__all__ = [
    "PRESETS",
    "EventBackend",
    "EventDriven",
    "EventDrivenConv2d",
    "EventPool2d",
    "FirstSpike",
    "Latency",
    "Leak",
    "LoopNode",
    "NodeOptions",
    "Reset",
    "SpikeCount",
    "Variant",
    "VariantRow",
    "first_spike_only",
    "latency",
    "lif",
    "merge",
    "replace",
    "spike_counts",
    "table",
]

__getattr__ = former_names("snnrobust.neurons", {"Row": ("VariantRow", VariantRow)})
