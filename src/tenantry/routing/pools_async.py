"""One pool of connections per database, under one budget for all: a pool that nobody uses makes room for another."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from psycopg_pool import AsyncConnectionPool, PoolTimeout

from tenantry.errors import NoCapacity, ServerUnreachable
from tenantry.perimeter.connection import AsyncBoundConnection, is_fatal
from tenantry.routing.core import Target
from tenantry.routing.waiting import wait_async

_IDLE_SECONDS = 300.0


@dataclass(slots=True)
class _Entry:
    pool: AsyncConnectionPool[AsyncBoundConnection]
    size: int
    leases: int = 0


class AsyncPools:
    """Connections to many databases.

    Args:
        budget: the most connections to all databases together.
        seconds: how long to wait for a connection.
        pooler: a transaction-level pooler stands between: no prepared statements.
    """

    def __init__(self, *, budget: int, seconds: float, pooler: bool = False) -> None:
        self._budget = budget
        self._seconds = seconds
        self._pooler = pooler
        self._entries: OrderedDict[Target, _Entry] = OrderedDict()
        self._changed = asyncio.Condition()

    def __len__(self) -> int:
        return len(self._entries)

    @asynccontextmanager
    async def lease(self, target: Target) -> AsyncIterator[AsyncBoundConnection]:
        """A connection to a database, for the length of the block. It comes back unbound, or not at all.

        Raises:
            NoCapacity: none became free in time.
            ServerUnreachable: the server does not answer.
        """
        entry = await self._enter(target)
        try:
            async with entry.pool.connection() as conn:
                try:
                    yield conn
                except BaseException as error:
                    if is_fatal(error):
                        await conn.close()
                    raise
                finally:
                    conn.unbind()
        except PoolTimeout:
            raise self._exhausted(target, entry) from None
        finally:
            await self._leave(entry)

    async def close(self) -> None:
        """Close all pools."""
        async with self._changed:
            entries = list(self._entries.values())
            self._entries.clear()
        for entry in entries:
            await entry.pool.close()

    async def _enter(self, target: Target) -> _Entry:
        deadline = time.monotonic() + self._seconds
        while True:
            async with self._changed:
                entry = self._entries.get(target)
                if entry is None and (idle := self._make_room(target)) is not None:
                    entry = self._entries[target] = _Entry(self._make(target), min(target.size, self._budget))
                else:
                    idle = []
                if entry is not None:
                    entry.leases += 1
                    self._entries.move_to_end(target)
                else:
                    await wait_async(self._changed, deadline - time.monotonic())
            for each in idle:
                await each.pool.close()
            if entry is not None:
                await entry.pool.open()
                return entry
            if time.monotonic() >= deadline:
                raise NoCapacity(
                    f"all {self._budget} connections of this process are in use",
                    where=target.name,
                    hint="raise the setting pool_budget, or ask for fewer databases at once",
                )

    async def _leave(self, entry: _Entry) -> None:
        async with self._changed:
            entry.leases -= 1
            if entry.leases == 0:
                self._changed.notify()

    def _make_room(self, target: Target) -> list[_Entry] | None:
        """The idle pools to close so that one for ``target`` fits; None if it can't fit now."""
        free = self._budget - sum(entry.size for entry in self._entries.values())
        idle = []
        for each in [each for each, entry in self._entries.items() if entry.leases == 0]:
            if free >= min(target.size, self._budget):
                break
            idle.append(self._entries[each])
            free += self._entries[each].size
        if free < min(target.size, self._budget):
            return None
        for each in [each for each, entry in self._entries.items() if entry in idle]:
            del self._entries[each]
        return idle

    def _make(self, target: Target) -> AsyncConnectionPool[AsyncBoundConnection]:
        return AsyncConnectionPool(
            target.dsn,
            connection_class=AsyncBoundConnection,
            kwargs={"prepare_threshold": None} if self._pooler else None,
            configure=self._configure,
            min_size=0,
            max_size=min(target.size, self._budget),
            timeout=self._seconds,
            max_idle=_IDLE_SECONDS,
            name=target.name,
            open=False,
        )

    async def _configure(self, conn: AsyncBoundConnection) -> None:
        conn.prepare_bind = not self._pooler

    def _exhausted(self, target: Target, entry: _Entry) -> NoCapacity | ServerUnreachable:
        stats = entry.pool.get_stats()
        if stats.get("connections_errors", 0) and not stats.get("pool_size", 0) > stats.get("requests_waiting", 0):
            return ServerUnreachable("the shard does not answer", where=target.name)
        return NoCapacity(
            f"no connection to {target.name} became free in {self._seconds:g} s",
            hint="raise the setting pool_size, or find what holds transactions open",
        )
