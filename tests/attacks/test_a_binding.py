"""Who is asking: binding, spoofing, tokens"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import InvalidInput
from tenantry.model import BindingMode, Mode
from tenantry.perimeter.bound import BoundConnection
from tenantry.perimeter.token import Signer
from tests.attacks.attacker import Attacker, blind, only_a, refused
from tests.fixtures.walls import KEY, KID, MakeWalled, Member, Variant, Wall, variants

attack = pytest.mark.attack
ROWS = "SELECT * FROM {b_schema}.customers, {b_schema}.orders"
REFUSED = "tenantry: the tenant token is missing, malformed, expired or not valid for this session"


def bind(attacker: Attacker, token: str | None) -> tuple[str | None, str]:
    loot = attacker.run("SELECT tenantry.bind_v1(%s)", [token])
    return loot.sqlstate, "" if loot.error is None else str(loot.error.diag.message_primary)


def stolen(wall: Wall, member: Member | None = None, **claims: Any) -> str:
    """A token that is good for any backend: the attacker's best case."""
    return wall.mint(member or wall.b, **claims)


@attack("I001", "A parameter of the attacker's own as the tenant")
@pytest.mark.parametrize("name", ["app.tenant", "tenantry.tenant", "tenantry.tenant_id", "tenantry.code", "my.tenant"])
def test_i001_parameter_spoof(wall: Wall, attacker: Attacker, name: str) -> None:
    """Set a custom parameter to B's key, for the transaction and for the session, and read."""
    for local in ("true", "false"):
        attacker.run(f"SELECT set_config('{name}', {{b}}::text, {local})")
        blind(attacker.run(ROWS), wall)
    only_a(attacker.run("SELECT * FROM orders"), wall)


@attack("I002", "Overwrite the seal")
@pytest.mark.parametrize(
    "way",
    [
        "SET {seal} = '{forged}'",
        "SET LOCAL {seal} = '{forged}'",
        "SELECT set_config('{seal}', '{forged}', true)",
        "SELECT set_config('{seal}', '{forged}', false)",
        "DO $$ BEGIN PERFORM set_config('{seal}', '{forged}', true); END $$",
        "UPDATE pg_settings SET setting = '{forged}' WHERE name = '{seal}'",
        "ALTER SYSTEM SET {seal} = '{forged}'",
        "ALTER DATABASE {database} SET {seal} = '{forged}'",
        "CREATE FUNCTION {b_schema}.f() RETURNS int LANGUAGE sql SET {seal} = '{forged}' RETURN 1",
    ],
)
def test_i002_seal_overwrite(wall: Wall, attacker: Attacker, way: str) -> None:
    """Write B's code into the parameter that holds the binding, in nine ways of SQL."""
    sealed = wall.mode is BindingMode.SEALED
    name = "backtrace_functions" if sealed else "tenantry.seal"
    forged = f"tenantry_{wall.b.code}" if sealed else f"{wall.b.code}.{'0' * 64}"
    way = way.replace("{seal}", name).replace("{forged}", forged).replace("{database}", wall.a.database)
    loot = attacker.run(way)
    if sealed:
        assert loot.error is not None or loot.rows == []
    blind(attacker.run(ROWS), wall)
    mine = attacker.run("SELECT * FROM orders")
    if mine.error is not None:  # signed: the attacker has thrown the own binding away
        refused(mine)
        assert not sealed


@attack("I002", "Overwrite the seal for later sessions")
def test_i002_seal_of_later_sessions(wall: Wall, attacker: Attacker) -> None:
    """ALTER ROLE ... SET the parameter, or name it in the options of a new connection."""
    sealed = wall.mode is BindingMode.SEALED
    name = "backtrace_functions" if sealed else "tenantry.seal"
    forged = f"tenantry_{wall.b.code}" if sealed else f"{wall.b.code}.{'0' * 64}"
    refused(attacker.run(f"ALTER ROLE tenantry_app SET {name} = '{forged}'"))
    if sealed:
        with pytest.raises(psycopg.OperationalError, match="permission denied to set parameter"):
            wall.unbound(options=f"-c {name}={forged}")
    else:
        refused(Attacker(wall, wall.unbound(options=f"-c {name}={forged}")).run(ROWS))


