"""Reaching a server that may not answer: how long to wait for it, and why it can't be reached."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Timer
from typing import Any

from psycopg import AsyncConnection, Connection

from tenantry.errors import ServerUnreachable
from tenantry.postgres.connect import connect, connect_sync


@contextmanager
def answers_within(conn: AsyncConnection[Any] | Connection[Any], seconds: float) -> Iterator[None]:
    """End the connection if the block takes longer: what waits for it gets a ``psycopg.OperationalError``.

    psycopg itself waits for ever when a server, or what stands before it, accepts a question and stalls.
    """
    handle = socket.socket(fileno=os.dup(conn.fileno()))  # ours: psycopg may close its one, and the number be reused
    timer = Timer(seconds, _end, (handle,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        handle.close()


def _end(handle: socket.socket) -> None:
    with suppress(OSError):
        handle.shutdown(socket.SHUT_RDWR)


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
