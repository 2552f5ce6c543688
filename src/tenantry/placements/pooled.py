"""The level ``pooled``: a tenant is rows in shared tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from tenantry.errors import OperationFailed
from tenantry.placements.deletion import deletion_groups
from tenantry.placements.estate import Conn, Estate
from tenantry.placements.space import Home, Space
from tenantry.postgres import sqlfile

_SQL = sqlfile.load("tenantry.placements", "pooled.sql")

_BATCH = 10_000
_PASSES = 5
_CLEARS_STATISTICS = 180000


async def build(estate: Estate, spaces: Sequence[Space]) -> None:
    """Make the databases that are not there, the application's tables, and the wall."""
    for space in spaces:
        await _build(estate, space)


async def _build(estate: Estate, space: Space) -> None:
    async with estate.root(space.shard) as conn:
        await create_database(conn, space.database)
    async with estate.root(space.shard, space.database) as conn:
        await create_schema(conn, space.schema)
    # The owner of the tables must be there before them; the wall around them comes afterwards.
    await estate.wall(space.shard, space.database, [space.schema], server=True)
    await estate.bring_up(space)


async def clear(estate: Estate, space: Space, homes: Sequence[Home]) -> None:
    """Delete the tenants' rows, and what the planner's statistics have kept of them.

    Triggers of the application may write while rows are deleted, so it goes on until a pass finds nothing.

    Raises:
        OperationFailed: rows that are not the tenants' refer to theirs, or a trigger never ends.
    """
    column = (await estate.house()).tenant_column
    async with estate.admin(space.shard, space.database) as conn:
        shears = await _read(conn, space.schema, column, [home.key for home in homes])
        touched: set[int] = set()
        passes = 0
        while found := await shears.cut():
            touched |= found
            passes += 1
            if passes < _PASSES:
                continue
            raise OperationFailed(
                f"rows come back as they are deleted: {', '.join(shears.shown(found))}",
                where=space.name,
                hint="look for a trigger that writes rows of the tenant when its rows are deleted",
            )
    await _analyse(estate, space, shears.relations(touched))


async def with_rows(estate: Estate, space: Space, keys: Sequence[Any] | None = None) -> list[Any]:
    """Those of some tenants who have rows in a space. None: anybody; then not everybody is told of."""
    column = (await estate.house()).tenant_column
    found: set[Any] = set()
    async with estate.admin(space.shard, space.database) as conn:
        shears = await _read(conn, space.schema, column, keys or [])
        for table in shears.tables.values():
            name = sql.Identifier(column)
            query = sql.SQL("SELECT DISTINCT {} FROM ONLY {} WHERE {} = ANY (%(keys)s)").format(name, table.name, name)
            if keys is None:
                query = sql.SQL("SELECT {} FROM ONLY {} LIMIT 1").format(name, table.name)
            found |= {key for (key,) in await (await conn.execute(query, {"keys": keys})).fetchall()}
    return sorted(found)


async def drop(estate: Estate, space: Space) -> None:
    """A pooled space outlives its tenants."""


@dataclass(frozen=True, slots=True)
class _Table:
    oid: int
    root: int
    name: sql.Identifier


async def _read(conn: Conn, schema: str, column: str, keys: Sequence[Any]) -> _Shears:
    where = {"schema": schema, "column": column}
    rows = await (await conn.execute(_SQL["tables"], where)).fetchall()
    tables = {oid: _Table(oid, root, sql.Identifier(schema, name)) for oid, root, schema, name in rows}
    references = await (await conn.execute(_SQL["references"])).fetchall()
    return _Shears(conn, tables, references, column, list(keys))


