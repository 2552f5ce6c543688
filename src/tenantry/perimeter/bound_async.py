"""psycopg connections whose transactions are bound to a tenant, and their cursors."""

# ruff: noqa: UP028, RUF100  # the twin loops where it could delegate
from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import psycopg
from psycopg import AsyncConnection, AsyncCursor, AsyncPipeline, AsyncServerCursor, AsyncTransaction, pq
from psycopg.rows import Row, TupleRow, tuple_row

from tenantry.errors import TenantryError
from tenantry.perimeter.connection import BoundConnectionMixin, PreparedAtHome
from tenantry.perimeter.cursor import BoundCursorMixin, FollowingCursorMixin


class AsyncBoundCursor(BoundCursorMixin, AsyncCursor[Row]):
    """A cursor whose first statement may travel with ``BEGIN`` and the binding."""

    _conn: AsyncBoundConnection

    async def execute(
        self, query: Any, params: Any = None, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Self:
        """As psycopg's."""
        conn = self._conn
        again = conn.again if conn.due else None
        try:
            return await super().execute(query, params, prepare=prepare, binary=binary)
        except (TenantryError, psycopg.Error) as error:
            if again is None or not conn.may_begin_anew():
                raise
            await again(error)
        return await super().execute(query, params, prepare=prepare, binary=binary)

    async def executemany(self, query: Any, params_seq: Any, *, returning: bool = False) -> None:
        """As psycopg's."""
        await self._conn.begin_now()
        await super().executemany(query, params_seq, returning=returning)

    async def stream(
        self, query: Any, params: Any = None, *, binary: bool | None = None, size: int = 1
    ) -> AsyncIterator[Row]:
        """As psycopg's."""
        await self._conn.begin_now()
        async for row in super().stream(query, params, binary=binary, size=size):
            yield row

    @asynccontextmanager
    async def copy(self, statement: Any, params: Any = None, **options: Any) -> AsyncIterator[Any]:
        """As psycopg's."""
        await self._conn.begin_now()
        async with super().copy(statement, params, **options) as copy:
            yield copy


class AsyncBoundServerCursor(FollowingCursorMixin, AsyncServerCursor[Row]):
    """A cursor in the server."""

    _conn: AsyncBoundConnection

    async def execute(self, query: Any, params: Any = None, *, binary: bool | None = None, **options: Any) -> Self:
        """As psycopg's."""
        await self._conn.begin_now()
        return await super().execute(query, params, binary=binary, **options)


class AsyncBoundConnection(BoundConnectionMixin, AsyncConnection[TupleRow]):
    """A psycopg connection whose transactions are bound to a tenant."""

    again: Callable[[Exception], Awaitable[None]] | None = None
    """Begins elsewhere what could not begin here, given the reason; what is retried then is the first statement."""

    def __init__(self, pgconn: pq.abc.PGconn, row_factory: Any = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.cursor_factory = AsyncBoundCursor
        self.server_cursor_factory = AsyncBoundServerCursor
        self._prepared = PreparedAtHome()

    def unbind(self) -> None:
        """Bind no more; what begins now is bound to nobody."""
        super().unbind()
        self.again = None

    async def begin_now(self) -> None:
        """Begin what is due, ahead of work that can't travel with ``BEGIN``."""
        if not self.due:
            return
        try:
            async with self.lock:
                await self.wait(self.begin_due())
        except (TenantryError, psycopg.OperationalError) as error:
            if self.again is None or not self.may_begin_anew():
                raise
            await self.again(error)

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[AsyncTransaction]:
        """As psycopg's: a savepoint, where a transaction has begun."""
        await self.begin_now()
        async with super().transaction(savepoint_name, force_rollback) as block:
            yield block

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[AsyncPipeline]:
        """As psycopg's."""
        await self.begin_now()
        async with super().pipeline() as pipeline:
            yield pipeline
