"""Delete a tenant: shut it, wait for the grace period, clear its home, forget it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from tenantry.catalog.store import Conn, fetch
from tenantry.model import Isolation
from tenantry.operations.steps import Kind, Step, Wait, Work
from tenantry.placements.levels import LEVELS, admit, dismiss, homes


async def _shut(work: Work) -> None:
    await admit(work.estate, await homes(work.estate, work.tenants), "suspended")


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
    await fetch(conn, "tenant_states", (work.args["was"], work.tenants))
    await fetch(conn, "audit_many", (work.actor, "tenant undelete", [str(each) for each in work.tenants]))


async def _wait(work: Work) -> None:
    now = (await work.store.fetch("now"))[0]["now"]
    after = (await work.store.fetch("delete_after", (work.tenants,)))[0]["delete_after"]
    if after is not None and after > now:
        raise Wait(after)


async def _clear(work: Work) -> None:
    found = await homes(work.estate, work.tenants)
    for home in found:
        await LEVELS[home.space.isolation].clear(work.estate, home.space, [home])
    await dismiss(work.estate, found)


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
        Step("clear", act=_clear, final=True),
        Step("forget", record=_forget, final=True),
    ),
)
