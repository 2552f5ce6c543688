"""``tenantry doctor``: what :mod:`tenantry.service.doctor` finds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import typer

from tenantry.cli.command import Json, example, noun
from tenantry.cli.output import busy, details, printable, to_json, write
from tenantry.service import doctor
from tenantry.service.check import Check, Status

app = noun()

_STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "bold red", Status.SKIPPED: "dim"}


@app.command("doctor", epilog=example("tenantry doctor", "tenantry doctor --json"))
def doctor_(as_json: Json = False) -> None:
    """Check everything, change nothing, and say what to do about what is wrong. Exit 1 if something has failed."""
    with busy("looking at everything"):
        checks = asyncio.run(doctor.examine())
    counts = Counter(check.status for check in checks)
    if as_json:
        numbers = {str(status): counts[status] for status in Status}
        write(
            to_json({"ok": not counts[Status.FAILED], "counts": numbers, "checks": list(map(asdict, checks))}, indent=2)
        )
    else:
        _print(checks)
        numbers_text = ", ".join(f"{counts[status]} {status}" for status in Status)
        write(f"\n{len(checks)} checks: {numbers_text}")
    if counts[Status.FAILED]:
        raise typer.Exit(1)


def _print(checks: Sequence[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        write(check.status.ljust(9), style=_STYLES[check.status], end="")
        write(f"{printable(check.name).ljust(width)}  {printable(check.what)}")
        if check.status is not Status.OK:
            for line in details(check.where, check.next):
                write(" " * 7 + line)
