"""`SpikingModel`: any SNN as a stateless, batch-first function of its input."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from functools import partial
from inspect import signature
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snnrobust.common.batching import even_parts
from snnrobust.common.random import Draws, global_rng
from snnrobust.common.session_cache import SessionCache
from snnrobust.errors import InputError
from snnrobust.frameworks.find import find_adapter, listed, unsupported_spikes
from snnrobust.frameworks.functions.calls import FunctionClass
from snnrobust.frameworks.functions.sites import Sites
from snnrobust.kernels.straight_through import has_straight_through_gradient
from snnrobust.threat_models.sensor import Sensor
from snnrobust.threat_models.threat_model import Domain, Limit, Norm, ThreatModel
from snnrobust.wrapping.decision import predict
from snnrobust.wrapping.encoding import EncoderFunction, encode
from snnrobust.wrapping.net_output import OutputChoice, chosen_output
from snnrobust.wrapping.output_axes import Layout, OutLayout, OutputAxes
from snnrobust.wrapping.readout import ReadoutFunction, read_out
from snnrobust.wrapping.recording import Recording, record, spiking_layers
from snnrobust.wrapping.restore import preserved
from snnrobust.wrapping.spike_sites import sites_of

#: Samples that a CPU takes through a net at once. The activations of more leave its caches, and the C library gets
#: memory for each large one from the system anew: measured 1.5 to 2 times slower a sample at 256.
AT_ONCE = 64
Decide = Literal["argmax", "argmin"]


class SpikingModel:
    """An SNN as a function: state is reset before each forward pass and left as it was found.

    Made by `snnrobust.wrap`, which documents the settings.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        name: str,
        layout: Layout,
        steps: int | None,
        encoder: str | EncoderFunction | None,
        bounds: tuple[float, float],
        domain: Domain,
        silent: float | None,
        readout: str | ReadoutFunction,
        decide: Decide,
        output: OutputChoice | None,
        out_layout: OutLayout | None,
        spike: Sequence[FunctionClass],
        reset: Callable[[], object] | None,
        normalize: tuple[Sequence[float], Sequence[float]] | None,
        stochastic: bool,
        accelerate: bool,
    ) -> None:
        self.net = net
        self.name = name
        self.layout = layout
        self.steps = steps
        self.encoder = encoder
        self.bounds = bounds
        self.domain: Domain = domain
        self.silent = silent
        self.readout = readout
        self.decide = decide
        self.output = output
        self.out_layout = out_layout
        self.spike = tuple(spike)
        self.normalize = normalize
        self.adapter = find_adapter(net)
        self.stochastic = stochastic or encoder == "poisson"
        self.foreign_randomness = stochastic
        self.accelerate = accelerate
        self._reset = reset
        self._depth = 0
        self._straight_through = False
        self._example: Tensor | None = None
        self._sites: Sites | None = None
        #: How many forward passes began.
        self.passes = 0
        self._axes = OutputAxes(layout, out_layout)
        self._takes_state = _takes_state(net)
        self._refuses_autograd = self.adapter is not None and self.adapter.refuses_autograd(net)
        #: What is computed once and holds while a session is open.
        self.cache = SessionCache()

    @property
    def device(self) -> torch.device:
        """Where the net's first parameter or buffer is; the CPU for a net without either."""
        return self._anchor().device

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the net's first parameter or buffer."""
        return self._anchor().dtype

    @property
    def input_dtype(self) -> torch.dtype:
        """Type of inputs and iterates, float32 at least: the cast to a net of half precision is part of the model."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def straight_through(self) -> bool:
        """Whether input gradients pass the encoder as if it were the identity; of a callable known after one pass."""
        return self._straight_through or self.encoder in ("poisson", "latency")

    @property
    def sensor(self) -> Sensor | None:
        """Which events exist, in the domain "events"; else None."""
        return getattr(self.encoder, "sensor", None) if self.domain == "events" else None

    def threat_model(self, norm: Norm, epsilon: float, limits: tuple[Limit, ...] = ()) -> ThreatModel:
        """The threat model on this model's inputs, with its bounds, domain, sensor and silent value."""
        return ThreatModel(norm, epsilon, self.bounds, self.domain, limits, self.sensor, self.silent)

    def renamed(self, name: str) -> SpikingModel:
        """The same model under another name in reports; the net is shared."""
        if name == self.name:
            return self
        other = copy(self)
        other.name = name
        other._depth, other.cache = 0, SessionCache()  # a session of this model is none of the other's
        return other

    def without_encoder(self) -> SpikingModel:
        """The same model of encoded inputs [N, T, *], those that `encode` returns; the net is shared."""
        other = copy(self)
        other.encoder, other.steps, other.stochastic = None, None, self.foreign_randomness
        other._depth, other.cache = 0, SessionCache()
        other._example = other._sites = None
        return other

    def settings(self) -> dict[str, Any]:
        """What was passed to `wrap`, for the record."""
        return {
            "name": self.name,
            "net": type(self.net).__qualname__,
            "structure": hashlib.blake2b(str(self.net).encode(), digest_size=8).hexdigest(),
            "layout": self.layout,
            "steps": self.steps,
            "encoder": named(self.encoder),
            "bounds": list(self.bounds),
            "domain": self.domain,
            **({} if self.silent is None else {"silent": self.silent}),
            "readout": named(self.readout),
            "decide": self.decide,
            "output": named(self.output),
            "out_layout": self.out_layout,
            **({"spike": [each.__qualname__ for each in self.spike]} if self.spike else {}),
            "normalize": None if self.normalize is None else [list(part) for part in self.normalize],
            "stochastic": self.stochastic,
            "keyed_by_batch": self.foreign_randomness,
            "framework": self.adapter.name if self.adapter is not None else None,
            "parameters": sum(p.numel() for p in self.net.parameters()),
        }

    def fingerprint(self) -> str:
        """A digest of settings, structure and weights: equal for equal models, to recognise a run."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr(self.settings()).encode())
        for key, value in (*self.net.named_parameters(), *self.net.named_buffers()):
            digest.update(repr((key, tuple(value.shape), value.dtype)).encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Eval mode and fresh state for many calls; the net is left exactly as it was, also after an exception."""
        if self._depth:
            yield
            return
        with preserved(self.net, self.adapter):
            self._depth += 1
            self.cache.open()
            try:
                yield
            finally:
                self._depth -= 1
                self.cache.close()

    @property
    def in_session(self) -> bool:
        """Whether a session is open."""
        return self._depth > 0

    def parts(self, count: int) -> list[slice]:
        """`count` samples in about equal parts that this device takes at once."""
        # A net that draws from global generators is seeded per batch, so the batch is not split.
        whole = self.device.type != "cpu" or self.foreign_randomness
        return even_parts(count, count if whole else AT_ONCE)

    @property
    def resets(self) -> bool:
        """Whether the net's state is known how to reset."""
        return self.adapter is not None or self._reset is not None

    def reset(self) -> None:
        """Puts the net's state back to its initial value: a forward pass begins."""
        self.passes += 1
        if self.adapter is not None:
            self.adapter.reset(self.net)
        if self._reset is not None:
            self._reset()

    def outputs(
        self, x: Tensor, *, keys: Tensor | None = None, draw: int | Tensor = 0, lengths: Tensor | None = None
    ) -> Tensor:
        """The net's outputs over time before the read-out, [N, T, K] (T = 1 for a net with its own read-out).

        Args:
            x: Inputs [N, *] (with an encoder or layout "N"), or sequences [N, T, *].
            keys: Sample ids [N] for stochastic parts; 0..N-1 where left out.
            draw: Which draw of the stochastic parts, one for all or one per sample [N].
            lengths: Valid steps of each sequence, [N].

        Raises:
            InputError: If the net's output is not [N, K] or a sequence of it in the stated layout.
        """
        x = self.own_input(x)
        if self._example is None:
            self._example = x[:1].detach().clone()
        keys = torch.arange(len(x)) if keys is None else keys
        with self.session(), self._randomness(keys, draw):
            self.reset()
            inputs = self.arrange(self.encode(x, keys, draw))
            if self.layout == "step":
                out = self._step_by_step(inputs, len(x))
            else:
                out = self._call(inputs, len(x))
                if not self._axes.settled:
                    self._axes.settle(inputs, out, len(x), self._one_sample)
            return self.batch_first(out, len(x))

    def _step_by_step(self, inputs: Tensor, count: int) -> Tensor:
        """The outputs [T, N, K] of a net that is called with one step [N, *] of the inputs [T, N, *] at a time.

        A net with an argument `state` that returns (outputs, state) gets it back in the next step.
        """
        outputs = []
        state: dict[str, Any] = {}
        for step in inputs:
            returned = self._run(step.clone(), **state)  # memory of its own: a repeated input shares it over time
            if self._takes_state and isinstance(returned, tuple) and len(returned) == 2:
                state = {"state": returned[1]}
                returned = returned if self.output is not None else returned[0]
            outputs.append(self._chosen(returned, count))
        return torch.stack(outputs)

    @torch.no_grad()
    def _one_sample(self, inputs: Tensor) -> Tensor:
        """The outputs for the inputs of one sample, freshly reset."""
        self.reset()
        return self._call(inputs.clone(), 1)

    def own_input(self, x: Tensor) -> Tensor:
        """Inputs on the model's device and in its dtype, which the net may change in place."""
        # Half precision has no whole numbers as large as times: event lists get the net's dtype once binned.
        moved = x.to(device=self.device, dtype=self.input_dtype if self.domain == "events" else self.dtype)
        return moved.clone() if moved is x else moved

    def encode(self, x: Tensor, keys: Tensor, draw: int | Tensor) -> Tensor:
        """The net's input before it is normalised: sequences [N, T, *], or x itself where the net takes it as it is."""
        if self.encoder is None or self.steps is None or self.layout == "N":
            return x
        encoded = encode(self.encoder, x, self.steps, self.bounds, keys, draw)
        self._straight_through |= has_straight_through_gradient(encoded)
        return encoded.to(self.dtype) if self.domain == "events" else encoded

    def arrange(self, sequence: Tensor) -> Tensor:
        """An encoded input, normalised and in the net's layout."""
        sequence = self._normalized(sequence, channel=1 if self.static and self.layout == "N" else 2)
        return sequence.transpose(0, 1) if self.layout in ("TN", "step") else sequence  # [T, N, *]

    def batch_first(self, out: Tensor, count: int) -> Tensor:
        """What the net returned for `count` samples, as [N, T, K]; T = 1 for a net with its own read-out.

        Raises:
            InputError: If it is neither [N, K] nor a sequence of it in the stated layout.
        """
        return self._axes.batch_first(out, count)

    def logits(
        self, x: Tensor, *, keys: Tensor | None = None, draw: int | Tensor = 0, lengths: Tensor | None = None
    ) -> Tensor:
        """Logits [N, K], oriented so that the largest wins (negated for `decide="argmin"`). See `outputs`."""
        return self.read(self.outputs(x, keys=keys, draw=draw, lengths=lengths), lengths)

    def read(self, outputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits [N, K] from the outputs [N, T, K] that `outputs` gave."""
        if lengths is not None:
            # A net with its own read-out has no time axis left.
            lengths = lengths.to(outputs.device) if outputs.shape[1] > 1 else None
        logits = read_out(self.readout, outputs, lengths)
        if logits.ndim != 2 or len(logits) != len(outputs):
            raise InputError(
                f"expected logits [N, K] with N = {len(outputs)}, got {tuple(logits.shape)}; check the read-out"
            )
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # exact, and objectives need the precision
        return -logits if self.decide == "argmin" else logits

    def predict(self, logits: Tensor) -> Tensor:
        """Classes [N] from logits [N, K]; -1, which equals no label, where all outputs are silent (zero)."""
        return predict(logits)

    def record(self, x: Tensor, *, keys: Tensor | None = None, draw: int | Tensor = 0) -> Recording:
        """Spikes and membrane potentials of each spiking layer for the inputs x.

        Raises:
            InputError: If no spikes are found, or some that can't be recorded.
        """
        x = self.own_input(x)
        sites = self.find_spikes(x)
        layers = spiking_layers(self.net, self.adapter, sites)
        others = {name: why for name, why in unsupported_spikes(self.net, sites).items() if name not in layers}
        if others or not (layers or sites.patterns):
            raise InputError(
                f"expected spikes that can be recorded, got {type(self.net).__name__} "
                f"{f'with {listed(others)}' if others else 'in which none were found'}; name the "
                f"torch.autograd.Function that spikes: sr.wrap(..., spike=MyFunction)"
            )
        steps = self.steps if self.static else x.shape[1]
        with self.session():
            if not self._axes.settled and (self.layout == "N" or len(x) == steps):
                self.outputs(x[:1], keys=None if keys is None else keys[:1])  # not while it is recorded
            with self.single_passes():
                run = partial(self.outputs, x, keys=keys, draw=draw)
                return record(run, self.net, self.adapter, sites, samples=len(x), steps=steps)

    @property
    def sites(self) -> Sites | None:
        """The spikes of the net that are `autograd.Function`s, other than those of `adapter.nodes`.

        Found by two forward passes of a few samples like the first that the model was called with; None before that.
        """
        return None if self._example is None else self.find_spikes(self._example)

    def find_spikes(self, x: Tensor) -> Sites:
        """Finds the spikes of the net that are `autograd.Function`s, for inputs like x [N, *]; later calls know them.

        Returns:
            The sites by module, with names, and what spikes but can't be swapped.
        """
        if self._sites is None:
            found = Sites()
            if not self._refuses_autograd:
                steps = self.steps if self.static or x.ndim < 2 else x.shape[1]
                with self.session(), global_rng(0, self.device):
                    found = sites_of(self.net, self.adapter, self.outputs, self.own_input(x), steps, self.spike)
            self._sites = found
        return self._sites

    def single_passes(self) -> AbstractContextManager[None]:
        """Each call runs the net once inside, for what listens to it: nothing is found out by a further sample."""
        return self._axes.taken_as_settled()

    def as_module(self) -> nn.Module:
        """A stateless `nn.Module` from inputs to logits, for third-party tools; shares the net's parameters."""
        return _Stateless(self)

    @property
    def static(self) -> bool:
        """Whether inputs have no time axis of their own."""
        return self.encoder is not None

    def _anchor(self) -> Tensor:
        for tensor in chain(self.net.parameters(), self.net.buffers()):
            if tensor.is_floating_point():
                return tensor
        return torch.zeros(())

    def _randomness(self, keys: Tensor, draw: int | Tensor) -> AbstractContextManager[None]:
        if not self.foreign_randomness:
            return nullcontext()
        # The net draws from torch's global generator, which can't be keyed by sample: keyed by batch and draw.
        return global_rng(
            Draws(0, "net").number(draw.tolist() if isinstance(draw, Tensor) else draw, *keys.tolist()), self.device
        )

    def _normalized(self, x: Tensor, channel: int) -> Tensor:
        if self.normalize is None:
            return x
        shape = [1] * x.ndim
        shape[channel] = -1
        if (count := len(self.normalize[0])) not in (1, x.shape[channel]):
            raise InputError(
                f"expected a mean and std for each of {x.shape[channel]} channels, or one for all, got {count}; "
                f"check normalize= of model '{self.name}'"
            )
        mean, std = (torch.tensor(list(part), dtype=x.dtype, device=x.device).reshape(shape) for part in self.normalize)
        return (x - mean) / std

    def _call(self, x: Tensor, count: int) -> Tensor:
        """What the net returns for `count` samples: its outputs alone."""
        return self._chosen(self._run(x), count)

    def _run(self, x: Tensor, **state: Any) -> Any:
        with torch.no_grad() if self._refuses_autograd else nullcontext():
            return self.net(x, **state)

    def _chosen(self, returned: Any, count: int) -> Tensor:
        chosen = chosen_output(returned, self.output, count)
        return chosen.clone()  # a net may return its own buffer, which the next step changes and a session restores

    def __repr__(self) -> str:
        return f"SpikingModel({self.name!r}, layout={self.layout!r}, steps={self.steps}, encoder={named(self.encoder)})"


class _Stateless(nn.Module):
    """`SpikingModel.logits` as a module, with the net as a submodule so that its parameters are found."""

    def __init__(self, model: SpikingModel) -> None:
        super().__init__()
        self.net = model.net
        self._model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] for inputs x."""
        return self._model.logits(x)


def _takes_state(net: nn.Module) -> bool:
    """Whether the net has an argument `state`, which it returns for its next step."""
    try:
        return "state" in signature(net.forward).parameters
    except ValueError:  # of a traced net
        return False


def named(value: object) -> str | None:
    """How a setting that may be a name or a callable is recorded."""
    return value if value is None or isinstance(value, str) else getattr(value, "__qualname__", repr(value))
