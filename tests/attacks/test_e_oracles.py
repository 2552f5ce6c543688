"""Oracles and side channels"""

from __future__ import annotations

import re

import psycopg
import pytest

from tenantry.model import Isolation
from tests.attacks.attacker import Attacker, blind, only_a, refused
from tests.fixtures.walls import Wall, variants

attack = pytest.mark.attack

PLAN = "EXPLAIN (ANALYZE, VERBOSE, COSTS OFF, TIMING OFF, SUMMARY OFF)"
_OFF = "SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_indexonlyscan = off; "
SCANS = {
    "as the planner likes": "SELECT 1",
    "no indexes": _OFF,
    "only indexes": "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off",
    "bitmaps": "SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = off; SET LOCAL work_mem = '64kB'",
    "no costs": _OFF + "SET LOCAL cpu_operator_cost = 0",
    "tiny costs": _OFF + "SET LOCAL cpu_operator_cost = 1e-300",
}
HIT = "(SELECT set_config('my.hit', '1', true))"
CONDITIONS = {
    "range": "secret >= '{g}' AND secret <= '{g}' AND email > {hit}",
    "range of one side": "secret > 'bravo-secret-518' AND secret <= '{g}' AND email > {hit}",
    "equality": "secret = '{g}' AND email > {hit}",
    "equality in disguise": "(secret = '{g}') IS TRUE AND email > {hit}",
    "list": "secret IN ('{g}', 'x') AND email > {hit}",
    "distinct": "NOT (secret IS DISTINCT FROM '{g}') AND email > {hit}",
    "case": "CASE WHEN secret >= '{g}' AND secret <= '{g}' THEN {hit} IS NOT NULL END",
    "or": "(secret <> '{g}' OR email > {hit})",
    "coalesce": "COALESCE(secret >= '{g}' AND secret <= '{g}' AND email > {hit}, false)",
    "indexed": "email >= left('{g}', 6) AND email < left('{g}', 6) || '519x' AND id > length({hit})",
    "error": "secret >= '{g}' AND secret <= '{g}' AND email > (SELECT (1 / (length('{g}') - length('{g}')))::text)",
}
"""{g} is a value that a row of B has, or one that no row has; {hit} leaves a trace when it is evaluated."""
SHARED = pytest.mark.parametrize("wall", variants(Isolation.POOLED, Isolation.SCHEMA), indirect=True)
"""Where B's rows are within reach at all."""
KNOWN, UNKNOWN = "bravo-secret-519", "bravo-secret-51x"


_SEEN = re.compile(r"never executed|Rows Removed by [^:]*: \d+|actual rows=[\d.]+ loops=\d+")


def trace(attacker: Attacker, query: str, guess: str) -> tuple[object, ...]:
    """What tells of rows: those that come back, errors, notices, what was left behind, and the plan as it ran."""
    query = query.replace("{hit}", HIT).replace("{g}", guess)
    attacker.run("SELECT set_config('my.hit', '0', true)")
    loot = attacker.run(query)
    hit = attacker.run("SELECT current_setting('my.hit', true)").rows
    plan = attacker.run(f"{PLAN} {query}")
    return loot.rows, loot.sqlstate, loot.notices, hit, sorted(_SEEN.findall(plan.text)), plan.sqlstate


@attack("I209", "Conditions that are evaluated before the policy")
@SHARED
@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("kind", CONDITIONS)
def test_i209_early_conditions(wall: Wall, attacker: Attacker, stranger: Attacker, kind: str, scan: str) -> None:
    """Leakproof conditions come before policies where they are cheap. Put a sub-select behind one: whether it ran tells
    whether any tenant has a row with the guessed value. Bound to A, and bound to nobody."""
    for one in (attacker, stranger):
        one.run("SELECT 1")
        one.conn.execute(SCANS[scan])
        for command in ("SELECT id FROM", "DELETE FROM"):
            query = f"{command} {{b_schema}}.customers WHERE {CONDITIONS[kind]}"
            assert trace(one, query, KNOWN) == trace(one, query, UNKNOWN)


