"""One application, four homes: what a tenant sees does not depend on where it lives."""

from __future__ import annotations

import pytest

from tenantry import AsyncRouter, Isolation
from tenantry.service.access import all_tenants
from tests.fixtures.house import House

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("slug", ["pooled-a", "pooled-b", "schema-a", "database-a"])
async def test_a_tenant_sees_its_own_rows_and_no_others_at_every_level(house: House, slug: str) -> None:
    async with AsyncRouter(house.settings) as router:
        for each in house.tenants:
            async with router.tenant_scope(each), router.transaction() as conn:
                await conn.execute("INSERT INTO orders (note) VALUES (%s)", (each,))
        async with router.tenant_scope(slug) as tenant, router.transaction() as conn:
            rows = await (await conn.execute("SELECT DISTINCT tenant_id, note FROM orders")).fetchall()
        assert rows == [(tenant.key, slug)]


async def test_the_levels_are_what_they_say(house: House) -> None:
    placements = {slug: tenant.placement for slug, tenant in house.tenants.items()}
    assert all(placements.values())
    pooled, other, schema, database = (placement for placement in placements.values() if placement)
    assert (pooled.isolation, schema.isolation, database.isolation) == tuple(Isolation)
    assert (pooled.database, pooled.schema) == (other.database, other.schema)
    assert (schema.database, database.schema) == (pooled.database, pooled.schema)
    assert len({pooled.schema, schema.schema}) == len({pooled.database, database.database}) == 2


async def test_an_operator_reaches_the_tables_of_a_tenant_s_schema_by_its_name(house: House) -> None:
    placement = house.tenants["schema-a"].placement
    assert placement is not None
    async with AsyncRouter(house.settings) as router, router.tenant_scope("schema-a"), router.transaction() as conn:
        await conn.execute("INSERT INTO orders (note) VALUES ('seen')")
    async with house.control() as control, all_tenants(control, "main", reason="ticket 4711: what is there") as seen:
        query = f"SELECT tenant_id FROM {placement.schema}.orders WHERE note = 'seen'"
        assert await (await seen.execute(query)).fetchall() == [(house.tenants["schema-a"].key,)]
