"""The demo's companies in a house of the test session's servers, at all levels, and clients of its application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from httpx2 import ASGITransport, AsyncClient

from demo import data, sample, stage
from demo.app import DOMAIN, create_app
from demo.front import Front
from demo.stage import Resident
from demo.vulnerable import create_vulnerable_app
from tenantry import AsyncRouter
from tests.fixtures.house import House, MakeHouse

SECRET = "a secret of at least 32 bytes, for tests"
PORT = 8000


@dataclass(frozen=True)
class Site:
    """A house with the demo's companies."""

    house: House
    residents: Sequence[Resident]

    def at(self, level: str) -> Resident:
        """The first company of a level."""
        return next(each for each in self.residents if each.level == level)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Visit]:
        """The application, the vulnerable one, and clients of both."""
        async with AsyncRouter(self.house.settings) as router, self.house.control() as control:
            app, vulnerable = create_app(router, SECRET), create_vulnerable_app(router, SECRET)
            async with (
                app.router.lifespan_context(app),
                _client(ASGITransport(Front(app, control, PORT))) as client,
                _client(ASGITransport(vulnerable)) as worst,
            ):
                yield Visit(router, client, worst)


@dataclass(frozen=True)
class Visit:
    """What a test talks to."""

    router: AsyncRouter
    client: AsyncClient
    vulnerable: AsyncClient


def _client(transport: ASGITransport) -> AsyncClient:
    return AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{PORT}")


@pytest.fixture(scope="module")
def site(make_house: MakeHouse, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The companies of the sample, moved in."""
    folder = tmp_path_factory.mktemp("sample")
    sample.write(folder)
    dataset = data.read(folder, "sample")
    house = make_house(tenant_column=stage.COLUMN, template=stage.TEMPLATE, second=True, shared_tables=())

    async def move_in() -> Sequence[Resident]:
        async with house.control() as control, AsyncRouter(house.settings) as router:
            residents = await stage.onboard(control, dataset)
            await stage.load_rows(router, residents)
            return residents

    return Site(house, asyncio.run(move_in()))


@pytest.fixture
async def visit(site: Site, anyio_backend: str) -> AsyncIterator[Visit]:
    """An open site."""
    async with site.open() as opened:
        yield opened


@pytest.fixture
def client(visit: Visit) -> AsyncClient:
    """A client of the application."""
    return visit.client


def host(resident: Resident, **more: str) -> dict[str, str]:
    """The headers that lead to a company."""
    return {"host": f"{resident.tenant.slug}.{DOMAIN}:{PORT}", **more}
