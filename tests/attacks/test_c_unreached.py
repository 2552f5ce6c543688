"""Tables that row security does not reach"""

from __future__ import annotations

import pytest

from tests.attacks.attacker import Attacker, blind, refused
from tests.fixtures.walls import Wall

attack = pytest.mark.attack


@attack("I039", "A partition by its own name")
@pytest.mark.parametrize("table", ["events_2025", "events_2026"])
def test_i039_partition(wall: Wall, attacker: Attacker, stranger: Attacker, table: str) -> None:
    """SELECT and writes on partitions; and if somebody grants one, its own policy still holds."""
    for statement in ("SELECT * FROM {t}", "DELETE FROM {t}", "UPDATE {t} SET payload = '1'", "COPY {t} TO STDOUT"):
        refused(attacker.run(statement.replace("{t}", "{b_schema}." + table)))
    do = "GRANT ALL ON {b_schema}.{t} TO tenantry_app".replace("{t}", table)
    with wall.scenery(do, do.replace("GRANT", "REVOKE").replace(" TO ", " FROM ")):
        blind(attacker.run(f"SELECT * FROM {{b_schema}}.{table}"), wall)
        refused(stranger.run(f"SELECT * FROM {{b_schema}}.{table}"))


@attack("I041", "A child table by its own name")
def test_i041_child(wall: Wall, attacker: Attacker) -> None:
    """A table that inherits from another."""
    refused(attacker.run("SELECT * FROM {b_schema}.contracts"))
    blind(attacker.run("SELECT * FROM {b_schema}.documents"), wall)
    blind(attacker.run("SELECT * FROM ONLY {b_schema}.documents"), wall)


@attack("I042", "A table without the tenant column")
def test_i042_table_without_tenant(attacker: Attacker) -> None:
    """A table of the application that nobody has thought about is closed, and a finding of check."""
    for statement in ("SELECT * FROM {t}", "INSERT INTO {t} (line) VALUES ('x')", "DELETE FROM {t}"):
        refused(attacker.run(statement.replace("{t}", "{b_schema}.audit_log")))


@attack("I043", "A shared table")
def test_i043_shared_table(wall: Wall, attacker: Attacker) -> None:
    """Tables that are declared as shared can be read, not written."""
    assert len(attacker.run("SELECT * FROM {b_schema}.countries").rows) == 2
    for statement in (
        "INSERT INTO {t} VALUES ('x', 'x')",
        "UPDATE {t} SET name = 'x'",
        "DELETE FROM {t}",
        "TRUNCATE {t}",
        "SELECT * FROM {t} FOR UPDATE",
        "LOCK TABLE {t} IN ROW EXCLUSIVE MODE",
    ):
        refused(attacker.run(statement.replace("{t}", "{b_schema}.countries")))


@attack("I044", "Another way into the server")
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE EXTENSION dblink",
        "CREATE EXTENSION postgres_fdw",
        "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw",
        "CREATE FOREIGN DATA WRAPPER w",
        "CREATE SUBSCRIPTION s CONNECTION 'dbname=postgres' PUBLICATION p",
        "COPY (SELECT 1) TO PROGRAM 'id'",
        "COPY {a_schema}.orders FROM PROGRAM 'id'",
        "COPY (SELECT 1) TO '/tmp/x'",
        "CREATE LANGUAGE plperlu",
        "LOAD '/tmp/evil.so'",
        "SELECT pg_ls_dir('/')",
        "SELECT lo_import('/etc/passwd')",
    ],
)
def test_i044_other_ways(attacker: Attacker, statement: str) -> None:
    """Extensions, foreign servers, programs, files, libraries."""
    assert attacker.run(statement).sqlstate in ("42501", "58P01", "0A000", "42704", "25001")


