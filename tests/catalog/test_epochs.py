"""A process that has missed the news is told by the database, before anything has run, and goes to the right place."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from tenantry import AsyncRouter, Mode, Router, Tenant
from tenantry.errors import TenantDeleted, TenantMoved, TenantSuspended
from tenantry.model import Placement
from tenantry.postgres.connect import merge_dsn
from tests.fixtures.house import House

BOUND = "SELECT tenantry.current_tenant_v1()"


@pytest.fixture
def tenant(house: House) -> Tenant:
    """A pooled tenant of the test's own."""
    return house.create(f"pooled-{uuid4().hex[:8]}", isolation="pooled")


@pytest.fixture
def router(house: House, tenant: Tenant) -> Iterator[Router]:
    """A router that knows the tenant, and hears nothing of what becomes of it."""
    with Router(house.settings) as opened:
        assert opened.view._listener is not None
        assert opened.view._listener.wait(30)  # from then on what it finds is kept
        assert opened.find(tenant.slug) == tenant
        assert opened.view.peek(tenant.id) == tenant
        yield opened


def placed(tenant: Tenant) -> Placement:
    assert tenant.placement is not None
    return tenant.placement


def in_catalog(house: House, query: str, *parameters: object) -> None:
    """Change the catalog so that nobody is told."""
    options = "-c search_path=tenantry_catalog -c session_replication_role=replica"
    with psycopg.connect(merge_dsn(house.control_settings.control_dsn, options=options), autocommit=True) as conn:
        conn.execute(query, parameters)


def in_database(house: House, tenant: Tenant, query: str) -> None:
    """Change what the tenant's database knows of it."""
    with psycopg.connect(house.servers[0].dsn(placed(tenant).database), autocommit=True) as conn:
        conn.execute(f"UPDATE tenantry.residents SET {query} WHERE code = %s", (tenant.code,))


def bump(house: House, tenant: Tenant) -> None:
    in_database(house, tenant, "epoch = epoch + 1")
    in_catalog(house, "UPDATE placements SET epoch = epoch + 1 WHERE tenant = %s", tenant.id)


def test_the_database_refuses_a_stale_epoch_before_any_statement(house: House, router: Router, tenant: Tenant) -> None:
    stale = router.route(router.find(tenant.slug), Mode.READ_WRITE, router.view.fleet())
    bump(house, tenant)
    with router.pools.lease(stale.target) as conn:
        conn.bind_to(stale.mint, stale.guard)
        with pytest.raises(TenantMoved), conn.transaction():
            conn.execute("INSERT INTO orders (note) VALUES ('never')")
    with router.tenant_scope(tenant), router.transaction() as conn:
        assert conn.execute("SELECT count(*) FROM orders").fetchone() == (0,)


def test_the_router_refreshes_its_view_and_goes_on(house: House, router: Router, tenant: Tenant) -> None:
    with router.tenant_scope(tenant):
        for epoch in (1, 2, 3):
            with router.transaction() as conn:
                assert conn.execute(BOUND).fetchone() == (tenant.key,)
            known = router.view.peek(tenant.id)
            assert known is not None
            assert placed(known).epoch == epoch
            bump(house, tenant)


@pytest.mark.anyio
async def test_so_does_the_router_for_tasks(house: House, tenant: Tenant) -> None:
    async with AsyncRouter(house.settings) as router, router.tenant_scope(tenant.slug):
        bump(house, tenant)
        async with router.transaction() as conn:
            assert await (await conn.execute(BOUND)).fetchone() == (tenant.key,)


@pytest.mark.parametrize("behind", ["the catalog", "the database"])
def test_where_catalog_and_database_disagree_nothing_runs_until_they_agree(
    house: House, router: Router, tenant: Tenant, behind: str
) -> None:
    if behind == "the catalog":
        in_database(house, tenant, "epoch = epoch + 1")
    else:
        in_catalog(house, "UPDATE placements SET epoch = epoch + 1 WHERE tenant = %s", tenant.id)
    router.view.cache.clear()
    with router.tenant_scope(router.find(tenant.slug)):
        with pytest.raises(TenantMoved) as caught, router.transaction() as conn:
            conn.execute("INSERT INTO orders (note) VALUES ('never')")
        assert "refresh" in str(caught.value.hint)
        if behind == "the catalog":
            in_catalog(house, "UPDATE placements SET epoch = epoch + 1 WHERE tenant = %s", tenant.id)
        else:
            in_database(house, tenant, "epoch = epoch + 1")
        with router.transaction() as conn:
            assert conn.execute("SELECT count(*) FROM orders").fetchone() == (0,)


def test_a_suspension_that_was_not_heard_of_holds_all_the_same(house: House, router: Router, tenant: Tenant) -> None:
    in_catalog(house, "UPDATE tenants SET state = 'suspended' WHERE id = %s", tenant.id)
    in_database(house, tenant, "state = 'suspended'")
    with router.tenant_scope(tenant), pytest.raises(TenantSuspended), router.transaction() as conn:
        conn.execute("INSERT INTO orders (note) VALUES ('never')")


def test_a_deletion_that_was_not_heard_of_holds_all_the_same(house: House, router: Router, tenant: Tenant) -> None:
    """And whoever has got its slug since is found by it from then on."""
    in_catalog(house, "UPDATE tenants SET state = 'deleted', slug = slug || '-was' WHERE id = %s", tenant.id)
    in_database(house, tenant, "state = 'moved'")
    heir = house.create(f"{tenant.slug}-heir", isolation="pooled")
    in_catalog(house, "UPDATE tenants SET slug = %s WHERE id = %s", tenant.slug, heir.id)
    with router.tenant_scope(router.find(tenant.slug)), pytest.raises(TenantDeleted), router.transaction() as conn:
        conn.execute("INSERT INTO orders (note) VALUES ('never')")
    assert router.find(tenant.slug).id == heir.id
