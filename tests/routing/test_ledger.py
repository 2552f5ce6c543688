"""The ledger of connections: a budget that holds, room for who needs it, and turns for who waits."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tenantry.routing.core import GROW_SECONDS, Target
from tenantry.routing.ledger import Key, Ledger, Place, Waiter


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Box:
    """Stands for a connection."""

    closed: bool = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


@dataclass
class Setting:
    """A ledger, and who uses it."""

    budget: int
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.budget, clock=self.clock)

    def take(self, name: str, size: int = 10) -> Place | None:
        place = self.ledger.take(key(name), size, Box.close)
        if place is not None:
            self.ledger.connected(place)
        return connected(place) if place else None

    def wait(self, name: str, size: int = 10, wake: Callable[[], None] = lambda: None) -> Waiter:
        return self.ledger.queue(key(name), size, Box.close, wake)


def key(name: str) -> Key:
    return Key(Target("main", name, "app", f"dbname={name}", 10))


def connected(place: Place) -> Place:
    place.item = place.item or Box()
    return place


def taken(place: Place | None) -> Place:
    assert place is not None
    return place


def test_a_connection_that_came_back_is_used_again() -> None:
    setting = Setting(budget=2)
    first = taken(setting.take("a"))
    box = first.item
    setting.ledger.give(first, keep=True)
    assert taken(setting.take("a")).item is box
    assert len(setting.ledger) == 1


def test_the_budget_is_never_exceeded() -> None:
    setting = Setting(budget=2)
    assert setting.take("a")
    assert setting.take("b")
    assert setting.take("c") is None


def test_one_database_gets_no_more_than_its_size() -> None:
    setting = Setting(budget=5)
    assert setting.take("a", size=1)
    assert setting.take("a", size=1) is None
    assert setting.take("b", size=1)


def test_the_connection_unused_for_longest_makes_room() -> None:
    setting = Setting(budget=2)
    a, b = taken(setting.take("a")), taken(setting.take("b"))
    for each in (b, a):
        setting.ledger.give(each, keep=True)
    assert setting.take("c")
    assert (a.item.closed, b.item.closed) == (False, True)


def test_a_connection_in_use_never_makes_room() -> None:
    setting = Setting(budget=1)
    a = taken(setting.take("a"))
    assert setting.take("b") is None
    assert not a.item.closed


def test_a_connection_that_may_not_be_used_again_is_closed() -> None:
    setting = Setting(budget=1)
    a = taken(setting.take("a"))
    setting.ledger.give(a, keep=False)
    assert a.item.closed
    assert len(setting.ledger) == 0


def test_a_place_without_a_connection_frees_its_room() -> None:
    setting = Setting(budget=1)
    place = setting.ledger.take(key("a"), 10, Box.close)
    setting.ledger.give(taken(place), keep=True)
    assert setting.take("b")


def test_who_waits_gets_the_connection_to_the_same_database() -> None:
    setting = Setting(budget=1)
    a = taken(setting.take("a"))
    woken: list[str] = []
    waiter = setting.wait("a", wake=lambda: woken.append("a"))
    setting.ledger.give(a, keep=True)
    assert woken == ["a"]
    assert setting.ledger.collect(waiter) is a


def test_a_busy_database_does_not_keep_another_out() -> None:
    """The first who waits is served first, also if what came back leads elsewhere."""
    setting = Setting(budget=1)
    a = taken(setting.take("a"))
    other, again = setting.wait("b"), setting.wait("a")
    setting.ledger.give(a, keep=True)
    place = taken(setting.ledger.collect(other))
    assert (place.key, place.item) == (key("b"), None)
    assert a.item.closed
    assert again.place is None
    setting.ledger.give(connected(place), keep=True)
    assert taken(setting.ledger.collect(again)).key == key("a")


def test_nobody_overtakes_who_waits() -> None:
    setting = Setting(budget=1)
    a = taken(setting.take("a"))
    waiter = setting.wait("a")
    setting.ledger.give(a, keep=True)
    assert setting.take("a") is None
    assert setting.ledger.collect(waiter) is a


def test_who_leaves_gives_a_place_that_came_too_late_to_the_next() -> None:
    setting = Setting(budget=1)
    a = taken(setting.take("a"))
    first, second = setting.wait("a"), setting.wait("a")
    setting.ledger.give(a, keep=True)
    setting.ledger.leave(first)
    assert setting.ledger.collect(second) is a


def test_what_is_idle_for_long_is_closed_in_passing() -> None:
    setting = Setting(budget=5)
    a = taken(setting.take("a"))
    setting.ledger.give(a, keep=True)
    setting.clock.now = 301.0
    assert setting.take("b")
    assert a.item.closed
    assert len(setting.ledger) == 1


def test_an_old_connection_is_not_kept() -> None:
    setting = Setting(budget=5)
    a = taken(setting.take("a"))
    setting.clock.now = 3601.0
    setting.ledger.give(a, keep=True)
    assert a.item.closed


def test_dropping_a_database_closes_what_nobody_uses_and_serves_who_waits() -> None:
    setting = Setting(budget=2)
    idle, busy = taken(setting.take("a", 1)), taken(setting.take("b"))
    setting.ledger.give(idle, keep=True)
    setting.ledger.drop(lambda key: key.target.database in "ab")
    assert idle.item.closed
    assert not busy.item.closed
    assert len(setting.ledger) == 1


def test_what_comes_back_after_closing_is_closed() -> None:
    setting = Setting(budget=2)
    idle, busy = taken(setting.take("a")), taken(setting.take("b"))
    setting.ledger.give(idle, keep=True)
    setting.ledger.close()
    assert idle.item.closed
    setting.ledger.give(busy, keep=True)
    assert busy.item.closed
    assert len(setting.ledger) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_its_own_connections_and_closes_none_of_its_parent() -> None:
    setting = Setting(budget=2)
    idle, busy = taken(setting.take("a")), taken(setting.take("b"))
    setting.ledger.give(idle, keep=True)
    with setting.ledger._lock:  # another thread of the parent may hold it at this moment
        child = os.fork()
        if child == 0:
            try:
                own = [setting.take("a"), setting.take("b")]
                setting.ledger.give(busy, keep=True)
                fresh = all(own) and taken(own[0]).item is not idle.item and len(setting.ledger) == 2
                os._exit(0 if fresh and not idle.item.closed and not busy.item.closed else 1)
            finally:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert taken(setting.take("a")) is idle


def test_a_ledger_that_is_gone_is_not_kept_alive_by_the_hook_for_forks() -> None:
    ledger = Ledger(1)
    reference = weakref.ref(ledger)
    del ledger
    gc.collect()
    assert reference() is None


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: no more than the budget, no closed connection in use, nobody forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.setting = Setting(budget=3)
        self.used: list[Place] = []
        self.waiting: list[Waiter] = []

    names = st.sampled_from("abcd")

    @rule(name=names, size=st.integers(1, 3))
    def take_or_wait(self, name: str, size: int) -> None:
        place = self.setting.take(name, size)
        if place:
            self.used.append(place)
        else:
            self.waiting.append(self.setting.wait(name, size))
            self.collect()

    @precondition(lambda self: self.used)
    @rule(data=st.data(), keep=st.booleans())
    def give(self, data: st.DataObject, keep: bool) -> None:
        self.setting.ledger.give(self.used.pop(data.draw(st.integers(0, len(self.used) - 1))), keep=keep)
        self.collect()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.setting.ledger.leave(self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1))))
        self.collect()

    @rule(seconds=st.sampled_from([1.0, 200.0, 2000.0]))
    def time_passes(self, seconds: float) -> None:
        self.setting.clock.now += seconds

    @rule(name=names)
    def drop(self, name: str) -> None:
        self.setting.ledger.drop(lambda key: key.target.database == name)
        self.collect()

    def collect(self) -> None:
        while served := [waiter for waiter in self.waiting if waiter.place is not None]:
            self.waiting.remove(served[0])
            self.used.append(connected(taken(self.setting.ledger.collect(served[0]))))
            self.setting.ledger.connected(self.used[-1])

    @invariant()
    def the_budget_holds(self) -> None:
        assert len(self.setting.ledger) == len(self.used) + self.setting.ledger.idle <= 3

    @invariant()
    def what_is_used_is_open_and_used_once(self) -> None:
        assert not any(place.item.closed for place in self.used)
        assert len({id(place.item) for place in self.used}) == len(self.used)

    @invariant()
    def nobody_waits_for_what_is_free(self) -> None:
        full = len(self.used) == 3
        at_most = [self.setting.ledger.count(waiter.key) >= waiter.size for waiter in self.waiting]
        assert full or all(at_most)


TestAnyOrder = AnyOrder.TestCase


# A server that has no connection left


def test_after_a_refusal_a_server_is_asked_for_one_more_at_a_time() -> None:
    setting = Setting(budget=10)
    served = setting.take("a")
    assert served
    setting.ledger.give(served, keep=True)
    again, refused = setting.take("a"), setting.take("a")
    assert again is served
    assert refused
    setting.ledger.give(refused, keep=False)
    assert not setting.ledger.hold_back(refused.key.target)  # one is not few for a database of ten
    assert setting.take("a") is None
    setting.clock.now = GROW_SECONDS
    assert setting.take("a") is not None
    assert setting.take("a") is None


def test_a_refusal_does_not_let_the_next_who_waits_try_at_once() -> None:
    setting = Setting(budget=10)
    first, second = setting.take("a"), setting.take("a")
    assert first
    assert second
    setting.ledger.give(first, keep=False)
    assert setting.ledger.hold_back(first.key.target)
    waiter = setting.wait("a")
    setting.ledger.give(second, keep=False)
    assert waiter.place is None
    setting.clock.now = GROW_SECONDS
    setting.ledger.retry(waiter)
    assert waiter.place is not None


def test_who_gives_up_lets_the_next_try() -> None:
    setting = Setting(budget=10)
    refused = setting.take("a")
    assert refused
    setting.ledger.give(refused, keep=False)
    setting.ledger.hold_back(refused.key.target)
    waiter = setting.wait("a")
    setting.ledger.go_on(refused.key.target)
    assert waiter.place is not None


def test_it_grows_until_there_is_no_cap_any_more() -> None:
    setting = Setting(budget=10)
    refused = setting.take("a")
    assert refused
    setting.ledger.give(refused, keep=False)
    setting.ledger.hold_back(refused.key.target)
    taken = 0
    for _ in range(10):
        setting.clock.now += GROW_SECONDS
        while setting.take("a"):
            taken += 1
    assert taken == 10


def test_room_is_made_by_what_is_idle_and_by_a_quarter_of_the_rest() -> None:
    setting = Setting(budget=10)
    busy = [place for place in (setting.take("a") for _ in range(5)) if place]
    for place in busy:
        setting.ledger.give(place, keep=True)
    busy = [place for place in (setting.take("a") for _ in range(4)) if place]
    other = setting.take("b")
    assert setting.ledger.idle == 1
    setting.ledger.share(lambda target: target.database == "a")
    assert (setting.ledger.idle, len(setting.ledger)) == (0, 5)
    for place in busy:
        setting.ledger.give(place, keep=True)
    assert setting.ledger.idle == 3  # the fourth was closed
    assert other
    setting.ledger.give(other, keep=True)
    assert setting.ledger.idle == 4


def test_somebody_else_s_idle_connection_to_the_same_database_makes_room_if_the_server_has_none() -> None:
    setting = Setting(budget=10)
    mine = setting.take("a")
    assert mine
    setting.ledger.give(mine, keep=True)
    setting.ledger.hold_back(mine.key.target)
    setting.clock.now = GROW_SECONDS
    theirs = Key(mine.key.target, "an engine")
    place = setting.ledger.take(theirs, 10, Box.close)
    assert place is not None
    assert mine.item.closed


def test_a_shard_that_does_not_let_connections_in_takes_half_of_the_budget_at_most() -> None:
    ledger = Ledger(4)
    silent = [ledger.take(key(name), 10, Box.close) for name in "aaaa"]
    assert [place is not None for place in silent] == [True, True, False, False]
    elsewhere = Key(Target("other", "x", "app", "dbname=x", 10))
    assert ledger.take(elsewhere, 10, Box.close) is not None
    ledger.connected(taken(silent[0]))
    assert ledger.take(key("a"), 10, Box.close) is not None