@attack("I209", "Conditions that cost nothing")
@SHARED
@pytest.mark.parametrize("scan", SCANS)
def test_i209_free_conditions(wall: Wall, attacker: Attacker, stranger: Attacker, scan: str) -> None:
    """The same with tests of NULL, which PostgreSQL takes as free of cost: no row of A is there, some of B are."""
    attacker.run("DELETE FROM {b_schema}.customers")
    for one in (attacker, stranger):
        one.run("SELECT 1")
        one.conn.execute(SCANS[scan])
        query = "SELECT id FROM {b_schema}.customers WHERE CASE WHEN secret {g} NULL THEN {hit} IS NOT NULL END"
        assert trace(one, query, "IS NOT") == trace(one, query, "IS")


@attack("I209", "Conditions on partitions and children")
@SHARED
@pytest.mark.parametrize("scan", SCANS)
def test_i209_partitions(wall: Wall, attacker: Attacker, scan: str) -> None:
    """The same through the parent of partitions and of a child table."""
    attacker.run("SELECT 1")
    attacker.conn.execute(SCANS[scan])
    events = "SELECT id FROM {b_schema}.events WHERE id >= {g} AND id <= {g} AND id > length({hit})"
    documents = "SELECT id FROM {b_schema}.documents WHERE body >= '{g}' AND body <= '{g}' AND body > {hit}"
    assert trace(attacker, events, "7") == trace(attacker, events, "70007")
    assert trace(attacker, documents, "bravo-contract") == trace(attacker, documents, "bravo-contracx")


@attack("I209", "Conditions in joins, subqueries and views")
@SHARED
@pytest.mark.parametrize("scan", SCANS)
def test_i209_joins(wall: Wall, attacker: Attacker, scan: str) -> None:
    """The same as join conditions, in EXISTS, beside NOT IN, behind a fence, and through a view."""
    attacker.run("SELECT 1")
    attacker.conn.execute(SCANS[scan])
    on = "c.secret >= v.x AND c.secret <= v.x AND c.email > {hit}"
    values, customers = "(VALUES ('{g}')) v (x)", "{b_schema}.customers c"
    quoted, note = "'{g}'", "replace('{g}', 'secret', 'note')"
    for query in (
        f"SELECT c.id FROM {values} JOIN {customers} ON {on}",
        f"SELECT c.id FROM {values} LEFT JOIN {customers} ON {on}",
        f"SELECT 1 FROM {values} WHERE EXISTS (SELECT FROM {customers} WHERE {on})",
        f"SELECT 1 FROM {customers} WHERE secret NOT IN (SELECT '' FROM {values}) AND {on.replace('v.x', quoted)}",
        f"SELECT 1 FROM (SELECT * FROM {customers} OFFSET 0) c, {values} WHERE {on}",
        f"SELECT 1 FROM {{b_schema}}.paid_orders WHERE note >= {note} AND note <= {note} AND note > {{hit}}",
    ):
        assert trace(attacker, query, KNOWN) == trace(attacker, query, UNKNOWN)


@attack("I063", "A value that B has, in a unique key")
def test_i063_unique(wall: Wall, attacker: Attacker) -> None:
    """Insert B's e-mail address: keys contain the tenant, so it is free."""
    insert = "INSERT INTO {b_schema}.customers (id, email) VALUES ({id}, '{mail}') ON CONFLICT DO NOTHING RETURNING 1"
    for key, mail in (("505", "x"), ("506", "bravo-505@example.com")):
        assert attacker.run(insert.replace("{id}", key).replace("{mail}", mail)).rows == [(1,)]
    assert attacker.run("INSERT INTO {b_schema}.customers (id, email) VALUES (507, 'bravo-507@x')").error is None


