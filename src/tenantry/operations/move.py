"""Move a tenant to another place while it works: copy, follow, close the door for a moment, change over, clear up.

Until the source is cleared the tenant can be brought back, with what it has written since.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from psycopg import AsyncConnection, sql

from tenantry.catalog.store import Conn, fetch
from tenantry.errors import NoCapacity, OperationFailed, StreamBroken
from tenantry.model import Isolation
from tenantry.operations.steps import Kind, Step, Wait, Work
from tenantry.perimeter.binder import ADMIN
from tenantry.placements.door import Door, DoorBusy, closed, reopen
from tenantry.placements.levels import LEVELS, homes, new_spaces
from tenantry.placements.replicas import wait_until_replayed
from tenantry.placements.residents import admit, rehome
from tenantry.placements.space import Home, Space
from tenantry.postgres.connect import merge_dsn
from tenantry.stream.fit import obstacles
from tenantry.stream.lsn import parse_lsn
from tenantry.stream.path import Path
from tenantry.stream.sequences import raise_sequences
from tenantry.stream.shape import Shape
from tenantry.stream.source import SourceBusy
from tenantry.stream.transfer import Following, Site, Transfer

_NEAR_SECONDS = 1.0
_ROUND_SECONDS = 600.0
_ROUNDS = 50
_TAIL_SECONDS = 5.0
_INSIDE_SECONDS = 10.0
_DRAIN_SECONDS = 1.0
_ATTEMPTS = 3
_AGAIN_SECONDS = 15
_LOOK_SECONDS = 30
_HEADROOM = 1000


@dataclass(frozen=True, slots=True)
class Ends:
    """Where a tenant is and where it goes: the same tenant at two epochs."""

    source: Home
    target: Home
    column: str

    @property
    def is_one_database(self) -> bool:
        """Whether both are schemas of one database, where the tenant has one resident and not two."""
        here, there = self.source.space, self.target.space
        return (here.shard, here.database) == (there.shard, there.database)

    @property
    def back(self) -> Ends:
        """The way back, at the epoch after."""
        return Ends(self.target, replace(self.source, epoch=self.target.epoch + 1), self.column)


async def _ends(work: Work) -> Ends:
    placed = work.outputs["place"]
    ids = [placed["source"], placed["target"]]
    spaces = {row["id"]: Space.of(row) for row in await work.store.fetch("spaces_by_id", (ids,))}
    (home,) = await homes(work.estate, work.tenants)
    source = replace(home, epoch=placed["epoch"], space=spaces[placed["source"]])
    target = replace(home, epoch=placed["epoch"] + 1, space=spaces[placed["target"]])
    return Ends(source, target, (await work.estate.house()).tenant_column)


async def _transfer(work: Work, ends: Ends, name: str) -> Transfer:
    sites = []
    for space in (ends.source.space, ends.target.space):
        dsn = await work.estate.login_dsn(space.shard, ADMIN, space.database)
        dsn = merge_dsn(dsn, application_name=work.estate.name)
        sites.append(Site(partial(work.estate.root, space.shard, space.database), dsn))
    path = Path(ends.source.space.schema, ends.target.space.schema, ends.column, ends.source.key, ends.target.key)
    filtered = ends.source.space.isolation is Isolation.POOLED
    return Transfer(f"tenantry_{name}_{work.operation}", path, sites[0], sites[1], filtered)


async def _there(work: Work) -> Transfer:
    return await _transfer(work, await _ends(work), "move")


async def _back(work: Work) -> Transfer:
    return await _transfer(work, (await _ends(work)).back, "back")


# -- where to


async def _place(work: Work, conn: Conn) -> Mapping[str, Any]:
    (now,) = await fetch(conn, "homes", (work.tenants,))
    isolation, shard = Isolation(work.args["isolation"]), work.args["shard"]
    if isolation is Isolation.POOLED:
        target, own = await _pooled(conn, shard), False
    else:
        if not await fetch(conn, "open_shards", {"shard": shard}):
            raise _closed(shard)
        target, own = (await new_spaces(work.estate, conn, [shard], isolation))[0].id, True
    if target == now["space"]:
        raise OperationFailed(f"the tenant {now['slug']!r} lives there already")
    return {"source": now["space"], "target": target, "own": own, "epoch": now["epoch"]}


async def _pooled(conn: Conn, shard: str) -> int:
    found = [row["id"] for row in await fetch(conn, "open_pooled", {"shard": shard})]
    if not found:
        raise _closed(shard)
    space: int = (await fetch(conn, "emptiest_pooled", (found,)))[0]["id"]
    return space


def _closed(shard: str) -> NoCapacity:
    return NoCapacity(f"the shard {shard!r} takes no tenants", hint=f"run 'tenantry shard open {shard}'")


async def _unplace(work: Work, conn: Conn) -> None:
    placed = work.outputs.get("place", {})
    if placed.get("own"):
        await fetch(conn, "drop_spaces", ([placed["target"]],))


async def _build(work: Work) -> None:
    target = (await _ends(work)).target.space
    if target.state == "building":
        await LEVELS[target.isolation].build(work.estate, [target])


async def _built(work: Work, conn: Conn) -> None:
    (row,) = await fetch(conn, "spaces_by_id", ([work.outputs["place"]["target"]],))
    if row["state"] == "building":
        if row["isolation"] == Isolation.DATABASE:
            await work.estate.introduce(conn, row["shard"], row["database"])
        await fetch(conn, "space_states", ("occupied", [row["id"]]))


async def _unbuild(work: Work) -> None:
    if work.outputs.get("place", {}).get("own"):
        target = (await _ends(work)).target.space
        await LEVELS[target.isolation].drop(work.estate, target)


# -- there


async def _check(work: Work) -> None:
    """All that stands in the way, said at once."""
    ends, transfer = await _ends(work), await _there(work)
    source, target = await transfer.shapes()
    found = [f"{each.what} ({each.fix})" for each in obstacles(source, target, filtered=transfer.filtered)]
    for site, space in ((transfer.source, ends.source.space), (transfer.target, ends.target.space)):
        async with site.connect() as conn:
            found += [f"{space.shard}: {what}" for what in await _server_obstacles(conn)]
    if found:
        raise OperationFailed(
            f"the tenant can't be moved: {'; '.join(found)}",
            where=ends.source.space.name,
            hint="mend this, and try again",
        )


async def _server_obstacles(conn: AsyncConnection[Any]) -> list[str]:
    """What a server does not allow, as far as it can be asked beforehand."""
    query = (
        "SELECT current_setting('wal_level') = 'logical', has_parameter_privilege('session_replication_role', 'SET'),"
        " current_setting('max_replication_slots')::int > (SELECT count(*) FROM pg_replication_slots), current_user"
    )
    logical, may_replicate, has_slots, user = (await (await conn.execute(query)).fetchall())[0]
    role = sql.Identifier(user).as_string(conn)
    return [
        text
        for text, is_so in (
            ("wal_level is not logical (set it, and restart the server)", not logical),
            (
                (
                    f"{user} may not set session_replication_role"
                    f" (GRANT SET ON PARAMETER session_replication_role TO {role};)"
                ),
                not may_replicate,
            ),
            ("all replication slots are taken (raise max_replication_slots, and restart the server)", not has_slots),
        )
        if is_so
    ]


async def _copy(work: Work) -> None:
    ends = await _ends(work)
    transfer = await _there(work)
    async with _patience(work):
        await transfer.begin()
    if ends.target.space.isolation is not Isolation.POOLED:
        shape = (await transfer.shapes())[1]
        async with transfer.target.connect() as conn:
            for table in shape.walled:
                await conn.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(shape.schema, table.name)))


async def _uncopy(work: Work) -> None:
    if "place" not in work.outputs:
        return
    ends, there, back = await _ends(work), await _there(work), await _back(work)
    await there.end()
    await back.end()
    if ends.target.space.isolation is Isolation.POOLED:
        await there.empty((await there.shapes())[0])


async def _follow(work: Work) -> None:
    """Until little is missing, and all that is there is right."""
    async with _patience(work), (await _there(work)).following() as following:
        await _come_near(following)
        await following.verify()
        await _come_near(following)


@asynccontextmanager
async def _patience(work: Work) -> AsyncIterator[None]:
    """Whoever has a long transaction open is not disturbed: another attempt is made later."""
    try:
        yield
    except SourceBusy:
        raise await _later(work) from None


async def _later(work: Work) -> Wait:
    now: datetime = (await work.store.fetch("now"))[0]["now"]
    return Wait(now + timedelta(seconds=_AGAIN_SECONDS))


async def _come_near(following: Following) -> None:
    for _ in range(_ROUNDS):
        if await following.catch_up(_NEAR_SECONDS):
            return
        if not await following.catch_up(_ROUND_SECONDS):
            break
    raise StreamBroken("the tenant writes faster than its changes can be applied", hint="try again when it is quieter")


# -- over


async def _switch(work: Work) -> None:
    ends, there, back = await _ends(work), await _there(work), await _back(work)
    if not await _has_left(work, ends):
        if not ends.is_one_database:
            await admit(work.estate, [ends.target], "arriving")
        async with _patience(work):
            shape = await back.prepare()
        await _leave(work, ends, there, back, shape)
    await _let_in(work, ends)


async def _leave(work: Work, ends: Ends, there: Transfer, back: Transfer, shape: Shape | None) -> None:
    """Catch up, close the door, and be gone; somebody who stays inside for long is not disturbed."""
    async with there.following() as following:
        await _come_near(following)
        await _raise_sequences(following, _HEADROOM)
        await _resident(work, ends.target)  # so that there is a connection when it is needed at once
        space = ends.source.space
        for _ in range(_ATTEMPTS):
            try:
                async with closed(
                    work.estate,
                    space.shard,
                    space.database,
                    [ends.source.code],
                    inside_seconds=_INSIDE_SECONDS,
                    drain_seconds=_DRAIN_SECONDS,
                ) as door:
                    if await _has_all(following):
                        await _change_over(ends, back, shape, following, door)
                        return
            except DoorBusy:
                await _come_near(following)
    raise await _later(work)


async def _has_all(following: Following) -> bool:
    """While nobody is inside: whether all of it is at the target. Everything is looked at at once."""

    async def look() -> None:
        await following.expect_same_tables()
        await _raise_sequences(following, 0)

    arrived, _ = await asyncio.gather(following.catch_up(_TAIL_SECONDS), look())
    return arrived


async def _change_over(ends: Ends, back: Transfer, shape: Shape | None, following: Following, door: Door) -> None:
    """While nobody is inside: let the tenant go."""
    if shape is not None:
        row = await (await following.at_target.execute("SELECT pg_current_wal_insert_lsn()::text")).fetchone()
        assert row is not None
        await back.note(door.gate, parse_lsn(row[0]), shape)
    if ends.is_one_database:
        await door.enter(ends.target.space.schema)
    else:
        await door.leave()


async def _raise_sequences(following: Following, headroom: int) -> None:
    path, names = following.transfer.path, following.shape.sequences
    here, there = following.at_source, following.at_target
    await raise_sequences(here, there, path.source, path.target, names, headroom=headroom)


async def _resident(work: Work, home: Home) -> tuple[str, int, str] | None:
    """State, epoch and schema of the tenant's resident in the database of one of its homes."""
    async with work.estate.admin(home.space.shard, home.space.database) as conn:
        query = "SELECT state, epoch, schema FROM tenantry.residents WHERE code = %s"
        row = await (await conn.execute(query, (home.code,))).fetchone()
    return None if row is None else (row[0], row[1], row[2])


