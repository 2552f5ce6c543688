"""One of two shards is lost: its tenants are told so, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from tenantry import AsyncRouter, Router, Tenant
from tenantry.errors import NoCapacity, OperationFailed, ServerUnreachable
from tenantry.integrations.sqlalchemy import create_async_engine, create_engine
from tenantry.postgres.server import THROWAWAY, LocalServer
from tenantry.service import tenant as tenants
from tests.fixtures.house import House, MakeHouse
from tests.fixtures.proxy import Proxy
from tests.operations.invariants import catalog
from tests.operations.recovery import recover

pytestmark = pytest.mark.anyio

WHO = "SELECT tenantry.current_tenant_v1()"


@pytest.fixture(scope="module")
def second_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """In place of the session's: the one that is lost."""
    with LocalServer(tmp_path_factory.mktemp("server"), settings=THROWAWAY) as running:
        yield running


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    made = make_house(second=True, connect_seconds=2)

    async def fill() -> None:
        async with made.control() as control:
            for slug, shard, level in (
                ("here", "main", "pooled"),
                ("there", "second", "pooled"),
                *((f"there-{number}", "second", "database") for number in range(3)),
            ):
                made.tenants[slug] = await tenants.create(control, slug, shard=shard, isolation=level)

    asyncio.run(fill())
    return made


@pytest.fixture
def lost(second_server: LocalServer) -> Iterator[None]:
    yield
    second_server.start()


def works(router: Router, slug: str) -> bool:
    with router.tenant_scope(slug) as tenant, router.transaction() as conn:
        return conn.execute(WHO).fetchone() == (tenant.key,)


@pytest.mark.usefixtures("lost")
def test_its_tenants_are_told_where_and_all_others_work_on(house: House, second_server: LocalServer) -> None:
    with Router(house.settings) as router:
        engine = create_engine(router)
        assert works(router, "here")
        assert works(router, "there")
        second_server.crash()
        for _ in range(3):
            with pytest.raises(ServerUnreachable) as caught:
                works(router, "there")
            assert (caught.value.status, caught.value.where) == (503, f"second/{_database(house.tenants['there'])}")
            with router.tenant_scope("there"), pytest.raises(ServerUnreachable), engine.connect() as conn:
                conn.execute(text(WHO))
            assert works(router, "here")
            with router.tenant_scope("here") as tenant, engine.connect() as conn:
                assert conn.scalar(text(WHO)) == tenant.key
        second_server.start()
        assert works(router, "there")
        engine.dispose()


def _database(tenant: Tenant) -> str:
    assert tenant.placement is not None
    return tenant.placement.database


@pytest.mark.usefixtures("lost")
async def test_new_tenants_go_elsewhere_or_wait_for_it(house: House, second_server: LocalServer) -> None:
    second_server.crash()
    async with house.control() as control:
        await tenants.create(control, "newcomer", shard="main")
        with pytest.raises(OperationFailed, match="provision stopped"):
            await tenants.create(control, "waiting", shard="second")
    second_server.start()
    await asyncio.to_thread(recover, house)
    async with AsyncRouter(house.settings) as router:
        for slug in ("newcomer", "waiting"):
            async with router.tenant_scope(slug), router.transaction() as conn:
                await conn.execute(WHO)


@pytest.fixture
def silent(house: House, second_server: LocalServer) -> Iterator[Proxy]:
    """The second shard behind a network that can swallow its answers."""
    with Proxy(second_server.dsn(tcp=True)) as proxy, catalog(house) as conn:
        row = conn.execute("SELECT dsn FROM shards WHERE name = 'second'").fetchone()
        assert row is not None
        conn.execute("UPDATE shards SET dsn = %s WHERE name = 'second'", (proxy.through(row["dsn"]),))
        yield proxy
        proxy.release()
        conn.execute("UPDATE shards SET dsn = %s WHERE name = 'second'", (row["dsn"],))


async def test_a_shard_that_says_nothing_does_not_take_the_connections_of_others(house: House, silent: Proxy) -> None:
    """Its tenants ask again and again; each attempt waits, and holds room for a connection meanwhile."""
    settings = house.settings.model_copy(update={"pool_budget": 6, "pool_size": 6})
    async with AsyncRouter(settings) as router:
        engine = create_async_engine(router)
        silent.hold()

        async def there(number: int) -> None:
            with pytest.raises((ServerUnreachable, NoCapacity)):
                async with router.tenant_scope(f"there-{number % 3}"), router.transaction() as conn:
                    await conn.execute(WHO)

        async def here() -> None:
            async with router.tenant_scope("here") as tenant, router.transaction() as conn:
                assert await (await conn.execute(WHO)).fetchone() == (tenant.key,)
            async with router.tenant_scope("here") as tenant, engine.connect() as other:
                assert await other.scalar(text(WHO)) == tenant.key

        asking = [asyncio.create_task(there(number)) for number in range(100)]
        await asyncio.to_thread(silent.held.wait, 30)
        for _ in range(20):
            await asyncio.gather(*(here() for _ in range(3)))
        await asyncio.gather(*asking)
        await engine.dispose()
