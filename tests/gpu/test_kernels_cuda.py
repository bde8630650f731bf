"""Units on a CUDA device by compiled code, against eager torch there, with their times."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from snnrobust.kernels.compiled import Compiled
from snnrobust.kernels.derivative import Derivative
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.fast import run_unit
from snnrobust.kernels.unit import Unit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

UNITS = {
    "no leak": Dynamics("keep", 1.0, 1.0, "soft"),
    "leak": Dynamics("keep", 0.7, 1.0, "hard"),
    "learnt leak": Dynamics("multiply", 0.4, 1.0, "hard", decay_input=True),
    "lif": Dynamics("divide", 3.0, 1.0, "hard", decay_input=True),
    "lateral": Dynamics("keep", 0.7, 1.0, "hard", lateral=torch.eye(128) / 4),
}


def milliseconds(work: Callable[[], object]) -> float:
    """The median of eleven runs."""
    found = []
    for _ in range(11):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return sorted(found)[5] * 1000


@pytest.mark.parametrize("name", UNITS)
def test_compiled_code_gives_the_spikes_of_eager_torch(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    """Code that rounds differently is not used: then only the times show it."""
    dynamics = UNITS[name]
    if dynamics.lateral is not None:
        dynamics = Dynamics("keep", 0.7, 1.0, "hard", lateral=dynamics.lateral.cuda())
    unit, backend = Unit(dynamics, Derivative.atan(2.0), 20), Compiled(after=-1.0)
    generator = torch.Generator().manual_seed(0)
    current, gradient = (torch.randn(20, 256, 128, generator=generator).cuda() for _ in range(2))

    def passes(*backends: Compiled) -> tuple[Tensor, Tensor]:
        x = current.clone().requires_grad_()
        out = run_unit(backends, unit, x)
        return out.detach(), torch.autograd.grad(out, x, gradient)[0]

    assert backend.supports(unit, current)
    spikes, to_current = passes()
    for _ in range(2):  # uncompiled, then compiled
        found = passes(backend)
        assert torch.equal(found[0], spikes)
        torch.testing.assert_close(found[1], to_current, rtol=1e-4, atol=1e-5)
    record_property("reason", backend._code(unit, current).reason)
    record_property("eager ms", milliseconds(passes))
    record_property("compiled ms", milliseconds(lambda: passes(backend)))
