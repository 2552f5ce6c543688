"""An engine over asyncpg: what holds for an engine over psycopg holds for it as well, and it costs no round trip."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.ext.asyncio import create_async_engine as create_plain_engine
from sqlalchemy.orm import selectinload

from tenantry import AsyncRouter, Tenant
from tenantry.errors import CrossedTenants, InvalidInput
from tenantry.integrations.sqlalchemy import create_async_engine
from tests.fixtures.house import House
from tests.fixtures.proxy import Proxy
from tests.integrations.conftest import AsyncSetting, close_async
from tests.integrations.havoc import admin, catalog, move
from tests.integrations.shop import Customer, Order
from tests.integrations.test_engine_async import *  # noqa: F403

pytestmark = pytest.mark.anyio

WHO = text("SELECT tenantry.current_tenant_v1()")


@pytest.fixture
async def async_engine(router: AsyncRouter) -> AsyncIterator[AsyncEngine]:
    """For the tests above, and for those below."""
    engine = create_async_engine(router, driver="asyncpg")
    yield engine
    await engine.dispose()
    await asyncio.sleep(0)


async def test_a_raw_connection_is_bound_as_well(setting_async: AsyncSetting) -> None:  # type: ignore[no-redef]
    """In its transactions: asyncpg does not begin one by itself."""
    async with setting_async.router.tenant_scope("pooled-a") as tenant:
        proxied = await setting_async.engine.raw_connection()
        driver: Any = proxied.driver_connection
        async with driver.transaction():
            assert await driver.fetchval("SELECT tenantry.current_tenant_v1()") == tenant.key
        await close_async(proxied)
    async with setting_async.router.tenant_scope("pooled-b") as tenant, setting_async.engine.connect() as conn:
        assert await conn.scalar(WHO) == tenant.key


@pytest.mark.parametrize("change", ["transaction", "codec", "listener"])
async def test_a_raw_connection_that_comes_back_changed_is_not_used_again(
    setting_async: AsyncSetting, change: str
) -> None:
    async with setting_async.router.tenant_scope("pooled-a"):
        proxied = await setting_async.engine.raw_connection()
        driver: Any = proxied.driver_connection
        match change:
            case "transaction":
                await driver.execute("BEGIN; SELECT 1")
            case "codec":
                await driver.set_type_codec("int4", schema="pg_catalog", encoder=str, decoder=len)
            case "listener":
                driver.add_query_logger(print)
        await close_async(proxied)
        assert len(setting_async.router.pools.ledger) == 0
        async with setting_async.engine.connect() as conn:
            assert await conn.scalar(text("SELECT 7::int4")) == 7


@pytest.mark.parametrize("slug", ["pooled-a", "schema-a", "database-a"])
async def test_objects_are_written_loaded_changed_and_deleted(
    router: AsyncRouter, async_engine: AsyncEngine, slug: str
) -> None:
    async with router.tenant_scope(slug) as tenant:
        async with AsyncSession(async_engine) as session, session.begin():
            customer = Customer(email=f"{slug}@example.com", orders=[Order(note="one"), Order(note="two")])
            session.add(customer)
        async with AsyncSession(async_engine) as session, session.begin():
            statement = select(Customer).options(selectinload(Customer.orders))
            [found] = (await session.scalars(statement.where(Customer.email == f"{slug}@example.com"))).all()
            assert ([each.note for each in found.orders], found.tenant_id) == (["one", "two"], tenant.key)
            number = found.id
            found.orders[0].note = "changed"
            await session.delete(found.orders[1])
        async with AsyncSession(async_engine) as session:
            stream = await session.stream_scalars(select(Order.note).where(Order.customer_id == number))
            assert [note async for note in stream] == ["changed"]
            with pytest.raises(CrossedTenants):
                async with router.tenant_scope("pooled-b"):
                    await session.execute(select(Order))


async def test_tenants_whose_tables_are_in_different_schemas_take_turns_on_one_connection(
    house: House, router: AsyncRouter, async_engine: AsyncEngine
) -> None:
    router.pools.ledger.budget = 1
    statement = select(Order.note, Order.amount).where(Order.id > 0)
    row = text("SELECT orders FROM orders")  # its type is the schema's own
    for _ in range(3):
        for slug in ("pooled-a", "schema-a", "pooled-b"):
            async with router.tenant_scope(slug) as tenant, async_engine.connect() as conn:
                await conn.execute(statement)
                await conn.execute(row)
                assert await conn.scalar(WHO) == tenant.key


async def test_a_cancelled_task_leaves_no_place_and_no_transaction(
    house: House, router: AsyncRouter, async_engine: AsyncEngine
) -> None:
    running = asyncio.Event()

    async def work() -> None:
        async with async_engine.begin() as conn:
            await conn.execute(text("INSERT INTO orders (note) VALUES ('cancelled')"))
            running.set()
            await conn.execute(text("SELECT pg_sleep(600)"))

    async with router.tenant_scope("pooled-a") as tenant:
        task = asyncio.create_task(work())
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ledger = router.pools.ledger
        assert ledger.idle == len(ledger) <= 1
        async with async_engine.connect() as conn:
            assert await conn.scalar(text("SELECT count(*) FROM orders WHERE note = 'cancelled'")) == 0
            assert await conn.scalar(WHO) == tenant.key
        assert tenant.placement
        with admin(house, tenant.placement.database) as admins:
            states = admins.execute("SELECT state FROM pg_stat_activity WHERE usename = 'tenantry_app'").fetchall()
        assert set(states) == {("idle",)}


async def test_whoever_is_cancelled_at_whatever_step_leaves_the_next_nothing(house: House) -> None:
    """Cancel one tenant's work after 0, 1, 2... turns of the event loop: the next one never meets what it left."""
    narrow = house.settings.model_copy(update={"pool_size": 1})

    async def work(engine: AsyncEngine) -> Any:
        async with engine.begin() as conn:
            return await conn.scalar(WHO)

    async with AsyncRouter(narrow) as router:
        engine = create_async_engine(router, driver="asyncpg")
        for turns in range(30):
            async with router.tenant_scope("pooled-a"):
                task = asyncio.create_task(work(engine))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            async with router.tenant_scope("pooled-b") as tenant:
                assert await work(engine) == tenant.key
        await engine.dispose()
        await asyncio.sleep(0)