@dataclass(frozen=True, slots=True)
class _Shears:
    """Deletes the rows of some tenants from all tables of a schema. Each statement names the tenants itself: nothing
    else decides whose rows go."""

    conn: Conn
    tables: dict[int, _Table]
    references: Sequence[tuple[int, int]]
    column: str
    keys: list[Any]

    async def cut(self) -> set[int]:
        """Delete; return the tables that had rows."""
        root = {oid: table.root for oid, table in self.tables.items()}
        pairs = [(root.get(child, child), root.get(parent, parent)) for child, parent in self.references]
        found: set[int] = set()
        for group in deletion_groups(list(dict.fromkeys(root.values())), pairs):
            tables = [table for table in self.tables.values() if table.root in group.tables]
            try:
                found |= await (self._at_once(tables) if group.at_once else self._in_batches(tables))
            except psycopg.errors.ForeignKeyViolation as error:
                table = f"{error.diag.schema_name}.{error.diag.table_name}"
                raise OperationFailed(
                    f"rows of {table} refer to the tenant's, but are not its own",
                    hint=f"delete or change them: the foreign key is {error.diag.constraint_name}",
                ) from error
        return found

    async def _in_batches(self, tables: Iterable[_Table]) -> set[int]:
        found = set()
        for table in tables:
            query = sql.SQL(
                "DELETE FROM ONLY {table} WHERE {mine}"
                " AND ctid = ANY (ARRAY (SELECT ctid FROM ONLY {table} WHERE {mine} LIMIT {batch}))"
            ).format(table=table.name, mine=self._mine, batch=sql.Literal(_BATCH))
            while deleted := (await self.conn.execute(query, {"keys": self.keys})).rowcount:
                found.add(table.oid)
                if deleted < _BATCH:
                    break
        return found

    async def _at_once(self, tables: Sequence[_Table]) -> set[int]:
        deletes = sql.SQL(", ").join(
            sql.SQL("{} AS (DELETE FROM ONLY {} WHERE {} RETURNING 1)").format(_numbered(n), table.name, self._mine)
            for n, table in enumerate(tables)
        )
        counts = sql.SQL(", ").join(
            sql.SQL("(SELECT count(*) FROM {})").format(_numbered(n)) for n, _ in enumerate(tables)
        )
        query = sql.SQL("WITH {} SELECT {}").format(deletes, counts)
        row = await (await self.conn.execute(query, {"keys": self.keys})).fetchone()
        return {table.oid for table, count in zip(tables, row or (), strict=True) if count}

    @property
    def _mine(self) -> sql.Composed:
        return sql.SQL("{} = ANY (%(keys)s)").format(sql.Identifier(self.column))

    def relations(self, touched: Iterable[int]) -> list[int]:
        """These tables, and the ones that they are parts of."""
        return sorted({oid for each in touched for oid in (each, self.tables[each].root)})

    def shown(self, oids: Iterable[int]) -> list[str]:
        """The names of tables, for a message."""
        return sorted(self.tables[oid].name.as_string(None) for oid in oids)


async def _analyse(estate: Estate, space: Space, oids: Sequence[int]) -> None:
    """Make the statistics of tables anew: they hold values of the rows that were there.

    ANALYZE keeps what it finds no row for (chapter "Statistics Used by the Planner" does not say so), so the old ones
    are cleared before it. The planner of others sees no moment without statistics: it is one transaction.
    """
    async with estate.root(space.shard, space.database) as root, estate.admin(space.shard, space.database) as admin:
        superuser = (await (await root.execute(_SQL["superuser"])).fetchone() or (False,))[0]
        conn = root if superuser else admin
        for oid, schema, name in await (await conn.execute(_SQL["names"], (list(oids),))).fetchall():
            table = sql.Identifier(schema, name)
            async with conn.transaction():
                await conn.execute(sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(table))
                if superuser:
                    await conn.execute(_SQL["clear_statistics"], {"oid": oid})
                elif conn.info.server_version >= _CLEARS_STATISTICS:
                    await conn.execute(_SQL["clear_statistics_18"], {"oid": oid})
                await conn.execute(sql.SQL("ANALYZE {}").format(table))


def _numbered(number: int) -> sql.Identifier:
    return sql.Identifier(f"cut{number}")


async def create_database(conn: Conn, name: str, template: str = "template0") -> bool:
    """Create a database if it is not there; whether it was created. ``template0`` has nothing in it that somebody else
    put there."""
    found = await (await conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))).fetchone()
    if found is None:
        query = "CREATE DATABASE {} TEMPLATE {} STRATEGY wal_log"
        await conn.execute(sql.SQL(query).format(sql.Identifier(name), sql.Identifier(template)))
    return found is None


async def create_schema(conn: Conn, name: str) -> None:
    """Create a schema if it is not there."""
    await conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name)))