@attack("I064", "Rows removed by a filter")
def test_i064_rows_removed(wall: Wall, attacker: Attacker) -> None:
    """EXPLAIN ANALYZE counts what a filter removed: the same for a value of B's and one that nobody has."""
    for scan in SCANS.values():
        attacker.run("SELECT 1")
        attacker.conn.execute(scan)
        for column in ("email", "secret", "profile::text"):
            query = f"SELECT * FROM {{b_schema}}.customers WHERE {column} = '{{g}}'"
            assert trace(attacker, query, "bravo-505@example.com") == trace(attacker, query, "bravo-x@example.com")


@attack("I065", "Search with range counts")
def test_i065_extraction(attacker: Attacker) -> None:
    """Count rows removed over ranges of B's values, with every index that there is."""
    for scan in SCANS.values():
        attacker.run("SELECT 1")
        attacker.conn.execute(scan)
        removed = set()
        for bound in ("bravo", "bravo-505@example.com", "bravo-51", "bravo-9", "zzz"):
            text = attacker.run(f"{PLAN} SELECT 1 FROM {{b_schema}}.customers WHERE email >= '{bound}'").text
            removed.add(tuple(re.findall(r"Rows Removed by Filter: \d+", text)))
        assert len(removed) == 1


@attack(
    "I067",
    "Estimates of the planner",
    state="residual",
    reason="PostgreSQL estimates from statistics of all rows of a table: how frequent a guessed value is and, by"
    " bisection, values at the bounds of the histogram. SET STATISTICS 0 on sensitive columns or a database of its own"
    " close it",
)
def test_i067_estimates(wall: Wall, attacker: Attacker) -> None:
    """EXPLAIN a range of values; the estimate tells how many rows lie in it."""

    def estimate(bound: str) -> int:
        row = attacker.run(f"EXPLAIN SELECT 1 FROM {{b_schema}}.customers WHERE secret < '{bound}'").rows[0][0]
        return int(re.findall(r"rows=(\d+)", row)[0])

    if wall.shares_backend:
        assert estimate("bravo-secret-505") < estimate("bravo-secret-515")


@attack("I068", "Statistics of columns")
def test_i068_pg_stats(wall: Wall, attacker: Attacker) -> None:
    """pg_stats and the extended statistics, of tables and of partitions."""
    for view in ("pg_stats", "pg_stats_ext", "pg_stats_ext_exprs"):
        loot = attacker.run(f"SELECT * FROM {view} WHERE schemaname IN ('{{a_schema}}', '{{b_schema}}')")
        assert {row[1] for row in loot.rows} <= {"countries"}
    for table in ("pg_statistic", "pg_statistic_ext_data"):
        refused(attacker.run(f"SELECT * FROM {table}"))


@attack(
    "I069",
    "Sizes and counters",
    state="residual",
    reason="PostgreSQL shows the size of every table and how many rows it has and has changed. In pooled tables that is"
    " the sum over all tenants; a tenant with a schema of its own shows its own numbers to its neighbours",
)
def test_i069_volume(attacker: Attacker) -> None:
    """pg_class, pg_stat_user_tables, pg_relation_size()."""
    assert attacker.run("SELECT reltuples FROM pg_class WHERE oid = '{b_schema}.orders'::regclass").rows[0][0] > 0
    assert attacker.run("SELECT pg_relation_size('{b_schema}.orders')").rows[0][0] > 0


@attack(
    "I070",
    "Numbers of a sequence",
    state="residual",
    reason="ids from one sequence tell how fast it runs, and whoever may insert may look. Use random ids (uuid) where"
    " growth is a secret",
)
def test_i070_sequence(attacker: Attacker) -> None:
    """pg_sequences, and the distance of two own ids."""
    assert attacker.run("SELECT last_value FROM pg_sequences WHERE schemaname = '{b_schema}'").rows


@attack("I071", "The time that a row takes")
def test_i071_same_path(attacker: Attacker) -> None:
    """The plan for an id of B and for one that nobody has does the same work (times are not measured)."""
    query = "SELECT * FROM {b_schema}.orders WHERE company_id = {a} AND id = {g}"
    assert trace(attacker, query, "505") == trace(attacker, query, "9505")


