"""A config's models evaluated side by side, one process each, into one folder."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path

import torch

from snnrobust.campaigns.config import Config, read
from snnrobust.common.progress import shown
from snnrobust.common.warning_lines import in_one_line
from snnrobust.evaluation.plan import Plan, make_plan
from snnrobust.report import Report
from snnrobust.results.store import Store


def plan(config: Config, out: Path | None = None, processes: int = 1) -> Plan:
    """Builds and checks everything that the config names, to be run into `out` by so many processes at once."""
    settings = config.evaluate
    return make_plan(
        config.load_models(),
        config.load_data(),
        config.load_tasks(),
        seed=settings.seed,
        mode=settings.mode,
        evidence=settings.evidence,
        batch_size=settings.batch_size,
        memory_budget=settings.memory_budget,
        out=out,
        processes=processes,
    )


def run(path: Path, out: Path, *, workers: int = 1, progress: bool | None = None) -> Report:
    """Evaluates the config at `path` into the folder `out`, going on where an earlier run of it stopped.

    Args:
        path: TOML file.
        out: Output folder.
        workers: Processes; each takes whole models, with its share of the cores.
        progress: Whether to show progress; None: on a terminal.

    Raises:
        SnnRobustError: For bad input, before anything long starts.
    """
    checked = plan(read(path), out, workers)
    store = Store(out, checked.run)
    if workers > 1 and len(checked.models) > 1:
        others = set(active_children())
        threads = max(1, (os.cpu_count() or 1) // workers)
        with (
            ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor,
            shown(len(checked.models), progress) as steps,
        ):
            futures = [executor.submit(_work, path, out, name, threads, workers) for name in checked.models]
            try:
                for future in as_completed(futures):
                    future.result()
                    steps.advance()
            except KeyboardInterrupt:  # leaving the executor would wait for every model that is still to come
                executor.shutdown(wait=False, cancel_futures=True)
                for child in set(active_children()) - others:
                    child.terminate()
                raise
        store.read_timings()
    checked.execute(store, progress=progress)
    return Report(store)


def _work(path: Path, out: Path, name: str, threads: int, workers: int) -> None:
    torch.set_num_threads(threads)
    with in_one_line():  # nobody else is there to show them
        checked = plan(read(path), out, workers)
        checked.execute(Store(out, checked.run), only=name, progress=False)
