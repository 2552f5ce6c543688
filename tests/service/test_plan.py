"""Plans: their limits reach every database."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from tenantry import AsyncRouter
from tenantry.service import plan, tenant
from tests.fixtures.house import House, MakeHouse
from tests.operations.invariants import catalog, shard_database, violations

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    return make_house(second=True)


async def shown(router: AsyncRouter, slug: str, setting: str) -> str:
    async with router.tenant_scope(slug), router.transaction() as conn:
        row = await (await conn.execute(f"SELECT current_setting('{setting}')")).fetchone()
    assert row is not None
    return str(row[0])


async def test_limits_hold_from_the_next_transaction_on_wherever_the_tenants_live(house: House) -> None:
    async with house.control() as control, AsyncRouter(house.settings) as router:
        made = await plan.create(control, "strict", limits={"statement_timeout": "11s", "work_mem": "1MB"})
        assert made.limits == {"statement_timeout": "11s", "work_mem": "1MB"}
        slugs = []
        for level in ("pooled", "schema", "database"):
            for name in ("main", "second"):
                slugs.append(f"{level}-{name}")
                await tenant.create(control, slugs[-1], plan="strict", isolation=level, shard=name)
        await tenant.create(control, "neighbour", shard="main")
        before = await shown(router, "neighbour", "statement_timeout"), await shown(router, "neighbour", "work_mem")
        assert {await shown(router, slug, "statement_timeout") for slug in slugs} == {"11s"}
        assert {await shown(router, slug, "work_mem") for slug in slugs} == {"1MB"}

        async with router.tenant_scope(slugs[0]), router.transaction() as conn:
            await conn.execute("SELECT 1")
            await plan.change(control, "strict", limits={"statement_timeout": "12s"})
            row = await (await conn.execute("SHOW statement_timeout")).fetchone()
            assert row == ("11s",)  # a transaction that runs keeps what it began with
        assert {await shown(router, slug, "statement_timeout") for slug in slugs} == {"12s"}
        assert {await shown(router, slug, "work_mem") for slug in slugs} == {"4MB"}
        await tenant.create(control, "late", plan="strict", isolation="database")
        assert await shown(router, "late", "statement_timeout") == "12s"
        assert before == (
            await shown(router, "neighbour", "statement_timeout"),
            await shown(router, "neighbour", "work_mem"),
        )
        for slug in [*slugs, "late"]:
            await tenant.delete(control, slug, confirm=slug, grace=0)


async def test_a_limit_ends_a_statement(house: House) -> None:
    async with house.control() as control, AsyncRouter(house.settings) as router:
        await plan.change(control, "free", limits={"statement_timeout": "50ms"})
        await tenant.create(control, "hasty")
        with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
            async with router.tenant_scope("hasty"), router.transaction() as conn:
                await conn.execute("SELECT pg_sleep(60)")
        await plan.change(control, "free", limits={"statement_timeout": "30s"})
        assert await shown(router, "hasty", "statement_timeout") == "30s"


async def test_every_database_believes_what_the_catalog_says(house: House) -> None:
    async with house.control() as control:
        await tenant.create(control, "acme", isolation="database")
        await asyncio.gather(
            *(plan.change(control, "enterprise", limits={"statement_timeout": f"{n}s"}) for n in range(1, 6))
        )
    assert violations(house) == []
    with catalog(house) as conn:
        shards = conn.execute("SELECT name, admin_dsn FROM shards").fetchall()
        limits = conn.execute("SELECT limits FROM plans WHERE name = 'enterprise'").fetchall()[0]["limits"]
        databases = conn.execute("SELECT DISTINCT shard, database FROM spaces WHERE state <> 'template'").fetchall()
    for each in databases:
        dsn = next(row["admin_dsn"] for row in shards if row["name"] == each["shard"])
        with shard_database(dsn, each["database"]) as found:
            row = found.execute("SELECT limits FROM tenantry.plans WHERE name = 'enterprise'").fetchone()
            assert row == {"limits": ["statement_timeout", limits["statement_timeout"]]}
