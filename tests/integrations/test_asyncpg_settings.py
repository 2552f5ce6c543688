"""What an application sets on its sessions: time zone, search path, isolation, codecs; and what it may not set."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import asyncpg  # type: ignore[import-untyped]
import pytest

from tenantry import AsyncRouter, Router, Settings
from tenantry.errors import InvalidInput, ServerUnreachable
from tenantry.integrations.asyncpg import _ROUTER_DECIDES, create_pool
from tenantry.postgres.connect import merge_dsn
from tenantry.routing.asyncpg import _translated, connect_asyncpg, merge_settings
from tenantry.routing.core import Target
from tests.fixtures.house import House
from tests.fixtures.proxy import Proxy
from tests.integrations.havoc import admin, end_sessions

pytestmark = pytest.mark.anyio

SLUGS = ("pooled-a", "schema-a", "database-a")
ZONE = "SELECT current_setting('timezone'), to_char('2026-07-01 12:00+00'::timestamptz, 'HH24:MI')"
BERLIN = ("Europe/Berlin", "14:00")


@pytest.fixture(scope="module")
def extended(house: House) -> Iterator[House]:
    """A house with a schema beside the tenants' in which types and functions for all of them are."""
    databases = {tenant.placement.database for tenant in house.tenants.values() if tenant.placement}
    for database in databases:
        with admin(house, database) as conn:
            conn.execute("CREATE SCHEMA extensions")
            conn.execute("CREATE TYPE extensions.color AS ENUM ('red', 'green')")
            conn.execute("CREATE FUNCTION extensions.twice(n int) RETURNS int RETURN 2 * n")
            conn.execute("GRANT USAGE ON SCHEMA extensions TO tenantry_app")
    yield house
    for database in databases:
        with admin(house, database) as conn:
            conn.execute("DROP SCHEMA extensions CASCADE")


@pytest.fixture
async def narrow(extended: House) -> AsyncIterator[AsyncRouter]:
    """All transactions of a database run on one connection, one after the other."""
    async with AsyncRouter(extended.settings.model_copy(update={"pool_size": 1})) as opened:
        yield opened


async def test_a_time_zone_holds_for_every_transaction_of_every_tenant(narrow: AsyncRouter) -> None:
    pool = create_pool(narrow, server_settings={"timezone": "Europe/Berlin", "application_name": "shop"})
    for slug in SLUGS * 2:
        async with narrow.tenant_scope(slug), pool.transaction() as conn:
            assert tuple(await conn.fetchrow(ZONE)) == BERLIN
            assert await conn.fetchval("SHOW application_name") == "shop"
            await conn.execute("SET timezone = 'Asia/Tokyo'")  # until this transaction ends


async def test_an_isolation_level_holds_unless_a_transaction_says_another(narrow: AsyncRouter) -> None:
    pool = create_pool(narrow, isolation="serializable")
    show = "SHOW transaction_isolation"
    async with narrow.tenant_scope("pooled-a"):
        for _ in range(2):
            async with pool.transaction() as conn:
                assert await conn.fetchval(show) == "serializable"
            async with pool.transaction(isolation="repeatable_read") as conn:
                assert await conn.fetchval(show) == "repeatable read"
        by_setting = create_pool(narrow, server_settings={"default_transaction_isolation": "serializable"})
        async with by_setting.transaction() as conn:
            assert await conn.fetchval(show) == "serializable"


async def test_serializable_transactions_of_a_tenant_do_conflict(extended: House) -> None:
    async with AsyncRouter(extended.settings) as router, router.tenant_scope("pooled-a"):
        pool = create_pool(router, isolation="serializable")
        async with pool.transaction() as conn:
            await conn.execute("DELETE FROM orders")

        async def count_and_add() -> None:
            async with pool.transaction() as conn:
                assert await conn.fetchval("SELECT count(*) FROM orders") == 0
                await barrier.wait()
                await conn.execute("INSERT INTO orders (note) VALUES ('x')")
                await barrier.wait()

        barrier = asyncio.Barrier(2)
        done = await asyncio.gather(count_and_add(), count_and_add(), return_exceptions=True)
        assert {type(each) for each in done} == {type(None), asyncpg.SerializationError}


