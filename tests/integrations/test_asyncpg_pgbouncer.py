"""asyncpg behind PgBouncer in transaction mode: nothing is prepared, and nothing changes for tenants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from tenantry import AsyncRouter
from tenantry.errors import ServerUnreachable
from tenantry.integrations.asyncpg import create_pool
from tenantry.integrations.sqlalchemy import create_async_engine
from tests.fixtures.house import House
from tests.fixtures.pgbouncer import MakeBouncer, PgBouncer, lead_through
from tests.integrations.havoc import admin
from tests.integrations.shop import Order

pytestmark = pytest.mark.anyio

SLUGS = ("pooled-a", "schema-a", "pooled-b", "database-a")
WHO = "SELECT tenantry.current_tenant_v1()"


@pytest.fixture(scope="module")
def bouncer(house: House, make_bouncer: MakeBouncer) -> PgBouncer:
    """Two sessions per database, for all."""
    made = make_bouncer(default_pool_size=2)
    asyncio.run(lead_through(house, made.address))
    return made


@pytest.fixture
async def through(house: House, bouncer: PgBouncer) -> AsyncIterator[AsyncRouter]:
    async with AsyncRouter(house.settings.model_copy(update={"pooler": True})) as opened:
        yield opened


async def test_many_tasks_of_all_tenants_share_few_sessions(through: AsyncRouter) -> None:
    pool = create_pool(through)

    async def work(slug: str, number: int) -> None:
        async with through.tenant_scope(slug) as tenant:
            for _ in range(5):
                async with pool.transaction() as conn:
                    assert await conn.fetchval(WHO) == tenant.key
                    assert await conn.fetchval("SELECT $1::int + 1", number) == number + 1
                    await conn.execute("INSERT INTO orders (note) VALUES ($1)", slug)
                    rows = await conn.fetch("SELECT DISTINCT tenant_id, note FROM orders")
                    assert [tuple(row) for row in rows] == [(tenant.key, slug)]

    await asyncio.gather(*(work(slug, number) for number in range(4) for slug in SLUGS))


async def test_engines_work_with_statements_of_many_kinds(through: AsyncRouter) -> None:
    engine = create_async_engine(through, driver="asyncpg")

    async def work(slug: str) -> None:
        async with through.tenant_scope(slug) as tenant:
            for _ in range(5):
                async with AsyncSession(engine) as session, session.begin():
                    session.add_all([Order(note="x"), Order(note="y")])
                    await session.flush()
                    assert await session.scalar(text(WHO)) == tenant.key
                    stream = await session.stream_scalars(select(Order.tenant_id).distinct())
                    assert [key async for key in stream] == [tenant.key]

    await asyncio.gather(*(work(slug) for slug in SLUGS * 3))
    await engine.dispose()


async def test_no_session_is_left_with_a_statement_that_was_prepared(through: AsyncRouter, house: House) -> None:
    pool = create_pool(through)
    async with through.tenant_scope("pooled-a") as tenant:
        assert tenant.placement
        with admin(house, tenant.placement.database) as conn:
            conn.execute("GRANT EXECUTE ON FUNCTION pg_catalog.pg_prepared_statement() TO tenantry_app")
            try:
                for _ in range(5):
                    async with pool.transaction() as bound:
                        await bound.fetch("SELECT note FROM orders WHERE id = $1", 1)
                        names = await bound.fetch("SELECT name FROM pg_prepared_statement() WHERE name <> ''")
                        assert [name for (name,) in names if not name.startswith("_pg3_")] == []
            finally:
                conn.execute("REVOKE EXECUTE ON FUNCTION pg_catalog.pg_prepared_statement() FROM tenantry_app")


async def test_a_dirty_session_is_left_to_the_pooler_to_discard(through: AsyncRouter) -> None:
    pool = create_pool(through)
    for dirt in ("PREPARE loot AS SELECT * FROM orders", "DECLARE loot CURSOR WITH HOLD FOR SELECT 1"):
        async with through.tenant_scope("pooled-a"), pool.transaction() as conn:
            await conn.execute(dirt)
        for slug in ("pooled-b", "schema-a", "pooled-b"):
            async with through.tenant_scope(slug) as tenant, pool.transaction() as conn:
                assert await conn.fetchval(WHO) == tenant.key


async def test_a_cancelled_task_leaves_nothing_to_the_session(through: AsyncRouter) -> None:
    pool = create_pool(through)

    async def work(running: asyncio.Event) -> Any:
        async with pool.transaction() as conn:
            await conn.fetchval(WHO)
            running.set()
            await conn.execute("SELECT pg_sleep(600)")

    for _ in range(3):
        async with through.tenant_scope("pooled-a"):
            running = asyncio.Event()
            task = asyncio.create_task(work(running))
            await running.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with through.tenant_scope("pooled-b") as tenant, pool.transaction() as conn:
            assert await conn.fetchval(WHO) == tenant.key


async def test_a_pooler_that_nobody_was_told_of_is_an_error_that_says_so(house: House, bouncer: PgBouncer) -> None:
    async with AsyncRouter(house.settings) as router, router.tenant_scope("pooled-a"):
        with pytest.raises((ServerUnreachable, asyncpg.PostgresError)) as caught:
            async with create_pool(router).transaction():
                pass
        assert "pooler = true" in str(getattr(caught.value, "hint", ""))
