"""How many connections a process has: to each server, each database, and for each purpose. It does no I/O."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tenantry.routing.core import Target

if TYPE_CHECKING:
    from tenantry.routing.ledger import Key, Place


class Census:
    """Counts of the ledger's places.

    Attributes:
        total: all of them.
        of_target: by database.
        of_key: by what they are good for.
        good: by database, those that have served.
        pending: by server, those that are not connected yet: a silent server must not take all places.
    """

    def __init__(self) -> None:
        self.total = 0
        self.of_target: Counter[Target] = Counter()
        self.of_key: Counter[Key] = Counter()
        self.good: Counter[Target] = Counter()
        self.pending: Counter[tuple[str, str | None]] = Counter()

    def add(self, place: Place) -> None:
        """A new place."""
        self.total += 1
        self.of_target[place.key.target] += 1
        self.of_key[place.key] += 1
        self.pending[place.key.target.server] += 1

    def settle(self, place: Place) -> None:
        """It is connected, or will never be."""
        self.pending[place.key.target.server] -= place.pending
        place.pending = False

    def served(self, place: Place) -> None:
        """It has served somebody."""
        self.settle(place)
        self.good[place.key.target] += not place.good
        place.good = True

    def remove(self, place: Place) -> bool:
        """It is gone; whether it was the last of its key."""
        key, target = place.key, place.key.target
        self.total -= 1
        self.settle(place)
        for counter, is_counted in ((self.of_target, True), (self.good, place.good)):
            counter[target] -= is_counted
            if not counter[target]:
                del counter[target]
        self.of_key[key] -= 1
        if self.of_key[key]:
            return False
        del self.of_key[key]
        return True
