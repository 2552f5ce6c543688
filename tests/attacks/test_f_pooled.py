"""Pooled connections: what one tenant leaves behind for the next"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tenantry.errors import CrossedTenants, DirtyBackend
from tenantry.model import Isolation
from tenantry.perimeter.bound import BoundConnection
from tests.attacks.attacker import Attacker, blind, refused
from tests.fixtures.walls import MakeWalled, Wall, variants

attack = pytest.mark.attack


@pytest.fixture(params=variants(Isolation.POOLED, Isolation.SCHEMA))
def wall(request: pytest.FixtureRequest, walls: MakeWalled) -> Iterator[Wall]:
    """Tenants with a database of their own never share a backend."""
    with Wall.of(walls(request.param)) as wall:
        yield wall


@pytest.fixture
def conn(wall: Wall) -> BoundConnection:
    """One connection for both; bound to A."""
    return wall.bound()


def leave(wall: Wall, conn: BoundConnection, *statements: str) -> None:
    """Run them as A, commit, and hand the connection to B."""
    for statement in statements:
        conn.execute(wall.fill(statement))
    conn.commit()
    wall.rebind(conn, wall.b)


RESIDUE = {
    "search_path": "evil, pg_catalog",
    "statement_timeout": "7min",
    "lock_timeout": "7min",
    "idle_in_transaction_session_timeout": "7min",
    "row_security": "off",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "session_replication_role": None,
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "DateStyle": "SQL, DMY",
    "TimeZone": "Pacific/Chatham",
    "bytea_output": "escape",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "client_min_messages": "debug5",
    "debug_print_plan": "on",
    "log_parameter_max_length_on_error": "-1",
    "plan_cache_mode": "force_generic_plan",
    "exit_on_error": "on",
    "application_name": "loot",
    "my.loot": "loot",
    "check_function_bodies": "off",
}


@attack("I079", "Settings of the session")
@pytest.mark.parametrize("name", RESIDUE)
def test_i079_settings(wall: Wall, conn: BoundConnection, name: str) -> None:
    """SET, not SET LOCAL, of everything that might change what the next tenant's statements do or tell."""
    fresh = wall.bound(wall.b).execute(f"SELECT current_setting('{name}', true)").fetchone()
    try:
        leave(wall, conn, f"SET {name} = '{RESIDUE[name]}'")
    except psycopg.errors.InsufficientPrivilege:
        return
    found = conn.execute(f"SELECT current_setting('{name}', true)").fetchone()
    assert found == fresh or (found, fresh) == (("",), (None,))
    assert len(conn.execute("SELECT * FROM customers").fetchall()) == 20
    conn.execute("INSERT INTO bookings (room) VALUES (1) ON CONFLICT DO NOTHING")


@attack("I079", "Settings for the characteristics of transactions")
@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ"])
def test_i079_isolation(wall: Wall, conn: BoundConnection, level: str) -> None:
    """A stricter isolation for the next transaction begins before the binding: such a backend is discarded."""
    leave(wall, conn, f"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {level}")
    with pytest.raises(DirtyBackend):
        conn.execute("SELECT 1")
    assert conn.closed


DIRT = [
    "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM orders",
    "PREPARE p AS SELECT 1",
    "DEALLOCATE {name}; PREPARE {name} AS SELECT 'mine'",
    "PREPARE _tenantry_bind (text) AS SELECT $1",
]


@attack("I080", "Cursors and statements that outlive the transaction")
@pytest.mark.parametrize("statement", DIRT)
def test_i080_dirty_backend(wall: Wall, conn: BoundConnection, statement: str) -> None:
    """WITH HOLD cursors and SQL's prepared statements, also under a name of the driver's: the backend is discarded."""
    conn.execute("SELECT 'prepared by the driver'", prepare=True)
    (name,) = conn._prepared._names.values()
    leave(wall, conn, statement.format(name=name.decode()))
    with pytest.raises(DirtyBackend):
        conn.execute("SELECT 'prepared by the driver'", prepare=True)
    assert conn.closed


@attack("I081", "Temporary objects")
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TEMP TABLE orders (id int)",
        "CREATE TEMP VIEW orders AS SELECT 1",
        "CREATE TEMP SEQUENCE s",
        "SELECT 1 AS id INTO TEMP orders",
        "CREATE TABLE pg_temp.orders (id int)",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql RETURN 1",
        "CREATE TYPE pg_temp.t AS (a int)",
    ],
)
def test_i081_temporary(wall: Wall, conn: BoundConnection, statement: str) -> None:
    """Nobody makes temporary tables, views, sequences, types, functions."""
    refused(Attacker(wall, conn).run(statement), "42501")


