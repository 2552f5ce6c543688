"""Which connections a process has, to all its databases, under one budget. It does no I/O and never waits.

A connection that nobody uses makes room for one to another database, the one unused for longest first. Who has to wait
is served in the order of arrival, so that a busy database can't keep another one out.
"""

from __future__ import annotations

import os
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from tenantry.postgres.forks import in_child, leave_to_parent
from tenantry.routing.core import GROW_SECONDS, Target

_IDLE_SECONDS = 300.0
_LIFE_SECONDS = 3600.0
_SHARE_SECONDS = 1.0
_FEW = 8

Drop = Callable[[Any], None]
"""Closes a connection at once, without waiting for anything."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a connection is good for.

    Args:
        target: the database that it leads to.
        owner: whose it is, if not the router's own.
    """

    target: Target
    owner: object = None


@dataclass(slots=True, eq=False)
class Place:
    """Room for one connection. Who takes a place without a connection connects, and puts it into ``item``."""

    key: Key
    drop: Drop
    born: float
    term: int
    pid: int
    item: Any = None
    idle_since: float = 0.0
    good: bool = False
    pending: bool = True


@dataclass(slots=True, eq=False)
class Waiter:
    """Somebody who waits for a place. ``place`` is set before ``wake`` is called, from any thread."""

    key: Key
    size: int
    drop: Drop
    wake: Callable[[], None]
    place: Place | None = None


@dataclass(slots=True)
class _Cap:
    """How many connections a server may be asked for, after it has refused one or others need some: grows by half each
    time that ``grow_at`` has come, until it is of no effect. ``shares``: what is more than that is closed."""

    limit: int
    grow_at: float
    shares: bool = False


@dataclass(slots=True)
class _Doomed:
    """What is closed after the lock has been released, and who is woken then."""

    places: list[Place] = field(default_factory=list)
    woken: list[Waiter] = field(default_factory=list)

    def settle(self) -> None:
        try:
            for place in self.places:
                if place.item is not None:
                    place.drop(place.item)
        finally:
            for waiter in self.woken:
                waiter.wake()


