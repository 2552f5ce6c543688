"""Who bypasses row security: roles, owners, views, functions"""

from __future__ import annotations

import pytest

from tests.attacks.attacker import Attacker, blind, only_a, refused
from tests.fixtures.walls import Wall

attack = pytest.mark.attack


@attack("I022", "The owner of the tables")
def test_i022_owner(wall: Wall) -> None:
    """Act as the role that owns the tables, as migrations do, without a binding."""
    owner = Attacker(wall, wall.admin(wall.b, autocommit=False))
    owner.conn.execute("SET ROLE tenantry_owner")
    for table in ("customers", "orders", "events", "documents", "events_2026"):
        refused(owner.run(f"SELECT * FROM {{b_schema}}.{table}"))
        refused(owner.run(f"DELETE FROM {{b_schema}}.{table}"))


@attack("I023", "A role with too many rights")
def test_i023_attributes(attacker: Attacker) -> None:
    """What the application's role is, and owns."""
    flags = "rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication, rolinherit"
    assert attacker.run(f"SELECT {flags} FROM pg_roles WHERE rolname = current_user").rows == [(False,) * 6]
    for catalog, column in (("pg_class", "relowner"), ("pg_proc", "proowner"), ("pg_namespace", "nspowner")):
        assert attacker.run(f"SELECT * FROM {catalog} WHERE {column} = current_user::regrole").rows == []


@attack("I024", "Become another role")
@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        *(
            (f"SET ROLE {role}", "42501")
            for role in (
                "postgres",
                "tenantry_owner",
                "tenantry_sec",
                "tenantry_seek",
                "tenantry_admin",
                "tenantry_operator",
            )
        ),
        ("SET LOCAL ROLE tenantry_owner", "42501"),
        ("SELECT set_config('role', 'tenantry_owner', true)", "42501"),
        ("SELECT set_config('session_authorization', 'postgres', false)", "42501"),
        ("SET SESSION AUTHORIZATION postgres", "42501"),
        ("GRANT tenantry_owner TO tenantry_app", "42501"),
        ("GRANT tenantry_app TO tenantry_app", "0LP01"),
        ("ALTER ROLE tenantry_app BYPASSRLS", "42501"),
        ("ALTER ROLE tenantry_app SUPERUSER", "42501"),
        ("ALTER ROLE tenantry_operator PASSWORD 'x'", "42501"),
        ("CREATE ROLE mine", "42501"),
        ("REASSIGN OWNED BY tenantry_app TO tenantry_owner", "42501"),
        ("ALTER TABLE {b_schema}.orders OWNER TO tenantry_app", "42501"),
        ("ALTER TABLE {b_schema}.orders DISABLE ROW LEVEL SECURITY", "42501"),
        ("DROP POLICY tenantry_isolation ON {b_schema}.orders", "42501"),
        ("CREATE POLICY mine ON {b_schema}.orders USING (true)", "42501"),
        ("GRANT SELECT ON {b_schema}.events_2026 TO tenantry_app", "42501"),
    ],
)
def test_i024_set_role(wall: Wall, attacker: Attacker, statement: str, sqlstate: str) -> None:
    """SET ROLE, SET SESSION AUTHORIZATION, GRANT, ALTER ROLE, and changes of the tables that only an owner may make."""
    # A role that is a member of itself is an error of its own; what is to be granted only by an admin says 42501.
    loot = attacker.run(statement)
    assert loot.sqlstate in (sqlstate, "42501"), loot


@attack("I026", "A view of its owner over the tables")
def test_i026_definer_view(wall: Wall) -> None:
    """A view without security_invoker: one that the tables' owner has, and one of a superuser, which check names."""
    view = "CREATE VIEW {b_schema}.loose AS SELECT * FROM {b_schema}.orders;"
    grant = "GRANT SELECT ON {b_schema}.loose TO tenantry_app;"
    owner = "ALTER VIEW {b_schema}.loose OWNER TO tenantry_owner;"
    with (
        wall.scenery(view + owner + grant, "DROP VIEW {b_schema}.loose")
        if wall.shares_backend
        else wall.scenery(view.replace("{b_schema}", "app") + owner + grant, "DROP VIEW app.loose")
    ):
        blind(Attacker(wall, wall.bound()).run("SELECT * FROM {b_schema}.loose"), wall)
        refused(Attacker(wall, wall.unbound()).run("SELECT * FROM {b_schema}.loose"))
    with wall.scenery(view, "DROP VIEW {b_schema}.loose"):
        refused(Attacker(wall, wall.bound()).run("SELECT * FROM {b_schema}.loose"))
        assert any("owner's rights" in change.why for change in wall.plan().changes)


