"""The way of a batch through one step of PGD: each file of ours that it visits, in order, and how often.

    python scripts/studies/pgd_step.py              # on the accelerated model
    python scripts/studies/pgd_step.py --eager      # on the net itself
    python scripts/studies/pgd_step.py --calls      # each function, too

docs/architecture.md tells what each of them adds.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import snnrobust as sr
from snnrobust.search import loop
from snnrobust.testing import tiny_data, tiny_model

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "snnrobust", ROOT / "attacks", ROOT / "landscapes")


class Trip:
    """Counts calls of our functions while one step of the search runs; the second, when everything is warm."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()  # (file, function), in the order of the first visit
        self._steps = 0
        self._outermost: FrameType | None = None

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "return" and frame is self._outermost:
            self._outermost = None
        if event != "call":
            return
        if code is loop._advance.__code__:
            self._steps += 1
            if self._steps == 2:
                self._outermost = frame
        path = Path(code.co_filename)
        if self._outermost is not None and any(package in path.parents for package in PACKAGES):
            self.calls[str(path.relative_to(ROOT)), code.co_qualname] += 1


def trip(accelerate: bool) -> Counter[tuple[str, str]]:
    """Calls of our functions in one step of PGD, in the order of the first visit."""
    model = sr.wrap(tiny_model().net, name="tiny", steps=4, accelerate=accelerate)
    task, watch = sr.load("pgd", epsilon=0.01, steps=4), Trip()
    sys.setprofile(watch)
    try:
        sr.evaluate(model, tiny_data(), [task], evidence="none", progress=False)
    finally:
        sys.setprofile(None)
    return watch.calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--calls", action="store_true")
    given = parser.parse_args()
    calls = trip(accelerate=not given.eager)
    files: dict[str, Counter[str]] = {}
    for (file, function), count in calls.items():
        files.setdefault(file, Counter())[function] = count
    for file, functions in files.items():
        print(f"{sum(functions.values()):5}  {file}")
        for function, count in functions.items() if given.calls else ():
            print(f"{count:9}  {function}")
    print(f"{sum(calls.values()):5}  calls in {len(files)} files")


if __name__ == "__main__":
    main()