@attack("I082", "A temporary table in place of the application's")
def test_i082_shadow(wall: Wall, conn: BoundConnection) -> None:
    """Where an admin has granted TEMPORARY after all: the next tenant's backend is discarded."""
    database = wall.a.database
    with wall.scenery(
        f"GRANT TEMP ON DATABASE {database} TO tenantry_app", f"REVOKE TEMP ON DATABASE {database} FROM tenantry_app"
    ):
        leave(wall, conn, "CREATE TEMP TABLE orders (note text)")
        with pytest.raises(DirtyBackend):
            conn.execute("INSERT INTO orders (note) VALUES ('bravo')")
    assert conn.closed


@attack("I084", "The text of prepared statements")
def test_i084_prepared_statements(wall: Wall, conn: BoundConnection) -> None:
    """A driver prepares a statement of B with a literal; A looks at the backend's prepared statements."""
    wall.rebind(conn, wall.b)
    conn.execute("SELECT * FROM customers WHERE email = 'bravo-505@example.com'", prepare=True)
    conn.commit()
    wall.rebind(conn, wall.a)
    for view in ("pg_prepared_statements", "pg_prepared_statement()"):
        refused(Attacker(wall, conn).run(f"SELECT * FROM {view}"))
    blind(Attacker(wall, conn).run("SELECT * FROM pg_cursors"), wall)


@attack("I085", "A parameter as a carrier")
def test_i085_carrier(wall: Wall, conn: BoundConnection) -> None:
    """What B has put into a parameter of the session is gone; its name stays, empty."""
    wall.rebind(conn, wall.b)
    conn.execute("SELECT set_config('my.loot', secret, false) FROM customers")
    conn.commit()
    wall.rebind(conn, wall.a)
    attacker = Attacker(wall, conn)
    assert attacker.run("SELECT current_setting('my.loot', true)").rows == [("",)]
    blind(attacker.run("SELECT * FROM pg_settings"), wall)


@attack("I087", "Errors in the middle of a block")
@pytest.mark.parametrize(
    "end", ["SELECT 1 / 0", "SET LOCAL statement_timeout = 1; SELECT pg_sleep(1)", "COMMIT", "ROLLBACK"]
)
def test_i087_errors(wall: Wall, conn: BoundConnection, end: str) -> None:
    """A's block ends in an error, a timeout, or its own COMMIT; the next one is B's alone."""
    for _ in range(3):
        wall.rebind(conn, wall.a)
        try:
            with conn.transaction():
                conn.execute("SELECT * FROM orders")
                conn.execute(end)
        except psycopg.Error:
            pass
        wall.rebind(conn, wall.b)
        assert {row[0] for row in conn.execute("SELECT company_id FROM orders")} == {wall.b.key}
        conn.rollback()


@attack("I088", "One tenant's block inside another's")
def test_i088_nested(wall: Wall, conn: BoundConnection) -> None:
    """Bind the connection to B while A's transaction is open."""
    with conn.transaction():
        conn.execute("SELECT 1")
        with pytest.raises(CrossedTenants):
            wall.rebind(conn, wall.b)
        assert {row[0] for row in conn.execute("SELECT company_id FROM orders")} == {wall.a.key}


@attack("I089", "Autocommit")
def test_i089_autocommit(wall: Wall) -> None:
    """Statements outside of a transaction, on a connection that is bound to A."""
    conn = wall.bound(autocommit=True)
    for _ in range(2):
        refused(Attacker(wall, conn).raw("SELECT * FROM {a_schema}.orders"))
        with conn.transaction():
            conn.execute("SELECT * FROM orders")


@attack("I214", "Hear what is said later")
def test_i214_listen(wall: Wall, conn: BoundConnection) -> None:
    """LISTEN outlives the transaction; the next binding ends it."""
    leave(wall, conn, "LISTEN x", "LISTEN y")
    conn.execute("SELECT 1")
    conn.commit()
    conn.execute("SELECT 1")
    assert conn.execute("SELECT * FROM pg_listening_channels()").fetchall() == []


