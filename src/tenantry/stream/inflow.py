"""What a server sends in COPY mode, in batches. psycopg waits once for every row, which takes four times as long."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
from psycopg import AsyncConnection, pq, sql

from tenantry.errors import ServerUnreachable, StreamBroken

_BATCH_BYTES = 1_000_000


class Inflow:
    """A connection that the server copies out to.

    Args:
        conn: in autocommit mode or in a transaction; nobody else uses it until the end.
    """

    def __init__(self, conn: AsyncConnection[Any]) -> None:
        self._conn = conn
        self.is_over = False

    async def begin(self, statement: sql.Composable, wanted: pq.ExecStatus) -> None:
        """Send a statement that answers with a copy of the wanted kind.

        Raises:
            StreamBroken: the server refused it.
        """
        try:
            result = await asyncio.to_thread(self._conn.pgconn.exec_, statement.as_bytes(self._conn))
        except psycopg.OperationalError as error:
            raise _lost(error) from error
        if result.status != wanted:
            raise StreamBroken(result.get_error_message("utf-8"))

    async def read(self, seconds: float | None = None) -> list[bytes]:
        """What has come: at least one piece, unless nothing comes for so long, or it is over.

        Raises:
            ServerUnreachable: the connection is lost.
            StreamBroken: the server reports an error.
        """
        pieces = self._drain()
        if not pieces and not self.is_over:
            await self._readable(seconds)
            pieces = self._drain()
        return pieces

    async def _readable(self, seconds: float | None) -> None:
        loop, come = asyncio.get_running_loop(), asyncio.Event()
        socket = self._conn.fileno()
        loop.add_reader(socket, come.set)
        try:
            async with asyncio.timeout(seconds):
                await come.wait()
        except TimeoutError:
            return
        finally:
            loop.remove_reader(socket)
        try:
            self._conn.pgconn.consume_input()
        except psycopg.OperationalError as error:
            raise _lost(error) from error

    def _drain(self) -> list[bytes]:
        pieces: list[bytes] = []
        size, pgconn = 0, self._conn.pgconn
        while size < _BATCH_BYTES:
            try:
                count, data = pgconn.get_copy_data(1)
            except psycopg.Error as error:
                raise _lost(error) from error
            if count == 0:
                break
            if count < 0:
                self._end(pgconn)
                break
            size += count
            pieces.append(bytes(data))
        return pieces

    def _end(self, pgconn: pq.abc.PGconn) -> None:
        """The copy is over; the server says whether all of it came."""
        self.is_over = True
        while (result := pgconn.get_result()) is not None:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise StreamBroken(result.get_error_message("utf-8"))


def _lost(error: Exception) -> ServerUnreachable:
    return ServerUnreachable(f"the connection to the source is lost: {str(error).strip()}")
