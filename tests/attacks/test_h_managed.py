"""A wall that no superuser made, as at most managed services"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tenantry.errors import DirtyBackend
from tenantry.model import BindingMode
from tenantry.postgres.connect import merge_dsn
from tenantry.postgres.server import THROWAWAY, LocalServer
from tests.attacks.attacker import Attacker, only_a, refused
from tests.attacks.test_e_oracles import CONDITIONS, KNOWN, SCANS, UNKNOWN, trace
from tests.fixtures.servers import Database
from tests.fixtures.walls import Wall, Walled, build_in, run_apply, run_plan

attack = pytest.mark.attack
LOGIN = "LOGIN PASSWORD 'x' CREATEROLE CREATEDB BYPASSRLS REPLICATION"


@pytest.fixture(scope="module")
def managed() -> Iterator[Walled]:
    """A wall on a server of its own, made by a login that is no superuser."""
    with LocalServer(settings=THROWAWAY) as server:
        if server.binaries.major < 16:
            pytest.skip("PostgreSQL 15 lets only superusers make roles that bypass row security: test with 16 or later")
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute(f"CREATE ROLE cloud_admin {LOGIN}")
            conn.execute("CREATE DATABASE managed OWNER cloud_admin")
        dsn = merge_dsn(server.dsn("managed", tcp=True), user="cloud_admin", password="x")
        yield build_in(Database(server, "managed"), BindingMode.SIGNED, dsn=dsn)


@pytest.fixture
def wall(managed: Walled) -> Iterator[Wall]:
    with Wall.of(managed) as wall:
        yield wall


@attack("I201", "A statement in the binding's place, without a superuser's help")
def test_i201_planted_statement(wall: Wall) -> None:
    """SQL can look prepared statements up there, so the binding is none."""
    conn = wall.bound()
    attacker = Attacker(wall, conn)
    attacker.run("SELECT 1")
    attacker.conn.commit()
    attacker.run("SELECT 1")
    names = [row[0] for row in attacker.run("SELECT name FROM pg_prepared_statements").rows]
    assert names
    for name in names:
        attacker.raw(f'DEALLOCATE "{name}"')
        attacker.raw(f"PREPARE \"{name}\" (text) AS SELECT set_config('my.loot', $1, false)")
    conn.commit()
    wall.rebind(conn, wall.b)
    with pytest.raises(DirtyBackend):  # it is the real binding that answers, and it does not like what it finds
        conn.execute("SELECT 1")
    assert conn.closed


@attack(
    "I220",
    "Throw one of the next one's prepared statements away, without a superuser's help",
    state="residual",
    reason="SQL can look the driver's names up there. It costs the next user of the connection one error; an engine"
    " with connect_args={'prepare_threshold': None} prepares nothing",
)
def test_i220_deallocate(wall: Wall) -> None:
    """DEALLOCATE what the driver has prepared, by its name."""
    conn = wall.bound()
    conn.execute("SELECT 'prepared'", prepare=True)
    attacker = Attacker(wall, conn)
    for (name,) in attacker.run("SELECT name FROM pg_prepared_statements WHERE name LIKE '\\_tenantry\\_%'").rows:
        attacker.raw(f'DEALLOCATE "{name}"')
    conn.commit()
    wall.rebind(conn, wall.b)
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        conn.execute("SELECT 'prepared'", prepare=True)
    conn.rollback()
    assert conn.execute("SELECT 'prepared'", prepare=True).fetchone() == ("prepared",)


@attack("I209", "Conditions that are evaluated before the policy, without a superuser's help")
@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("kind", CONDITIONS)
def test_i209_early_conditions(wall: Wall, kind: str, scan: str) -> None:
    """The policy's guard is as cheap as the cheapest comparison, and the first among equals."""
    for one in (Attacker(wall, wall.bound()), Attacker(wall, wall.unbound())):
        one.run("SELECT 1")
        one.conn.execute(SCANS[scan])
        query = f"SELECT id FROM {{b_schema}}.customers WHERE {CONDITIONS[kind]}"
        assert trace(one, query, KNOWN) == trace(one, query, UNKNOWN)


@attack(
    "I209",
    "Conditions that cost nothing, without a superuser's help",
    state="residual",
    reason="only a superuser can make the guard free of cost. Without one, conditions of nothing but tests of NULL and"
    " bare booleans come first: they tell whether any tenant has such a row, and no value",
)
def test_i209_free_conditions(wall: Wall) -> None:
    """A test of NULL before a sub-select that leaves a trace; no row of A is there, some of B are."""
    attacker = Attacker(wall, wall.bound())
    attacker.run("DELETE FROM {b_schema}.customers")
    query = "SELECT id FROM {b_schema}.customers WHERE CASE WHEN secret {g} NULL THEN {hit} IS NOT NULL END"
    assert trace(attacker, query, "IS NOT") != trace(attacker, query, "IS")


@attack(
    "I073",
    "Other sessions, without a superuser's help",
    state="residual",
    reason="only a superuser can take these functions from PUBLIC; check lists them as a finding",
)
def test_i073_other_sessions(wall: Wall) -> None:
    """pg_stat_activity of sessions of the same role."""
    victim = wall.bound(wall.b)
    victim.execute("SELECT 'bravo'")
    attacker = Attacker(wall, wall.bound())
    assert wall.b.word in attacker.run("SELECT query FROM pg_stat_activity").text
    assert any("only a superuser" in finding.what for finding in wall.plan().findings) or wall.plan().changes


@attack("I011", "Rows, without a superuser's help")
def test_i011_rows(wall: Wall) -> None:
    """The rows themselves are behind the same wall."""
    only_a(Attacker(wall, wall.bound()).run("SELECT * FROM orders"), wall)
    refused(Attacker(wall, wall.unbound()).run("SELECT * FROM app.orders"))


@attack("I224", "Seek for B's words, without a superuser's help")
def test_i224_seeks(wall: Wall) -> None:
    """The same functions, made by a login that is no superuser."""
    dsn = merge_dsn(wall.server.dsn(wall.a.database, tcp=True), user="cloud_admin", password="x")
    wall.admin().execute("CREATE INDEX stage_seek ON app.orders (company_id, stage)")
    changes = run_apply(dsn, wall.house, wall.mode, ["app"]).changes
    assert any("seek_orders__stage__equals" in change.object for change in changes)
    assert run_plan(dsn, wall.house, wall.mode, ["app"]).changes == ()
    refused(Attacker(wall, wall.unbound()).run("SELECT app.seek_orders__stage__equals('paid')"))
    mine = "SELECT cardinality(app.seek_orders__stage__equals('paid')), count(*) FROM app.orders WHERE stage = 'paid'"
    assert Attacker(wall, wall.bound()).run(mine).rows == [(10, 10)]
    wall.end_transactions()
    creates = "SELECT has_schema_privilege('tenantry_seek', 'app', 'CREATE')"
    assert wall.admin().execute(creates).fetchone() == (False,)
    wall.admin().execute("DROP INDEX app.stage_seek")
    run_apply(dsn, wall.house, wall.mode, ["app"])
    assert Attacker(wall, wall.bound()).run(mine).sqlstate == "42883"
