"""The binding saves a round trip, and a client that goes away while it connects goes away for good."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from tenantry import AsyncRouter, Router, Tenant
from tenantry.integrations.sqlalchemy import create_async_engine as create_tenants_async_engine
from tenantry.integrations.sqlalchemy import create_engine
from tests.fixtures.house import House
from tests.fixtures.proxy import Proxy
from tests.integrations.havoc import catalog
from tests.integrations.shop import Order

READ = "SELECT note FROM orders WHERE id = 1"
LEVELS = ("pooled-a", "database-a")
ONCE_PREPARED = [3, 3, 3, 3, 4, 3, 3]
"""BEGIN, the statement, COMMIT; and once the preparation of the statement, at its sixth execution."""
BOUND = [2] * 7
"""BEGIN, the binding, the preparation and the statement travel together."""


@pytest.fixture
def proxy(house: House) -> Iterator[Proxy]:
    """Between the application and the shard."""
    with Proxy(house.servers[0].dsn(tcp=True)) as running, catalog(house) as conn:
        found = conn.execute("SELECT dsn FROM shards WHERE name = 'main'").fetchone()
        assert found
        conn.execute("UPDATE shards SET dsn = %s WHERE name = 'main'", (running.through(found[0]),))
        yield running
        conn.execute("UPDATE shards SET dsn = %s WHERE name = 'main'", found)


def bare(house: House, proxy: Proxy, tenant: Tenant) -> psycopg.Connection:
    """What an application without tenants would use."""
    assert tenant.placement
    options = f"-csearch_path={tenant.placement.schema}"
    return psycopg.connect(proxy.through(house.servers[0].dsn(tenant.placement.database, tcp=True)), options=options)


def counts(proxy: Proxy, run: Callable[[], Any], times: int = 8) -> list[int]:
    """The round trips of each of several runs; the first also connects."""
    found = []
    for _ in range(times):
        with proxy.counting() as trips:
            run()
        found.append(trips.count)
    return found[1:]


@pytest.mark.parametrize("slug", LEVELS)
def test_psycopg_needs_fewer_round_trips_than_without_tenants(house: House, proxy: Proxy, slug: str) -> None:
    with Router(house.settings) as router, router.tenant_scope(slug) as tenant, bare(house, proxy, tenant) as plain:

        def without() -> None:
            with plain.transaction():
                plain.execute(READ).fetchall()

        def bound() -> None:
            with router.transaction() as conn:
                conn.execute(READ).fetchall()

        assert counts(proxy, without) == ONCE_PREPARED
        assert counts(proxy, bound) == BOUND


@pytest.mark.parametrize("slug", LEVELS)
def test_sqlalchemy_needs_fewer_round_trips_than_without_tenants(house: House, proxy: Proxy, slug: str) -> None:
    with Router(house.settings) as router, router.tenant_scope(slug) as tenant:
        plain = sa.create_engine("postgresql+psycopg://", creator=lambda: bare(house, proxy, tenant))
        engine = create_engine(router)

        def core(engine: Engine) -> None:
            with engine.begin() as conn:
                conn.execute(sa.text(READ)).all()

        def autobegin(engine: Engine) -> None:
            with engine.connect() as conn:
                conn.execute(sa.text(READ)).all()
                conn.commit()
                conn.execute(sa.text(READ)).all()

        def orm(engine: Engine) -> None:
            with Session(engine) as session, session.begin():
                session.scalars(select(Order)).all()

        for use in (core, autobegin, orm):
            with_tenants = counts(proxy, lambda use=use: use(engine))  # type: ignore[misc]
            without = counts(proxy, lambda use=use: use(plain))  # type: ignore[misc]
            assert all(3 <= count <= 7 for count in without)
            transactions = 2 if use is autobegin else 1
            assert with_tenants == [2 * transactions] * 7
            assert all(mine < other for mine, other in zip(with_tenants, without, strict=True))
        engine.dispose()
        plain.dispose()


@pytest.mark.anyio
async def test_async_sqlalchemy_needs_fewer_round_trips_than_without_tenants(house: House, proxy: Proxy) -> None:
    async with AsyncRouter(house.settings) as router, router.tenant_scope("pooled-a") as tenant:
        assert tenant.placement
        dsn = proxy.through(house.servers[0].dsn(tenant.placement.database, tcp=True))

        async def connect() -> psycopg.AsyncConnection:
            return await psycopg.AsyncConnection.connect(dsn)

        plain = create_async_engine("postgresql+psycopg://", async_creator=connect)
        engine = create_tenants_async_engine(router)

        async def trips(engine: AsyncEngine) -> list[int]:
            found = []
            for _ in range(8):
                with proxy.counting() as counted:
                    async with AsyncSession(engine) as session, session.begin():
                        await session.scalars(select(Order))
                found.append(counted.count)
            return found[1:]

        assert await trips(plain) == ONCE_PREPARED
        assert await trips(engine) == BOUND
        await engine.dispose()
        await plain.dispose()


@pytest.mark.anyio
async def test_a_task_that_is_cancelled_while_it_connects_leaves_no_half_login(house: House, proxy: Proxy) -> None:
    """A server waits a minute for the rest of one, and nobody can drop a database meanwhile."""
    async with AsyncRouter(house.settings) as router, router.tenant_scope("pooled-a"):

        async def work() -> None:
            async with router.transaction():
                raise AssertionError("connected")

        proxy.hold()
        task = asyncio.create_task(work())
        assert await asyncio.to_thread(proxy.held.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(router.pools.ledger) == 0
        proxy.release()
        assert await asyncio.to_thread(proxy.gone.wait, 30)