@attack("I003", "Put B's code into A's token")
def test_i003_token_swap(wall: Wall, stranger: Attacker) -> None:
    """Mint for A, replace the code, bind."""
    token = stolen(wall, wall.a).replace(f".{wall.a.code}.", f".{wall.b.code}.")
    assert bind(stranger, token) == ("42501", REFUSED)


MALFORMED: dict[str, Callable[[str], str | None]] = {
    "NULL": lambda token: None,
    "empty": lambda token: "",
    "dots": lambda token: "......." + "." * 64,
    "one character": lambda token: "1",
    "cut": lambda token: token[:-1],
    "cut to the code": lambda token: token[-64:],
    "longer": lambda token: token + "0",
    "bit flip": lambda token: token[:-1] + ("0" if token[-1] != "0" else "1"),
    "upper case": lambda token: token[:-64] + token[-64:].upper(),
    "blank before": lambda token: " " + token,
    "other separator": lambda token: f"{token[:-65]}x{token[-64:]}",
    "digit as separator": lambda token: f"{token[:-65]}0{token[-64:]}",
    "other version": lambda token: "2" + token[1:],
    "no version": lambda token: token[1:],
    "more fields": lambda token: token[:-65] + ".0." + token[-64:],
    "casts": lambda token: f"1.{KID}.x.x.x.x.x.{'0' * 64}",
    "SQL": lambda token: "1.k1.' OR true --." + token,
    "Unicode": lambda token: "１" + token[1:],
    "500 kB": lambda token: f"1.{KID}." + "9" * 500_000,
    "500 kB of a code": lambda token: f"1.{KID}.{'a' * 500_000}.{token[-64:]}",
}


@attack("I004", "Malformed tokens")
@pytest.mark.parametrize("kind", MALFORMED)
def test_i004_malformed(wall: Wall, stranger: Attacker, kind: str) -> None:
    """Missing, cut, longer, flipped, other separators or versions, casts, SQL, Unicode, 500 kB: one answer to all."""
    token = MALFORMED[kind](stolen(wall))
    loot = stranger.run("SELECT tenantry.bind_v1(%s)", [token])
    assert (loot.sqlstate, str(loot.error.diag.message_primary if loot.error else "")) == ("42501", REFUSED)
    assert len(loot.text) < 2000
    refused(stranger.run(ROWS))


@attack("I004", "Any text as a token")
@pytest.mark.parametrize("variant", [pytest.param(v.values[0], id=v.id, marks=v.marks) for v in variants()[::4]])
def test_i004_any_text(walls: MakeWalled, variant: Variant) -> None:
    """Texts that a generator thinks of, also built from the parts of a good token."""
    with Wall.of(walls(variant)) as wall:
        stranger = Attacker(wall, wall.unbound())
        parts = st.sampled_from([*stolen(wall).split("."), "", "0", "-1", "1e9", "NaN", wall.a.code])
        texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200)

        @given(texts | st.lists(parts, max_size=10).map(".".join))
        def check(token: str) -> None:
            if token != stolen(wall):
                assert bind(stranger, token) == ("42501", REFUSED)

        check()


@attack("I005", "An expired token")
def test_i005_expired(wall: Wall, stranger: Attacker) -> None:
    """A token whose second is over, in a new transaction."""
    assert bind(stranger, stolen(wall, now=0)) == ("42501", REFUSED)
    row = wall.admin().execute("SELECT extract(epoch FROM now())::float8").fetchone()
    assert row is not None
    assert bind(stranger, stolen(wall, now=row[0] - 61)) == ("42501", REFUSED)


@attack("I006", "A token for another database or role")
@pytest.mark.parametrize(
    "claims", [{"database": "postgres"}, {"database": ""}, {"role": "tenantry_admin"}, {"role": "TENANTRY_APP"}]
)
def test_i006_other_audience(wall: Wall, stranger: Attacker, claims: dict[str, Any]) -> None:
    """Tokens for B that are good elsewhere."""
    assert bind(stranger, stolen(wall, **claims)) == ("42501", REFUSED)


@attack("I007", "Replay on another backend")
def test_i007_replay_with_pid(wall: Wall, stranger: Attacker) -> None:
    """A token that names the backend it is for."""
    pid = stranger.conn.info.backend_pid
    for other in (pid + 1, -pid, 1):
        assert bind(stranger, stolen(wall, pid=other)) == ("42501", REFUSED)