async def test_a_tenant_that_moves_while_its_connection_waits_keeps_its_options(
    house: House, router: AsyncRouter, async_engine: AsyncEngine, mover: Tenant
) -> None:
    async with router.tenant_scope(mover.slug), async_engine.connect() as conn:
        await conn.execution_options(isolation_level="SERIALIZABLE", postgresql_deferrable=True)
        await conn.execute(WHO)
        await conn.rollback()
        move(house, mover, house.tenants["database-a"])
        assert await conn.scalar(WHO) == mover.key
        assert await conn.scalar(text("SHOW transaction_isolation")) == "serializable"
        assert await conn.scalar(text("SHOW transaction_deferrable")) == "on"
        await conn.rollback()
    async with router.tenant_scope(mover.slug), async_engine.connect() as conn:
        assert await conn.scalar(text("SHOW transaction_deferrable")) == "off"


async def test_there_are_two_drivers(house: House) -> None:
    with pytest.raises(InvalidInput, match="'pg8000' is no driver") as caught:
        create_async_engine(AsyncRouter(house.settings), driver="pg8000")
    assert "asyncpg" in str(caught.value.hint)


@pytest.fixture
def proxy(house: House) -> Iterator[Proxy]:
    """Between the application and the shard."""
    with Proxy(house.servers[0].dsn(tcp=True)) as running, catalog(house) as conn:
        found = conn.execute("SELECT dsn FROM shards WHERE name = 'main'").fetchone()
        assert found
        conn.execute("UPDATE shards SET dsn = %s WHERE name = 'main'", (running.through(found[0]),))
        yield running
        conn.execute("UPDATE shards SET dsn = %s WHERE name = 'main'", found)


async def test_it_needs_no_more_round_trips_than_without_tenants(house: House, proxy: Proxy) -> None:
    async with AsyncRouter(house.settings) as router, router.tenant_scope("pooled-a") as tenant:
        assert tenant.placement
        parts = conninfo_to_dict(proxy.through(house.servers[0].dsn(tenant.placement.database, tcp=True)))
        parts["database"] = parts.pop("dbname")
        known = {name: parts[name] for name in ("host", "port", "user", "password", "database")}
        plain = create_plain_engine("postgresql+asyncpg://", connect_args={**known, "ssl": False})
        engine = create_async_engine(router, driver="asyncpg")

        async def core(engine: AsyncEngine) -> None:
            async with engine.begin() as conn:
                await conn.execute(sa.text("SELECT note FROM orders WHERE id = 1"))

        async def orm(engine: AsyncEngine) -> None:
            async with AsyncSession(engine) as session, session.begin():
                await session.scalars(select(Order))

        async def trips(run: Callable[[AsyncEngine], Awaitable[None]], engine: AsyncEngine) -> list[int]:
            found = []
            for _ in range(5):
                with proxy.counting() as counted:
                    await run(engine)
                found.append(counted.count)
            return found[1:]

        for run in (core, orm):
            assert await trips(run, plain) == [3, 3, 3, 3]
            assert await trips(run, engine) == [2, 2, 2, 2]
        await engine.dispose()
        await plain.dispose()
        await asyncio.sleep(0)
