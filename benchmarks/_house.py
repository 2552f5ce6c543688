"""A house for benchmarks: one server with a catalog and a shard, and the application's tables of this folder."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tenantry.postgres.server import LocalServer
from tenantry.service import house, shard
from tenantry.service.control import Control
from tenantry.settings import Settings

TEMPLATE = Path(__file__).parent / "template"


@dataclass(frozen=True)
class BenchHouse:
    """The server, and the settings of an application and of an operator."""

    server: LocalServer
    settings: Settings
    control_settings: Settings

    def control(self) -> Control:
        """A control plane; enter it with ``async with``."""
        return Control(self.control_settings, actor="benchmark")


@contextmanager
def bench_house(*, tcp: bool = False, binding: str | None = None, template: Path = TEMPLATE) -> Iterator[BenchHouse]:
    """A house on a server of its own with PostgreSQL's durability on; removed when the block ends.

    Args:
        tcp: connect by TCP to 127.0.0.1 instead of the socket.
        template: the folder with the application's tables.
    """
    with LocalServer(settings={"shared_buffers": "256MB", "max_connections": "60"}) as server:
        dsn = server.dsn("tenantry_catalog", tcp=tcp)
        operator = Settings(catalog=dsn, control=dsn, template=f"sql:{template}")

        async def build() -> str:
            await house.create_database(dsn)
            async with Control(operator, actor="benchmark") as control:
                made = await house.init(control)
                await shard.add(control, "main", server.dsn(tcp=tcp), binding=binding)
            assert made.catalog_dsn is not None
            return made.catalog_dsn

        yield BenchHouse(server, Settings(catalog=asyncio.run(build())), operator)
