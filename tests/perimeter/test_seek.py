"""Seeks: an index asks for them, the perimeter makes them, and they find what the condition finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tenantry.model import BindingMode, House, KeyType
from tenantry.perimeter.seek import function_name
from tenantry.postgres import sqlfile
from tests.fixtures.servers import fresh_database
from tests.fixtures.walls import Wall, build_in

TABLES = sqlfile.parse(Path(__file__).with_suffix(".sql").read_text("utf-8"))
HOUSE = House(KeyType.BIGINT, "company_id", "app")
SOUGHT = {
    "like": ("note LIKE {}", ["%bc1%", "a%", "%", "x_x%", "", "zz", "100\\%"]),
    "ilike": ("note ILIKE {}", ["%BC1%", "A%"]),
    "match": ("body @@ {}::tsquery", ["one", "one & two", "one <-> two", "!one", "t:*", "'nine'"]),
    "contains": ("doc @> {}::jsonb", ['{"k": 1}', "{}", '{"n": {"z": [2]}}', "[]"]),
    "has": ("doc ? {}", ["k", "n", "z"]),
    "has_any": ("doc ?| {}::text[]", ["{k,x}", "{x}", "{}"]),
    "has_all": ("doc ?& {}::text[]", ["{k,n}", "{k,x}"]),
    "overlaps": ("tags && {}::int[]", ["{1,2}", "{99}", "{}"]),
    "within": ("tags <@ {}::int[]", ["{1,2,3}", "{}"]),
    "equals": ("mood = {}::app.mood", ["sad", "ok"]),
}
OF_NOBODY = "CREATE FUNCTION seek_all() RETURNS int LANGUAGE sql AS 'SELECT 1'"
COLUMNS = {"like": "note", "ilike": "note", "match": "body", "overlaps": "tags", "within": "tags", "equals": "mood"}


@pytest.fixture(scope="module", params=["server", "server15"])
def wall(request: pytest.FixtureRequest) -> Iterator[Wall]:
    """A wall around a table with one column for each kind of seek, and rows of two tenants."""
    with (
        fresh_database(request.getfixturevalue(request.param)) as database,
        Wall.of(build_in(database, BindingMode.SEALED, HOUSE)) as wall,
    ):
        admin = wall.admin()
        for part in ("table", "indexes", "rows"):
            admin.execute(wall.fill(TABLES[part]))
        wall.apply()
        yield wall


@pytest.fixture
def admin(wall: Wall) -> Iterator[psycopg.Connection]:
    """A superuser; whatever the test does to the wall is undone by applying it."""
    conn = wall.admin()
    conn.execute("SET search_path = app")
    yield conn
    wall.end_transactions()
    wall.apply()
    assert wall.plan().changes == ()


def poll(admin: psycopg.Connection, query: str) -> bool:
    """Whether a count becomes more than nothing."""
    return any((admin.execute(query).fetchone() or (0,))[0] for _ in range(2000))


def functions(admin: psycopg.Connection) -> set[str]:
    query = "SELECT proname FROM pg_proc p JOIN pg_roles r ON r.oid = proowner WHERE rolname = 'tenantry_seek'"
    return {row[0] for row in admin.execute(query)}


@pytest.mark.parametrize("suffix", SOUGHT)
@pytest.mark.parametrize("scan", ["on", "off"])
def test_a_seek_finds_what_the_condition_finds(wall: Wall, suffix: str, scan: str) -> None:
    condition, values = SOUGHT[suffix]
    name = sql.Identifier(function_name("memos", COLUMNS.get(suffix, "doc"), suffix))
    for member in (wall.a, wall.b):
        with wall.bound(member) as conn:
            conn.execute(sql.SQL("SET LOCAL enable_seqscan = {}").format(scan))
            for value in values:
                plain = sql.SQL("SELECT id FROM memos WHERE {}").format(sql.SQL(condition).format(value))
                sought = sql.SQL("SELECT id FROM memos WHERE ctid = ANY ((SELECT {}({}))::tid[])").format(name, value)
                expected = sorted(conn.execute(plain).fetchall())
                assert sorted(conn.execute(sought).fetchall()) == expected, (suffix, value)
    assert wall.plan().findings


def test_a_citext_is_found_in_any_case(wall: Wall) -> None:
    with wall.bound() as conn:
        place = "ctid = ANY ((SELECT seek_memos__email__equals('USER3@example.COM'))::tid[])"
        assert conn.execute(f"SELECT count(*) FROM memos WHERE {place}").fetchone() == (7,)


def test_only_operators_that_no_row_makes_fail_have_seeks(wall: Wall, admin: psycopg.Connection) -> None:
    made = {name.removeprefix("seek_memos__").replace("__", " ") for name in functions(admin)}
    assert made == {
        *("note like", "note ilike", "body match", "email equals", "mood equals"),
        *(f"doc {each}" for each in ("contains", "has", "has_any", "has_all")),
        *(f"tags {each}" for each in ("contains", "within", "overlaps")),
    }


def test_the_tenant_is_asked_for_before_the_operator(wall: Wall, admin: psycopg.Connection) -> None:
    (body,) = admin.execute("SELECT prosrc FROM pg_proc WHERE proname = 'seek_memos__note__like'").fetchone() or ()
    query = body.rpartition("RETURN (")[2].partition(");")[0].replace("bound", "7::bigint").replace("value", "'%x%'")
    admin.execute("SET enable_indexscan = off; SET enable_bitmapscan = off")
    plan = "\n".join(row[0] for row in admin.execute(f"EXPLAIN {query}"))
    assert "Filter: ((company_id OPERATOR(tenantry.===) '7'::bigint)" in plan


def test_a_seek_uses_the_tenants_own_index(wall: Wall, admin: psycopg.Connection) -> None:
    admin.execute(
        wall.fill(
            "CREATE INDEX own_seek ON memos USING gin (company_id, note public.gin_trgm_ops) WHERE company_id = {a}"
        )
    )
    wall.apply()
    used = []
    for member in (wall.b, wall.a):
        conn = wall.bound(member)
        conn.execute("SET LOCAL enable_seqscan = off")
        conn.execute("SELECT seek_memos__note__like('%bc1%')")
        conn.close()  # its statistics are there now
        scans = "SELECT pg_stat_get_numscans('app.own_seek'::regclass)"
        used.append(poll(admin, scans) if member is wall.a else admin.execute(scans).fetchone() == (1,))
    assert used == [False, True]
    admin.execute("DROP INDEX own_seek")


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("DROP FUNCTION seek_memos__note__like(text)", "is missing"),
        ("ALTER FUNCTION seek_memos__note__like(text) RESET search_path", "differs"),
        ("ALTER FUNCTION seek_memos__note__like(text) IMMUTABLE", "differs"),
        ("GRANT EXECUTE ON FUNCTION seek_memos__note__like(text) TO PUBLIC", "public may execute it"),
        ("REVOKE EXECUTE ON FUNCTION seek_memos__note__like(text) FROM tenantry_app", "can't be executed"),
        ("REVOKE SELECT ON memos FROM tenantry_seek", "tenantry_seek must have SELECT"),
        ("GRANT UPDATE ON memos TO tenantry_seek", "tenantry_seek has UPDATE"),
        ("GRANT SELECT ON customers TO tenantry_seek", "tenantry_seek has SELECT"),
        ("REVOKE USAGE ON SCHEMA app FROM tenantry_seek", "tenantry_seek must use it"),
        ("ALTER ROLE tenantry_seek LOGIN", "wrong attributes: login"),
        ("GRANT tenantry_seek TO tenantry_app", "can become tenantry_seek"),
        ("ALTER INDEX memos_words_seek RENAME TO memos_words", "no index asks for it"),
        (f"{OF_NOBODY}; ALTER FUNCTION seek_all() OWNER TO tenantry_seek", "no index asks for it"),
    ],
)
def test_what_is_broken_is_named_and_mended(wall: Wall, admin: psycopg.Connection, broken: str, why: str) -> None:
    before = functions(admin)
    admin.execute(broken)
    assert any(why in change.why for change in wall.plan().changes), wall.plan().changes
    wall.apply()
    admin.execute("ALTER INDEX IF EXISTS memos_words RENAME TO memos_words_seek")
    wall.apply()
    assert functions(admin) == before


def test_a_table_with_narrower_policies_has_no_seeks(wall: Wall, admin: psycopg.Connection) -> None:
    admin.execute("CREATE POLICY zz ON memos AS RESTRICTIVE USING (id > 0)")
    wall.apply()
    assert functions(admin) == set()
    assert any("other policies" in finding.what for finding in wall.plan().findings)
    admin.execute("DROP POLICY zz ON memos")


def test_words_that_tenants_share_are_a_finding_and_those_of_one_are_not(wall: Wall, admin: psycopg.Connection) -> None:
    shared = [finding for finding in wall.plan().findings if "all tenants' words" in finding.what]
    assert {finding.what.split()[0] for finding in shared} == {"memos_words_seek"}
    admin.execute("UPDATE tenantry.residents SET state = 'moved' WHERE code <> '7'")
    assert not [finding for finding in wall.plan().findings if "all tenants' words" in finding.what]
    admin.execute("UPDATE tenantry.residents SET state = 'open'")


def test_indexes_that_do_not_begin_with_the_tenant_ask_in_vain(wall: Wall, admin: psycopg.Connection) -> None:
    before = functions(admin)
    admin.execute("CREATE INDEX vain_seek ON orders USING gin (note public.gin_trgm_ops)")
    admin.execute("CREATE INDEX other_seek ON orders USING gin (company_id, note public.gin_trgm_ops) WHERE id > 5")
    assert wall.plan().changes == ()
    assert functions(admin) == before
    admin.execute("DROP INDEX vain_seek, other_seek")


def test_partitions_have_seeks_by_their_parent(wall: Wall, admin: psycopg.Connection) -> None:
    admin.execute("CREATE INDEX events_payload_seek ON events USING gin (company_id, payload)")
    wall.apply()
    with wall.bound() as conn:
        query = "SELECT count(*) FROM events WHERE {} payload @> '{{\"n\": 2}}'"
        place = "ctid = ANY ((SELECT seek_events__payload__contains('{\"n\": 2}'))::tid[]) AND"
        assert conn.execute(query.format(place)).fetchone() == conn.execute(query.format("")).fetchone() == (1,)
    admin.execute("DROP INDEX events_payload_seek")


def test_names_that_could_be_taken_for_each_other_are_told_apart() -> None:
    names = {
        function_name(table, column, "like")
        for table, column in (("a__b", "c"), ("a", "b__c"), ("a_", "b"), ("a", "_b"), ("a", "b"), ("A", "b"))
    }
    assert len(names) == 6
    assert function_name("notes", "body", "match") == "seek_notes__body__match"
    assert len(function_name("n" * 60, "ä" * 20, "like").encode()) <= 63
