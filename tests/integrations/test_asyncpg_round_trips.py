"""A bound transaction of asyncpg takes no more round trips than a bare one: counted by a proxy, not guessed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
from psycopg.conninfo import conninfo_to_dict

from tenantry import AsyncRouter, Tenant
from tenantry.integrations.asyncpg import Pool, create_pool
from tests.fixtures.house import House
from tests.fixtures.proxy import Proxy
from tests.integrations.havoc import catalog

pytestmark = pytest.mark.anyio

READ = "SELECT note FROM orders WHERE id = $1"
LEVELS = ("pooled-a", "database-a")
PREPARED = [4, 3, 3, 3]
"""BEGIN, the statement, COMMIT; and the preparation of the statement before its first execution."""
BOUND = [4, 2, 2, 2]
"""The same, where a statement that is prepared travels with BEGIN and the binding."""


@pytest.fixture
def proxy(house: House) -> Iterator[Proxy]:
    """Between the application and the shard."""
    with Proxy(house.servers[0].dsn(tcp=True)) as running, catalog(house) as conn:
        found = conn.execute("SELECT dsn FROM shards WHERE name = 'main'").fetchone()
        assert found
        conn.execute("UPDATE shards SET dsn = %s WHERE name = 'main'", (running.through(found[0]),))
        yield running
        conn.execute("UPDATE shards SET dsn = %s WHERE name = 'main'", found)


@pytest.fixture
async def router(house: House, proxy: Proxy) -> AsyncIterator[AsyncRouter]:
    """A router whose shard is behind the proxy."""
    async with AsyncRouter(house.settings) as opened:
        yield opened


async def bare_pool(house: House, proxy: Proxy, tenant: Tenant) -> asyncpg.Pool:
    """What an application without tenants would use."""
    assert tenant.placement
    parts = conninfo_to_dict(proxy.through(house.servers[0].dsn(tenant.placement.database, tcp=True)))
    return await asyncpg.create_pool(
        host=parts["host"],
        port=int(str(parts["port"])),
        user=parts["user"],
        password=parts["password"],
        database=parts["dbname"],
        ssl=False,
        min_size=1,
        max_size=1,
        server_settings={"search_path": tenant.placement.schema},
    )


async def counts(proxy: Proxy, run: Callable[[], Awaitable[Any]], times: int = 4) -> list[int]:
    """The round trips of each of several runs."""
    found = []
    for _ in range(times):
        with proxy.counting() as trips:
            await run()
        found.append(trips.count)
    return found


async def warm(pool: Pool) -> None:
    """Connect."""
    async with pool.transaction() as conn:
        await conn.execute("SELECT 1")


@pytest.mark.parametrize("slug", LEVELS)
async def test_a_transaction_needs_no_more_round_trips_than_without_tenants(
    house: House, proxy: Proxy, router: AsyncRouter, slug: str
) -> None:
    async with router.tenant_scope(slug) as tenant:
        pool, plain = create_pool(router), await bare_pool(house, proxy, tenant)

        async def bound() -> None:
            async with pool.transaction() as conn:
                await conn.fetch(READ, 1)

        async def without() -> None:  # of the pool's own, which resets the connection each time
            async with plain.acquire() as conn, conn.transaction():
                await conn.fetch(READ, 1)

        async def bare() -> None:
            async with conn.transaction():
                await conn.fetch(READ, 1)

        await warm(pool)
        assert await counts(proxy, bound) == BOUND
        with_reset = await counts(proxy, without)
        assert with_reset == [count + 1 for count in PREPARED]
        async with plain.acquire() as conn:
            assert (await counts(proxy, bare))[1:] == PREPARED[1:]
        await plain.close()


async def test_statements_without_parameters_and_more_than_one_cost_what_they_cost_without_tenants(
    proxy: Proxy, router: AsyncRouter
) -> None:
    pool = create_pool(router)
    async with router.tenant_scope("schema-a"):

        async def nothing() -> None:
            async with pool.transaction():
                pass

        async def two() -> None:
            async with pool.transaction(isolation="serializable") as conn:
                await conn.execute("SELECT 1")
                await conn.execute("SELECT 2")

        async def undone() -> None:
            with suppress(ZeroDivisionError):
                async with pool.transaction() as conn:
                    await conn.execute("SELECT 1")
                    raise ZeroDivisionError

        await warm(pool)
        assert await counts(proxy, nothing) == [0] * 4
        assert await counts(proxy, two) == [4] * 4
        assert await counts(proxy, undone) == [3] * 4


async def test_tenants_of_one_database_share_what_was_prepared(proxy: Proxy, router: AsyncRouter) -> None:
    pool = create_pool(router)

    async def bound() -> None:
        async with pool.transaction() as conn:
            await conn.fetch(READ, 1)

    found = []
    for slug in ("pooled-a", "pooled-b", "schema-a", "pooled-a"):
        async with router.tenant_scope(slug):
            await warm(pool)
            found += await counts(proxy, bound, times=1)
    assert found == [4, 2, 2, 2]
