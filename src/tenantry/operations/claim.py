"""A claim: the right to work on an operation. It is held by a lease and guarded by a fence.

The lease is kept by a heartbeat (Gray & Cheriton, "Leases", 1989). When it has run out, another process may claim the
operation, which raises the fence. From then on the first one, which may only have been stopped for a while, can't
commit anything to the catalog, and its sessions on the shards are ended before the second one acts there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from tenantry.catalog.store import CatalogStore, Conn
from tenantry.errors import TenantryError
from tenantry.postgres import sqlfile

log = logging.getLogger("tenantry.operations")

SQL = sqlfile.load("tenantry.operations", "operations.sql")

_RELEASE_SECONDS = 2.0


class Fenced(Exception):
    """Another process has taken the operation over."""


class Claim:
    """One process's claim on one operation.

    Args:
        store: the catalog.
        row: the operation, as it was claimed.
        lease_seconds: how long the claim is safe from other processes after a heartbeat.
        me: the name of this process.
    """

    def __init__(self, store: CatalogStore, row: Mapping[str, Any], lease_seconds: float, *, me: str) -> None:
        self._store = store
        self._lease = lease_seconds
        self._shards: set[str] = set()
        self.operation: int = row["id"]
        self.kind: str = row["kind"]
        self.actor: str = row["actor"]
        self.args: Mapping[str, Any] = row["args"]
        self.attempt: int = row["attempt"]
        self.is_undoing: bool = row["state"] == "undoing"
        self.is_new: bool = row["fence"] == 1
        self.is_over = False
        self._fence: int = row["fence"]
        self._predecessors: Sequence[str] = [name for name in row["predecessors"] if name != me]

    def predecessors(self, shard: str) -> Sequence[str]:
        """Who held the operation before and may still have sessions on a shard that we have not acted on yet."""
        if shard in self._shards:
            return ()
        self._shards.add(shard)
        return self._predecessors

    async def check(self) -> None:
        """Make sure that the claim still holds.

        Raises:
            Fenced: it does not.
        """
        async with self._store.connection() as conn:
            await self._must(conn, "holds", (self.operation, self._fence))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Conn]:
        """A transaction of the catalog in which nobody can take the operation over.

        Raises:
            Fenced: somebody has.
        """
        async with self._store.transaction() as conn:
            await self._must(conn, "hold", (self.operation, self._fence))
            yield conn

    async def postpone(self, state: str, until: datetime, note: Mapping[str, Any] | None = None) -> None:
        """Let go of the operation until a time; another process may go on with it then.

        Raises:
            Fenced: one already has.
        """
        query = "postpone_undo" if state == "undoing" else "postpone"
        values = {"state": state, "until": until, "error": None if note is None else Jsonb(note)}
        async with self._store.connection() as conn:
            await self._must(conn, query, {**values, "id": self.operation, "fence": self._fence})

    async def turn(self, note: Mapping[str, Any]) -> None:
        """From now on the operation is undone.

        Raises:
            Fenced: somebody has taken it over.
        """
        async with self._store.connection() as conn:
            await self._must(conn, "undo", (Jsonb(note), self.operation, self._fence))
        self.is_undoing = True

    async def finish(self, conn: Conn, state: str) -> None:
        """End the operation: ``done`` or ``undone``. Its tenants are free for others.

        Args:
            conn: in a transaction of this claim.
        """
        await conn.execute(SQL["release"], (self.operation,))
        await conn.execute(SQL["finish"], (state, state, self.operation))
        self.is_over = True

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep the lease while the block runs. A block that is cancelled lets go at once."""
        beating = asyncio.create_task(self._beat())
        try:
            yield
        except asyncio.CancelledError:
            if not self.is_over:
                await self._let_go()
            raise
        finally:
            beating.cancel()

    async def _let_go(self) -> None:
        """Best effort: if it fails, the lease runs out."""
        with suppress(TenantryError, psycopg.Error, Fenced, TimeoutError):
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self.postpone("undoing" if self.is_undoing else "pending", datetime.now(UTC))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            try:
                async with self._store.connection() as conn:
                    await self._must(conn, "beat", (self._lease, self.operation, self._fence))
            except Fenced:
                log.warning("operation %s has been taken over by another process", self.operation)
                return
            except (TenantryError, psycopg.Error) as error:
                log.warning("operation %s: no heartbeat: %s", self.operation, error)

    @staticmethod
    async def _must(conn: Conn, query: str, parameters: Sequence[Any] | Mapping[str, Any]) -> None:
        if await (await conn.execute(SQL[query], parameters)).fetchone() is None:
            raise Fenced


def later(seconds: float) -> datetime:
    """A time from now."""
    return datetime.now(UTC) + timedelta(seconds=seconds)
