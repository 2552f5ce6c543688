"""Provision tenants: choose where they live, make what is missing, let them in."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heapreplace
from typing import Any

from tenantry.catalog.store import Conn, fetch
from tenantry.errors import NoCapacity
from tenantry.model import Isolation
from tenantry.operations.steps import Kind, Step, Work
from tenantry.placements.levels import LEVELS, homes, new_spaces, standing
from tenantry.placements.residents import refuse_taken, settle, unsettle
from tenantry.placements.space import Space


async def _place(work: Work, conn: Conn) -> Mapping[str, Any]:
    """Put the tenants into spaces: the emptiest pooled one, ready ones from the warm pool, or new ones to be built."""
    tenants, isolation, shard = work.tenants, Isolation(work.args["isolation"]), work.args.get("shard")
    if isolation is Isolation.POOLED:
        spaces = [await _pooled(conn, shard)] * len(tenants)
        built: list[int] = []
    else:
        version = work.estate.template.version()
        parameters = {"isolation": isolation, "shard": shard, "template": version, "count": len(tenants)}
        spaces = [row["id"] for row in await fetch(conn, "claim_ready", parameters)]
        built = await _new(work, conn, shard, isolation, len(tenants) - len(spaces))
        spaces += built
    await fetch(conn, "new_placements", (tenants, spaces))
    return {"spaces": sorted(set(spaces)), "build": built}


async def _pooled(conn: Conn, shard: str | None) -> int:
    found = [row["id"] for row in await fetch(conn, "open_pooled", {"shard": shard})]
    if not found:
        raise await _no_capacity(conn, "pooled tenants", shard)
    if len(found) > 1:  # counting is slow where there are many tenants
        found = [row["id"] for row in await fetch(conn, "emptiest_pooled", (found,))]
    space: int = found[0]
    return space


async def _new(work: Work, conn: Conn, shard: str | None, isolation: Isolation, count: int) -> list[int]:
    """Spaces to be built, each on the shard that is the emptiest then."""
    if count == 0:
        return []
    found = [row["name"] for row in await fetch(conn, "open_shards", {"shard": shard})]
    if not found:
        raise await _no_capacity(conn, "new tenants", shard)
    chosen = found * count
    if len(found) > 1:  # counting is slow where there are many tenants
        fullness = [(row["count"], row["name"]) for row in await fetch(conn, "fullness", (found,))]
        heapify(fullness)
        chosen = []
        for _ in range(count):
            tenants, name = fullness[0]
            heapreplace(fullness, (tenants + 1, name))
            chosen.append(name)
    return [space.id for space in await new_spaces(work.estate, conn, chosen, isolation)]


async def _no_capacity(conn: Conn, whom: str, shard: str | None) -> NoCapacity:
    if shard is None:
        return NoCapacity(f"no open shard takes {whom}")
    found = await fetch(conn, "shard", (shard,))
    state = found[0]["state"] if found else "gone"
    return NoCapacity(f"the shard {shard!r} is {state}: it takes no {whom}", hint=f"run 'tenantry shard open {shard}'")


async def _unplace(work: Work, conn: Conn) -> None:
    """What came from the warm pool goes back there: the tenants were dismissed from it, and it is empty."""
    built = work.outputs.get("place", {}).get("build", [])
    spaces = [row["space"] for row in await fetch(conn, "drop_placements", (work.tenants,))]
    await fetch(conn, "spaces_ready_again", (spaces,))
    await fetch(conn, "drop_spaces", (built,))
    await conn.execute("DELETE FROM operation_tenants WHERE operation = %s", (work.operation,))
    await fetch(conn, "drop_tenants", (work.tenants,))


async def _spaces(work: Work) -> list[Space]:
    ids = work.outputs.get("place", {}).get("build", [])
    if not ids:
        return []
    return [Space.of(row) for row in await work.store.fetch("spaces_by_id", (ids,))]


async def _build(work: Work) -> None:
    """Before the tenants are let in, and never after: from then on it is they who live there."""
    spaces = await _spaces(work)
    if spaces:
        await LEVELS[spaces[0].isolation].build(work.estate, spaces)
    await refuse_taken(work.estate, await homes(work.estate, work.tenants))


async def _built(work: Work, conn: Conn) -> None:
    ids = work.outputs["place"]["build"]
    if not ids:
        return
    for space in [Space.of(row) for row in await fetch(conn, "spaces_by_id", (ids,))]:
        if space.isolation is Isolation.DATABASE:
            await work.estate.introduce(conn, space.shard, space.database)
    await fetch(conn, "space_states", ("occupied", ids))


async def _unbuild(work: Work) -> None:
    for space in await _spaces(work):
        await LEVELS[space.isolation].drop(work.estate, space)


async def _admit(work: Work) -> None:
    await settle(work.estate, await homes(work.estate, work.tenants))


async def _dismiss(work: Work) -> None:
    """The database may be gone: an undoing that was interrupted begins again at its end."""
    found = await homes(work.estate, work.tenants)
    await unsettle(work.estate, found, await standing(work.estate, found))


async def _activate(work: Work, conn: Conn) -> None:
    await fetch(conn, "tenant_states", ("active", work.tenants))
    await fetch(conn, "drop_reserved", (work.outputs["place"]["spaces"],))
    await fetch(conn, "audit_many", (work.actor, "tenant create", [str(each) for each in work.tenants]))


PROVISION = Kind(
    "provision",
    (
        Step("place", record=_place, undo_record=_unplace),
        Step("build", act=_build, record=_built, undo_act=_unbuild),
        Step("admit", act=_admit, undo_act=_dismiss),
        Step("activate", record=_activate, final=True),
    ),
)
