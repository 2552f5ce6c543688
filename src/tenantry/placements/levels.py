"""One interface over the three levels, and what is common to them: names, residents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from secrets import token_hex
from typing import Any, Protocol

from psycopg import sql

from tenantry.catalog.store import Conn as CatalogConn
from tenantry.catalog.store import fetch
from tenantry.model import Isolation, KeyType, encode_key, parse_key
from tenantry.placements import database, pooled, schema
from tenantry.placements.estate import Estate
from tenantry.placements.space import Home, Space

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


async def admit(estate: Estate, found: Sequence[Home], state: str = "open") -> None:
    """Make residents of the tenants, or change the state of those that are."""
    key_type = (await estate.house()).key_type
    for (shard, name), group in by_database(found).items():
        async with estate.admin(shard, name) as conn:
            await conn.execute(
                sql.SQL(
                    "INSERT INTO tenantry.residents (code, tenant, epoch, state, schema, plan)"
                    " SELECT * FROM unnest(%s::text[], %s::{}[], %s::bigint[], %s::text[], %s::text[], %s::text[])"
                    " ON CONFLICT (code) DO UPDATE SET epoch = excluded.epoch, state = excluded.state,"
                    " schema = excluded.schema, plan = excluded.plan WHERE residents.epoch <= excluded.epoch"
                ).format(sql.Identifier("pg_catalog", _TYPES[key_type])),
                (
                    [home.code for home in group],
                    [home.key for home in group],
                    [home.epoch for home in group],
                    [state] * len(group),
                    [home.space.schema for home in group],
                    [home.plan for home in group],
                ),
            )


async def dismiss(estate: Estate, found: Sequence[Home]) -> None:
    """Remove the tenants from the residents; a database that has gone with its tenant has none."""
    for (shard, name), group in by_database(found).items():
        if all(home.space.isolation is Isolation.DATABASE for home in group):
            continue
        async with estate.admin(shard, name) as conn:
            await conn.execute("DELETE FROM tenantry.residents WHERE code = ANY (%s)", ([home.code for home in group],))