@attack(
    "I007",
    "Replay of a token for any backend",
    state="residual",
    reason="behind a pooler a token can't name its backend: whoever steals one may use it until it expires (a minute)."
    " Without a pooler every token names its backend",
)
def test_i007_replay_without_pid(wall: Wall) -> None:
    """A token that names no backend, taken from a request of B."""
    thief = Attacker(wall, wall.unbound(wall.b))
    assert bind(thief, stolen(wall)) == (None, "")
    assert wall.b.word in thief.run(ROWS).text


@attack("I008", "An unknown, expired or dropped key")
def test_i008_keys(wall: Wall, stranger: Attacker) -> None:
    """Tokens of keys that the database does not have, no longer has, or has only until yesterday."""
    admin, other = wall.admin(), Signer("k2", bytes(32), 60)

    def verdict() -> str | None:
        return bind(stranger, other.mint(wall.b.code, wall.a.database, "tenantry_app", epoch=1))[0]

    assert verdict() == "42501"
    admin.execute("SELECT tenantry_priv.add_key_v1('k2', %s, now() - interval '1 day')", [bytes(32)])
    assert verdict() == "42501"
    admin.execute("SELECT tenantry_priv.add_key_v1('k2', %s, now() + interval '1 day')", [bytes(32)])
    expected = None if wall.shares_backend else "TN001"
    assert verdict() == expected
    stranger.conn.rollback()
    admin.execute("SELECT tenantry_priv.keep_keys_v1(ARRAY[%s])", [KID])
    assert verdict() == "42501"
    assert bind(stranger, wall.mint(wall.a))[0] is None


@attack("I009", "A second tenant in one transaction")
def test_i009_rebind(wall: Wall, attacker: Attacker) -> None:
    """Bound to A, bind a good token of B; and one of B's home in A's database."""
    expected = "25001" if wall.shares_backend else "42501"
    assert bind(attacker, stolen(wall))[0] == expected
    attacker.run("SAVEPOINT s")
    assert bind(attacker, stolen(wall))[0] == expected
    only_a(attacker.run("SELECT * FROM orders"), wall)


@attack("I010", "Fixation: leave A's binding to the next one")
def test_i010_fixation(wall: Wall, attacker: Attacker) -> None:
    """Copy the seal into the session, end the transaction, and go on unbound, or in whatever comes next."""
    name = "backtrace_functions" if wall.mode is BindingMode.SEALED else "tenantry.seal"
    conn = attacker.conn
    assert isinstance(conn, BoundConnection)
    for end in ("COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "COMMIT; BEGIN; SAVEPOINT s"):
        wall.rebind(conn, wall.a)
        attacker.run(f"SELECT set_config('{name}', current_setting('{name}'), false)")
        conn.unbind()
        attacker.raw(end)
        refused(attacker.raw("SELECT * FROM {a_schema}.orders"))
        conn.rollback()


@attack("I010", "Fixation within one message")
def test_i010_fixation_in_one_message(wall: Wall, attacker: Attacker) -> None:
    """The same in one message of the simple protocol, whose transactions all begin at one moment."""
    name = "backtrace_functions" if wall.mode is BindingMode.SEALED else "tenantry.seal"
    keep = f"set_config('{name}', current_setting('{name}'), false)"
    attacker.conn.execute("SELECT 1")
    copied = attacker.run(f"SELECT {keep}").rows if wall.mode is BindingMode.SIGNED else []
    assert all(row[0].startswith(f"{wall.a.code}.") for row in copied)
    refused(attacker.raw("COMMIT; BEGIN; SELECT * FROM {a_schema}.orders; COMMIT"))


@attack("I010", "A's seal in another session")
def test_i010_seal_of_another_session(wall: Wall, attacker: Attacker, stranger: Attacker) -> None:
    """Read the own seal, and set it in a session that is bound to nobody."""
    if wall.mode is BindingMode.SEALED:
        seal = attacker.run("SELECT current_setting('backtrace_functions')").rows[0][0]
        refused(stranger.run(f"SET backtrace_functions = '{seal}'"))
    else:
        seal = attacker.run("SELECT current_setting('tenantry.seal')").rows[0][0]
        assert stranger.run(f"SET tenantry.seal = '{seal}'").error is None
    refused(stranger.run("SELECT * FROM {a_schema}.orders"))


@attack("I011", "Unbound statements")
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM {table}",
        "SELECT count(*) FROM {table}",
        "SELECT 1 FROM {table} WHERE false OR company_id = {b}",
        "UPDATE {table} SET company_id = company_id",
        "DELETE FROM {table}",
        "COPY (SELECT * FROM {table}) TO STDOUT",
        "EXPLAIN ANALYZE SELECT * FROM {table}",
        "MERGE INTO {table} t USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
        "SELECT * FROM {table} FOR UPDATE",
    ],
)
def test_i011_unbound(stranger: Attacker, statement: str) -> None:
    """Without a binding: every command, on every table. Never an empty result that looks like no data."""
    for table in ("customers", "orders", "events", "documents", "bookings"):
        refused(stranger.run(statement.replace("{table}", "{b_schema}." + table)))


