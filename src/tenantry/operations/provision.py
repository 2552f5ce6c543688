"""Provision tenants: choose where they live, make what is missing, let them in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tenantry.catalog.store import Conn, fetch
from tenantry.errors import NoCapacity
from tenantry.model import Isolation
from tenantry.operations.steps import Kind, Step, Work
from tenantry.placements.levels import LEVELS, admit, dismiss, homes, new_space
from tenantry.placements.space import Space


async def _place(work: Work, conn: Conn) -> Mapping[str, Any]:
    """Put the tenants into spaces: the emptiest pooled one, ready ones from the warm pool, or new ones to be built."""
    tenants, isolation, shard = work.tenants, Isolation(work.args["isolation"]), work.args.get("shard")
    if isolation is Isolation.POOLED:
        spaces = [await _pooled(conn, shard)] * len(tenants)
        built: list[int] = []
    else:
        parameters = {"isolation": isolation, "shard": shard, "count": len(tenants)}
        spaces = [row["id"] for row in await fetch(conn, "claim_ready", parameters)]
        built = []
        for _ in range(len(tenants) - len(spaces)):
            built.append((await new_space(work.estate, conn, await _own(conn, shard), isolation)).id)
        spaces += built
    await fetch(conn, "new_placements", (tenants, spaces))
    return {"spaces": spaces, "build": built}


async def _pooled(conn: Conn, shard: str | None) -> int:
    open_spaces = [row for row in await fetch(conn, "open_pooled") if shard in (None, row["shard"])]
    if not open_spaces:
        raise NoCapacity(f"no open shard takes pooled tenants{f' on {shard!r}' if shard else ''}")
    space: int = min(open_spaces, key=lambda row: (row["tenants"], row["id"]))["id"]
    return space


async def _own(conn: Conn, shard: str | None) -> str:
    candidates = [
        row
        for row in await fetch(conn, "open_shards")
        if row["name"] == shard or (shard is None and not row["dedicated"])
    ]
    if not candidates:
        raise NoCapacity(f"no open shard takes new tenants{f' on {shard!r}' if shard else ''}")
    name: str = min(candidates, key=lambda row: (row["tenants"], row["name"]))["name"]
    return name


async def _unplace(work: Work, conn: Conn) -> None:
    await fetch(conn, "drop_placements", (work.tenants,))
    place = work.outputs.get("place", {})
    await fetch(conn, "drop_spaces", (place.get("build", []),))
    await conn.execute("DELETE FROM operation_tenants WHERE operation = %s", (work.operation,))
    await fetch(conn, "drop_tenants", (work.tenants,))


async def _spaces(work: Work, which: str) -> list[Space]:
    ids = work.outputs.get("place", {}).get(which, [])
    return [Space.of(row) for row in await work.store.fetch("spaces_by_id", (ids,))]


async def _build(work: Work) -> None:
    for space in await _spaces(work, "build"):
        await LEVELS[space.isolation].build(work.estate, space)


async def _built(work: Work, conn: Conn) -> None:
    ids = work.outputs["place"]["build"]
    if ids:
        await fetch(conn, "space_state", ("occupied", work.estate.template.version(), ids))


async def _unbuild(work: Work) -> None:
    for space in await _spaces(work, "build"):
        await LEVELS[space.isolation].drop(work.estate, space)


async def _unclaim(work: Work, conn: Conn) -> None:
    """What came from the warm pool goes back there: nobody has been let in yet, so it is still empty."""
    place = work.outputs.get("place", {})
    claimed = set(place.get("spaces", [])) - set(place.get("build", []))
    if claimed and work.args["isolation"] != Isolation.POOLED:
        await fetch(conn, "space_state", ("ready", None, list(claimed)))


async def _admit(work: Work) -> None:
    await admit(work.estate, await homes(work.estate, work.tenants))


async def _dismiss(work: Work) -> None:
    await dismiss(work.estate, await homes(work.estate, work.tenants))


async def _activate(work: Work, conn: Conn) -> None:
    await fetch(conn, "tenant_states", ("active", work.tenants))
    await fetch(conn, "audit_many", (work.actor, "tenant create", [str(each) for each in work.tenants]))


PROVISION = Kind(
    "provision",
    (
        Step("place", record=_place, undo_record=_unplace),
        Step("build", act=_build, record=_built, undo_act=_unbuild, undo_record=_unclaim),
        Step("admit", act=_admit, undo_act=_dismiss),
        Step("activate", record=_activate),
    ),
)
