"""Where a shard is: for operators, and for applications, which may be led through a pooler. Both may change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tenantry import AsyncRouter
from tenantry.errors import Conflict, InvalidInput, NotFound, ServerUnreachable, TenantryError
from tenantry.postgres.connect import merge_dsn, parse_dsn
from tenantry.postgres.server import LocalServer
from tenantry.service import shard as shards
from tenantry.service import tenant as tenants
from tests.fixtures.house import House
from tests.fixtures.proxy import Proxy
from tests.operations.invariants import catalog

pytestmark = pytest.mark.anyio

NOWHERE = "host=127.0.0.1 port=1"


@pytest.fixture(autouse=True)
def as_it_was(house: House) -> Iterator[None]:
    with catalog(house) as conn:
        row = conn.execute("SELECT dsn, admin_dsn FROM shards WHERE name = 'main'").fetchone()
        assert row is not None
        yield
        conn.execute("UPDATE shards SET dsn = %s, admin_dsn = %s WHERE name = 'main'", tuple(row.values()))


def addresses(house: House) -> tuple[str, str]:
    with catalog(house) as conn:
        row = conn.execute("SELECT dsn, admin_dsn FROM shards WHERE name = 'main'").fetchone()
    assert row is not None
    return row["dsn"], row["admin_dsn"]


async def change(house: House, **changes: Any) -> str:
    async with house.control() as control:
        return (await shards.change(control, "main", **changes)).dsn


async def test_operators_do_not_go_where_applications_are_led(house: House) -> None:
    """A pooler would mix up their sessions, and need not run while they work."""
    assert await change(house, address=NOWHERE) == NOWHERE
    async with house.control() as control:
        for level in ("pooled", "schema", "database"):
            slug = f"direct-{level}"
            await tenants.create(control, slug, isolation=level)
            await tenants.suspend(control, slug)
            await tenants.delete(control, slug, confirm=slug, grace=0)


async def test_applications_follow_a_change_at_once(house: House, server: LocalServer) -> None:
    with Proxy(server.dsn(tcp=True)) as proxy:
        async with AsyncRouter(house.settings) as router, router.tenant_scope("pooled-a") as tenant:
            async with router.transaction() as conn:
                await conn.execute("SELECT 1")
            await change(house, address=proxy.through("host=127.0.0.1"))
            while router.view.known_fleet().shard("main").dsn != addresses(house)[0]:
                await router.view.fleet()
            with proxy.counting() as trips:
                async with router.transaction() as conn:
                    cursor = await conn.execute("SELECT tenantry.current_tenant_v1()")
                    assert await cursor.fetchone() == (tenant.key,)
            assert trips.count


async def test_a_new_login_brings_its_place_unless_applications_are_led_elsewhere(
    house: House, server: LocalServer
) -> None:
    other = merge_dsn(server.dsn(tcp=True), host="localhost")
    assert parse_dsn(await change(house, dsn=other))["host"] == "localhost"
    assert parse_dsn(addresses(house)[1]) == parse_dsn(other)
    await change(house, address=NOWHERE)
    await change(house, dsn=server.dsn(tcp=True))
    assert addresses(house) == (NOWHERE, server.dsn(tcp=True))


async def test_an_address_tells_nobody_a_login(house: House, server: LocalServer) -> None:
    assert "password" not in await change(house, dsn=server.dsn(tcp=True))


WRONG = {
    "nothing": ({}, InvalidInput, "there is nothing to change"),
    "no host": ({"address": "port=6432"}, InvalidInput, "names no host"),
    "a login": ({"address": "host=h user=app"}, InvalidInput, "names a user"),
    "a password": ({"address": "host=h password=x"}, InvalidInput, "names a password"),
    "a database": ({"address": "postgresql://h/shop"}, InvalidInput, "names a dbname"),
    "no DSN": ({"address": "postgresql://["}, InvalidInput, "can't be parsed"),
    "no answer": ({"dsn": f"{NOWHERE} user=postgres"}, ServerUnreachable, "can't connect"),
    "no user": ({"dsn": NOWHERE}, InvalidInput, "names no user"),
}


@pytest.mark.parametrize(("changes", "kind", "message"), WRONG.values(), ids=WRONG)
async def test_what_can_t_be_changed_stays(
    house: House, changes: dict[str, str], kind: type[TenantryError], message: str
) -> None:
    before = addresses(house)
    with pytest.raises(kind, match=message) as caught:
        await change(house, **changes)
    assert caught.value.hint
    assert addresses(house) == before


async def test_a_server_that_is_not_the_shard_is_refused(house: House, second_server: LocalServer) -> None:
    with pytest.raises(Conflict, match="does not belong to this house"):
        await change(house, dsn=second_server.dsn(tcp=True))


async def test_another_shard_of_the_house_is_refused(house: House, second_server: LocalServer) -> None:
    async with house.control() as control:
        await shards.add(control, "second", second_server.dsn(tcp=True), take_over=True, database="app_second")
    try:
        with pytest.raises(Conflict, match="the server is the shard 'second'"):
            await change(house, dsn=second_server.dsn(tcp=True))
    finally:
        with catalog(house) as conn:
            conn.execute("DELETE FROM spaces WHERE shard = 'second'; DELETE FROM shards WHERE name = 'second'")


async def test_a_server_without_the_tenants_databases_is_refused(house: House, server: LocalServer) -> None:
    placement = house.tenants["database-a"].placement
    assert placement is not None
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f"ALTER DATABASE {placement.database} RENAME TO d_elsewhere".encode())
        try:
            with pytest.raises(Conflict, match="has no database 'd_"):
                await change(house, dsn=server.dsn(tcp=True))
        finally:
            conn.execute(f"ALTER DATABASE d_elsewhere RENAME TO {placement.database}".encode())


async def test_no_shard_no_change(house: House) -> None:
    async with house.control() as control:
        with pytest.raises(NotFound):
            await shards.change(control, "nowhere", address=NOWHERE)


async def test_a_shard_can_be_added_behind_a_pooler(house: House, second_server: LocalServer) -> None:
    async with house.control() as control:
        made = await shards.add(
            control, "behind", second_server.dsn(tcp=True), address=NOWHERE, take_over=True, database="app_behind"
        )
        await tenants.create(control, "behind-a", shard="behind")
        await tenants.delete(control, "behind-a", confirm="behind-a", grace=0)
    assert made.dsn == NOWHERE
    with catalog(house) as conn:
        conn.execute("DELETE FROM spaces WHERE shard = 'behind'; DELETE FROM shards WHERE name = 'behind'")


def test_a_control_plane_that_runs_on_finds_a_shard_that_has_moved(house: House, server: LocalServer) -> None:
    """Its pools lead to where the shard was; the first failure makes it look."""

    async def run() -> None:
        async with house.control() as control:
            await tenants.create(control, "finds")
            with Proxy(server.dsn(tcp=True)) as proxy:
                await shards.change(control, "main", dsn=proxy.through(server.dsn(tcp=True)))
                await control.estate.forget("main", house.tenants["pooled-a"].placement.database)  # type: ignore[union-attr]
                await tenants.suspend(control, "finds")
            await shards.change(control, "main", dsn=server.dsn(tcp=True))
            with pytest.raises(TenantryError):
                await tenants.resume(control, "finds")
            with catalog(house) as conn:
                conn.execute("UPDATE operations SET resume_at = now(), lease_until = now() WHERE state = 'pending'")
            while await control.engine.work() is not None:
                pass
            assert (await tenants.show(control, "finds")).state == "active"

    asyncio.run(run())
