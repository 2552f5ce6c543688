"""The async connection: as the sync one, and interrupted at every moment of the beginning."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool

from tenantry.errors import TenantMoved
from tenantry.model import BindingMode, Isolation
from tenantry.perimeter.bound_async import AsyncBoundConnection
from tests.fixtures.walls import MakeWalled, Member, Variant, Wall

pytestmark = pytest.mark.anyio
VARIANTS = [Variant("server", mode, Isolation.POOLED) for mode in BindingMode]


@pytest.fixture(params=VARIANTS, ids=str)
def wall(request: pytest.FixtureRequest, walls: MakeWalled) -> Iterator[Wall]:
    """One level is enough: the connection knows none."""
    with Wall.of(walls(request.param)) as wall:
        yield wall


@pytest.fixture
async def conn(wall: Wall) -> AsyncIterator[AsyncBoundConnection]:
    """Bound to tenant A."""
    async with await AsyncBoundConnection.connect(wall.dsn(wall.a)) as conn:
        conn.bind_to(wall.minter(wall.a))
        yield conn


@pytest.fixture
def door(wall: Wall) -> Iterator[psycopg.Connection]:
    """A transaction that holds up every binding until it ends."""
    admin = wall.admin()
    admin.execute("BEGIN")
    admin.execute("LOCK TABLE tenantry.residents")
    yield admin
    admin.execute("ROLLBACK")


async def bound_to(conn: AsyncBoundConnection) -> object:
    row = await (await conn.execute("SELECT tenantry.current_tenant_v1()")).fetchone()
    assert row is not None
    return row[0]


async def until_it_waits(door: psycopg.Connection, conn: AsyncBoundConnection) -> None:
    """Return when the backend of ``conn`` waits for a lock."""
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND NOT granted)"
    while door.execute(waits, [conn.info.backend_pid]).fetchone() != (True,):  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0)


async def test_what_begins_is_bound(wall: Wall, conn: AsyncBoundConnection) -> None:
    for member in (wall.a, wall.b):
        conn.bind_to(wall.minter(member))
        assert await bound_to(conn) == member.key
        await conn.commit()
        async with conn.transaction():
            assert await bound_to(conn) == member.key
        async with conn.pipeline():
            assert await bound_to(conn) == member.key
        await conn.rollback()


async def test_a_refusal_has_a_meaning(wall: Wall, conn: AsyncBoundConnection) -> None:
    conn.bind_to(lambda pid: wall.mint(wall.a, epoch=2))
    for _ in range(2):
        with pytest.raises(TenantMoved):
            await conn.execute("SELECT 1")
    async with conn.pipeline():
        with pytest.raises(TenantMoved):
            await conn.execute("SELECT 1")
    conn.bind_to(wall.minter(wall.a))
    assert await bound_to(conn) == wall.a.key


async def test_a_session_that_is_ended_while_it_begins_is_an_operational_error(
    conn: AsyncBoundConnection, door: psycopg.Connection
) -> None:
    task = asyncio.create_task(conn.execute("SELECT 1"))
    await until_it_waits(door, conn)
    door.execute("SELECT pg_terminate_backend(%s)", [conn.info.backend_pid])
    with pytest.raises(psycopg.OperationalError):
        await task
    assert conn.closed


async def test_a_task_that_is_cancelled_while_it_begins_leaves_no_transaction(
    wall: Wall, conn: AsyncBoundConnection, door: psycopg.Connection
) -> None:
    task = asyncio.create_task(conn.execute("SELECT 1"))
    await until_it_waits(door, conn)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    door.execute("ROLLBACK")
    assert not conn.closed
    assert conn.info.transaction_status == TransactionStatus.IDLE
    conn.bind_to(wall.minter(wall.b))
    assert await bound_to(conn) == wall.b.key


async def test_a_task_that_is_cancelled_twice_never_leaves_the_wrong_binding(
    wall: Wall, conn: AsyncBoundConnection, door: psycopg.Connection
) -> None:
    task = asyncio.create_task(conn.execute("SELECT 1"))
    await until_it_waits(door, conn)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    door.execute("ROLLBACK")
    assert conn.closed or conn.info.transaction_status == TransactionStatus.IDLE


async def test_a_begin_that_is_abandoned_closes_the_connection(conn: AsyncBoundConnection) -> None:
    beginning = conn._start_query()
    next(beginning)
    beginning.close()
    assert conn.closed


@pytest.mark.parametrize("kind", ["execute", "transaction", "pipeline"])
async def test_a_pool_of_one_survives_a_cancellation_at_any_step(wall: Wall, kind: str) -> None:
    """Cancel one tenant's work after 0, 1, 2... turns of the event loop: the next one never meets what it left."""

    async def work(pool: AsyncConnectionPool[AsyncBoundConnection], member: Member) -> set[object]:
        async with pool.connection() as conn:
            conn.bind_to(wall.minter(member))
            if kind == "execute":
                cursor = await conn.execute("SELECT company_id FROM orders")
            elif kind == "transaction":
                async with conn.transaction():
                    cursor = await conn.execute("SELECT company_id FROM orders")
            else:
                async with conn.pipeline():
                    cursor = await conn.execute("SELECT company_id FROM orders")
            return {row[0] for row in await cursor.fetchall()}

    async with AsyncConnectionPool(
        wall.dsn(wall.a), connection_class=AsyncBoundConnection, min_size=1, max_size=1, open=False
    ) as pool:
        for turns in range(25):
            task = asyncio.create_task(work(pool, wall.a))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert await work(pool, wall.b) == {wall.b.key}
