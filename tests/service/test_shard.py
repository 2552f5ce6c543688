"""Taking servers in as shards: one shard a server, one house a server, and nothing is left of what was refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tenantry import AsyncRouter
from tenantry.errors import Conflict, InvalidInput, NoCapacity, ServerUnreachable, TenantryError
from tenantry.model import BindingMode, Shard
from tenantry.placements.database import TEMPLATE_DATABASE
from tenantry.postgres.connect import merge_dsn
from tenantry.postgres.server import LocalServer
from tenantry.service import house as houses
from tenantry.service import shard, tenant
from tenantry.service.control import Control
from tenantry.settings import Settings
from tests.fixtures.house import House, MakeHouse
from tests.operations.invariants import catalog

pytestmark = pytest.mark.anyio

ROLES = ("tenantry_app", "tenantry_admin", "tenantry_operator", "tenantry_owner", "tenantry_sec", "tenantry_seek")


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    made = make_house()
    for level in ("pooled", "database"):
        made.tenants[level] = made.create(f"{level}-a", isolation=level)
    return made


@pytest.fixture
def unused(house: House, second_server: LocalServer) -> Iterator[str]:
    """The DSN of a server that belongs to nobody, before and after the test."""
    forget(second_server)
    yield second_server.dsn(tcp=True)
    with catalog(house) as conn:
        conn.execute("DELETE FROM spaces WHERE shard <> 'main'")
        conn.execute("DELETE FROM shards WHERE name <> 'main'")
    forget(second_server)


def forget(server: LocalServer) -> None:
    """Take everything of all houses from a server."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        for name in databases(server):
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        if "tenantry_sec" in roles(server):
            conn.execute("REVOKE ALL ON PARAMETER backtrace_functions FROM tenantry_sec")
        for role in roles(server):
            conn.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role)))


def databases(server: LocalServer) -> list[str]:
    with psycopg.connect(server.dsn()) as conn:
        found = conn.execute("SELECT datname FROM pg_database WHERE datname !~ '^(postgres|template[01])$' ORDER BY 1")
        return [name for (name,) in found.fetchall()]


def roles(server: LocalServer) -> list[str]:
    with psycopg.connect(server.dsn()) as conn:
        return [
            name for (name,) in conn.execute("SELECT rolname FROM pg_roles WHERE rolname ~ '^tenantry_'").fetchall()
        ]


def names(house: House) -> list[tuple[str, str]]:
    """The shards and their states, as the catalog has them."""
    with catalog(house) as conn:
        return [(row["name"], row["state"]) for row in conn.execute("SELECT * FROM shards ORDER BY name").fetchall()]


async def add(house: House, name: str, dsn: str, **options: Any) -> Shard:
    async with house.control() as control:
        return await shard.add(control, name, dsn, **options)


async def works(house: House) -> bool:
    """Whether the application reaches its tenants on the first shard with new connections."""
    async with AsyncRouter(house.settings) as router:
        for each in house.tenants.values():
            async with router.tenant_scope(each), router.transaction() as conn:
                await conn.execute("INSERT INTO orders (note) VALUES ('works')")
    return True


async def test_a_server_becomes_a_shard_with_all_that_it_needs(
    house: House, unused: str, second_server: LocalServer
) -> None:
    made = await add(house, "second", unused, database="app_second")
    assert (made.name, made.state, made.binding, made.dedicated) == ("second", "open", BindingMode.SEALED, False)
    assert "password" not in made.dsn
    assert "user" not in made.dsn
    assert databases(second_server) == ["app_second", TEMPLATE_DATABASE]
    assert set(ROLES) == set(roles(second_server))


async def test_one_that_is_added_closed_takes_nobody_until_it_is_opened(house: House, unused: str) -> None:
    assert (await add(house, "second", unused, closed=True, dedicated=True)).state == "closed"
    async with house.control() as control:
        for level in ("pooled", "schema", "database"):
            with pytest.raises(NoCapacity, match="the shard 'second' is closed") as caught:
                await tenant.create(control, "early", isolation=level, shard="second")
            assert caught.value.hint == "run 'tenantry shard open second'"
        assert (await shard.open_(control, "second")).state == "open"
        assert (await shard.open_(control, "second")).state == "open"
        made = await tenant.create(control, "early", isolation="schema", shard="second")
        assert made.placement
        assert made.placement.shard == "second"
        await tenant.delete(control, "early", confirm="early", grace=0)


# Refused


async def test_a_name_is_one_shards(house: House, unused: str, second_server: LocalServer) -> None:
    with pytest.raises(Conflict, match="there is a shard 'main' already"):
        await add(house, "main", unused)
    assert names(house) == [("main", "open")]
    assert databases(second_server) == roles(second_server) == []
    assert await works(house)


async def test_of_two_that_take_a_name_at_once_one_wins(house: House, unused: str) -> None:
    done = await asyncio.gather(*(add(house, "second", unused) for _ in range(2)), return_exceptions=True)
    won = [each for each in done if isinstance(each, Shard)]
    lost = [each for each in done if isinstance(each, Conflict)]
    assert (len(won), len(lost)) == (1, 1)
    assert names(house) == [("main", "open"), ("second", "open")]


