"""The former path of `snnrobust.spike_gradients.swap`."""

import warnings

from snnrobust.kernels.spike import Spike, spike
from snnrobust.spike_gradients.swap import Own, SpikeGradient
from snnrobust.spike_gradients.swap import spike_gradient_contexts as passes

__all__ = ["Own", "Spike", "SpikeGradient", "passes", "spike"]

warnings.warn(
    "snnrobust.spike_gradient is now snnrobust.spike_gradients.swap, and its class is snnrobust.SpikeGradient; "
    "import it from there",
    DeprecationWarning,
    stacklevel=2,
)
