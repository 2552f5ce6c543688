"""A process dies, or stops and wakes up much later, before any statement that it sends to any server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.fixtures.house import House, MakeHouse
from tests.fixtures.workers import Outcome, Workers
from tests.operations.invariants import catalog, violations
from tests.operations.recovery import expire, recover

pytestmark = pytest.mark.slow

_numbers = count(1)

# Statements of each verb are sampled: a stride that has no common factor with loops comes by every kind of place.
CREATE = {"pooled": 2, "schema": 29, "database": 11}
DELETE = {"pooled": 5, "schema": 11, "database": 11}


@pytest.fixture(scope="module")
def fleet(make_house: MakeHouse) -> House:
    return make_house()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("home", CREATE)
def test_workers_that_die_one_after_the_other_get_there(fleet: House, workers: Workers, home: str, seed: int) -> None:
    """Making, undoing and clearing, each interrupted again and again, at moments drawn by lot."""
    lot = random.Random(f"{home} {seed}")
    fails = [("admit", "acted", "fail")] if seed % 2 else []
    slug, _ = create(workers, fleet, home, events=fails, statement=(lot.randint(9, 60), "kill"))
    for _ in range(6):
        expire(fleet)
        workers.run(fleet, "work", events=fails, statement=(lot.randint(1, 40), "kill"))
    recover(fleet)
    assert state(fleet, slug) in (None, "active")
    if state(fleet, slug) == "active":
        workers.run(fleet, "delete", slug, confirm=slug, grace=0, statement=(lot.randint(9, 50), "kill"))
        for _ in range(6):
            expire(fleet)
            workers.run(fleet, "work", statement=(lot.randint(1, 40), "kill"))
        recover(fleet)


def at_each_statement(stride: int) -> Iterator[int]:
    return count(1, stride)


def state(house: House, slug: str) -> str | None:
    with catalog(house) as conn:
        row = conn.execute("SELECT state FROM tenants WHERE slug = %s ORDER BY created_at", (slug,)).fetchone()
    return None if row is None else str(row["state"])


def create(workers: Workers, house: House, home: str, **options: Any) -> tuple[str, Outcome]:
    slug = f"tenant-{next(_numbers)}"
    return slug, workers.run(house, "create", slug, isolation=home, **options)


def delete(workers: Workers, house: House, slug: str) -> None:
    if state(house, slug) is not None:
        assert workers.run(house, "delete", slug, confirm=slug, grace=0).result == "done"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("home", CREATE)
def test_a_creation_that_dies_anywhere_is_finished_or_never_was(fleet: House, workers: Workers, home: str) -> None:
    for number in at_each_statement(CREATE[home]):
        slug, outcome = create(workers, fleet, home, statement=(number, "kill"))
        if not outcome.killed:
            break
        recover(fleet)
        assert state(fleet, slug) in (None, "active")
        delete(workers, fleet, slug)
    assert number > CREATE[home]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("home", DELETE)
def test_a_deletion_that_dies_anywhere_is_finished_or_never_was(fleet: House, workers: Workers, home: str) -> None:
    for number in at_each_statement(DELETE[home]):
        slug, _ = create(workers, fleet, home)
        outcome = workers.run(fleet, "delete", slug, confirm=slug, grace=0, statement=(number, "kill"))
        if not outcome.killed:
            break
        recover(fleet)
        assert state(fleet, slug) in ("active", "deleted")
    assert number > DELETE[home]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("home", CREATE)
def test_a_creation_that_wakes_up_after_its_tenant_was_deleted_changes_nothing(
    fleet: House, workers: Workers, home: str
) -> None:
    for number in at_each_statement(CREATE[home]):
        slug, sleeper = create(workers, fleet, home, statement=(number, "stop"))
        if not sleeper.stopped:
            break
        if state(fleet, slug) is None:  # it has not begun
            assert workers.wake(sleeper).result
        else:
            expire(fleet)
            assert workers.run(fleet, "work").result
            delete(workers, fleet, slug)
            assert not workers.wake(sleeper).killed
        found = violations(fleet)
        assert not found, f"statement {number}: {found}"
    assert number > CREATE[home]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("home", DELETE)
def test_a_deletion_that_wakes_up_after_its_tenant_was_brought_back_changes_nothing(
    fleet: House, workers: Workers, home: str
) -> None:
    for number in at_each_statement(DELETE[home]):
        slug, _ = create(workers, fleet, home)
        sleeper = workers.run(fleet, "delete", slug, confirm=slug, grace=3600, statement=(number, "stop"))
        if not sleeper.stopped:
            break
        if state(fleet, slug) == "active":
            expire(fleet)
            workers.run(fleet, "work")
        workers.run(fleet, "resume", slug)
        workers.wake(sleeper)
        recover(fleet)
        if state(fleet, slug) == "active":
            delete(workers, fleet, slug)
    assert number > DELETE[home]
