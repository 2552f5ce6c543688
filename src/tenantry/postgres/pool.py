"""Pools of the control plane's connections."""

from __future__ import annotations

import math
import time
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import AsyncRowFactory, tuple_row
from psycopg_pool import AsyncConnectionPool

from tenantry.postgres.connect import merge_dsn
from tenantry.postgres.discretion import NO_PARAMETERS

_BELIEVED_SECONDS = 0.1  # no server restarts in less


class PooledConnection(AsyncConnection[Any]):
    """A connection that remembers when it was last used; the server may have been restarted since."""

    idle_since = -math.inf


Pool = AsyncConnectionPool[PooledConnection]


def make_pool(
    dsn: str,
    *,
    size: int,
    seconds: float,
    name: str,
    options: str | None = None,
    row_factory: AsyncRowFactory[Any] = tuple_row,
) -> Pool:
    """A pool of autocommit connections, to be opened. What nobody needs is not held open.

    Args:
        dsn: where to.
        size: the most connections.
        seconds: how long to wait for one.
        name: how the sessions call themselves to the server.
        options: command-line options of the sessions.
        row_factory: as psycopg's.
    """
    changes = {"options": options} if options is not None else {}
    return AsyncConnectionPool(
        merge_dsn(dsn, application_name=name, connect_timeout=max(2, round(seconds)), **changes),
        connection_class=PooledConnection,
        kwargs={"autocommit": True, "row_factory": row_factory},
        min_size=0,
        max_size=size,
        timeout=seconds,
        reconnect_timeout=seconds,  # else it tries less and less often, and the next try is minutes away
        configure=_configure,
        check=_check,
        reset=_reset,
        open=False,
    )


async def purge(pool: Pool, conn: PooledConnection) -> bool:
    """Whether a connection was lost; then the others that are idle are asked whether they live."""
    if not conn.broken:
        return False
    await pool.check()
    return True


async def _configure(conn: PooledConnection) -> None:
    await conn.execute(NO_PARAMETERS)
    conn.idle_since = time.monotonic()  # it may be some time until it is used first


async def _check(conn: PooledConnection) -> None:
    """One that was used a moment ago is believed: asking costs a round trip."""
    if time.monotonic() - conn.idle_since > _BELIEVED_SECONDS:
        await AsyncConnectionPool.check_connection(conn)


async def _reset(conn: PooledConnection) -> None:
    conn.idle_since = time.monotonic()
