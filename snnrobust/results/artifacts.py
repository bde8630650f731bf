"""What measurements draw: surfaces, spectra, profiles and scatters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snnrobust.errors import PluginError


@dataclass(frozen=True, eq=False)
class Surface:
    """Quantities over a plane in weight (or input) space.

    Attributes:
        x: Positions along the first direction, [X].
        y: Positions along the second direction, [Y].
        values: Quantity name ("loss", "accuracy") -> values [Y, X].
        axes: Labels of the two axes, with their unit.
        caption: What is drawn, in a sentence.

    Raises:
        PluginError: If the shapes don't fit.
    """

    x: np.ndarray
    y: np.ndarray
    values: dict[str, np.ndarray]
    axes: tuple[str, str]
    caption: str
    model: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        _require_shape(self, {"x": (self.x, (-1,)), "y": (self.y, (-1,))})
        _require_shape(self, {name: (each, (len(self.y), len(self.x))) for name, each in self.values.items()})


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A spectral density: how the eigenvalues of an operator are spread.

    Attributes:
        x: Positions, increasing, [M].
        density: Density at them, >= 0; it integrates to 1 over all eigenvalues, [M].
        axis: Label of the positions, with the operator.
        caption: What is drawn, in a sentence.

    Raises:
        PluginError: If the shapes don't fit.
    """

    x: np.ndarray
    density: np.ndarray
    axis: str
    caption: str
    model: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        _require_shape(self, {"x": (self.x, (-1,))})
        _require_shape(self, {"density": (self.density, (len(self.x),))})


@dataclass(frozen=True, eq=False)
class Profile:
    """Quantities over one number: a slice along a direction, a line between checkpoints, a curve over radii.

    Attributes:
        x: Positions, [X].
        values: Quantity name ("loss", "accuracy", "loss rise, ascent") -> values [X].
        axis: Label of the positions, with their unit.
        caption: What is drawn, in a sentence.

    Raises:
        PluginError: If the shapes don't fit.
    """

    x: np.ndarray
    values: dict[str, np.ndarray]
    axis: str
    caption: str
    model: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        _require_shape(self, {"x": (self.x, (-1,))})
        _require_shape(self, {name: (each, (len(self.x),)) for name, each in self.values.items()})


@dataclass(frozen=True, eq=False)
class Scatter:
    """Pairs of what was predicted and what was measured.

    Attributes:
        points: Name of a group -> pairs (predicted, measured) [n, 2].
        axes: Labels of the two numbers, with their unit.
        caption: What is drawn, in a sentence.

    Raises:
        PluginError: If the shapes don't fit.
    """

    points: dict[str, np.ndarray]
    axes: tuple[str, str]
    caption: str
    model: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        _require_shape(self, {name: (each, (-1, 2)) for name, each in self.points.items()})


#: What a measurement may yield to be drawn.
Artifact = Surface | Spectrum | Profile | Scatter


def _require_shape(artifact: Artifact, arrays: dict[str, tuple[np.ndarray, tuple[int, ...]]]) -> None:
    """Raises a `PluginError` for an array that is not numeric or of another shape; -1 stands for any length."""
    for name, (array, wanted) in arrays.items():
        given = np.shape(array)
        fits = len(given) == len(wanted) and all(a == b for a, b in zip(given, wanted, strict=True) if b >= 0)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not fits:
            expected = str(wanted).replace("-1", "any")
            got = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
            raise PluginError(
                f"expected '{name}' of a {type(artifact).__name__} to be a numeric array of shape {expected}, got "
                f"{got} of shape {given}; pass a numeric numpy array with these axes"
            )
