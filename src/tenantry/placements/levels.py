"""One interface over the three levels, and what is common to them: names, residents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from secrets import token_hex
from typing import Any, Protocol

import psycopg
from psycopg import sql

from tenantry.catalog.store import Conn as CatalogConn
from tenantry.catalog.store import fetch
from tenantry.errors import KeyTaken
from tenantry.model import Isolation, KeyType, encode_key, parse_key
from tenantry.perimeter.binder import APP
from tenantry.placements import database, pooled, schema
from tenantry.placements.estate import Estate
from tenantry.placements.space import Home, Space

# A transaction holds a lock on its virtual id until it ends (PostgreSQL: pg_locks). CREATE INDEX CONCURRENTLY waits so.
_RUNNING = """
SELECT l.virtualtransaction FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted AND a.datname = %s AND a.usename = %s
"""

_TYPES = {KeyType.BIGINT: "int8", KeyType.UUID: "uuid", KeyType.TEXT: "text"}


class Level(Protocol):
    """What each level's module does. All of it may run again."""

    async def build(self, estate: Estate, space: Space) -> None:
        """Make the space, with the application's tables and the wall."""
        ...

    async def clear(self, estate: Estate, space: Space, homes: Sequence[Home]) -> None:
        """Leave nothing of these tenants behind."""
        ...

    async def drop(self, estate: Estate, space: Space) -> None:
        """Remove the space."""
        ...


LEVELS: Mapping[Isolation, Level] = {
    Isolation.POOLED: pooled,
    Isolation.SCHEMA: schema,
    Isolation.DATABASE: database,
}


async def new_space(estate: Estate, conn: CatalogConn, shard: str, isolation: Isolation) -> Space:
    """Put a space for one tenant into the catalog, to be built. Its name tells nothing of the tenant."""
    house = await estate.house()
    name = token_hex(6)
    if isolation is Isolation.DATABASE:
        where = (f"d_{name}", house.app_schema)
    else:
        shared = await fetch(conn, "pooled_space", (shard,))
        where = (shared[0]["database"], f"t_{name}")
    return Space.of((await fetch(conn, "new_space", (shard, *where, isolation, "building")))[0])


async def homes(estate: Estate, tenants: Sequence[Any]) -> list[Home]:
    """Where the tenants live."""
    key_type = (await estate.house()).key_type
    found = []
    for row in await estate.store.fetch("homes", (list(tenants),)):
        key = parse_key(row["key"], key_type)
        space = Space.of({**row, "id": row["space"], "template": None})
        found.append(Home(encode_key(key), key, row["epoch"], row["plan"], space))
    return found


def by_database(found: Iterable[Home]) -> dict[tuple[str, str], list[Home]]:
    """The homes of each database."""
    groups: dict[tuple[str, str], list[Home]] = defaultdict(list)
    for home in found:
        groups[home.space.shard, home.space.database].append(home)
    return groups


async def standing(estate: Estate, found: Iterable[Home]) -> list[Home]:
    """The homes whose database exists."""
    there = []
    for home in found:
        own = home.space.isolation is Isolation.DATABASE
        if not own or await estate.has_database(home.space.shard, home.space.database):
            there.append(home)
    return there


async def refuse_taken(estate: Estate, found: Iterable[Home]) -> None:
    """Make sure that nobody lives where tenants are about to, under their keys or in spaces that are to be their own.

    The catalog gives no key and no space twice; but one that was restored from an older copy does not know whom it has
    let in since.

    Raises:
        KeyTaken: somebody does.
    """
    for (shard, name), group in by_database(found).items():
        own = [home.space.schema for home in group if home.space.isolation is not Isolation.POOLED]
        query = "SELECT code, schema FROM tenantry.residents WHERE code = ANY (%s) OR schema = ANY (%s) LIMIT 1"
        async with estate.admin(shard, name) as conn:
            row = await (await conn.execute(query, ([home.code for home in group], own))).fetchone()
        if row is not None:
            raise KeyTaken(
                f"a resident that the catalog does not know has the code {row[0]}, in the schema {row[1]}",
                where=f"{shard}/{name}",
                hint="was the catalog restored from an older copy? Run 'tenantry doctor': it lists them",
            )


async def admit(estate: Estate, found: Iterable[Home], state: str = "open") -> None:
    """Make residents of the tenants, or change the state of those that are."""
    for (shard, name), group in by_database(found).items():
        try:
            await _admit(estate, shard, name, group, state)
        except psycopg.errors.ForeignKeyViolation:  # it has not heard of a plan yet
            await estate.inform(shard, name)
            await _admit(estate, shard, name, group, state)


async def _admit(estate: Estate, shard: str, database: str, group: Sequence[Home], state: str) -> None:
    key_type = (await estate.house()).key_type
    query = sql.SQL(
        "INSERT INTO tenantry.residents (code, tenant, epoch, state, schema, plan)"
        " SELECT * FROM unnest(%s::text[], %s::{}[], %s::bigint[], %s::text[], %s::text[], %s::text[])"
        " ON CONFLICT (code) DO UPDATE SET epoch = excluded.epoch, state = excluded.state,"
        " schema = excluded.schema, plan = excluded.plan WHERE residents.epoch <= excluded.epoch"
    ).format(sql.Identifier("pg_catalog", _TYPES[key_type]))
    values = (
        [home.code for home in group],
        [home.key for home in group],
        [home.epoch for home in group],
        [state] * len(group),
        [home.space.schema for home in group],
        [home.plan for home in group],
    )
    async with estate.admin(shard, database) as conn:
        await conn.execute(query, values)


async def dismiss(estate: Estate, found: Iterable[Home], *, for_ever: bool = False) -> None:
    """Remove the tenants from the residents.

    Args:
        for_ever: also from the planner's statistics of the residents.
    """
    for (shard, name), group in by_database(found).items():
        async with estate.admin(shard, name) as conn:
            await conn.execute("DELETE FROM tenantry.residents WHERE code = ANY (%s)", ([home.code for home in group],))
        if for_ever:
            async with estate.root(shard, name) as conn:
                await conn.execute("ANALYZE tenantry.residents")


async def running(estate: Estate, found: Iterable[Home]) -> dict[str, list[str]]:
    """The transactions of applications that run now where the tenants live, by shard and database.

    Which tenant a transaction is bound to can't be seen from outside, so it is all of them.
    """
    transactions = {}
    for shard, name in by_database(found):
        async with estate.root(shard) as conn:
            rows = await (await conn.execute(_RUNNING, (name, APP))).fetchall()
        transactions[f"{shard} {name}"] = [virtual for (virtual,) in rows]
    return transactions


async def still_running(estate: Estate, transactions: Mapping[str, Sequence[str]]) -> int:
    """How many of these transactions have not ended."""
    left = 0
    for place, virtual in transactions.items():
        shard, name = place.split(" ")
        async with estate.root(shard) as conn:
            rows = await (await conn.execute(_RUNNING, (name, APP))).fetchall()
        left += len({each for (each,) in rows} & set(virtual))
    return left