@attack("I011", "Unbound inserts")
@pytest.mark.parametrize("key", ["", "{a}, ", "{b}, "])
def test_i011_unbound_insert(stranger: Attacker, key: str) -> None:
    """Insert rows of A, of B, and of whoever the default finds."""
    column = "company_id, " if key else ""
    refused(stranger.run(f"INSERT INTO {{b_schema}}.customers ({column}email) VALUES ({key}'x')"))
    refused(stranger.run(f"INSERT INTO {{b_schema}}.bookings ({column}room) VALUES ({key}9) ON CONFLICT DO NOTHING"))
    refused(stranger.run(f"INSERT INTO {{b_schema}}.events ({column}at, payload) VALUES ({key}'2026-01-01', '1')"))


@attack(
    "I011",
    "COPY of a partitioned table",
    state="residual",
    reason="under row security PostgreSQL reads only the parent of a partitioned table, where no rows are: empty, bound"
    " or not, and no error. COPY (SELECT ...) does as it should",
)
def test_i011_copy_of_a_partitioned_table(wall: Wall, attacker: Attacker, stranger: Attacker) -> None:
    """COPY events TO STDOUT, without a binding."""
    for one in (attacker, stranger):
        loot = one.run("COPY {b_schema}.events TO STDOUT")
        assert (loot.error, loot.rows) == (None, [])


@attack("I012", "The first and the second transaction of a session")
def test_i012_empty_and_missing(wall: Wall, stranger: Attacker) -> None:
    """A parameter that was set once is empty afterwards, not missing: the answer must be the same."""
    first = stranger.run(ROWS)
    stranger.conn.rollback()
    assert bind(stranger, wall.mint(wall.a)) == (None, "")
    stranger.conn.commit()
    second = stranger.run(ROWS)
    refused(first)
    refused(second)
    assert first.text.partition("source")[0] == second.text.partition("source")[0]


@attack("I014", "RESET ALL, DISCARD ALL and their like inside a transaction")
@pytest.mark.parametrize(
    "statement",
    [
        "RESET ALL",
        "RESET tenantry.seal",
        "RESET backtrace_functions",
        "DISCARD ALL",
        "DISCARD PLANS",
        "SET SESSION AUTHORIZATION DEFAULT",
        "SET ROLE NONE",
        "RESET ROLE",
        "SET tenantry.seal = ''",
    ],
)
def test_i014_reset(wall: Wall, attacker: Attacker, statement: str) -> None:
    """Clear the session in the hope that no binding is an open door."""
    attacker.run(statement)
    loot = attacker.run(ROWS)
    blind(loot, wall)
    assert loot.sqlstate in (None, "42501")


@attack("I015", "Savepoints")
def test_i015_savepoints(wall: Wall, attacker: Attacker) -> None:
    """Errors, savepoints and their rollbacks after the binding."""
    attacker.conn.execute("SELECT 1")
    attacker.raw("SAVEPOINT s")
    attacker.raw("SELECT 1 / 0")
    attacker.raw("ROLLBACK TO s; RELEASE s")
    only_a(attacker.run("SELECT * FROM orders"), wall)
    attacker.raw("SAVEPOINT s; RESET ALL; ROLLBACK TO s")
    only_a(attacker.run("SELECT * FROM orders"), wall)


