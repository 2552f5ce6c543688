"""Homes are ready before they are needed: as many as the plans say, and taking one is a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tenantry import AsyncRouter, Tenant
from tenantry.errors import InvalidInput
from tenantry.postgres.server import LocalServer
from tenantry.service import house as houses
from tenantry.service import plan, shard, tenant
from tenantry.service.tenant import NewTenant
from tests.fixtures.house import House, MakeHouse
from tests.operations.invariants import catalog, violations

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    return make_house(second=True)


@pytest.fixture
async def empty(house: House) -> House:
    """The house, with nobody in it and no home kept ready."""
    async with house.control() as control:
        async for each in tenant.iterate(control):
            await tenant.delete(control, each.slug, confirm=each.slug, grace=0)
        for name in ("free", "business", "enterprise"):
            await plan.change(control, name, warm=0)
        for name in ("main", "second"):
            await shard.open_(control, name)
    with catalog(house) as conn:  # homes of another version are not handed out
        conn.execute("UPDATE spaces SET template = 'other' WHERE state = 'ready' AND isolation <> 'pooled'")
    return house


def ready(house: House) -> Counter[tuple[str, str]]:
    """How many homes are ready, by shard and level."""
    with catalog(house) as conn:
        rows = conn.execute(
            "SELECT shard, isolation FROM spaces"
            " WHERE state = 'ready' AND isolation <> 'pooled' AND template <> 'other'"
        ).fetchall()
    return Counter((row["shard"], row["isolation"]) for row in rows)


def home(found: Tenant) -> tuple[str, str, str]:
    assert found.placement is not None
    return found.placement.shard, found.placement.database, found.placement.schema


async def write_and_read(house: House, slugs: list[str]) -> None:
    """Each tenant writes, and then reads nothing but its own."""
    async with AsyncRouter(house.settings) as router:
        for slug in slugs:
            async with router.tenant_scope(slug), router.transaction() as conn:
                await conn.execute("INSERT INTO orders (note) VALUES (%s)", (slug,))
        for slug in slugs:
            async with router.tenant_scope(slug) as found, router.transaction() as conn:
                rows = await (await conn.execute("SELECT tenant_id, note FROM orders")).fetchall()
                assert rows == [(found.key, slug)]


# Sizes


async def test_each_open_shard_gets_as_many_homes_as_the_plan_that_wants_most(empty: House) -> None:
    async with empty.control() as control:
        await plan.change(control, "business", warm=1)
        await plan.change(control, "enterprise", warm=1)
        await plan.create(control, "large", isolation="schema", warm=2)
        await plan.change(control, "free", warm=5)  # of pooled homes there is always one
        await shard.close(control, "second")
        assert await houses.refill(control) == 3
        assert ready(empty) == {("main", "schema"): 2, ("main", "database"): 1}
        assert [(each.name, warm) for each, _, warm in await shard.listing(control)] == [("main", 3), ("second", 0)]
        await shard.open_(control, "second")
        assert await houses.refill(control) == 3
        assert await houses.refill(control) == 0
        await plan.change(control, "large", warm=0)
        assert await houses.refill(control) == 0
        await plan.delete(control, "large")
    assert ready(empty) == {(name, level): 1 + (level == "schema") for name, level in ready(empty)}
    assert violations(empty) == []


@pytest.mark.parametrize("warm", [-1, 10_001, True, "2", 1.5])
async def test_a_size_is_a_number(empty: House, warm: Any) -> None:
    async with empty.control() as control:
        with pytest.raises(InvalidInput, match="is not a warm"):
            await plan.change(control, "business", warm=warm)


# Taking one


@contextmanager
def ddl(server: LocalServer) -> Iterator[list[str]]:
    """What statements that define something the server has logged in a block, known when it has ended."""
    log = next(server.directory.rglob("log"))
    found: list[str] = []
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        set_and_wait(conn, "ALTER SYSTEM SET log_statement = 'ddl'", "ddl")
        start = log.stat().st_size
        try:
            yield found
        finally:
            lines = log.read_bytes()[start:].decode(errors="replace").splitlines()
            found += [line.partition("statement: ")[2] for line in lines if "statement: " in line]
            set_and_wait(conn, "ALTER SYSTEM RESET log_statement", "none")


def set_and_wait(conn: psycopg.Connection, command: str, value: str) -> None:
    """Change a setting of the server, and wait until this session has heard of it."""
    conn.execute(command)
    conn.execute("SELECT pg_reload_conf()")
    while conn.execute("SHOW log_statement").fetchone() != (value,):
        pass


async def test_a_home_that_is_ready_is_taken_without_ddl(empty: House) -> None:
    async with empty.control() as control:
        await plan.change(control, "business", warm=1)
        await plan.change(control, "enterprise", warm=1)
        await houses.refill(control)
    with ddl(empty.servers[0]) as main, ddl(empty.servers[1]) as second:
        async with empty.control() as control:
            slugs = [f"{level}-{name}" for level in ("pooled", "schema", "database") for name in ("main", "second")]
            for slug in slugs:
                level, _, name = slug.partition("-")
                await tenant.create(control, slug, isolation=level, shard=name)
        await write_and_read(empty, slugs)
    assert main == second == []
    assert not ready(empty)


async def test_the_log_shows_ddl_where_no_home_is_ready(empty: House) -> None:
    """Also where other tests have made the server log characters of several bytes before."""
    dsn = empty.servers[0].dsn()
    with psycopg.connect(dsn, autocommit=True) as conn, pytest.raises(psycopg.errors.UndefinedColumn):
        conn.execute(f"SELECT 1 AS a, /* {'ü' * 5000} */ missing")
    with ddl(empty.servers[0]) as main:
        async with empty.control() as control:
            await tenant.create(control, "schema-main", isolation="schema", shard="main")
    assert any(statement.startswith("CREATE SCHEMA") for statement in main)


@pytest.mark.parametrize("level", ["schema", "database"])
async def test_a_burst_takes_what_is_ready_and_builds_the_rest(empty: House, level: str) -> None:
    async with empty.control() as control:
        await plan.change(control, "business" if level == "schema" else "enterprise", warm=1)
        await houses.refill(control)
        made = await tenant.create_many(control, [NewTenant(f"burst-{n}") for n in range(4)], isolation=level)
    assert len({home(each) for each in made}) == 4
    assert not ready(empty)
    await write_and_read(empty, [each.slug for each in made])
    assert violations(empty) == []
