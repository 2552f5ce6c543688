"""Refill the warm pool: build empty homes before anybody needs them."""

from __future__ import annotations

from collections.abc import Sequence

from tenantry.catalog.store import Conn, fetch
from tenantry.model import Isolation, encode_key, parse_key
from tenantry.operations.steps import Kind, Step, Work
from tenantry.placements.levels import LEVELS
from tenantry.placements.residents import admit
from tenantry.placements.space import Home, Space


async def _spaces(work: Work) -> list[Space]:
    return [Space.of(row) for row in await work.store.fetch("spaces_by_id", (work.args["spaces"],))]


async def _build(work: Work) -> None:
    spaces = await _spaces(work)
    if spaces:
        await LEVELS[spaces[0].isolation].build(work.estate, spaces)
    await admit(work.estate, await _future(work, spaces))


async def _future(work: Work, spaces: Sequence[Space]) -> list[Home]:
    """A database is made with a resident: its tenant is let in before anybody knows who that will be."""
    key_type = (await work.estate.house()).key_type
    keys = [parse_key(key, key_type) for key in work.args.get("keys", ())]
    plan = work.args.get("plan", "")
    return [Home(encode_key(key), key, 1, plan, space) for key, space in zip(keys, spaces, strict=False)]


async def _ready(work: Work, conn: Conn) -> None:
    for row in await fetch(conn, "spaces_by_id", (work.args["spaces"],)):
        if row["isolation"] == Isolation.DATABASE:
            await work.estate.introduce(conn, row["shard"], row["database"])
    if keys := work.args.get("keys"):
        await fetch(conn, "new_reserved", (work.args["plan"], keys, work.args["spaces"][: len(keys)]))
    await fetch(conn, "space_states", ("ready", work.args["spaces"]))


async def _drop(work: Work) -> None:
    for space in await _spaces(work):
        await LEVELS[space.isolation].drop(work.estate, space)


async def _forget(work: Work, conn: Conn) -> None:
    await fetch(conn, "drop_spaces", (work.args["spaces"],))


REFILL = Kind("refill", (Step("build", act=_build, record=_ready, undo_act=_drop, undo_record=_forget),))
