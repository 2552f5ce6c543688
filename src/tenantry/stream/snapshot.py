"""Copies a tenant's rows as one moment saw them: several tables at once, bytes passed through as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from psycopg import AsyncConnection, pq, sql

from tenantry.stream.inflow import Inflow
from tenantry.stream.path import Path
from tenantry.stream.shape import Table

Conn = AsyncConnection[Any]
Connect = Callable[[], AbstractAsyncContextManager[Conn]]
"""Opens a session (autocommit) for the length of a block."""

_WORKERS = 2


@dataclass(slots=True)
class Copied:
    """How far a copy has come. ``rows`` counts tables that are done."""

    bytes: int = 0
    rows: int = 0
    tables: list[str] = field(default_factory=list)


async def copy(
    source: Connect,
    target: Connect,
    snapshot: str,
    path: Path,
    tables: Sequence[Table],
    *,
    workers: int = _WORKERS,
    progress: Callable[[Copied], None] = lambda copied: None,
) -> Copied:
    """Copy the tenant's rows of all tables. Each table is one transaction at the target, where neither triggers nor
    foreign keys are asked: they have been, at the source.

    Args:
        source: where the rows are; the session sees all tenants.
        target: where they go; likewise, and it may set ``session_replication_role``.
        snapshot: the name of the exported snapshot.
        path: whose rows, and from where to where.
        tables: in any order.
        workers: how many tables at once.
        progress: called now and then.

    Raises:
        StreamBroken: the source refused to send a table.
        psycopg.Error: the target refused a row.
    """
    copied = Copied()
    todo: asyncio.Queue[Table] = asyncio.Queue()
    for table in tables:
        todo.put_nowait(table)

    async def work() -> None:
        async with AsyncExitStack() as stack:
            out, into = await stack.enter_async_context(source()), await stack.enter_async_context(target())
            await out.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            await out.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
            await quiet(out)
            await replicate(into)
            while not todo.empty():
                await _copy_table(out, into, path, todo.get_nowait(), copied, progress)
            await out.execute("ROLLBACK")

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(workers, len(tables))):
                group.create_task(work())
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
    return copied


SESSION = {
    "datestyle": "ISO, YMD",
    "intervalstyle": "iso_8601",
    "timezone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmloption": "content",
    "lc_monetary": "C",
}
"""Settings with which a session writes and reads values in a form that is the same everywhere."""


async def quiet(conn: Conn) -> None:
    """Give a session :data:`SESSION`; names mean nothing to it but with their schema, and no row is hidden from it."""
    settings = {**SESSION, "search_path": "pg_catalog", "row_security": "off"}
    query = "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS s (name, value)"
    await conn.execute(query, (list(settings), list(settings.values())))


async def replicate(conn: Conn) -> None:
    """Make a session write without asking triggers and foreign keys (PostgreSQL: session_replication_role)."""
    await quiet(conn)
    await conn.execute("SET session_replication_role = replica")


async def _copy_table(
    out: Conn, into: Conn, path: Path, table: Table, copied: Copied, progress: Callable[[Copied], None]
) -> None:
    inflow = Inflow(out)
    await inflow.begin(path.copy_out(table), pq.ExecStatus.COPY_OUT)
    async with into.cursor() as cursor:
        async with cursor.copy(path.copy_in(table)) as copying:
            while not inflow.is_over:
                block = b"".join(await inflow.read())
                await copying.write(block)
                copied.bytes += len(block)
                progress(copied)
        copied.rows += cursor.rowcount
    copied.tables.append(table.name)
    progress(copied)
