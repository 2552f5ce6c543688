"""More connections are asked of a server than it allows: who comes too many waits, and nobody fails."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from tenantry import AsyncRouter, Router
from tenantry.errors import ServerFull
from tenantry.integrations import asyncpg
from tenantry.integrations.sqlalchemy import create_async_engine, create_engine
from tenantry.postgres.server import THROWAWAY, LocalServer
from tenantry.service import house as houses
from tenantry.service import shard as shards
from tenantry.service import tenant as tenants
from tenantry.service.control import Control
from tenantry.settings import Settings
from tests.fixtures.house import TEMPLATE, House

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ALLOWED = 100
TASKS = 10_000
SLUGS = tuple(f"t-{number}" for number in range(20))
SIZE = 60


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """The catalog is elsewhere: who has no connection to the shard still finds its tenants."""
    allowed = {"max_connections": str(ALLOWED), "superuser_reserved_connections": "3"}
    with LocalServer(settings=THROWAWAY) as server, LocalServer(settings={**THROWAWAY, **allowed}) as shard:
        dsn = server.dsn("tenantry_catalog", tcp=True)
        settings = Settings(catalog=dsn, control=dsn, template=f"sql:{TEMPLATE}", shared_tables=("countries",))

        async def build() -> str:
            await houses.create_database(dsn)
            async with Control(settings, actor="test") as control:
                made = await houses.init(control)
                await shards.add(control, "main", shard.dsn(tcp=True), database="app")
                for slug in SLUGS:
                    await tenants.create(control, slug)
            assert made.catalog_dsn
            return made.catalog_dsn

        library = Settings(catalog=asyncio.run(build()), connect_seconds=120, pool_size=SIZE, pool_budget=SIZE)
        yield House(settings, library, (shard,))


@contextmanager
def guests(house: House) -> Iterator[list[psycopg.Connection]]:
    """Others take all connections that are left."""
    server = house.servers[0]
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("DROP ROLE IF EXISTS guest")
        conn.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    with ExitStack() as stack:
        held: list[psycopg.Connection] = []
        while (other := guest(server)) is not None:
            held.append(stack.enter_context(other))
        yield held


def guest(server: LocalServer) -> psycopg.Connection | None:
    """A connection of somebody else; None if there is no room."""
    try:
        return psycopg.connect(server.dsn(user="guest", password="guest", tcp=True))
    except psycopg.OperationalError as error:
        if "connection slots are reserved" not in str(error):
            raise
        return None


@pytest.fixture
def crowded(house: House) -> Iterator[list[psycopg.Connection]]:
    """A server without a connection left; the test lets some of the others go."""
    with guests(house) as held:
        yield held


def processes(house: House, count: int, tasks: int) -> list[dict[str, Any]]:
    """Applications in processes of their own, all at once, each of whose tasks asks for a connection."""
    settings = house.settings.model_dump(mode="json", exclude_none=True) | {"catalog": house.settings.catalog_dsn}
    command = [sys.executable, "-m", "tests.faults.crowd", json.dumps(settings), str(tasks), *SLUGS]
    root = Path(__file__).resolve().parents[2]
    started = [
        subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0]) for process in started]


def test_ten_thousand_tasks_of_four_processes_are_served(house: House) -> None:
    """The processes may open 240 connections, the server allows 97."""
    found = processes(house, 4, TASKS // 4)
    assert sum(each["done"] for each in found) == TASKS
    assert [each["errors"] for each in found] == [[]] * 4
    assert any(each["refused"] for each in found), "the server was never full: this has tested nothing"
    with Router(house.settings) as router:
        counts = []
        for slug in SLUGS:
            with router.tenant_scope(slug), router.transaction() as conn:
                counts.append((conn.execute("SELECT count(*) FROM orders WHERE note = 'crowd'").fetchone() or (0,))[0])
    assert sum(counts) == TASKS


async def test_who_comes_to_a_full_server_waits_until_somebody_leaves(
    house: House, crowded: list[psycopg.Connection]
) -> None:
    async with AsyncRouter(house.settings) as router:
        engine, pool = create_async_engine(router), asyncpg.create_pool(router)

        async def psycopg_way() -> None:
            async with router.tenant_scope(SLUGS[0]), router.transaction() as conn:
                await conn.execute("SELECT 1")

        async def sqlalchemy_way() -> None:
            async with router.tenant_scope(SLUGS[1]), engine.begin() as conn:
                await conn.execute(text("SELECT 1"))

        async def asyncpg_way() -> None:
            async with router.tenant_scope(SLUGS[2]), pool.transaction() as conn:
                await conn.execute("SELECT 1")

        ways = psycopg_way, sqlalchemy_way, asyncpg_way
        waiting = [asyncio.create_task(way()) for way in ways for _ in range(100)]
        done, _ = await asyncio.wait(waiting, timeout=0.5)
        assert not done
        crowded.pop().close()
        await asyncio.gather(*waiting)
        await engine.dispose()
        await pool.close()


def test_threads_wait_as_well(house: House, crowded: list[psycopg.Connection]) -> None:
    with Router(house.settings) as router, ThreadPoolExecutor(8) as pool:
        engine = create_engine(router)

        def psycopg_way() -> None:
            with router.tenant_scope(SLUGS[0]), router.transaction() as conn:
                conn.execute("SELECT 1")

        def sqlalchemy_way() -> None:
            with router.tenant_scope(SLUGS[1]), engine.begin() as conn:
                conn.execute(text("SELECT 1"))

        waiting = [pool.submit(way) for way in (psycopg_way, sqlalchemy_way) for _ in range(10)]
        crowded.pop().close()
        for each in waiting:
            each.result()
        engine.dispose()


async def test_who_waits_too_long_is_told_what_to_do(house: House, crowded: list[psycopg.Connection]) -> None:
    hasty = house.settings.model_copy(update={"connect_seconds": 0.3})
    async with AsyncRouter(hasty) as router, router.tenant_scope(SLUGS[0]):
        with pytest.raises(ServerFull, match="the shard has no connection left") as caught:
            async with router.transaction() as conn:
                await conn.execute("SELECT 1")
    assert caught.value.where == "main/app"
    assert "max_connections" in str(caught.value.hint)
    assert caught.value.status == 503


async def test_a_process_that_holds_idle_connections_gives_them_up_for_one_that_has_none(house: House) -> None:
    async with AsyncRouter(house.settings) as first, AsyncRouter(house.settings) as second:
        started = asyncio.Barrier(SIZE)

        async def hold(router: AsyncRouter, *, together: bool) -> None:
            async with router.tenant_scope(SLUGS[0]), router.transaction() as conn:
                await conn.execute("SELECT 1")
                if together:
                    await started.wait()

        await asyncio.gather(*(hold(first, together=True) for _ in range(SIZE)))
        assert first.pools.ledger.idle == SIZE
        with guests(house):
            await hold(second, together=False)
        assert first.pools.ledger.idle < SIZE
