"""Speed of curvature compared with PyHessian, at equal accuracy, and its number of products.

    python scripts/bench/bench_curvature.py  # half an hour on two cores; needs snnrobust[data,pyhessian]
    python scripts/bench/bench_curvature.py --quick  # a minute, on a small net: a smoke test
    python scripts/bench/bench_curvature.py --net conv --seeds 1

Both differentiate the same net on the same samples twice: the matrix is the formal surrogate Hessian. Each runs with
tighter and tighter tolerances until all of the top k eigenvalues are correct to 1e-4, and only that run counts. They
alternate in one process, so that ratios are comparable. Prints Markdown; writes the numbers as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from bench_curvature_tables import tables
from scipy.sparse.linalg import LinearOperator, eigsh
from spikingjelly.activation_based import functional as spiking
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn
from torch.nn import functional

import snnrobust as sr
from snnrobust import networks, training
from snnrobust.common.random import Draws, global_rng
from snnrobust.data import Dataset
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.operators.hessian import Formal
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.solvers.lanczos import lanczos
from snnrobust_landscapes.solvers.trace import estimate_trace

#: Largest relative error of an eigenvalue that counts as accurate.
ACCURATE = 1e-4
#: Tolerances to try, and PyHessian's most iterations for an eigenvalue with each of them.
OURS = (1e-1, 5e-2, 3e-2, 2e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5)
THEIRS = tuple((scale * 10**-decade, 10 ** min(decade, 4)) for decade in range(3, 8) for scale in (1, 0.3))
#: Nets with the epochs of their training, k, and standard errors of the trace.
NETS, TOPS, RELATIVES = {"mlp": 20, "conv": 2}, (1, 5, 10), (0.05, 0.02, 0.01)
#: Of PyHessian's trace, and T.
PROBES, STEPS = 100, 4


@dataclass(frozen=True)
class Case:
    """A net and the samples of its loss."""

    name: str
    net: nn.Module
    model: sr.SpikingModel
    samples: Dataset

    @classmethod
    def of(cls, name: str, count: int, seed: int, epochs: int) -> Case:
        """A net that is trained briefly: "mlp" on digits of 8 x 8 pixels, "conv" on those of 28 x 28."""
        train = sr.data.load("digits" if name == "mlp" else "mnist5k").train
        build = (
            (lambda: networks.mlp(_node, (64, 32, 10))) if name == "mlp" else (lambda: networks.conv(_node, (8, 17)))
        )
        net = training.initialised(build, seed)
        training.train(net, train, steps=STEPS, epochs=epochs, seed=seed)
        return cls(name, net, sr.wrap(net, steps=STEPS), train.take(count))

    def operator(self) -> Operator:
        """A new operator; its nodes are checked once in a session of the model."""
        landscape = WeightLandscape(self.model, self.samples, logit_scale=training.RATE_SCALE)
        return Formal().on(landscape, 4.0, Draws(0, "bench"))

    def pyhessian(self) -> Any:
        """PyHessian's own object, which computes its gradient at once."""
        from pyhessian import hessian

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using backward\\(\\) with create_graph=True", UserWarning)
            self.net.zero_grad()  # it adds to gradients
            data = (self.samples.x, self.samples.y)
            return hessian(_Logits(self.net), functional.cross_entropy, data=data, cuda=False)


