from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tenantry.postgres.server import THROWAWAY, LocalServer
from tenantry.service import house as houses
from tenantry.service import shard as shards
from tenantry.service.control import Control
from tenantry.settings import Settings
from tests.fixtures.house import TEMPLATE, House


@dataclass
class Site:
    """A house whose servers may be crashed: one for the catalog, one for the tenants."""

    house: House
    catalog: LocalServer
    shard: LocalServer


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with LocalServer(settings=THROWAWAY) as catalog, LocalServer(settings=THROWAWAY) as shard:
        dsn = catalog.dsn("tenantry_catalog", tcp=True)
        settings = Settings(
            catalog=dsn, control=dsn, template=f"sql:{TEMPLATE}", shared_tables=("countries",), connect_seconds=1
        )

        async def build() -> str:
            await houses.create_database(dsn)
            async with Control(settings, actor="test") as control:
                made = await houses.init(control)
                await shards.add(control, "main", shard.dsn(tcp=True), database="app")
            assert made.catalog_dsn
            return made.catalog_dsn

        library = Settings(catalog=asyncio.run(build()), connect_seconds=1)
        yield Site(House(settings, library, (shard,)), catalog, shard)