async def test_a_deferrable_reader_waits_for_those_that_write(extended: House) -> None:
    waits = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'tenantry_app' AND wait_event = 'SafeSnapshot'"
    async with AsyncRouter(extended.settings) as router, router.tenant_scope("pooled-a") as tenant:
        pool = create_pool(router, isolation="serializable")

        async def read() -> Any:
            async with pool.transaction(mode="ro", deferrable=True) as conn:
                return await conn.fetchval("SELECT count(*) FROM orders WHERE note = 'waited for'")

        assert tenant.placement
        with admin(extended, tenant.placement.database) as admins:
            async with pool.transaction() as conn:
                await conn.execute("INSERT INTO orders (note) VALUES ('waited for')")
                task = asyncio.create_task(read())
                while admins.execute(waits).fetchone() != (1,):  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0)
        assert await task in (0, 1)


async def test_codecs_are_set_once_per_connection_and_stay(narrow: AsyncRouter) -> None:
    made = []

    async def init(conn: Any) -> None:
        made.append(conn)
        await conn.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
        await conn.set_type_codec("color", schema="extensions", encoder=str.lower, decoder=str.upper)

    pool = create_pool(narrow, init=init)
    for slug in ("pooled-a", "schema-a", "pooled-b", "pooled-a"):
        async with narrow.tenant_scope(slug), pool.transaction() as conn:
            assert await conn.fetchval("SELECT $1::jsonb", {"a": [1, None]}) == {"a": [1, None]}
            assert await conn.fetchval("SELECT $1::extensions.color", "Green") == "GREEN"
    assert len(made) == 1


async def test_what_listens_from_the_start_goes_on_listening(narrow: AsyncRouter) -> None:
    heard = []

    async def init(conn: Any) -> None:
        conn.add_log_listener(lambda conn, message: heard.append(message.message))

    pool = create_pool(narrow, init=init)
    for _ in range(2):
        async with narrow.tenant_scope("pooled-a"), pool.transaction() as conn:
            await conn.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
    await asyncio.sleep(0)
    assert heard == ["hello", "hello"]
    assert len(narrow.pools.ledger) == 1


async def test_other_schemas_are_added_to_the_search_path_at_the_head_of_each_transaction(narrow: AsyncRouter) -> None:
    async def setup(conn: Any) -> None:
        path = await conn.fetchval("SHOW search_path")
        await conn.execute(f"SET LOCAL search_path = {path}, extensions")

    pool = create_pool(narrow, setup=setup)
    for slug in SLUGS * 2:
        async with narrow.tenant_scope(slug) as tenant, pool.transaction() as conn:
            assert await conn.fetchval("SELECT twice(4)") == 8
            assert tenant.placement
            assert await conn.fetchval("SELECT current_schema()") == tenant.placement.schema


async def test_what_init_sets_with_set_holds_for_every_transaction(narrow: AsyncRouter) -> None:
    """As libraries do that know nothing of bindings, which clear what was set with SET."""
    made = []

    async def init(conn: Any) -> None:
        made.append(conn)
        await conn.execute("SET timezone = 'Europe/Berlin'; SET application_name = 'a \\b'")
        await conn.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        await conn.execute(
            "SELECT set_config('DateStyle', 'SQL, DMY', false), set_config('statement_timeout', '9s', false)"
        )

    pool = create_pool(narrow, init=init, server_settings={"options": "-c geqo=off"})
    for slug in SLUGS * 2:
        async with narrow.tenant_scope(slug), pool.transaction() as conn:
            assert tuple(await conn.fetchrow(ZONE)) == BERLIN
            names = ("transaction_isolation", "application_name", "datestyle", "geqo")
            shown = [await conn.fetchval(f"SHOW {name}") for name in names]
            assert shown == ["serializable", "a \\b", "SQL, DMY", "off"]
    assert len(made) == 2 + 1, "the first connection was made twice"


async def test_a_search_path_that_init_sets_is_not_silently_ignored(
    narrow: AsyncRouter, caplog: pytest.LogCaptureFixture
) -> None:
    async def init(conn: Any) -> None:
        await conn.execute("SET search_path = extensions")

    pool = create_pool(narrow, init=init)
    async with narrow.tenant_scope("schema-a") as tenant, pool.transaction() as conn:
        assert tenant.placement
        assert await conn.fetchval("SHOW search_path") == f"{tenant.placement.schema}, pg_temp"
    assert "search_path" in caplog.text


