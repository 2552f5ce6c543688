"""The house as a whole: made once, however many make it at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from tenantry.errors import Conflict
from tenantry.postgres.server import THROWAWAY, LocalServer
from tenantry.service import house as houses
from tenantry.service.control import Control
from tenantry.service.house import Initialised
from tenantry.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def fresh() -> Iterator[LocalServer]:
    """A server on which nothing has been made, no role either."""
    with LocalServer(settings=THROWAWAY) as server:
        yield server


async def init(dsn: str, **options: str) -> Initialised:
    await houses.create_database(dsn)
    async with Control(Settings(catalog=dsn, control=dsn)) as control:
        return await houses.init(control, **options)


async def test_of_many_that_make_a_house_at_the_same_moment_one_makes_it(fresh: LocalServer) -> None:
    dsn = fresh.dsn("tenantry_catalog", tcp=True)
    made = await asyncio.gather(*(init(dsn) for _ in range(6)))
    [login] = [each.catalog_dsn for each in made if each.catalog_dsn is not None]
    with psycopg.connect(login) as conn:
        assert conn.execute("SELECT count(*) FROM tenantry_catalog.house").fetchone() == (1,)
        assert conn.execute("SELECT count(*) FROM tenantry_catalog.library_keys").fetchone() == (1,)
        assert conn.execute("SELECT count(*) FROM tenantry_catalog.plans").fetchone() == (3,)


async def test_of_two_that_want_different_houses_one_is_refused(fresh: LocalServer) -> None:
    dsn = fresh.dsn("tenantry_catalog", tcp=True)
    wishes = [{"key_type": "uuid"}, {"key_type": "text"}]
    made = await asyncio.gather(*(init(dsn, **wish) for wish in wishes), return_exceptions=True)
    assert sorted(type(each).__name__ for each in made) == ["Conflict", "Initialised"]
    with pytest.raises(Conflict, match="the catalog is there with keys of type"):
        await init(dsn)