class _Logits(nn.Module):
    """The usual wrapper of a SpikingJelly net for PyHessian."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        spiking.reset_net(self.net)
        out: Tensor = self.net(x.expand(STEPS, *x.shape)).mean(0)
        return training.RATE_SCALE * out


@dataclass(frozen=True)
class Run:
    """The first accurate run of one of the two, or its last one.

    Attributes:
        seconds: It took.
        products: It took.
        error: Largest relative error of an eigenvalue.
        tolerance: It was given.
    """

    seconds: float
    products: int
    error: float
    tolerance: float

    @property
    def reached(self) -> bool:
        """Whether it was accurate."""
        return self.error <= ACCURATE


def eigenvalues(case: Case, k: int, seed: int) -> dict[str, Any]:
    """Both on the top k, alternating."""
    reference = lanczos(case.operator(), k, Draws(seed, "reference"), tolerance=1e-8, most=400).values.abs().numpy()

    def run(solve: Callable[[], tuple[Sequence[float], int]], tolerance: float) -> Run:
        began = time.perf_counter()
        values, products = solve()
        seconds = time.perf_counter() - began
        found = np.sort(np.abs(values))[::-1]
        return Run(seconds, products, float((np.abs(found - reference) / reference).max()), tolerance)

    def ours(tolerance: float) -> Run:
        def solve() -> tuple[Sequence[float], int]:
            pairs = lanczos(case.operator(), k, Draws(seed, "bench"), tolerance=tolerance, most=400)
            return pairs.values.tolist(), pairs.products

        return run(solve, tolerance)

    def theirs(tolerance: float, iterations: int) -> Run:
        def solve() -> tuple[Sequence[float], int]:
            with global_rng(seed, torch.device("cpu")), _counted() as products:
                values, _ = case.pyhessian().eigenvalues(maxIter=iterations, tol=tolerance, top_n=k)
            return values, len(products)

        return run(solve, tolerance)

    contenders: dict[str, Callable[[], Run]] = {
        "ours": lambda: _first_accurate(ours(each) for each in OURS),
        "pyhessian": lambda: _first_accurate(theirs(*each) for each in THEIRS),
    }
    order = ("ours", "pyhessian") if seed % 2 else ("pyhessian", "ours")
    runs = {name: contenders[name]() for name in order}
    return {
        "net": case.name,
        "k": k,
        "seed": seed,
        "ratio": runs["pyhessian"].seconds / runs["ours"].seconds,
        **{name: asdict(each) | {"reached": each.reached} for name, each in runs.items()},
    }


def products(case: Case, k: int, seed: int, tolerance: float) -> dict[str, Any]:
    """Products of Lanczos and of scipy's `eigsh` at the same tolerance."""
    operator = case.operator()
    size = operator.landscape.size
    start = np.random.default_rng(seed).standard_normal(size).astype(np.float64)

    def product(x: np.ndarray) -> np.ndarray:
        found: np.ndarray = operator.apply(torch.from_numpy(x).reshape(1, -1))[0].numpy()
        return found

    matrix = LinearOperator((size, size), product, dtype=np.float64)
    eigsh(matrix, k, which="LM", tol=tolerance, v0=start)
    theirs = operator.products
    ours = lanczos(operator, k, Draws(seed, "bench"), tolerance=tolerance, most=400).products
    return {"net": case.name, "k": k, "seed": seed, "tolerance": tolerance, "ours": ours, "eigsh": theirs}


def traces(case: Case, seed: int, relative: float) -> dict[str, Any]:
    """Products and seconds of the trace, and those of PyHessian's probes for the same standard error."""
    began = time.perf_counter()
    found = estimate_trace(case.operator(), Draws(seed, "bench"), relative=relative, most=2000)
    ours = time.perf_counter() - began
    began = time.perf_counter()
    with global_rng(seed, torch.device("cpu")):
        probes = case.pyhessian().trace(maxIter=PROBES, tol=-np.inf)  # otherwise it stops by chance
    theirs = time.perf_counter() - began
    needed = float(np.var(probes, ddof=1)) / float(found.errors) ** 2
    return {
        "net": case.name,
        "seed": seed,
        "relative": relative,
        "reached": float(found.errors / found.values.abs()),
        "apart": abs(float(np.mean(probes) - found.values)) / float(np.std(probes, ddof=1) / PROBES**0.5),
        "ours": found.products,
        "pyhessian": needed,
        "ratio": needed / found.products,
        "ratio_seconds": theirs * needed / PROBES / ours,
    }


