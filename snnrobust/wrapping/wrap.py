"""`wrap`: checks its settings and makes a `SpikingModel` of a net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import nn

from snnrobust.common.validate import check_count, check_flag, check_real
from snnrobust.errors import InputError, InputTypeError
from snnrobust.frameworks.functions.calls import FunctionClass
from snnrobust.threat_models.sensor import Sensor
from snnrobust.threat_models.threat_model import Domain
from snnrobust.wrapping.encoding import ENCODERS, EncoderFunction
from snnrobust.wrapping.model import Decide, SpikingModel, named
from snnrobust.wrapping.net_output import OutputChoice
from snnrobust.wrapping.output_axes import Layout, OutLayout
from snnrobust.wrapping.readout import READOUTS, ReadoutFunction


def wrap(
    net: nn.Module,
    *,
    name: str = "model",
    layout: Layout = "TN",
    steps: int | None = None,
    encoder: str | EncoderFunction | None = "repeat",
    bounds: tuple[float, float] = (0.0, 1.0),
    domain: Domain = "real",
    silent: float | None = None,
    readout: str | ReadoutFunction = "mean",
    decide: Decide = "argmax",
    output: OutputChoice | None = None,
    out_layout: OutLayout | None = None,
    spike: FunctionClass | Sequence[FunctionClass] | None = None,
    reset: Callable[[], object] | None = None,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    stochastic: bool = False,
    accelerate: bool = True,
) -> SpikingModel:
    """Wraps an SNN for evaluation. The net itself is never changed.

    Args:
        net: Any `nn.Module`. SpikingJelly nets are recognised and reset by themselves. Of a net from `torch.compile`
            the original module is used, which shares its weights.
        name: Name in reports.
        layout: What the net takes: "N" the input as is, "TN" [T, N, *], "NT" [N, T, *], "step" one call a step; a net
            that takes `state` and returns (outputs, state), as Norse's do, gets its state back at the next step.
            It returns [N, K] or a sequence of it in the same layout, unless `out_layout` says otherwise. In layout
            "N", [T, N, K] is told from [N, T, K].
        steps: Time steps T of the encoder.
        encoder: For static data [N, *]: "repeat", "poisson", "latency" or a callable (x, steps) -> [N, T, *].
            None: the data is temporal, [N, T, *]. In layout "N" the net does its own encoding: leave "repeat" for
            static data.
        bounds: Least and greatest value of an input entry.
        domain: "real", "integer" (event counts), "binary", or "events": event lists [N, E, 5] with rows
            (t, x, y, p, present), which an encoder with a `sensor` bins (`snnrobust.events.Binning`); leave `bounds`
            out.
        silent: Value of the input entries that hold no spike, where inputs are spike times: it should be late enough to
            have no effect, e.g. the end of the window, `bounds[1]`. Attacks move the other spikes alone, by epsilon at
            most ("linf"), in total ("l1"), or in number ("l0"); corruptions, too.
        readout: Logits from outputs over time: "mean", "sum", "last", "max", "first_spike" or a callable
            (outputs [N, T, K], lengths) -> [N, K].
        decide: "argmax", or "argmin" for read-outs where less is better (spike times).
        output: Where the outputs are in what the net returns, where that is no tensor: a position, a key or a callable
            that takes all of it. None: the only tensor, or the only one that may be outputs; a list of [N, K] is one
            for each step. Trailing axes [..., 1, 1] are dropped.
        out_layout: Axes of the outputs where they are not those of the layout: "N" [N, K], "NT" [N, T, K],
            "TN" [T, N, K].
        spike: Your `torch.autograd.Function` that spikes, or several, where it is not found by itself: found is what a
            gradient passes and whose output is a step, or a count of steps, of one of its arguments. A Function named
            here counts as a spike whatever it emits, e.g. random spikes; its first tensor of floating type counts as
            membrane potential minus threshold.
        reset: Callable without arguments that resets the net's own state; that of SpikingJelly, snnTorch, sinabs and
            Norse is reset in any case.
        normalize: (mean, std) per channel, applied to the net's input: `bounds` and epsilons stay in data units.
        stochastic: Whether the net itself draws random numbers (a Poisson encoder is known to).
        accelerate: Whether attacks may search on the accelerated model, a faster computation of the same net with the
            same parameters. What they find is scored on the net itself either way.

    Raises:
        InputTypeError: If `net` is no `nn.Module`, or a callable is expected.
        InputError: For an unknown name or an impossible combination of settings.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikingjelly.activation_based import neuron
        >>> net = nn.Sequential(nn.Linear(4, 3), neuron.LIFNode(step_mode="m"))
        >>> model = wrap(net, steps=5)
        >>> model.logits(torch.rand(2, 4)).shape
        torch.Size([2, 3])
    """
    if not isinstance(net, nn.Module):
        raise InputTypeError(f"expected net to be a torch.nn.Module, got {type(net).__name__}; pass the network itself")
    if isinstance(original := getattr(net, "_orig_mod", None), nn.Module):
        net = original  # of a net from torch.compile, whose graph allows neither hooks nor other surrogates
    if isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise InputTypeError("expected a plain module, got a parallel wrapper; pass net.module")
    _check_name("layout", layout, get_args(Layout))
    _check_name("domain", domain, get_args(Domain))
    _check_name("decide", decide, get_args(Decide))
    if out_layout is not None:
        _check_name("out_layout", out_layout, get_args(OutLayout))
        if layout == "step":
            raise InputError(f"expected no out_layout in layout 'step', got {out_layout!r}; leave it out")
    if not (output is None or callable(output) or (isinstance(output, int | str) and not isinstance(output, bool))):
        raise InputTypeError(
            f"expected output to be a position, a key or a callable, got {output!r}; give one of these"
        )
    if encoder is not None and not callable(encoder):
        _check_name("encoder", encoder, ENCODERS)
    if not callable(readout):
        _check_name("readout", readout, READOUTS)
    if steps is not None:
        check_count("steps", steps, 1, "give the number of time steps")
    if layout == "N" and encoder not in (None, "repeat"):
        raise InputError(f"expected no encoder with layout 'N', got {named(encoder)}; use layout 'NT' or drop encoder=")
    if layout != "N" and encoder is not None and steps is None:
        raise InputError("expected steps= with an encoder, got none; give the number of time steps, or encoder=None")
    if not (isinstance(name, str) and name):
        raise InputTypeError(f"expected name to be text, got {name!r}; give a name for the report")
    low, high = _pair("bounds", bounds)
    if not low < high:
        raise InputError(f"expected bounds with low < high, got {bounds}; give (least, greatest) input value")
    if domain == "events":
        low, high = _event_bounds(encoder, (low, high), layout)
    if domain != "real" and not (low.is_integer() and high.is_integer()):
        raise InputError(f"expected whole bounds for domain '{domain}', got {bounds}; give whole numbers")
    if domain == "binary" and (low, high) != (0.0, 1.0):
        raise InputError(f"expected bounds (0, 1) for domain 'binary', got {bounds}; use domain='integer' for counts")
    if silent is not None:
        if domain != "real":
            raise InputError(f"expected no silent= in domain '{domain}', got {silent!r}; leave it out")
        if not low <= check_real("silent", silent) <= high:
            raise InputError(
                f"expected silent within bounds [{low:g}, {high:g}], got {silent!r}; give the end of the window"
            )
    spikes = () if spike is None else tuple(spike) if isinstance(spike, list | tuple | set) else (spike,)
    for each in spikes:
        if not (isinstance(each, type) and issubclass(each, torch.autograd.Function)):
            raise InputTypeError(
                f"expected spike to be a subclass of torch.autograd.Function, got {each!r}; pass the class itself, "
                f"not its apply"
            )
    for setting, value in (("stochastic", stochastic), ("accelerate", accelerate)):
        check_flag(setting, value)
    if reset is not None and not callable(reset):
        raise InputTypeError(
            f"expected reset to be callable, got {type(reset).__name__}; pass a function of no arguments"
        )
    return SpikingModel(
        net,
        name=name,
        layout=layout,
        steps=steps,
        encoder=encoder,
        bounds=(low, high),
        domain=domain,
        silent=None if silent is None else float(silent),
        readout=readout,
        decide=decide,
        output=output,
        out_layout=out_layout,
        spike=spikes,
        reset=reset,
        normalize=None if normalize is None else _per_channel(normalize),
        stochastic=stochastic,
        accelerate=accelerate,
    )


def _check_name(what: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"expected {what} in {list(known)}, got {value!r}; name one of these")


def _event_bounds(
    encoder: str | EncoderFunction | None, bounds: tuple[float, float], layout: Layout
) -> tuple[float, float]:
    """The bounds of event lists: 0 and the largest of the sensor's sizes."""
    sensor = getattr(encoder, "sensor", None)
    if not isinstance(sensor, Sensor):
        raise InputError(
            f"expected an encoder with a sensor for domain 'events', got {named(encoder)}; pass e.g. "
            f"encoder=sr.events.by_time(sr.events.Sensor(34, 34, duration=300), steps=10)"
        )
    if layout == "N":
        raise InputError("expected a layout with time for domain 'events', got 'N'; use layout 'NT'")
    own = (0.0, float(max(sensor.duration, sensor.width, sensor.height)))
    if bounds not in ((0.0, 1.0), own):
        raise InputError(f"expected no bounds for domain 'events', got {bounds}; leave bounds= out")
    return own


def _pair(what: str, value: object) -> tuple[float, float]:
    try:
        first, second = map(float, value)  # type: ignore[call-overload]  # whether it is a pair is what is asked
        return first, second
    except (TypeError, ValueError):
        raise InputTypeError(f"expected {what} to be a pair of numbers, got {value!r}; give two numbers") from None


def _per_channel(normalize: object) -> tuple[list[float], list[float]]:
    try:
        mean, std = ([float(each) for each in part] for part in normalize)  # type: ignore[attr-defined]  # as above
    except (TypeError, ValueError):
        raise InputTypeError(
            f"expected normalize to be (mean, std), a list per channel each, got {normalize!r}; "
            f"pass e.g. ([0.5], [0.25])"
        ) from None
    if len(mean) != len(std) or not all(each > 0 for each in std):
        raise InputError(f"expected as many means as positive stds, got {normalize!r}; give one of each per channel")
    return mean, std
