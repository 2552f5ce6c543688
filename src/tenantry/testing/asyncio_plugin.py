"""The fixture that pytest-asyncio has to run; registered where that is installed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio


@pytest_asyncio.fixture
async def _tenantry_asyncio_router(tenantry_settings: Any) -> AsyncIterator[Any]:
    from tenantry.routing.router_async import AsyncRouter

    async with AsyncRouter(tenantry_settings) as router:
        yield router
