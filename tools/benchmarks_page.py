"""Write ``docs/benchmarks.md`` from the last results: ``python -m tools.benchmarks_page --check | --write``.

The results are what the benchmarks print: ``make bench NAME=bind > benchmarks/results/bind.json``.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"

_HEAD = """# Benchmarks

<!-- Written by tools/benchmarks_page.py from benchmarks/results; change those instead. -->

One program per claim. `make bench NAME=bind` runs one, `make bench` all. Both sides run in turn (A B A B ...) in one
process tree on one machine and have to give the same answers; what counts is the median of the ratios of neighbouring
runs. The absolute times only show the order of magnitude: never compare them across runs. A ratio of 1.10 means that
ours takes 10 % longer.
"""


def render(results: list[dict[str, Any]]) -> str:
    """The page."""
    parts = [_HEAD]
    for result in results:
        machine = result["machine"]
        parts.append(f"\n## {result['benchmark']}\n\n{_purpose(result['benchmark'])}\n")
        parts.append(
            f"\nPostgreSQL {machine['postgres']}, Python {machine['python']}, {machine['cpus']} CPUs."
            f" Run it with `make bench NAME={result['benchmark']}`.\n"
        )
        if result["ratios"]:
            columns = ("what", "ratio", "lowest", "highest", "pairs", "ours, µs", "other, µs", "goal")
            parts.append(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n")
            parts += [_ratio(row) for row in result["ratios"]]
        if result["counts"]:
            parts.append("\n| what | count | goal |\n|---|---|---|\n")
            parts += [f"| {row['what']} | {row['value']:,g} | {_goal(row)} |\n" for row in result["counts"]]
    return "".join(parts)


def _purpose(name: str) -> str:
    module = ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text("utf-8"))
    return (ast.get_docstring(module) or "").strip()


def _ratio(row: dict[str, Any]) -> str:
    numbers = f"{row['low']:.2f} | {row['high']:.2f} | {row['pairs']} | {row['ours_us']:,.0f} | {row['other_us']:,.0f}"
    return f"| {row['what']} | **{row['median']:.2f}** | {numbers} | {_goal(row)} |\n"


def _goal(row: dict[str, Any]) -> str:
    if row["goal"] is None:
        return ""
    return f"{row['goal']:g}: {'met' if row['met'] else '**not met**'}"


def main() -> int:
    """Compare or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the page")
    parser.add_argument("--check", action="store_true", help="fail if the page differs")
    options = parser.parse_args()
    page = render([json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json"))])
    if options.write:
        PAGE.write_text(page, "utf-8")
    elif not PAGE.exists() or PAGE.read_text("utf-8") != page:
        print(f"{PAGE.relative_to(ROOT)} is not what the results say: run python -m tools.benchmarks_page --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
