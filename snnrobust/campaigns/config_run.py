"""Evaluates the models of a config in parallel, one process each, into one folder."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path

import torch

from snnrobust.campaigns.config import Config, read_config
from snnrobust.campaigns.worker_interruption import WorkerInterruption, end
from snnrobust.common.progress import progress_of
from snnrobust.common.warning_lines import one_line_warnings
from snnrobust.evaluation.execute import execute
from snnrobust.evaluation.make_plan import make_plan
from snnrobust.evaluation.plan import Plan
from snnrobust.evaluation.run_description import describe
from snnrobust.report import Report
from snnrobust.results.store import Store

#: Of this process, where it is a worker.
_interruption = WorkerInterruption()


def plan_config(config: Config, out: Path | None = None, processes: int = 1) -> Plan:
    """Builds and checks everything in the config, for a run in `out` with that many parallel processes."""
    settings = config.evaluate.settings(processes)
    return make_plan(config.load_models(), config.load_data(), config.load_tasks(), settings, out=out)


def evaluate_config(path: Path, out: Path, *, workers: int = 1, progress: bool | None = None) -> Report:
    """Evaluates the config at `path` into the folder `out`, resuming an earlier run of it.

    Args:
        path: TOML file.
        out: Output folder.
        workers: Processes; each takes whole models, with its share of the cores.
        progress: Whether to show progress; None: on a terminal.

    Raises:
        SnnRobustError: For bad input, before any long computation.
    """
    checked = plan_config(read_config(path), out, workers)
    store = Store(out, describe(checked))
    if workers > 1 and len(checked.models) > 1:
        others = set(active_children())
        threads = max(1, (os.cpu_count() or 1) // workers)
        with (
            ProcessPoolExecutor(workers, get_context("spawn"), _handle_signals) as executor,
            progress_of(len(checked.models), progress, "models") as shown,
        ):
            futures = [executor.submit(_run_model, path, out, name, threads, workers) for name in checked.models]
            shown.doing(f"{workers} processes, a model each")
            try:
                for future in as_completed(futures):
                    future.result()
                    shown.advance()
            except KeyboardInterrupt:  # leaving the executor would wait for all pending models
                executor.shutdown(wait=False, cancel_futures=True)
                end(set(active_children()) - others)
                raise
        store.read_timings()
    execute(checked, store, progress=progress)
    return Report(store)


def _handle_signals() -> None:
    _interruption.handle_signals()  # in a function: a method would be sent with a copy of its object


def _run_model(path: Path, out: Path, name: str, threads: int, workers: int) -> None:
    torch.set_num_threads(threads)
    with _interruption.interruptible(), one_line_warnings():  # as the command line does in the parent process
        checked = plan_config(read_config(path), out, workers)
        execute(checked, Store(out, describe(checked)), only=name, progress=False)
