"""Suspend tenants: their databases refuse them first, then the catalog says why."""

from __future__ import annotations

from tenantry.catalog.store import Conn, fetch
from tenantry.operations.steps import Kind, Step, Work
from tenantry.placements.levels import homes
from tenantry.placements.residents import admit


async def _shut(work: Work) -> None:
    await admit(work.estate, await homes(work.estate, work.tenants), "suspended")


async def _open(work: Work) -> None:
    await admit(work.estate, await homes(work.estate, work.tenants))


async def _suspended(work: Work, conn: Conn) -> None:
    await fetch(conn, "tenant_states", ("suspended", work.tenants))
    await fetch(conn, "audit_many", (work.actor, "tenant suspend", [str(each) for each in work.tenants]))


SUSPEND = Kind("suspend", (Step("shut", act=_shut, record=_suspended, undo_act=_open),))