@attack("I028", "A materialized view")
def test_i028_materialized_view(attacker: Attacker) -> None:
    """Totals of all tenants, materialized."""
    refused(attacker.run("SELECT * FROM {b_schema}.order_totals"))
    refused(attacker.run("REFRESH MATERIALIZED VIEW {b_schema}.order_totals"))


FUNCTION = """
CREATE FUNCTION {b_schema}.top_orders() RETURNS SETOF {b_schema}.orders LANGUAGE sql SECURITY DEFINER
  SET search_path = {b_schema}, pg_temp AS 'SELECT * FROM orders ORDER BY amount DESC';
ALTER FUNCTION {b_schema}.top_orders() OWNER TO tenantry_owner;
"""


@attack("I029", "A function with its owner's rights")
def test_i029_definer_function(wall: Wall, attacker: Attacker, stranger: Attacker) -> None:
    """A SECURITY DEFINER function of the tables' owner. One of a superuser is a finding of check."""
    with wall.scenery(FUNCTION, "DROP FUNCTION {b_schema}.top_orders()"):
        blind(attacker.run("SELECT * FROM {b_schema}.top_orders()"), wall)
        refused(stranger.run("SELECT * FROM {b_schema}.top_orders()"))


LEAK = """
CREATE FUNCTION {b_schema}.leak(anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END $$
"""


@attack("I031", "A function that tells what it is given, over a view")
def test_i031_leak_over_view(wall: Wall, attacker: Attacker) -> None:
    """The cheapest possible function in the WHERE of a view; the attacker can't make one."""
    refused(attacker.run("CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE sql RETURN true"), "42501")
    with wall.scenery(LEAK, "DROP FUNCTION {b_schema}.leak(anyelement)"):
        loot = attacker.run("SELECT count(*) FROM {b_schema}.paid_orders WHERE {b_schema}.leak(note)")
        blind(loot, wall)


@attack("I032", "A function that tells what it is given, over a table")
@pytest.mark.parametrize("table", ["customers", "orders", "events", "documents"])
def test_i032_leak_over_table(wall: Wall, attacker: Attacker, table: str) -> None:
    """The same over tables, as WHERE, HAVING, ORDER BY, DISTINCT ON and join condition."""
    with wall.scenery(LEAK, "DROP FUNCTION {b_schema}.leak(anyelement)"):
        name, leak = f"{{b_schema}}.{table} t", "{b_schema}.leak(t::text)"
        for query in (
            f"SELECT 1 FROM {name} WHERE {leak}",
            f"SELECT 1 FROM {name} ORDER BY {leak}",
            f"SELECT DISTINCT ON ({leak}) 1 FROM {name}",
            f"SELECT count(*) FROM {name} GROUP BY t HAVING bool_and({leak})",
            f"SELECT 1 FROM {name} JOIN {{b_schema}}.orders o ON {leak}",
            f"UPDATE {name} SET company_id = company_id WHERE {leak}",
            f"DELETE FROM {name} WHERE {leak}",
        ):
            blind(attacker.run(query), wall)


@attack("I033", "Errors as a channel")
@pytest.mark.parametrize(
    "boom",
    [
        "1 / (amount - amount) = 1",
        "note::int > 0",
        "stage::text::int > 0",
        "to_jsonb(note)::int > 0",
        "(ARRAY[[1], [amount, amount]])[1][1] > 0",
        "(SELECT count(*) / (amount - amount) FROM generate_series(1, 2)) > 0",
        "jsonb_path_exists(to_jsonb(note), 'strict $.a.b') IS NULL",
    ],
)
def test_i033_errors(wall: Wall, attacker: Attacker, boom: str) -> None:
    """Conditions that fail on each of B's rows, and only there: neither an error nor a value comes back."""
    for condition in (
        f"CASE WHEN note LIKE 'bravo%' THEN {boom} ELSE true END",
        f"note >= 'b' AND note < 'c' AND {boom}",
        f"amount >= 500 AND amount < 520 AND {boom}",
        f"(note LIKE 'alpha%' OR {boom})",
    ):
        loot = attacker.run(f"SELECT count(*) FROM {{b_schema}}.orders WHERE {condition}")
        assert loot.error is None, loot.error
        assert loot.rows[0][0] in (0, 20)


