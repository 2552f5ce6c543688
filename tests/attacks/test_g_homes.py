"""Schema and database per tenant"""

from __future__ import annotations

import psycopg
import pytest

from tests.attacks.attacker import Attacker, blind, only_a, refused
from tests.fixtures.walls import KID, PASSWORD, Wall

attack = pytest.mark.attack


@attack("I090", "Another schema in the search_path")
def test_i090_search_path(wall: Wall, attacker: Attacker) -> None:
    """SET search_path to B's schema: its tables are there, its rows are not."""
    attacker.run("SET search_path = {b_schema}")
    for table in ("customers", "orders", "events", "documents", "paid_orders"):
        blind(attacker.run(f"SELECT * FROM {table}"), wall)
    assert attacker.run("SELECT order_count()").rows[0][0] in (0, 20)


@attack("I091", "A qualified name")
def test_i091_qualified_name(wall: Wall, attacker: Attacker, stranger: Attacker) -> None:
    """B's schema in the name of the table."""
    for table in ("customers", "orders", "events", "documents", "paid_orders"):
        blind(attacker.run(f"SELECT * FROM {{b_schema}}.{table}"), wall)
        refused(stranger.run(f"SELECT * FROM {{b_schema}}.{table}"))


@attack(
    "I092",
    "Count rows of B's schema",
    state="residual",
    reason="the table is scanned, and each row refused: EXPLAIN ANALYZE tells how many. It does not tell which (I209)",
)
def test_i092_removed_rows(wall: Wall, attacker: Attacker) -> None:
    """EXPLAIN ANALYZE of a scan through B's table."""
    attacker.run("SET LOCAL enable_indexscan = off")
    text = attacker.run("EXPLAIN ANALYZE SELECT 1 FROM {b_schema}.orders WHERE id > 0").text
    assert ("Rows Removed by Filter" in text) is wall.shares_backend or "Index" in text


@attack(
    "I093",
    "The names of databases, schemas and roles",
    state="residual",
    reason="everybody can read PostgreSQL's catalogs. Names of schemas and databases are opaque and tell no customer",
)
def test_i093_catalogs(attacker: Attacker) -> None:
    """pg_database, pg_namespace, pg_roles."""
    for catalog in ("pg_database", "pg_namespace", "pg_roles"):
        assert attacker.run(f"SELECT * FROM {catalog}").error is None


@attack("I095", "Objects that belong to the application's role")
def test_i095_owns_nothing(attacker: Attacker) -> None:
    """Whoever owns nothing can plant no code for a superuser to run."""
    rows = attacker.run("SELECT * FROM pg_shdepend WHERE refobjid = 'tenantry_app'::regrole AND deptype = 'o'").rows
    assert rows == []


@attack("I096", "Make something")
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE {s}.x (a int)",
        "CREATE VIEW {s}.x AS SELECT 1",
        "CREATE FUNCTION {s}.x() RETURNS int LANGUAGE sql RETURN 1",
        "CREATE TYPE {s}.x AS (a int)",
        "CREATE SEQUENCE {s}.x",
        "CREATE OPERATOR {s}.= (LEFTARG = int, FUNCTION = int4um)",
        'CREATE COLLATION {s}.x FROM "C"',
        "CREATE STATISTICS {s}.x ON id, note FROM {s}.orders",
        "CREATE INDEX ON {s}.orders (note)",
        "ALTER TABLE {s}.orders ADD COLUMN x int",
        "COMMENT ON TABLE {s}.orders IS 'x'",
    ],
)
def test_i096_create(attacker: Attacker, statement: str) -> None:
    """In the own schema, in B's, in public, in the binder's."""
    for schema in ("{a_schema}", "{b_schema}", "public", "tenantry"):
        loot = attacker.run(statement.replace("{s}", schema))
        assert loot.sqlstate in ("42501", "42P01"), loot


@attack("I097", "The schema public")
def test_i097_public(attacker: Attacker) -> None:
    """It is closed, also where an older PostgreSQL had left it open."""
    refused(attacker.run("CREATE TABLE public.x (a int)"))
    assert attacker.run("SELECT has_schema_privilege('public', 'CREATE')").rows == [(False,)]


@attack("I097", "New schemas, extensions, publications")
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE SCHEMA mine",
        "CREATE EXTENSION IF NOT EXISTS plpgsql SCHEMA mine",
        "CREATE PUBLICATION p FOR ALL TABLES",
        "CREATE PUBLICATION p FOR TABLE {b_schema}.orders",
        "CREATE DATABASE mine",
        "CREATE TABLESPACE t LOCATION '/tmp'",
        "CREATE TRUSTED LANGUAGE plperl",
        "ALTER DATABASE {database} SET search_path = evil",
    ],
)
def test_i097_database(wall: Wall, attacker: Attacker, statement: str) -> None:
    """What needs rights on the database or the server."""
    loot = attacker.run(statement.replace("{database}", wall.a.database))
    assert loot.error is None or loot.sqlstate in ("42501", "3F000", "25001", "58P01", "0A000"), loot
    assert loot.error is not None or "EXTENSION IF NOT EXISTS" in statement


