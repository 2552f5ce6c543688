"""A server crashes in the middle of an operation, and comes back: the operation is finished, nobody repairs by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any

import pytest

from tenantry import Router
from tenantry.errors import OperationFailed, ServerUnreachable, TenantryError
from tenantry.hookspecs import hookimpl
from tenantry.postgres.server import LocalServer
from tenantry.service import house as houses
from tenantry.service import key as keys
from tenantry.service import plan as plans
from tenantry.service import tenant as tenants
from tenantry.service.control import Control
from tests.faults.conftest import Site
from tests.operations.invariants import catalog, violations
from tests.operations.recovery import expire, recover

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

_numbers = count(1)
_keys = count(5_000_000)

Verb = Callable[[Control, str], Awaitable[Any]]


async def create(control: Control, slug: str, isolation: str = "pooled") -> None:
    """By the steps of an operation: whoever brings no key is given a home in reserve."""
    await tenants.create(control, slug, isolation=isolation, key=next(_keys))


async def create_database(control: Control, slug: str) -> None:
    await create(control, slug, "database")


async def create_schema(control: Control, slug: str) -> None:
    await create(control, slug, "schema")


async def delete(control: Control, slug: str) -> None:
    await create(control, slug)
    await tenants.delete(control, slug, confirm=slug, grace=0)


async def delete_schema(control: Control, slug: str) -> None:
    await create(control, slug, "schema")
    await tenants.delete(control, slug, confirm=slug, grace=0)


async def suspend(control: Control, slug: str) -> None:
    await create(control, slug)
    await tenants.suspend(control, slug)


async def rotate(control: Control, slug: str) -> None:
    await keys.rotate(control, overlap=0)


async def change_plan(control: Control, slug: str) -> None:
    await plans.change(control, "free", limits={"statement_timeout": f"{next(_numbers)}s"})


class Crash:
    """A plugin that crashes a server at a named moment, once."""

    def __init__(self, server: LocalServer, kind: str, step: str, moment: str) -> None:
        self.server = server
        self.when = kind, step, moment
        self.happened = False

    @hookimpl
    def operation_moment(self, kind: str, step: str, moment: str) -> None:
        if (kind, step, moment) == self.when and not self.happened:
            self.happened = True
            self.server.crash()


@pytest.fixture(autouse=True)
def servers_come_back(site: Site) -> Iterator[None]:
    yield
    for server in (site.catalog, site.shard):
        server.start()
    recover(site.house)


ACTS: list[tuple[Verb, str, str]] = [
    (create, "provision", "admit"),
    (create_schema, "provision", "build"),
    (create_database, "provision", "build"),
    (suspend, "suspend", "shut"),
    (delete, "delete", "shut"),
    (delete, "delete", "clear"),
    (delete_schema, "delete", "clear"),
    (rotate, "rotate", "scrub"),
    (change_plan, "publish", "tell"),
]


@pytest.mark.parametrize(("verb", "kind", "step"), ACTS)
async def test_a_shard_that_crashes_is_waited_for(site: Site, verb: Verb, kind: str, step: str) -> None:
    async with site.house.control() as control:
        crash = Crash(site.shard, kind, step, "before")
        control.engine.hooks.register(crash)
        with pytest.raises(OperationFailed, match=f"{kind} stopped at the step '{step}'") as caught:
            await verb(control, f"tenant-{next(_numbers)}")
        assert crash.happened
        assert "tenantry worker" in str(caught.value.hint)
        [left] = await control.engine.unfinished()
        assert (left["kind"], left["state"], left["error"]["step"]) == (kind, "pending", step)
        site.shard.start()
        expire(site.house)
        await houses.work(control)
    assert violations(site.house) == []


RECORDS: list[tuple[Verb, str, str, str]] = [
    (create, "provision", "admit", "acted"),
    (create_database, "provision", "build", "before"),
    (create_database, "provision", "build", "acted"),
    (suspend, "suspend", "shut", "acted"),
    (delete, "delete", "clear", "acted"),
    (rotate, "rotate", "distribute", "before"),
]


@pytest.mark.parametrize(("verb", "kind", "step", "moment"), RECORDS)
async def test_a_catalog_that_crashes_is_waited_for(site: Site, verb: Verb, kind: str, step: str, moment: str) -> None:
    async with site.house.control() as control:
        crash = Crash(site.catalog, kind, step, moment)
        control.engine.hooks.register(crash)
        with pytest.raises(OperationFailed, match=f"{kind} stopped at the step '{step}'"):
            await verb(control, f"tenant-{next(_numbers)}")
        assert crash.happened
        site.catalog.start()
        [left] = await control.engine.unfinished()  # the same process goes on when the catalog is back
        assert (left["kind"], left["state"]) == (kind, "running")
        expire(site.house)
        await houses.work(control)
    assert violations(site.house) == []


async def test_a_shard_that_stays_away_costs_a_new_tenant_its_slug_for_a_while_only(site: Site) -> None:
    """After some attempts its provisioning is undone, as far as that can be done without the shard; then wholly."""
    async with site.house.control() as control:
        control.engine.hooks.register(Crash(site.shard, "provision", "admit", "before"))
        with pytest.raises(OperationFailed):
            await tenants.create(control, "unlucky", key=next(_keys))
        with catalog(site.house) as conn:
            conn.execute("UPDATE operations SET attempt = 5 WHERE state = 'pending'")
        for _ in range(2):
            expire(site.house)
            await houses.work(control)
        [left] = await control.engine.unfinished()
        assert left["state"] == "undoing"
        site.shard.start()
        expire(site.house)
        await houses.work(control)
        assert await control.engine.unfinished() == []
        await tenants.create(control, "unlucky")


async def test_without_a_catalog_the_control_plane_says_so(site: Site) -> None:
    async with site.house.control() as control:
        site.catalog.crash()
        with pytest.raises(ServerUnreachable, match="the catalog"):
            await tenants.create(control, "nobody")
        site.catalog.start()
        await tenants.create(control, "somebody")


async def test_tenants_work_on_while_the_catalog_is_away_and_operations_fail(site: Site) -> None:
    async with site.house.control() as control:
        await tenants.create(control, "worker-bee")
    with Router(site.house.settings) as router:
        while not router.view.cache.listening:  # noqa: ASYNC110 - what was read before is forgotten then
            await asyncio.sleep(0)
        with router.tenant_scope("worker-bee"), router.transaction() as conn:
            conn.execute("INSERT INTO orders (note) VALUES ('before')")
        site.catalog.crash()
        with router.tenant_scope("worker-bee"), router.transaction() as conn:
            conn.execute("INSERT INTO orders (note) VALUES ('without')")
            rows = conn.execute("SELECT note FROM orders ORDER BY note").fetchall()
    assert rows == [("before",), ("without",)]


async def test_a_worker_goes_on_with_the_others_when_one_shard_is_away(site: Site) -> None:
    async with site.house.control() as control:
        await tenants.create(control, "first")
        await tenants.create(control, "second")
        site.shard.crash()
        for slug in ("first", "second"):
            with pytest.raises(TenantryError):
                await tenants.suspend(control, slug)
        expire(site.house)
        assert await houses.work(control) == 2
        site.shard.start()
        expire(site.house)
        assert await houses.work(control) == 2
    with catalog(site.house) as conn:
        rows = conn.execute("SELECT state FROM tenants WHERE slug IN ('first', 'second')").fetchall()
    assert [row["state"] for row in rows] == ["suspended"] * 2