READS = [
    "SELECT * FROM {t}",
    "TABLE {t}",
    "SELECT t::text FROM {t} t",
    "SELECT to_jsonb(t) FROM {t} t",
    "SELECT jsonb_agg(t) FROM {t} t",
    "SELECT * FROM {t} TABLESAMPLE SYSTEM (100)",
    "SELECT * FROM {t} TABLESAMPLE BERNOULLI (100) REPEATABLE (1)",
    "SELECT * FROM {t} FOR UPDATE",
    "SELECT * FROM {t} FOR KEY SHARE SKIP LOCKED",
    "COPY (SELECT * FROM {t}) TO STDOUT",
    "WITH x AS MATERIALIZED (SELECT * FROM {t}) SELECT * FROM x",
    "SELECT * FROM {t} a LEFT JOIN {t} b ON a.company_id <> b.company_id",
    "SELECT * FROM {t} WHERE company_id = {b}",
    "SELECT * FROM {t} WHERE company_id IS DISTINCT FROM {a} OR true",
    "SELECT * FROM {t} UNION ALL SELECT * FROM {t}",
    "SELECT (SELECT array_agg(x::text) FROM {t} x) FROM {t}",
    "SELECT x.* FROM generate_series(1, 3), LATERAL (SELECT * FROM {t}) x",
    "DECLARE c CURSOR FOR SELECT * FROM {t}; FETCH ALL FROM c",
    "DECLARE c SCROLL CURSOR FOR SELECT * FROM {t}; MOVE LAST FROM c; FETCH BACKWARD ALL FROM c",
    "DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM {t} LOOP RAISE NOTICE '%', r; END LOOP; END $$",
    "EXPLAIN (ANALYZE, VERBOSE, BUFFERS) SELECT * FROM {t} ORDER BY 1",
    "SELECT count(*), max(t::text), string_agg(t::text, '') FROM {t} t",
    "SELECT * FROM ts_stat('SELECT to_tsvector(t::text) FROM {t} t')",
    "UPDATE {t} SET company_id = company_id RETURNING *",
    "DELETE FROM {t} RETURNING *",
]


@attack("I045", "Every way to read a table")
@pytest.mark.parametrize("statement", READS)
def test_i045_reads(wall: Wall, attacker: Attacker, stranger: Attacker, statement: str) -> None:
    """Cursors, samples, aggregates, locks, joins, COPY, RETURNING, EXPLAIN: none brings a row of B."""
    for table in ("customers", "orders", "events", "documents"):
        blind(attacker.run(statement.replace("{t}", "{b_schema}." + table)), wall)
        attacker.conn.rollback()
        loot = stranger.run(statement.replace("{t}", "{b_schema}." + table))
        refused(loot)
        stranger.conn.rollback()


@attack("I045", "Rows by their place")
def test_i045_ctid(wall: Wall, attacker: Attacker) -> None:
    """Rows of B by ctid, and their system columns."""
    places = "ARRAY(SELECT format('(%s,%s)', p, n)::tid FROM generate_series(0, 2) p, generate_series(1, 60) n)"
    loot = attacker.run(f"SELECT ctid, xmin, xmax, tableoid, * FROM {{b_schema}}.orders WHERE ctid = ANY ({places})")
    assert loot.error is None
    assert all(row[4] == wall.a.key for row in loot.rows)
    blind(attacker.run("SELECT * FROM {b_schema}.orders WHERE ctid >= '(0,20)'"), wall)


@attack("I045", "XML of tables and schemas")
@pytest.mark.parametrize(
    "call",
    [
        "table_to_xml('{b_schema}.orders', true, true, '')",
        "schema_to_xml('{b_schema}', true, true, '')",
        "query_to_xml('SELECT * FROM {b_schema}.orders', true, true, '')",
        "database_to_xml(true, true, '')",
        "cursor_to_xml('c', 100, true, true, '')",
    ],
)
def test_i045_xml(wall: Wall, attacker: Attacker, call: str) -> None:
    """PostgreSQL's functions that write whole tables as XML."""
    blind(attacker.run(f"SELECT {call}"), wall)


@attack("I046", "COPY FROM")
def test_i046_copy_from(attacker: Attacker) -> None:
    """Bulk loading goes past row security in PostgreSQL, so it is refused."""
    refused(attacker.run("COPY {b_schema}.orders FROM STDIN"), "0A000")


@attack("I205", "Versions of a row")
def test_i205_currtid(attacker: Attacker) -> None:
    """currtid2() follows the versions of any row of a table without asking row security."""
    refused(attacker.run("SELECT currtid2('{b_schema}.orders', '(0,25)'::tid)"))
