"""Clear away what processes had in reserve when they died."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from tenantry.errors import TenantryError
from tenantry.model import Isolation, encode_key, parse_key
from tenantry.placements import database, pooled
from tenantry.placements.estate import Estate
from tenantry.placements.residents import ask, register
from tenantry.placements.space import Space
from tenantry.placements.warm import LEASE_SECONDS

log = logging.getLogger("tenantry.placements")

_AT_ONCE = 1000

Row = Mapping[str, Any]


async def sweep(estate: Estate) -> int:
    """Clear away the homes that nobody has in his hands any more, and return how many. Twice, or at once with others,
    does no harm: a key that was in reserve is never used again.

    A catalog that was restored from an older copy may take for reserved what was given to a tenant since. So whoever
    has left rows, or another resident, is let be.

    Raises:
        ServerUnreachable: the catalog does not answer.
    """
    parameters = {"me": f"sweep {estate.name}", "lease": LEASE_SECONDS, "count": _AT_ONCE}
    rows = await estate.store.fetch("left_behind", parameters)
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["space"]].append(row)
    cleared = 0
    for group in groups.values():
        space = Space.of({**group[0], "id": group[0]["space"], "state": "reserved", "template": None})
        try:
            await _clear(estate, space, [row["key"] for row in group], parameters["me"])
            cleared += len(group)
        except (TenantryError, psycopg.Error) as error:
            log.warning("%s: homes in reserve can't be cleared away: %s", space.name, error)  # another time
    return cleared


async def _clear(estate: Estate, space: Space, keys: Sequence[str], me: Any) -> None:
    key_type = (await estate.house()).key_type
    parsed = {key: parse_key(key, key_type) for key in keys}
    codes = {key: encode_key(value) for key, value in parsed.items()}
    if space.isolation is Isolation.POOLED:
        rows = await pooled.with_rows(estate, space, list(parsed.values()))
        inhabited = [key for key in keys if parsed[key] in rows]
    else:
        inhabited = list(keys) if await _is_inhabited(estate, space, list(codes.values())) else []
    if inhabited:
        log.error("%s: the catalog takes for empty what has rows of %s", space.name, ", ".join(inhabited))
        await estate.store.fetch("cleared", {"keys": inhabited, "me": me, "state": "occupied"})
    if empty := [key for key in keys if key not in inhabited]:
        place = await register(estate, space.shard)
        await ask(estate, place, "dismiss", {"codes": [codes[key] for key in empty]})
        if space.isolation is Isolation.DATABASE:  # its resident's key may not be used again, so neither is it
            await database.drop(estate, space)
        state = None if space.isolation is Isolation.DATABASE else "ready"
        await estate.store.fetch("cleared", {"keys": empty, "me": me, "state": state})


async def _is_inhabited(estate: Estate, space: Space, codes: Sequence[str]) -> bool:
    if space.isolation is Isolation.SCHEMA:
        residents = await ask(estate, (space.shard, space.database), "in_homes", {"schemas": [space.schema]})
        others = [row for row in residents if row[0] not in codes]
    elif await estate.has_database(space.shard, space.database):
        others = await ask(estate, (space.shard, space.database), "but_these", {"codes": codes})
    else:
        return False
    return bool(others) or bool(await pooled.with_rows(estate, space))
