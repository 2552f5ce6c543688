"""A process is killed at every named moment of every operation; another one finishes or undoes what it left."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tenantry import Router, TenantryError
from tenantry.model import TenantState
from tenantry.operations.delete import DELETE
from tenantry.operations.migrate import MIGRATE
from tenantry.operations.provision import PROVISION
from tenantry.operations.publish import PUBLISH
from tenantry.operations.refill import REFILL
from tenantry.operations.resume import RESUME
from tenantry.operations.rotate import ROTATE
from tenantry.operations.steps import Kind
from tenantry.operations.suspend import SUSPEND
from tests.fixtures.house import House, MakeHouse
from tests.fixtures.workers import Workers
from tests.operations.invariants import catalog
from tests.operations.recovery import recover

pytestmark = pytest.mark.slow

MOMENTS = ("before", "acted", "after")
UNDO_MOMENTS = ("undo", "undo acted", "undone")

HOMES: dict[str, dict[str, Any]] = {
    "pooled": {"isolation": "pooled"},
    "schema": {"isolation": "schema"},
    "database": {"isolation": "database"},
    "dedicated": {"isolation": "database", "shard": "second"},
}
WARM: dict[str, dict[str, Any]] = {"warm schema": {"isolation": "schema"}, "warm database": {"isolation": "database"}}

_numbers = count(1)
_keys = count(5_000_000)
"""Whoever brings a key of its own is taken in by the steps of an operation; others are given a home in reserve."""


def moments(kind: Kind) -> list[tuple[str, str]]:
    return [(step.name, moment) for step in kind.steps for moment in MOMENTS]


def undo_moments(kind: Kind, failing: str) -> list[tuple[str, str]]:
    """The moments of the undoing after a step has failed."""
    names = [step.name for step in kind.steps]
    return [(name, moment) for name in names[: names.index(failing) + 1] for moment in UNDO_MOMENTS]


@pytest.fixture(scope="module")
def fleet(make_house: MakeHouse) -> House:
    """Two shards, the second one dedicated."""
    made = make_house(second=True)
    with catalog(made) as conn:
        conn.execute("UPDATE shards SET dedicated = true WHERE name = 'second'")
    return made


@pytest.fixture(scope="module")
def application(fleet: House) -> Iterator[Router]:
    with Router(fleet.settings) as router:
        yield router


@pytest.fixture
def slug() -> str:
    return f"tenant-{next(_numbers)}"


def set_warm(house: House, warm: int) -> None:
    with catalog(house) as conn:
        conn.execute("UPDATE plans SET warm = %s WHERE isolation <> 'pooled'", (warm,))
        if not warm:  # homes of another version are not handed out
            conn.execute("UPDATE spaces SET template = 'other' WHERE state = 'ready' AND isolation <> 'pooled'")


def is_at_work(application: Router, slug: str) -> bool:
    """Whether the tenant can write and read; checks the whole way."""
    try:
        with application.tenant_scope(slug) as tenant, application.transaction() as conn:
            conn.execute("INSERT INTO orders (note) VALUES (%s)", (slug,))
            rows = conn.execute("SELECT DISTINCT tenant_id FROM orders").fetchall()
    except TenantryError:
        return False
    assert rows == [(tenant.key,)]
    return True


def state(house: House, slug: str) -> str:
    with catalog(house) as conn:
        row = conn.execute("SELECT state FROM tenants WHERE slug = %s", (slug,)).fetchone()
    return str(row["state"]) if row else "none"


@pytest.mark.parametrize(
    ("home", "step", "moment"),
    [
        *((home, *when) for home in ("pooled", "schema", "database", *WARM) for when in moments(PROVISION)),
        *(("dedicated", *when) for when in (("place", "after"), ("build", "acted"), ("admit", "acted"))),
    ],
)
def test_provisioning_is_finished(
    fleet: House, workers: Workers, application: Router, slug: str, home: str, step: str, moment: str
) -> None:
    if home in WARM:
        set_warm(fleet, 1)
        recover(fleet)
        set_warm_only(fleet)
    else:
        set_warm(fleet, 0)
    options = {**HOMES, **WARM}[home] | {"key": next(_keys)}
    assert workers.run(fleet, "create", slug, events=[(step, moment, "kill")], **options).killed
    recover(fleet)
    assert is_at_work(application, slug)
    assert workers.run(fleet, "delete", slug, confirm=slug, grace=0).result == "done"


def set_warm_only(house: House) -> None:
    """Keep what is warm, but let no worker build more."""
    with catalog(house) as conn:
        conn.execute("UPDATE plans SET warm = 0")


@pytest.mark.parametrize(("step", "moment"), undo_moments(PROVISION, "admit"))
@pytest.mark.parametrize("home", ["pooled", "schema", "database", "warm schema", "warm database"])
def test_provisioning_that_failed_is_undone(
    fleet: House, workers: Workers, slug: str, home: str, step: str, moment: str
) -> None:
    set_warm(fleet, int(home in WARM))
    recover(fleet)
    set_warm_only(fleet)
    events = [("admit", "acted", "fail"), (step, moment, "kill")]
    options = {**HOMES, **WARM}[home] | {"key": next(_keys)}
    assert workers.run(fleet, "create", slug, events=events, **options).killed
    recover(fleet)
    assert state(fleet, slug) == "none"


@pytest.mark.parametrize("home", ["pooled", "database"])
@pytest.mark.parametrize(("step", "moment"), moments(SUSPEND))
def test_suspending_is_finished(
    fleet: House, workers: Workers, application: Router, slug: str, home: str, step: str, moment: str
) -> None:
    set_warm(fleet, 0)
    fleet.create(slug, **HOMES[home])
    assert workers.run(fleet, "suspend", slug, events=[(step, moment, "kill")]).killed
    recover(fleet)
    assert state(fleet, slug) == TenantState.SUSPENDED
    assert not is_at_work(application, slug)


@pytest.mark.parametrize(("step", "moment"), moments(RESUME))
def test_resuming_is_finished(
    fleet: House, workers: Workers, application: Router, slug: str, step: str, moment: str
) -> None:
    fleet.create(slug)
    assert workers.run(fleet, "suspend", slug).result
    assert workers.run(fleet, "resume", slug, events=[(step, moment, "kill")]).killed
    recover(fleet)
    assert is_at_work(application, slug)


@pytest.mark.parametrize("moment", UNDO_MOMENTS)
@pytest.mark.parametrize(("verb", "step"), [("suspend", "shut"), ("resume", "open")])
def test_suspending_or_resuming_that_failed_is_undone(
    fleet: House, workers: Workers, application: Router, slug: str, verb: str, step: str, moment: str
) -> None:
    fleet.create(slug)
    if verb == "resume":
        assert workers.run(fleet, "suspend", slug).result
    events = [(step, "acted", "fail"), (step, moment, "kill")]
    assert workers.run(fleet, verb, slug, events=events).killed
    recover(fleet)
    assert is_at_work(application, slug) == (verb == "suspend")


@pytest.mark.parametrize(("step", "moment"), moments(DELETE))
@pytest.mark.parametrize("home", ["pooled", "schema", "database"])
def test_deleting_is_finished(
    fleet: House, workers: Workers, application: Router, slug: str, home: str, step: str, moment: str
) -> None:
    set_warm(fleet, 0)
    fleet.create(slug, **HOMES[home])
    assert is_at_work(application, slug)
    events = [(step, moment, "kill")]
    assert workers.run(fleet, "delete", slug, confirm=slug, grace=0, events=events).killed
    recover(fleet)
    assert state(fleet, slug) == TenantState.DELETED


@pytest.mark.parametrize(("step", "moment"), undo_moments(DELETE, "drain"))
def test_deleting_that_failed_before_anything_was_lost_is_undone(
    fleet: House, workers: Workers, application: Router, slug: str, step: str, moment: str
) -> None:
    fleet.create(slug)
    events = [("drain", "acted", "fail"), (step, moment, "kill")]
    assert workers.run(fleet, "delete", slug, confirm=slug, grace=0, events=events).killed
    recover(fleet)
    assert is_at_work(application, slug)


@pytest.mark.parametrize(("step", "moment"), [*moments(REFILL), *[("build", each) for each in UNDO_MOMENTS]])
def test_refilling_is_finished_or_undone(fleet: House, workers: Workers, step: str, moment: str) -> None:
    set_warm(fleet, 0)
    set_warm(fleet, 1)
    failing = [("build", "acted", "fail")] if moment in UNDO_MOMENTS else []
    assert workers.run(fleet, "refill", events=[*failing, (step, moment, "kill")]).killed
    recover(fleet)
    with catalog(fleet) as conn:
        ready = "SELECT isolation FROM spaces WHERE state = 'ready' AND template <> 'other' AND isolation <> 'pooled'"
        assert sorted(row["isolation"] for row in conn.execute(ready).fetchall()) == ["database", "schema"]


@pytest.mark.parametrize(("step", "moment"), moments(ROTATE))
def test_rotating_the_key_is_finished(
    fleet: House, workers: Workers, application: Router, slug: str, step: str, moment: str
) -> None:
    fleet.create(slug)
    before = keys(fleet)
    assert workers.run(fleet, "rotate", overlap=0, events=[(step, moment, "kill")]).killed
    assert is_at_work(application, slug)
    recover(fleet)
    assert len(keys(fleet)) == 1
    assert keys(fleet) != before
    assert is_at_work(application, slug)


@pytest.mark.parametrize(("step", "moment"), undo_moments(ROTATE, "distribute"))
def test_a_rotation_that_failed_before_the_new_key_signs_is_undone(
    fleet: House, workers: Workers, application: Router, slug: str, step: str, moment: str
) -> None:
    fleet.create(slug)
    before = keys(fleet)
    events = [("distribute", "acted", "fail"), (step, moment, "kill")]
    assert workers.run(fleet, "rotate", overlap=0, events=events).killed
    recover(fleet)
    assert keys(fleet) == before
    assert is_at_work(application, slug)


def keys(house: House) -> list[str]:
    with catalog(house) as conn:
        return [row["kid"] for row in conn.execute("SELECT kid FROM signing_keys").fetchall()]


@pytest.mark.parametrize(("step", "moment"), moments(PUBLISH))
def test_a_changed_plan_reaches_every_database(fleet: House, workers: Workers, step: str, moment: str) -> None:
    limits = {"statement_timeout": f"{1000 + next(_numbers)}ms"}
    assert workers.run(fleet, "plan change", "free", limits=limits, events=[(step, moment, "kill")]).killed
    recover(fleet)  # compares what each database believes


@pytest.mark.parametrize(("step", "moment"), moments(MIGRATE))
def test_migrating_is_finished(fleet: House, workers: Workers, step: str, moment: str) -> None:
    with catalog(fleet) as conn:
        conn.execute("UPDATE spaces SET template = 'older'")
    assert workers.run(fleet, "migrate", events=[(step, moment, "kill")]).killed
    recover(fleet)
    with catalog(fleet) as conn:
        assert conn.execute("SELECT FROM spaces WHERE template = 'older'").fetchall() == []


def test_the_moments_are_the_ones_that_a_run_comes_through(fleet: House, workers: Workers, slug: str) -> None:
    seen = workers.run(fleet, "create", slug, key=next(_keys)).moments
    assert [tuple(moment[1:]) for moment in seen] == moments(PROVISION)
