"""The study behind docs/curvature.md: which second-order operator predicts the measured loss of a spiking net?

    python scripts/studies/which_hessian.py  # all nets: about two hours on two cores; needs snnrobust[data]
    python scripts/studies/which_hessian.py --net mlp  # half of them, beside another process that does --net conv
    python scripts/studies/which_hessian.py --quick  # one small net, in seconds: does it still work?
    python scripts/studies/which_hessian.py --tables  # only the tables, from stored results

For each net (an MLP and a convolutional net on 8 x 8 digits, T time steps, ATan surrogates of sharpness alpha, three
seeds) and each operator it compares predicted curvature with the measured curvature of the true loss, in 64 random
directions and the operator's 32 leading ones, at three radii. Results of finished nets are stored and used again.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

import snnrobust as sr
from snnrobust import networks, training
from snnrobust.common.files import from_json, to_json, write
from snnrobust.common.random import Draws
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.operators.asymmetry import asymmetry
from snnrobust_landscapes.operators.names import operator_spec
from snnrobust_landscapes.operators.relaxed import relaxation_gap
from snnrobust_landscapes.solvers.lanczos import lanczos
from snnrobust_landscapes.validity.agreement import (
    RADII,
    Agreement,
    in_leading_directions,
    in_random_directions,
    noise_ceiling,
)
from snnrobust_landscapes.validity.evidence import real_directions
from snnrobust_landscapes.validity.plateau import plateau

FOLDER = Path("runs") / "which_hessian"
STEPS, ALPHAS, SEEDS, NETS = (1, 2, 4, 8), (1.0, 2.0, 4.0, 8.0), (0, 1, 2), ("mlp", "conv")
SAMPLES, EPOCHS = {"mlp": 256, "conv": 160}, {"mlp": 20, "conv": 12}
DIRECTIONS, LEADING, DRAWS = 64, 32, 4
#: Operators by their name in the tables.
OPERATORS: dict[str, Mapping[str, Any]] = {
    "gauss-newton": {"name": "gauss-newton"},
    "gauss-newton, own surrogates": {"name": "gauss-newton", "surrogate": "own"},
    "fisher": {"name": "fisher"},
    "formal": {"name": "formal"},
    "relaxed": {"name": "relaxed"},
    "field, symmetric part": {"name": "field", "part": "symmetric"},
    "smoothed": {"name": "smoothed", "sigma": 0.03},
}
#: Noise ceiling below which the measured curvature is too noisy for any operator to predict it.
MEASURABLE = 0.5


@dataclass(frozen=True)
class Case:
    """A net of the study."""

    net: str
    steps: int
    alpha: float
    seed: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.net}-T{self.steps}-alpha{self.alpha:g}-seed{self.seed}"

    def trained(self, data: sr.data.Dataset, epochs: int | None = None) -> nn.Module:
        """The net, trained from its seed."""

        def node(_: int) -> nn.Module:
            return neuron.LIFNode(
                tau=2.0, decay_input=False, surrogate_function=surrogate.ATan(self.alpha), step_mode="m"
            )

        def build() -> nn.Module:
            return networks.mlp(node, (64, 32, 10)) if self.net == "mlp" else networks.conv(node, (4, 8), size=8)

        found = training.initialised(build, self.seed)
        training.train(found, data, steps=self.steps, epochs=epochs or EPOCHS[self.net], seed=self.seed)
        return found


def measured(case: Case, *, samples: int | None = None, directions: int = DIRECTIONS, epochs: int | None = None) -> Any:
    """All results for one net, as plain values."""
    train = sr.data.load("digits").train
    model = sr.wrap(case.trained(train, epochs), steps=case.steps)
    rng = Draws(case.seed, "which hessian")
    with model.session():
        landscape = WeightLandscape(model, train.take(samples or SAMPLES[case.net]), logit_scale=training.RATE_SCALE)
        here = landscape.loss(torch.zeros(landscape.size, dtype=torch.float64))
        flat = plateau(landscape, rng)
        found: dict[str, Any] = {
            "parameters": landscape.size,
            "loss": here.mean,
            "accuracy": here.accuracy,
            "plateau": None if flat is None else {"width": flat.width, "distinct": flat.distinct, "of": flat.points},
            "operators": {},
        }
        for name, settings in OPERATORS.items():
            operator = operator_spec(settings).on(landscape, 1.0, rng)
            most = min(LEADING, directions, landscape.size)
            pairs = lanczos(operator, most, rng, tolerance=0.1, most=min(landscape.size, 4 * most))
            agreements = in_random_directions(operator, rng, directions=directions, draws=DRAWS)
            agreements += in_leading_directions(operator, real_directions(pairs), rng, draws=DRAWS)
            found["operators"][name] = {
                "eigenvalues": pairs.values[:5].tolist(),
                "asymmetry": asymmetry(operator, rng),
                "gap": relaxation_gap(landscape) if name == "relaxed" else None,
                "agreements": [_plain(each) for each in agreements],
            }
    return found


def _plain(each: Agreement) -> dict[str, Any]:
    return {
        "where": each.where,
        "radius": each.radius,
        "correlation": each.correlation,
        "slope": each.slope,
        "ceiling": each.ceiling,
        "ceiling_points": noise_ceiling(each.by_point[:, :, None], Draws(0, "points")),
        "predicted": each.predicted.tolist(),
        "measured": each.measured.tolist(),
    }


def cells(results: Mapping[Case, Any], operator: str, **wanted: Any) -> Iterator[dict[str, Any]]:
    """Agreements of an operator, for the nets and directions with these attributes."""
    for case, found in results.items():
        for each in found["operators"][operator]["agreements"]:
            about = {**vars(case), **each}
            if all(about[key] == value for key, value in wanted.items()):
                yield each


def share_of_ceiling(found: list[dict[str, Any]], ceiling: str = "ceiling") -> tuple[float, int]:
    """Median of correlation over ceiling where the ceiling is high enough, and their number.

    Args:
        found: Agreements.
        ceiling: "ceiling", from halves disjoint in samples and points; or "ceiling_points", from halves of the points
            only, which counts effects of these particular samples as signal.
    """
    clear = [each for each in found if (each[ceiling] or 0) >= MEASURABLE and each["correlation"] is not None]
    shares = [each["correlation"] / each[ceiling] for each in clear]
    return (float(np.median(shares)) if shares else float("nan")), len(shares)


def tables(results: Mapping[Case, Any]) -> Iterator[str]:
    """Markdown: over all nets by operator, kind of directions and radius; and by alpha and T."""
    places = list(product(("random", "leading"), RADII))
    yield "#### Rank correlation (noise ceiling), median over all nets\n"
    yield (
        "| operator | "
        + " | ".join(f"{where} {radius:g}" for where, radius in places)
        + " | share of ceiling | of that over points |"
    )
    yield "| --- |" + " --- |" * (len(places) + 2)
    for operator in OPERATORS:
        row = []
        for where, radius in places:
            found = list(cells(results, operator, where=where, radius=radius))
            row.append(f"{_median(found, 'correlation')} ({_median(found, 'ceiling')})")
        found = list(cells(results, operator))
        shares = (share_of_ceiling(found, which) for which in ("ceiling", "ceiling_points"))
        yield f"| {operator} | " + " | ".join(row) + "".join(f" | {s:.2f} ({count})" for s, count in shares) + " |"
    yield "\n#### Slope: measured curvature over predicted, median (10 % to 90 % of nets)\n"
    yield "| operator | " + " | ".join(f"{where} {radius:g}" for where, radius in places) + " |"
    yield "| --- |" + " --- |" * len(places)
    for operator in OPERATORS:
        row = [_spread(list(cells(results, operator, where=w, radius=r)), "slope") for w, r in places]
        yield f"| {operator} | " + " | ".join(row) + " |"
    for what, values in (("alpha", ALPHAS), ("steps", STEPS), ("net", NETS)):
        yield f"\n#### By {what}: rank correlation (share of the ceiling), slope; all radii\n"
        yield f"| operator | where | {' | '.join(f'{what} {value}' for value in values)} |"
        yield "| --- | --- |" + " --- |" * len(values)
        for operator, where in product(OPERATORS, ("random", "leading")):
            row = []
            for value in values:
                found = list(cells(results, operator, where=where, **{what: value}))
                share = share_of_ceiling(found)[0]
                row.append(f"{_median(found, 'correlation')} ({share:.2f}), {_median(found, 'slope')}")
            yield f"| {operator} | {where} | " + " | ".join(row) + " |"


def _median(found: list[dict[str, Any]], key: str) -> str:
    known = [each[key] for each in found if each[key] is not None]
    return f"{np.median(known):.2f}" if known else "–"


def _spread(found: list[dict[str, Any]], key: str) -> str:
    known = [each[key] for each in found if each[key] is not None]
    low, middle, high = np.quantile(known, (0.1, 0.5, 0.9)) if known else (np.nan,) * 3
    return f"{middle:.2g} ({low:.2g} to {high:.2g})"


def load_all() -> dict[Case, Any]:
    """The stored results."""
    everything = (Case(*each) for each in product(NETS, STEPS, ALPHAS, SEEDS))
    return {case: from_json(path.read_bytes()) for case in everything if (path := _file(case)).is_file()}


def _file(case: Case) -> Path:
    return FOLDER / f"{case.name}.json"


def main(
    net: Annotated[str | None, typer.Option(help="mlp or conv; both where left out.")] = None,
    backwards: Annotated[bool, typer.Option(help="The last nets first, to meet another process half way.")] = False,
    quick: Annotated[bool, typer.Option(help="One small net, nothing stored.")] = False,
    show: Annotated[bool, typer.Option("--tables", help="Only the tables.")] = False,
) -> None:
    """Computes missing results and prints the tables."""
    console = Console(stderr=True)
    if quick:
        case = Case("mlp", 2, 2.0, 0)
        typer.echo("\n".join(tables({case: measured(case, samples=48, directions=8, epochs=1)})))
        return
    everything = [Case(*each) for each in product(NETS, STEPS, ALPHAS, SEEDS)]
    for case in reversed(everything) if backwards else everything:
        if show or net not in (None, case.net) or _file(case).is_file():
            continue
        console.print(case.name)
        write(_file(case), to_json(measured(case)))
    results = load_all()
    typer.echo("\n".join(tables(results)))
    typer.echo(f"\n{len(results)} nets, {SAMPLES} samples, {platform.machine()} CPU, torch {torch.__version__}")


if __name__ == "__main__":
    typer.run(main)
