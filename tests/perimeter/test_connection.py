"""The sync connection: what begins is bound, in the same round trip, and what fails says what it means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from tenantry.errors import BindingRefused, CrossedTenants, DirtyBackend, TenantMoved, TenantryError, TenantSuspended
from tenantry.model import BindingMode, Isolation, Mode
from tenantry.perimeter.bound import BoundConnection
from tenantry.perimeter.connection import is_fatal, translate
from tenantry.postgres.connect import merge_dsn
from tests.fixtures.walls import MakeWalled, Variant, Wall
from tests.perimeter.proxy import Proxy

VARIANTS = [Variant("server", mode, Isolation.POOLED) for mode in BindingMode]


@pytest.fixture(params=VARIANTS, ids=str)
def wall(request: pytest.FixtureRequest, walls: MakeWalled) -> Iterator[Wall]:
    """One level is enough: the connection knows none."""
    with Wall.of(walls(request.param)) as wall:
        yield wall


def bound_to(conn: psycopg.Connection) -> object:
    """The tenant that the open transaction is bound to."""
    row = conn.execute("SELECT tenantry.current_tenant_v1()").fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def proxied(wall: Wall) -> Iterator[tuple[Proxy, Callable[..., psycopg.Connection]]]:
    """A proxy, and what connects through it."""
    where = psycopg.conninfo.conninfo_to_dict(wall.dsn(wall.a))
    with Proxy(f"{where['host']}/.s.PGSQL.{where['port']}") as proxy:
        dsn = merge_dsn(wall.dsn(wall.a), host="127.0.0.1", port=proxy.port, sslmode="disable", gssencmode="disable")
        opened: list[psycopg.Connection] = []

        def connect(kind: type[psycopg.Connection] = BoundConnection) -> psycopg.Connection:
            opened.append(kind.connect(dsn))
            return opened[0]

        yield proxy, connect
        for conn in opened:
            conn.close()


Proxied = tuple[Proxy, Callable[..., psycopg.Connection]]


def trips(proxy: Proxy, work: Callable[[], object]) -> int:
    proxy.forget()
    work()
    return proxy.trips


def transaction(conn: psycopg.Connection) -> None:
    conn.execute("SELECT 1")
    conn.commit()


def bare_trips(wall: Wall) -> int:
    where = psycopg.conninfo.conninfo_to_dict(wall.dsn(wall.a))
    with Proxy(f"{where['host']}/.s.PGSQL.{where['port']}") as proxy:
        dsn = merge_dsn(wall.dsn(wall.a), host="127.0.0.1", port=proxy.port, sslmode="disable", gssencmode="disable")
        with psycopg.connect(dsn) as conn:
            return trips(proxy, lambda: transaction(conn))


@pytest.mark.parametrize("prepare", [True, False])
def test_the_binding_costs_no_round_trip(wall: Wall, proxied: Proxied, prepare: bool) -> None:
    proxy, connect = proxied
    conn = connect()
    assert isinstance(conn, BoundConnection)
    conn.prepare_bind = prepare
    wall.rebind(conn, wall.a)
    first, later = trips(proxy, lambda: transaction(conn)), trips(proxy, lambda: transaction(conn))
    assert first == later == bare_trips(wall)


def test_in_a_pipeline_the_binding_costs_no_more_than_psycopgs_own_begin(wall: Wall, proxied: Proxied) -> None:
    proxy, connect = proxied
    conn = connect()
    assert isinstance(conn, BoundConnection)

    def piped() -> None:
        with conn.pipeline():
            conn.execute("SELECT 1")
            conn.commit()

    unbound = trips(proxy, piped)
    wall.rebind(conn, wall.a)
    assert trips(proxy, piped) == unbound


def test_the_token_is_a_parameter_and_never_part_of_a_statement(wall: Wall, proxied: Proxied) -> None:
    proxy, connect = proxied
    conn = connect()
    assert isinstance(conn, BoundConnection)
    token = wall.mint(wall.a)
    conn.bind_to(lambda pid: token)
    conn.execute("SELECT 1")
    before, _, after = bytes(proxy.sent).partition(token.encode())
    assert before.endswith(len(token).to_bytes(4, "big"))  # a value of the protocol's Bind message
    assert token.encode() not in after
    row = wall.admin().execute("SELECT query FROM pg_stat_activity WHERE pid = %s", [conn.info.backend_pid]).fetchone()
    assert row is not None
    assert token not in row[0]


def test_the_prepared_binding_has_a_name_that_nobody_can_guess(wall: Wall, proxied: Proxied) -> None:
    proxy, connect = proxied
    conn = connect()
    assert isinstance(conn, BoundConnection)
    wall.rebind(conn, wall.a)
    transaction(conn)
    first = bytes(proxy.sent).partition(b"_tenantry_")[2].partition(b"\0")[0]
    assert len(first) == 32
    conn.execute("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")
    conn.commit()
    proxy.forget()
    transaction(conn)
    assert bytes(proxy.sent).count(first) == 1  # tried once more, then never again
    assert bytes(proxy.sent).count(b"_tenantry_") == 3


def test_without_prepared_statements_nothing_is_prepared(wall: Wall, proxied: Proxied) -> None:
    proxy, connect = proxied
    conn = connect()
    assert isinstance(conn, BoundConnection)
    conn.prepare_bind = False
    wall.rebind(conn, wall.a)
    transaction(conn)
    assert b"_tenantry_" not in proxy.sent
    assert bound_to(conn) == wall.a.key


def test_every_way_to_begin_is_bound(wall: Wall) -> None:
    conn = wall.bound()
    assert bound_to(conn) == wall.a.key
    conn.rollback()
    with conn.transaction():
        assert bound_to(conn) == wall.a.key
    with conn.cursor() as cursor:
        cursor.executemany("SELECT tenantry.current_tenant_v1() WHERE %s", [(True,), (True,)], returning=True)
        assert cursor.fetchone() == (wall.a.key,)
    conn.rollback()
    with conn.cursor(name="named") as named:
        named.execute("SELECT tenantry.current_tenant_v1()")
        assert named.fetchone() == (wall.a.key,)
    conn.rollback()
    with conn.cursor().copy("COPY (SELECT tenantry.current_tenant_v1()) TO STDOUT") as copy:
        assert list(copy.rows()) == [(str(wall.a.key),)]
    conn.rollback()
    assert list(conn.cursor().stream("SELECT tenantry.current_tenant_v1()")) == [(wall.a.key,)]
    conn.rollback()
    conn.tpc_begin("x")
    assert bound_to(conn) == wall.a.key
    conn.tpc_rollback()


def test_nested_blocks_are_savepoints_of_one_binding(wall: Wall) -> None:
    conn = wall.bound()
    with conn.transaction():
        with pytest.raises(psycopg.errors.DivisionByZero), conn.transaction():
            conn.execute("SELECT 1 / 0")
        with conn.transaction(), conn.transaction():
            assert bound_to(conn) == wall.a.key
        assert bound_to(conn) == wall.a.key


def test_an_autocommit_connection_binds_blocks_and_refuses_what_is_outside_of_them(wall: Wall) -> None:
    conn = wall.bound(autocommit=True)
    for _ in range(2):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="no tenant is bound"):
            conn.execute("SELECT * FROM app.orders")
        with conn.transaction():
            assert bound_to(conn) == wall.a.key


def test_a_begin_that_the_application_sends_as_sql_binds_nobody(wall: Wall) -> None:
    conn = wall.bound(autocommit=True)
    conn.execute("BEGIN")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="no tenant is bound"):
        conn.execute("SELECT * FROM app.orders")


def test_an_unbound_connection_works_and_reads_nothing(wall: Wall) -> None:
    conn = wall.bound()
    conn.unbind()
    assert conn.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="no tenant is bound") as caught:
        conn.execute("SELECT * FROM app.orders")
    assert "tenant scope" in (caught.value.diag.message_hint or "")


def test_one_connection_serves_one_tenant_after_the_other(wall: Wall) -> None:
    conn = wall.bound()
    for member in (wall.a, wall.b, wall.a):
        wall.rebind(conn, member)
        assert bound_to(conn) == member.key
        assert {row[0] for row in conn.execute("SELECT DISTINCT company_id FROM orders")} == {member.key}
        conn.commit()


def test_a_connection_is_not_bound_anew_inside_a_transaction(wall: Wall) -> None:
    conn = wall.bound()
    conn.execute("SELECT 1")
    with pytest.raises(CrossedTenants, match="transaction is open"):
        wall.rebind(conn, wall.b)
    assert bound_to(conn) == wall.a.key
    with pytest.raises(psycopg.errors.DivisionByZero):
        conn.execute("SELECT 1 / 0")
    with pytest.raises(CrossedTenants, match="transaction is open"):
        wall.rebind(conn, wall.b)
    conn.rollback()
    wall.rebind(conn, wall.b)
    assert bound_to(conn) == wall.b.key


def test_a_read_only_binding_refuses_writes(wall: Wall) -> None:
    conn = wall.bound(mode=Mode.READ_ONLY)
    assert conn.execute("SELECT count(*) FROM orders").fetchone() == (20,)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        conn.execute("DELETE FROM orders")
    conn.rollback()
    with pytest.raises(psycopg.errors.ActiveSqlTransaction):
        conn.execute("SET TRANSACTION READ WRITE")


def test_a_read_only_connection_may_bind(wall: Wall) -> None:
    conn = wall.bound()
    conn.read_only = True
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        conn.execute("DELETE FROM orders")


# -- what the database refuses


@pytest.fixture
def residents(wall: Wall) -> Iterator[Callable[[str], object]]:
    """Changes the resident row of tenant A; it is put back afterwards."""
    admin = wall.admin()

    def change(assignment: str) -> object:
        return admin.execute(f"UPDATE tenantry.residents SET {assignment} WHERE code = %s", [wall.a.code])

    yield change
    change("epoch = 1, state = 'open'")


Residents = Callable[[str], object]
REFUSALS: list[tuple[str, type[TenantryError]]] = [
    ("epoch = 2", TenantMoved),
    ("state = 'moved'", TenantMoved),
    ("state = 'suspended'", TenantSuspended),
]


@pytest.mark.parametrize(("assignment", "error"), REFUSALS)
@pytest.mark.parametrize("used_before", [False, True])
def test_a_refusal_has_a_meaning_and_leaves_the_connection_usable(
    wall: Wall, residents: Residents, assignment: str, error: type[TenantryError], used_before: bool
) -> None:
    conn = wall.bound()
    if used_before:
        transaction(conn)
    residents(assignment)
    for _ in range(3):
        with pytest.raises(error) as caught:
            conn.execute("SELECT 1")
        assert isinstance(caught.value.__cause__, psycopg.Error)
        assert caught.value.hint
        assert conn.info.transaction_status == TransactionStatus.IDLE
        with pytest.raises(error), conn.transaction():
            raise AssertionError("must not be entered")
    residents("epoch = 1, state = 'open'")
    assert bound_to(conn) == wall.a.key


@pytest.mark.parametrize(("assignment", "error"), REFUSALS)
def test_a_refusal_in_a_pipeline_is_the_same(
    wall: Wall, residents: Residents, assignment: str, error: type[TenantryError]
) -> None:
    conn = wall.bound()
    residents(assignment)
    with pytest.raises(error), conn.pipeline():
        conn.execute("SELECT 1")
    assert conn.info.transaction_status == TransactionStatus.IDLE
    with pytest.raises(error), conn.pipeline(), conn.transaction():
        conn.execute("SELECT 1")
    assert conn.info.transaction_status == TransactionStatus.IDLE
    residents("epoch = 1, state = 'open'")
    with conn.pipeline():
        assert bound_to(conn) == wall.a.key


def test_a_wrong_token_is_refused_and_not_repeated(wall: Wall) -> None:
    conn = wall.bound()
    conn.bind_to(lambda pid: wall.mint(wall.a, pid=pid + 1))
    with pytest.raises(BindingRefused) as caught:
        conn.execute("SELECT 1")
    assert "1.k1" not in str(caught.value) + str(caught.value.__cause__)
    wall.rebind(conn, wall.a)
    assert bound_to(conn) == wall.a.key


def test_a_token_that_cant_be_made_leaves_the_connection_as_it_was(wall: Wall) -> None:
    conn = wall.bound()

    def broken(pid: int) -> str:
        raise LookupError("no key")

    conn.bind_to(broken)
    with pytest.raises(LookupError):
        conn.execute("SELECT 1")
    assert conn.info.transaction_status == TransactionStatus.IDLE
    wall.rebind(conn, wall.a)
    assert bound_to(conn) == wall.a.key


@pytest.mark.parametrize("pipeline", [False, True])
def test_a_dirty_backend_is_discarded(wall: Wall, pipeline: bool) -> None:
    conn = wall.bound()
    conn.execute("PREPARE left_behind AS SELECT 1")
    conn.commit()
    wall.rebind(conn, wall.b)
    with pytest.raises(DirtyBackend) as caught, conn.pipeline() if pipeline else nullcontext():
        conn.execute("SELECT 1")
    assert conn.closed
    assert is_fatal(caught.value)


def test_a_role_that_sql_has_left_behind_is_dirt(wall: Wall) -> None:
    """RESET ALL leaves the role as it is. To become itself is what a role may do without any membership."""
    conn = wall.bound()
    conn.execute("SET ROLE tenantry_app")
    conn.commit()
    wall.rebind(conn, wall.b)
    with pytest.raises(DirtyBackend):
        conn.execute("SELECT 1")


def test_a_second_tenant_in_one_transaction_is_refused_by_the_database(wall: Wall) -> None:
    conn = wall.bound()
    conn.execute("SELECT 1")
    with pytest.raises(psycopg.errors.ActiveSqlTransaction) as caught:
        conn.execute("SELECT tenantry.bind_v1(%s)", [wall.mint(wall.b)])
    assert isinstance(translate(caught.value), CrossedTenants)


@pytest.mark.parametrize("statement", ["SELECT 1 / 0", "SELECT * FROM nowhere", "SELECT * FROM tenantry.plans"])
def test_other_errors_stay_what_they_are(wall: Wall, statement: str) -> None:
    conn = wall.bound()
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement)
    assert translate(caught.value) is caught.value
    assert not is_fatal(caught.value)


# -- the guard


def test_the_guard_is_asked_before_each_statement_and_each_begin(wall: Wall) -> None:
    conn = wall.bound()
    crossed = False

    def guard() -> None:
        if crossed:
            raise CrossedTenants("a connection of one tenant was used in the scope of another")

    conn.bind_to(wall.minter(wall.a), guard)
    conn.execute("SELECT 1")
    crossed = True
    with pytest.raises(CrossedTenants):
        conn.execute("SELECT 1")
    crossed = False
    assert bound_to(conn) == wall.a.key
    conn.commit()
    crossed = True
    with pytest.raises(CrossedTenants), conn.transaction():
        raise AssertionError("must not be entered")
    with pytest.raises(CrossedTenants), conn.pipeline():
        conn.execute("SELECT 1")
    assert conn.info.transaction_status == TransactionStatus.IDLE


# -- prepared statements that are gone

APPLICATION = "SELECT count(*), current_setting('search_path') FROM orders"


def test_a_rollback_drops_the_prepared_statements_and_the_next_begin_prepares_anew(
    wall: Wall, proxied: Proxied
) -> None:
    proxy, connect = proxied
    conn = connect()
    assert isinstance(conn, BoundConnection)
    wall.rebind(conn, wall.a)
    conn.execute(APPLICATION, prepare=True)
    conn.rollback()  # psycopg sends DEALLOCATE ALL
    assert trips(proxy, lambda: transaction(conn)) == bare_trips(wall)
    assert bound_to(conn) == wall.a.key


@pytest.mark.parametrize("statement", ["DEALLOCATE ALL", "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"])
def test_statements_that_sql_has_dropped_are_prepared_anew(wall: Wall, statement: str) -> None:
    conn = wall.bound()
    conn.execute(APPLICATION, prepare=True)
    conn.execute(statement)
    conn.commit()
    wall.rebind(conn, wall.b)
    assert bound_to(conn) == wall.b.key
    assert conn.execute(APPLICATION, prepare=True).fetchone() == (20, "app, pg_temp")


def test_discard_all_outside_of_a_transaction_harms_nobody(wall: Wall) -> None:
    conn = wall.bound()
    transaction(conn)
    conn.autocommit = True
    conn.execute("DISCARD ALL")
    conn.autocommit = False
    assert bound_to(conn) == wall.a.key


# -- the server goes away


def test_a_session_that_was_ended_between_transactions_is_an_operational_error(wall: Wall) -> None:
    conn = wall.bound()
    transaction(conn)
    wall.admin().execute("SELECT pg_terminate_backend(%s, 5000)", [conn.info.backend_pid])
    with pytest.raises(psycopg.OperationalError):
        conn.execute("SELECT 1")
    assert conn.closed
    with pytest.raises(psycopg.OperationalError, match="closed"):
        conn.execute("SELECT 1")
    wall.rebind(conn, wall.b)  # a pool may do this before it looks


def test_what_a_tenant_leaves_to_itself_is_not_looked_for(wall: Wall) -> None:
    """It costs more than the rest of the binding, and grows with what a driver has prepared."""
    conn = wall.bound()
    conn.execute("PREPARE left_behind AS SELECT 'mine'")
    conn.commit()
    wall.rebind(conn, wall.a)
    assert conn.execute("EXECUTE left_behind").fetchone() == ("mine",)
    conn.rollback()
    wall.rebind(conn, wall.b)
    with pytest.raises(DirtyBackend):
        conn.execute("SELECT 1")


@pytest.mark.parametrize("between", ["nobody", "somebody who does not say who"])
def test_a_backend_that_others_have_used_is_looked_through(wall: Wall, between: str) -> None:
    conn = wall.bound()
    assert bound_to(conn) == wall.a.key
    conn.commit()
    if between == "nobody":
        conn.unbind()
    else:
        conn.bind_to(wall.minter(wall.b))
    conn.execute("PREPARE left_behind AS SELECT 1")
    conn.commit()
    wall.rebind(conn, wall.a)
    with pytest.raises(DirtyBackend):
        conn.execute("SELECT 1")


def test_a_transaction_that_was_rolled_back_has_used_the_backend(wall: Wall) -> None:
    conn = wall.bound()
    assert bound_to(conn) == wall.a.key
    conn.commit()
    wall.rebind(conn, wall.b)
    conn.execute("PREPARE left_behind AS SELECT 1")
    conn.pgconn.exec_(b"ROLLBACK")  # psycopg would drop what is prepared
    wall.rebind(conn, wall.a)
    with pytest.raises(DirtyBackend):
        conn.execute("SELECT 1")