@attack("I015", "A binding inside a savepoint")
def test_i015_bound_in_a_savepoint(wall: Wall, stranger: Attacker) -> None:
    """Bind in a savepoint and roll it back: nothing of the binding stays."""
    stranger.conn.execute("SAVEPOINT s")
    stranger.conn.execute("SELECT tenantry.bind_v1(%s)", [wall.mint(wall.a)])
    stranger.conn.execute("DECLARE kept CURSOR FOR SELECT * FROM orders")
    stranger.conn.execute("ROLLBACK TO s")
    refused(stranger.run("SELECT * FROM {a_schema}.orders"))
    refused(stranger.run("FETCH ALL FROM kept"), "34000")


@attack("I016", "Write with a read-only token")
@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        ("DELETE FROM orders", "25006"),
        ("SET TRANSACTION READ WRITE", "25001"),
        ("SET transaction_read_only = off", "25001"),
        ("SELECT set_config('transaction_read_only', 'off', true)", "25001"),
        ("RESET ALL; DELETE FROM {a_schema}.orders", "25006"),
        ("SELECT nextval('orders_id_seq')", "25006"),
    ],
)
def test_i016_read_only(wall: Wall, statement: str, sqlstate: str) -> None:
    """Writes, and ways to make the transaction writable again."""
    refused(Attacker(wall, wall.bound(mode=Mode.READ_ONLY)).run(statement), sqlstate)


@attack("I016", "A read-only token made writable")
def test_i016_mode_swap(wall: Wall, stranger: Attacker) -> None:
    """Replace ro by rw, and the epoch by 0, in a token."""
    token = stolen(wall, mode=Mode.READ_ONLY)
    assert bind(stranger, token.replace(".ro.", ".rw."))[0] == "42501"
    assert bind(stranger, stolen(wall, epoch=2).replace(".rw.2.", ".rw.0."))[0] == "42501"


@attack("I017", "Read the keys")
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM tenantry_priv.signing_keys",
        "SELECT * FROM tenantry_priv.seal_key",
        "COPY tenantry_priv.signing_keys TO STDOUT",
        "SELECT tenantry_priv.hmac_v1('x', 'x', 'x')",
        "SELECT tenantry_priv.seal_v1('7')",
        "SELECT tenantry_priv.bound_v1()",
        "SELECT tenantry_priv.claim_v1('7')",
        "SELECT tenantry_priv.add_key_v1('mine', decode(repeat('00', 32), 'hex'), now() + interval '1 day')",
        "SELECT tenantry_priv.keep_keys_v1('{}')",
        "SELECT tenantry_priv.new_seal_v1()",
        "SELECT * FROM tenantry.residents",
        "SELECT * FROM tenantry.plans",
        "INSERT INTO tenantry.residents SELECT * FROM tenantry.residents",
        "UPDATE tenantry.residents SET state = 'moved'",
        "SELECT * FROM pg_statistic",
        "SELECT * FROM pg_db_role_setting",
        "SELECT * FROM pg_authid",
        "SELECT pg_read_binary_file('base')",
        "SELECT lo_import('/etc/passwd')",
    ],
)
def test_i017_keys(attacker: Attacker, statement: str) -> None:
    """Tables of keys, the functions over them, statistics, files."""
    refused(attacker.run(statement))


@attack("I017", "The key in what everybody may read")
def test_i017_key_in_catalogs(wall: Wall, attacker: Attacker) -> None:
    """Function bodies, comments, parameters, roles, statistics; with the server at its most talkative."""
    attacker.run("SET client_min_messages = debug5; SET debug_print_plan = on; SET debug_print_parse = on")
    said = [
        attacker.run(f"SELECT * FROM {view}")
        for view in ("pg_proc", "pg_description", "pg_settings", "pg_roles", "pg_stats", "pg_shdescription", "pg_user")
    ]
    said.append(attacker.run("SELECT tenantry.bind_v1(%s)", [wall.mint(wall.a)]))
    said.append(attacker.run("SELECT * FROM orders"))
    pads = [bytes(byte ^ mask for byte in KEY).hex() for mask in (0, 0x36, 0x5C)]
    for loot in said:
        text = loot.text.lower()
        assert not any(pad in text for pad in pads)


