"""Session parameters that a router is given hold in each transaction of each tenant, with each driver and pooler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from tenantry import AsyncRouter, Router
from tenantry.errors import InvalidSettings, ServerUnreachable
from tenantry.integrations.asyncpg import create_pool
from tenantry.integrations.sqlalchemy import create_async_engine, create_engine
from tenantry.routing.parameters import TAKEN, checked
from tenantry.settings import Settings, load
from tests.fixtures.house import House
from tests.fixtures.proxy import Proxy
from tests.integrations.havoc import catalog

pytestmark = pytest.mark.anyio

SLUGS = ("pooled-a", "schema-a", "pooled-a", "pooled-b", "database-a")
WANTED = {"TimeZone": "Europe/Berlin", "intervalstyle": "iso 8601".replace(" ", "_"), "application_name": "the shop\\1"}
SHOWN = ("Europe/Berlin", "iso_8601", "the shop\\1", "public")
SHOW = (
    "SELECT current_setting('timezone'), current_setting('intervalstyle'), current_setting('application_name'),"
    " split_part(current_setting('search_path'), ',', 1)"
)
UNDO = "SET timezone = 'UTC'"
Ask = Callable[[AsyncRouter, str], Awaitable[tuple[Any, ...]]]


async def by_router(router: AsyncRouter, query: str) -> tuple[Any, ...]:
    async with router.transaction() as conn:
        row = await (await conn.execute(query)).fetchone()
        await conn.execute(UNDO)
        assert row
        return row


async def in_a_pipeline(router: AsyncRouter, query: str) -> tuple[Any, ...]:
    async with router.transaction() as conn, conn.pipeline():
        row = await (await conn.execute(query)).fetchone()
        await conn.execute(UNDO)
        assert row
        return row


async def by_asyncpg(router: AsyncRouter, query: str) -> tuple[Any, ...]:
    async with create_pool(router).transaction() as conn:
        row = tuple(await conn.fetchrow(query))
        await conn.execute(UNDO)
        return row


def by_engine(driver: str) -> Ask:
    async def ask(router: AsyncRouter, query: str) -> tuple[Any, ...]:
        engine = create_async_engine(router, driver=driver)
        async with engine.begin() as conn:
            row = tuple((await conn.execute(text(query))).one())
            await conn.execute(text(UNDO))
        await engine.dispose()
        return row

    return ask


WAYS = {
    "router": by_router,
    "pipeline": in_a_pipeline,
    "asyncpg": by_asyncpg,
    "engine": by_engine("psycopg"),
    "engine on asyncpg": by_engine("asyncpg"),
}


@pytest.fixture(params=[False, True], ids=["direct", "pooler"])
def settings(request: pytest.FixtureRequest, house: House) -> Settings:
    """Whether a pooler is said to stand between decides which way the parameters go."""
    return house.settings.model_copy(update={"pooler": request.param, "pool_size": 1})


@pytest.fixture
async def wanting(settings: Settings) -> AsyncIterator[AsyncRouter]:
    async with AsyncRouter(settings, parameters=WANTED) as router:
        yield router


@pytest.mark.parametrize("way", WAYS)
async def test_they_hold_in_each_transaction_of_each_tenant(house: House, wanting: AsyncRouter, way: str) -> None:
    for slug in SLUGS:
        async with wanting.tenant_scope(slug) as tenant:
            assert tenant.placement
            for _ in range(2):
                assert await WAYS[way](wanting, SHOW) == (*SHOWN[:3], tenant.placement.schema)


def test_they_hold_for_threads(settings: Settings) -> None:
    with Router(settings, parameters=WANTED) as router, router.tenant_scope("pooled-a"):
        for _ in range(2):
            with router.transaction() as conn:
                assert conn.execute(SHOW).fetchone() == SHOWN
                conn.execute(UNDO)
            engine = create_engine(router)
            with engine.begin() as connection:
                assert tuple(connection.execute(text(SHOW)).one()) == SHOWN
            engine.dispose()


def test_they_cost_no_round_trip(house: House, settings: Settings) -> None:
    with Proxy(house.servers[0].dsn(tcp=True)) as proxy, catalog(house) as conn:
        found = conn.execute("SELECT dsn FROM shards WHERE name = 'main'").fetchone()
        assert found
        conn.execute("UPDATE shards SET dsn = %s WHERE name = 'main'", (proxy.through(found[0]),))
        try:
            with Router(settings, parameters=WANTED) as router, router.tenant_scope("pooled-a"):
                counts = []
                for _ in range(3):
                    with proxy.counting() as trips, router.transaction() as bound:
                        bound.execute("SELECT 1")
                    counts.append(trips.count)
                assert counts[1:] == [2, 2]
        finally:
            conn.execute("UPDATE shards SET dsn = %s WHERE name = 'main'", found)


def test_an_isolation_level_holds_unless_a_transaction_says_another(house: House) -> None:
    with Router(house.settings, parameters={"default_transaction_isolation": "serializable"}) as router:
        for _ in range(2):
            with router.tenant_scope("pooled-a"), router.transaction() as conn:
                assert conn.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
        with router.tenant_scope("pooled-a"), router.transaction() as conn:
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            assert conn.execute("SHOW transaction_isolation").fetchone() == ("repeatable read",)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("search_path", "each binding sets it"),
        ("SEARCH_PATH", "each binding sets it"),
        ("role", "each binding sets its own"),
        ("session_authorization", "each binding sets its own"),
        ("backtrace_functions", "each binding sets its own"),
        ("tenantry.seal", "each binding sets its own"),
        ("Tenantry.x", "each binding sets its own"),
        ("row_security", "always on"),
        ("statement_timeout", "tenantry plan change"),
        ("default_transaction_read_only", "mode='ro'"),
        ("options", "one by one"),
        ("session_preload_libraries", "one of application_name"),
        ("TimeZone = 'UTC' -c search_path", "one of application_name"),
        ("TimeZon\u0130", "one of application_name"),
        ("", "one of application_name"),
        (7, "one of application_name"),
    ],
)
def test_what_could_undo_a_binding_or_is_unknown_is_refused(name: Any, hint: str) -> None:
    with pytest.raises(InvalidSettings, match="is not taken") as caught:
        checked({name: "x"}, pooler=False)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("value", ["a\nb", "a\0b", 7, None, b"x", ["x"]])
def test_a_value_that_no_parameter_can_have_is_refused(value: Any) -> None:
    with pytest.raises(InvalidSettings, match="'TimeZone' can't be"):
        checked({"timezone": value}, pooler=True)


def test_the_isolation_level_is_refused_behind_a_pooler(house: House) -> None:
    with pytest.raises(InvalidSettings, match="is not taken") as caught:
        Router(
            house.settings.model_copy(update={"pooler": True}),
            parameters={"default_transaction_isolation": "serializable"},
        )
    assert "where it begins" in str(caught.value.hint)


async def test_a_value_that_the_server_refuses_is_named(settings: Settings) -> None:
    async with AsyncRouter(settings, parameters={"TimeZone": "Mars"}) as router, router.tenant_scope("pooled-a"):
        with pytest.raises((ServerUnreachable, psycopg.errors.InvalidParameterValue), match='"TimeZone": "Mars"') as it:
            await by_router(router, SHOW)
        assert not isinstance(it.value, ServerUnreachable) or "'parameters'" in str(it.value.hint)


def test_they_stand_in_the_settings_and_the_router_s_own_win(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tenantry.toml"
    dsn = house.settings.catalog_dsn.replace("\\", "\\\\").replace('"', '\\"')
    file.write_text(f'catalog = "{dsn}"\n[parameters]\nTimeZone = "Asia/Tokyo"\nDateStyle = "German"\n')
    monkeypatch.setenv("TENANTRY_CONFIG", str(file))
    router = Router(load(), parameters={"timezone": "Europe/Paris"})
    assert router.parameters == {"TimeZone": "Europe/Paris", "DateStyle": "German"}
    monkeypatch.setenv("TENANTRY_PARAMETERS", '{"jit": "off"}')
    assert Router(load()).parameters["jit"] == "off"
    monkeypatch.setenv("TENANTRY_PARAMETERS", '{"search_path": "evil"}')
    with pytest.raises(InvalidSettings, match="'search_path' is not taken"):
        Router(load())


def test_whatever_is_taken_is_known_to_the_server_and_the_application_may_set_it(house: House) -> None:
    tenant = house.tenants["pooled-a"]
    assert tenant.placement
    with psycopg.connect(house.servers[0].dsn(tenant.placement.database)) as conn:
        rows = conn.execute(
            "SELECT name FROM pg_settings WHERE context = 'user' AND name = ANY (%s)", (list(TAKEN.values()),)
        )
        assert {name for (name,) in rows} == set(TAKEN.values())
