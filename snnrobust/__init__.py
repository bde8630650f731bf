"""Robustness evaluation for spiking neural networks, with the evidence beside each number.

Wrap any SNN into a stateless function, attack it, add noise, measure its curvature, and read the report:

    import snnrobust as sr

    model = sr.wrap(net, steps=8)
    report = sr.evaluate(model, (x, y), [sr.load("pgd", epsilon=[2 / 255, 8 / 255])])
    report.to_html("report.html")
"""

from importlib.metadata import version

from snnrobust import data, events, neurons
from snnrobust.analysis.examples import AdversarialExamples
from snnrobust.api import attack, evaluate, tune
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
from snnrobust.evaluation.probe import probe
from snnrobust.evaluation.tuning import Tuned
from snnrobust.plugin.registry import create, plugins
from snnrobust.plugin.task import Task, load
from snnrobust.report import Comparison, Member, Report, Transfer, views
from snnrobust.results.artifacts import Artifact, Profile, Scatter, Spectrum, Surface
from snnrobust.results.records import Claim, Curve, Finding, Record
from snnrobust.spike_gradients.swap import SpikeGradient
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.recording import Recording
from snnrobust.wrapping.wrap import wrap

__version__ = version("snnrobust")

__all__ = [
    "AdversarialExamples",
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
    "attack",
    "create",
    "data",
    "evaluate",
    "events",
    "load",
    "neurons",
    "plugins",
    "probe",
    "tune",
    "views",
    "wrap",
]
