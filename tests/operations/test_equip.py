"""A shard is taken in by an operation, too: killed at any moment, it is ready afterwards, or was never there."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tenantry.operations.equip import EQUIP
from tenantry.placements.database import TEMPLATE_DATABASE
from tenantry.postgres.server import LocalServer
from tests.fixtures.house import House, MakeHouse
from tests.fixtures.workers import Outcome, Workers
from tests.operations.invariants import catalog
from tests.operations.recovery import recover, states

pytestmark = pytest.mark.slow

DATABASE = "app_third"
MOMENTS = [(step.name, moment) for step in EQUIP.steps for moment in ("before", "acted", "after")]
FAILING = "template"
UNDONE = [step.name for step in EQUIP.steps[: [step.name for step in EQUIP.steps].index(FAILING) + 1]]


@pytest.fixture(scope="module")
def fleet(make_house: MakeHouse) -> House:
    return make_house()


@pytest.fixture
def third(fleet: House, second_server: LocalServer) -> Iterator[str]:
    """The DSN of a server that belongs to nobody; everything is as before afterwards."""
    yield second_server.dsn(tcp=True)
    with catalog(fleet) as conn:
        conn.execute("DELETE FROM spaces WHERE shard = 'third'")
        conn.execute("DELETE FROM shards WHERE name = 'third'")
    with psycopg.connect(second_server.dsn(), autocommit=True) as server:
        for name in (DATABASE, TEMPLATE_DATABASE):
            server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def add(workers: Workers, house: House, dsn: str, *events: tuple[str, str, str]) -> Outcome:
    return workers.run(house, "shard add", "third", dsn, database=DATABASE, take_over=True, events=list(events))


def shard_state(house: House) -> str:
    with catalog(house) as conn:
        row = conn.execute("SELECT state FROM shards WHERE name = 'third'").fetchone()
    return "none" if row is None else str(row["state"])


@pytest.mark.parametrize(("step", "moment"), MOMENTS)
def test_taking_a_shard_in_is_finished(fleet: House, workers: Workers, third: str, step: str, moment: str) -> None:
    assert add(workers, fleet, third, (step, moment, "kill")).killed
    recover(fleet)
    assert shard_state(fleet) == "open"
    assert workers.run(fleet, "create", f"{step}-{moment}", isolation="database", shard="third").result
    assert workers.run(fleet, "delete", f"{step}-{moment}", confirm=f"{step}-{moment}", grace=0).result == "done"


@pytest.mark.parametrize("moment", ["undo", "undo acted", "undone"])
@pytest.mark.parametrize("step", UNDONE)
def test_taking_a_shard_in_that_failed_is_undone(
    fleet: House, workers: Workers, third: str, step: str, moment: str
) -> None:
    assert add(workers, fleet, third, (FAILING, "acted", "fail"), (step, moment, "kill")).killed
    recover(fleet)
    assert states(fleet, "equip")[-1] == "undone"
    assert shard_state(fleet) == "none"
    assert add(workers, fleet, third).result
    assert shard_state(fleet) == "open"
