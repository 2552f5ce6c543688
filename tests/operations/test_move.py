"""Tenants move while they work: nothing is lost, nothing doubled, no request fails, and there is a way back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tenantry import AsyncRouter
from tenantry.errors import InvalidInput, OperationFailed, OperationOpen
from tenantry.model import Isolation, Tenant
from tenantry.service import move as moves
from tenantry.service import op as ops
from tenantry.service import tenant as tenants
from tenantry.service.control import Control
from tests.fixtures.house import House, MakeHouse

pytestmark = pytest.mark.anyio

WORKERS = 3
_number = itertools.count(1)


@pytest.fixture(scope="module")
def town(make_house: MakeHouse) -> House:
    """A house with two shards."""
    return make_house(second=True)


@pytest.fixture
async def control(town: House) -> AsyncIterator[Control]:
    """Its control plane."""
    async with town.control() as made:
        yield made


@pytest.fixture
def neighbours(town: House) -> Iterator[Tenant]:
    """A tenant that has nothing to do with it."""
    if "neighbour" not in town.tenants:
        town.tenants["neighbour"] = town.create("neighbour")
    yield town.tenants["neighbour"]


class Ledger:
    """A tenant that writes all the time, and remembers what it was told has been written."""

    def __init__(self, town: House, tenant: Tenant) -> None:
        self.town = town
        self.tenant = tenant
        self.acknowledged: list[str] = []
        self.failures: list[BaseException] = []

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write until the block ends; no request may fail."""
        over = asyncio.Event()
        async with AsyncRouter(self.town.settings) as router, asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._write(router, over))
            try:
                yield
            finally:
                over.set()
        assert self.failures == []

    async def _write(self, router: AsyncRouter, over: asyncio.Event) -> None:
        while not over.is_set():
            note = f"note {next(_number)}"
            try:
                async with router.tenant_scope(self.tenant.slug), router.transaction() as conn:
                    row = await (
                        await conn.execute("INSERT INTO customers (email) VALUES (%s) RETURNING id", (note,))
                    ).fetchone()
                    assert row is not None
                    await conn.execute("INSERT INTO orders (customer_id, note) VALUES (%s, %s)", (row[0], note))
                    await conn.execute("UPDATE orders SET amount = amount + 1 WHERE note = %s", (note,))
                self.acknowledged.append(note)
            except Exception as error:
                self.failures.append(error)
                return

    async def check(self) -> None:
        """Each acknowledged row is there once, and nothing else is."""
        async with AsyncRouter(self.town.settings) as router, router.tenant_scope(self.tenant.slug):
            async with router.transaction() as conn:
                rows = await (await conn.execute("SELECT note, amount FROM orders")).fetchall()
                found = await (await conn.execute("SELECT email FROM customers")).fetchall()
        assert sorted(note for note, _ in rows) == sorted(self.acknowledged)
        assert {amount for _, amount in rows} <= {1}
        assert sorted(email for (email,) in found) == sorted(self.acknowledged)


async def a_tenant(control: Control, isolation: str, shard: str = "main") -> Tenant:
    """A new one."""
    return await tenants.create(control, f"mover-{next(_number)}", isolation=isolation, shard=shard)


async def nothing_left(control: Control, town: House) -> None:
    """Neither slots nor publications nor notes nor closed doors, on any shard."""
    for server in town.servers:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            assert conn.execute("SELECT slot_name FROM pg_replication_slots").fetchall() == []
            names = conn.execute("SELECT datname FROM pg_database WHERE datname ~ '^(app_|d_)'").fetchall()
        for (name,) in names:
            with psycopg.connect(server.dsn(name), autocommit=True) as conn:
                assert conn.execute("SELECT pubname FROM pg_publication").fetchall() == []
                assert conn.execute("SELECT name FROM tenantry.streams").fetchall() == []
                query = "SELECT code, state FROM tenantry.residents WHERE state NOT IN ('open', 'suspended') OR gate IS NOT NULL"
                assert conn.execute(query).fetchall() == []


WAYS = [
    ("pooled", "main", "schema", "main"),
    ("pooled", "main", "database", "main"),
    ("pooled", "main", "pooled", "second"),
    ("schema", "main", "pooled", "main"),
    ("schema", "main", "schema", "second"),
    ("database", "main", "schema", "second"),
    ("database", "main", "pooled", "main"),
]


@pytest.mark.parametrize(("level", "shard", "to", "where"), WAYS)
async def test_a_tenant_that_writes_moves(
    town: House, control: Control, neighbours: Tenant, level: str, shard: str, to: str, where: str
) -> None:
    tenant = await a_tenant(control, level, shard)
    ledger = Ledger(town, tenant)
    async with ledger.writing():
        while len(ledger.acknowledged) < 20:  # noqa: ASYNC110 - until it has written something
            await asyncio.sleep(0.01)
        operation = await moves.move(control, tenant.slug, to=to, shard=where, grace=0)
        before = len(ledger.acknowledged)
        while len(ledger.acknowledged) < before + 20:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert operation["state"] == "done"
    await ledger.check()
    now = await tenants.show(control, tenant.slug)
    assert now.placement is not None
    assert (now.placement.isolation, now.placement.shard, now.placement.epoch) == (to, where, 2)
    await nothing_left(control, town)