def peak(count: int) -> float:
    """Peak MiB of a process that computes an eigenvalue over so many samples."""
    command = [sys.executable, str(Path(__file__)), "--peak-of", str(count)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return float(done.stdout) / 2**20


def _print_peak(count: int) -> None:
    import resource

    net = training.initialised(lambda: networks.conv(_node, (8, 17)), 0).eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 1, 28, 28, generator=generator)
    samples = Dataset.of(x, torch.randint(10, (count,), generator=generator))
    landscape = WeightLandscape(sr.wrap(net, steps=STEPS), samples, logit_scale=training.RATE_SCALE)
    lanczos(Formal().on(landscape, 0.5, Draws(0, "bench")), 1, Draws(0, "bench"), most=3)
    if sys.platform == "linux":  # ru_maxrss starts from that of the parent process
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        print(1024 * int(status["VmHWM"].split()[0]))
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def main(
    net: Annotated[str | None, typer.Option(help="mlp or conv; both where left out.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Nets of each kind, from their own seeds.")] = 5,
    samples: Annotated[int, typer.Option(min=2, help="Training samples of the loss.")] = 200,
    quick: Annotated[bool, typer.Option(help="One small net, few samples.")] = False,
    out: Annotated[Path, typer.Option(help="File for the numbers.")] = Path("runs/bench_curvature/bench.json"),
    peak_of: Annotated[int, typer.Option(hidden=True, help="Print the peak memory over so many samples.")] = 0,
) -> None:
    """Measures, prints the tables, and writes the numbers."""
    if peak_of:
        _print_peak(peak_of)
        return
    names = ["mlp"] if quick else [net] if net else list(NETS)
    if not set(names) <= set(NETS):
        raise typer.BadParameter(f"expected one of {', '.join(NETS)}, got {net!r}", param_hint="--net")
    seeds, samples = (1, 20) if quick else (seeds, samples)
    result: dict[str, Any] = {"accurate": ACCURATE, "environment": _environment()}
    result |= {"eigenvalues": [], "products": [], "traces": [], "checks": []}
    for name, seed in ((name, seed) for name in names for seed in range(seeds)):
        case = Case.of(name, samples, seed, epochs=1 if quick else NETS[name])
        with case.model.session():
            began = time.perf_counter()
            case.operator()
            result["checks"].append({"net": name, "seconds": time.perf_counter() - began})
            for k in (1,) if quick else TOPS:
                result["eigenvalues"].append(found := eigenvalues(case, k, seed))
                print(f"{name}, seed {seed}, top {k}: {found['ratio']:.1f} times", file=sys.stderr, flush=True)
                result["products"] += [products(case, k, seed, tolerance) for tolerance in (1e-2, 1e-4)]
            result["traces"] += [traces(case, seed, relative) for relative in ((0.1,) if quick else RELATIVES)]
        print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
    if not quick and net is None:
        result["memory"] = [{"samples": count, "mib": peak(count)} for count in (1_000, 10_000)]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(tables(result))


def _first_accurate(runs: Iterable[Run]) -> Run:
    for each in runs:
        if each.reached:
            break
    return each


@contextmanager
def _counted() -> Iterator[list[int]]:
    """A list that grows by one with each product of PyHessian."""
    theirs = importlib.import_module("pyhessian.hessian")  # the package has a class of the module's name
    product, counted = theirs.hessian_vector_product, []

    def counting(*arguments: Any) -> Any:
        counted.append(1)
        return product(*arguments)

    theirs.hessian_vector_product = counting
    try:
        yield counted
    finally:
        theirs.hessian_vector_product = product


def _node(_: int) -> nn.Module:
    return neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=surrogate.ATan(2.0), step_mode="m")


def _environment() -> dict[str, Any]:
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "load": os.getloadavg()[0]}


if __name__ == "__main__":
    if os.environ.get("OMP_WAIT_POLICY") != "PASSIVE":  # read when torch is loaded: restart with it
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    typer.run(main)
