"""``tenantry worker``, ``migrate`` and ``refill``: the verbs of :mod:`tenantry.service.house` but ``init``."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import Counter
from typing import Annotated, Any

import psycopg
import typer

from tenantry.cli.command import Json, example, noun, operate
from tenantry.cli.log import journal
from tenantry.cli.output import Output
from tenantry.errors import InvalidInput, TenantryError
from tenantry.hookspecs import hookimpl
from tenantry.service import house
from tenantry.service.control import Control

app = noun()
log = logging.getLogger("tenantry.worker")

_INTERVALS = (0.1, 3600.0)


@app.command(epilog=example("tenantry worker", "tenantry worker --once"))
def worker(
    once: Annotated[bool, typer.Option("--once", help="Do what is there to do, and end.")] = False,
    interval: Annotated[float, typer.Option(metavar="SECONDS", help="How often to look for work.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Log one JSON document a line.")] = False,
) -> None:
    """Finish or undo what was left open, and keep the warm pools full.

    Run one or several as a service: deletions wait for it until their grace period has ended, and whatever a killed
    process has left behind. At SIGTERM it ends after the operation that it works on; a second one ends it at once,
    and another worker goes on.
    """
    if not _INTERVALS[0] <= interval <= _INTERVALS[1]:
        raise InvalidInput(f"an interval of {interval} seconds", hint="use {} to {}".format(*_INTERVALS))
    journal(as_json=as_json)
    done = asyncio.run(_work(once, interval))
    if done is not None:
        left = "".join(f", {count} {state}" for state, count in done["left"].items())
        Output(as_json).result(done, f"worked on {done['worked']} operations; left: {left[2:] or 'none'}")


async def _work(once: bool, interval: float) -> dict[str, Any] | None:
    """What was done, and how many operations are left in which state; None if it was not ``once``."""
    stop = asyncio.Event()
    this = asyncio.current_task()
    loop = asyncio.get_running_loop()

    def end() -> None:
        if stop.is_set() and this is not None:
            this.cancel()
        else:
            log.info("ending after what is at work")
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        async with Control() as control:
            control.engine.hooks.register(_Journal())
            if once:
                worked = await house.work(control, until=stop)
                left = Counter(row["state"] for row in await control.engine.unfinished())
                return {"worked": worked, "left": dict(left)}
            log.info("working, looking every %g s", interval)
            await _keep_working(control, stop, interval)
    except asyncio.CancelledError:
        log.warning("ended at once; another worker goes on where this one stopped")
    return None


async def _keep_working(control: Control, stop: asyncio.Event, interval: float) -> None:
    """What fails now may work the next time: a worker does not end for it."""
    while not stop.is_set():
        try:
            await house.work(control, until=stop)
        except (TenantryError, psycopg.Error, OSError) as error:
            log.error("%s; looking again in %g s", error, interval)
        try:
            await asyncio.wait_for(stop.wait(), interval)
        except TimeoutError:
            continue
    log.info("ended")


class _Journal:
    """Logs what operations do."""

    @hookimpl
    def operation_moment(self, operation: int, kind: str, step: str, moment: str) -> None:
        """As the hook says."""
        if moment in ("after", "undo"):
            log.info("operation %s (%s): %s %s", operation, kind, "undoing" if moment == "undo" else "did", step)


@app.command(epilog=example("tenantry migrate"))
def migrate(as_json: Json = False) -> None:
    """Bring every space to the template's version. What is there already costs one comparison."""
    state = operate(house.migrate, "migrating")
    text = "every space has the template's version" if state == "done" else f"the migration is {state}: see the doctor"
    Output(as_json).result({"state": state}, text)


@app.command(epilog=example("tenantry refill"))
def refill(as_json: Json = False) -> None:
    """Build what is missing from the warm pools. A worker does so by itself."""
    built = operate(house.refill, "building homes")
    Output(as_json).result({"built": built}, f"built {built} home{'' if built == 1 else 's'}")