@attack("I034", "A careless policy beside ours")
def test_i034_permissive_policies(wall: Wall, attacker: Attacker) -> None:
    """An application adds policies that admit everybody; ours is restrictive, so they can't widen it."""
    do = "".join(
        f"CREATE POLICY loose{n} ON {{b_schema}}.orders {to};"
        for n, to in enumerate(
            ("USING (true)", "FOR SELECT USING (true)", "TO tenantry_app USING (true) WITH CHECK (true)")
        )
    )
    with wall.scenery(do, "".join(f"DROP POLICY loose{n} ON {{b_schema}}.orders;" for n in range(3))):
        blind(attacker.run("SELECT * FROM {b_schema}.orders"), wall)
        assert attacker.run("DELETE FROM {b_schema}.orders WHERE company_id = {b} RETURNING *").rows == []
        refused(attacker.run("INSERT INTO {b_schema}.bookings VALUES ({b}, 77)"))


@attack("I035", "Switch row security off")
@pytest.mark.parametrize("statement", ["SET row_security = off", "SET LOCAL row_security = off"])
def test_i035_row_security_off(attacker: Attacker, stranger: Attacker, statement: str) -> None:
    """row_security = off makes filtered queries an error."""
    for one in (attacker, stranger):
        assert one.run(statement).error is None
        refused(one.run("SELECT * FROM {b_schema}.orders"))
        refused(one.run("COPY {b_schema}.orders TO STDOUT"))


@attack(
    "I038",
    "Change the own role",
    state="residual",
    reason="PostgreSQL lets every role change its own settings and password. None opens the wall, but some keep all"
    " tenants from working (statement_timeout, local_preload_libraries). What stands in the connection's options wins,"
    " check names them and apply removes them; log in by certificate or peer where the password must not change",
)
def test_i038_alter_own_role(wall: Wall, attacker: Attacker) -> None:
    """ALTER ROLE on oneself: settings for all later sessions. The plan names them, applying removes them."""
    attacker.run("ALTER ROLE tenantry_app SET lock_timeout = '1ms'")
    attacker.run("ALTER ROLE tenantry_app SET search_path = evil")
    attacker.run(f"ALTER ROLE tenantry_app IN DATABASE {wall.a.database} SET row_security = off")
    attacker.conn.commit()
    try:
        later = wall.bound(options="-c lock_timeout=7s")
        assert later.execute("SHOW lock_timeout").fetchone() == ("7s",)
        assert later.execute("SHOW search_path").fetchone() == (f"{wall.a.schema}, pg_temp",)
        named = {change.why for change in wall.plan().changes}
    finally:
        wall.apply()
    assert named == {f"has the persistent setting {name}" for name in ("lock_timeout", "search_path", "row_security")}
    only_a(Attacker(wall, wall.bound()).run("SELECT * FROM orders"), wall)


@attack("I203", "Give away or take what the role has")
@pytest.mark.parametrize(
    "statement",
    [
        "DROP OWNED BY tenantry_app",
        "DROP OWNED BY tenantry_app CASCADE",
        "REVOKE ALL ON ALL TABLES IN SCHEMA {a_schema} FROM tenantry_app",
        "REVOKE EXECUTE ON FUNCTION tenantry.bind_v1(text, boolean) FROM tenantry_app",
        "GRANT SELECT ON ALL TABLES IN SCHEMA {a_schema} TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_owner GRANT ALL ON TABLES TO PUBLIC",
    ],
)
def test_i203_own_grants(wall: Wall, attacker: Attacker, statement: str) -> None:
    """Drop what the role owns, revoke and grant: the grants of the wall are not the role's to change."""
    attacker.run(statement)
    attacker.conn.commit()
    assert wall.plan().changes == ()
    only_a(attacker.run("SELECT * FROM orders"), wall)
    wall.admin().execute("ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_app REVOKE ALL ON TABLES FROM PUBLIC")


@attack("I204", "Catch the refusal")
def test_i204_exception_handler(wall: Wall, stranger: Attacker) -> None:
    """A DO block that catches the error of the unbound and tries row by row."""
    block = """
    DO $$ DECLARE r record; BEGIN
      FOR n IN 1..600 LOOP
        BEGIN
          FOR r IN EXECUTE format('SELECT * FROM {b_schema}.customers WHERE id = %s', n) LOOP
            RAISE NOTICE '%', r;
          END LOOP;
        EXCEPTION WHEN OTHERS THEN NULL; END;
      END LOOP;
    END $$"""
    loot = stranger.run(block)
    assert loot.error is None
    assert loot.notices == []
