"""What a process knows of its shards' replicas: which of them may answer a read, and what it must have replayed.

Nothing is believed of a replica but how far it has replayed, which the binding asks. How old that is can only be told
from the primary: what its write-ahead log had reached when this process asked it, by this process's own clock. So each
transaction on a primary brings a mark back, and a replica may answer if it has replayed a mark that is young enough.
It does no I/O and never waits.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from uuid import UUID
from zlib import crc32

from tenantry.errors import InvalidInput
from tenantry.model import Replica, shown
from tenantry.perimeter.replica import Log

_MARKS = 64
_APART_SECONDS = 0.25
_WRITERS = 50_000
_PAUSES = 0.5, 30.0
_SLACK_SECONDS = 0.002
_SLACK_HOLDS_SECONDS = 5.0
_ELSEWHERE_SECONDS = 0.1  # how long ago a write in another process is taken to be
_UNKNOWN = 2**64 - 1
_TOKEN = re.compile(r"([a-z][a-z0-9_-]{0,62})@([0-9A-F]{1,8})/([0-9A-F]{1,8})", re.ASCII)


@dataclass(slots=True)
class _Write:
    """A tenant's last write: its shard, how far the log went after it, and when that was known."""

    shard: str
    lsn: int
    at: float


@dataclass(slots=True)
class _Health:
    """Until when a replica is left alone, and for how long after the next failure; and what it is not asked for."""

    until: float = 0.0
    pause: float = _PAUSES[0]
    slack: float = 0.0  # how far behind it was seen, seconds
    slack_until: float = 0.0


class Replicas:
    """Safe for threads.

    Args:
        clock: seconds, for tests.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._marks: dict[str, deque[tuple[float, int]]] = {}
        self._writes: OrderedDict[UUID, _Write] = OrderedDict()
        self._health: dict[tuple[str, str], _Health] = {}
        self._least: dict[str, int] = {}  # what all reads of a shard must see
        self._not_before: dict[str, float] = {}  # no earlier mark will do
        self._longest = 0

    def ended(self, tenant: UUID, shard: str, seconds: int, asked: float, log: Log | None, *, wrote: bool) -> None:
        """A transaction has ended on a primary.

        Args:
            seconds: how old reads of the tenant may be.
            asked: when the primary was asked.
            log: what its log had reached; None: that is not known.
            wrote: whether it may have written.
        """
        now, position = self._clock(), _UNKNOWN if log is None else number(log[0])
        with self._lock:
            self._longest = max(self._longest, seconds)
            if log is not None:
                self._mark(shard, asked, number(log[1]))
            if wrote:
                known = self._writes.pop(tenant, None)
                if known is not None and known.shard == shard and now - known.at <= seconds:
                    position = max(position, known.lsn)
                self._writes[tenant] = _Write(shard, position, now)
                self._forget(now)

    def floor(self, tenant: UUID, shard: str, seconds: int, after: str | None = None) -> tuple[int, float] | None:
        """What a replica must have replayed to answer a read.

        Args:
            seconds: how old the answer may be.
            after: a token of :meth:`last_write` that the read must see.

        Returns:
            The position in the log, and how long ago it was reached, seconds; None: only the primary can answer.
        """
        now = self._clock()
        with self._lock:
            marks = self._marks.get(shard, ())
            asked, lsn = next((mark for mark in marks if now - mark[0] <= seconds), (now, _UNKNOWN))
            write = self._writes.get(tenant)
            lsn = max(lsn, self._least.get(shard, 0))
            if write is not None and write.shard == shard and now - write.at <= self._lasts(write, seconds):
                asked, lsn = max((lsn, asked), (write.lsn, write.at))[::-1]
        age = now - asked
        where, seen = parse_token(after) if after is not None else (None, 0)
        if where == shard and seen > lsn:
            lsn, age = seen, min(age, _ELSEWHERE_SECONDS)
        return None if lsn == _UNKNOWN else (lsn, age)

    def choose(self, tenant: UUID, replicas: Sequence[Replica], age: float) -> Replica | None:
        """The replica for a tenant, the same while it is well; None: all are away, or would be behind.

        Args:
            age: how long ago the log was where it must be, seconds.
        """
        now, first = self._clock(), crc32(tenant.bytes)
        for n in range(len(replicas)):
            replica = replicas[(first + n) % len(replicas)]
            health = self._health.get((replica.shard, replica.name))
            if health is None or (health.until <= now and (health.slack <= age or health.slack_until <= now)):
                return replica
        return None

    def behind(self, shard: str, replica: str, age: float, seconds: int) -> None:
        """A replica had not replayed what a read must see; see :meth:`floor`."""
        health = self._health.setdefault((shard, replica), _Health())
        if age < seconds / 2:
            now = self._clock()
            health.slack = max(health.slack if now < health.slack_until else 0.0, 2 * age, _SLACK_SECONDS)
            health.slack_until = now + _SLACK_HOLDS_SECONDS
        else:
            self._leave(health)

    def away(self, shard: str, replica: str) -> None:
        """A replica does not answer, or refuses."""
        self._leave(self._health.setdefault((shard, replica), _Health()))

    def last_write(self, tenant: UUID) -> str | None:
        """What a read elsewhere must see to see what the tenant has written here: a token for :meth:`floor`. None: it
        has not written here, or so long ago that every read sees it."""
        with self._lock:
            write = self._writes.get(tenant)
            if write is None or self._clock() - write.at > self._lasts(write, self._longest):
                return None
            return f"{write.shard}@{text(write.lsn)}"

    def _leave(self, health: _Health) -> None:
        now = self._clock()
        pause = health.pause if now - health.until <= health.pause else _PAUSES[0]
        health.until, health.pause = now + pause, min(pause * 2, _PAUSES[1])

    def _lasts(self, write: _Write, seconds: int) -> int:
        """For how long a write has to be remembered. Where its commit got no answer, it may have come later."""
        return 2 * seconds if write.lsn == _UNKNOWN else seconds

    def _mark(self, shard: str, asked: float, lsn: int) -> None:
        marks = self._marks.setdefault(shard, deque(maxlen=_MARKS))
        if asked < self._not_before.get(shard, asked):
            return
        while marks and asked - marks[0][0] > self._longest:
            marks.popleft()
        if not marks or asked - marks[-1][0] >= _APART_SECONDS:
            marks.append((asked, lsn))

    def _forget(self, now: float) -> None:
        """Writes that every mark in use has passed; past the bound also younger ones, which all reads must see then."""
        for tenant, write in list(islice(self._writes.items(), 2)):
            if now - write.at <= self._lasts(write, self._longest):
                if len(self._writes) <= _WRITERS:
                    return
                if write.lsn == _UNKNOWN:
                    self._marks.pop(write.shard, None)
                    self._not_before[write.shard] = now
                else:
                    self._least[write.shard] = max(self._least.get(write.shard, 0), write.lsn)
            del self._writes[tenant]


def number(lsn: str) -> int:
    """A position in the log as a number."""
    high, _, low = lsn.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def text(lsn: int) -> str:
    """The same as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_token(token: object) -> tuple[str, int]:
    """The shard and the position of a token of :meth:`Replicas.last_write`.

    Raises:
        InvalidInput: it is none.
    """
    found = _TOKEN.fullmatch(token) if isinstance(token, str) else None
    if found is None:
        raise InvalidInput(
            f"{shown(token)} is not the position of a write", hint="pass on what router.last_write() has returned"
        )
    return found[1], int(found[2], 16) << 32 | int(found[3], 16)
