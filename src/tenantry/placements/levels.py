"""One interface over the three levels, and what is common to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from secrets import token_hex
from typing import Any, Protocol

from tenantry.catalog.store import Conn as CatalogConn
from tenantry.catalog.store import fetch
from tenantry.model import Isolation, encode_key, parse_key
from tenantry.perimeter.binder import APP
from tenantry.placements import database, pooled, schema
from tenantry.placements.estate import Estate
from tenantry.placements.residents import by_database
from tenantry.placements.space import Home, Space

# A transaction holds a lock on its virtual id until it ends (PostgreSQL: pg_locks). CREATE INDEX CONCURRENTLY waits so.
_RUNNING = """
SELECT l.virtualtransaction FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted AND a.datname = %s AND a.usename = %s
"""


class Level(Protocol):
    """What each level's module does. All of it may run again."""

    async def build(self, estate: Estate, spaces: Sequence[Space]) -> None:
        """Make the spaces, with the application's tables and the wall."""
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


async def new_spaces(estate: Estate, conn: CatalogConn, shards: Sequence[str], isolation: Isolation) -> list[Space]:
    """Put spaces for one tenant each into the catalog, to be built: one for each name of a shard, which may repeat.
    Their names tell nothing of the tenants."""
    house = await estate.house()
    names = [token_hex(6) for _ in shards]
    if isolation is Isolation.DATABASE:
        databases, schemas = [f"d_{name}" for name in names], [house.app_schema] * len(names)
    else:
        pooled_of = {name: (await fetch(conn, "pooled_space", (name,)))[0]["database"] for name in set(shards)}
        databases, schemas = [pooled_of[shard] for shard in shards], [f"t_{name}" for name in names]
    parameters = (isolation, "building", list(shards), databases, schemas)
    return [Space.of(row) for row in await fetch(conn, "new_spaces", parameters)]


async def homes(estate: Estate, tenants: Sequence[Any]) -> list[Home]:
    """Where the tenants live."""
    key_type = (await estate.house()).key_type
    found = []
    for row in await estate.store.fetch("homes", (list(tenants),)):
        key = parse_key(row["key"], key_type)
        space = Space.of({**row, "id": row["space"], "template": None})
        found.append(Home(encode_key(key), key, row["epoch"], row["plan"], space))
    return found


async def standing(estate: Estate, found: Iterable[Home]) -> list[Home]:
    """The homes whose database exists."""
    there = []
    for home in found:
        own = home.space.isolation is Isolation.DATABASE
        if not own or await estate.has_database(home.space.shard, home.space.database):
            there.append(home)
    return there


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
