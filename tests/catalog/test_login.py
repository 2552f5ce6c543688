"""What somebody can do who has stolen the application's login to the catalog: read what it is for, and little else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from uuid import uuid4

import psycopg
import pytest

from tenantry.catalog.listen import CHANNEL
from tenantry.catalog.store import SCHEMA
from tenantry.catalog.view import CatalogView
from tenantry.postgres.connect import merge_dsn
from tenantry.postgres.server import LocalServer
from tenantry.service import house as houses
from tenantry.service.control import Control
from tenantry.settings import Settings
from tests.catalog.conftest import LISTENING, Catalog, Events
from tests.fixtures.servers import fresh_database

SECRETS = {what: f"{what}{uuid4().hex}" for what in ("admindsn", "adminpassword", "operatorpassword")}
OPEN = {"house", "plans", "domains", "replicas", "library_shards", "library_keys", "library_tenants"}
"""What the login is there to read."""


@pytest.fixture(scope="module")
def catalog(server: LocalServer) -> Iterator[Catalog]:
    """In place of the plain one: made as operators make it, with the login that ``tenantry init`` makes."""
    with fresh_database(server) as database:
        dsn = database.dsn(tcp=True)

        async def build() -> str:
            await houses.create_database(dsn)
            async with Control(Settings(catalog=dsn, control=dsn), actor="test") as control:
                await houses.init(control)
                return await houses.renew_login(control)

        login = psycopg.conninfo.conninfo_to_dict(asyncio.run(build()))
        catalog = Catalog(database, str(login["user"]), str(login["password"]))
        catalog.run(
            "INSERT INTO shards (name, dsn, admin_dsn, binding) VALUES ('main', 'host=db', %s, 'sealed')",
            SECRETS["admindsn"],
        )
        catalog.run(
            "INSERT INTO credentials (shard, role, password) VALUES ('main', 'tenantry_admin', %s),"
            " ('main', 'tenantry_app', 'application'), ('main', 'tenantry_operator', %s)",
            SECRETS["adminpassword"],
            SECRETS["operatorpassword"],
        )
        catalog.run(
            "INSERT INTO spaces (shard, database, schema, isolation, state)"
            " VALUES ('main', 'app', 'public', 'pooled', 'ready')"
        )
        catalog.run(
            "INSERT INTO signing_keys (kid, key, state, not_after) VALUES"
            " ('old', sha256('old'), 'retiring', now()), ('new', sha256('new'), 'pending', now() + '90 days')"
        )
        catalog.run("INSERT INTO audit_log (actor, action, subject) VALUES ('ada', 'secret deed', 'acme')")
        catalog.add_tenant("acme")
        yield catalog


@pytest.fixture
def thief(catalog: Catalog) -> Iterator[psycopg.Connection]:
    with psycopg.connect(merge_dsn(catalog.dsn, options=f"-c search_path={SCHEMA}"), autocommit=True) as conn:
        yield conn


@contextmanager
def refused() -> Iterator[None]:
    """Not allowed, or no such thing as changing a view that joins."""
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
        yield


def test_it_reads_exactly_what_it_is_there_to_read(catalog: Catalog, thief: psycopg.Connection) -> None:
    relations = catalog.run(
        "SELECT relname, relkind FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'v', 'S')",
        SCHEMA,
    )
    assert {name for name, _ in relations} >= OPEN
    for name, kind in relations:
        query = f"SELECT last_value FROM {name}" if kind == "S" else f"SELECT * FROM {name}"
        if name in OPEN:
            thief.execute(query).fetchall()
        else:
            with refused():
                thief.execute(query)


def test_no_column_of_it_holds_what_opens_every_door(thief: psycopg.Connection) -> None:
    seen = [repr(thief.execute(f"SELECT * FROM {name}").fetchall()) for name in sorted(OPEN)]
    for secret in [*SECRETS.values(), "secret deed"]:
        assert secret not in "".join(seen)
    [(role, password)] = thief.execute("SELECT role, password FROM library_shards").fetchall()
    assert (role, password) == ("tenantry_app", "application")
    assert thief.execute("SELECT state FROM library_keys").fetchall() == [("active",)]


READS = {
    "the operators' DSN": "SELECT admin_dsn FROM shards",
    "one column of it": "SELECT count(admin_dsn) FROM shards",
    "by a copy": "COPY shards TO STDOUT",
    "to decide on rows": "SELECT name FROM plans WHERE EXISTS (SELECT FROM credentials WHERE password > 'm')",
    "by a lock": "LOCK TABLE tenants IN ACCESS SHARE MODE",
    "by a sample": "SELECT * FROM signing_keys TABLESAMPLE SYSTEM (100)",
    "the next key": "SELECT nextval('tenant_keys')",
    "its statistics": "SELECT stavalues1 FROM pg_statistic",
    "passwords of the server": "SELECT rolpassword FROM pg_authid",
    "a file": "SELECT pg_read_file('/etc/passwd')",
    "a file, into a large object": "SELECT lo_import('/etc/passwd')",
    "a program": "COPY plans TO PROGRAM 'cat'",
    "a file by a copy": "COPY (SELECT 1) TO '/tmp/x'",
    "the server's log": "SELECT pg_current_logfile(), pg_ls_logdir()",
    "changes, by a slot": "SELECT pg_create_logical_replication_slot('thief', 'test_decoding')",
}
WRITES = {
    **{
        f"{verb} {name}": statement.format(name=name)
        for name in ("house", "plans", "domains", "tenants", "library_keys", "library_shards", "library_tenants")
        for verb, statement in {
            "delete from": "DELETE FROM {name}",
            "truncate": "TRUNCATE {name}",
            "insert into": "INSERT INTO {name} DEFAULT VALUES",
        }.items()
        if not (verb == "truncate" and name.startswith("library"))
    },
    "move a tenant": "UPDATE placements SET epoch = epoch + 1",
    "resume a tenant": "UPDATE tenants SET state = 'active'",
    "redirect a shard": "UPDATE library_shards SET dsn = 'host=evil'",
    "lock a row": "SELECT * FROM house FOR UPDATE",
    "lock out others": "LOCK TABLE house IN ACCESS EXCLUSIVE MODE",
    "forge the log": "INSERT INTO audit_log (actor, action, subject) VALUES ('ada', 'x', 'y')",
    "make a table": "CREATE TABLE evil ()",
    "make a table elsewhere": "CREATE TABLE public.evil ()",
    "make a temporary table": "CREATE TEMP TABLE evil ()",
    "make a schema": "CREATE SCHEMA evil",
    "make a view": "CREATE VIEW evil AS SELECT 1",
    "make a function": "CREATE FUNCTION evil() RETURNS int LANGUAGE sql RETURN 1",
    "make an operator": "CREATE OPERATOR public.<<<< (FUNCTION = texteq, LEFTARG = text, RIGHTARG = text)",
    "drop an extension": "DROP EXTENSION plpgsql",
    "make a role": "CREATE ROLE evil",
    "make a database": "CREATE DATABASE evil",
    "make a publication": "CREATE PUBLICATION evil FOR ALL TABLES",
    "change a trigger": "ALTER TABLE tenants DISABLE TRIGGER ALL",
    "replace a function": "ALTER FUNCTION announce_new() RENAME TO announce_old",
    "pass rights on": "GRANT tenantry_library TO tenantry_reader WITH ADMIN OPTION",
    "become the owner": "SET ROLE postgres",
    "become an operator": "SET SESSION AUTHORIZATION postgres",
    "raise itself": "ALTER ROLE CURRENT_USER SUPERUSER",
    "skip triggers": "SET session_replication_role = replica",
    "change the server": "ALTER SYSTEM SET log_statement = 'all'",
    "end others": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres' AND pid <> 0",
}


@pytest.mark.parametrize("attack", READS.values(), ids=READS)
def test_it_reads_nothing_else(thief: psycopg.Connection, attack: str) -> None:
    with refused():
        run(thief, attack)


@pytest.mark.parametrize("attack", WRITES.values(), ids=WRITES)
def test_it_changes_and_makes_nothing(catalog: Catalog, thief: psycopg.Connection, attack: str) -> None:
    with catalog.database.connect(), refused():  # there is somebody else's session, to be ended
        run(thief, attack)


def run(thief: psycopg.Connection, attack: str) -> None:
    """Locks are for transactions only, some commands not for them."""
    with thief.transaction() if attack.startswith("LOCK") else nullcontext():
        thief.execute(attack)


LEAKS = [
    "has_table_privilege({}, 'SELECT')",
    "has_schema_privilege({}, 'USAGE')",
    "has_database_privilege({}, 'CONNECT')",
    "has_language_privilege({}, 'USAGE')",
    "has_tablespace_privilege({}, 'CREATE')",
    "has_server_privilege({}, 'USAGE')",
    "pg_has_role({}, 'USAGE')",
    "{}::int > 0",
    "{}::jsonb IS NOT NULL",
]
QUERIES = [
    "SELECT name FROM library_shards WHERE {}",
    "SELECT count(*) FROM library_shards WHERE {} OFFSET 0",
    "SELECT name FROM house JOIN library_shards ON {}",
]


def said(thief: psycopg.Connection, query: str) -> str:
    """What comes back: rows or an error."""
    try:
        return repr(thief.execute(query).fetchall())
    except psycopg.Error as error:
        return str(error)


def test_no_error_tells_it_a_password_that_the_view_leaves_out(thief: psycopg.Connection) -> None:
    """A condition that fails on a value says the value; it must not see rows before the view's own condition has."""
    told = [said(thief, query.format(leak.format("password"))) for query in QUERIES for leak in LEAKS]
    assert [text for text in told if any(secret in text for secret in SECRETS.values())] == []


