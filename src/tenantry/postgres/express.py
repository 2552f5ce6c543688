"""A connection of a pool that is kept for one statement, which is sent so often that each microsecond counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from weakref import WeakSet

from psycopg import AsyncConnection, errors, generators, pq
from psycopg.abc import PQGen

from tenantry.postgres.pool import Pool, PooledConnection

_MOST = 4
_NAME = b"tenantry_express"


class Express:
    """A statement that is prepared once per connection, and sent without what a cursor does for any statement.

    A connection is not asked before whether it lives, as the pool does: whoever uses this must be able to find out what
    has become of a statement whose connection was lost.

    Args:
        pool: where connections come from; one stays out of it until :meth:`close`.
        statement: with ``$1``, ``$2``...; its answer is one value.
    """

    def __init__(self, pool: Pool, statement: str) -> None:
        self._pool = pool
        self._statement = statement.encode()
        self._room = asyncio.Semaphore(_MOST)
        self._free: PooledConnection | None = None
        self._ready: WeakSet[PooledConnection] = WeakSet()

    async def call(self, values: Sequence[str | None]) -> str:
        """Send the statement and return its value.

        Raises:
            psycopg_pool.PoolTimeout: there is no connection.
            psycopg.OperationalError: the connection was lost; nobody knows whether the statement was done.
            psycopg.Error: the server has refused it.
        """
        async with self._room:
            conn, self._free = self._free, None
            if conn is None:
                conn = await self._open()
            try:
                parameters = [None if value is None else value.encode() for value in values]
                result = await _wait(conn, _run(conn.pgconn, parameters))
                value = result.get_value(0, 0)
                assert value is not None
                return value.decode()
            finally:
                await self._done(conn)

    async def _done(self, conn: PooledConnection) -> None:
        if self._free is None and conn.pgconn.transaction_status == pq.TransactionStatus.IDLE:
            self._free = conn
        else:
            await self._pool.putconn(conn)  # it looks what is the matter

    async def _open(self) -> PooledConnection:
        conn = await self._pool.getconn()
        try:
            if conn not in self._ready:
                await _wait(conn, _prepare(conn.pgconn, self._statement))
                self._ready.add(conn)
        except BaseException:
            await self._pool.putconn(conn)
            raise
        return conn

    async def close(self) -> None:
        """Give the connection back."""
        conn, self._free = self._free, None
        if conn is not None:
            await self._pool.putconn(conn)


async def _wait(conn: AsyncConnection[object], sent: PQGen[list[pq.abc.PGresult]]) -> pq.abc.PGresult:
    result = (await conn.wait(sent))[-1]
    if result.status == pq.ExecStatus.FATAL_ERROR:
        raise errors.error_from_result(result, encoding=conn.info.encoding)
    return result


def _prepare(pgconn: pq.abc.PGconn, statement: bytes) -> PQGen[list[pq.abc.PGresult]]:
    pgconn.send_prepare(_NAME, statement)
    results: list[pq.abc.PGresult] = yield from generators.execute(pgconn)
    return results


def _run(pgconn: pq.abc.PGconn, parameters: list[bytes | None]) -> PQGen[list[pq.abc.PGresult]]:
    pgconn.send_query_prepared(_NAME, parameters)
    results: list[pq.abc.PGresult] = yield from generators.execute(pgconn)
    return results
