"""Which of the connections to a database serves a schema: the same again, as far as that costs nobody time.

A backend keeps what it knows of every table that it has touched, about 100 KB for a schema of ten tables, and never
forgets it. If any connection served any schema, each would know all of them. So each connection is a lane, each schema
has an order of its own in which it prefers lanes, and the first that is there is its lane. Where that is busy the
schema waits for a moment, then takes the next that is free. It does no I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from math import gcd
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from tenantry.routing.ledger import Place, Waiter

_PATIENCE_SECONDS = 0.002, 0.05
_PATIENCE = 4.0
_WEIGHT = 1 / 16

LONGEST_SECONDS = 0.1
"""Who has waited for so long is served by the next lane that is free, whatever others would prefer it."""

_OVERGROWN, _FAR_OVERGROWN = (1.5, 32), (3.0, 64)
_APART_SECONDS = 5.0


class Lanes:
    """The lanes of one database, as the ledger has places for it.

    Attributes:
        places: by lane.
        patience: how long a schema waits for its lane while another is free, seconds: four times as long as connections
            are in use on average. A lane that has been busy for longer is not waited for.
    """

    def __init__(self) -> None:
        self.patience = _PATIENCE_SECONDS[0]
        self._used = 0.0
        self.places: dict[int, Place] = {}
        self._homes: set[int] = set()
        self._vacated: set[int] = set()
        self._renewed_at = 0.0
        self._waiting: dict[int, OrderedDict[Waiter, None]] = {}

    def choose(self, wish: Waiter, home: str, now: float) -> Place | None:
        """The place for a schema that is free; None: it waits, or there is none."""
        patience = self.patience if wish.patience is None else wish.patience
        patient = wish.since is None or now - wish.since < patience
        for lane in _order(home, wish.size):
            place = self.places.get(lane)
            if place is None:
                if patient and lane in self._vacated:
                    return None
            elif place.busy_since is None:
                return place
            elif patient and now - place.busy_since < self.patience:
                return None
            else:
                patient = False
        return None

    def use(self, place: Place, home: str | None, now: float) -> Place:
        """A place is used, maybe for a schema."""
        place.busy_since = now
        if home is not None:
            known = crc32(home.encode())
            self._homes.add(known)
            place.homes.add(known)
        return place

    def free(self, place: Place) -> None:
        """A place has been used, until ``idle_since``."""
        if place.busy_since is not None:
            self._used += (place.idle_since - place.busy_since - self._used) * _WEIGHT
            self.patience = min(max(_PATIENCE * self._used, _PATIENCE_SECONDS[0]), _PATIENCE_SECONDS[1])
        place.busy_since = None

    def add(self, place: Place, wish: Waiter) -> None:
        """Give a new place a lane: the first that its schema prefers and nobody has."""
        lanes = range(wish.size) if wish.home is None else _order(wish.home, wish.size)
        place.lane = next(lane for lane in lanes if lane not in self.places)
        self.places[place.lane] = place
        self._vacated.discard(place.lane)

    def remove(self, place: Place, *, renewed: bool) -> None:
        """A place is gone.

        Args:
            renewed: another connection is to take its lane.
        """
        del self.places[place.lane]
        if renewed:
            self._vacated.add(place.lane)

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody waits."""
        return any(self._waiting.values())

    def is_overgrown(self, place: Place, now: float) -> bool:
        """Whether a connection has served so many schemas that a new one is worth its cost. One at a time: what a new
        connection serves first is slow."""
        served, share = len(place.homes), len(self._homes) / max(1, len(self.places))
        bound, last = (factor * share + more for factor, more in (_OVERGROWN, _FAR_OVERGROWN))
        if served <= bound or (served <= last and now - self._renewed_at < _APART_SECONDS):
            return False
        self._renewed_at = now
        return True

    def wait(self, waiter: Waiter, home: str) -> None:
        """Somebody waits; see :meth:`next`."""
        waiter.patience = self.patience
        waiter.lane = next((lane for lane in _order(home, waiter.size) if lane in self.places), 0)
        self._waiting.setdefault(waiter.lane, OrderedDict())[waiter] = None

    def leave(self, waiter: Waiter) -> None:
        """Somebody waits no more."""
        self._waiting[waiter.lane].pop(waiter, None)

    def next(self, place: Place) -> Waiter | None:
        """Who has waited longest for this very lane."""
        return next(iter(self._waiting.get(place.lane, ())), None)


def _order(home: str, size: int) -> Iterator[int]:
    """All lanes in a schema's own order."""
    number = crc32(home.encode())
    steps = _steps(size)
    step = steps[number // size % len(steps)]
    for n in range(size):
        yield (number + n * step) % size


@lru_cache(maxsize=64)
def _steps(size: int) -> tuple[int, ...]:
    """Steps with which one comes by every lane."""
    return tuple(step for step in range(1, max(2, size)) if gcd(step, size) == 1)
