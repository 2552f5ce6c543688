"""A stream from one schema to another, with everything that an operation would put around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from tenantry.stream.inspect import read_shape
from tenantry.stream.path import Path
from tenantry.stream.shape import Shape
from tenantry.stream.snapshot import Connect, Copied
from tenantry.stream.transfer import Following, Site, Transfer
from tenantry.stream.verify import differing, sums
from tests.fixtures.servers import Database

COLUMN = "tenant_id"
NAME = "tenantry_test"
PATIENCE = 60.0

PROGRESS = """CREATE SCHEMA IF NOT EXISTS tenantry;
CREATE TABLE IF NOT EXISTS tenantry.streams (name text PRIMARY KEY, lsn pg_lsn NOT NULL, shape text NOT NULL)"""


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

    @property
    def transfer(self) -> Transfer:
        """The way."""
        here, there = (Site(connector(each), each.dsn()) for each in (self.here, self.there))
        return Transfer(NAME, self.path, here, there, self.filtered)

    @asynccontextmanager
    async def streamed(self) -> AsyncIterator[Stream]:
        """A stream whose snapshot is at the target, ready to follow."""
        async with AsyncExitStack() as stack:
            control = await stack.enter_async_context(connector(self.here)())
            async with connector(self.there)() as conn:
                await conn.execute(PROGRESS)
            transfer = self.transfer
            stack.push_async_callback(transfer.end)
            copied = await transfer.begin()
            following = await stack.enter_async_context(transfer.following())
            yield Stream(self, following, control, copied)

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
    """A stream at work, and a session of the source for whoever changes rows."""

    rig: Rig
    following: Following
    control: AsyncConnection[Any]
    copied: Copied

    async def write(self, *statements: str) -> None:
        """Run statements at the source, in one transaction."""
        async with self.control.transaction():
            for statement in statements:
                await self.control.execute(statement)

    async def catch_up(self) -> None:
        """Until all that has been committed at the source is at the target."""
        assert await self.following.catch_up(PATIENCE), "the stream does not catch up"

    async def same(self, but: Sequence[str] = ()) -> None:
        """Catch up, and make sure that both sides have the same rows."""
        await self.catch_up()
        assert await self.rig.differences(self.following.shape, but) == []


def execute(database: Database, *statements: str) -> None:
    """Run statements in a database."""
    with database.connect() as conn:
        for statement in statements:
            conn.execute(statement)
