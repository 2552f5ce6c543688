"""Suspending and resuming: the database refuses first, what runs ends in peace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tenantry import Router
from tenantry.errors import OperationOpen, TenantNotFound, TenantSuspended, TenantUnavailable
from tenantry.model import TenantState
from tenantry.service import tenant as tenants
from tests.fixtures.house import House
from tests.operations.invariants import catalog, violations

pytestmark = pytest.mark.anyio

SLUGS = ("pooled-a", "schema-a", "database-a")


@pytest.fixture(scope="module")
def application(house: House) -> Iterator[Router]:
    with Router(house.settings) as router:
        yield router


@pytest.fixture(autouse=True)
def all_is_as_it_must_be(house: House) -> Iterator[None]:
    yield
    assert violations(house) == []


@pytest.mark.parametrize("slug", SLUGS)
async def test_a_suspended_tenant_is_refused_and_a_resumed_one_works_on(
    house: House, application: Router, slug: str
) -> None:
    async with house.control() as control:
        suspended = await tenants.suspend(control, slug)
        assert suspended.state is TenantState.SUSPENDED
        application.view.refresh(suspended)
        with pytest.raises(TenantSuspended), application.tenant_scope(slug):
            pass
        resumed = await tenants.resume(control, slug)
        application.view.refresh(resumed)
    with application.tenant_scope(slug), application.transaction() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("slug", SLUGS)
async def test_a_running_transaction_ends_in_peace_and_the_next_does_not_begin(
    house: House, application: Router, slug: str
) -> None:
    found = application.find(slug)
    async with house.control() as control:
        with ExitStack() as stack:
            conn = stack.enter_context(application.transaction(found))
            conn.execute("INSERT INTO orders (note) VALUES ('before')")
            await tenants.suspend(control, slug)
            conn.execute("INSERT INTO orders (note) VALUES ('still')")
        with pytest.raises(TenantSuspended), application.transaction(found) as conn:  # whatever its view says
            conn.execute("SELECT 1")
        application.view.refresh(await tenants.resume(control, slug))
    with application.transaction(application.find(slug)) as conn:
        notes = conn.execute("SELECT note FROM orders WHERE note IN ('before', 'still')").fetchall()
    assert len(notes) == 2


async def test_its_neighbours_do_not_notice(house: House, application: Router) -> None:
    async with house.control() as control:
        await tenants.suspend(control, "pooled-a")
        with application.tenant_scope("pooled-b"), application.transaction() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        application.view.refresh(await tenants.resume(control, "pooled-a"))


async def test_twice_does_no_harm(house: House) -> None:
    async with house.control() as control:
        for verb, state in ((tenants.suspend, "suspended"), (tenants.resume, "active")):
            before = operations(house)
            assert (await verb(control, "pooled-a")).state == state
            assert (await verb(control, "pooled-a")).state == state
            assert operations(house) == before + 1


def operations(house: House) -> int:
    with catalog(house) as conn:
        row = conn.execute("SELECT count(*) FROM operations").fetchone()
    assert row is not None
    return int(row["count"])


async def test_an_unknown_tenant_is_not_found(house: House) -> None:
    async with house.control() as control:
        for verb in (tenants.suspend, tenants.resume):
            with pytest.raises(TenantNotFound, match="'nobody'"):
                await verb(control, "nobody")


async def test_one_that_is_being_deleted_can_not_be_suspended(house: House) -> None:
    async with house.control() as control:
        await tenants.create(control, "leaving")
        await tenants.delete(control, "leaving", confirm="leaving", grace=3600)
        with pytest.raises(TenantUnavailable, match="'leaving' is deleting"):
            await tenants.suspend(control, "leaving")
        await tenants.resume(control, "leaving")


async def test_one_with_an_open_operation_can_not_be_suspended(house: House) -> None:
    async with house.control() as control:
        tenant = await tenants.create(control, "occupied")
        async with control.store.transaction() as conn:
            operation = await control.engine.start(conn, "suspend", {}, [tenant.id], "other")
        with pytest.raises(OperationOpen) as caught:
            await tenants.suspend(control, "occupied")
        assert "tenantry worker" in str(caught.value.hint)
        assert await control.engine.run(operation) == "done"
