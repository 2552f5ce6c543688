"""Residents: who lives in a database, as the database itself knows it.

The pooled database of a shard also knows who lives in the shard's other databases: they are residents there that have
moved, to a schema that is the database's name. So one look at it tells whether somebody has been let into a home.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg

from tenantry.errors import KeyTaken
from tenantry.model import Isolation, KeyType, encode_key, parse_key
from tenantry.placements.estate import Estate
from tenantry.placements.space import Home
from tenantry.postgres import sqlfile

_SQL = sqlfile.load("tenantry.placements", "residents.sql")

_TYPES = {KeyType.BIGINT: "pg_catalog.int8", KeyType.UUID: "pg_catalog.uuid", KeyType.TEXT: "pg_catalog.text"}

Row = tuple[Any, ...]


def by_database(found: Iterable[Home]) -> dict[tuple[str, str], list[Home]]:
    """The homes of each database."""
    groups: dict[tuple[str, str], list[Home]] = defaultdict(list)
    for home in found:
        groups[home.space.shard, home.space.database].append(home)
    return groups


async def ask(
    estate: Estate, place: tuple[str, str], name: str, parameters: Mapping[str, Any], *, plans: bool = False
) -> list[Row]:
    """Run one of the statements of ``residents.sql`` in a database of a shard, and return its rows.

    Args:
        place: shard and database.
        plans: the statement names plans that the database may not have heard of yet.
    """
    query = _SQL[name].replace("{{type}}", _TYPES[(await estate.house()).key_type])
    try:
        async with estate.admin(*place) as conn:
            cursor = await conn.execute(query, parameters)
            return await cursor.fetchall() if cursor.description else []
    except psycopg.errors.ForeignKeyViolation:
        if not plans:
            raise
    await estate.inform(*place)
    return await ask(estate, place, name, parameters)


async def register(estate: Estate, shard: str) -> tuple[str, str]:
    """The pooled database of a shard: it knows who lives in the others."""
    return shard, (await estate.store.fetch("pooled_space", (shard,)))[0]["database"]


async def refuse_taken(estate: Estate, found: Iterable[Home]) -> None:
    """Make sure that nobody lives where tenants are about to, under their keys or in homes that are to be their own.

    The catalog gives no key and no home twice; but one that was restored from an older copy does not know whom it has
    let in since.

    Raises:
        KeyTaken: somebody does.
    """
    for place, group in by_database(found).items():
        where = "/".join(place)
        schemas = [home.space.schema for home in group if home.space.isolation is Isolation.SCHEMA]
        if group[0].space.isolation is Isolation.DATABASE:
            reserved = [code for _, code, _ in await _reserved(estate, group)]
            _refuse(await ask(estate, place, "but_these", {"codes": reserved}), where)
            place, schemas = await register(estate, place[0]), [place[1]]
        _refuse(await ask(estate, place, "with_code", {"codes": [home.code for home in group]}), where)
        if schemas:
            _refuse(await ask(estate, place, "in_homes", {"schemas": schemas}), where)


def _refuse(rows: Sequence[Row], where: str) -> None:
    if rows:
        raise KeyTaken(
            f"a resident that the catalog does not know has the code {rows[0][0]}, in the schema {rows[0][1]}",
            where=where,
            hint="was the catalog restored from an older copy? Run 'tenantry doctor': it lists them",
        )


async def admit(estate: Estate, found: Iterable[Home], state: str = "open") -> None:
    """Make residents of the tenants, or change the state of those that are."""
    for place, group in by_database(found).items():
        parameters = {
            "codes": [home.code for home in group],
            "keys": [home.key for home in group],
            "epochs": [home.epoch for home in group],
            "states": [state] * len(group),
            "schemas": [home.space.schema for home in group],
            "plans": [home.plan for home in group],
        }
        await ask(estate, place, "admit", parameters, plans=True)


async def dismiss(estate: Estate, found: Iterable[Home], *, for_ever: bool = False) -> None:
    """Remove the tenants from the residents.

    Args:
        for_ever: also from the planner's statistics of the residents.
    """
    for place, group in by_database(found).items():
        await ask(estate, place, "dismiss", {"codes": [home.code for home in group]})
        if for_ever:
            await _analyse(estate, place)


async def settle(estate: Estate, found: Sequence[Home]) -> None:
    """Make residents of new tenants. The resident that an empty database was made with makes room for its tenant."""
    own = [home for home in found if home.space.isolation is Isolation.DATABASE]
    for shard, group in _by_shard(own).items():  # first: who lives somewhere is always written down
        parameters = {
            "codes": [home.code for home in group],
            "keys": [home.key for home in group],
            "schemas": [home.space.database for home in group],
            "plans": [home.plan for home in group],
        }
        await ask(estate, await register(estate, shard), "write_down", parameters, plans=True)
    for home, code, _ in await _reserved(estate, own):
        await ask(estate, (home.space.shard, home.space.database), "dismiss", {"codes": [code]})
    await admit(estate, found)


async def rehome(estate: Estate, home: Home, left: Home | None = None) -> None:
    """Write down that a tenant lives in a home, if that is a database of its own.

    Args:
        left: where it lived before, and does not any more; a database there is gone, or about to.
    """
    keep = home.space.shard, home.space.database
    if left is not None:
        own = left.space.isolation is Isolation.DATABASE
        place = await register(estate, left.space.shard) if own else (left.space.shard, left.space.database)
        if place != keep:
            await ask(estate, place, "dismiss", {"codes": [left.code]})
    if home.space.isolation is Isolation.DATABASE:
        parameters = {"codes": [home.code], "keys": [home.key], "schemas": [keep[1]], "plans": [home.plan]}
        await ask(estate, await register(estate, home.space.shard), "write_down_again", parameters, plans=True)


async def unsettle(estate: Estate, found: Sequence[Home], standing: Sequence[Home]) -> None:
    """Undo :func:`settle`.

    Args:
        standing: those of them whose database exists.
    """
    await dismiss(estate, standing)
    key_type = (await estate.house()).key_type
    for home, code, row in await _reserved(estate, standing):
        values = {"epochs": [1], "states": ["open"], "schemas": [home.space.schema], "plans": [row["plan"]]}
        parameters = {"codes": [code], "keys": [parse_key(row["key"], key_type)], **values}
        await ask(estate, (home.space.shard, home.space.database), "admit", parameters, plans=True)
    await strike(estate, found)


async def strike(estate: Estate, found: Iterable[Home], *, for_ever: bool = False) -> None:
    """Strike those who lived in a database of their own off the shard's list; the others are on none.

    Args:
        for_ever: as for :func:`dismiss`.
    """
    for shard, group in _by_shard(home for home in found if home.space.isolation is Isolation.DATABASE).items():
        place = await register(estate, shard)
        await ask(estate, place, "dismiss", {"codes": [home.code for home in group]})
        if for_ever:
            await _analyse(estate, place)


async def _analyse(estate: Estate, place: tuple[str, str]) -> None:
    async with estate.root(*place) as conn:
        await conn.execute("ANALYZE tenantry.residents")


async def _reserved(estate: Estate, found: Iterable[Home]) -> list[tuple[Home, str, Mapping[str, Any]]]:
    """The residents that empty databases were made with: home, code, row of the catalog."""
    homes = {home.space.id: home for home in found if home.space.isolation is Isolation.DATABASE}
    if not homes:
        return []
    key_type = (await estate.house()).key_type
    rows = await estate.store.fetch("reserved_of", (list(homes),))
    return [(homes[row["space"]], encode_key(parse_key(row["key"], key_type)), row) for row in rows]


def _by_shard(found: Iterable[Home]) -> dict[str, list[Home]]:
    groups: dict[str, list[Home]] = defaultdict(list)
    for home in found:
        groups[home.space.shard].append(home)
    return groups
