"""The tenant in threads and processes that the application starts by itself."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from uuid import uuid4

import anyio.from_thread
import anyio.to_thread
import pytest

from tenantry import Mode, Router, Tenant, carry_scope, carry_to_process, current_tenant
from tenantry.context import current_scope
from tenantry.errors import InvalidInput, NoTenant, TenantSuspended
from tenantry.service import tenant as tenants
from tests.fixtures.house import House
from tests.integrations import errands

SLUGS = ("pooled-a", "pooled-b", "schema-a", "database-a")

# From Python 3.12 on: a process with threads may not be forked light-heartedly. The applications do it all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def catalog(house: House) -> Iterator[str]:
    """Where routers of any process find the house; this process has one."""
    yield house.settings.catalog_dsn
    errands.router_of(house.settings.catalog_dsn).close()
    errands.router_of.cache_clear()


@pytest.fixture
def own(catalog: str) -> Router:
    """The router of this process."""
    return errands.router_of(catalog)


def order(router: Router, slug: str, note: str) -> tuple[int, int]:
    with router.tenant_scope(slug):
        return errands.place_order(router.settings.catalog_dsn, note)


def notes(router: Router, slug: str, like: str) -> list[str]:
    with router.tenant_scope(slug), router.transaction() as conn:
        found = conn.execute("SELECT note FROM orders WHERE note LIKE %s ORDER BY note", (f"%{like}%",)).fetchall()
    return [note for (note,) in found]


def test_threads_of_an_executor_work_for_the_tenant_that_is_carried_to_them(catalog: str, own: Router) -> None:
    mark = uuid4().hex
    with ThreadPoolExecutor(4) as executor:
        futures = []
        for number in range(24):
            with own.tenant_scope(SLUGS[number % 4]):
                futures.append(executor.submit(carry_scope(errands.place_order), catalog, f"{mark} {number:02}"))
        for future in futures:
            future.result()
        with pytest.raises(NoTenant):
            executor.submit(errands.place_order, catalog, mark).result()
    for at, slug in enumerate(SLUGS):
        assert notes(own, slug, mark) == [f"{slug}: {mark} {number:02}" for number in range(at, 24, 4)]


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_processes_work_for_the_tenants_that_are_carried_to_them(catalog: str, own: Router, method: str) -> None:
    mark = uuid4().hex
    mine = [order(own, slug, "before")[1] for slug in SLUGS]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as executor:
        futures: list[Future[tuple[int, int]]] = []
        for number in range(16):
            with own.tenant_scope(SLUGS[number % 4]):
                carried = carry_to_process(errands.place_order, partial(errands.router_of, catalog))
            futures.append(executor.submit(carried, catalog, f"{mark} {number:02}"))
        done = [future.result() for future in futures]
    assert os.getpid() not in {pid for pid, _ in done}
    assert set(mine).isdisjoint(backend for _, backend in done), "a child has used a connection of its parent"
    for at, slug in enumerate(SLUGS):
        assert notes(own, slug, mark) == [f"{slug}: {mark} {number:02}" for number in range(at, 16, 4)]
    assert [order(own, slug, "after")[1] for slug in SLUGS] == mine, "the parent has lost its connections"


def test_the_id_and_the_mode_travel_and_nothing_else_of_the_tenant(catalog: str, own: Router, house: House) -> None:
    with own.tenant_scope("schema-a", mode="ro"):
        job = pickle.dumps(carry_to_process(errands.seen, partial(errands.router_of, catalog)))
    assert b"schema" not in job
    assert pickle.loads(job)() == (os.getpid(), "schema-a", Mode.READ_ONLY)
    assert current_scope() is None


def test_a_tenant_that_was_suspended_since_is_refused_in_the_other_process(
    catalog: str, own: Router, house: House, mover: Tenant
) -> None:
    with own.tenant_scope(mover.slug):
        carried = carry_to_process(errands.seen, partial(errands.router_of, catalog))

    async def suspend() -> None:
        async with house.control() as control:
            await tenants.suspend(control, mover.slug)

    asyncio.run(suspend())
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        refused = executor.submit(carried).exception()
    assert isinstance(refused, TenantSuspended)
    assert mover.slug in refused.message


def test_what_can_not_be_carried_to_a_process_is_refused_at_once(catalog: str, own: Router) -> None:
    with pytest.raises(NoTenant, match="no tenant scope to carry"):
        carry_to_process(errands.seen, partial(errands.router_of, catalog))
    with own.tenant_scope("pooled-a"), pytest.raises(InvalidInput, match="stays in this process"):
        carry_to_process(errands.seen, own)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_threads_of_asyncio_and_anyio_keep_the_tenant_and_so_do_their_ways_back(own: Router) -> None:
    def both() -> tuple[str, str]:
        return current_tenant().slug, anyio.from_thread.run(slug_of_task)

    async def slug_of_task() -> str:
        return current_tenant().slug

    def back(loop: asyncio.AbstractEventLoop) -> str:
        return asyncio.run_coroutine_threadsafe(slug_of_task(), loop).result(30)

    with own.tenant_scope("pooled-b"):
        assert await asyncio.to_thread(current_tenant) == own.find("pooled-b")
        assert await asyncio.to_thread(back, asyncio.get_running_loop()) == "pooled-b"
        assert await anyio.to_thread.run_sync(both) == ("pooled-b", "pooled-b")
    assert await asyncio.to_thread(current_scope) is None