@attack("I072", "Exclusion constraints")
def test_i072_exclusion(attacker: Attacker) -> None:
    """A room at the same time as B's: the constraint contains the tenant."""
    attacker.run("DELETE FROM {b_schema}.bookings")
    assert attacker.run("INSERT INTO {b_schema}.bookings (room) VALUES (1)").error is None
    refused(attacker.run("INSERT INTO {b_schema}.bookings (room) VALUES (1)"), "23505", "23P01")


CLOSED = [
    "SELECT * FROM pg_stat_activity",
    "SELECT * FROM pg_stat_get_activity(NULL)",
    "SELECT pg_stat_get_backend_activity(1)",
    "SELECT pg_stat_get_backend_pid(1)",
    "SELECT * FROM pg_stat_ssl",
    "SELECT * FROM pg_stat_gssapi",
    "SELECT * FROM pg_stat_replication",
    "SELECT * FROM pg_stat_progress_copy",
    "SELECT * FROM pg_locks",
    "SELECT * FROM pg_lock_status()",
    "SELECT pg_blocking_pids(1)",
    "SELECT pg_safe_snapshot_blocking_pids(1)",
    "SELECT pg_isolation_test_session_is_blocked(1, '{1}')",
    "SELECT * FROM pg_prepared_xacts",
    "SELECT * FROM pg_replication_slots",
    "SELECT * FROM pg_backend_memory_contexts",
    "SELECT pg_stat_get_xact_tuples_returned('{b_schema}.orders'::regclass)",
    "SELECT * FROM pg_stat_xact_user_tables",
    "SELECT pg_export_snapshot()",
    "SELECT pg_logical_emit_message(false, 'x', 'y')",
    "SELECT pg_notify('x', 'y')",
    "SELECT * FROM pg_subscription",
    "SELECT * FROM pg_user_mapping",
    "SELECT pg_stat_reset()",
    "SELECT pg_log_backend_memory_contexts(1)",
    "SELECT * FROM pg_hba_file_rules",
]


@attack("I073", "Other sessions")
@pytest.mark.parametrize("statement", CLOSED)
def test_i073_other_sessions(attacker: Attacker, statement: str) -> None:
    """Views and functions that tell what others do, or hand something to them."""
    refused(attacker.run(statement))


@attack("I075", "Advisory locks")
@pytest.mark.parametrize(
    "call",
    [
        "pg_advisory_lock(1)",
        "pg_advisory_xact_lock(1)",
        "pg_advisory_lock_shared(1, 2)",
        "pg_try_advisory_lock(1)",
        "pg_try_advisory_xact_lock_shared(1)",
    ],
)
def test_i075_advisory_locks(attacker: Attacker, call: str) -> None:
    """Locks have no tenant, and the fence uses them."""
    refused(attacker.run(f"SELECT {call}"))


@attack(
    "I076",
    "NOTIFY and LISTEN",
    state="residual",
    reason="the commands can't be revoked. Send nothing in a payload but opaque ids, on channels that nobody can guess."
    " What an earlier tenant listened to on a pooled backend, the binding silences",
)
def test_i076_notify(wall: Wall, attacker: Attacker) -> None:
    """Listen to a channel while B notifies."""
    attacker.run("LISTEN jobs")
    attacker.conn.commit()
    victim = wall.bound(wall.b)
    victim.execute("NOTIFY jobs, 'bravo'")
    victim.commit()
    attacker.conn.autocommit = True
    attacker.conn.execute("SELECT 1")
    heard = [notify.payload for notify in attacker.conn.notifies(timeout=0)]
    assert heard == (["bravo"] if wall.shares_backend else [])


@attack("I077", "Large objects")
@pytest.mark.parametrize(
    "call",
    ["lo_create(0)", "lo_creat(-1)", "lo_from_bytea(0, 'x')", "lo_get(1)", "lo_put(1, 0, 'x')", "lo_open(1, 131072)"],
)
def test_i077_large_objects(attacker: Attacker, call: str) -> None:
    """They belong to a role, not to a tenant."""
    refused(attacker.run(f"SELECT {call}"))
    refused(attacker.run("SELECT * FROM pg_largeobject_metadata"))


