"""What asyncpg's gate does so that replicas can be read; see :mod:`tenantry.perimeter.replica`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import asyncpg  # type: ignore[import-untyped]

from tenantry.perimeter import wire
from tenantry.perimeter.replica import WHERE_WAL_IS, Ended

if TYPE_CHECKING:
    from tenantry.perimeter.asyncpg import Gate


async def end_and_tell(gate: Gate, command: str, timeout: Any, ended: Ended) -> str:
    """Commit or roll back, and ask in the same round trip how far the write-ahead log goes then."""
    asked, log = time.monotonic(), None
    try:
        timeout = await gate.until_free(timeout)
        if gate.pending or not gate.is_connected():
            status: str = await gate.send("query", command, timeout)
            return status
        if gate.wal is None and command == wire.ROLLBACK:  # in a transaction that has failed nothing can be prepared
            await gate.send("query", command, timeout)
            await _prepare(gate)
        else:
            await _prepare(gate)
            # From here on nobody else may write: bind_execute() does so before it waits for anything.
            gate.cork.hold(wire.end_message(command))
        [row] = await gate.send("bind_execute", gate.wal, (), "", 0, False, timeout)
        log = row[0], row[1]
        return command
    finally:
        ended(asked, log, command == wire.COMMIT)


async def _prepare(gate: Gate) -> None:
    if gate.wal is None:
        gate.wal = await gate.describe("", WHERE_WAL_IS.decode())
        gate.wal.mark_unprepared()


async def try_here(gate: Gate, **statement: Any) -> Any:
    """Execute the first statement of a transaction that has begun on a replica: here or, where it fails, elsewhere."""
    gate.untried = False
    try:
        return await gate.send("bind_execute", **statement)
    except asyncpg.PostgresError as error:
        gate.unproven = is_doubtful(error)
        elsewhere = await gate.elsewhere(error)
    statement["state"] = await elsewhere.prepared_anew(statement["state"])
    return await elsewhere.send("bind_execute", **statement)


def is_doubtful(error: BaseException) -> bool:
    """Whether a first statement that has failed on a replica may succeed on the primary: it may have been cancelled for
    the sake of replay, or need what only a primary can do or has by now."""
    return isinstance(error, asyncpg.PostgresError) and not isinstance(error, asyncpg.QueryCanceledError)