async def _has_left(work: Work, ends: Ends) -> bool:
    """Whether the change-over has been committed, though perhaps nobody was told."""
    resident = await _resident(work, ends.source)
    if resident is None:
        return False
    state, epoch, _ = resident
    return epoch >= ends.target.epoch if ends.is_one_database else state == "moved"


async def _let_in(work: Work, ends: Ends) -> None:
    """Not before no replica of the old place lets anybody read there any more."""
    await wait_until_replayed(work.estate, ends.source.space.shard)
    await rehome(work.estate, ends.target)
    if not ends.is_one_database:
        await admit(work.estate, [ends.target], await _state(work))


async def _state(work: Work) -> str:
    """That of a resident who lives somewhere."""
    tenant = (await work.store.fetch("tenants_by_id", (work.tenants,)))[0]
    return "suspended" if tenant["state"] == "suspended" else "open"


async def _switched(work: Work, conn: Conn) -> Mapping[str, Any]:
    placed = work.outputs["place"]
    await _put(conn, work, placed["target"], placed["epoch"] + 1)
    now = (await fetch(conn, "now"))[0]["now"]
    return {"until": (now + timedelta(seconds=work.args["grace"])).isoformat()}


async def _put(conn: Conn, work: Work, space: int, epoch: int) -> None:
    for tenant in work.tenants:
        await fetch(conn, "move_placement", {"tenant": tenant, "space": space, "epoch": epoch})
    await fetch(conn, "audit_many", (work.actor, f"tenant {work.kind}", [str(each) for each in work.tenants]))


