"""Which connections a process has, to all its databases, under one budget. It does no I/O and never waits.

A connection that nobody uses makes room for one to another database, the one unused for longest first. Who has to wait
is served in the order of arrival, so that a busy database can't keep another one out.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from tenantry.postgres.forks import in_child, leave_to_parent
from tenantry.routing.caps import Caps
from tenantry.routing.census import Census
from tenantry.routing.core import Target
from tenantry.routing.lanes import LONGEST_SECONDS, Lanes

_IDLE_SECONDS = 300.0
_LIFE_SECONDS = 3600.0
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

    def __hash__(self) -> int:
        return hash(self.target.dsn)


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
    lane: int = 0
    homes: set[int] = field(default_factory=set)
    busy_since: float | None = None
    lanes: Lanes = field(kw_only=True)


@dataclass(slots=True, eq=False)
class Waiter:
    """Somebody who wants a place, and waits for it: since when, and for how long for its own lane. ``place`` is set
    before ``wake`` is called, from any thread."""

    key: Key
    size: int
    drop: Drop
    wake: Callable[[], None] = lambda: None
    home: str | None = None
    since: float | None = None
    patience: float | None = None
    lane: int = 0
    place: Place | None = None


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
        return self._census.total

    @property
    def idle(self) -> int:
        """How many connections are there that nobody uses."""
        return len(self._idle)

    def count(self, key: Key) -> int:
        """How many places a database has."""
        return self._census.of_key[key]

    def take(self, key: Key, size: int, drop: Drop, home: str | None = None) -> Place | None:
        """A place for a connection to ``key``; None if there is no room now: then :meth:`queue`.

        Args:
            key: what the connection leads to.
            size: the most places that ``key`` may have.
            drop: closes a connection to it.
            home: the schema that it is for, if others live in others there; see :class:`Lanes`.
        """
        doomed = _Doomed()
        with self._lock:
            idle = self._idle_of.get(key) if home is None else None
            if idle:
                place: Place | None = self._use(idle[-1], None, self._clock())
            else:
                place = self._find(Waiter(key, size, drop, home=home), doomed)
            self._retire(doomed)
        doomed.settle()
        return place

    def queue(self, key: Key, size: int, drop: Drop, wake: Callable[[], None], home: str | None = None) -> Waiter:
        """Wait for a place; see :class:`Waiter`. It may be there at once.

        Every waiter calls :meth:`collect` or :meth:`leave` in the end.
        """
        waiter = Waiter(key, size, drop, wake, home)
        doomed = _Doomed()
        with self._lock:
            waiter.place = self._find(waiter, doomed)
            if waiter.place is None:
                waiter.since = self._clock()
                self._waiters[waiter] = None
                if home is not None:
                    self._lanes[key].wait(waiter, home)
        doomed.settle()
        return waiter

    def retry(self, waiter: Waiter) -> None:
        """Look again for a place: time alone may have made one free, after a server has refused connections, or a lane
        has been waited for long enough."""
        doomed = _Doomed()
        with self._lock:
            if (self._caps or waiter.patience is not None) and waiter in self._waiters:
                waiter.patience = None if waiter.patience is None else 0.0
                self._serve_one(waiter, doomed)
        doomed.settle()

    def collect(self, waiter: Waiter) -> Place | None:
        """Wait no more: the place that was given, if one was."""
        with self._lock:
            self._dismiss(waiter)
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
                self._census.settle(place)
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
                if not place.good:
                    self._census.served(place)
                place.idle_since = self._clock()
                place.lanes.free(place)
                self._idle[place] = None
                self._idle_of.setdefault(place.key, deque()).append(place)
                if self._waiters and not self._serve_lane(place, doomed):
                    self._serve(doomed)
            else:
                self._free(place, doomed, renewed=keep)
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
            good = self._census.good[target]
            self._caps.hold_back(target, good, self._clock())
        return good < max(1, target.size // _FEW)

    def go_on(self, target: Target) -> None:
        """Who was refused does not try again, or the reason was another: let the next who waits try."""
        doomed = _Doomed()
        with self._lock:
            if self._caps.lift(target):
                self._serve(doomed)
        doomed.settle()

    def share(self, matches: Callable[[Target], bool]) -> None:
        """Another process needs connections: close what nobody uses, and keep three quarters of the rest for a while.

        Args:
            matches: whether a database is on the server that is short of them.
        """
        self.drop(lambda key: matches(key.target))
        with self._lock:
            for target, total in self._census.of_target.items():
                if matches(target) and total > 1:
                    self._caps.share(target, total, self._clock())

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
        self._census = Census()
        self._caps = Caps()
        self._idle: OrderedDict[Place, None] = OrderedDict()
        self._idle_of: dict[Key, deque[Place]] = {}
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._lanes: defaultdict[Key, Lanes] = defaultdict(Lanes)
        self._pid = os.getpid()

    def _find(self, wish: Waiter, doomed: _Doomed, *, swap: bool = True) -> Place | None:
        key, target, now, census = wish.key, wish.key.target, self._clock(), self._census
        capped = bool(self._caps) and self._caps.holds(target, census.of_target[target])
        if idle := self._idle_of.get(key):
            place = idle[-1] if wish.home is None else idle[-1].lanes.choose(wish, wish.home, now)
            if place is not None:
                return self._use(place, wish.home, now)
            if capped or census.total >= self.budget:
                return None  # it waits for its lane; that costs nobody a connection
        if census.of_key[key] >= wish.size or census.pending[target.server] >= max(1, self.budget // 2):
            return None
        if capped and not ((swap and self._swap(target, doomed)) or self._caps.may_grow(target, now, self.budget)):
            return None
        if census.total >= self.budget:
            if not self._idle:
                return None
            self._evict(next(iter(self._idle)), doomed)
        place = Place(key, wish.drop, now, self._term, self._pid, lanes=self._lanes[key])
        census.add(place)
        place.lanes.add(place, wish)
        return place.lanes.use(place, wish.home, now)

    def _use(self, place: Place, home: str | None, now: float) -> Place:
        self._unlist(place)
        return place.lanes.use(place, home, now)

    def _swap(self, target: Target, doomed: _Doomed) -> bool:
        """Make room on the server itself: somebody else's idle connection to the same database goes."""
        other = next((place for place in self._idle if place.key.target == target), None)
        if other is not None:
            self._evict(other, doomed)
        return other is not None

    def _is_surplus(self, place: Place) -> bool:
        """Whether a connection that comes back is closed: it is old, knows too much, or others need it."""
        now, target = self._clock(), place.key.target
        if self._caps and self._caps.is_surplus(target, self._census.of_target[target]):
            return True
        return now - place.born >= _LIFE_SECONDS or (bool(place.homes) and place.lanes.is_overgrown(place, now))

    def _serve(self, doomed: _Doomed) -> None:
        """What has become free goes to the first who waits and can use it; to one who has to connect anew, where that
        costs another's connection, only if nobody can use it as it is."""
        for swap in (False, True) if self._caps else (True,):
            for waiter in self._waiters:
                if self._serve_one(waiter, doomed, swap=swap):
                    doomed.woken.append(waiter)
                    return

    def _serve_one(self, waiter: Waiter, doomed: _Doomed, *, swap: bool = True) -> bool:
        waiter.place = self._find(waiter, doomed, swap=swap)
        if waiter.place is not None:
            self._dismiss(waiter)
        return waiter.place is not None

    def _serve_lane(self, place: Place, doomed: _Doomed) -> bool:
        """A lane that has become free goes to who waits for it, unless somebody has waited for any for too long."""
        waiter = place.lanes.next(place)
        if waiter is None or self._clock() - (next(iter(self._waiters)).since or 0) > LONGEST_SECONDS:
            return False
        served = self._serve_one(waiter, doomed)
        if served:
            doomed.woken.append(waiter)
        return served

    def _dismiss(self, waiter: Waiter) -> None:
        if self._waiters.pop(waiter, self) is None and waiter.home is not None:
            self._lanes[waiter.key].leave(waiter)

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

    def _free(self, place: Place, doomed: _Doomed, *, renewed: bool = False) -> None:
        place.lanes.remove(place, renewed=renewed)
        if self._census.remove(place) and not place.lanes.is_waited_for:
            del self._lanes[place.key]
        doomed.places.append(place)
