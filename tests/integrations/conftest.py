"""Routers and engines of a house with a tenant at each level, for tasks and for threads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from psycopg import IsolationLevel
from sqlalchemy import Connection as Connection
from sqlalchemy import Engine, TextClause
from sqlalchemy.ext.asyncio import AsyncConnection as AsyncConnection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from tenantry import AsyncRouter, Router, Tenant
from tenantry.integrations.sqlalchemy import create_async_engine, create_engine
from tenantry.perimeter.bound import BoundConnection
from tenantry.perimeter.bound_async import AsyncBoundConnection
from tests.fixtures.house import House


@dataclass(frozen=True)
class AsyncSetting:
    """What an async application has."""

    house: House
    router: AsyncRouter
    engine: AsyncEngine

    @property
    def core(self) -> Engine:
        """The engine inside of the engine."""
        return self.engine.sync_engine


@dataclass(frozen=True)
class Setting:
    """What an application with threads has."""

    house: House
    router: Router
    engine: Engine

    @property
    def core(self) -> Engine:
        """The engine itself."""
        return self.engine


async def close_async(proxied: PoolProxiedConnection) -> None:
    """Give a raw connection back."""
    await greenlet_spawn(proxied.close)


def close(proxied: PoolProxiedConnection) -> None:
    """The same for threads."""
    proxied.close()


async def serialize_async(conn: AsyncBoundConnection) -> None:
    """Set a connection's isolation level."""
    await conn.set_isolation_level(IsolationLevel.SERIALIZABLE)


def serialize(conn: BoundConnection) -> None:
    """The same for threads."""
    conn.isolation_level = IsolationLevel.SERIALIZABLE


async def stream_async(conn: AsyncConnection, query: TextClause) -> Sequence[Any]:
    """All rows, through a cursor in the server."""
    return await (await conn.stream(query)).all()


def stream(conn: Connection, query: TextClause) -> Sequence[Any]:
    """The same for threads."""
    return conn.execution_options(stream_results=True).execute(query).all()


@pytest.fixture
async def router(house: House, anyio_backend: str) -> AsyncIterator[AsyncRouter]:
    """An async router of the house."""
    async with AsyncRouter(house.settings) as opened:
        yield opened


@pytest.fixture
def sync_router(house: House) -> Iterator[Router]:
    """A sync router of the house."""
    with Router(house.settings) as opened:
        yield opened


@pytest.fixture
async def async_engine(router: AsyncRouter) -> AsyncIterator[AsyncEngine]:
    """An engine for tasks."""
    engine = create_async_engine(router)
    yield engine
    await engine.dispose()


@pytest.fixture
def engine(sync_router: Router) -> Iterator[Engine]:
    """An engine for threads."""
    engine = create_engine(sync_router)
    yield engine
    engine.dispose()


@pytest.fixture
async def setting_async(house: House, router: AsyncRouter, async_engine: AsyncEngine) -> AsyncSetting:
    """For tests that have a twin; the twin's is :func:`setting`."""
    return AsyncSetting(house, router, async_engine)


@pytest.fixture
def setting(house: House, sync_router: Router, engine: Engine) -> Setting:
    """For the twins of async tests."""
    return Setting(house, sync_router, engine)


@pytest.fixture
def mover(house: House) -> Tenant:
    """A pooled tenant of the test's own."""
    return house.create(f"mover-{uuid4().hex[:8]}", isolation="pooled")


@pytest.fixture
def leaver(house: House) -> Tenant:
    """A tenant of the test's own, with a database for itself."""
    return house.create(f"leaver-{uuid4().hex[:8]}", isolation="database")