@pytest.mark.parametrize("hook", ["init", "setup"])
async def test_a_hook_that_fails_leaves_no_connection_behind(narrow: AsyncRouter, hook: str) -> None:
    async def fail(conn: Any) -> None:
        await conn.execute("SELECT 1")
        raise ZeroDivisionError

    hooks: dict[str, Any] = {hook: fail}
    async with narrow.tenant_scope("pooled-a"):
        with pytest.raises(ZeroDivisionError):
            async with create_pool(narrow, **hooks).transaction():
                pass
        ledger = narrow.pools.ledger
        assert ledger.idle == len(ledger)
        async with create_pool(narrow).transaction() as conn:
            assert await conn.fetchval("SELECT 1")


async def test_options_of_asyncpg_are_taken(narrow: AsyncRouter) -> None:
    class Row(asyncpg.Record):  # type: ignore[misc]
        pass

    pool = create_pool(narrow, record_class=Row, statement_cache_size=0, command_timeout=0.05)
    async with narrow.tenant_scope("pooled-a"):
        for _ in range(2):
            async with pool.transaction() as conn:
                assert type(await conn.fetchrow("SELECT 1")) is Row
                assert len(conn._con._stmt_cache) == 0
        with pytest.raises(TimeoutError):
            async with pool.transaction() as conn:
                await conn.execute("SELECT pg_sleep(60)")


@pytest.mark.parametrize("option", _ROUTER_DECIDES)
async def test_what_the_router_decides_is_refused_with_a_hint(option: str) -> None:
    options: dict[str, Any] = {option: 1}
    with pytest.raises(InvalidInput, match=f"'{option}'") as caught:
        create_pool(AsyncRouter(Settings(catalog="dbname=nowhere")), **options)
    assert caught.value.hint == _ROUTER_DECIDES[option]


async def test_a_search_path_and_unknown_levels_are_refused(narrow: AsyncRouter) -> None:
    with pytest.raises(InvalidInput, match="search_path") as caught:
        create_pool(narrow, server_settings={"search_path": "public"})
    assert "setup" in str(caught.value.hint)
    for level in ("SERIALIZABLE", "none", "", 1):
        with pytest.raises(InvalidInput, match="isolation"):
            create_pool(narrow, isolation=level)  # type: ignore[arg-type]
    async with narrow.tenant_scope("pooled-a"):
        with pytest.raises(InvalidInput, match="isolation"):
            await create_pool(narrow).transaction(isolation="x; DROP").__aenter__()
    assert len(narrow.pools.ledger) == 0


@pytest.mark.parametrize("router", [None, "acme", Router(Settings(catalog="dbname=nowhere"))])
async def test_a_pool_takes_an_async_router(router: Any) -> None:
    with pytest.raises(InvalidInput, match="is no AsyncRouter"):
        create_pool(router)


def target(dsn: str) -> Target:
    return Target("main", "shop", "tenantry_app", dsn, 10)


def test_a_dsn_of_libpq_is_understood() -> None:
    dsn = (
        "host=a,b port=5432,5433 user=u password='p w&=/' dbname=d sslmode=verify-full sslrootcert='/x y'"
        " connect_timeout=3 keepalives=1 application_name=tenantry options='-c a=b' channel_binding=prefer"
        " target_session_attrs=read-write"
    )
    url, sent = _translated(target(dsn))
    start, query = url.split("?")
    assert start == "postgresql://"
    assert dict(parse_qsl(query)) == {
        "host": "a,b",
        "port": "5432,5433",
        "user": "u",
        "password": "p w&=/",
        "dbname": "d",
        "sslmode": "verify-full",
        "sslrootcert": "/x y",
        "target_session_attrs": "read-write",
    }
    assert sent == {"application_name": "tenantry", "options": "-c a=b"}


def test_an_address_takes_the_place_of_a_name_unless_the_name_is_to_be_verified() -> None:
    assert "host=10.0.0.1" in _translated(target("host=a hostaddr=10.0.0.1"))[0]
    with pytest.raises(InvalidInput, match="hostaddr"):
        _translated(target("host=a hostaddr=10.0.0.1 sslmode=verify-full"))


