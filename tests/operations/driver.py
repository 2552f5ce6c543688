"""A process that forks one child per job: a control plane that is killed, stopped or made to fail at a named moment.

Jobs come as lines of JSON on standard input, what became of them goes out as lines of JSON. Forking an interpreter that
has imported everything takes milliseconds, so hundreds of moments can be tried; the child is a real process all the
same, and dies a real death.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import psycopg

from tenantry.errors import InvalidInput, TenantryError
from tenantry.hookspecs import hookimpl
from tenantry.postgres.express import Express
from tenantry.service import house as houses
from tenantry.service import key as keys
from tenantry.service import move as moves
from tenantry.service import op as ops
from tenantry.service import plan as plans
from tenantry.service import shard as shards
from tenantry.service import tenant as tenants
from tenantry.service.control import Control
from tenantry.settings import Settings

VERBS: Mapping[str, Callable[..., Awaitable[Any]]] = {
    "create": tenants.create,
    "suspend": tenants.suspend,
    "resume": tenants.resume,
    "delete": tenants.delete,
    "move": moves.move,
    "undo": ops.undo,
    "refill": houses.refill,
    "migrate": houses.migrate,
    "work": houses.work,
    "rotate": keys.rotate,
    "plan change": plans.change,
    "shard add": shards.add,
}

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Events:
    """A plugin that does something at named moments: each event is ``[step, moment, what]``."""

    def __init__(self, events: Sequence[Sequence[str]]) -> None:
        self._events = [tuple(event) for event in events]
        self.seen: list[tuple[str, str, str]] = []

    @hookimpl
    def operation_moment(self, operation: int, kind: str, step: str, moment: str) -> None:
        """Do what an event says, once."""
        self.seen.append((kind, step, moment))
        for event in list(self._events):
            if event[:2] == (step, moment):
                self._events.remove(event)
                do(event[2])


def do(what: str) -> None:
    """Die, stop, or fail."""
    if what == "fail":
        raise InvalidInput("told to fail")
    os.kill(os.getpid(), _SIGNALS[what])


class Statements:
    """Counts the statements that are sent to any server, and does something before one of them."""

    def __init__(self, number: int, what: str) -> None:
        self.sent = 0

        def counted(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def execute(*arguments: Any, **options: Any) -> Any:
                self.sent += 1
                if self.sent == number:
                    do(what)
                return await original(*arguments, **options)

            return execute

        psycopg.AsyncCursor.execute = counted(psycopg.AsyncCursor.execute)  # type: ignore[assignment,method-assign]
        Express.call = counted(Express.call)  # type: ignore[assignment,method-assign]


async def work(job: Mapping[str, Any]) -> dict[str, Any]:
    """Do a job, and tell what came of it."""
    settings = Settings(**job["settings"])
    async with Control(settings, actor="driver", lease_seconds=job["lease"]) as control:
        events = Events(job["events"])
        control.engine.hooks.register(events)
        statements = Statements(*job["statement"])
        try:
            said = {"result": str(await VERBS[job["verb"]](control, *job["args"], **job["options"]))}
        except TenantryError as error:
            said = {"error": type(error).__name__, "message": error.message}
        return {**said, "moments": events.seen, "statements": statements.sent}


def child(job: Mapping[str, Any], out: int) -> None:
    """The forked process."""
    logging.disable()
    os.write(out, json.dumps(asyncio.run(work(job))).encode())


def reap(pid: int) -> bool:
    """Wait until a child has ended or stopped; whether it has ended."""
    _, status = os.waitpid(pid, os.WUNTRACED)
    return not os.WIFSTOPPED(status)


def main() -> None:
    """Take jobs until the input ends."""
    outputs: dict[int, int] = {}
    for line in sys.stdin:
        job = json.loads(line)
        if "wake" in job:
            pid = job["wake"]
            os.kill(pid, signal.SIGCONT)
        else:
            readable, writable = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    child(job, writable)
                finally:
                    sys.stderr.flush()
                    os._exit(0)
            os.close(writable)
            outputs[pid] = readable
        if not reap(pid):
            answer: dict[str, Any] = {"stopped": pid}
        else:
            with os.fdopen(outputs.pop(pid)) as said:
                answer = json.loads(said.read() or '{"killed": true}')
        print(json.dumps(answer), flush=True)
    for pid in outputs:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