class Ledger:
    """The places of a process. Safe for threads.

    After a fork the child starts empty: it never speaks on a connection of its parent, nor closes it.

    Args:
        budget: how many places there are.
        clock: seconds, for tests.
    """

    def __init__(self, budget: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget = budget
        self._clock = clock
        self._lock = Lock()
        self._term = 0
        self._forget_all()
        in_child(self._in_child)

    def __len__(self) -> int:
        return self._total

    @property
    def idle(self) -> int:
        """How many connections are there that nobody uses."""
        return len(self._idle)

    def count(self, key: Key) -> int:
        """How many places a database has."""
        return self._counts.get(key, 0)

    def take(self, key: Key, size: int, drop: Drop) -> Place | None:
        """A place for a connection to ``key``; None if there is no room now: then :meth:`queue`.

        Args:
            key: what the connection leads to.
            size: the most places that ``key`` may have.
            drop: closes a connection to it.
        """
        doomed = _Doomed()
        with self._lock:
            place = self._find(key, size, drop, doomed)
            self._retire(doomed)
        doomed.settle()
        return place

    def queue(self, key: Key, size: int, drop: Drop, wake: Callable[[], None]) -> Waiter:
        """Wait for a place; see :class:`Waiter`. It may be there at once.

        Every waiter calls :meth:`collect` or :meth:`leave` in the end.
        """
        waiter = Waiter(key, size, drop, wake)
        doomed = _Doomed()
        with self._lock:
            waiter.place = self._find(key, size, drop, doomed)
            if waiter.place is None:
                self._waiters[waiter] = None
        doomed.settle()
        return waiter

    def retry(self, waiter: Waiter) -> None:
        """Look again for a place: time alone may have made one free, after a server has refused connections."""
        doomed = _Doomed()
        with self._lock:
            if self._caps and waiter in self._waiters:
                waiter.place = self._find(waiter.key, waiter.size, waiter.drop, doomed)
                if waiter.place is not None:
                    del self._waiters[waiter]
        doomed.settle()

    def collect(self, waiter: Waiter) -> Place | None:
        """Wait no more: the place that was given, if one was."""
        with self._lock:
            self._waiters.pop(waiter, None)
            place, waiter.place = waiter.place, None
        return place

    def leave(self, waiter: Waiter) -> None:
        """Wait no more; a place that was given goes back."""
        place = self.collect(waiter)
        if place is not None:
            self.give(place, keep=True)

    def connected(self, place: Place) -> None:
        """The server has let the connection of a new place in. Twice does no harm."""
        if not place.pending:
            return
        doomed = _Doomed()
        with self._lock:
            if place.term == self._term:
                self._settle(place)
                self._serve(doomed)
        doomed.settle()

    def give(self, place: Place, *, keep: bool) -> None:
        """Give a place back.

        Args:
            keep: whether its connection may be used again. If not, it is closed here.
        """
        doomed = _Doomed()
        with self._lock:
            if place.term != self._term:
                doomed.places.append(place) if place.pid == self._pid else leave_to_parent(place)
            elif keep and place.item is not None and not self._is_surplus(place):
                self._settle(place)
                self._good[place.key.target] += not place.good
                place.good = True
                place.idle_since = self._clock()
                self._idle[place] = None
                self._idle_of.setdefault(place.key, deque()).append(place)
            else:
                self._free(place, doomed)
            self._serve(doomed)
            if self._caps:
                self._serve(doomed)  # where there is room again, somebody who waits finds out
        doomed.settle()

    def hold_back(self, target: Target) -> bool:
        """The server has refused a connection to a database: ask for no more than there are, for a while.

        Returns:
            Whether this process has so few that others should share.
        """
        with self._lock:
            good = self._good[target]
            self._caps[target] = _Cap(good, self._clock() + GROW_SECONDS)
        return good < max(1, target.size // _FEW)

    def go_on(self, target: Target) -> None:
        """Who was refused does not try again, or the reason was another: let the next who waits try."""
        doomed = _Doomed()
        with self._lock:
            if self._caps.pop(target, None) is not None:
                self._serve(doomed)
        doomed.settle()

    def share(self, matches: Callable[[Target], bool]) -> None:
        """Another process needs connections: close what nobody uses, and keep three quarters of the rest for a while.

        Args:
            matches: whether a database is on the server that is short of them.
        """
        self.drop(lambda key: matches(key.target))
        with self._lock:
            for target, total in self._totals.items():
                if matches(target) and total > 1:
                    self._caps[target] = _Cap(max(1, total * 3 // 4), self._clock() + _SHARE_SECONDS, True)

    def drop(self, matches: Callable[[Key], bool]) -> None:
        """Close the connections that nobody uses, of all keys that match."""
        doomed = _Doomed()
        with self._lock:
            for place in [place for place in self._idle if matches(place.key)]:
                self._evict(place, doomed)
                self._serve(doomed)
        doomed.settle()

    def close(self) -> None:
        """Close all that nobody uses now; what is in use is closed when it is given back."""
        doomed = _Doomed()
        with self._lock:
            doomed.places += self._idle
            self._term += 1
            self._forget_all()
        doomed.settle()

    def _in_child(self) -> None:
        leave_to_parent(*self._idle)
        self._lock = Lock()
        self._term += 1
        self._forget_all()

    def _forget_all(self) -> None:
        self._total = 0
        self._pending: Counter[tuple[str, str | None]] = Counter()  # by server: a silent one must not take all places
        self._totals: Counter[Target] = Counter()
        self._good: Counter[Target] = Counter()  # those that have served
        self._caps: dict[Target, _Cap] = {}
        self._counts: dict[Key, int] = {}
        self._idle: OrderedDict[Place, None] = OrderedDict()
        self._idle_of: dict[Key, deque[Place]] = {}
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._pid = os.getpid()

    def _find(self, key: Key, size: int, drop: Drop, doomed: _Doomed, *, swap: bool = True) -> Place | None:
        if idle := self._idle_of.get(key):
            place = idle[-1]
            self._unlist(place)
            return place
        if self._counts.get(key, 0) >= size or self._pending[key.target.server] >= max(1, self.budget // 2):
            return None
        if self._is_capped(key.target) and not (
            (swap and self._swap(key.target, doomed)) or self._may_grow(key.target)
        ):
            return None
        if self._total >= self.budget:
            if not self._idle:
                return None
            self._evict(next(iter(self._idle)), doomed)
        self._total += 1
        self._totals[key.target] += 1
        self._pending[key.target.server] += 1
        self._counts[key] = self._counts.get(key, 0) + 1
        return Place(key, drop, self._clock(), self._term, self._pid)

    def _is_capped(self, target: Target) -> bool:
        cap = self._caps.get(target)
        return cap is not None and self._totals[target] >= cap.limit

    def _may_grow(self, target: Target) -> bool:
        """Whether the time has come to ask the server for one more connection."""
        cap = self._caps[target]
        if self._clock() < cap.grow_at:
            return False
        cap.limit += max(1, cap.limit // 2)
        cap.grow_at = self._clock() + GROW_SECONDS
        if cap.limit >= self.budget:
            del self._caps[target]
        return True

    def _swap(self, target: Target, doomed: _Doomed) -> bool:
        """Make room on the server itself: somebody else's idle connection to the same database goes."""
        other = next((place for place in self._idle if place.key.target == target), None)
        if other is not None:
            self._evict(other, doomed)
        return other is not None

    def _settle(self, place: Place) -> None:
        self._pending[place.key.target.server] -= place.pending
        place.pending = False

    def _is_surplus(self, place: Place) -> bool:
        """Whether a connection that comes back is closed: it is old, or others need it."""
        cap = self._caps.get(place.key.target)
        if cap is not None and cap.shares and self._totals[place.key.target] > cap.limit:
            return True
        return self._clock() - place.born >= _LIFE_SECONDS

    def _serve(self, doomed: _Doomed) -> None:
        """What has become free goes to the first who waits and can use it; to one who has to connect anew, where that
        costs another's connection, only if nobody can use it as it is."""
        for swap in (False, True) if self._caps else (True,):
            for waiter in self._waiters:
                waiter.place = self._find(waiter.key, waiter.size, waiter.drop, doomed, swap=swap)
                if waiter.place is not None:
                    del self._waiters[waiter]
                    doomed.woken.append(waiter)
                    return

    def _retire(self, doomed: _Doomed) -> None:
        """Close what has been idle for long; two at a time, so that nobody pays for many."""
        before = self._clock() - _IDLE_SECONDS
        for _ in range(2):
            oldest = next(iter(self._idle), None)
            if oldest is None or oldest.idle_since > before:
                return
            self._evict(oldest, doomed)

    def _evict(self, place: Place, doomed: _Doomed) -> None:
        self._unlist(place)
        self._free(place, doomed)

    def _unlist(self, place: Place) -> None:
        """It is one of the ends: the newest is taken, the oldest is closed."""
        del self._idle[place]
        idle = self._idle_of[place.key]
        if idle[-1] is place:
            idle.pop()
        else:
            idle.remove(place)
        if not idle:
            del self._idle_of[place.key]

    def _free(self, place: Place, doomed: _Doomed) -> None:
        self._total -= 1
        self._settle(place)
        for counter, is_counted in ((self._totals, True), (self._good, place.good)):
            counter[place.key.target] -= is_counted
            if not counter[place.key.target]:
                del counter[place.key.target]
        self._counts[place.key] -= 1
        if not self._counts[place.key]:
            del self._counts[place.key]
        doomed.places.append(place)
