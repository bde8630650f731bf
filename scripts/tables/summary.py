"""A finished run as a Markdown table, as in the README.

python scripts/tables/summary.py snnrobust-demo/results
"""

from __future__ import annotations

import sys

from snnrobust import Report


def main(folder: str) -> None:
    report = Report.load(folder)
    strengths = {
        label: report.task(label)["strengths"] for label in (*report.labels("attack"), *report.labels("noise"))
    }
    shown = {
        label: values[-2] if label in report.labels("attack") else values[-1] for label, values in strengths.items()
    }
    print("| model | clean | " + " | ".join(f"{label} {strength:g}" for label, strength in shown.items()) + " |")
    print("| --- | --- |" + " --- |" * len(shown))
    for model in report.models:
        cells = []
        for label, strength in shown.items():
            curve = report.curve(label, model)
            cells.append(f"{curve.value[curve.strength.index(strength)]:.1%}")
        print(f"| {model} | {report.clean(model)['correct'].mean():.1%} | " + " | ".join(cells) + " |")
    environment = report.run["environment"]
    print(
        f"\n{report.run['data']['samples']} test samples, seed {report.run['seed']}, {environment['system']}, "
        f"{environment['threads']} threads, torch {environment['packages']['torch']}. Verdict: {report.verdict}."
    )


if __name__ == "__main__":
    main(sys.argv[1])
