"""Delete a tenant: shut it, wait for the grace period, clear its home, forget it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from tenantry.catalog.store import Conn, fetch
from tenantry.model import Isolation
from tenantry.operations.steps import Kind, Step, Wait, Work
from tenantry.placements.levels import LEVELS, homes, running, standing, still_running
from tenantry.placements.residents import admit, dismiss, strike

_PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.05
_AGAIN_SECONDS = 15


async def _shut(work: Work) -> None:
    """A database that somebody has dropped by hand does not keep its tenant from being deleted."""
    await admit(work.estate, await standing(work.estate, await homes(work.estate, work.tenants)), "suspended")


async def _deleting(work: Work, conn: Conn) -> Mapping[str, Any]:
    now = (await fetch(conn, "now"))[0]["now"]
    after = now + timedelta(seconds=work.args["grace"])
    await fetch(conn, "tenant_deleting", (after, work.tenants))
    await fetch(conn, "audit_many", (work.actor, "tenant delete", [str(each) for each in work.tenants]))
    return {"after": after.isoformat()}


async def _open(work: Work) -> None:
    state = "open" if work.args["was"] == "active" else "suspended"
    await admit(work.estate, await homes(work.estate, work.tenants), state)


async def _back(work: Work, conn: Conn) -> None:
    await fetch(conn, "tenant_back", (work.args["was"], work.tenants))
    await fetch(conn, "audit_many", (work.actor, "tenant undelete", [str(each) for each in work.tenants]))


async def _wait(work: Work) -> None:
    now = (await work.store.fetch("now"))[0]["now"]
    after = (await work.store.fetch("delete_after", (work.tenants,)))[0]["delete_after"]
    if after is not None and after > now:
        raise Wait(after)


async def _count(work: Work, conn: Conn) -> Mapping[str, Any]:
    found = await homes(work.estate, work.tenants)
    shared = [home for home in found if home.space.isolation is not Isolation.DATABASE]
    return {"running": await running(work.estate, shared)}


async def _drain(work: Work) -> None:
    """A transaction that entered before the tenant was shut may still write. One that takes long is not disturbed: it
    may be a neighbour's."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while await still_running(work.estate, work.outputs["count"]["running"]):
        if time.monotonic() > until:
            raise Wait((await work.store.fetch("now"))[0]["now"] + timedelta(seconds=_AGAIN_SECONDS))
        await asyncio.sleep(_PAUSE_SECONDS)


async def _clear(work: Work) -> None:
    found = await homes(work.estate, work.tenants)
    for home in found:
        await LEVELS[home.space.isolation].clear(work.estate, home.space, [home])
    await dismiss(
        work.estate, [home for home in found if home.space.isolation is not Isolation.DATABASE], for_ever=True
    )
    await strike(work.estate, found, for_ever=True)


async def _forget(work: Work, conn: Conn) -> None:
    found = await fetch(conn, "homes", (work.tenants,))
    await fetch(conn, "drop_placements", (work.tenants,))
    await fetch(conn, "drop_domains", (work.tenants,))
    own = [row["space"] for row in found if row["isolation"] != Isolation.POOLED]
    await fetch(conn, "drop_spaces", (own,))
    await fetch(conn, "tenant_gone", (work.tenants,))
    await fetch(conn, "audit_many", (work.actor, "tenant deleted", [str(each) for each in work.tenants]))


DELETE = Kind(
    "delete",
    (
        Step("shut", act=_shut, record=_deleting, undo_act=_open, undo_record=_back),
        Step("grace", act=_wait),
        Step("count", record=_count),
        Step("drain", act=_drain),
        Step("clear", act=_clear, final=True),
        Step("forget", record=_forget, final=True),
    ),
)