async def _switch_back(work: Work) -> None:
    ends = await _ends(work)
    if "switch" not in work.outputs:
        await _stay(work, ends)
        return
    home = ends.back
    if not await _has_left(work, home):
        if not home.is_one_database:
            await admit(work.estate, [home.target], "arriving")
        back = await _back(work)
        await _leave(work, home, back, await _there(work), None)
    await _let_in(work, home)
    await rehome(work.estate, home.target, home.source)


async def _stay(work: Work, ends: Ends) -> None:
    """The catalog has told nobody of the target, so nobody has been there, even if the tenant has left already."""
    home = ends.source
    (now,) = await homes(work.estate, work.tenants)
    if now.epoch != home.epoch:  # it has been there, and was brought back: an undoing that was interrupted goes on
        return
    if await _has_left(work, ends):
        query = "UPDATE tenantry.residents SET state = %s, epoch = %s, schema = %s, gate = NULL WHERE code = %s"
        async with work.estate.admin(home.space.shard, home.space.database) as conn:
            await conn.execute(query, (await _state(work), home.epoch, home.space.schema, home.code))
    else:
        await reopen(work.estate, home.space.shard, home.space.database, [home.code])
    await rehome(work.estate, home, ends.target)


async def _put_back(work: Work, conn: Conn) -> None:
    if "switch" in work.outputs:
        placed = work.outputs["place"]
        await _put(conn, work, placed["source"], placed["epoch"] + 2)


