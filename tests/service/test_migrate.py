"""The application's migrations reach every home, whatever they are written with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tenantry import AsyncRouter, Tenant
from tenantry.errors import OperationFailed, ServerUnsuitable
from tenantry.placements.database import TEMPLATE_DATABASE
from tenantry.placements.space import Space
from tenantry.postgres.connect import merge_dsn
from tenantry.service import house as houses
from tenantry.service import perimeter, plan, tenant
from tenantry.service.control import Control
from tests.fixtures.house import House, MakeHouse, MakeOwn
from tests.fixtures.workers import Workers
from tests.operations.invariants import catalog, shard_database, violations
from tests.operations.recovery import recover
from tests.placements.applications import APPLICATIONS, CHANGES, ITEMS, NOTES, Application, SqlApplication

pytestmark = pytest.mark.anyio

LEVELS = ("pooled", "schema", "database")

MakeApplication = Callable[[str], Application]


@pytest.fixture
def make_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeApplication:
    """Makes an application with its first release."""
    monkeypatch.chdir(tmp_path)

    def make(kind: str) -> Application:
        made = APPLICATIONS[kind](tmp_path)
        made.release(ITEMS)
        return made

    return make


@pytest.fixture
def application(tmp_path: Path) -> SqlApplication:
    made = SqlApplication(tmp_path)
    made.release(ITEMS)
    return made


async def settle(house: House, *, second: bool = False) -> None:
    """A tenant at each level, one warm home at each level, and a row of each tenant."""
    async with house.control() as control, AsyncRouter(house.settings) as router:
        for level in LEVELS:
            await tenant.create(control, f"{level}-a", isolation=level, shard="main")
            if second:
                await tenant.create(control, f"{level}-b", isolation=level, shard="second")
        await plan.change(control, "business", warm=1)
        await plan.change(control, "enterprise", warm=1)
        await houses.refill(control)
        async for each in tenant.iterate(control):
            async with router.tenant_scope(each), router.transaction() as conn:
                await conn.execute("INSERT INTO items (name) VALUES (%s)", (each.slug,))


def spaces(house: House) -> list[dict[str, Any]]:
    """All spaces, with the DSN of each."""
    with catalog(house) as conn:
        found = conn.execute(
            "SELECT x.*, s.admin_dsn FROM spaces x JOIN shards s ON s.name = x.shard ORDER BY x.id"
        ).fetchall()
    return [{**row, "dsn": merge_dsn(row["admin_dsn"], dbname=row["database"])} for row in found]


def tables(house: House) -> dict[tuple[str, str, str], set[tuple[str, str, bool]]]:
    """Of each space that can be looked into: its tables, each with its owner and whether its wall is closed."""
    found = {}
    for space in spaces(house):
        if space["database"] == TEMPLATE_DATABASE:
            continue
        with shard_database(space["admin_dsn"], space["database"]) as conn:
            rows = conn.execute(
                "SELECT relname, pg_get_userbyid(relowner) AS owner, relrowsecurity AND relforcerowsecurity AND"
                " (SELECT count(*) = 2 FROM pg_policy WHERE polrelid = c.oid) AS walled"
                " FROM pg_class c WHERE relnamespace = %s::regnamespace AND relkind = 'r'",
                (space["schema"],),
            ).fetchall()
        found[space["shard"], space["database"], space["schema"]] = {
            (row["relname"], row["owner"], row["walled"]) for row in rows
        }
    return found


def columns(house: House, table: str) -> set[tuple[str, ...]]:
    """The columns that a table has: one tuple where all spaces agree."""
    found = set()
    for space in spaces(house):
        if space["database"] == TEMPLATE_DATABASE:
            continue
        with shard_database(space["admin_dsn"], space["database"]) as conn:
            rows = conn.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
                " ORDER BY attnum",
                (f"{space['schema']}.{table}",),
            ).fetchall()
        found.add(tuple(row["attname"] for row in rows))
    return found


async def migrate(house: House) -> str:
    async with house.control() as control:
        return await houses.migrate(control)


async def behind(house: House) -> list[str]:
    async with house.control() as control:
        return [space.name for space in await houses.behind(control)]


@pytest.mark.parametrize("kind", ["sql", "sqlalchemy", "alembic"])
async def test_a_new_release_reaches_every_home(
    make_own: MakeOwn, make_application: MakeApplication, kind: str
) -> None:
    application = make_application(kind)
    house = await make_own(template=application.spec, second=kind == "sql")
    await settle(house, second=kind == "sql")
    application.release(NOTES, *CHANGES)
    assert len(await behind(house)) == len(spaces(house)) >= 6  # pooled, template, two occupied, two warm
    assert await migrate(house) == "done"
    assert await behind(house) == []

    expected = {("items", "tenantry_owner", True), ("notes", "tenantry_owner", True)}
    for place, standing in tables(house).items():
        assert expected <= standing, place
        assert {owner for _, owner, _ in standing} == {"tenantry_owner"}, place
    async with house.control() as control, AsyncRouter(house.settings) as router:
        assert await perimeter.check(control) == []
        for level in LEVELS:  # the new ones come from the pool, then from the template
            await tenant.create(control, f"{level}-new", isolation=level)
            await tenant.create(control, f"{level}-newer", isolation=level)
        async for each in tenant.iterate(control):
            async with router.tenant_scope(each) as found, router.transaction() as conn:
                await conn.execute("INSERT INTO notes (body) VALUES ('new')")
                rows = await (await conn.execute("SELECT * FROM items, notes")).fetchall()
                name = None if "new" in each.slug else each.slug
                price = () if name is None or not application.alters else (len(name),)
                assert [row[2] for row in rows] == ([] if name is None else [name])
                assert all(row[0] == found.key and row[3 : 3 + len(price)] == price for row in rows)


@pytest.mark.parametrize("kind", ["alembic url", "alembic async"])
async def test_an_environment_that_connects_by_itself_reaches_the_right_home(
    make_own: MakeOwn, make_application: MakeApplication, kind: str
) -> None:
    application = make_application(kind)
    house = await make_own(template=application.spec)
    application.release(NOTES, *CHANGES)
    assert await migrate(house) == "done"
    async with house.control() as control:
        await tenant.create(control, "database-a", isolation="database")
    expected = {("items", "tenantry_owner", True), ("notes", "tenantry_owner", True)}
    assert all(expected <= standing for standing in tables(house).values())
    assert len(columns(house, "items")) == 1


class Counted:
    """A template that counts how often it is applied."""

    def __init__(self, control: Control) -> None:
        self._template = control.estate.template
        self.version = self._template.version
        self.applied: list[str] = []
        control.estate._template = self

    async def apply(self, dsn: str, schema: str) -> None:
        self.applied.append(schema)
        await self._template.apply(dsn, schema)


async def test_a_second_run_costs_one_comparison_for_each_home(make_own: MakeOwn, application: SqlApplication) -> None:
    house = await make_own(template=application.spec, second=True)
    await settle(house)
    application.release(NOTES)
    async with house.control() as control:
        counted = Counted(control)
        assert await houses.migrate(control) == "done"
        assert len(counted.applied) == len(spaces(house))
        counted.applied.clear()
        assert await houses.migrate(control) == "done"
        assert counted.applied == []


UNIQUE = "CREATE UNIQUE INDEX items_name ON items (tenant_id, name)"


async def add_item(house: House, slug: str, name: str) -> None:
    async with AsyncRouter(house.settings) as router, router.tenant_scope(slug), router.transaction() as conn:
        await conn.execute("INSERT INTO items (name) VALUES (%s)", (name,))


async def test_a_home_where_it_fails_is_named_with_the_statement_and_keeps_no_other_from_it(
    make_own: MakeOwn, application: SqlApplication
) -> None:
    house = await make_own(template=application.spec)
    await settle(house)
    await add_item(house, "schema-a", "schema-a")
    application.release(NOTES, UNIQUE)
    with pytest.raises(OperationFailed, match="1 space could not be migrated, the others were") as caught:
        await migrate(house)
    with catalog(house) as conn:
        row = conn.execute(
            "SELECT shard || '/' || database || '/' || schema AS name FROM spaces x"
            " JOIN placements p ON p.space = x.id JOIN tenants t ON t.id = p.tenant WHERE slug = 'schema-a'"
        ).fetchone()
    assert row is not None
    assert caught.value.where == row["name"]
    assert UNIQUE in caught.value.message
    assert "items_name" in caught.value.message
    assert "0002_release" in caught.value.message
    assert await behind(house) == [row["name"]]
    with catalog(house) as conn:
        operation = conn.execute("SELECT state, error FROM operations WHERE kind = 'migrate'").fetchone()
    assert operation is not None
    assert operation["state"] == "undone"
    assert operation["error"]["where"] == row["name"]

    async with AsyncRouter(house.settings) as router, router.tenant_scope("schema-a"), router.transaction() as conn:
        await conn.execute("DELETE FROM items WHERE id = (SELECT max(id) FROM items)")  # its tables work as before
    async with house.control() as control:
        counted = Counted(control)
        assert await houses.migrate(control) == "done"
        assert len(counted.applied) == 1
    assert await behind(house) == []


async def test_what_fails_in_an_empty_home_is_not_tried_on_a_tenant(
    make_own: MakeOwn, application: SqlApplication
) -> None:
    house = await make_own(template=application.spec)
    await settle(house)
    application.release(NOTES, "SELECT nothing FROM items")
    async with house.control() as control:
        counted = Counted(control)
        with pytest.raises(OperationFailed, match="nothing") as caught:
            await houses.migrate(control)
        assert len(counted.applied) == 1
    assert caught.value.where == f"main/{TEMPLATE_DATABASE}/public"
    (application.folder / "0002_release.sql").write_text(NOTES)
    assert await migrate(house) == "done"


async def test_rows_of_all_tenants_can_be_changed_by_a_migration_and_by_nobody_else(
    make_own: MakeOwn, application: SqlApplication
) -> None:
    house = await make_own(template=application.spec)
    await settle(house)
    application.release(
        "CREATE FUNCTION note_price() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN NEW.name := NEW.name || 1; RETURN NEW; END'",
        "CREATE TRIGGER note_price BEFORE UPDATE ON items FOR EACH ROW EXECUTE FUNCTION note_price()",
        "CREATE FUNCTION everything() RETURNS bigint SECURITY DEFINER SET search_path FROM CURRENT"
        " LANGUAGE sql RETURN (SELECT count(*) FROM items)",
        "CREATE TYPE colour AS ENUM ('red')",
        "UPDATE items SET name = name",
    )
    await migrate(house)
    async with AsyncRouter(house.settings) as router:
        for slug in ("pooled-a", "schema-a", "database-a"):
            async with router.tenant_scope(slug), router.transaction() as conn:
                rows = await (await conn.execute("SELECT name, everything() FROM items")).fetchall()
                assert rows == [(f"{slug}1", 1)]  # the function is the owner's, who is bound by the policies
    for space in spaces(house):
        if space["database"] != TEMPLATE_DATABASE:
            with psycopg.connect(space["dsn"]) as admin:
                assert owned_by_admin(admin) == 0


def owned_by_admin(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute(
        "SELECT count(*) FROM pg_shdepend WHERE refobjid = 'tenantry_admin'::regrole AND deptype = 'o'"
        " AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
    ).fetchone()
    assert row is not None
    return int(row[0])


FORBIDDEN = {
    "CREATE ROLE boss": "permission denied to create role",
    "CREATE EXTENSION plperlu": "plperlu",
    "CREATE SCHEMA other": "permission denied for database",
    "DELETE FROM tenantry_priv.signing_keys": "permission denied",
    "ALTER SYSTEM SET work_mem = '1GB'": "ALTER SYSTEM",
    "COPY items FROM PROGRAM 'id'": "permission denied",
    "SET ROLE postgres": "permission denied to set role",
    "SET ROLE tenantry_sec": "permission denied to set role",
}


@pytest.mark.parametrize(("statement", "message"), FORBIDDEN.items())
async def test_a_migration_may_not_do_more_than_the_owner_of_the_tables(
    make_own: MakeOwn, application: SqlApplication, statement: str, message: str
) -> None:
    house = await make_own(template=application.spec)
    application.release(statement)
    with pytest.raises(OperationFailed, match=message) as caught:
        await migrate(house)
    assert "0002_release" in caught.value.message
    assert statement in caught.value.message


def home(found: Tenant) -> tuple[str, str, str]:
    assert found.placement is not None
    return found.placement.shard, found.placement.database, found.placement.schema


# While something else happens


async def latest(house: House) -> str:
    async with house.control() as control:
        return control.estate.template.version()


@pytest.mark.parametrize("level", ["schema", "database"])
async def test_a_home_that_was_begun_before_a_release_is_finished_after_it(
    make_own: MakeOwn, application: SqlApplication, workers: Workers, level: str
) -> None:
    house = await make_own(template=application.spec)
    killed = await asyncio.to_thread(
        workers.run, house, "create", "new", isolation=level, events=[("build", "acted", "kill")]
    )
    assert killed.killed
    application.release(NOTES)
    await asyncio.to_thread(recover, house)
    place = next(space for space in spaces(house) if space["state"] == "occupied")
    assert place["template"] == await latest(house)
    assert {"items", "notes"} <= {name for name, _, _ in tables(house)["main", place["database"], place["schema"]]}


@pytest.mark.parametrize("kind", ["sql", "alembic"])
async def test_two_runs_at_once_do_each_thing_once(
    make_own: MakeOwn, make_application: MakeApplication, kind: str
) -> None:
    application = make_application(kind)
    house = await make_own(template=application.spec)
    application.release(NOTES, *CHANGES)
    assert set(await asyncio.gather(migrate(house), migrate(house))) == {"done"}
    assert await behind(house) == []


async def test_a_home_is_migrated_by_one_at_a_time(make_own: MakeOwn, application: SqlApplication) -> None:
    house = await make_own(template=application.spec)
    application.release(NOTES)
    entered = asyncio.Event()
    tasks: list[asyncio.Task[Any]] = []
    async with house.control() as control, house.control() as other:
        space = Space.of((await control.store.fetch("pooled_space", ("main",)))[0])

        async def start_another() -> None:
            tasks.append(asyncio.create_task(other.estate.bring_up(space)))
            async with control.estate.root("main") as conn:
                query = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                while not entered.is_set() and not await (await conn.execute(query)).fetchall():
                    await asyncio.wait(tasks, timeout=0.01)
            assert not entered.is_set()

        async def enter() -> None:
            entered.set()

        Meanwhile(control, start_another)
        Meanwhile(other, enter)
        await control.estate.bring_up(space)
        await tasks[0]
    assert entered.is_set()


class Meanwhile:
    """A template that does something else before, or after, it is applied for the first time, or for another one."""

    def __init__(
        self,
        control: Control,
        before: Callable[[], Awaitable[Any]] | None = None,
        after: Callable[[], Awaitable[Any]] | None = None,
        time: int = 1,
    ) -> None:
        self._template = control.estate.template
        self.version = self._template.version
        self._before, self._after = before, after
        self._left = time
        control.estate._template = self

    async def apply(self, dsn: str, schema: str) -> None:
        self._left -= 1
        now = self._left == 0
        if now and self._before is not None:
            await self._before()
        await self._template.apply(dsn, schema)
        if now and self._after is not None:
            await self._after()


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_release_that_comes_while_a_home_is_built_is_not_missed(
    make_own: MakeOwn, application: SqlApplication, moment: str
) -> None:
    house = await make_own(template=application.spec)

    async def release() -> None:
        application.release(NOTES)

    async with house.control() as control:
        Meanwhile(control, *([release] if moment == "before" else [None, release]))
        await tenant.create(control, "schema-a", isolation="schema")
    assert len(await behind(house)) == len(spaces(house))
    assert await migrate(house) == "done"
    assert all("notes" in {name for name, _, _ in names} for names in tables(house).values())


@pytest.mark.parametrize("level", ["schema", "database"])
async def test_a_tenant_that_is_deleted_meanwhile_is_not_missed(
    make_own: MakeOwn, application: SqlApplication, level: str
) -> None:
    house = await make_own(template=application.spec)
    await settle(house)
    application.release(NOTES)

    async def delete() -> None:
        async with house.control() as other:
            await tenant.delete(other, f"{level}-a", confirm=f"{level}-a", grace=0)

    async with house.control() as control:
        rows = await control.store.fetch("spaces")
        Meanwhile(control, delete, time=2)  # the first one is the template database, the second one the pooled space
        assert await houses.migrate(control) == "done"
    assert len(spaces(house)) == len(rows) - 1
    assert await behind(house) == []


async def test_a_shard_that_is_away_keeps_no_other_from_it(make_own: MakeOwn, application: SqlApplication) -> None:
    house = await make_own(template=application.spec, second=True)
    application.release(NOTES)
    with catalog(house) as conn:
        there = conn.execute("SELECT admin_dsn, dsn FROM shards WHERE name = 'second'").fetchone()
        assert there is not None
        away = [merge_dsn(dsn, port=1) for dsn in there.values()]
        conn.execute("UPDATE shards SET admin_dsn = %s, dsn = %s WHERE name = 'second'", away)
        with pytest.raises(OperationFailed, match="2 spaces could not be migrated, the others were: can't connect"):
            await migrate(house)
        assert {name.split("/")[0] for name in await behind(house)} == {"second"}
        conn.execute("UPDATE shards SET admin_dsn = %s, dsn = %s WHERE name = 'second'", list(there.values()))
    await asyncio.to_thread(recover, house)  # a worker tries again
    assert await behind(house) == []


async def test_a_process_of_an_older_release_spoils_nothing(make_own: MakeOwn, application: SqlApplication) -> None:
    house = await make_own(template=application.spec)
    application.release(NOTES)
    await migrate(house)
    newest = application.folder / "0002_release.sql"
    text = newest.read_text()
    newest.unlink()
    async with house.control() as control:
        await tenant.create(control, "schema-a", isolation="schema")
        with pytest.raises(ServerUnsuitable, match="at migration 2, which this version does not know"):
            await tenant.create(control, "database-a", isolation="database")
        assert [each.slug async for each in tenant.iterate(control)] == ["schema-a"]
    newest.write_text(text)
    assert len(await behind(house)) == 1
    assert await migrate(house) == "done"
    assert violations(house) == []


async def test_a_home_of_another_release_is_not_handed_out_before_it_is_migrated(
    make_own: MakeOwn, application: SqlApplication
) -> None:
    house = await make_own(template=application.spec)
    async with house.control() as control:
        await plan.change(control, "business", warm=1)
        await plan.change(control, "enterprise", warm=1)
        await houses.refill(control)
        stale = warm_homes(house)
        application.release(NOTES)
        made = [await tenant.create(control, f"new-{level}", isolation=level) for level in ("schema", "database")]
        assert not {home(each) for each in made} & stale
        assert await houses.refill(control) == 2  # the pools have none of this release
        assert await houses.migrate(control) == "done"
        assert warm_homes(house) > stale
        made += [
            await tenant.create(control, f"{name}-{level}", isolation=level)
            for level in ("schema", "database")
            for name in ("newer", "newest")
        ]
        assert {home(each) for each in made} >= stale
        assert not warm_homes(house)
    async with AsyncRouter(house.settings) as router:
        for each in made:
            async with router.tenant_scope(each), router.transaction() as conn:
                await conn.execute("INSERT INTO notes (body) VALUES ('here')")
    assert violations(house) == []


def warm_homes(house: House) -> set[tuple[str, str, str]]:
    with catalog(house) as conn:
        rows = conn.execute("SELECT * FROM spaces WHERE state = 'ready' AND isolation <> 'pooled'").fetchall()
    return {(row["shard"], row["database"], row["schema"]) for row in rows}


# The template database


async def test_the_template_database_of_another_house_is_not_used(
    make_own: MakeOwn, make_house: MakeHouse, tmp_path: Path, application: SqlApplication
) -> None:
    await make_own(template=application.spec)
    (tmp_path / "other").mkdir()
    other = SqlApplication(tmp_path / "other")
    other.release(NOTES)
    house = await asyncio.to_thread(make_house, template=other.spec)
    async with house.control() as control:
        await tenant.create(control, "database-a", isolation="database")
    found = {name for standing in tables(house).values() for name, _, _ in standing}
    assert found == {"notes", "tenantry_migrations"}


async def test_a_template_database_that_was_dropped_by_hand_is_made_anew(
    make_own: MakeOwn, application: SqlApplication
) -> None:
    house = await make_own(template=application.spec)
    with psycopg.connect(house.servers[0].dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(TEMPLATE_DATABASE)))
    async with house.control() as control:
        await tenant.create(control, "database-a", isolation="database")
    assert violations(house) == []
    assert len(columns(house, "items")) == 1


async def test_nobody_can_connect_to_the_template_database(make_own: MakeOwn, application: SqlApplication) -> None:
    house = await make_own(template=application.spec)
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        psycopg.connect(house.servers[0].dsn(TEMPLATE_DATABASE))


# Extensions


async def test_a_trusted_extension_can_be_made_where_the_owner_may_create(
    make_own: MakeOwn, application: SqlApplication
) -> None:
    house = await make_own(template=application.spec)
    await settle(house)
    statements = (
        "CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public",
        "CREATE INDEX items_trgm ON items USING gin (name public.gin_trgm_ops)",
    )
    application.release(*statements)
    with pytest.raises(OperationFailed, match="permission denied to create extension"):
        await migrate(house)
    with psycopg.connect(house.servers[0].dsn(), autocommit=True) as conn:
        for database in {space["database"] for space in spaces(house)}:
            grant = sql.SQL("GRANT CREATE ON DATABASE {} TO tenantry_owner")
            conn.execute(grant.format(sql.Identifier(database)))
    assert await migrate(house) == "done"
    async with house.control() as control, AsyncRouter(house.settings) as router:
        assert all(not section.plan.changes for section in await perimeter.plan(control))  # the wall lets it be
        await tenant.create(control, "schema-new", isolation="schema")
        await tenant.create(control, "database-new", isolation="database")
        for slug in ("pooled-a", "schema-a", "schema-new", "database-new"):
            async with router.tenant_scope(slug), router.transaction() as bound:
                await bound.execute("SELECT FROM items WHERE name LIKE '%new%'")
