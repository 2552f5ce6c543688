"""What the doctor looks at on a shard's replicas: whether applications may read there, and how far behind they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from tenantry.catalog import rows
from tenantry.model import Replica, Shard
from tenantry.perimeter.binder import APP
from tenantry.postgres import sqlfile
from tenantry.postgres.connect import connect, dsn_at, shown_dsn
from tenantry.service.check import Check, attempt, counted, failed, ok, warning
from tenantry.service.control import Control

_SQL = sqlfile.load("tenantry.service", "doctor.sql")
_PATIENCE_SECONDS = 1.0
_PAUSE_SECONDS = 0.02


async def check_replicas(control: Control, shard: Shard) -> list[Check]:
    """One check for each replica."""
    found: list[Check] = []
    for row in await control.store.fetch("replicas", {"shard": shard.name}):
        replica = rows.replica(row)
        name = f"replica {shard.name}:{replica.name}"
        found += await attempt(name, _replica(control, replica, name))
    return found


async def _replica(control: Control, replica: Replica, name: str) -> Iterable[Check]:
    """As an application meets it, after the primary was asked how far its log goes."""
    seconds = control.settings.connect_seconds
    async with control.estate.root(replica.shard) as primary:
        lsn, streams = (await (await primary.execute(_SQL["sent"])).fetchall())[0]
    space = (await control.store.fetch("pooled_space", (replica.shard,)))[0]
    login = await control.estate.login_dsn(replica.shard, APP, space["database"])
    conn = await connect(dsn_at(login, replica.dsn), seconds=seconds)
    try:
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            standby, behind = (await (await conn.execute(_SQL["replayed"], (lsn,))).fetchall())[0]
            if not standby or behind <= 0 or time.monotonic() >= until:
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        where = shown_dsn(conn.info.dsn)
    finally:
        await conn.close()
    return [_judged(name, where, replica, standby=standby, behind=behind, streams=streams)]


def _judged(name: str, where: str, replica: Replica, *, standby: bool, behind: int, streams: int) -> Check:
    if not standby:
        what = f"the server is no standby (any more): no read goes there, at {where}"
        return failed(name, what, f"remove it: 'tenantry replica remove {replica.shard} {replica.name}'")
    if behind > 0:
        what = f"{counted(behind, 'byte')} behind after {_PATIENCE_SECONDS:g} s, at {where}: reads go to the primary"
        step = "see pg_stat_replication on the primary, and pg_stat_wal_receiver on the replica"
        return warning(name, f"{what}; standbys that stream from the primary: {streams}", step)
    return ok(name, f"caught up, at {where}")
