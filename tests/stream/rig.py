"""A stream from one schema to another, with everything that an operation would put around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from tenantry.stream.apply import Applier
from tenantry.stream.follow import NOTE, Follower
from tenantry.stream.inspect import read_shape
from tenantry.stream.path import Path
from tenantry.stream.shape import Shape
from tenantry.stream.slots import drop_slot, publish, unpublish
from tenantry.stream.snapshot import Connect, Copied, copy
from tenantry.stream.source import Source
from tenantry.stream.verify import differing, sums
from tests.fixtures.servers import Database

COLUMN = "tenant_id"
NAME = "tenantry_test"
PATIENCE = 60.0

PROGRESS = """CREATE SCHEMA IF NOT EXISTS tenantry;
CREATE TABLE IF NOT EXISTS tenantry.streams (name text PRIMARY KEY, lsn pg_lsn NOT NULL)"""


def connector(database: Database) -> Connect:
    """Opens sessions of the superuser."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[AsyncConnection[Any]]:
        async with await AsyncConnection.connect(database.dsn(), autocommit=True) as conn:
            yield conn

    return opened


@dataclass
class Rig:
    """Two places and the way between them.

    Attributes:
        here: where the rows are, in the schema ``path.source``.
        there: where they go, to ``path.target``.
        filtered: other tenants' rows are in the same tables.
    """

    here: Database
    there: Database
    path: Path
    filtered: bool = True

    async def shape(self) -> Shape:
        """The tables of the source."""
        async with connector(self.here)() as conn:
            return await read_shape(conn, self.path.source, COLUMN)

    async def target_shape(self) -> Shape:
        """The tables of the target."""
        async with connector(self.there)() as conn:
            return await read_shape(conn, self.path.target, COLUMN)

    @asynccontextmanager
    async def streamed(self) -> AsyncIterator[Stream]:
        """A stream whose snapshot is at the target, ready to follow."""
        async with AsyncExitStack() as stack:
            shape = await self.shape()
            control = await stack.enter_async_context(connector(self.here)())
            keys = [self.path.key] if self.filtered else None
            await publish(control, NAME, self.path.source, shape.walled, COLUMN, keys)
            stack.push_async_callback(unpublish, control, NAME)
            stack.push_async_callback(drop_slot, control, NAME)
            source = await stack.enter_async_context(Source(self.here.dsn()))
            slot = await source.create_slot(NAME)
            async with connector(self.there)() as conn:
                await conn.execute(PROGRESS)
                await conn.execute("DELETE FROM tenantry.streams")
            copied = await copy(connector(self.here), connector(self.there), slot.snapshot, self.path, shape.walled)
            yield await self.follow(stack, source, shape, control, slot.lsn, copied)

    async def follow(
        self,
        stack: AsyncExitStack,
        source: Source,
        shape: Shape,
        control: AsyncConnection[Any],
        lsn: int = 0,
        copied: Copied | None = None,
    ) -> Stream:
        """Go on from where the target has come to."""
        target = await stack.enter_async_context(connector(self.there)())
        applier = Applier(target, NAME, self.path, shape)
        await source.start(NAME, NAME, await applier.begin(lsn))
        return Stream(self, source, applier, Follower(source, applier), shape, control, copied or Copied())

    async def differences(self, shape: Shape, but: Sequence[str] = ()) -> list[str]:
        """What is not the same on both sides."""
        path, left_out = self.path, [*but, *([COLUMN] if self.path.renames else [])]
        async with connector(self.here)() as a, connector(self.there)() as b:
            return differing(
                await sums(a, path.source, shape.walled, COLUMN, path.key, but=left_out),
                await sums(b, path.target, shape.walled, COLUMN, path.new_key, but=left_out),
            )


@dataclass
class Stream:
    """A stream at work."""

    rig: Rig
    source: Source
    applier: Applier
    follower: Follower
    shape: Shape
    control: AsyncConnection[Any]
    copied: Copied
    _notes: int = 0

    async def write(self, *statements: str) -> None:
        """Run statements at the source, in one transaction."""
        async with self.control.transaction():
            for statement in statements:
                await self.control.execute(statement)

    async def catch_up(self) -> None:
        """Until all that has been committed at the source is at the target."""
        self._notes += 1
        mark = f"{id(self)} {self._notes}"
        await self.control.execute("SELECT pg_logical_emit_message(true, %s, %s)", (NOTE, mark))
        assert await self.follower.until(mark.encode(), PATIENCE), "the stream does not catch up"

    async def same(self, but: Sequence[str] = ()) -> None:
        """Catch up, and make sure that both sides have the same rows."""
        await self.catch_up()
        assert await self.rig.differences(self.shape, but) == []


def execute(database: Database, *statements: str) -> None:
    """Run statements in a database."""
    with database.connect() as conn:
        for statement in statements:
            conn.execute(statement)


async def aexecute(database: Database, *statements: str) -> None:
    """The same without keeping the loop from running."""
    await asyncio.to_thread(execute, database, *statements)
