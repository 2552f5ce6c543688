"""Leads the changes of a source to a target, transaction by transaction."""

from __future__ import annotations

import time

from tenantry.errors import StreamBroken
from tenantry.stream.apply import Applier
from tenantry.stream.pgoutput import Begin, Change, Commit, Decoder, Delete, Insert, Note, Truncate, Update
from tenantry.stream.protocol import Keepalive
from tenantry.stream.source import Source

NOTE = "tenantry"
"""The prefix of the notes that a follower listens for."""

_CHANGES = 2000
_PAUSE_SECONDS = 1.0


class Follower:
    """Follows a source that was started where the target's applier has come to.

    Attributes:
        reached: all that was committed before this position is at the target.
        notes: what has been noted in the log with the prefix :data:`NOTE`, in order.
    """

    def __init__(self, source: Source, applier: Applier) -> None:
        self._source = source
        self._applier = applier
        self._decoder = Decoder()
        self._pending: list[Change] = []
        self._in_transaction = False
        self._end: int | None = None
        self._stop_at: int | None = None
        self._held: list[bytes] | None = None
        self.reached = applier.applied
        self.notes: list[bytes] = []
        self._heard: list[bytes] = []

    @property
    def changes(self) -> int:
        """How many changes have been applied."""
        return self._applier.changes

    async def pump(self, seconds: float = _PAUSE_SECONDS) -> None:
        """Read what has come and apply it; wait for so long if nothing has.

        Raises:
            StreamBroken: the source sends what was not asked for, or what does not fit the target.
            ServerUnreachable: the connection to the source is lost.
            psycopg.Error: the target refused a row, or is lost.
        """
        seen = 0
        for frame in await self._source.read(seconds):
            seen = frame.lsn
            if not isinstance(frame, Keepalive):
                await self._take(frame.payload)
        if self._end is not None and not self._in_transaction:
            await self._apply(self._end)
        if not self._in_transaction and self._held is None:
            self.reached = max(self.reached, seen)
            self.notes += self._heard
            self._heard.clear()
        self._source.confirm(self.reached)

    async def until(self, note: bytes, seconds: float) -> bool:
        """Go on until a note has come and all that was committed before it is at the target.

        Args:
            note: its content.
            seconds: how long at most.

        Returns:
            Whether it has.
        """
        deadline = time.monotonic() + seconds
        while note not in self.notes:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            await self.pump(min(left, _PAUSE_SECONDS))
        return True

    async def stop_at(self, lsn: int, seconds: float) -> bool:
        """Apply all that was committed before a position, and hold what comes after it until :meth:`go_on`.

        Returns:
            Whether the position has been reached in so many seconds.
        """
        self._stop_at = lsn
        deadline = time.monotonic() + seconds
        while self._held is None and self.reached < lsn:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            await self.pump(min(left, _PAUSE_SECONDS))
        return True

    async def go_on(self) -> None:
        """Apply what was held."""
        held, self._held, self._stop_at = self._held or [], None, None
        for payload in held:
            await self._take(payload)

    async def _take(self, payload: bytes) -> None:
        if self._held is not None:
            self._held.append(payload)
            return
        message = self._decoder.decode(payload)
        if isinstance(message, Begin) and self._stop_at is not None and message.commit_lsn >= self._stop_at:
            self._held = [payload]
            return
        match message:
            case Insert() | Update() | Delete() | Truncate():
                self._expect_transaction(True)
                self._pending.append(message)
                if len(self._pending) >= _CHANGES:
                    await self._apply(None)
            case Begin():
                self._expect_transaction(False)
                self._in_transaction = True
            case Commit(_, end_lsn):
                self._expect_transaction(True)
                self._in_transaction = False
                self._end = end_lsn
            case Note(_, _, prefix, content) if prefix == NOTE:
                self._heard.append(content)
            case _:  # relations are the decoder's affair
                pass

    def _expect_transaction(self, inside: bool) -> None:
        if self._in_transaction != inside:
            raise StreamBroken("the source sends a change outside a transaction, or begins one inside of another")

    async def _apply(self, end: int | None) -> None:
        """Where more of a transaction is to come, those before it stay open with it."""
        changes, self._pending = self._pending, []
        await self._applier.apply(changes, end)
        if end is not None:
            self._end = None
            self.reached = max(self.reached, end)