def test_no_error_tells_it_a_key_that_does_not_sign(catalog: Catalog, thief: psycopg.Connection) -> None:
    told = [said(thief, f"SELECT kid FROM library_keys WHERE {leak.format('kid')}") for leak in LEAKS]
    others = [f'"{kid}"' for (kid,) in catalog.run("SELECT kid FROM signing_keys WHERE state <> 'active'")]
    assert [text for text in told if any(other in text for other in others)] == []


def test_what_it_says_on_the_channel_makes_views_ask_again_and_no_more(
    catalog: Catalog, thief: psycopg.Connection
) -> None:
    view = CatalogView(catalog.dsn)
    events = Events(view)
    view.open()
    events.wait_for(LISTENING)
    tenant, fleet = view.find("slug", "acme"), view.fleet()
    for payload in (f"tenant {tenant.id}", "new", "fleet", "*", "tenant x", ""):
        thief.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))
        events.wait_for(payload)
        assert view.find("slug", "acme") == tenant
        assert view.fleet() == fleet
    view.close()


def test_it_leaves_no_large_object(thief: psycopg.Connection) -> None:
    for query in ("SELECT lo_create(0)", "SELECT lo_creat(-1)", "SELECT lo_from_bytea(0, 'x')"):
        with refused():
            thief.execute(query)


@pytest.mark.parametrize(
    "disturbance",
    [
        "ALTER ROLE CURRENT_USER PASSWORD 'mine'",
        "ALTER ROLE CURRENT_USER SET statement_timeout = 1",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = CURRENT_USER AND pid <> pg_backend_pid()",
    ],
)
def test_it_can_disturb_the_application_as_the_page_says(thief: psycopg.Connection, disturbance: str) -> None:
    """No server lets that be forbidden to a role; docs/reference/catalog.md names it, with the cure."""
    with thief.transaction(force_rollback=True):
        thief.execute(disturbance)
