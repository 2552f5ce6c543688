"""What a binding on a replica asks, and what a commit on a primary brings back, so that replicas can be read.

A replica must have replayed a position of the primary's write-ahead log before the transaction's first snapshot. That
position is learned from the primary with each commit, in the same round trip.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import generators, pq
from psycopg.abc import PQGen

WHERE_WAL_IS = (
    b"SELECT pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text,"
    b" pg_catalog.pg_current_wal_flush_lsn()::pg_catalog.text"
)
_ON_REPLICA = b" FROM tenantry.caught_up_v1($%d::pg_catalog.text::pg_catalog.pg_lsn, $%d)"

_FATAL = pq.ExecStatus.FATAL_ERROR
_PIPELINE_SYNC = pq.ExecStatus.PIPELINE_SYNC

Log = tuple[str, str]
"""How far a write-ahead log goes: what is in it, and what of that is on the disk. Only that reaches replicas, so what
is read without having been written need not be further; a commit that did not wait for the disk is further."""

Ended = Callable[[float, Log | None, bool], None]
"""Is told after a transaction on a primary when its end was asked for (``time.monotonic``), how far the write-ahead log
went then (None: that is not known), and whether it was a commit."""


@dataclass(frozen=True, slots=True)
class Floor:
    """What a replica must have replayed before it is read.

    Args:
        lsn: a position in the write-ahead log.
        patience: how many milliseconds to wait for it.
    """

    lsn: str
    patience: int = 0

    @property
    def arguments(self) -> list[bytes]:
        """Parameters of the binding on a replica, after the others."""
        return [self.lsn.encode(), str(self.patience).encode()]


BIND_ON_REPLICA = (
    "SELECT FROM tenantry.caught_up_v1($3::pg_catalog.text::pg_catalog.pg_lsn, $4::pg_catalog.text::pg_catalog.int4)"
    " WHERE tenantry.bind_v1($1, $2) IS NULL"
)
"""The same for a driver that takes no rows: token, whether the tenant is the last one's, position, patience."""


def on_replica(statement: bytes, first: int) -> bytes:
    """A binding that also asks whether the replica has caught up.

    Args:
        statement: the binding on a primary.
        first: the number of the first parameter that is free.
    """
    return statement + _ON_REPLICA % (first, first + 1)


def end_and_tell(conn: Any, command: bytes, plain: PQGen[Any], ended: Ended) -> PQGen[Any]:
    """Commit or roll back, and ask in the same round trip how far the write-ahead log goes then.

    Args:
        conn: psycopg's connection, in a transaction.
        command: ``COMMIT`` or ``ROLLBACK``.
        plain: its own way to do it, for where that can't be done.
    """
    pgconn, asked = conn.pgconn, time.monotonic()
    log: Log | None = None
    if conn._pipeline is not None or pgconn.transaction_status != pq.TransactionStatus.INTRANS:
        try:
            return (yield from plain)
        finally:
            ended(asked, None, command == b"COMMIT")
    conn._check_connection_ok()
    try:
        pgconn.send_query(command + b";" + WHERE_WAL_IS)
        results = yield from generators.execute(pgconn)
        if len(results) == 2 and results[1].status != _FATAL:
            log = results[1].get_value(0, 0).decode(), results[1].get_value(0, 1).decode()
    finally:
        ended(asked, log, command == b"COMMIT")
    if results[0].status == _FATAL:
        raise psycopg.errors.error_from_result(results[0], encoding=pgconn._encoding)
    return results[0]


def read_to_sync(pgconn: Any, results: list[Any]) -> PQGen[None]:
    """Read the results up to the synchronisation point, or up to the first one that failed."""
    while True:
        try:
            # Most of them have come with the first one; to wait for each costs more than to take it.
            result = (yield from generators.fetch(pgconn)) if pgconn.is_busy() else pgconn.get_result()
            if result is None and pgconn.status != pq.ConnStatus.OK:
                raise psycopg.OperationalError("the connection was lost while the transaction began")
        except psycopg.OperationalError:
            if results and results[-1].status == _FATAL:  # the server has said why
                raise psycopg.errors.error_from_result(results[-1], encoding=pgconn._encoding) from None
            raise
        if result is not None and result.status == _PIPELINE_SYNC:
            return
        if result is not None and (not results or results[-1].status != _FATAL):
            results.append(result)
