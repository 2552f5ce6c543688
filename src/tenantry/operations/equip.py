"""Equip a shard: roles and logins, the pooled database, the template database; then open it."""

from __future__ import annotations

from psycopg import sql

from tenantry.catalog.store import Conn, fetch
from tenantry.operations.steps import Kind, Step, Work
from tenantry.perimeter.apply import apply_server
from tenantry.placements import database, pooled
from tenantry.placements.space import Space
from tenantry.postgres.discretion import verifier


async def _roles(work: Work) -> None:
    """Roles belong to the whole server; the passwords were chosen when the shard was put down."""
    shard = await work.estate.shard(work.args["shard"])
    async with work.estate.root(shard.name) as conn:
        await apply_server(conn, shard.binding, (await work.store.fetch("house_id"))[0]["id"])
        for login in await work.store.fetch("credentials", (shard.name,)):
            secret = verifier(conn, login["role"], login["password"])
            query = sql.SQL("ALTER ROLE {} PASSWORD {}")
            await conn.execute(query.format(sql.Identifier(login["role"]), sql.Literal(secret)))


async def _space(work: Work) -> Space:
    return Space.of((await work.store.fetch("pooled_space", (work.args["shard"],)))[0])


async def _pooled(work: Work) -> None:
    await pooled.build(work.estate, [await _space(work)])


async def _ready(work: Work, conn: Conn) -> None:
    space = (await fetch(conn, "pooled_space", (work.args["shard"],)))[0]
    await work.estate.introduce(conn, space["shard"], space["database"])
    await fetch(conn, "space_states", ("ready", [space["id"]]))


async def _template(work: Work) -> None:
    await database.build_template(work.estate, work.args["shard"])


async def _open(work: Work, conn: Conn) -> None:
    if not work.args["closed"]:
        await fetch(conn, "shard_state", ("open", work.args["shard"]))
    await fetch(conn, "audit", (work.actor, "shard add", work.args["shard"], None, "{}"))


async def _forget(work: Work, conn: Conn) -> None:
    """What was made on the server stays there: it may have been there before us."""
    await conn.execute("DELETE FROM spaces WHERE shard = %s", (work.args["shard"],))
    await conn.execute("DELETE FROM shards WHERE name = %s", (work.args["shard"],))


EQUIP = Kind(
    "equip",
    (
        Step("roles", act=_roles, undo_record=_forget),
        Step("pooled", act=_pooled, record=_ready),
        Step("template", act=_template),
        Step("open", record=_open, final=True),
    ),
)