@attack("I098", "Connect as somebody else")
def test_i098_connect(wall: Wall) -> None:
    """A login of the server that is not of the house."""
    admin = wall.admin()
    admin.execute(f"CREATE ROLE passer_by LOGIN PASSWORD '{PASSWORD}'")
    try:
        for member in (wall.a, wall.b):
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(wall.server.dsn(member.database, "passer_by", password=PASSWORD))
    finally:
        admin.execute("DROP ROLE passer_by")


@attack("I103", "A token in the wrong database")
def test_i103_wrong_pool(wall: Wall) -> None:
    """A's request with a connection to where B lives: the database is inside the token."""
    if wall.shares_backend:
        stranger = Attacker(wall, wall.unbound(wall.b))
        token = wall.mint(wall.a, database="another")
        refused(stranger.run("SELECT tenantry.bind_v1(%s)", [token]))
        return
    stranger = Attacker(wall, wall.unbound(wall.b))
    refused(stranger.run("SELECT tenantry.bind_v1(%s)", [wall.mint(wall.a)]))
    refused(stranger.run("SELECT tenantry.bind_v1(%s)", [wall.mint(wall.a, database=wall.b.database)]), "TN001")


@attack("I103", "A tenant that has moved away, or never lived here")
def test_i103_not_here(wall: Wall, stranger: Attacker) -> None:
    """Good tokens for other epochs, and for tenants that this database does not know."""
    refused(stranger.run("SELECT tenantry.bind_v1(%s)", [wall.mint(wall.a, epoch=2)]), "TN001")
    unknown = wall.walled.signer.mint("00000000000000000000000000009999", wall.a.database, "tenantry_app")
    refused(stranger.run("SELECT tenantry.bind_v1(%s)", [unknown]), "TN001")
    refused(stranger.run("SELECT * FROM {a_schema}.orders"))


@attack("I104", "Sessions in other databases")
def test_i104_other_databases(wall: Wall, attacker: Attacker) -> None:
    """Names, addresses and programs of sessions in B's database."""
    wall.bound(wall.b).execute("SELECT 1")
    refused(attacker.run("SELECT datname, usename, application_name, client_addr FROM pg_stat_activity"))


@attack(
    "I104",
    "Counters of other databases",
    state="residual",
    reason="pg_stat_database shows every database's transactions and rows to everybody; its name is opaque",
)
def test_i104_database_counters(attacker: Attacker) -> None:
    """pg_stat_database."""
    assert attacker.run("SELECT datname, xact_commit FROM pg_stat_database").error is None


@attack("I105", "Replication")
def test_i105_replication(wall: Wall, attacker: Attacker) -> None:
    """A replication connection, slots, and decoding."""
    with pytest.raises(psycopg.OperationalError, match=r"permission denied|must be superuser|replication"):
        psycopg.connect(wall.dsn(wall.a), replication="database")
    for call in (
        "pg_create_logical_replication_slot('x', 'pgoutput')",
        "pg_create_physical_replication_slot('x')",
        "pg_logical_slot_peek_changes('x', NULL, NULL)",
        "pg_replication_origin_create('x')",
    ):
        refused(attacker.run(f"SELECT {call}"))


@attack("I221", "Operators' and admins' logins")
def test_i221_other_logins(wall: Wall) -> None:
    """What the application knows (a token, its own password) opens no other role's door."""
    for role in ("tenantry_owner", "tenantry_sec"):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(wall.dsn(wall.a, role))
    for role in ("tenantry_operator", "tenantry_admin"):
        other = Attacker(wall, wall.role(role))
        refused(other.run("SELECT tenantry.bind_v1(%s)", [wall.mint(wall.a)]))
    operator = Attacker(wall, wall.role("tenantry_operator"))
    refused(operator.run("UPDATE {a_schema}.orders SET note = 'x'"), "25006")
    operator.conn.rollback()
    operator.conn.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
    operator.conn.commit()
    refused(operator.run("UPDATE {a_schema}.orders SET note = 'x'"))


@attack("I222", "A row of the residents in the attacker's favour")
def test_i222_code_and_key(wall: Wall, attacker: Attacker) -> None:
    """The tenant comes from the token's code alone; B's key stands nowhere that A can write."""
    for table in ("tenantry.residents", "tenantry.plans", "tenantry_priv.signing_keys"):
        refused(
            attacker.run(
                f"UPDATE {table} SET {'code' if 'resid' in table else 'name' if 'plan' in table else 'kid'} = 'x'"
            )
        )
    only_a(attacker.run("SELECT * FROM orders"), wall)
    assert KID not in attacker.run("SELECT * FROM pg_proc WHERE pronamespace = 'tenantry'::regnamespace").text
