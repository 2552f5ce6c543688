"""Real workers, with processes and with threads: each task lands at the tenant that it was sent for."""

from __future__ import annotations

import asyncio
import importlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
from celery import chain, chord, group
from celery.beat import Scheduler, SchedulingError
from celery.schedules import schedule

from tenantry import Router, Tenant, tenant_scope
from tenantry.errors import NoTenant, TenantNotFound, TenantSuspended, Unresolved
from tenantry.integrations.celery.headers import MODE, TENANT
from tenantry.service import tenant as tenants
from tests.fixtures.house import House

ROOT = Path(__file__).resolve().parents[2]
SLUGS = ("pooled-a", "pooled-b", "schema-a", "database-a")


@pytest.fixture(scope="module")
def tasks(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The application, in the process that sends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENANTRY_TEST_QUEUE", str(tmp_path_factory.mktemp("queue")))
        patch.setenv("TENANTRY_TEST_CATALOG", house.settings.catalog_dsn)
        module = importlib.import_module("tests.integrations.tasks")
        with module.app.producer_or_acquire() as producer:
            producer.maybe_declare(module.app.amqp.default_queue)  # its file is whole before a worker reads it
        yield module
        module.router.close()
        module.app.close()
        del sys.modules["tests.integrations.tasks"]


@pytest.fixture(scope="module", params=["prefork", "threads"])
def worker(request: pytest.FixtureRequest, tasks: ModuleType) -> Iterator[str]:
    """A worker that runs two tasks at once."""
    log = tasks.FOLDER / f"{request.param}.log"
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=INFO")
    command = (sys.executable, "-m", "celery", "-A", "tests.integrations.tasks", "worker", "-c2", "-P", request.param)
    with log.open("wb") as output:
        process = subprocess.Popen((*command, *quiet), cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    yield request.param
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(30) == 0
    finally:
        process.kill()
        print(log.read_text("utf-8"))


@pytest.fixture
def router(tasks: ModuleType, worker: str) -> Router:
    router: Router = tasks.router
    return router


@pytest.fixture
def mark() -> str:
    """What the orders of one test have in common."""
    return uuid4().hex


def got(result: Any) -> Any:
    return result.get(timeout=20, interval=0.02)


def notes(router: Router, slug: str, mark: str) -> list[str]:
    with router.tenant_scope(slug), router.transaction() as conn:
        found = conn.execute("SELECT note FROM orders WHERE note LIKE %s ORDER BY note", (f"%{mark}%",)).fetchall()
    return [note for (note,) in found]


def written(router: Router, mark: str) -> dict[str, list[str]]:
    """What each tenant has of a test."""
    found = {slug: notes(router, slug, mark) for slug in SLUGS}
    return {slug: [note.replace(f" {mark}", "") for note in each] for slug, each in found.items() if each}


async def _suspend(house: House, slug: str, suspended: bool) -> None:
    async with house.control() as control:
        await (tenants.suspend if suspended else tenants.resume)(control, slug)


def suspend(house: House, slug: str, suspended: bool = True) -> None:
    asyncio.run(_suspend(house, slug, suspended))


def test_interleaved_tasks_land_at_their_tenants_and_forked_processes_have_connections_of_their_own(
    tasks: ModuleType, worker: str, router: Router, mark: str
) -> None:
    results = []
    for number in range(40):
        with router.tenant_scope(SLUGS[number % 4]):
            results.append(tasks.where.delay(f"{mark} {number:02}"))
    done = [got(result) for result in results]
    assert [slug for slug, *_ in done] == [SLUGS[number % 4] for number in range(40)]
    for at, slug in enumerate(SLUGS):
        assert notes(router, slug, mark) == [f"{slug}: {mark} {number:02}" for number in range(at, 40, 4)]
    if worker == "prefork":
        assert len({pid for _, pid, _, _ in done}) == 2
        assert all(parents and backend not in parents for _, _, backend, parents in done)


@pytest.mark.parametrize("slug", ["pooled-a", "schema-a"])
def test_the_parts_of_chains_groups_and_chords_all_run_for_the_tenant(
    tasks: ModuleType, router: Router, mark: str, slug: str
) -> None:
    with router.tenant_scope(slug):
        chained = chain(tasks.order.s(f"{mark} c0"), tasks.add.s(f"{mark} c1"), tasks.add.s(f"{mark} c2"))()
        fan = group(tasks.order.s(f"{mark} g{number}") for number in range(3))
        joined = chord(fan, tasks.add.s(f"{mark} body"))()
    assert got(chained) == f"{slug}+{slug}+{slug}"
    assert got(joined) == f"{[slug] * 3}+{slug}"
    parts = ["body", "c0", "c1", "c2", "g0", "g1", "g2"]
    assert written(router, mark) == {slug: [f"{slug}: {part}" for part in parts]}


def test_a_task_for_nobody_in_the_middle_does_not_lose_the_tenant(tasks: ModuleType, router: Router, mark: str) -> None:
    with router.tenant_scope("pooled-b"):
        result = chain(tasks.order.s(f"{mark} first"), tasks.sweep.si(), tasks.add.s(f"{mark} last"))()
    assert got(result) == "None+pooled-b"
    assert written(router, mark) == {"pooled-b": ["pooled-b: first", "pooled-b: last"]}


def test_retries_callbacks_errbacks_and_tasks_sent_by_tasks_stay_with_the_tenant(
    tasks: ModuleType, router: Router, mark: str
) -> None:
    link = tasks.add.s(f"{mark} link").set(task_id=f"link-{mark}")
    errbacks = [tasks.note_failure.s().set(task_id=f"errback-{mark}"), tasks.note_failure_here.s()]
    with router.tenant_scope("database-a"):
        stubborn = tasks.stubborn.apply_async((f"{mark} try",), link=link)
        failing = tasks.fail.apply_async((f"{mark} fail",), task_id=f"{mark} errback", link_error=errbacks)
        delegating = tasks.delegate.delay(f"{mark} inner")
    assert got(stubborn) == got(tasks.app.AsyncResult(got(delegating))) == "database-a"
    with pytest.raises(ZeroDivisionError, match="database-a"):
        got(failing)
    got(tasks.app.AsyncResult(f"link-{mark}"))
    got(tasks.app.AsyncResult(f"errback-{mark}"))
    expected = ["errback called", "errback sent", "fail", "inner", "link", "try 0", "try 1", "try 2"]
    assert written(router, mark) == {"database-a": [f"database-a: {part}" for part in expected]}


def test_tasks_for_nobody_and_for_anybody(tasks: ModuleType, router: Router) -> None:
    with router.tenant_scope("pooled-a"):
        assert got(tasks.sweep.delay()) is None
        assert got(tasks.greet.delay()) == "hello pooled-a"
    assert got(tasks.sweep.delay()) is None
    assert got(tasks.greet.delay()) == "hello everybody"


def test_a_scope_for_reading_stays_one(tasks: ModuleType, router: Router, mark: str) -> None:
    with router.tenant_scope("pooled-a", mode="ro"):
        result = tasks.order.delay(mark)
    with pytest.raises(Exception, match="read-only transaction"):
        got(result)
    assert written(router, mark) == {}


def test_headers_are_looked_up_and_not_believed(tasks: ModuleType, worker: str, mark: str) -> None:
    name = tasks.order.name
    for headers, error in (
        ({}, NoTenant),
        ({TENANT: "nobody"}, NoTenant),
        ({TENANT: f"id:{uuid4()}"}, TenantNotFound),
        ({TENANT: "slug:nobody-has-this"}, TenantNotFound),
        ({TENANT: "id:7"}, Unresolved),
        ({TENANT: "key:1"}, Unresolved),
        ({TENANT: "slug:pooled-a", MODE: "root"}, Unresolved),
    ):
        with pytest.raises(error):
            got(tasks.app.send_task(name, (mark,), headers=headers))
    assert written(tasks.router, mark) == {}
    assert got(tasks.app.send_task(name, (mark,), headers={TENANT: "slug:pooled-a", MODE: "rw"})) == "pooled-a"


def test_a_suspended_tenants_task_fails_or_waits_or_is_rejected(
    tasks: ModuleType, worker: str, house: House, mark: str, mover: Tenant
) -> None:
    suspend(house, mover.slug)
    with tenant_scope(mover):
        failing, patient, picky = tasks.order.delay(mark), tasks.patient.delay(mark), tasks.picky.delay(mark)
        impatient = tasks.impatient.delay(mark)
    for refused in (failing, impatient):
        with pytest.raises(TenantSuspended, match=mover.slug):
            got(refused)
    log = tasks.FOLDER / f"{worker}.log"
    while patient.state != "RETRY" or f"the task {tasks.picky.name} is rejected" not in log.read_text("utf-8"):
        got(tasks.sweep.delay())
    suspend(house, mover.slug, False)
    assert got(patient) == mover.slug
    assert picky.state == "PENDING"
    with tasks.router.tenant_scope(mover.slug), tasks.router.transaction() as conn:
        assert conn.execute("SELECT note FROM orders").fetchall() == [(f"{mover.slug}: {mark}",)]


def test_a_message_that_comes_again_after_a_crash_still_knows_its_tenant(
    tasks: ModuleType, worker: str, router: Router, mark: str
) -> None:
    if worker == "threads":
        pytest.skip("a thread can't crash alone")
    with router.tenant_scope("schema-a"):
        result = tasks.die_once.delay(mark)
    assert got(result) == "schema-a"
    assert notes(router, "schema-a", mark) == [f"schema-a: {mark}"]


def test_a_schedule_says_for_whom_its_tasks_run(tasks: ModuleType, router: Router, mark: str) -> None:
    scheduler = Scheduler(app=tasks.app)

    def due(task: Any, *args: str, **options: Any) -> Any:
        entry = scheduler.Entry(
            name="x", task=task.name, schedule=schedule(60), args=args, options=options, app=tasks.app
        )
        return scheduler.apply_async(entry, advance=False)

    assert got(due(tasks.order, f"{mark} slug", tenant="pooled-a")) == "pooled-a"
    assert got(due(tasks.order, f"{mark} tenant", tenant=router.find("pooled-b"))) == "pooled-b"
    assert got(due(tasks.sweep)) is None
    with pytest.raises(SchedulingError, match="outside of a tenant scope"):
        due(tasks.order, mark)
    assert written(router, mark) == {"pooled-a": ["pooled-a: slug"], "pooled-b": ["pooled-b: tenant"]}


def test_a_chord_over_several_tenants_ends_with_a_task_for_nobody(tasks: ModuleType, router: Router, mark: str) -> None:
    fan = [tasks.order.s(mark).set(tenant=slug) for slug in SLUGS]
    assert got(chord(fan, tasks.sweep.si())()) is None
    assert written(router, mark) == {slug: [f"{slug}:"] for slug in SLUGS}
