"""Break one thing: the plan names it, applying closes it, and then nothing is left to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tenantry.model import BindingMode, Isolation
from tenantry.perimeter.plan import Finding
from tenantry.postgres import sqlfile
from tests.fixtures.servers import fresh_database
from tests.fixtures.walls import Variant, Wall, build_in, run_apply, run_plan

HERE = Path(__file__).parent
BROKEN, FOUND, NOT_FOUND = (
    sqlfile.parse((HERE / f"{name}.sql").read_text("utf-8")) for name in ("broken", "found", "not_found")
)
VARIANTS = [
    Variant("server", BindingMode.SEALED, Isolation.POOLED),
    Variant("server15", BindingMode.SIGNED, Isolation.POOLED),
]


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def wall(request: pytest.FixtureRequest) -> Iterator[Wall]:
    """One database for all tests of this file: each leaves it closed again."""
    variant = request.param
    with (
        fresh_database(request.getfixturevalue(variant.server)) as database,
        Wall.of(build_in(database, variant.mode)) as wall,
    ):
        yield wall


def expected(section: str) -> tuple[str, str, str]:
    """A section's first line, ``-- object: part of the text``, and its statements."""
    first, _, statements = section.partition("\n")
    name, _, word = first.removeprefix("-- ").partition(": ")
    return name, word, statements


@contextmanager
def made(admin: psycopg.Connection, statements: str, wall: Wall) -> Iterator[set[Finding]]:
    """Run the statements before ``-- undo``, give the findings that are new, and run those after it."""
    do, _, undo = statements.partition("-- undo")
    before = set(wall.plan().findings)
    admin.execute(do)
    try:
        yield set(wall.plan().findings) - before
    finally:
        admin.execute(undo)
    assert set(wall.plan().findings) == before


@pytest.fixture
def admin(wall: Wall) -> Iterator[psycopg.Connection]:
    """A superuser; whatever the test does, the wall is closed afterwards."""
    conn = wall.admin()
    conn.execute("SET search_path = app")
    yield conn
    conn.close()
    wall.apply()


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named_and_closed(wall: Wall, admin: psycopg.Connection, case: str) -> None:
    name, word, statements = expected(BROKEN[case])
    assert wall.plan().changes == ()
    admin.execute(statements)
    changes = wall.plan().changes
    named = [change for change in changes if change.object.startswith(name) and word in change.why]
    assert named, [(change.object, change.why) for change in changes]
    assert set(named) <= set(wall.apply().changes)
    assert wall.plan().changes == ()


@pytest.mark.parametrize("case", FOUND)
def test_what_only_the_application_can_close_is_found(wall: Wall, admin: psycopg.Connection, case: str) -> None:
    name, word, statements = expected(FOUND[case])
    with made(admin, statements, wall) as new:
        assert any(finding.object == name and word in finding.what and finding.fix for finding in new), new


@pytest.mark.parametrize("case", NOT_FOUND)
def test_what_is_no_hole_is_not_found(wall: Wall, admin: psycopg.Connection, case: str) -> None:
    with made(admin, NOT_FOUND[case], wall) as new:
        assert new == set()


def test_a_collation_that_takes_different_keys_for_one_is_found(wall: Wall, admin: psycopg.Connection) -> None:
    try:
        admin.execute("CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL has no ICU")
    table = "CREATE TABLE x (company_id text COLLATE folded NOT NULL PRIMARY KEY);\n-- undo\nDROP TABLE x"
    with made(admin, table, wall) as new:
        assert any(finding.object == "app.x" and "the same one" in finding.what for finding in new)
    admin.execute("DROP COLLATION folded")


def test_a_membership_that_another_role_has_granted_is_revoked(wall: Wall, admin: psycopg.Connection) -> None:
    if wall.version < 16:
        pytest.skip("grants of roles have a grantor since PostgreSQL 16")
    admin.execute("CREATE ROLE \"Odd 'one'\" ROLE tenantry_sec")
    admin.execute("GRANT tenantry_owner TO \"Odd 'one'\" WITH ADMIN OPTION")
    admin.execute("GRANT tenantry_owner TO tenantry_app GRANTED BY \"Odd 'one'\"")
    wall.apply()
    assert wall.plan().changes == ()
    admin.execute("REVOKE tenantry_owner FROM \"Odd 'one'\"; DROP ROLE \"Odd 'one'\"")


def test_grants_to_roles_with_odd_names_are_revoked(wall: Wall, admin: psycopg.Connection) -> None:
    admin.execute('CREATE ROLE "Odd ""one"; GRANT SELECT ON tenantry_priv.signing_keys TO "Odd ""one"')
    admin.execute('GRANT USAGE ON SCHEMA tenantry_priv TO "Odd ""one"')
    admin.execute('GRANT EXECUTE ON FUNCTION tenantry_priv.seal_v1(text) TO "Odd ""one"')
    admin.execute('GRANT SET ON PARAMETER backtrace_functions TO "Odd ""one"')
    wall.apply()
    assert wall.plan().changes == ()
    admin.execute('DROP OWNED BY "Odd ""one"; DROP ROLE "Odd ""one"')  # in signed mode the parameter's grant is left


def test_other_schemas_of_tenants_are_no_stray_ones(wall: Wall, admin: psycopg.Connection) -> None:
    """A wall is closed schema by schema; the others, closed before, are not reported again and again."""
    admin.execute(
        "CREATE SCHEMA t_2; CREATE TABLE t_2.orders (company_id bigint NOT NULL PRIMARY KEY);"
        " CREATE TABLE t_2.countries (code text); CREATE VIEW t_2.v AS SELECT * FROM t_2.orders"
    )
    dsn = wall.server.dsn(wall.a.database)
    before = wall.plan().findings
    run_apply(dsn, wall.house, wall.mode, ["t_2"])
    assert wall.plan().findings == before
    assert wall.plan().changes == ()
    assert run_plan(dsn, wall.house, wall.mode, ["t_2"]).changes == ()
    admin.execute("DROP SCHEMA t_2 CASCADE")


def test_the_plan_is_a_script_that_closes_the_wall(wall: Wall, admin: psycopg.Connection) -> None:
    admin.execute("ALTER TABLE orders DISABLE ROW LEVEL SECURITY; GRANT ALL ON customers TO PUBLIC")
    admin.execute("ALTER FUNCTION tenantry.bind_v1(text, boolean) SECURITY INVOKER; RESET search_path")
    plan = wall.plan()
    assert not plan.closed
    admin.execute(plan.as_sql())
    assert wall.plan().changes == ()
