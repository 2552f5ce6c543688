"""The way of one tenant from a place to another: what is made for it on both sides, and removed again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from psycopg import AsyncConnection

from tenantry.errors import StreamBroken
from tenantry.stream.apply import Applier
from tenantry.stream.follow import NOTE, Follower
from tenantry.stream.inspect import read_shape
from tenantry.stream.lsn import shown_lsn
from tenantry.stream.path import Path
from tenantry.stream.shape import Shape
from tenantry.stream.slots import drop_slot, free_slot, publish, unpublish
from tenantry.stream.snapshot import Connect, Copied, copy, replicate
from tenantry.stream.source import Source
from tenantry.stream.verify import differing, sums

Conn = AsyncConnection[Any]

_STOP_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Site:
    """A database that rows come from or go to.

    Attributes:
        connect: opens a session of who owns the tables, sees all tenants and may set ``session_replication_role``.
        dsn: a login with REPLICATION.
    """

    connect: Connect
    dsn: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Transfer:
    """A tenant's way.

    Attributes:
        name: of the slot, the publication and the note at the target of how far the stream has come.
        path: whose rows, and from which schema to which.
        source: where the rows are.
        target: where they go.
        filtered: whether the tables of the source hold other tenants' rows too.
    """

    name: str
    path: Path
    source: Site
    target: Site
    filtered: bool

    async def shapes(self) -> tuple[Shape, Shape]:
        """How the tables stand on both sides."""
        async with self.source.connect() as here, self.target.connect() as there:
            return (
                await read_shape(here, self.path.source, self.path.column),
                await read_shape(there, self.path.target, self.path.column),
            )

    async def begin(self, progress: Callable[[Copied], None] = lambda copied: None) -> Copied:
        """Copy the tenant's rows, and leave a slot from which the changes since can be had. Begins from scratch.

        Raises:
            StreamBroken: the source refused to send a table.
            psycopg.Error: one of the sides refused something.
        """
        await self.end()
        shape, _ = await self.shapes()
        await self.empty(shape)
        async with self.source.connect() as conn:
            keys = [self.path.key] if self.filtered else None
            await publish(conn, self.name, self.path.source, shape.walled, self.path.column, keys)
        async with Source(self.source.dsn) as source:
            slot = await source.create_slot(self.name)
            copied = await copy(
                self.source.connect, self.target.connect, slot.snapshot, self.path, shape.walled, progress=progress
            )
            async with self.target.connect() as conn:
                await self.note(conn, slot.lsn, shape)
        return copied

    async def prepare(self) -> Shape:
        """Leave a slot from which changes can be had from now on, without copying anything. Begins from scratch.

        Returns:
            How the tables stand.
        """
        await self.end()
        async with self.source.connect() as conn:
            shape = await read_shape(conn, self.path.source, self.path.column)
            keys = [self.path.key] if self.filtered else None
            await publish(conn, self.name, self.path.source, shape.walled, self.path.column, keys)
        async with Source(self.source.dsn) as source:
            await source.create_slot(self.name, snapshot=False)
        return shape

    async def note(self, conn: Conn, lsn: int, shape: Shape) -> None:
        """Note at the target that all that was committed before a position is there.

        Args:
            conn: a session of the target, perhaps in a transaction.
            shape: of the source.
        """
        await conn.execute(
            "INSERT INTO tenantry.streams (name, lsn, shape) VALUES (%s, %s, %s)"
            " ON CONFLICT (name) DO UPDATE SET lsn = excluded.lsn, shape = excluded.shape",
            (self.name, shown_lsn(lsn), shape.fingerprint),
        )

    async def empty(self, shape: Shape) -> None:
        """Delete the tenant's rows at the target; no trigger is asked, and others' rows stay."""
        async with self.target.connect() as conn, conn.transaction():
            await replicate(conn)
            for table in shape.walled:
                await conn.execute(self.path.delete(table.name), (self.path.new_key,))

    async def end(self) -> None:
        """Leave neither slot nor publication nor note behind. Twice does no harm."""
        await self.stop()
        await self.forget()

    async def stop(self) -> None:
        """Leave neither slot nor publication at the source."""
        async with self.source.connect() as conn:
            await drop_slot(conn, self.name)
            await unpublish(conn, self.name)

    async def forget(self) -> None:
        """Leave no note at the target."""
        async with self.target.connect() as conn:
            await conn.execute("DELETE FROM tenantry.streams WHERE name = %s", (self.name,))

    @asynccontextmanager
    async def following(self) -> AsyncIterator[Following]:
        """Go on from where the target has come to.

        Raises:
            StreamBroken: the slot is gone, or the server has dropped the log that it needs.
        """
        async with AsyncExitStack() as stack:
            control = await stack.enter_async_context(self.source.connect())
            shape = await read_shape(control, self.path.source, self.path.column)
            applier = Applier(await stack.enter_async_context(self.target.connect()), self.name, self.path, shape)
            lsn = await applier.begin()
            await free_slot(control, self.name)
            source = await stack.enter_async_context(Source(self.source.dsn))
            await source.start(self.name, self.name, lsn)
            at_source = await stack.enter_async_context(self.source.connect())
            at_target = await stack.enter_async_context(self.target.connect())
            yield Following(self, shape, control, at_source, at_target, Follower(source, applier))


@dataclass(slots=True)
class Following:
    """A stream at work.

    Attributes:
        shape: of the source, as it stood when the stream was taken up.
        control: a session of the source, for notes in its log.
        at_source: a session of the source.
        at_target: a session of the target.
    """

    transfer: Transfer
    shape: Shape
    control: Conn
    at_source: Conn
    at_target: Conn
    follower: Follower
    _notes: int = 0

    async def catch_up(self, seconds: float) -> bool:
        """Go on until all that has been committed at the source by now is at the target.

        Returns:
            Whether it is, after so many seconds.
        """
        return await self.follower.until(await self._mark(), seconds)

    async def expect_same_tables(self) -> None:
        """Make sure that the tables of the source stand as they did when the stream was taken up.

        Raises:
            StreamBroken: they have been changed.
        """
        path = self.transfer.path
        now = await read_shape(self.at_source, path.source, path.column)
        if now.fingerprint != self.shape.fingerprint:
            raise StreamBroken("the tables have changed since the stream began", where=path.source)

    async def verify(self) -> None:
        """Compare all rows as they were on both sides at one moment, while the changes go on.

        Raises:
            StreamBroken: they were not the same.
        """
        transfer, path = self.transfer, self.transfer.path
        but = [path.column] if path.renames else []
        async with (
            Source(transfer.source.dsn) as source,
            transfer.source.connect() as here,
            transfer.target.connect() as there,
        ):
            slot = await source.create_slot(f"{transfer.name}_sum", temporary=True)
            for conn in (here, there):
                await conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            await here.execute(f"SET TRANSACTION SNAPSHOT '{slot.snapshot}'")
            await self._mark()
            if not await self.follower.stop_at(slot.lsn, _STOP_SECONDS):
                raise StreamBroken("the stream does not come to the moment at which both sides were to be compared")
            await there.execute("SELECT 1")  # here its snapshot is taken
            await self.follower.go_on()
            comparing = asyncio.gather(
                sums(here, path.source, self.shape.walled, path.column, path.key, but=but),
                sums(there, path.target, self.shape.walled, path.column, path.new_key, but=but),
            )
            try:
                while not comparing.done():
                    await self.follower.pump(0.05)
                found = differing(*(await comparing))
            finally:
                comparing.cancel()
        if found:
            raise StreamBroken(f"the rows are not the same on both sides: {'; '.join(found)}", where=transfer.name)

    async def _mark(self) -> bytes:
        """Note something in the log of the source: what comes before it has been committed before."""
        self._notes += 1
        mark = f"{self.transfer.name} {id(self)} {self._notes}"
        await self.control.execute("SELECT pg_logical_emit_message(true, %s, %s)", (NOTE, mark))
        return mark.encode()
