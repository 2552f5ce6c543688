"""A replication connection to a source: slots with a snapshot, and the changes that follow it."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import AsyncConnection, pq, sql

from tenantry.errors import ServerUnreachable, StreamBroken
from tenantry.postgres.connect import connect
from tenantry.stream.inflow import Inflow
from tenantry.stream.lsn import parse_lsn, shown_lsn
from tenantry.stream.protocol import Keepalive, WalData, parse_frame, status
from tenantry.stream.snapshot import SESSION

log = logging.getLogger("tenantry.stream")

SLOT_SECONDS = 30.0
"""How long the making of a slot may wait for transactions that write."""

_STATUS_SECONDS = 5.0


class SourceBusy(Exception):
    """A transaction of the server takes so long that no slot can be made now."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that was just made: its snapshot shows what had been committed before ``lsn``, where its changes begin.

    The snapshot can be imported while the connection that made the slot lives and does nothing else.
    """

    name: str
    lsn: int
    snapshot: str


class Source:
    """A replication connection; enter it with ``async with``.

    Args:
        dsn: a login with REPLICATION, to the database itself: never through a pooler.
        seconds: how long to wait for the server.
    """

    def __init__(self, dsn: str, *, seconds: float = 5.0) -> None:
        self._dsn = dsn
        self._seconds = seconds
        self._conn: AsyncConnection[Any] | None = None
        self._inflow: Inflow | None = None
        self._flushed = 0
        self._received = 0
        self._reporting: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        options = " ".join(f"-c {name}={value.replace(' ', '')}" for name, value in SESSION.items())
        self._conn = await connect(self._dsn, seconds=self._seconds, replication="database", options=options)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reporting is not None:
            self._reporting.cancel()
            with suppress(asyncio.CancelledError):
                await self._reporting
        if self._conn is not None:
            await self._conn.close()

    async def create_slot(self, name: str, *, temporary: bool = False, snapshot: bool = True) -> Slot:
        """Make a slot and export its snapshot, when every transaction of the server that writes now has ended.

        Args:
            temporary: it goes with this connection.
            snapshot: whether one is wanted; without, the connection may be used for other things afterwards.

        Raises:
            SourceBusy: one of them did not end in time. The connection is closed; drop the slot.
            psycopg.Error: the server has no slot left, is not at ``wal_level = logical``, or has one of this name.
        """
        query = sql.SQL("CREATE_REPLICATION_SLOT {} {}LOGICAL pgoutput (SNAPSHOT {})").format(
            sql.Identifier(name),
            sql.SQL("TEMPORARY " if temporary else ""),
            sql.Literal("export" if snapshot else "nothing"),
        )
        try:
            async with asyncio.timeout(SLOT_SECONDS):
                row = await (await self._open.execute(query)).fetchone()
        except TimeoutError:
            await self._open.close()
            raise SourceBusy(f"a transaction has been running for longer than {SLOT_SECONDS:g} s") from None
        assert row is not None
        return Slot(row[0], parse_lsn(row[1]), row[2] or "")

    async def start(self, slot: str, publication: str, lsn: int) -> None:
        """Ask for the changes that were committed at ``lsn`` or later.

        Raises:
            StreamBroken: the slot is gone, or the server has dropped the log that it needs.
        """
        query = sql.SQL(
            "START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', messages 'true', publication_names {})"
        ).format(
            sql.Identifier(slot), sql.SQL(shown_lsn(lsn)), sql.Literal(sql.Identifier(publication).as_string(None))
        )
        self._inflow = Inflow(self._open)
        await self._inflow.begin(query, pq.ExecStatus.COPY_BOTH)
        self._flushed = self._received = lsn
        self._reporting = asyncio.create_task(self._report())

    async def read(self, seconds: float) -> list[WalData | Keepalive]:
        """What has come: at least one frame, or none if nothing comes for so long.

        Raises:
            ServerUnreachable: the connection is lost.
            StreamBroken: the server has ended the stream.
        """
        assert self._inflow is not None, "start the stream first"
        frames = [parse_frame(piece) for piece in await self._inflow.read(seconds)]
        if self._inflow.is_over:
            raise StreamBroken("the server has ended the stream")
        if frames:
            self._received = max(self._received, *(frame.lsn for frame in frames))
        if any(isinstance(frame, Keepalive) and frame.reply for frame in frames):
            self.report()
        return frames

    def confirm(self, lsn: int) -> None:
        """All that was committed before ``lsn`` is safe at its destination: the server need not keep it any longer."""
        self._flushed = max(self._flushed, lsn)

    def report(self) -> None:
        """Tell the server now what was confirmed; otherwise it hears of it within seconds."""
        pgconn = self._open.pgconn
        try:
            pgconn.put_copy_data(status(self._received, self._flushed, time.time()))
            pgconn.flush()
        except psycopg.OperationalError as error:
            raise ServerUnreachable(f"the replication connection is lost: {error}") from error

    @property
    def _open(self) -> AsyncConnection[Any]:
        assert self._conn is not None, "enter the source first"
        return self._conn

    async def _report(self) -> None:
        """A server that hears nothing for ``wal_sender_timeout`` takes us for dead, however long we write."""
        while True:
            await asyncio.sleep(_STATUS_SECONDS)
            try:
                self.report()
            except ServerUnreachable as error:
                log.warning("%s", error)
                return
