"""The router's connections to all databases, under one budget: what nobody uses makes room for others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg.rows import tuple_row

from tenantry.perimeter.bound_async import AsyncBoundConnection
from tenantry.perimeter.connection import is_fatal
from tenantry.routing.core import Target, is_reusable, unreachable
from tenantry.routing.ledger import Key, Ledger, Place
from tenantry.routing.waiting import connect_async, take_async


class AsyncPools:
    """Connections to many databases.

    Args:
        budget: the most connections to all databases together.
        seconds: how long to wait for a connection.
        pooler: a transaction-level pooler stands between.
        prepares: it keeps prepared statements apart; else there are none.
    """

    def __init__(self, *, budget: int, seconds: float, pooler: bool = False, prepares: bool = False) -> None:
        self.ledger = Ledger(budget)
        self.seconds = seconds
        self._pooler = pooler
        self._prepares = prepares

    def __len__(self) -> int:
        return len(self.ledger)

    @asynccontextmanager
    async def lease(self, target: Target, home: str | None = None) -> AsyncIterator[AsyncBoundConnection]:
        """A connection to a database, for the length of the block. It comes back unbound, or not at all.

        Raises:
            NoCapacity: none became free in time.
            ServerUnreachable: the server does not answer.
        """
        place = await self.take(target, home)
        try:
            yield place.item
        except BaseException as error:
            self.give(place, error)
            raise
        self.give(place)

    async def take(self, target: Target, home: str | None = None) -> Place:
        """A place with a connection in it. Who takes one gives it back, whatever happens.

        Args:
            home: the schema that it is for, if it is one of several; it comes back to the same connection.

        Raises:
            NoCapacity: none became free in time.
            ServerUnreachable: the server does not answer.
        """
        place = await take_async(self.ledger, Key(target), target.size, _drop, self.seconds, home)
        if place.item is None:
            try:
                place.item = await self._connect(target)
            except BaseException:
                self.ledger.give(place, keep=False)
                raise
            self.ledger.connected(place)
        return place

    def give(self, place: Place, error: BaseException | None = None) -> None:
        """Give a place back.

        Args:
            error: what came out of the work with the connection.
        """
        conn: AsyncBoundConnection = place.item
        conn.unbind()
        conn.row_factory = tuple_row
        self.ledger.give(place, keep=(error is None or not is_fatal(error)) and is_reusable(conn))

    def forget(self, target: Target) -> None:
        """Close what nobody uses of a database: the server has ended one connection, and maybe all."""
        self.ledger.drop(lambda key: key.target == target)

    def make_room(self, shard: str) -> None:
        """Another process finds no room on a shard: close what nobody uses there, and do with less for a while."""
        self.ledger.share(lambda target: target.shard == shard)

    async def close(self) -> None:
        """Close all connections; those in use, when they come back."""
        self.ledger.close()

    async def _connect(self, target: Target) -> AsyncBoundConnection:
        try:
            conn = await connect_async(target.dsn)
        except psycopg.OperationalError as error:
            raise unreachable(target, error) from error
        if self._pooler:
            conn.prepare_bind = False
            if not self._prepares:
                conn.prepare_threshold = None
        return conn


def _drop(conn: AsyncBoundConnection) -> None:
    conn.pgconn.finish()