# -- afterwards


async def _settle(work: Work) -> None:
    """Compare once more, now that the tenant writes at its new place and the old one follows."""
    await (await _there(work)).end()
    async with _patience(work), (await _back(work)).following() as following:
        await following.verify()


async def _grace(work: Work) -> None:
    """The old place follows the new one, so that the way back is short and the log does not pile up."""
    until = datetime.fromisoformat(work.outputs["switch"]["until"])
    now: datetime = (await work.store.fetch("now"))[0]["now"]
    if now >= until:
        return
    async with (await _back(work)).following() as following:
        await _come_near(following)
    raise Wait(min(until, now + timedelta(seconds=_LOOK_SECONDS)))


async def _clear(work: Work) -> None:
    """A place of its own may be gone already, and with a database whatever was noted in it."""
    ends, back = await _ends(work), await _back(work)
    await back.stop()
    source = ends.source.space
    if source.isolation is not Isolation.DATABASE:
        await back.forget()
    if source.isolation is Isolation.POOLED:
        await back.empty((await back.shapes())[0])
    else:
        await LEVELS[source.isolation].drop(work.estate, source)
    await rehome(work.estate, ends.target, ends.source)


async def _cleared(work: Work, conn: Conn) -> None:
    (row,) = await fetch(conn, "spaces_by_id", ([work.outputs["place"]["source"]],)) or ({"isolation": "pooled"},)
    if row["isolation"] != Isolation.POOLED:
        await fetch(conn, "drop_spaces", ([work.outputs["place"]["source"]],))


MOVE = Kind(
    "move",
    (
        Step("place", record=_place, undo_record=_unplace),
        Step("build", act=_build, record=_built, undo_act=_unbuild),
        Step("check", act=_check),
        Step("copy", act=_copy, undo_act=_uncopy),
        Step("follow", act=_follow),
        Step("switch", act=_switch, record=_switched, undo_act=_switch_back, undo_record=_put_back),
        Step("settle", act=_settle),
        Step("grace", act=_grace),
        Step("clear", act=_clear, record=_cleared, final=True),
    ),
)
