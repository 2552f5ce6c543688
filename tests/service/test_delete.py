"""Deleting a tenant leaves nothing of it behind on any server, and nothing else is touched."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry import AsyncRouter, Tenant
from tenantry.errors import KeyTaken, SlugTaken, TenantDeleted, TenantNotFound, TenantSuspended
from tenantry.service import house as houses
from tenantry.service import tenant
from tests.fixtures.house import House, MakeHouse
from tests.operations.invariants import catalog, violations
from tests.service.knots import CARS, ROWS, WORDS, contents, found

pytestmark = pytest.mark.anyio

KNOTTED = Path(__file__).parent / "knotted"
HOMES: dict[str, dict[str, Any]] = {
    "pooled": {"isolation": "pooled"},
    "schema": {"isolation": "schema"},
    "database": {"isolation": "database"},
    "on a shard of its own": {"isolation": "database", "shard": "second"},
}
NEIGHBOURS = "Canary-neighbour"
KEYS = 8_000_000_000_000_000
_numbers = count(1)


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    """Two shards; tenants go to the second only by name. One tenant lives in each kind of home: the neighbours."""
    made = make_house(second=True, template=f"sql:{KNOTTED}")
    with catalog(made) as conn:
        conn.execute("UPDATE shards SET dedicated = true WHERE name = 'second'")
    for number, options in enumerate(HOMES.values()):
        slug = f"neighbour-{number}"
        made.tenants[slug] = made.create(slug, key=KEYS - 1 - number, **options)
    return made


@pytest.fixture(params=HOMES)
async def placed(request: pytest.FixtureRequest, house: House) -> Tenant:
    """A tenant with rows in all tables and a domain, in each kind of home."""
    for each in house.tenants.values():
        if not await words(house, each.slug):
            await fill(house, each)
    number = next(_numbers)
    async with house.control() as control:
        made = await tenant.create(control, f"tenant-{number}", key=KEYS + number, **HOMES[request.param])
        await control.store.fetch("new_domain", (f"{word(made).lower()}.example.com", made.id))
    await fill(house, made)
    return made


async def fill(house: House, made: Tenant) -> None:
    values = {"key": made.key, "word": word(made)}
    with connect(house, made) as admin:
        admin.execute(CARS, values)
    async with AsyncRouter(house.settings) as router, router.tenant_scope(made), router.transaction() as conn:
        for statement in ROWS.strip().splitlines():
            await conn.execute(statement, values)


def word(tenant: Tenant) -> str:
    """What stands in every row of a tenant, and nowhere else."""
    return f"Canary-{tenant.slug}-Sings"


def connect(house: House, made: Tenant) -> psycopg.Connection:
    """A superuser's connection to where a tenant lives."""
    assert made.placement is not None
    server = house.servers[made.placement.shard == "second"]
    options = f"-c search_path={made.placement.schema}"
    return psycopg.connect(server.dsn(made.placement.database), autocommit=True, options=options)


async def words(house: House, slug: str) -> int:
    """How many rows a tenant sees, in a process that has just started: others hear of changes a moment later."""
    tables = "regions stores staff teams people hens eggs events details vehicles trips history".split()
    async with AsyncRouter(house.settings) as router, router.tenant_scope(slug), router.transaction() as conn:
        cursor = await conn.execute(" UNION ALL ".join(f"SELECT word FROM {table}" for table in tables))
        return len(await cursor.fetchall())


async def remove(house: House, slug: str, grace: int = 0) -> str:
    async with house.control() as control:
        return await tenant.delete(control, slug, confirm=slug, grace=grace)


async def test_nothing_is_left_of_it_and_the_neighbours_keep_all(house: House, placed: Tenant) -> None:
    before = contents(house, NEIGHBOURS)
    with connect(house, placed) as conn:
        conn.execute("ANALYZE")  # the planner's statistics know the rows
    assert placed.placement is not None
    texts = [word(placed), word(placed).lower(), str(placed.key)]
    names = [name for name in (placed.placement.schema, placed.placement.database) if name.startswith(("t_", "d_"))]
    assert len(found(house, *texts)) > len(contents(house, word(placed)))
    assert await remove(house, placed.slug) == "done"

    catalog_name = house.control_settings.control_dsn.partition("dbname=")[2].split()[0]
    assert found(house, *texts) == [f"0/{catalog_name}/tenantry_catalog.tenants"]  # where the key is nobody's any more
    # The system's statistics may remember the name of a schema; it is random.
    assert [place for place in found(house, *names) if not place.endswith("pg_catalog.pg_statistic")] == []
    assert contents(house, NEIGHBOURS) == before
    assert violations(house) == []
    assert {await words(house, slug) for slug in house.tenants} == {WORDS}

    async with house.control() as control:
        with pytest.raises(KeyTaken) as caught:
            await tenant.create(control, "another", key=placed.key)
        assert caught.value.hint == "a deleted tenant's key is never used again"
        again = await tenant.create(control, placed.slug)
        assert again.key != placed.key
        assert await words(house, placed.slug) == 0
        await tenant.delete(control, placed.slug, confirm=placed.slug, grace=0)


async def test_in_the_grace_period_all_comes_back_as_it_was(house: House, placed: Tenant) -> None:
    before = contents(house, word(placed))
    async with house.control() as control:
        assert await remove(house, placed.slug, grace=3600) == "waiting"
        with pytest.raises((TenantDeleted, TenantNotFound)):
            await words(house, placed.slug)
        with pytest.raises(SlugTaken):
            await tenant.create(control, placed.slug)
        await houses.work(control)  # a worker does not begin early
        back = await tenant.resume(control, placed.slug)
        assert (back.state, back.placement) == ("active", placed.placement)
        assert contents(house, word(placed)) == before
        assert await words(house, placed.slug) == WORDS

        await tenant.suspend(control, placed.slug)
        assert await remove(house, placed.slug, grace=3600) == "waiting"
        assert (await tenant.resume(control, placed.slug)).state == "suspended"
        with pytest.raises(TenantSuspended):
            await words(house, placed.slug)
        assert (await tenant.resume(control, placed.slug)).state == "active"
        assert await words(house, placed.slug) == WORDS
    assert await remove(house, placed.slug) == "done"
    assert violations(house) == []
