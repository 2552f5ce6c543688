"""Seeks: functions that see the rows of all tenants"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tenantry.model import Isolation
from tests.attacks.attacker import Attacker, blind, only_a, refused
from tests.attacks.test_e_oracles import SCANS, trace
from tests.fixtures.walls import Variant, Wall, Walled, build, variants

attack = pytest.mark.attack

INDEXES = """
CREATE SCHEMA extensions;
CREATE EXTENSION btree_gin SCHEMA extensions;
CREATE EXTENSION pg_trgm SCHEMA extensions;
CREATE INDEX IF NOT EXISTS words_seek ON {a_schema}.customers
  USING gin (company_id, email extensions.gin_trgm_ops, profile, tags);
CREATE INDEX IF NOT EXISTS words_seek ON {b_schema}.customers
  USING gin (company_id, email extensions.gin_trgm_ops, profile, tags);
CREATE INDEX IF NOT EXISTS stage_seek ON {a_schema}.orders (company_id, stage);
CREATE INDEX IF NOT EXISTS stage_seek ON {b_schema}.orders (company_id, stage);
"""
CALLS = {
    "LIKE": "customers__email__like('%{g}%')",
    "ILIKE": "customers__email__ilike('%{g}%')",
    "jsonb contains": "customers__profile__contains(jsonb_build_object('word', '{g}'))",
    "jsonb has": "customers__profile__has('{g}')",
    "array overlaps": "customers__tags__overlaps(ARRAY['{g}'])",
    "array contains": "customers__tags__contains(ARRAY['{g}'])",
}
call = pytest.mark.parametrize("kind", CALLS)
KNOWN, UNKNOWN = "bravo", "brave"
ALL_PLACES = "ARRAY(SELECT format('(%s,%s)', p, n)::tid FROM generate_series(0, 9) p, generate_series(1, 99) n)"


def seek(kind: str, word: str, schema: str = "{b_schema}") -> str:
    """The call of a seek in B's home."""
    return f"{schema}.seek_{CALLS[kind].replace('{g}', word)}"


@pytest.fixture(scope="module", params=variants(Isolation.POOLED, Isolation.SCHEMA))
def walled(request: pytest.FixtureRequest) -> Walled:
    """A wall with indexes that ask for seeks, which the perimeter has made."""
    variant: Variant = request.param
    server = request.getfixturevalue(variant.server)
    made = build(server, variant.mode, variant.level, f"seeks_{variant.mode}_{variant.level}")
    with Wall.of(made) as wall:
        wall.admin().execute(wall.fill(INDEXES))
        wall.apply()
    return made


@pytest.fixture
def wall(walled: Walled) -> Iterator[Wall]:
    """A test leaves it as it was."""
    with Wall.of(walled) as wall:
        yield wall
        wall.end_transactions()
        wall.admin().execute(wall.fill("DROP INDEX IF EXISTS {a_schema}.own_seek, {b_schema}.own_seek"))
        wall.apply()
        assert wall.plan().changes == ()


@attack("I223", "Seek while bound to nobody")
def test_i223_unbound(stranger: Attacker) -> None:
    """Every seek, also for nothing."""
    for kind in CALLS:
        refused(stranger.run(f"SELECT {seek(kind, KNOWN)}"))
    refused(stranger.run("SELECT {b_schema}.seek_customers__email__like(NULL)"))


@attack("I224", "Seek for B's words")
def test_i224_words(wall: Wall, attacker: Attacker) -> None:
    """Places of rows come back for A's words only; and who names places of B's rows by himself gets A's rows."""
    for kind in CALLS:
        assert attacker.run(f"SELECT {seek(kind, KNOWN)}").rows == [(None,)]
        own = attacker.run(f"SELECT {seek(kind, 'alpha', '{a_schema}')}").rows
        assert (own == [(None,)]) is (kind == "jsonb has"), kind
    mine = f"SELECT email FROM {{a_schema}}.customers WHERE ctid = ANY (({seek('LIKE', 'a', '{a_schema}')}))"
    only_a(attacker.run(mine), wall)
    assert attacker.run("SELECT {a_schema}.seek_orders__stage__equals('void')").rows == [(None,)]
    for query in ("SELECT email FROM {b_schema}.customers", "DELETE FROM {b_schema}.customers"):
        end = " RETURNING email" if query.startswith("DELETE") else ""
        blind(attacker.run(f"{query} WHERE ctid = ANY ({ALL_PLACES}){end}"), wall)


