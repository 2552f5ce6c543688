"""Waiting until replicas know what has changed on their primary, before somebody relies on it."""

from __future__ import annotations

import asyncio
import time

import psycopg

from tenantry.catalog import rows
from tenantry.errors import TenantryError
from tenantry.model import Replica
from tenantry.placements.estate import Estate
from tenantry.postgres.connect import connect, dsn_at

_PAUSE_SECONDS = 0.05
_CONNECT_SECONDS = 2.0


async def wait_until_replayed(estate: Estate, shard: str) -> None:
    """Return when no read can be answered any more by how a shard was before this call.

    Each replica has replayed what is committed now; or the time is over for which a process believes one that does not
    say so: the longest ``replica_seconds`` of all plans.
    """
    found = [rows.replica(row) for row in await estate.store.fetch("replicas", {"shard": shard})]
    longest = max((rows.plan(row).replica_seconds for row in await estate.store.fetch("plans")), default=0)
    if not found or not longest:
        return
    until = time.monotonic() + longest
    async with estate.root(shard) as conn:
        lsn = (await (await conn.execute("SELECT pg_current_wal_insert_lsn()::text")).fetchall())[0][0]
    login = await estate.root_dsn(shard)
    await asyncio.gather(*(_wait(login, replica, lsn, until) for replica in found))


async def _wait(login: str, replica: Replica, lsn: str, until: float) -> None:
    while time.monotonic() < until:
        try:
            conn = await connect(dsn_at(login, replica.dsn), seconds=_CONNECT_SECONDS)
            try:
                while time.monotonic() < until:
                    query = "SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= %s::pg_lsn"
                    if (await (await conn.execute(query, (lsn,))).fetchall())[0][0]:
                        return
                    await asyncio.sleep(_PAUSE_SECONDS)
            finally:
                await conn.close()
        except (TenantryError, psycopg.Error):
            await asyncio.sleep(min(1.0, max(0.0, until - time.monotonic())))
