"""With anyio and with pytest-asyncio, and what a test finds when it begins."""

from __future__ import annotations

from typing import Any

import pytest

INSERT = "INSERT INTO customers (email) VALUES ('someone@example.com') RETURNING id"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


async def work(router: Any, tenants: Any) -> None:
    for number, tenant in enumerate(tenants, 1):
        async with router.transaction(tenant) as conn:
            assert await (await conn.execute("SELECT count(*) FROM customers")).fetchone() == (0,)
            assert await (await conn.execute(INSERT)).fetchone() == (number,)


@pytest.mark.anyio
@pytest.mark.parametrize("time", [1, 2])
async def test_with_anyio(tenantry_async_router: Any, two_tenants: Any, time: int) -> None:
    await work(tenantry_async_router, two_tenants)


@pytest.mark.asyncio
@pytest.mark.parametrize("time", [1, 2])
async def test_with_asyncio(tenantry_async_router: Any, two_tenants: Any, time: int) -> None:
    await work(tenantry_async_router, two_tenants)


@pytest.mark.anyio
async def test_a_look_inside_of_a_task(assert_no_leak: Any, tenantry_async_router: Any, two_tenants: Any) -> None:
    async with tenantry_async_router.tenant_scope(two_tenants.acme), tenantry_async_router.transaction() as conn:
        await conn.execute(INSERT)
        with assert_no_leak() as leak:
            cursor = await conn.execute("SELECT * FROM customers")
            leak.in_(await cursor.fetchall())


@pytest.mark.parametrize("time", [1, 2])
def test_without_tasks(tenantry_router: Any, two_tenants: Any, time: int) -> None:
    for number, tenant in enumerate(two_tenants, 1):
        with tenantry_router.transaction(tenant) as conn:
            assert conn.execute("SELECT count(*) FROM customers").fetchone() == (0,)
            assert conn.execute(INSERT).fetchone() == (number,)


@pytest.mark.tenantry(isolation=("schema", "database"))
@pytest.mark.parametrize("time", [1, 2])
def test_levels(tenantry_router: Any, two_tenants: Any, time: int) -> None:
    acme, globex = two_tenants
    assert (acme.slug, acme.placement.isolation) == ("acme-schema", "schema")
    assert (globex.slug, globex.placement.isolation) == ("globex-database", "database")
    for tenant in two_tenants:
        with tenantry_router.transaction(tenant) as conn:
            assert conn.execute(INSERT).fetchone() == (1,)


@pytest.mark.tenantry(isolation="attic")
def test_a_level_that_is_none(request: Any) -> None:
    from tenantry.errors import InvalidInput

    with pytest.raises(InvalidInput, match="'attic' is not an isolation"):
        request.getfixturevalue("two_tenants")


@pytest.mark.tenantry(isolation=("pooled", "pooled", "pooled"))
def test_three_levels(request: Any) -> None:
    from tenantry.errors import InvalidInput

    with pytest.raises(InvalidInput, match="two levels, not 3"):
        request.getfixturevalue("two_tenants")


def test_a_tenant_more(tenantry_house: Any, tenantry_router: Any) -> None:
    from tenantry.errors import Conflict

    made = tenantry_house.create("umbrella", plan="business", isolation="pooled")
    assert tenantry_house.create("umbrella") is made
    assert tenantry_router.find("umbrella").plan == "business"
    with pytest.raises(Conflict, match="is there with isolation pooled"):
        tenantry_house.create("umbrella", isolation="schema")
