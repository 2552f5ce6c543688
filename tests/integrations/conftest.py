"""Routers and engines of a house with a tenant at each level. Importing SQLAlchemy is what these tests are about."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from tenantry import AsyncRouter, Router
from tenantry.integrations.sqlalchemy import create_async_engine, create_engine
from tests.fixtures.house import House

LEVELS = ("pooled-a", "pooled-b", "schema-a", "database-a")
"""The tenants of the house."""


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
