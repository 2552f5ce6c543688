"""Everything at once: tasks are cancelled, sessions ended, connections left dirty; nobody ever meets another tenant."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tenantry import AsyncRouter, Tenant
from tenantry.errors import DirtyBackend, ServerUnreachable
from tenantry.integrations.asyncpg import create_pool
from tenantry.integrations.sqlalchemy import create_async_engine
from tests.fixtures.house import House
from tests.integrations.havoc import admin, end_sessions

pytestmark = pytest.mark.anyio

SLUGS = ("pooled-a", "pooled-b", "schema-a", "database-a")
WHO = "SELECT tenantry.current_tenant_v1()"
HAVOC = (
    "PREPARE loot AS SELECT 1",
    "DECLARE loot CURSOR WITH HOLD FOR SELECT 1",
    "DEALLOCATE ALL",
    "SET search_path = pg_catalog",
    "SELECT 1/0",
    "COMMIT",
    *["SELECT note FROM orders"] * 6,
)
EXPECTED = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server has ended the session between two statements
    DBAPIError,
    DirtyBackend,  # more of them in a row than there are connections
    ServerUnreachable,
    OSError,
)
Work = Callable[[Tenant, str], Awaitable[None]]


def bare(router: AsyncRouter) -> Work:
    pool = create_pool(router)

    async def work(tenant: Tenant, havoc: str) -> None:
        async with pool.transaction() as conn:
            assert await conn.fetchval(WHO) == tenant.key
            await conn.execute(havoc)
            with suppress(asyncpg.InsufficientPrivilegeError):  # SQL has ended the transaction
                assert await conn.fetchval(f"{WHO} WHERE $1::int = 1", 1) == tenant.key

    return work


def engine(router: AsyncRouter) -> Work:
    made = create_async_engine(router, driver="asyncpg")

    async def work(tenant: Tenant, havoc: str) -> None:
        async with made.begin() as conn:
            assert await conn.scalar(text(WHO)) == tenant.key
            await conn.execute(text(havoc))
            assert await conn.scalar(text(f"{WHO} WHERE CAST(:one AS int) = 1"), {"one": 1}) == tenant.key

    return work


@pytest.mark.parametrize("make", [bare, engine])
async def test_nobody_meets_another_tenant(house: House, make: Callable[[AsyncRouter], Work]) -> None:
    dice = random.Random(7)
    narrow = house.settings.model_copy(update={"pool_size": 3, "pool_budget": 5, "connect_seconds": 20})
    done = 0

    async def one(work: Work, router: AsyncRouter) -> None:
        nonlocal done
        async with router.tenant_scope(dice.choice(SLUGS)) as tenant:
            task = asyncio.ensure_future(work(tenant, dice.choice(HAVOC)))
            if dice.random() < 0.4:
                for _ in range(dice.randrange(40)):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait([task])  # a worker's own cancellation comes out of here
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, EXPECTED):
                raise error
            done += error is None and not task.cancelled()

    async def worker(work: Work, router: AsyncRouter) -> None:
        for _ in range(40):
            await one(work, router)

    async def killer(workers: list[asyncio.Task[None]]) -> None:
        while not all(each.done() for each in workers):
            await asyncio.to_thread(end_sessions, house)
            await asyncio.sleep(0.3)

    async with AsyncRouter(narrow) as router:
        work = make(router)
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(worker(work, router)) for _ in range(8)]
            group.create_task(killer(workers))
        ledger = router.pools.ledger
        assert ledger.idle == len(ledger) <= 5
        assert done > 40
        with admin(house, "postgres") as conn:
            states = conn.execute("SELECT DISTINCT state FROM pg_stat_activity WHERE usename = 'tenantry_app'")
            assert states.fetchall() in ([("idle",)], [])
        for slug in SLUGS:
            async with router.tenant_scope(slug) as tenant:
                await work(tenant, "SELECT 1")


async def test_whoever_is_cancelled_while_it_connects_leaves_nothing_behind(house: House) -> None:
    """No place, no session, and no error that nobody asks for."""
    async with AsyncRouter(house.settings) as router, router.tenant_scope("pooled-a"):
        for turns in range(0, 40, 2):
            pool = create_pool(router)
            task = asyncio.ensure_future(pool.fetchval("SELECT 1"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await pool.close()
        assert len(router.pools.ledger) == 0
        with admin(house, "postgres") as conn:
            count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'tenantry_app'"
            while conn.execute(count).fetchone() != (0,):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0)


async def test_whoever_is_cancelled_again_while_the_server_is_asked_to_stop_leaves_nothing_behind(house: House) -> None:
    """The server is asked on another connection, which is not torn either."""
    async with AsyncRouter(house.settings) as router, router.tenant_scope("pooled-a") as tenant:
        pool = create_pool(router)
        for turns in range(16):
            async with pool.transaction() as conn:
                pid = conn.get_server_pid()
            task = asyncio.ensure_future(pool.execute("SELECT pg_sleep(600)"))
            assert tenant.placement
            with admin(house, tenant.placement.database) as admins:
                sleeps = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
                while admins.execute(sleeps, (pid,)).fetchone() != ("PgSleep",):  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0)
            task.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert router.pools.ledger.idle == len(router.pools.ledger) <= 1
