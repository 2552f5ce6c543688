"""What a process may believe of replicas, by a clock that stands still until it is moved."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import InvalidInput
from tenantry.model import Replica
from tenantry.routing import replicas
from tenantry.routing.replicas import Replicas, number, text

A, B = UUID(int=1), UUID(int=2)
SHARD, SECONDS = "main", 10
ONE, TWO = Replica(SHARD, "one", "host=a"), Replica(SHARD, "two", "host=b")


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known(clock: Clock) -> Replicas:
    return Replicas(clock=clock)


def commit(known: Replicas, clock: Clock, lsn: str | None, tenant: UUID = A, *, wrote: bool = True) -> None:
    known.ended(tenant, SHARD, SECONDS, clock.now, None if lsn is None else (lsn, lsn), wrote=wrote)


def test_without_a_mark_only_the_primary_knows(known: Replicas, clock: Clock) -> None:
    assert known.floor(A, SHARD, SECONDS) is None
    commit(known, clock, "0/10", wrote=False)
    assert known.floor(A, SHARD, SECONDS) == (0x10, 0)
    assert known.floor(A, "other", SECONDS) is None
    clock.now += SECONDS
    assert known.floor(A, SHARD, SECONDS) == (0x10, SECONDS)
    clock.now += 0.1
    assert known.floor(A, SHARD, SECONDS) is None


def test_the_oldest_mark_that_is_young_enough_is_asked_for(known: Replicas, clock: Clock) -> None:
    for lsn in ("0/10", "0/20", "0/30"):
        commit(known, clock, lsn, wrote=False)
        clock.now += 4
    assert known.floor(A, SHARD, SECONDS) == (0x20, 8)
    assert known.floor(A, SHARD, 5) == (0x30, 4)


def test_a_tenant_sees_its_own_writes_and_others_need_not(known: Replicas, clock: Clock) -> None:
    commit(known, clock, "0/10", B)
    clock.now += 1
    commit(known, clock, "0/20", A)
    assert known.floor(A, SHARD, SECONDS) == (0x20, 0)
    assert known.floor(B, SHARD, SECONDS) == (0x10, 1)


def test_a_write_that_got_no_answer_keeps_its_tenant_at_the_primary(known: Replicas, clock: Clock) -> None:
    commit(known, clock, "0/10")
    commit(known, clock, None)
    clock.now += SECONDS
    commit(known, clock, "0/20", B)
    assert known.floor(A, SHARD, SECONDS) is None
    assert known.floor(B, SHARD, SECONDS) is not None
    token = known.last_write(A)
    assert token is not None
    assert known.floor(B, SHARD, SECONDS, after=token) is None
    clock.now += SECONDS + 1
    commit(known, clock, "0/30", B, wrote=False)
    assert known.floor(A, SHARD, SECONDS) == (0x30, 0)


def test_a_later_commit_does_not_forget_an_earlier_one_that_reached_further(known: Replicas, clock: Clock) -> None:
    """Answers of two connections may come in another order than the commits."""
    commit(known, clock, "0/30")
    commit(known, clock, "0/20")
    assert known.floor(A, SHARD, SECONDS) == (0x30, 0)


def test_a_token_makes_a_read_elsewhere_see_the_write(known: Replicas, clock: Clock) -> None:
    elsewhere = Replicas(clock=clock)
    commit(elsewhere, clock, "0/10", B)
    commit(known, clock, "1/20")
    token = known.last_write(A)
    assert token == "main@1/20"
    found = elsewhere.floor(A, SHARD, SECONDS, after=token)
    assert found is not None
    assert found[0] == number("1/20")
    assert elsewhere.floor(A, SHARD, SECONDS, after="other@1/20") == (0x10, 0)
    assert known.last_write(B) is None
    clock.now += SECONDS + 1
    assert known.last_write(A) is None


@pytest.mark.parametrize("token", ["", "main", "main@", "main@0/0/0", "Main@0/0", "main@0/G", "main@0/100000000", 7])
def test_a_token_that_is_none_is_refused(known: Replicas, clock: Clock, token: str) -> None:
    commit(known, clock, "0/10")
    with pytest.raises(InvalidInput, match="not the position of a write"):
        known.floor(A, SHARD, SECONDS, after=token)


def test_who_does_not_answer_is_left_alone_for_longer_and_longer(known: Replicas, clock: Clock) -> None:
    assert {known.choose(uuid4(), (ONE, TWO), 1).name for _ in range(50)} == {"one", "two"}  # type: ignore[union-attr]
    assert len({known.choose(A, (ONE, TWO), 1).name for _ in range(50)}) == 1  # type: ignore[union-attr]
    known.away(SHARD, "one")
    assert known.choose(A, (ONE,), 1) is None
    assert known.choose(A, (ONE, TWO), 1) is TWO
    assert known.choose(B, (TWO, ONE), 1) is TWO
    clock.now += 0.5
    assert known.choose(A, (ONE,), 1) is ONE
    known.away(SHARD, "one")
    clock.now += 0.6
    assert known.choose(A, (ONE,), 1) is None
    clock.now += 5
    known.away(SHARD, "one")
    clock.now += 0.5
    assert known.choose(A, (ONE,), 1) is ONE


def test_who_is_a_little_behind_is_not_asked_for_what_is_newer(known: Replicas, clock: Clock) -> None:
    known.behind(SHARD, "one", 0.1, SECONDS)
    assert known.choose(A, (ONE,), 0.1) is None
    assert known.choose(A, (ONE,), 0.3) is ONE
    clock.now += 5
    assert known.choose(A, (ONE,), 0.0) is ONE


def test_who_is_far_behind_is_left_alone(known: Replicas, clock: Clock) -> None:
    known.behind(SHARD, "one", SECONDS, SECONDS)
    assert known.choose(A, (ONE,), SECONDS) is None
    clock.now += 0.5
    assert known.choose(A, (ONE,), SECONDS) is ONE


def test_memory_is_bounded_and_what_is_forgotten_is_still_seen(
    known: Replicas, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "_WRITERS", 3)
    commit(known, clock, "0/10", A)
    for n in range(10, 14):
        clock.now += 1
        commit(known, clock, f"0/{n + 10}", UUID(int=n))
    assert len(known._writes) == 3
    found = known.floor(A, SHARD, SECONDS)
    assert found is not None
    assert found[0] >= 0x10
    commit(known, clock, None, B)
    for n in range(20, 24):
        clock.now += 0.1
        commit(known, clock, f"0/{n + 20}", UUID(int=n))
    assert B not in known._writes
    found = known.floor(B, SHARD, SECONDS)
    assert found is not None
    assert found[0] >= number("0/40")


@given(st.integers(0, 2**64 - 1))
def test_a_position_comes_back_as_it_went_in(lsn: int) -> None:
    assert number(text(lsn)) == lsn


@given(st.lists(st.tuples(st.sampled_from("wro"), st.floats(0, 4), st.integers(0, 3)), max_size=60))
def test_no_floor_is_below_what_must_be_seen(steps: list[tuple[str, float, int]]) -> None:
    """Whatever happens in whatever order: own writes, and all that anybody wrote before the bound."""
    clock = Clock()
    known = Replicas(clock=clock)
    lsn, history, last = 0x100, [(clock.now, 0x100)], dict[UUID, int]()
    for kind, seconds, who in steps:
        clock.now += seconds
        tenant = UUID(int=who)
        if kind == "w":
            lsn += 8
            history.append((clock.now, lsn))
            last[tenant] = lsn
        if kind != "o":
            known.ended(tenant, SHARD, SECONDS, clock.now, (text(lsn), text(lsn)), wrote=kind == "w")
        found = known.floor(tenant, SHARD, SECONDS)
        if found is not None:
            before = max(at for when, at in history if when < clock.now - SECONDS or at == 0x100)
            assert found[0] >= max(before, last.get(tenant, 0) if _is_young(history, last.get(tenant), clock) else 0)


def _is_young(history: list[tuple[float, int]], lsn: int | None, clock: Clock) -> bool:
    return any(at == lsn and clock.now - when <= SECONDS for when, at in history)
