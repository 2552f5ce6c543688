"""The door of a tenant that moves: who is inside is waited for, who comes waits, and nobody is ever in two places."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel

from tenantry import AsyncRouter
from tenantry.errors import OperationFailed, TenantMoved, TenantSuspended
from tenantry.model import Mode, Tenant
from tenantry.perimeter.bound_async import AsyncBoundConnection
from tenantry.placements.door import Door, DoorBusy, closed, reopen
from tenantry.service.control import Control
from tests.fixtures.house import House

pytestmark = pytest.mark.anyio

LEVELS = [None, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]


class Site:
    """A tenant's door, and the two sides of it."""

    def __init__(self, house: House, control: Control, tenant: Tenant) -> None:
        assert tenant.placement is not None
        self.house = house
        self.control = control
        self.tenant = tenant
        self.shard, self.database = tenant.placement.shard, tenant.placement.database
        self.loud = asyncio.Event()

    @asynccontextmanager
    async def closed(self, inside: float = 10, drain: float = 10) -> AsyncIterator[Door]:
        """The door, closed."""
        async with closed(
            self.control.estate,
            self.shard,
            self.database,
            [self.tenant.code],
            inside_seconds=inside,
            drain_seconds=drain,
        ) as door:
            yield door

    async def state(self) -> str:
        """The resident's."""
        async with self.control.estate.admin(self.shard, self.database) as conn:
            query = "SELECT state FROM tenantry.residents WHERE code = %s"
            row = await (await conn.execute(query, (self.tenant.code,))).fetchone()
        assert row is not None
        return str(row[0])

    async def set_state(self, state: str) -> None:
        """Put the resident back."""
        async with self.control.estate.admin(self.shard, self.database) as conn:
            await conn.execute(
                "UPDATE tenantry.residents SET state = %s, gate = NULL, epoch = 1 WHERE code = %s",
                (state, self.tenant.code),
            )

    async def until(self, query: str, *values: Any) -> None:
        """Wait until a query about the database finds something."""
        async with self.control.estate.root(self.shard, self.database) as conn:
            async with asyncio.timeout(10):
                while await (await conn.execute(query, values)).fetchone() is None:  # noqa: ASYNC110 - a server's state
                    await asyncio.sleep(0.005)

    async def until_waiting(self) -> None:
        """Until an application's transaction waits at the door."""
        await self.until(
            "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE locktype = 'advisory' AND NOT granted AND usename = 'tenantry_app'"
        )

    async def until_state(self, state: str) -> None:
        """Until the resident is in a state."""
        await self.until("SELECT 1 FROM tenantry.residents WHERE code = %s AND state = %s", self.tenant.code, state)

    @asynccontextmanager
    async def connection(self, level: IsolationLevel | None = None) -> AsyncIterator[AsyncBoundConnection]:
        """A connection of an application, bound to the tenant: it does not follow one that moves."""
        async with AsyncRouter(self.house.settings) as router:
            fleet = await router.view.fleet()
            route = router.route(self.tenant, Mode.READ_WRITE, fleet)
            conn = await AsyncBoundConnection.connect(route.target.dsn)
            try:
                await conn.set_isolation_level(level)
                route.bind(conn)
                yield conn
            finally:
                await conn.close()


@pytest.fixture
async def site(house: House) -> AsyncIterator[Site]:
    """The door of a pooled tenant."""
    async with house.control() as control:
        made = Site(house, control, house.tenants["pooled-a"])
        yield made
        await made.set_state("open")


@pytest.mark.parametrize("level", LEVELS)
async def test_who_is_inside_is_waited_for(site: Site, level: IsolationLevel | None) -> None:
    async with site.connection(level) as conn:
        await conn.execute("INSERT INTO orders (note) VALUES ('inside')")
        with pytest.raises(DoorBusy, match="1 transactions have been running"):
            async with site.closed(inside=0.1):
                pytest.fail("the door is closed")
        await conn.commit()
        async with site.closed() as door:
            await door.leave()
    assert await site.state() == "moved"


@pytest.mark.parametrize("level", LEVELS)
async def test_who_comes_while_it_is_about_to_close_comes_in(site: Site, level: IsolationLevel | None) -> None:
    async with site.connection() as first, site.connection(level) as second:
        await first.execute("SELECT 1")
        closing = asyncio.create_task(_close(site))
        await site.until_state("closing")
        await second.execute("INSERT INTO orders (note) VALUES ('late')")
        await first.rollback()
        await site.until(
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND mode = 'ExclusiveLock'"
        )
        assert not closing.done()
        await second.commit()
        await closing
    assert await site.state() == "moved"


async def _close(site: Site) -> None:
    async with site.closed() as door:
        await door.leave()


