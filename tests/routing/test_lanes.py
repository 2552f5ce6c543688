"""A schema comes back to its connection, as far as that costs nobody time."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.routing.ledger import Ledger, Place, Waiter
from tests.routing.test_ledger import Box, Clock, key

SIZE = 4
HOMES = [f"s{n}" for n in range(40)]


@dataclass
class House:
    """A ledger for schemas of one database."""

    budget: int = 50
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.budget, clock=self.clock)

    def take(self, home: str | None, name: str = "a") -> Place | None:
        return self._connected(self.ledger.take(key(name), SIZE, Box.close, home))

    def wait(self, home: str) -> Waiter:
        return self.ledger.queue(key("a"), SIZE, Box.close, lambda: None, home)

    def serve(self, home: str) -> Place:
        """Take, use and give back."""
        place = self.take(home)
        assert place is not None
        self.ledger.give(place, keep=True)
        return place

    def fill(self) -> list[Place]:
        """As many connections as there may be, each in use."""
        places = [self.take(home) for home in HOMES[:SIZE] for _ in range(1)]
        found = [place for place in places if place is not None]
        while len(found) < SIZE:
            more = self.take(next(home for home in HOMES if home not in HOMES[:SIZE]))
            assert more is not None
            found.append(more)
        return found

    def give(self, *places: Place) -> None:
        for place in places:
            self.ledger.give(place, keep=True)

    def _connected(self, place: Place | None) -> Place | None:
        if place is not None:
            self.ledger.connected(place)
            place.item = place.item or Box()
        return place


@pytest.fixture
def house() -> House:
    made = House()
    made.give(*made.fill())
    return made


def test_a_schema_comes_back_to_the_same_connection(house: House) -> None:
    first = {home: house.serve(home) for home in HOMES}
    assert len(set(first.values())) == SIZE
    for home in reversed(HOMES):
        assert house.serve(home) is first[home]
    assert sum(len(place.homes) for place in set(first.values())) <= len(HOMES) + SIZE


def test_one_after_the_other_needs_one_connection() -> None:
    house = House()
    assert len({house.serve(home) for home in HOMES}) == 1
    assert len(house.ledger) == 1


def test_a_busy_lane_is_waited_for_and_comes_to_who_waits(house: House) -> None:
    own = house.take("s1")
    assert own is not None
    assert house.take("s1") is None  # although others are idle
    assert house.ledger.idle == SIZE - 1
    waiter = house.wait("s1")
    assert waiter.place is None
    house.give(own)
    assert waiter.place is own


def test_after_a_moment_another_one_will_do(house: House) -> None:
    own = house.take("s1")
    waiter = house.wait("s1")
    assert waiter.patience
    house.clock.now += waiter.patience
    house.ledger.retry(waiter)
    assert waiter.place is not None
    assert waiter.place is not own
    again = house.wait("s1")  # it has been busy for so long that nobody waits for it
    assert again.place is not None
    assert again.place not in (own, waiter.place)


def test_a_moment_is_as_long_as_connections_are_in_use(house: House) -> None:
    patience = []
    for seconds in (0.0001, 0.004, 1.0):
        for _ in range(100):
            place = house.take("s1")
            assert place is not None
            house.clock.now += seconds
            house.give(place)
        house.take("s1")
        waiter = house.wait("s1")
        assert waiter.patience is not None
        patience.append(waiter.patience)
        house = House()
        house.give(*house.fill())
    assert patience[0] == pytest.approx(0.002)
    assert patience[1] == pytest.approx(0.016, rel=0.05)
    assert patience[2] == pytest.approx(0.05)


def test_who_waits_longest_is_served_by_any_lane_in_the_end(house: House) -> None:
    busy = {place.lane: place for place in (house.take(None) for _ in range(SIZE)) if place is not None}
    assert len(busy) == SIZE
    first = house.wait("s1")
    waiting = [house.wait(home) for home in HOMES if home != "s1"]
    other, place = next((lane, place) for lane, place in busy.items() if lane != first.lane)
    house.clock.now += 0.01
    for _ in range(2):
        house.give(place)
        chosen = next(waiter for waiter in waiting if waiter.place is not None)
        assert chosen.lane == other  # whoever waits for this lane comes before whoever has waited for longer
        assert house.ledger.collect(chosen) is place
    house.clock.now += 1
    house.give(place)
    assert first.place is place


def test_a_connection_that_knows_too_many_is_renewed_in_its_lane() -> None:
    house = House()
    homes = [f"s{n}" for n in range(400)]
    old = {house.serve(home) for home in homes}
    [only] = old
    house.give(*house.fill())
    assert only.item.closed  # it was the only one for a while
    assert len(house.ledger) == SIZE - 1
    renewed = next(place for home in homes if (place := house.serve(home)).lane == only.lane)
    assert renewed is not only
    assert len(house.ledger) == SIZE
    for home in homes * 3:
        house.serve(home)
        house.clock.now += 1
    places = {house.serve(home) for home in homes}
    assert len(places) == SIZE
    assert sum(len(place.homes) for place in places) < 1.6 * len(homes)


def test_where_there_is_no_room_another_ones_connection_is_used() -> None:
    house = House(budget=2)
    first = house.take("s1")
    other = house.take("s1")
    assert first is not None
    assert other is not None
    house.give(other)
    assert house.take("s1") is None
    waiter = house.wait("s1")
    house.clock.now += waiter.patience or 0
    house.ledger.retry(waiter)
    assert waiter.place is other
    house.give(first)
    third = house.take(None, "b")
    assert third is not None  # closes one of them
    assert len(house.ledger) == 2


def test_who_leaves_is_waited_for_no_more(house: House) -> None:
    own = house.take("s1")
    assert own is not None
    waiter = house.wait("s1")
    house.ledger.leave(waiter)
    house.give(own)
    assert waiter.place is None
    assert house.take("s1") is own


@given(st.data())
def test_whatever_happens_each_connection_has_one_user_and_one_lane(data: st.DataObject) -> None:
    house, used, waiting = House(budget=6), list[Place](), list[Waiter]()
    for _ in range(data.draw(st.integers(1, 60))):
        match data.draw(st.sampled_from(("take", "wait", "give", "lose", "leave", "retry", "time", "drop"))):
            case "take":
                place = house.take(data.draw(st.sampled_from([*HOMES[:8], None])), data.draw(st.sampled_from("ab")))
                used += [place] if place is not None else []
            case "wait":
                waiting.append(house.wait(data.draw(st.sampled_from(HOMES[:8]))))
            case "give" if used:
                house.give(used.pop(data.draw(st.integers(0, len(used) - 1))))
            case "lose" if used:
                house.ledger.give(used.pop(), keep=False)
            case "leave" if waiting:
                house.ledger.leave(waiting.pop(0))
            case "retry" if waiting:
                house.ledger.retry(waiting[0])
            case "time":
                house.clock.now += data.draw(st.sampled_from((0.001, 0.1, 400.0)))
            case "drop":
                house.ledger.drop(lambda _: True)
        for waiter in [waiter for waiter in waiting if waiter.place is not None]:
            waiting.remove(waiter)
            place = house._connected(house.ledger.collect(waiter))
            assert place is not None
            used.append(place)
        assert len(set(map(id, used))) == len(used)
        assert len({(place.key, place.lane) for place in used}) == len(used)
        assert len(house.ledger) == len(used) + house.ledger.idle <= 6
    for place in used:
        house.give(place)
    assert all(waiter.place is not None for waiter in waiting) or len(house.ledger) <= 6