@attack(
    "I214",
    "The names of what the last tenant listened to",
    state="residual",
    reason="UNLISTEN takes effect when the transaction commits: pg_listening_channels() still shows the names in the"
    " next tenant's first transaction. Nothing is heard, and later ones do not see them",
)
def test_i214_names(wall: Wall, conn: BoundConnection) -> None:
    """LISTEN, and look at the channels in the transaction after."""
    leave(wall, conn, "LISTEN x")
    assert conn.execute("SELECT * FROM pg_listening_channels()").fetchall() == [("x",)]
    conn.commit()
    assert conn.execute("SELECT * FROM pg_listening_channels()").fetchall() == []


@attack("I215", "Predict random numbers")
def test_i215_seed(wall: Wall, conn: BoundConnection) -> None:
    """setseed() holds for the session: the next tenant's random() must not be A's to predict."""
    found = set()
    for _ in range(3):
        wall.rebind(conn, wall.a)
        leave(wall, conn, "SELECT setseed(0.5)")
        found.add(conn.execute("SELECT random()").fetchone())
        conn.commit()
    assert len(found) == 3


@attack("I216", "The last number that a tenant took")
def test_i216_lastval(wall: Wall, conn: BoundConnection) -> None:
    """lastval() and currval() remember across transactions."""
    wall.rebind(conn, wall.b)
    conn.execute("SELECT nextval('orders_id_seq')")
    conn.commit()
    wall.rebind(conn, wall.a)
    attacker = Attacker(wall, conn)
    refused(attacker.run("SELECT lastval()"), "55000")
    refused(attacker.run("SELECT currval('{b_schema}.orders_id_seq')"), "55000")


@attack("I217", "Cursors of an earlier transaction")
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN"])
def test_i217_cursors(wall: Wall, conn: BoundConnection, end: str) -> None:
    """A cursor of B, opened and not read; the next transaction of A fetches from it."""
    wall.rebind(conn, wall.b)
    conn.execute("DECLARE c CURSOR FOR SELECT * FROM orders")
    conn.execute("SAVEPOINT s")
    conn.execute(end)
    conn.rollback()
    wall.rebind(conn, wall.a)
    refused(Attacker(wall, conn).run("FETCH ALL FROM c"), "34000")


@attack("I218", "Plans that were made for another tenant")
@pytest.mark.parametrize("mode", ["auto", "force_generic_plan", "force_custom_plan"])
def test_i218_plans(wall: Wall, mode: str) -> None:
    """Statements that the driver has prepared, and functions that keep plans, serve both tenants in turns."""
    conn = wall.bound(options=f"-c plan_cache_mode={mode}")
    queries = [
        "SELECT count(*), min(note), sum(amount) FROM orders",
        "SELECT count(*), min(email), sum(id) FROM customers WHERE id > %s",
        "SELECT order_count(), 'x', order_sum()",
        "SELECT count(*), min(payload::text), sum(id) FROM events WHERE at > '2025-12-31'",
    ]
    seen: dict[str, set[str]] = {wall.a.word: set(), wall.b.word: set()}
    for _ in range(4):
        for member in (wall.a, wall.b):
            wall.rebind(conn, member)
            for query in queries:
                if wall.level is Isolation.SCHEMA and "order_count" in query:
                    query = query.replace("order_", f"{member.schema}.order_")
                row = conn.execute(query, [0] if "%s" in query else None, prepare=True).fetchone()
                assert row is not None
                assert row[0] in (20, 2)
                seen[member.word].add(str(row))
            conn.commit()
    assert not seen[wall.a.word] & seen[wall.b.word]
    assert wall.b.word not in str(seen[wall.a.word])


@attack("I218", "A shared function over the tables of two schemas")
def test_i218_function_of_one_schema(wall: Wall, conn: BoundConnection) -> None:
    """One function without a search_path of its own, called by both tenants: it reads each one's own tables."""
    for _ in range(2):
        for member in (wall.a, wall.b):
            wall.rebind(conn, member)
            for name in ("order_count", "order_sum"):
                total = conn.execute(f"SELECT {wall.a.schema}.{name}()").fetchone()
                plain = conn.execute("SELECT count(*), sum(amount) FROM orders").fetchone()
                assert total is not None
                assert plain is not None
                assert total[0] == plain[name == "order_sum"]
            conn.commit()