@attack("I225", "Errors that a row causes in a seek")
def test_i225_errors(attacker: Attacker) -> None:
    """PostgreSQL complains of a pattern that ends in its escape character when a row gets it so far. And other
    arguments that are none."""
    for start in ("bravo-51", "brave-51", "", "%"):
        for kind in ("like", "ilike"):
            loot = attacker.run(rf"SELECT {{b_schema}}.seek_customers__email__{kind}('{start}\')")
            assert loot.sqlstate == "22025"
            assert str(loot.error).startswith("LIKE pattern must not end with escape character")
    for bad in ("seek_orders__stage__equals('bravo')", "seek_customers__profile__contains('bravo')"):
        assert (attacker.run(f"SELECT {{b_schema}}.{bad}").sqlstate or "").startswith("22P0")


@attack("I226", "What a seek leaves in plans")
@call
@pytest.mark.parametrize("scan", SCANS)
def test_i226_plans(attacker: Attacker, kind: str, scan: str) -> None:
    """Rows, what was removed and what never ran, for a word that B has and for one that nobody has."""
    attacker.run("SELECT 1")
    attacker.conn.execute(SCANS[scan])
    place = f"ctid = ANY ((SELECT {seek(kind, '{g}')})::tid[])"
    for query in (
        f"SELECT {seek(kind, '{g}')}",
        f"SELECT id FROM {{b_schema}}.customers WHERE {place} AND id > length({{hit}})",
    ):
        assert trace(attacker, query, KNOWN) == trace(attacker, query, UNKNOWN)


def pages(attacker: Attacker, query: str) -> list[str]:
    """The pages that a statement has read, when all is in memory."""
    plan = f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) {query}"
    attacker.run(plan)
    return re.findall(r"(?:hit|read)=\d+", attacker.run(plan).text.partition("Planning")[0])


@attack("I226", "Pages and time of a seek by an index of A's own")
@call
def test_i226_own_index(wall: Wall, attacker: Attacker, kind: str) -> None:
    """An index of one tenant's rows has no words of others: what a seek reads does not depend on them."""
    index = "gin (company_id, email extensions.gin_trgm_ops, profile, tags) WHERE company_id = {a}"
    wall.admin().execute(wall.fill(f"CREATE INDEX own_seek ON {{a_schema}}.customers USING {index}"))
    wall.apply()
    attacker.run("SELECT 1")
    attacker.conn.execute(SCANS["bitmaps"])
    asked = [pages(attacker, f"SELECT {seek(kind, word, '{a_schema}')}") for word in (KNOWN, UNKNOWN)]
    assert asked[0] == asked[1] != []


@attack(
    "I226",
    "Pages and time of a seek by an index that tenants share",
    state="residual",
    reason="a GIN index of several tenants lists the words of all, and a word that others have takes a page more: who"
    " seeks learns that somebody has the word, not who, nor in which row. check finds such an index; give tenants that"
    " search an index of their own, or a schema. B-tree indexes tell nothing",
)
def test_i226_shared_index(wall: Wall, attacker: Attacker) -> None:
    """Count the pages that a seek reads, for a word that B has and for one that nobody has."""
    if wall.level is not Isolation.POOLED:
        pytest.skip("a schema has no words of others")
    insert = "INSERT INTO {a_schema}.customers (company_id, email, tags)"
    many = f"{insert} SELECT {{a}}, n::text, '{{}}' FROM generate_series(1, 20000) n"
    for statement in (many, f"{insert} VALUES ({{b}}, '0', '{{late}}')", "VACUUM ANALYZE {a_schema}.customers"):
        wall.admin().execute(wall.fill(statement))
    attacker.run("SELECT 1")
    attacker.conn.execute(SCANS["bitmaps"])
    known, unknown = (pages(attacker, f"SELECT {seek('array contains', word)}") for word in ("late", "never"))
    attacker.conn.rollback()
    wall.admin().execute(wall.fill("DELETE FROM {a_schema}.customers WHERE length(email) < 6"))
    assert known != unknown


