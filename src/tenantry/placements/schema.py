"""The level ``schema``: a tenant has tables of its own, in a schema of the shard's pooled database."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from tenantry.placements.estate import Estate
from tenantry.placements.series import build_many
from tenantry.placements.space import Home, Space

_CHUNK = 50
_LOCK_SECONDS = 10


async def build(estate: Estate, spaces: Sequence[Space]) -> None:
    """Make the schemas, the application's tables in them, and the wall."""
    await build_many(estate, spaces)


async def clear(estate: Estate, space: Space, homes: Sequence[Home]) -> None:
    """Drop the schema."""
    await drop(estate, space)


async def drop(estate: Estate, space: Space) -> None:
    """Drop the schema: tables in chunks first, so that the locks of thousands don't exhaust shared memory.

    Raises:
        psycopg.OperationalError: somebody holds a lock on one of the tables for long.
    """
    name = sql.Identifier(space.schema)
    async with estate.root(space.shard, space.database) as conn:
        await conn.execute(f"SET lock_timeout = '{_LOCK_SECONDS}s'")
        while tables := await (
            await conn.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(%s))"
                " AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY relname LIMIT %s",
                (space.schema, _CHUNK),
            )
        ).fetchall():
            names = sql.SQL(", ").join(sql.Identifier(space.schema, table) for (table,) in tables)
            await conn.execute(sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(names))
        await conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))
