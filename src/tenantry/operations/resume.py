"""Resume suspended tenants."""

from __future__ import annotations

from tenantry.catalog.store import Conn, fetch
from tenantry.operations.steps import Kind, Step, Work
from tenantry.placements.levels import homes
from tenantry.placements.residents import admit


async def _open(work: Work) -> None:
    await admit(work.estate, await homes(work.estate, work.tenants))


async def _shut(work: Work) -> None:
    await admit(work.estate, await homes(work.estate, work.tenants), "suspended")


async def _active(work: Work, conn: Conn) -> None:
    await fetch(conn, "tenant_states", ("active", work.tenants))
    await fetch(conn, "audit_many", (work.actor, "tenant resume", [str(each) for each in work.tenants]))


RESUME = Kind("resume", (Step("open", act=_open, record=_active, undo_act=_shut),))
