"""The command line.

Exit status: 0 done, 1 a verdict below "trusted" with --strict, 2 bad input or a file that can't be read or written,
3 an unexpected error (with SNNROBUST_TRACEBACK set, its traceback), 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from snnrobust import demo as demonstration
from snnrobust.campaigns import config_run
from snnrobust.campaigns.config import read_config
from snnrobust.common.files import exists, to_json
from snnrobust.common.warning_lines import one_line_warnings
from snnrobust.errors import SnnRobustError, StoreError
from snnrobust.evaluation.probe import probe as probe_model
from snnrobust.plugin.registry import plugins
from snnrobust.report import Report, terminal
from snnrobust.report.searches import searches

app = typer.Typer(
    help="Robustness evaluation for spiking neural networks, with the evidence beside each number.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_out = Console(highlight=False, markup=False)
#: Newer typer includes its own click and older typer depends on click: this is the UsageError of both.
_UsageError: Any = typer.BadParameter.__mro__[1]
_INTERRUPTED, _TERMINATED = 130, 143

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Strict = Annotated[bool, typer.Option("--strict", help='Exit with status 1 if the verdict is below "trusted".')]


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="A smaller run, under two minutes on two cores.")] = False,
    out: Annotated[Path | None, typer.Option(help="Output folder [snnrobust-demo or snnrobust-demo-quick].")] = None,
    as_json: Json = False,
) -> None:
    """Train five LIF variants on real digits, attack them, and write a page."""
    folder = out or Path("snnrobust-demo-quick" if quick else "snnrobust-demo")
    report = demonstration.run_demo(
        folder, quick=quick, say=lambda line: Console(stderr=True, markup=False).print(line)
    )
    _print_report(report, folder / "report.html", as_json)


@app.command(name="run")
def run_config(
    config: Annotated[Path, typer.Argument(help="TOML file with models, data and tasks.")],
    out: Annotated[Path | None, typer.Option(help="Output folder [the config's name].")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, one model each at a time.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in the output folder.")] = False,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Evaluate the models of a config. Its model factory is code that is executed."""
    folder = out or Path(config.stem)
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(
            f"expected a new or empty output folder, got '{folder}'; "
            f"pass --resume to continue its run, or another --out"
        )
    report = config_run.evaluate_config(config, folder, workers=workers)
    report.to_html(folder / "report.html")
    _print_report(report, folder / "report.html", as_json)
    _exit_if_not_trusted(report, strict)


@app.command(name="list")
def list_plugins(as_json: Json = False) -> None:
    """List the installed plugins without importing them."""
    found = plugins()
    if as_json:
        _print_json([vars(plugin) for plugin in found])
        return
    table = Table("name", "kind", "origin")
    for plugin in found:
        table.add_row(plugin.name, plugin.kind, plugin.origin)
    _out.print(table)


@app.command(name="probe")
def probe_config(
    config: Annotated[Path, typer.Argument(help="TOML file with models, data and tasks.")],
    as_json: Json = False,
) -> None:
    """Check a config and its models without evaluating anything; exit status 2 if a fatal check fails."""
    plan = config_run.plan_config(read_config(config))
    findings = [finding for model in plan.models.values() for finding in probe_model(model, plan.data)]
    if as_json:
        _print_json([vars(finding) for finding in findings])
    else:
        table = Table("model", "check", "result", "value", "remedy")
        for each in findings:
            result = {True: "ok", False: "FAILED", None: "missing"}[each.passed]
            table.add_row(each.model, each.name, result, f"{each.value:.3g}", "" if each.passed else each.remedy)
        _out.print(table)
    if any(finding.passed is False and finding.fatal for finding in findings):
        raise typer.Exit(2)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder that a run wrote.")],
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Write the report page of a finished run again and print its table."""
    loaded = Report.load(folder / "results" if exists(folder / "results" / "run.json") else folder)
    loaded.to_html(folder / "report.html")
    _print_report(loaded, folder / "report.html", as_json)
    _exit_if_not_trusted(loaded, strict)


def main() -> None:
    """Entry point: prints every failure as one line with its own exit status, and every warning as one line."""
    terminations: list[int] = []
    try:
        # Standalone, typer would swallow an interruption; otherwise some versions return 130 and others raise Abort.
        with one_line_warnings(), _interrupted_by_sigterm(terminations):
            status = app(standalone_mode=False)
    except _UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except SnnRobustError as error:
        _stop(str(error), 2)
    except OSError as error:
        _stop(f"expected files that can be read and written, got {error}; check paths, permissions and free space", 2)
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except Exception as error:
        _unexpected(error)
    if status == _INTERRUPTED:
        status = _TERMINATED if terminations else _INTERRUPTED
        _stop("interrupted; finished results are saved, resume to continue", status)
    sys.exit(status)


@contextmanager
def _interrupted_by_sigterm(terminations: list[int]) -> Iterator[None]:
    """Lets SIGTERM interrupt as SIGINT does, so that a running cell is saved, and notes it in `terminations`."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        terminations.append(number)
        raise KeyboardInterrupt

    # Elsewhere handlers can't be set, and one of the user's own, or an ignored signal, stays as it is.
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _unexpected(error: Exception) -> NoReturn:
    if os.environ.get("SNNROBUST_TRACEBACK"):
        traceback.print_exception(error)
        sys.exit(3)
    _stop(f"unexpected {type(error).__name__}: {error}; set SNNROBUST_TRACEBACK=1 to see where", 3)


def _stop(message: str, status: int) -> NoReturn:
    line = " ".join(message.split())
    Console(stderr=True, markup=False, highlight=False, soft_wrap=True).print(f"snnrobust: {line}")
    sys.exit(status)


def _print_report(finished: Report, page: Path, as_json: bool) -> None:
    if as_json:
        _print_json(
            {
                "verdict": finished.verdict,
                "page": str(page),
                "claims": [vars(claim) for claim in finished.claims],
                "records": [vars(record) for record in finished.records],
                "findings": [vars(finding) for finding in finished.findings],
            }
        )
        return
    _out.print(terminal.terminal_table(finished.audit, finished.records))
    _out.print(f"Verdict: {finished.verdict}")
    if finished.quoted():
        _out.print(terminal.terminal_claims_table(finished.audit))
    for line in searches(finished.outcomes, slow=True):
        _out.print(f"Slower search: {line}", soft_wrap=True)
    for failure in terminal.failures(finished.audit):
        _out.print(f"Failed: {failure}", soft_wrap=True)
    for note in finished.run.get("notes", []):
        _out.print(f"Note: {note}")
    _out.print(f"Page: {page}", soft_wrap=True)


def _exit_if_not_trusted(finished: Report, strict: bool) -> None:
    if strict and finished.verdict != "trusted":
        raise typer.Exit(1)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(json.loads(to_json(value))) + "\n")
