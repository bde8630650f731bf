"""Which axes of a net's outputs have samples and time, where there may be as many of one as of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from torch import Tensor

from snnrobust.errors import InputError

Layout = Literal["N", "TN", "NT", "step"]
OutLayout = Literal["N", "NT", "TN"]
#: Output axes by name.
AXES: Mapping[OutLayout, str] = {"N": "[N, K]", "NT": "[N, T, K]", "TN": "[T, N, K]"}


class OutputAxes:
    """Which axes of a net's outputs have samples and time: stated, or in layout "N" found out.

    Args:
        layout: What the net takes.
        out_layout: Axes of its outputs; None: those of the layout.

    Attributes:
        settled: Whether nothing is left to be found out or checked.
    """

    def __init__(self, layout: Layout, out_layout: OutLayout | None) -> None:
        self.settled = layout == "step"
        self._layout = layout
        self._stated = out_layout
        self._time_first = layout in ("TN", "step") if out_layout is None else out_layout == "TN"

    def settle(self, inputs: Tensor, out: Tensor, count: int, one_sample: Callable[[Tensor], Tensor]) -> None:
        """Checks the axes, by a pass of one sample where N = T hides them; finds them out in layout "N".

        Args:
            inputs: The net's inputs, in its layout.
            out: Its outputs for them.
            count: The number of samples.
            one_sample: Gives the outputs for the inputs of one sample.

        Raises:
            InputError: If the net has time where its layout has samples.
        """
        samples = 1 if self._layout == "TN" else 0  # of the inputs
        free = self._layout == "N" and self._stated is None  # nothing says where the outputs have time
        if out.ndim == 3:
            time, batch = out.shape[:2] if self._time_first else (out.shape[1], out.shape[0])
        elif self._layout != "N" and out.ndim == 2:
            time, batch = inputs.shape[1 - samples], out.shape[0]
        else:
            return  # neither the input nor the output has a time axis that is known
        if time == batch == count > 1:
            alone = one_sample(inputs.narrow(samples, 0, 1))
            axis = int(self._time_first) if alone.ndim == 3 else 0
            if alone.shape[axis] != 1 and not (free and alone.ndim == 3):
                raise self._wrong(alone, 1)
            self._time_first ^= alone.shape[axis] != 1
        elif free and time == count:
            self._time_first ^= batch != count
        self.settled = max(time, batch) > 1  # one step of one sample says nothing

    @contextmanager
    def taken_as_settled(self) -> Iterator[None]:
        """No pass is followed by one of a single sample inside."""
        before, self.settled = self.settled, True
        try:
            yield
        finally:
            self.settled = before

    def batch_first(self, out: Tensor, count: int) -> Tensor:
        """Outputs for `count` samples as [N, T, K]; T = 1 for a net with its own read-out.

        Raises:
            InputError: If they are neither [N, K] nor a sequence of it with these axes.
        """
        batch = out.shape[1] if out.ndim == 3 and self._time_first else (out.shape[0] if out.ndim else -1)
        # A step without classes, [N], makes a sequence [T, N]: with N = T it looks like [N, K].
        dims = {"N": (2,), "NT": (3,), "TN": (3,), None: (3,) if self._layout == "step" else (2, 3)}[self._stated]
        if out.ndim not in dims or batch != count:
            raise self._wrong(out, count)
        if out.ndim == 2:
            return out.unsqueeze(1)
        return out.transpose(0, 1) if self._time_first else out

    def _wrong(self, out: Tensor, count: int) -> InputError:
        """The error for a net that returned such outputs for `count` samples."""
        expected = f"expected output [N, K] or a sequence of it with N = {count} in layout '{self._layout}'"
        stated: OutLayout = "TN" if self._time_first else "NT"
        other: OutLayout = "NT" if self._time_first else "TN"
        shape = tuple(out.shape)
        if self._layout != "step" and out.ndim == 3 and shape[0 if self._time_first else 1] == count:
            return InputError(
                f"expected outputs over time as {AXES[stated]} with N = {count} in layout '{self._layout}', got "
                f"{AXES[other]}: {shape}; pass out_layout='{other}' to wrap"
            )
        if out.ndim == 2 and self._layout in ("TN", "NT"):
            return InputError(
                f"{expected}, got {shape}; check layout=: wrap the net with layout='{other}' if it takes "
                f"{AXES[other].replace('K', '*')}, else let it return [N, K]"
            )
        return InputError(f"{expected}, got {shape}; check layout=")
