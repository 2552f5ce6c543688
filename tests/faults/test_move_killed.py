"""The process that moves a tenant is killed at every moment; another one brings the tenant to one of the two places."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest

from tenantry.operations.move import MOVE
from tests.fixtures.house import House, MakeHouse
from tests.fixtures.workers import Workers
from tests.operations.invariants import catalog
from tests.operations.ledger import Ledger
from tests.operations.recovery import recover

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MOMENTS = [(step.name, moment) for step in MOVE.steps for moment in ("before", "acted", "after")]
UNDO_MOMENTS = [
    (step.name, moment) for step in MOVE.steps if step.name != "clear" for moment in ("undo", "undo acted", "undone")
]
WAYS = {
    "one database": ("pooled", "main", "schema", "main"),
    "two databases": ("database", "main", "pooled", "second"),
}

_number = count(1)


@pytest.fixture(scope="module")
def town(make_house: MakeHouse) -> House:
    """A house with two shards, whose applications wait for a tenant that is on its way."""
    return make_house(second=True, connect_seconds=30.0)


def moving(town: House, way: str) -> Ledger:
    """A tenant that is about to be moved."""
    level, shard, _, _ = WAYS[way]
    return Ledger(town, town.create(f"mover-{next(_number)}", isolation=level, shard=shard))


def placed(town: House, ledger: Ledger) -> tuple[str, str, int]:
    """Where the tenant is, says the catalog."""
    with catalog(town) as conn:
        row = conn.execute(
            "SELECT s.isolation, s.shard, p.epoch FROM placements p JOIN spaces s ON s.id = p.space"
            " WHERE p.tenant = %s",
            (ledger.tenant.id,),
        ).fetchone()
    assert row is not None
    return row["isolation"], row["shard"], row["epoch"]


def alternating(moments: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Each moment with one of the ways: there is no time for all pairs."""
    return [(*when, list(WAYS)[number % len(WAYS)]) for number, when in enumerate(moments)]


@pytest.mark.parametrize(("step", "moment", "way"), alternating(MOMENTS))
def test_a_move_is_finished(town: House, workers: Workers, way: str, step: str, moment: str) -> None:
    ledger = moving(town, way)
    _, _, to, where = WAYS[way]
    grace = 0 if step in ("grace", "clear") else 3600
    with ledger.writing():
        ledger.grow(5)
        options: dict[str, Any] = {"to": to, "shard": where, "grace": grace}
        assert workers.run(town, "move", ledger.tenant.slug, events=[(step, moment, "kill")], **options).killed
        recover(town)
        ledger.grow(5)
    ledger.check()
    assert placed(town, ledger) == (to, where, 2)
    recover(town)


@pytest.mark.parametrize(("step", "moment", "way"), alternating(UNDO_MOMENTS))
def test_a_move_is_undone(town: House, workers: Workers, way: str, step: str, moment: str) -> None:
    ledger = moving(town, way)
    level, shard, to, where = WAYS[way]
    with ledger.writing():
        ledger.grow(5)
        assert workers.run(town, "move", ledger.tenant.slug, to=to, shard=where, grace=3600).result
        assert placed(town, ledger) == (to, where, 2)
        ledger.grow(5)
        with catalog(town) as conn:
            row = conn.execute("SELECT max(id) AS id FROM operations WHERE kind = 'move'").fetchone()
        assert row is not None
        assert workers.run(town, "undo", row["id"], events=[(step, moment, "kill")]).killed
        recover(town)
        ledger.grow(5)
    ledger.check()
    assert placed(town, ledger) == (level, shard, 3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("way", WAYS)
def test_a_move_that_dies_again_and_again_gets_there(town: House, workers: Workers, way: str, seed: int) -> None:
    lot = random.Random(f"{way} {seed}")
    ledger = moving(town, way)
    level, shard, to, where = WAYS[way]
    with ledger.writing():
        ledger.grow(5)
        options: dict[str, Any] = {"to": to, "shard": where, "grace": 0}
        workers.run(town, "move", ledger.tenant.slug, statement=(lot.randint(5, 300), "kill"), **options)
        for _ in range(4):
            with catalog(town) as conn:
                conn.execute("UPDATE operations SET lease_until = now(), resume_at = now() WHERE kind = 'move'")
            workers.run(town, "work", statement=(lot.randint(5, 300), "kill"))
        recover(town)
        ledger.grow(5)
    ledger.check()
    assert placed(town, ledger) in ((level, shard, 1), (to, where, 2))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("way", WAYS)
def test_a_mover_that_wakes_up_later_changes_nothing(town: House, workers: Workers, way: str, seed: int) -> None:
    """Two workers that both believe they own the move."""
    lot = random.Random(f"{way} {seed}")
    ledger = moving(town, way)
    _, _, to, where = WAYS[way]
    with ledger.writing():
        ledger.grow(5)
        options: dict[str, Any] = {"to": to, "shard": where, "grace": 0}
        statement = (lot.randint(20, 250), "stop")
        sleeper = workers.run(town, "move", ledger.tenant.slug, statement=statement, **options)
        if sleeper.stopped:
            with catalog(town) as conn:
                conn.execute("UPDATE operations SET lease_until = now() WHERE kind = 'move' AND state = 'running'")
            workers.run(town, "work")
            assert not workers.wake(sleeper).killed
        recover(town)
        ledger.grow(5)
    ledger.check()
    assert placed(town, ledger) == (to, where, 2)