@pytest.mark.parametrize(
    "asks",
    ["channel_binding=require", "gssencmode=require", "requirepeer=postgres", "sslcrldir=/x", "require_auth=md5"],
)
def test_a_dsn_that_asks_for_what_asyncpg_can_not_do_is_refused(asks: str) -> None:
    with pytest.raises(InvalidInput, match=asks.partition("=")[0]) as caught:
        _translated(target(f"host=a {asks}"))
    assert "psycopg" in str(caught.value.hint)


def test_settings_are_added_and_options_are_kept() -> None:
    first = {"options": "-c a=1", "application_name": "tenantry"}
    assert merge_settings(first, {}) == first
    assert merge_settings(first, {"options": "-c b=2", "timezone": "UTC"}) == {
        "options": "-c a=1 -c b=2",
        "application_name": "tenantry",
        "timezone": "UTC",
    }


async def test_settings_that_a_role_has_planted_do_not_hold(extended: House, narrow: AsyncRouter) -> None:
    """As injected SQL may do for all connections that come after it."""
    fleet = await narrow.view.fleet()
    found = narrow.target(extended.tenants["pooled-a"], fleet)
    with admin(extended, found.database) as conn:
        conn.execute("ALTER ROLE tenantry_app SET statement_timeout = '1ms'")
        conn.execute("ALTER ROLE tenantry_app SET default_transaction_read_only = on")
        try:
            one = await connect_asyncpg(found, seconds=5, home="public", server_settings={"options": "-c geqo=off"})
            assert await one.fetchval("SHOW statement_timeout") == "0"
            assert await one.fetchval("SHOW geqo") == "off"
            await one.close()
            async with narrow.tenant_scope("pooled-a"), create_pool(narrow).transaction() as bound:
                await bound.execute("INSERT INTO orders (note) VALUES ('x')")
        finally:
            conn.execute("ALTER ROLE tenantry_app RESET ALL")


async def test_a_dsn_through_a_host_that_does_not_resolve_is_a_server_that_does_not_answer(narrow: AsyncRouter) -> None:
    fleet = await narrow.view.fleet()
    found = narrow.target(await narrow.find("pooled-a"), fleet)
    lost = replace(found, dsn=merge_dsn(found.dsn, host="127.0.0.1", port=1))
    with pytest.raises(ServerUnreachable, match="does not answer") as caught:
        await connect_asyncpg(lost, seconds=5, home="public")
    assert caught.value.where == found.name


@pytest.mark.parametrize("ends", [False, True])
async def test_a_server_that_lets_a_connection_in_and_says_no_more_is_one_that_does_not_answer(
    extended: House, narrow: AsyncRouter, ends: bool
) -> None:
    """Also when the connection is made ready, after the login."""

    logged_in: list[bool] = []

    def change(data: bytes) -> bytes:
        if logged_in:
            proxy.hold()
        logged_in.extend([True] * data.endswith(b"Z\x00\x00\x00\x05I"))
        return data

    fleet = await narrow.view.fleet()
    found = narrow.target(await narrow.find("pooled-a"), fleet)
    with Proxy(extended.servers[0].dsn(tcp=True), change=change) as proxy:
        silent = replace(found, dsn=proxy.through(found.dsn))
        task = asyncio.create_task(connect_asyncpg(silent, seconds=0.5 if not ends else 30, home="public"))
        if ends:
            assert await asyncio.to_thread(proxy.held.wait, 30)
            end_sessions(extended)
        with pytest.raises(ServerUnreachable, match="does not answer"):
            await task
        assert logged_in


def test_a_library_that_is_not_there_is_named_with_the_command_that_installs_it() -> None:
    code = """
import sys
sys.modules["asyncpg"] = None
from tenantry import AsyncRouter, Settings
from tenantry.errors import MissingDependency
from tenantry.integrations.sqlalchemy import create_async_engine
router = AsyncRouter(Settings(catalog="dbname=nowhere"))
create_async_engine(router)
for use in (lambda: create_async_engine(router, driver="asyncpg"), lambda: __import__("tenantry.integrations.asyncpg")):
    try:
        use()
    except MissingDependency as error:
        assert error.hint == "pip install 'tenantry[asyncpg]'", error.hint
    else:
        raise SystemExit("imported")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
