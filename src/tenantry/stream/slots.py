"""What a stream needs at its source, and must not leave there: a publication, and a slot."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from tenantry.errors import ServerUnreachable
from tenantry.stream.lsn import parse_lsn
from tenantry.stream.shape import Table

Conn = AsyncConnection[Any]

_ATTEMPTS = 100
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class SlotState:
    """How a slot stands. ``lost``: the server has dropped log that it needs (``max_slot_wal_keep_size``). ``kept``: how
    many bytes of log the server keeps for it."""

    lost: bool
    active: bool
    flushed: int
    kept: int


async def publish(
    conn: Conn, name: str, schema: str, tables: Sequence[Table], column: str, keys: Sequence[Any] | None
) -> None:
    """Make a publication of the rows of some tenants, in place of one of this name. Partitions are published as the
    table that they belong to.

    Args:
        conn: a session of who owns the tables and may create in the database.
        name: the publication's.
        schema: where the tables are.
        tables: which.
        column: the tenant column.
        keys: whose rows; None: the tables hold no others'.

    Raises:
        psycopg.Error: one of the tables can't be published.
    """
    where: sql.Composable = sql.SQL("")
    if keys is not None:
        listed = sql.SQL(", ").join(map(sql.Literal, keys))
        where = sql.SQL(" WHERE ({} IN ({}))").format(sql.Identifier(column), listed)
    listing = [
        sql.SQL("{}{}{}").format(
            sql.SQL("ONLY " if table.kind == "r" else ""), sql.Identifier(schema, table.name), where
        )
        for table in tables
    ]
    async with conn.transaction():
        await unpublish(conn, name)
        query = sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)")
        await conn.execute(query.format(sql.Identifier(name), sql.SQL(", ").join(listing)))


async def unpublish(conn: Conn, name: str) -> None:
    """Remove a publication, if it is there."""
    await conn.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))


async def slot_state(conn: Conn, name: str) -> SlotState | None:
    """How a slot stands; None if there is none of this name."""
    query = (
        "SELECT wal_status IS NOT DISTINCT FROM 'lost' OR confirmed_flush_lsn IS NULL, active,"
        " coalesce(confirmed_flush_lsn, '0/0')::text, coalesce(pg_current_wal_lsn() - restart_lsn, 0)::int8"
        " FROM pg_replication_slots WHERE slot_name = %s"
    )
    row = await (await conn.execute(query, (name,))).fetchone()
    return None if row is None else SlotState(row[0], row[1], parse_lsn(row[2]), row[3])


async def free_slot(conn: Conn, name: str) -> bool:
    """End the session that reads a slot; whether the slot is there.

    Raises:
        ServerUnreachable: that session does not end.
    """
    for _ in range(_ATTEMPTS):
        query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s"
        row = await (await conn.execute(query, (name,))).fetchone()
        if row is None or row[0] is None:
            return row is not None
        await conn.execute("SELECT pg_terminate_backend(%s)", (row[0],))
        await asyncio.sleep(_PAUSE_SECONDS)
    raise ServerUnreachable(
        f"the session that reads the slot {name} does not end",
        hint="look for it in pg_stat_replication and end it with pg_terminate_backend()",
    )


async def drop_slot(conn: Conn, name: str) -> None:
    """Remove a slot, if it is there, and end the session that reads it.

    Raises:
        ServerUnreachable: that session does not end.
    """
    while await free_slot(conn, name):
        with suppress(psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
            await conn.execute("SELECT pg_drop_replication_slot(%s)", (name,))
