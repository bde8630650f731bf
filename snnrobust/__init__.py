"""Robustness evaluation for spiking neural networks, with the evidence beside each number.

Wrap any SNN into a stateless function, attack it, add noise, measure its curvature, and read the report:

    import snnrobust as sr

    model = sr.wrap(net, steps=8)
    report = sr.evaluate(model, (x, y), [sr.load("pgd", epsilon=[2 / 255, 8 / 255])])
    report.to_html("report.html")
"""

from importlib.metadata import version

from snnrobust import data, neurons
from snnrobust.errors import (
    InputError,
    InputTypeError,
    MemoryLimitError,
    MissingExtraError,
    PluginError,
    SnnRobustError,
    StoreError,
    ViolationError,
)
from snnrobust.evaluate import evaluate
from snnrobust.model import Recording, SpikingModel
from snnrobust.probe import probe
from snnrobust.registry import create, plugins
from snnrobust.report import Comparison, Member, Report, Transfer
from snnrobust.results import Artifact, Claim, Curve, Finding, Profile, Record, Scatter, Spectrum, Surface
from snnrobust.spike_gradient import SpikeGradient
from snnrobust.task import Task, load
from snnrobust.threat import ThreatModel
from snnrobust.tuning import Tuned, tune
from snnrobust.wrapping import wrap

__version__ = version("snnrobust")

__all__ = [
    "Artifact",
    "Claim",
    "Comparison",
    "Curve",
    "Finding",
    "InputError",
    "InputTypeError",
    "Member",
    "MemoryLimitError",
    "MissingExtraError",
    "PluginError",
    "Profile",
    "Record",
    "Recording",
    "Report",
    "Scatter",
    "SnnRobustError",
    "Spectrum",
    "SpikeGradient",
    "SpikingModel",
    "StoreError",
    "Surface",
    "Task",
    "ThreatModel",
    "Transfer",
    "Tuned",
    "ViolationError",
    "create",
    "data",
    "evaluate",
    "load",
    "neurons",
    "plugins",
    "probe",
    "tune",
    "wrap",
]
