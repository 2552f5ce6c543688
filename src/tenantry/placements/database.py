"""The level ``database``: a tenant has a database of its own, copied from the shard's template database."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import psycopg
from psycopg import sql

from tenantry.placements.estate import Conn, Estate
from tenantry.placements.pooled import create_database, create_schema
from tenantry.placements.space import Home, Space

log = logging.getLogger("tenantry.placements")

TEMPLATE_DATABASE = "tenantry_template"

_PATIENCE_SECONDS = 60
_SUPERUSER_SECONDS = 10.0
_PAUSE_SECONDS = 0.1


async def build(estate: Estate, spaces: Sequence[Space]) -> None:
    """Copy the template database, and close the walls of the copies. Grants on a database are not copied with it."""
    for space in spaces:
        await _build(estate, space)


async def _build(estate: Estate, space: Space) -> None:
    version = estate.template.version()
    template = await estate.store.fetch("template_space", (space.shard,))
    if not template or template[0]["template"] != version:
        await build_template(estate, space.shard)
    if not await _copy(estate, space):
        # It was copied before, and nobody knows from which version.
        await estate.wall(space.shard, space.database, [space.schema])
        await estate.bring_up(space)
        return
    await estate.wall(space.shard, space.database, [space.schema])
    await estate.store.fetch("space_template", (version, [space.id]))


async def _copy(estate: Estate, space: Space) -> bool:
    """Whether it was copied now. Several may copy at once, but not while somebody updates the template."""
    async with estate.root(space.shard) as conn:
        await conn.execute(f"SET lock_timeout = '{_PATIENCE_SECONDS}s'")
        await conn.execute("SELECT pg_advisory_lock_shared(hashtextextended(%s, 0))", (TEMPLATE_DATABASE,))
        try:
            return await create_database(conn, space.database, TEMPLATE_DATABASE)
        except psycopg.errors.InvalidCatalogName:
            log.warning("%s: the template database is gone; it is made anew", space.shard)
    await build_template(estate, space.shard)
    return await _copy(estate, space)


async def build_template(estate: Estate, shard: str) -> None:
    """Make the shard's template database, or bring it up to date. Nobody can connect to it but for this."""
    house = await estate.house()
    row = await estate.store.fetch("new_space", (shard, TEMPLATE_DATABASE, house.app_schema, "database", "template"))
    space = Space.of(row[0])
    name = sql.Identifier(TEMPLATE_DATABASE)
    async with estate.root(shard) as conn:
        await conn.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (TEMPLATE_DATABASE,))
        if space.template is None:  # another house's, or one that was never finished
            await _drop_database(conn, TEMPLATE_DATABASE)
        await create_database(conn, TEMPLATE_DATABASE)
        await conn.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
        try:
            async with estate.root(shard, TEMPLATE_DATABASE) as inside:
                await create_schema(inside, space.schema)
            await estate.wall(shard, TEMPLATE_DATABASE, [space.schema])
            await estate.bring_up(space)
        finally:
            await conn.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))


async def clear(estate: Estate, space: Space, homes: Sequence[Home]) -> None:
    """Drop the database."""
    await drop(estate, space)


async def drop(estate: Estate, space: Space) -> None:
    """Drop the database, with the sessions that are still in it."""
    await estate.forget(space.shard, space.database)
    async with estate.root(space.shard) as conn:
        await _drop_database(conn, space.database)


async def _drop_database(conn: Conn, name: str) -> None:
    """Drop a database with the sessions in it. Those of a superuser are not ours to end unless we are one; autovacuum's
    are among them, and soon end by themselves."""
    query = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    until = time.monotonic() + _SUPERUSER_SECONDS
    while True:
        try:
            await conn.execute(query)
            return
        except psycopg.errors.InsufficientPrivilege:
            if time.monotonic() > until:
                raise
        log.info("%s: a superuser's session is in the database; it is dropped when that has ended", name)
        await asyncio.sleep(_PAUSE_SECONDS)