HOSTILE = """
CREATE SCHEMA evil;
CREATE FUNCTION evil.loot(text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('my.loot', 'found', false) $$;
CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.loot($1) IS NOT NULL $$;
CREATE FUNCTION evil.eq8(bigint, bigint) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.loot('') IS NOT NULL $$;
CREATE FUNCTION evil.eqb(bytea, bytea) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.loot('') IS NOT NULL $$;
CREATE FUNCTION evil.equ(uuid, uuid) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.loot('') IS NOT NULL $$;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
CREATE OPERATOR evil.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.eq8);
CREATE OPERATOR evil.<> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.eq8);
CREATE OPERATOR evil.= (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = evil.eqb);
CREATE OPERATOR evil.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = evil.equ);
CREATE FUNCTION evil.split_part(text, text, int) RETURNS text LANGUAGE sql AS $$ SELECT evil.loot($1) $$;
CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT evil.loot($1) $$;
CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT evil.loot($1) $$;
CREATE FUNCTION evil.concat(VARIADIC "any") RETURNS text LANGUAGE internal AS 'text_concat';
CREATE FUNCTION evil.convert_to(text, name) RETURNS bytea LANGUAGE sql AS $$ SELECT evil.loot($1)::bytea $$;
CREATE FUNCTION evil.sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT 'x'::bytea $$;
CREATE FUNCTION evil."left"(text, int) RETURNS text LANGUAGE sql AS $$ SELECT evil.loot($1) $$;
CREATE FUNCTION evil."right"(text, int) RETURNS text LANGUAGE sql AS $$ SELECT evil.loot($1) $$;
CREATE FUNCTION evil.replace(text, text, text) RETURNS text LANGUAGE sql AS $$ SELECT '1' $$;
CREATE FUNCTION evil.encode(bytea, text) RETURNS text LANGUAGE sql AS $$ SELECT evil.loot($2) $$;
CREATE FUNCTION evil.same_v1(bigint, bigint) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT 'epoch'::timestamptz $$;
CREATE FUNCTION evil.cardinality(anyarray) RETURNS int LANGUAGE sql AS $$ SELECT 0 $$;
CREATE DOMAIN evil.text AS pg_catalog.text CHECK (evil.loot(value) IS NOT NULL);
CREATE DOMAIN evil.int8 AS pg_catalog.int8;
CREATE DOMAIN evil.bool AS pg_catalog.bool;
CREATE DOMAIN evil.float8 AS pg_catalog.float8;
CREATE VIEW evil.orders AS SELECT 'evil' AS note;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
GRANT SELECT ON evil.orders TO PUBLIC;
"""


@attack("I219", "A schema of the attacker's before PostgreSQL's own")
def test_i219_hostile_schema(wall: Wall) -> None:
    """Functions, operators and types named like those that the binding uses, first in the search_path that A leaves."""
    with wall.scenery(HOSTILE, "DROP SCHEMA evil CASCADE"):
        conn = wall.bound()
        conn.execute("SET search_path = evil, pg_catalog")
        conn.execute("SET my.loot = ''")
        conn.commit()
        for member in (wall.b, wall.a, wall.b):
            wall.rebind(conn, member)
            assert conn.execute("SHOW search_path").fetchone() == (f"{member.schema}, pg_temp",)
            assert {row[0] for row in conn.execute("SELECT company_id FROM orders")} == {member.key}
            assert conn.execute("SELECT current_setting('my.loot', true)").fetchone() == ("",)
            conn.execute("SET search_path = evil, pg_catalog")
            rows = conn.execute(wall.fill("SELECT * FROM {b_schema}.customers")).fetchall()
            assert {row[0] for row in rows} <= {member.key}
            conn.commit()


@attack("I220", "Throw the next one's prepared statements away")
@pytest.mark.parametrize("name", ["_pg3_0", "_pg3_1", "_tenantry_0", "_tenantry_bind"])
def test_i220_deallocate(wall: Wall, conn: BoundConnection, name: str) -> None:
    """DEALLOCATE a statement that psycopg has prepared: its name can't be guessed, nor looked up."""
    conn.execute("SELECT 'prepared'", prepare=True)
    attacker = Attacker(wall, conn)
    refused(attacker.raw(f"DEALLOCATE {name}"), "26000")
    conn.rollback()
    wall.rebind(conn, wall.b)
    assert conn.execute("SELECT 'prepared'", prepare=True).fetchone() == ("prepared",)


@attack("I220", "Throw all prepared statements away")
@pytest.mark.parametrize("way", ["DEALLOCATE ALL", "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"])
def test_i220_deallocate_all(wall: Wall, conn: BoundConnection, way: str) -> None:
    """DEALLOCATE ALL, also where the driver does not see it: the next binding prepares anew."""
    conn.execute("SELECT 'prepared'", prepare=True)
    leave(wall, conn, way)
    assert conn.execute("SELECT 'prepared'", prepare=True).fetchone() == ("prepared",)
