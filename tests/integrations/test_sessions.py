"""Parameters of sessions under SQLAlchemy hold with each driver, although bindings clear what was set with SET."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import JSON, Column, Engine, Integer, MetaData, Table, bindparam, event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tenantry import AsyncRouter, Router
from tenantry.integrations.sqlalchemy import create_async_engine, create_engine
from tenantry.routing.sessions import as_options, start_options
from tests.fixtures.house import House

pytestmark = pytest.mark.anyio

SLUGS = ("pooled-a", "schema-a", "database-a")
SHOW = text(
    "SELECT current_setting('timezone'), to_char('2026-07-01 12:00+00'::timestamptz, 'HH24:MI'),"
    " current_setting('application_name'), current_setting('geqo')"
)
SET = "SELECT set_config('timezone', 'Europe/Berlin', false), set_config('application_name', 'a b\\c', false)"
ARGUMENTS: dict[str, dict[str, Any]] = {
    "psycopg": {"options": "-c geqo=off"},
    "asyncpg": {"server_settings": {"geqo": "off"}},
}
EXPECTED = ("Europe/Berlin", "14:00", "a b\\c", "off")


@pytest.fixture
def narrow(house: House) -> Any:
    """All transactions of a database run on one connection."""
    return house.settings.model_copy(update={"pool_size": 1})


@pytest.fixture
def engine(narrow: Any) -> Iterator[Engine]:
    """An engine for threads."""
    with Router(narrow) as router:
        made = create_engine(router, connect_args=ARGUMENTS["psycopg"])
        yield made
        made.dispose()


@pytest.fixture(params=["psycopg", "asyncpg"])
async def async_engine(request: pytest.FixtureRequest, narrow: Any) -> AsyncIterator[AsyncEngine]:
    """An engine for tasks, with each driver."""
    async with AsyncRouter(narrow) as router:
        made = create_async_engine(router, driver=request.param, connect_args=ARGUMENTS[request.param])
        yield made
        await made.dispose()


def set_by_library(engine: Engine, *, commit: bool = False, sql: str = SET) -> list[Any]:
    """What libraries do; returns the connections as they are made."""
    made: list[Any] = []

    def connected(connection: Any, record: Any) -> None:
        made.append(connection)
        cursor = connection.cursor()
        cursor.execute(sql)
        cursor.close()
        if commit:
            connection.commit()

    event.listen(engine, "connect", connected)
    return made


@pytest.mark.parametrize("commit", [True, False])
def test_what_a_listener_sets_holds_for_every_transaction(engine: Engine, commit: bool) -> None:
    made = set_by_library(engine, commit=commit)
    router: Router = engine.pool.router  # type: ignore[attr-defined]
    for slug in SLUGS * 2:
        with router.tenant_scope(slug), engine.connect() as conn:
            assert tuple(conn.execute(SHOW).one()) == EXPECTED
            conn.execute(text("SET timezone = 'Asia/Tokyo'"))
            conn.commit()
    assert len(made) == 2 + 1, "the first connection was made twice"
    ledger = router.pools.ledger
    assert ledger.idle == len(ledger) == 2


@pytest.mark.parametrize("commit", [True, False])
async def test_what_a_listener_sets_holds_for_every_transaction_of_tasks(
    async_engine: AsyncEngine, commit: bool
) -> None:
    made = set_by_library(async_engine.sync_engine, commit=commit)
    router: AsyncRouter = async_engine.pool.router  # type: ignore[attr-defined]
    for slug in SLUGS * 2:
        async with router.tenant_scope(slug), async_engine.connect() as conn:
            assert tuple((await conn.execute(SHOW)).one()) == EXPECTED
            await conn.execute(text("SET timezone = 'Asia/Tokyo'"))
            await conn.commit()
    assert len(made) == 2 + 1
    ledger = router.pools.ledger
    assert ledger.idle == len(ledger) == 2


async def test_a_search_path_that_a_listener_sets_is_not_silently_ignored(
    async_engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    set_by_library(async_engine.sync_engine, sql="SET search_path = pg_catalog", commit=True)
    router: AsyncRouter = async_engine.pool.router  # type: ignore[attr-defined]
    async with router.tenant_scope("schema-a") as tenant, async_engine.connect() as conn:
        assert tenant.placement
        assert await conn.scalar(text("SELECT current_schema()")) == tenant.placement.schema
    assert "search_path" in caplog.text


async def test_a_search_path_is_added_when_a_transaction_begins(async_engine: AsyncEngine) -> None:
    @event.listens_for(async_engine.sync_engine, "begin")
    def begin(conn: Any) -> None:
        conn.exec_driver_sql("SELECT set_config('search_path', current_setting('search_path') || ', pg_catalog', true)")

    router: AsyncRouter = async_engine.pool.router  # type: ignore[attr-defined]
    for slug in SLUGS:
        async with router.tenant_scope(slug) as tenant, async_engine.connect() as conn:
            assert tenant.placement
            path = await conn.scalar(text("SHOW search_path"))
            assert path == f"{tenant.placement.schema}, pg_temp, pg_catalog"


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_isolation_of_the_engine_and_codecs_of_json_hold(narrow: Any, driver: str) -> None:
    seen: list[object] = []

    def load(value: Any) -> Any:
        seen.append(value)
        return json.loads(value)

    payload = {"a": [1, None, "ü"]}
    table = Table("t", MetaData(), Column("id", Integer), Column("j", JSON))
    async with AsyncRouter(narrow) as router:
        engine = create_async_engine(
            router, driver=driver, isolation_level="SERIALIZABLE", json_deserializer=load, json_serializer=json.dumps
        )
        for slug in ("pooled-a", "schema-a", "pooled-a"):
            async with router.tenant_scope(slug), engine.connect() as conn:
                assert await conn.scalar(text("SHOW transaction_isolation")) == "serializable"
                sent = bindparam("p", payload, type_=table.c.j.type)
                assert await conn.scalar(select(sent)) == payload
        assert len(seen) == 3
        await engine.dispose()


async def test_codecs_of_asyncpg_are_set_as_sqlalchemy_documents_it(narrow: Any) -> None:
    async with AsyncRouter(narrow) as router:
        engine = create_async_engine(router, driver="asyncpg")

        @event.listens_for(engine.sync_engine, "connect")
        def connected(connection: Any, record: Any) -> None:
            connection.run_async(
                lambda driver: driver.set_type_codec(
                    "int4", schema="pg_catalog", encoder=str, decoder=lambda v: f"<{v}>"
                )
            )

        for slug in ("pooled-a", "pooled-b"):
            async with router.tenant_scope(slug), engine.connect() as conn:
                assert await conn.scalar(text("SELECT 7::int4")) == "<7>"
        assert len(router.pools.ledger) == 1
        await engine.dispose()


def test_options_of_the_dsn_the_arguments_and_the_learned_are_all_kept() -> None:
    found = start_options("host=x options='-c a=1'", {"options": "-c b=2", "prepare_threshold": 1}, {"c": "3 4"})
    assert found == {"options": "-c a=1 -c b=2 -c c=3\\ 4", "prepare_threshold": 1}
    assert start_options("host=x", {}, {}) == {}
    assert start_options("host=x application_name=a", {}, {"application_name": "b c"}) == {"application_name": "b c"}


@given(st.dictionaries(st.sampled_from(["a", "b.c"]), st.text(st.characters(codec="ascii", exclude_characters="\0"))))
def test_options_are_read_as_they_were_written(settings: Mapping[str, str]) -> None:
    assert dict(each.removeprefix("-c ").split("=", 1) for each in split(as_options(settings))) == settings


def split(options: str) -> list[str]:
    """As the server does (pg_split_opts); each -c is kept with what follows it."""
    words: list[str] = []
    word, skip = "", False
    for each in options:
        if skip:
            word, skip = word + each, False
        elif each == "\\":
            skip = True
        elif each.isspace():
            words.append(word)
            word = ""
        else:
            word += each
    if options:
        words.append(word)
    return [f"{flag} {value}" for flag, value in zip(words[::2], words[1::2], strict=True)]