@attack("I019", "The token in the text of statements")
def test_i019_statement_text(wall: Wall, attacker: Attacker, stranger: Attacker) -> None:
    """Look at other sessions' statements as the same role; and what monitoring sees holds no token."""
    victim = wall.bound(wall.b)
    token = wall.mint(wall.b)
    victim.bind_to(lambda pid: token)
    victim.execute("SELECT 1")
    for view in ("pg_stat_activity", "pg_stat_get_activity(NULL)", "pg_stat_get_backend_activity(1)"):
        refused(attacker.run(f"SELECT * FROM {view}"))
    seen = wall.admin().execute("SELECT string_agg(query, ' ') FROM pg_stat_activity").fetchone()
    assert seen is not None
    assert token not in seen[0]


def server_log(wall: Wall) -> str:
    row = wall.admin().execute("SELECT pg_read_file(current_setting('data_directory') || '/../log')").fetchone()
    assert row is not None
    return str(row[0])


@attack("I020", "The token in the server's log")
def test_i020_log(wall: Wall, attacker: Attacker) -> None:
    """Everything is logged, statements and errors; the token must not be there."""
    admin = wall.admin()
    admin.execute(f"ALTER DATABASE {wall.a.database} SET log_statement = 'all'")
    admin.execute(f"ALTER DATABASE {wall.a.database} SET log_min_duration_statement = 0")
    admin.execute(f"ALTER DATABASE {wall.a.database} SET log_parameter_max_length = -1")
    try:
        token = wall.mint(wall.a)
        victim = wall.bound()
        victim.bind_to(lambda pid: token)
        victim.execute("SELECT 'logged'")
        with pytest.raises(psycopg.Error):
            victim.execute("SELECT tenantry.bind_v1(%s)", [token[:-1]])
    finally:
        admin.execute(f"ALTER DATABASE {wall.a.database} RESET ALL")
    log = server_log(wall)
    assert "SELECT 'logged'" in log
    assert token[:-64] not in log


@attack(
    "I020",
    "Make the server log parameters",
    state="residual",
    reason="everybody may set log_parameter_max_length_on_error. A token refused on such a backend stands in the"
    " server's log, which the attacker can't read, and is worthless after a minute",
)
def test_i020_log_parameters(wall: Wall) -> None:
    """Leave log_parameter_max_length_on_error = -1 behind: the next binding that is refused is logged whole."""
    conn = wall.bound()
    conn.execute("SET log_parameter_max_length_on_error = -1")
    conn.commit()
    token = wall.mint(wall.a, epoch=2)
    conn.bind_to(lambda pid: token)
    with pytest.raises(Exception, match="does not live here"):
        conn.execute("SELECT 1")
    assert token in server_log(wall)


@attack("I201", "A statement in the binding's place")
def test_i201_planted_statement(wall: Wall) -> None:
    """Replace the prepared statement that binds by one of the attacker's, which collects the next tenants' tokens."""
    conn = wall.bound()
    attacker = Attacker(wall, conn)
    conn.execute("SELECT 1")
    for way in ("pg_prepared_statements", "pg_prepared_statement()"):
        refused(attacker.run(f"SELECT name FROM {way}"))
    for name in ("_tenantry_bind", "_tenantry_", "_pg3_0"):
        attacker.run(f"DEALLOCATE {name}")
    attacker.raw("DEALLOCATE ALL")
    attacker.raw("PREPARE _tenantry_bind (text) AS SELECT set_config('my.loot', $1, false)")
    attacker.raw("DEALLOCATE ALL; COMMIT")
    wall.rebind(conn, wall.a)
    assert attacker.run("SELECT coalesce(current_setting('my.loot', true), '')").rows == [("",)]


@attack("I202", "Fields smuggled in when the token is minted")
def test_i202_injected_fields(wall: Wall) -> None:
    """Codes and key ids with dots and bars."""
    for code in (f"{wall.a.code}.99999999999.0.rw.0", "", "a|b", "A", "ä", "7\n", "٧"):
        with pytest.raises(InvalidInput):
            wall.walled.signer.mint(code, wall.a.database, "tenantry_app")
    for kid in ("k1.7", "", "k|", "K1", "k1\n"):
        with pytest.raises(InvalidInput):
            Signer(kid, KEY)
