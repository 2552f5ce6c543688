"""Replicas of shards, for reads: add, list, remove."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

from tenantry.catalog import rows
from tenantry.errors import Conflict, NotFound
from tenantry.model import Replica, parse_name, shown
from tenantry.postgres.connect import connect, dsn_at, shown_dsn
from tenantry.service.control import Control
from tenantry.service.shard import parse_address

_IDENTITY = "SELECT system_identifier, pg_is_in_recovery() FROM pg_control_system()"


async def add(control: Control, shard: str, name: str, address: str) -> Replica:
    """Let reads go to a physical standby of a shard, for tenants whose plan says so (``replica_seconds``).

    Args:
        name: its name, for messages.
        address: where applications connect to it, without login and database; roles and passwords are the shard's.

    Raises:
        ShardNotFound: there is no such shard.
        InvalidInput: the name or the address has a wrong form.
        ServerUnreachable: it does not answer, or does not let the shard's login in.
        Conflict: it is no standby of the shard, or there is a replica of this name.
    """
    parse_name(name, "replica")
    where = parse_address(address)
    await control.store.shard(shard)
    await _refuse_other(control, shard, where)
    found = await control.store.fetch("new_replica", (shard, name, where))
    if not found:
        raise Conflict(f"there is a replica {name!r} of the shard {shard!r} already", hint="choose another name")
    await control.audit("replica add", f"{shard}:{name}")
    return rows.replica(found[0])


async def listing(control: Control, shard: str | None = None) -> list[Replica]:
    """The replicas of a shard, or of all.

    Raises:
        ShardNotFound: there is no such shard.
    """
    if shard is not None:
        await control.store.shard(shard)
    return [rows.replica(row) for row in await control.store.fetch("replicas", {"shard": shard})]


async def remove(control: Control, shard: str, name: str) -> Replica:
    """Let no more reads go to a replica. What runs there ends in its own time.

    Raises:
        NotFound: there is no such replica.
    """
    found = await control.store.fetch("drop_replica", (shard, name))
    if not found:
        raise NotFound(f"the shard {shown(shard)} has no replica {shown(name)}", hint="see 'tenantry replica list'")
    await control.audit("replica remove", f"{shard}:{name}")
    return rows.replica(found[0])


async def _refuse_other(control: Control, shard: str, where: str) -> None:
    """A standby of another server would hold other tenants, or another state of ours."""
    login = (await control.store.fetch("admin_dsn", (shard,)))[0]["admin_dsn"]
    dsn = dsn_at(login, where)
    ours, _ = await _identity(login, control.settings.connect_seconds)
    theirs, standby = await _identity(dsn, control.settings.connect_seconds)
    if theirs != ours:
        raise Conflict(f"the server is no standby of the shard {shard!r}", where=shown_dsn(dsn), hint="name one")
    if not standby:
        what = f"the server is no standby: it is the shard {shard!r} itself, or was promoted"
        raise Conflict(what, where=shown_dsn(dsn), hint="name the standby's own address")


async def _identity(dsn: str, seconds: float) -> tuple[int, bool]:
    conn: AsyncConnection[Any] = await connect(dsn, seconds=seconds)
    try:
        found = await (await conn.execute(_IDENTITY)).fetchall()
    finally:
        await conn.close()
    return found[0][0], found[0][1]
