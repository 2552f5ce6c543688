"""Tenants move while they work: nothing is lost, nothing doubled, no request fails, and there is a way back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import psycopg
import pytest

from tenantry import Router
from tenantry.errors import (
    InvalidInput,
    OperationFailed,
    OperationOpen,
    ShardNotFound,
    StreamBroken,
    TenantNotFound,
    TenantSuspended,
)
from tenantry.hookspecs import hookimpl
from tenantry.model import Tenant
from tenantry.service import move as moves
from tenantry.service import op as ops
from tenantry.service import tenant as tenants
from tenantry.service.control import Control
from tests.fixtures.house import House, MakeHouse
from tests.operations.ledger import Ledger

pytestmark = pytest.mark.anyio

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


async def a_tenant(control: Control, isolation: str, shard: str = "main") -> Tenant:
    """A new one."""
    return await tenants.create(control, f"mover-{next(_number)}", isolation=isolation, shard=shard)


async def place(control: Control, ledger: Ledger) -> tuple[str, str, int]:
    """Where a tenant is."""
    placement = (await tenants.show(control, ledger.tenant.slug)).placement
    assert placement is not None
    return placement.isolation.value, placement.shard, placement.epoch


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
                query = (
                    "SELECT code, state FROM tenantry.residents"
                    " WHERE state NOT IN ('open', 'suspended') AND schema !~ '^d_' OR gate IS NOT NULL"
                )
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
    town: House, control: Control, level: str, shard: str, to: str, where: str
) -> None:
    ledger = Ledger(town, await a_tenant(control, level, shard))
    with ledger.writing():
        await asyncio.to_thread(ledger.grow)
        operation = await moves.move(control, ledger.tenant.slug, to=to, shard=where, grace=0)
        await asyncio.to_thread(ledger.grow)
    assert operation["state"] == "done"
    ledger.check()
    assert await place(control, ledger) == (to, where, 2)
    await nothing_left(control, town)


@pytest.mark.parametrize(("level", "shard", "to", "where"), WAYS)
async def test_a_tenant_comes_back_with_what_it_has_written_since(
    town: House, control: Control, level: str, shard: str, to: str, where: str
) -> None:
    ledger = Ledger(town, await a_tenant(control, level, shard))
    with ledger.writing():
        await asyncio.to_thread(ledger.grow)
        operation = await moves.move(control, ledger.tenant.slug, to=to, shard=where)
        assert operation["state"] == "waiting"
        assert await place(control, ledger) == (to, where, 2)
        await asyncio.to_thread(ledger.grow)
        with pytest.raises(OperationOpen):
            await tenants.suspend(control, ledger.tenant.slug)
        assert (await ops.undo(control, operation["id"]))["state"] == "undone"
        assert await place(control, ledger) == (level, shard, 3)
        await asyncio.to_thread(ledger.grow)
    ledger.check()
    await nothing_left(control, town)
    again = await moves.move(control, ledger.tenant.slug, to=to, shard=where, grace=0)
    assert again["state"] == "done"
    ledger.check()
    assert await place(control, ledger) == (to, where, 4)


@pytest.mark.parametrize("to", ["schema", "database"])
async def test_a_tenant_comes_back_if_it_does_not_settle_even_without_a_grace_period(
    town: House, control: Control, to: str
) -> None:
    ledger = Ledger(town, await a_tenant(control, "pooled"))

    class Fail:
        @hookimpl
        def operation_moment(self, step: str, moment: str) -> None:
            if (step, moment) == ("settle", "acted"):
                raise InvalidInput("told to fail")

    control.engine.hooks.register(Fail())
    with ledger.writing():
        await asyncio.to_thread(ledger.grow)
        with pytest.raises(InvalidInput, match="told to fail"):
            await moves.move(control, ledger.tenant.slug, to=to, grace=0)
        await asyncio.to_thread(ledger.grow)
    ledger.check()
    assert await place(control, ledger) == ("pooled", "main", 3)
    await nothing_left(control, town)


async def test_a_suspended_tenant_moves_and_stays_suspended(town: House, control: Control) -> None:
    tenant = await a_tenant(control, "pooled")
    await tenants.suspend(control, tenant.slug)
    await moves.move(control, tenant.slug, to="schema", grace=0)
    assert (await tenants.show(control, tenant.slug)).state == "suspended"
    with Router(town.settings) as router, pytest.raises(TenantSuspended), router.tenant_scope(tenant.slug):
        pytest.fail("it was let in")
    await tenants.resume(control, tenant.slug)
    ledger = Ledger(town, tenant)
    with ledger.writing():
        await asyncio.to_thread(ledger.grow)
    ledger.check()


async def test_sequences_never_fall_behind(town: House, control: Control) -> None:
    """Neither those of a home of its own, nor those that others use."""
    ledger = Ledger(town, await a_tenant(control, "pooled"))
    with ledger.writing():
        await asyncio.to_thread(ledger.grow)
        await moves.move(control, ledger.tenant.slug, to="schema", grace=0)
        await asyncio.to_thread(ledger.grow)
        await moves.move(control, ledger.tenant.slug, to="pooled", shard="second", grace=0)
        await asyncio.to_thread(ledger.grow)
    ledger.check()
    with Router(town.settings) as router, router.tenant_scope(ledger.tenant.slug), router.transaction() as conn:
        assert conn.execute("SELECT count(*) = count(DISTINCT id) FROM orders").fetchone() == (True,)


async def test_a_tenant_that_lives_there_already_is_told_so(control: Control) -> None:
    tenant = await a_tenant(control, "pooled")
    for options in ({}, {"to": "pooled"}, {"shard": "main"}, {"to": "pooled", "shard": "main"}):
        with pytest.raises(InvalidInput, match="lives there already: pooled on the shard 'main'"):
            await moves.move(control, tenant.slug, **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="'attic' is not an isolation"):
        await moves.move(control, tenant.slug, to="attic")
    with pytest.raises(InvalidInput, match="a grace period of -1 seconds"):
        await moves.move(control, tenant.slug, to="schema", grace=-1)
    with pytest.raises(ShardNotFound, match="'mars'"):
        await moves.move(control, tenant.slug, shard="mars")
    with pytest.raises(TenantNotFound):
        await moves.move(control, "nobody", to="schema")


async def test_what_is_in_the_way_is_said_at_once_and_the_tenant_stays(town: House, control: Control) -> None:
    ledger = Ledger(town, await a_tenant(control, "pooled"))
    assert ledger.tenant.placement is not None
    with psycopg.connect(town.servers[0].dsn(ledger.tenant.placement.database), autocommit=True) as conn:
        conn.execute("ALTER TABLE orders REPLICA IDENTITY NOTHING; ALTER TABLE customers ADD more int")
        try:
            with pytest.raises(OperationFailed) as caught:
                await moves.move(control, ledger.tenant.slug, to="schema")
        finally:
            conn.execute("ALTER TABLE orders REPLICA IDENTITY DEFAULT; ALTER TABLE customers DROP more")
    assert "orders can't be followed: its REPLICA IDENTITY is NOTHING" in str(caught.value)
    assert "the column more is integer there and missing in" in str(caught.value)
    assert await place(control, ledger) == ("pooled", "main", 1)
    await nothing_left(control, town)


async def test_a_table_that_is_changed_meanwhile_stops_the_move(town: House, control: Control) -> None:
    ledger = Ledger(town, await a_tenant(control, "pooled"))
    assert ledger.tenant.placement is not None
    dsn = town.servers[0].dsn(ledger.tenant.placement.database)

    class Change:
        @hookimpl
        def operation_moment(self, step: str, moment: str) -> None:
            if (step, moment) == ("copy", "after"):
                with psycopg.connect(dsn, autocommit=True) as conn:
                    conn.execute("ALTER TABLE customers ADD more int")

    control.engine.hooks.register(Change())
    try:
        with ledger.writing():
            await asyncio.to_thread(ledger.grow)
            with pytest.raises(StreamBroken, match="the tables have changed since the stream began"):
                await moves.move(control, ledger.tenant.slug, to="schema")
            await asyncio.to_thread(ledger.grow)
    finally:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("ALTER TABLE customers DROP more")
    ledger.check()
    assert await place(control, ledger) == ("pooled", "main", 1)
    await nothing_left(control, town)


@pytest.mark.parametrize("writes", [True, False])
async def test_a_transaction_that_takes_long_is_not_ended(
    town: House, control: Control, monkeypatch: pytest.MonkeyPatch, writes: bool
) -> None:
    """One that writes keeps the slot from being made, one that reads keeps the door from being closed."""
    monkeypatch.setattr("tenantry.operations.move._INSIDE_SECONDS", 0.2)
    monkeypatch.setattr("tenantry.stream.source.SLOT_SECONDS", 0.5)
    ledger = Ledger(town, await a_tenant(control, "pooled"))
    with Router(town.settings) as router, router.tenant_scope(ledger.tenant.slug), router.transaction() as conn:
        conn.execute("INSERT INTO customers (email) VALUES ('long')" if writes else "SELECT * FROM customers")
        operation = await moves.move(control, ledger.tenant.slug, to="schema", grace=0)
        assert operation["state"] == "waiting"
        assert operation["step"] == ("check" if writes else "follow")
        assert await place(control, ledger) == ("pooled", "main", 1)
        conn.execute("SELECT 1")
    async with control.store.connection() as catalog:
        await catalog.execute("UPDATE operations SET resume_at = now() WHERE id = %s", (operation["id"],))
    await control.engine.work(operation["id"])
    assert await place(control, ledger) == ("schema", "main", 2)
    with Router(town.settings) as router, router.tenant_scope(ledger.tenant.slug), router.transaction() as conn:
        assert conn.execute("SELECT email FROM customers").fetchall() == [("long",)] * writes
    await nothing_left(control, town)