@pytest.mark.parametrize("take_over", [False, True])
async def test_a_server_is_one_shard(house: House, take_over: bool) -> None:
    """A second one would give the roles new passwords, and lock the first one's applications out."""
    dsn = house.servers[0].dsn("template1", tcp=True)
    with pytest.raises(Conflict, match="the server is the shard 'main' already"):
        await add(house, "second", dsn, take_over=take_over, database="other")
    assert names(house) == [("main", "open")]
    assert "other" not in databases(house.servers[0])
    assert await works(house)


async def foreign_house(server: LocalServer, unused: str) -> None:
    """Another house on a server, with its catalog and a tenant in the database ``shop``."""
    dsn = server.dsn("catalog_other", tcp=True)
    await houses.create_database(dsn)
    async with Control(Settings(catalog=dsn, control=dsn)) as control:
        await houses.init(control)
        await shard.add(control, "theirs", unused, database="shop")
        await tenant.create(control, "theirs")


async def test_a_server_of_another_house_is_taken_only_when_told_to(
    house: House, unused: str, second_server: LocalServer
) -> None:
    await foreign_house(second_server, unused)
    before = databases(second_server)
    with pytest.raises(Conflict, match="the server belongs to another house") as caught:
        await add(house, "second", unused)
    assert caught.value.hint == "use another server, or --take-over"
    for database, what in (("shop", "holds tenants of another house"), ("catalog_other", "holds a catalog")):
        with pytest.raises(Conflict, match=f"the database '{database}' {what}"):
            await add(house, "second", unused, take_over=True, database=database)
    assert names(house) == [("main", "open")]
    assert databases(second_server) == before

    await add(house, "second", unused, take_over=True, database="app_second")
    async with house.control() as control:
        made = await tenant.create(control, "here", isolation="database", shard="second")
    async with AsyncRouter(house.settings) as router, router.tenant_scope(made), router.transaction() as conn:
        await conn.execute("INSERT INTO orders (note) VALUES ('here')")
    async with house.control() as control:
        await tenant.delete(control, "here", confirm="here", grace=0)


async def test_an_application_s_own_database_can_be_the_pooled_one(
    house: House, unused: str, second_server: LocalServer
) -> None:
    with psycopg.connect(second_server.dsn(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE shop")
    with psycopg.connect(second_server.dsn("shop"), autocommit=True) as conn:
        conn.execute("CREATE TABLE customs (id int); INSERT INTO customs VALUES (1)")
    await add(house, "second", unused, database="shop")
    async with house.control() as control:
        await tenant.create(control, "shop-a", shard="second")
        await tenant.delete(control, "shop-a", confirm="shop-a", grace=0)
    with psycopg.connect(second_server.dsn("shop"), autocommit=True) as conn:
        assert conn.execute("SELECT id FROM customs").fetchall() == [(1,)]


WRONG = {
    "no answer": ({"port": 1}, {}, "can't connect"),
    "password": ({"password": "guess"}, {}, "password authentication failed"),
    "database": ({"dbname": "nowhere"}, {}, 'database "nowhere" does not exist'),
    "user": ({"user": None}, {}, "the DSN names no user"),
    "binding": ({}, {"binding": "glued"}, "'glued' is not a binding mode"),
    "name of the database": ({}, {"database": "Shop; DROP"}, "is not a plain identifier for a database"),
    "a database that is copied": ({}, {"database": TEMPLATE_DATABASE}, "'tenantry_template' can't hold tenants"),
    "a system's database": ({}, {"database": "template1"}, "'template1' can't hold tenants"),
}


@pytest.mark.parametrize(("changes", "options", "message"), WRONG.values(), ids=WRONG)
async def test_what_can_t_be_taken_in_leaves_nothing_behind(
    house: House, unused: str, second_server: LocalServer, changes: dict[str, Any], options: Any, message: str
) -> None:
    with pytest.raises(TenantryError, match=message) as caught:
        await add(house, "second", merge_dsn(unused, **changes), **options)
    assert isinstance(caught.value, InvalidInput | ServerUnreachable)
    assert caught.value.hint
    assert "guess" not in f"{caught.value.as_dict()}"
    assert names(house) == [("main", "open")]
    assert databases(second_server) == roles(second_server) == []
    async with house.control() as control:
        assert await control.engine.unfinished() == []


@pytest.mark.parametrize("name", ["", "Second", "second shard", "2nd", "s" * 64, "ѕecond", "x'; --", None, 7])
async def test_a_name_has_a_form(house: House, unused: str, name: Any) -> None:
    with pytest.raises(InvalidInput, match="is not a name for a shard"):
        await add(house, name, unused)


@pytest.mark.parametrize("dsn", ["", "not a dsn", "postgresql://[", "mysql://root@localhost/x"])
async def test_a_dsn_that_is_none_is_not_repeated(house: House, dsn: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await add(house, "second", dsn)
    assert not dsn or dsn not in f"{caught.value.as_dict()}"
    assert names(house) == [("main", "open")]
