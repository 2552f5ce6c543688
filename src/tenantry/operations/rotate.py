"""Rotate the signing key: every database learns the new one before anybody signs with it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from tenantry.catalog.store import Conn, fetch
from tenantry.operations.steps import Kind, Step, Wait, Work


async def _distribute(work: Work) -> None:
    await work.estate.inform_all()


async def _activate(work: Work, conn: Conn) -> dict[str, Any]:
    await conn.execute("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE")
    retired = [row["kid"] for row in await fetch(conn, "retire_keys", (work.args["kid"],))]
    await fetch(conn, "activate_key", (work.args["kid"],))
    await fetch(conn, "audit", (work.actor, "key rotate", work.args["kid"], None, "{}"))
    now = (await fetch(conn, "now"))[0]["now"]
    return {"retire_at": (now + timedelta(seconds=work.args["overlap"])).isoformat(), "retired": retired}


async def _overlap(work: Work) -> None:
    """Tokens of the old key are good for a while, and a process that has missed the news still signs with it."""
    until = datetime.fromisoformat(work.outputs["activate"]["retire_at"])
    if (await work.store.fetch("now"))[0]["now"] < until:
        raise Wait(until)


async def _retired(work: Work, conn: Conn) -> None:
    """Only what this rotation has retired: another's has an overlap of its own."""
    await fetch(conn, "drop_retiring_keys", (work.outputs["activate"]["retired"],))


async def _forget(work: Work, conn: Conn) -> None:
    await fetch(conn, "drop_pending_key", (work.args["kid"],))


ROTATE = Kind(
    "rotate",
    (
        Step("begin", undo_act=_distribute),  # undone last: when the catalog has forgotten the key, so do the databases
        Step("distribute", act=_distribute, undo_record=_forget),
        Step("activate", record=_activate, final=True),
        Step("overlap", act=_overlap),
        Step("retire", record=_retired),
        Step("scrub", act=_distribute),
    ),
)
