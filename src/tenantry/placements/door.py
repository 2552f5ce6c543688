"""The door of tenants that move: closed for a moment, in which nobody is inside.

    open --shut--> closing --close--> (nobody inside) --leave--> moved
                      |                     |
                      +------ reopen -------+--> open

``closing`` lets everybody in, but whoever comes in holds a shared lock until the end of his transaction (``bind_v1``).
So once all those have ended who came in before, the exclusive lock waits for the rest, and holds new ones at the door.
The exclusive lock belongs to a transaction, the gate; a door-keeper that dies takes it with him, and the door is open.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg

from tenantry.errors import OperationFailed
from tenantry.placements.estate import Conn, Estate
from tenantry.postgres import sqlfile

log = logging.getLogger("tenantry.placements")

_SQL = sqlfile.load("tenantry.placements", "door.sql")

_PAUSE_SECONDS = 0.005
_FORGOTTEN_SECONDS = 20
"""How long a gate may stand closed while its keeper does nothing, before the server opens it again."""


class DoorBusy(Exception):
    """Somebody is inside for longer than was to be waited; the door is open again."""


@dataclass(slots=True)
class Door:
    """The door of some tenants of one database, closed. Nobody is inside, and those who come wait.

    Attributes:
        codes: whose.
        closed_at: since when somebody may have had to wait, on the clock of ``time.monotonic``.
    """

    codes: Sequence[str]
    gate: Conn = field(repr=False)
    xid: str
    closed_at: float = 0.0
    is_over: bool = False

    async def leave(self) -> None:
        """Let nobody in any more: the tenants have moved. There is no way back from here but another move."""
        await self._end("leave", {})

    async def enter(self, schema: str) -> None:
        """Let them in again, in another schema of the same database and at the next epoch."""
        await self._end("enter", {"schema": schema})

    async def _end(self, query: str, more: dict[str, str]) -> None:
        await self.gate.execute(_SQL[query], {"codes": list(self.codes), **more})
        self.is_over = True  # if the answer to the COMMIT is lost, nobody knows: whoever asks next, asks the residents
        await self.gate.execute("COMMIT")


@asynccontextmanager
async def closed(
    estate: Estate, shard: str, database: str, codes: Sequence[str], *, inside_seconds: float, drain_seconds: float
) -> AsyncIterator[Door]:
    """Close the door of some tenants for the length of the block; unless they have left by then, it opens again.

    Args:
        shard, database: where they live.
        codes: who; they are open or suspended there.
        inside_seconds: how long to wait for the transactions that run already; nobody is kept from anything meanwhile.
        drain_seconds: how long to wait for those of the tenants that have come since; new ones wait for as long.

    Raises:
        DoorBusy: somebody is still inside.
        OperationFailed: one of the tenants does not live there.
    """
    async with estate.root(shard, database) as gate, estate.root(shard, database) as conn:
        await gate.execute(f"SET idle_in_transaction_session_timeout = '{_FORGOTTEN_SECONDS}s'")
        await gate.execute("BEGIN")
        row = await (await gate.execute("SELECT pg_current_xact_id()::text")).fetchone()
        assert row is not None
        door = Door(sorted(codes), gate, row[0])
        try:
            await _shut(door, conn)
            await _wait_inside(door, conn, inside_seconds)
            await _drain(door, drain_seconds)
            yield door
        finally:
            if not door.is_over:
                await _reopen(door, conn)


async def reopen(estate: Estate, shard: str, database: str, codes: Sequence[str]) -> None:
    """Open the door that a keeper has left behind who died."""
    async with estate.root(shard, database) as conn:
        await conn.execute(_SQL["reopen"], {"codes": list(codes), "xid": None})


async def _shut(door: Door, conn: Conn) -> None:
    rows = await (await conn.execute(_SQL["shut"], {"codes": list(door.codes), "xid": door.xid})).fetchall()
    missing = sorted(set(door.codes) - {code for (code,) in rows})
    if missing:
        raise OperationFailed(f"the tenant with the code {missing[0]} does not live here", where=conn.info.dbname)


async def _wait_inside(door: Door, conn: Conn, seconds: float) -> None:
    """Until all have ended who may have come in when the door was open: then nobody is inside without the lock."""
    until = time.monotonic() + seconds
    left = await _inside(door, conn)
    while left:
        if time.monotonic() > until:
            raise DoorBusy(f"{len(left)} transactions have been running for longer than {seconds:g} s")
        await asyncio.sleep(_PAUSE_SECONDS)
        await door.gate.execute("SELECT 1")  # else the server would take it for forgotten
        left &= await _inside(door, conn)


async def _inside(door: Door, conn: Conn) -> set[str]:
    return {each for (each,) in await (await conn.execute(_SQL["inside"], {"codes": list(door.codes)})).fetchall()}


async def _drain(door: Door, seconds: float) -> None:
    door.closed_at = time.monotonic()
    await door.gate.execute(f"SET LOCAL lock_timeout = {max(1, round(seconds * 1000))}")
    try:
        await door.gate.execute(_SQL["lock"], {"codes": list(door.codes)})
    except psycopg.errors.LockNotAvailable:
        raise DoorBusy(f"a transaction of the tenant has been running for longer than {seconds:g} s") from None


async def _reopen(door: Door, conn: Conn) -> None:
    """First the gate: those who wait come in when it is gone."""
    try:
        if not door.gate.closed:
            await door.gate.execute("ROLLBACK")
        await conn.execute(_SQL["reopen"], {"codes": list(door.codes), "xid": door.xid})
    except psycopg.Error as error:
        log.warning("a door could not be opened again, but nobody keeps it closed: %s", error)
