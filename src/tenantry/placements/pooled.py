"""The level ``pooled``: a tenant is rows in shared tables."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from tenantry.placements.estate import Conn, Estate
from tenantry.placements.space import Home, Space
from tenantry.postgres.connect import merge_dsn

_BATCH = 10_000

_LEAVES = """
WITH RECURSIVE roots AS (
  SELECT c.oid, c.oid AS root FROM pg_class c
   WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  UNION ALL
  SELECT i.inhrelid, r.root FROM roots r JOIN pg_inherits i ON i.inhparent = r.oid
)
SELECT r.root, c.relname FROM roots r JOIN pg_class c ON c.oid = r.oid
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = %(column)s AND NOT a.attisdropped
 WHERE c.relkind = 'r' ORDER BY c.relname
"""
_REFERENCES = """
SELECT DISTINCT k.conrelid AS child, k.confrelid AS parent FROM pg_constraint k
 WHERE k.contype = 'f' AND k.connamespace = %(schema)s::regnamespace AND k.conrelid <> k.confrelid
"""


async def build(estate: Estate, space: Space) -> None:
    """Make the database if it is not there, the application's tables, and the wall."""
    async with estate.root(space.shard) as conn:
        await create_database(conn, space.database)
    async with estate.root(space.shard, space.database) as conn:
        await create_schema(conn, space.schema)
    house = await estate.house()
    # Twice: the owner of the tables exists only after the first, the tables only before the second.
    await estate.wall(space.shard, space.database, [house.app_schema], server=True)
    await estate.template.apply(await database_dsn(estate, space), space.schema)
    await estate.wall(space.shard, space.database, [house.app_schema])


async def clear(estate: Estate, space: Space, homes: Sequence[Home]) -> None:
    """Delete the tenants' rows, table after table, children before parents, in batches."""
    house = await estate.house()
    keys = [home.key for home in homes]
    async with estate.admin(space.shard, space.database) as conn:
        where = {"schema": space.schema, "column": house.tenant_column}
        leaves = await (await conn.execute(_LEAVES, where)).fetchall()
        references = await (await conn.execute(_REFERENCES, where)).fetchall()
        for root in children_first([root for root, _ in leaves], references):
            for table in [name for each, name in leaves if each == root]:
                await _delete(conn, sql.Identifier(space.schema, table), house.tenant_column, keys)


async def drop(estate: Estate, space: Space) -> None:
    """A pooled space outlives its tenants."""


async def _delete(conn: Conn, table: sql.Identifier, column: str, keys: Sequence[object]) -> None:
    query = sql.SQL(
        "DELETE FROM {table} WHERE ctid = ANY (ARRAY (SELECT ctid FROM {table} WHERE {column} = ANY (%s) LIMIT %s))"
    ).format(table=table, column=sql.Identifier(column))
    while (await conn.execute(query, (list(keys), _BATCH))).rowcount == _BATCH:
        continue


def children_first(tables: Sequence[int], references: Sequence[tuple[int, int]]) -> list[int]:
    """An order in which no table comes before one that refers to it. Tables that refer to each other in a circle come
    last, in any order: their constraints must be deferrable, or ON DELETE CASCADE."""
    left = dict.fromkeys(tables)
    order: list[int] = []
    while left:
        free = [table for table in left if not any(parent == table and child in left for child, parent in references)]
        for table in free or list(left):
            order.append(table)
            del left[table]
    return order


async def database_dsn(estate: Estate, space: Space) -> str:
    """The DSN that the template runs with."""
    return merge_dsn(await estate.root_dsn(space.shard), dbname=space.database)


async def create_database(conn: Conn, name: str, template: str = "template0") -> None:
    """Create a database if it is not there. ``template0`` has nothing in it that somebody else put there."""
    found = await (await conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))).fetchone()
    if found is None:
        query = "CREATE DATABASE {} TEMPLATE {} STRATEGY wal_log"
        await conn.execute(sql.SQL(query).format(sql.Identifier(name), sql.Identifier(template)))


async def create_schema(conn: Conn, name: str) -> None:
    """Create a schema if it is not there."""
    await conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name)))