@attack("I078", "End other sessions")
def test_i078_terminate(wall: Wall, attacker: Attacker) -> None:
    """pg_cancel_backend() and pg_terminate_backend() work on sessions of the same role."""
    victim = wall.bound(wall.b)
    for function in ("pg_cancel_backend", "pg_terminate_backend"):
        refused(attacker.run(f"SELECT {function}({victim.info.backend_pid})"))
    victim.execute("SELECT 1")


@attack("I210", "Snapshots of others")
def test_i210_snapshots(attacker: Attacker) -> None:
    """Import a snapshot by its guessed name."""
    for name in ("00000003-00000001-1", "00000003-0000001B-1"):
        loot = attacker.raw(f"ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{name}'")
        assert loot.sqlstate in ("22023", "42704")
        attacker.conn.rollback()


@attack("I211", "Parallel workers")
def test_i211_parallel(wall: Wall, attacker: Attacker, stranger: Attacker) -> None:
    """The binding reaches parallel workers, and only this one."""
    force = "debug_parallel_query" if wall.version >= 16 else "force_parallel_mode"
    settings = f"SET LOCAL {force} = on; SET LOCAL parallel_setup_cost = 0; SET LOCAL min_parallel_table_scan_size = 0"
    settings += "; SET LOCAL parallel_tuple_cost = 0"
    for one in (attacker, stranger):
        one.run("SELECT 1")
        one.conn.execute(settings)
    assert "Gather" in attacker.run("EXPLAIN SELECT * FROM {b_schema}.orders").text
    blind(attacker.run("SELECT * FROM {b_schema}.orders"), wall)
    only_a(attacker.run("SELECT * FROM {a_schema}.orders o JOIN {a_schema}.customers c ON c.id = o.customer"), wall)
    assert attacker.run(
        "SELECT count(*) FROM {a_schema}.orders WHERE company_id = tenantry.current_tenant_v1()"
    ).rows == [(20,)]
    refused(stranger.run("SELECT count(*) FROM {b_schema}.orders"))
    refused(stranger.run("SELECT tenantry.current_tenant_v1()"))


@attack("I212", "Plans without running them")
def test_i212_explain(wall: Wall, attacker: Attacker, stranger: Attacker) -> None:
    """EXPLAIN in all its forms shows no row, bound or not."""
    options = ["VERBOSE", "SETTINGS", "FORMAT JSON", "FORMAT XML", "ANALYZE, WAL", "ANALYZE, BUFFERS, VERBOSE"]
    if wall.version >= 16:
        options.append("GENERIC_PLAN")
    if wall.version >= 17:
        options += ["ANALYZE, SERIALIZE", "ANALYZE, MEMORY"]
    for option in options:
        for one in (attacker, stranger):
            blind(one.run(f"EXPLAIN ({option}) SELECT * FROM {{b_schema}}.customers WHERE id > 0"), wall)


@attack("I213", "A hanging lock as a signal")
def test_i213_row_locks(wall: Wall, attacker: Attacker) -> None:
    """B holds locks on all its rows; A's statements that would touch them do not wait."""
    victim = wall.bound(wall.b)
    victim.execute("SELECT * FROM customers FOR UPDATE")
    attacker.run("SET LOCAL lock_timeout = '2s'")
    for statement in (
        "SELECT * FROM {b_schema}.customers FOR UPDATE NOWAIT",
        "UPDATE {b_schema}.customers SET email = email WHERE id >= 500",
        "DELETE FROM {b_schema}.customers WHERE company_id = {b}",
        "INSERT INTO {b_schema}.customers (id, email) VALUES (505, 'bravo-505@example.com')",
    ):
        loot = attacker.run(statement)
        assert not isinstance(loot.error, psycopg.errors.LockNotAvailable), loot.error