@pytest.mark.parametrize("level", LEVELS)
async def test_who_waited_at_the_door_finds_that_the_tenant_has_moved(site: Site, level: IsolationLevel | None) -> None:
    async with site.connection(level) as conn:
        async with site.closed() as door:
            waiting = asyncio.create_task(conn.execute("SELECT 1"))
            await site.until_waiting()
            await door.leave()
        with pytest.raises(TenantMoved):
            await waiting


@pytest.mark.parametrize("level", LEVELS)
async def test_who_waited_at_the_door_comes_in_when_it_opens_again(site: Site, level: IsolationLevel | None) -> None:
    async with site.connection(level) as conn:
        async with site.closed():
            waiting = asyncio.create_task(conn.execute("SELECT 1"))
            await site.until_waiting()
        await waiting
        await conn.rollback()
    assert await site.state() == "open"


@pytest.mark.parametrize("level", LEVELS)
async def test_a_keeper_that_dies_leaves_the_door_open(site: Site, level: IsolationLevel | None) -> None:
    async with site.connection(level) as conn, site.closed() as door:
        waiting = asyncio.create_task(conn.execute("INSERT INTO orders (note) VALUES ('after')"))
        await site.until_waiting()
        door.gate.pgconn.finish()
        await waiting
        await conn.commit()
        async with site.control.estate.admin(site.shard, site.database) as admin:  # nobody has put it right
            await admin.execute(
                "UPDATE tenantry.residents SET state = 'closing', gate = %s WHERE code = %s",
                (door.xid, site.tenant.code),
            )
        await conn.execute("SELECT 1")
        await conn.commit()
    await reopen(site.control.estate, site.shard, site.database, [site.tenant.code])
    assert await site.state() == "open"


async def test_a_half_closed_door_is_closed_anew(site: Site) -> None:
    async with site.control.estate.admin(site.shard, site.database) as admin:
        await admin.execute(
            "UPDATE tenantry.residents SET state = 'closing', gate = '3' WHERE code = %s", (site.tenant.code,)
        )
    async with site.closed() as door:
        await door.leave()
    assert await site.state() == "moved"


async def test_a_transaction_that_takes_long_is_not_ended(site: Site) -> None:
    async with site.connection() as first, site.connection() as second:
        await first.execute("SELECT 1")
        closing = asyncio.create_task(_busy(site))
        await site.until_state("closing")
        await second.execute("INSERT INTO orders (note) VALUES ('long')")
        await first.rollback()
        assert "a transaction of the tenant has been running for longer" in await closing
        assert await site.state() == "open"
        await second.commit()


async def _busy(site: Site) -> str:
    with pytest.raises(DoorBusy) as caught:
        async with site.closed(drain=0.2):
            pytest.fail("the door is closed")
    return str(caught.value)


async def test_neighbours_do_not_wait(site: Site) -> None:
    other = Site(site.house, site.control, site.house.tenants["pooled-b"])
    async with site.closed() as door, other.connection() as conn:
        await conn.execute("INSERT INTO orders (note) VALUES ('a neighbour')")
        await conn.commit()
        await door.leave()


async def test_a_suspended_tenant_stays_suspended(site: Site) -> None:
    await site.set_state("suspended")
    async with site.connection() as conn:
        async with site.closed() as door:
            with pytest.raises(TenantSuspended):
                await conn.execute("SELECT 1")
            await conn.rollback()
            await door.enter("public")
        assert await site.state() == "suspended"


async def test_whoever_does_not_live_here_is_named(site: Site) -> None:
    with pytest.raises(OperationFailed, match="the code zzz does not live here"):
        async with closed(
            site.control.estate, site.shard, site.database, [site.tenant.code, "zzz"], inside_seconds=1, drain_seconds=1
        ):
            pytest.fail("the door is closed")
    assert await site.state() == "open"


async def test_a_tenant_enters_another_schema_of_the_database(site: Site) -> None:
    async with site.connection() as conn:
        async with site.closed() as door:
            waiting = asyncio.create_task(conn.execute("SELECT 1"))
            await site.until_waiting()
            await door.enter("public")
        with pytest.raises(TenantMoved):
            await waiting
        with pytest.raises(TenantMoved):  # its epoch is over
            await conn.execute("SELECT 1")
    assert await site.state() == "open"


async def test_an_arriving_tenant_is_not_let_in(site: Site) -> None:
    await site.set_state("arriving")
    async with site.connection() as conn:
        with pytest.raises(TenantMoved):
            await conn.execute("SELECT 1")


def test_the_application_can_not_touch_the_door(house: House) -> None:
    from tenantry import Router

    with Router(house.settings) as router, router.tenant_scope("pooled-a"):
        for statement in (
            "SELECT pg_advisory_xact_lock(hashtextextended('tenantry door x', 0))",
            "SELECT pg_advisory_xact_lock_shared(1)",
            "UPDATE tenantry.residents SET state = 'open'",
            "SELECT gate FROM tenantry.residents",
            "SELECT * FROM tenantry.streams",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), router.transaction() as conn:
                conn.execute(statement)
