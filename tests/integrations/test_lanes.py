"""Tenants with a schema of their own come back to their connections, with every driver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from tenantry import AsyncRouter, Router, Tenant
from tenantry.integrations.asyncpg import create_pool
from tenantry.integrations.sqlalchemy import create_async_engine, create_engine
from tenantry.routing.lanes import _order
from tests.fixtures.house import House, MakeHouse

PID = "SELECT pg_backend_pid()"
SIZE = 10


@pytest.fixture(scope="module")
def pair(make_house: MakeHouse) -> tuple[House, Tenant, Tenant]:
    """Two tenants whose schemas prefer different connections."""
    house = make_house()
    first = other = house.create("s0", isolation="schema")
    number = 0
    while lane(first) == lane(other):
        number += 1
        other = house.create(f"s{number}", isolation="schema")
    return house, first, other


def lane(tenant: Tenant) -> int:
    assert tenant.placement is not None
    return next(iter(_order(tenant.placement.schema, SIZE)))


def test_transactions(pair: tuple[House, Tenant, Tenant]) -> None:
    house, *tenants = pair
    with Router(house.settings) as router:
        with router.transaction(tenants[0]) as one, router.transaction(tenants[1]) as two:
            own = [conn.execute(PID).fetchone() for conn in (one, two)]
        assert own[0] != own[1]
        for _ in range(3):
            for tenant, pid in zip(tenants, own, strict=True):
                with router.transaction(tenant) as conn:
                    assert conn.execute(PID).fetchone() == pid


def test_engines(pair: tuple[House, Tenant, Tenant]) -> None:
    house, *tenants = pair
    with Router(house.settings) as router:
        engine = create_engine(router)
        conns, own = [], []
        for tenant in tenants:
            with router.tenant_scope(tenant):
                conns.append(engine.connect())
                own.append(conns[-1].scalar(sa.text(PID)))
        for conn in conns:
            conn.close()
        assert own[0] != own[1]
        for _ in range(3):
            for tenant, pid in zip(tenants, own, strict=True):
                with router.tenant_scope(tenant), engine.connect() as conn:
                    assert conn.scalar(sa.text(PID)) == pid
        engine.dispose()


@asynccontextmanager
async def asked(face: str, router: AsyncRouter) -> AsyncIterator[Any]:
    """What makes a context with a function that says which backend it is on."""
    if face == "asyncpg":
        pool = create_pool(router)

        @asynccontextmanager
        async def pooled() -> AsyncIterator[int]:
            async with pool.transaction() as conn:
                yield await conn.fetchval(PID)

        yield pooled
        await pool.close()
        return
    if face == "psycopg":

        @asynccontextmanager
        async def routed() -> AsyncIterator[int]:
            async with router.transaction() as conn:
                row = await (await conn.execute(PID)).fetchone()
                assert row is not None
                yield row[0]

        yield routed
        return
    engine = create_async_engine(router, driver=face.removeprefix("engine "))

    @asynccontextmanager
    async def engaged() -> AsyncIterator[int]:
        async with engine.connect() as conn:
            yield await conn.scalar(sa.text(PID))

    yield engaged
    await engine.dispose()


@pytest.mark.anyio
@pytest.mark.parametrize("face", ["psycopg", "asyncpg", "engine psycopg", "engine asyncpg"])
async def test_tasks(pair: tuple[House, Tenant, Tenant], face: str) -> None:
    house, first, other = pair
    async with AsyncRouter(house.settings) as router, asked(face, router) as begin:

        async def both() -> list[int]:
            async with router.tenant_scope(first):
                one = begin()
                own = [await one.__aenter__()]
            async with router.tenant_scope(other), begin() as two:
                own.append(two)
            async with router.tenant_scope(first):
                await one.__aexit__(None, None, None)
            return own

        own = await both()
        assert own[0] != own[1]
        for _ in range(3):
            for tenant, pid in zip((first, other), own, strict=True):
                async with router.tenant_scope(tenant), begin() as found:
                    assert found == pid
