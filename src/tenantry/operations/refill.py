"""Refill the warm pool: build empty homes before anybody needs them."""

from __future__ import annotations

from tenantry.catalog.store import Conn, fetch
from tenantry.model import Isolation
from tenantry.operations.steps import Kind, Step, Work
from tenantry.placements.levels import LEVELS
from tenantry.placements.space import Space


async def _spaces(work: Work) -> list[Space]:
    return [Space.of(row) for row in await work.store.fetch("spaces_by_id", (work.args["spaces"],))]


async def _build(work: Work) -> None:
    for space in await _spaces(work):
        await LEVELS[space.isolation].build(work.estate, space)


async def _ready(work: Work, conn: Conn) -> None:
    for row in await fetch(conn, "spaces_by_id", (work.args["spaces"],)):
        if row["isolation"] == Isolation.DATABASE:
            await work.estate.introduce(conn, row["shard"], row["database"])
    await fetch(conn, "space_states", ("ready", work.args["spaces"]))


async def _drop(work: Work) -> None:
    for space in await _spaces(work):
        await LEVELS[space.isolation].drop(work.estate, space)


async def _forget(work: Work, conn: Conn) -> None:
    await fetch(conn, "drop_spaces", (work.args["spaces"],))


REFILL = Kind("refill", (Step("build", act=_build, record=_ready, undo_act=_drop, undo_record=_forget),))