@attack("I227", "Settings and names in the way of a seek")
def test_i227_settings(wall: Wall, attacker: Attacker) -> None:
    """A schema with operators and functions of the same names, first in the search path; settings of the planner."""
    wall.admin().execute(
        "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO tenantry_app;"
        "CREATE FUNCTION evil.yes(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';"
        "CREATE OPERATOR evil.~~ (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.yes);"
        "CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.yes);"
        'CREATE FUNCTION evil."right"(text, int) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT $1$$;'
        "CREATE TABLE evil.customers (company_id text, email text); GRANT SELECT ON evil.customers TO tenantry_app"
    )
    try:
        for setting in (
            "search_path = evil, pg_catalog",
            "row_security = off",
            "plan_cache_mode = force_custom_plan",
            "enable_bitmapscan = off",
            "work_mem = '64kB'",
            "check_function_bodies = off",
        ):
            attacker.run(f"SET LOCAL {setting}")
            for kind in CALLS:
                assert attacker.run(f"SELECT {seek(kind, KNOWN)}").rows == [(None,)], setting
    finally:
        wall.end_transactions()
        wall.admin().execute("DROP SCHEMA evil CASCADE")


@attack("I228", "Become who owns the seeks, or change one")
def test_i228_owner(attacker: Attacker) -> None:
    """SET ROLE, and every command that changes a function."""
    name = "{b_schema}.seek_customers__email__like(text)"
    for statement in (
        "SET ROLE tenantry_seek",
        "SET SESSION AUTHORIZATION tenantry_seek",
        f"ALTER FUNCTION {name} SECURITY INVOKER",
        f"ALTER FUNCTION {name} RESET search_path",
        f"ALTER FUNCTION {name} LEAKPROOF",
        f"ALTER FUNCTION {name} OWNER TO tenantry_app",
        f"DROP FUNCTION {name}",
        f"CREATE OR REPLACE FUNCTION {name} RETURNS tid[] LANGUAGE sql AS 'SELECT array_agg(ctid) FROM customers'",
    ):
        refused(attacker.run(statement))


@attack("I229", "Seek rows that a narrower policy hides")
def test_i229_narrower(wall: Wall, attacker: Attacker) -> None:
    """A policy of the application's own hides rows of A: there is no seek on such a table."""
    wall.admin().execute(wall.fill("CREATE POLICY zz_own ON {a_schema}.customers AS RESTRICTIVE USING (id < 0)"))
    try:
        wall.apply()
        assert attacker.run(f"SELECT {seek('LIKE', 'alpha', '{a_schema}')}").sqlstate == "42883"
    finally:
        wall.end_transactions()
        wall.admin().execute(wall.fill("DROP POLICY zz_own ON {a_schema}.customers"))


@attack("I230", "Count B's rows by the index that B has of its own")
@pytest.mark.parametrize("scan", SCANS)
def test_i230_others_index(wall: Wall, attacker: Attacker, scan: str) -> None:
    """Name B, so that its index may be used; the plan as it ran has met no row."""
    index = "gin (company_id, tags) WHERE company_id = {b}"
    wall.admin().execute(wall.fill(f"CREATE INDEX own_seek ON {{b_schema}}.customers USING {index}"))
    attacker.run("SELECT 1")
    attacker.conn.execute(SCANS[scan])
    for condition in ("company_id = {b}", "company_id = ANY (ARRAY[{b}])", "company_id IN ({b}, {b})"):
        for more in ("", " AND tags @> ARRAY['bravo']"):
            query = f"SELECT count(*) FROM {{b_schema}}.customers WHERE {condition}{more}"
            plan = attacker.run(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {query}").text
            met = [float(rows) for rows in re.findall(r"Index Scan on own_seek.*?actual rows=([\d.]+)", plan)]
            assert not any(met), plan
            assert attacker.run(query).rows == [(0,)]


@attack(
    "I231",
    "What the catalog tells of an index of B's own",
    state="residual",
    reason="PostgreSQL's catalog is open to everybody: that a tenant with this key has an index of its own, how large"
    " it is and how often it is used. Give tenants whose size is a secret a database",
)
def test_i231_catalog(wall: Wall, attacker: Attacker) -> None:
    """pg_indexes, pg_class, pg_relation_size."""
    index = "gin (company_id, tags) WHERE company_id = {b}"
    wall.admin().execute(wall.fill(f"CREATE INDEX own_seek ON {{b_schema}}.customers USING {index}"))
    own = "indexname = 'own_seek' AND schemaname = '{b_schema}'"
    found = attacker.run(f"SELECT pg_relation_size('{{b_schema}}.own_seek'), indexdef FROM pg_indexes WHERE {own}")
    assert wall.a.word not in found.text
    assert str(wall.b.key) in found.text or wall.b.literal in found.text
