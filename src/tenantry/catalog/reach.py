"""Reaching a server that may not answer: how long to wait for it, and why it can't be reached."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Condition, Thread
from typing import Any

from psycopg import AsyncConnection, Connection

from tenantry.errors import ServerUnreachable
from tenantry.postgres.connect import connect, connect_sync
from tenantry.postgres.forks import in_child, leave_to_parent


class _Deadlines:
    """One thread per process, started when it is needed first: it shuts the sockets whose time is over."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._until: dict[socket.socket, float] = {}
        self._next = math.inf
        self._thread: Thread | None = None
        in_child(self._start_over)

    def watch(self, handle: socket.socket, seconds: float) -> None:
        """Shut a socket after so many seconds."""
        until = time.monotonic() + seconds
        with self._changed:
            self._until[handle] = until
            if self._thread is None:
                self._thread = Thread(target=self._run, name="tenantry-deadlines", daemon=True)
                self._thread.start()
            elif until < self._next:
                self._changed.notify()

    def release(self, handle: socket.socket) -> None:
        """Let a socket be; it is not touched any more. The thread is not woken: it finds out when it wakes up."""
        with self._changed:
            self._until.pop(handle, None)

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for handle in [each for each, until in self._until.items() if until <= now]:
                    del self._until[handle]
                    with suppress(OSError):
                        handle.shutdown(socket.SHUT_RDWR)
                self._next = min(self._until.values(), default=math.inf)
                self._changed.wait(None if self._next == math.inf else self._next - now)

    def _start_over(self) -> None:
        leave_to_parent(self._until)
        self._changed, self._until, self._next, self._thread = Condition(), {}, math.inf, None


_deadlines = _Deadlines()


@contextmanager
def answers_within(conn: AsyncConnection[Any] | Connection[Any], seconds: float) -> Iterator[None]:
    """End the connection if the block takes longer: what waits for it gets a ``psycopg.OperationalError``.

    psycopg itself waits for ever when a server, or what stands before it, accepts a question and stalls.
    """
    handle = socket.socket(fileno=os.dup(conn.fileno()))  # ours: psycopg may close its one, and the number be reused
    _deadlines.watch(handle, seconds)
    try:
        yield
    finally:
        _deadlines.release(handle)
        handle.close()


async def refusal_async(dsn: str, seconds: float) -> ServerUnreachable | None:
    """Why a server can't be reached, such as a wrong password; None if it can. A pool does not say it."""
    try:
        await (await connect(dsn, seconds=seconds)).close()
    except ServerUnreachable as error:
        return error
    return None


def refusal(dsn: str, seconds: float) -> ServerUnreachable | None:
    """The same for threads."""
    try:
        connect_sync(dsn, seconds=seconds).close()
    except ServerUnreachable as error:
        return error
    return None
