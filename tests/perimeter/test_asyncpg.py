"""The asyncpg connection: what begins is bound, in one round trip, and whatever goes wrong leaves nobody bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tenantry.errors import BindingRefused, CrossedTenants, DirtyBackend, TenantMoved, TenantSuspended
from tenantry.model import BindingMode, Isolation, Mode
from tenantry.perimeter.asyncpg import AsyncpgConnection
from tests.fixtures.walls import MakeWalled, Member, Variant, Wall

pytestmark = pytest.mark.anyio
VARIANTS = [Variant("server", mode, Isolation.POOLED) for mode in BindingMode]
WHO = "SELECT tenantry.current_tenant_v1()"


@pytest.fixture(params=VARIANTS, ids=str)
def wall(request: pytest.FixtureRequest, walls: MakeWalled) -> Iterator[Wall]:
    """One level is enough: the connection knows none."""
    with Wall.of(walls(request.param)) as wall:
        yield wall


async def connect(wall: Wall, *, pooler: bool = False, **options: Any) -> AsyncpgConnection:
    parts = conninfo_to_dict(wall.dsn(wall.a))
    conn: AsyncpgConnection = await asyncpg.connect(
        host=parts["host"],
        port=int(str(parts["port"])),
        user=parts["user"],
        password=parts["password"],
        database=parts["dbname"],
        connection_class=AsyncpgConnection,
        **options,
    )
    await conn.ready(pooler=pooler)
    return conn


@pytest.fixture
async def conn(wall: Wall) -> AsyncIterator[AsyncpgConnection]:
    """Bound to tenant A."""
    made = await connect(wall)
    made.bind_to(wall.minter(wall.a))
    yield made
    made.terminate()
    await asyncio.sleep(0)


@pytest.fixture
def door(wall: Wall) -> Iterator[psycopg.Connection]:
    """A transaction that holds up every binding until it ends."""
    admin = wall.admin()
    admin.execute("BEGIN")
    admin.execute("LOCK TABLE tenantry.residents")
    yield admin
    admin.execute("ROLLBACK")


async def who(conn: AsyncpgConnection) -> object:
    async with conn.transaction():
        return await conn.fetchval(WHO)


async def until_it_waits(door: psycopg.Connection, conn: AsyncpgConnection) -> None:
    """Return when the backend of ``conn`` waits for a lock."""
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND NOT granted)"
    pid = conn.get_server_pid()
    while door.execute(waits, [pid]).fetchone() != (True,):  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0)


async def late(conn: AsyncpgConnection, query: str = WHO, *args: object) -> object:
    """As the first statement of a transaction that begins late."""
    conn.begin_late()
    async with conn.transaction():
        return await conn.fetchval(query, *args)


async def test_a_first_statement_that_is_prepared_is_bound(wall: Wall, conn: AsyncpgConnection) -> None:
    for member in (wall.a, wall.b, wall.a, wall.a):
        conn.bind_to(wall.minter(member), tenant=member.code)
        assert await late(conn) == member.key
    assert conn.is_clean
    conn.bind_to(lambda pid: wall.mint(wall.a, epoch=2), tenant=wall.a.code)
    for _ in range(2):
        with pytest.raises(TenantMoved):
            await late(conn)
        assert conn.is_clean


async def test_a_first_statement_leaves_in_one_piece_with_what_binds_it(
    wall: Wall, conn: AsyncpgConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await late(conn)
    pieces: list[bytes] = []
    write = conn.gate.cork._write

    def record(data: bytes) -> None:
        pieces.append(data)
        write(data)

    monkeypatch.setattr(conn.gate.cork, "_write", record)
    assert await late(conn) == wall.a.key
    assert len(pieces) == 2, "and COMMIT"


async def test_a_first_statement_is_bound_where_names_can_be_looked_up(wall: Wall) -> None:
    function = "EXECUTE ON FUNCTION pg_catalog.pg_prepared_statement()"
    with wall.scenery(f"GRANT {function} TO tenantry_app", f"REVOKE {function} FROM tenantry_app"):
        conn = await connect(wall)
        for member in (wall.a, wall.b, wall.b, wall.a):
            conn.bind_to(wall.minter(member), tenant=member.code)
            assert await late(conn) == member.key
        assert conn.gate._binding.name == ""
        await conn.close()


async def test_who_was_not_bound_is_looked_for_by_the_next(wall: Wall, conn: AsyncpgConnection) -> None:
    """A refused binding has not looked through the backend; what was done unbound may have left something there."""
    for refused in (True, False):
        conn.bind_to(wall.minter(wall.a), tenant=wall.a.code)
        assert await late(conn) == wall.a.key
        assert conn.gate._last_tenant == wall.a.code
        if refused:
            conn.bind_to(lambda pid: wall.mint(wall.a, epoch=2), tenant=wall.a.code)
        else:
            conn.unbind()
        with pytest.raises((TenantMoved, asyncpg.InsufficientPrivilegeError)):
            await late(conn)
        assert conn.gate._last_tenant is None


async def test_what_begins_is_bound(wall: Wall, conn: AsyncpgConnection) -> None:
    for member in (wall.a, wall.b):
        conn.bind_to(wall.minter(member))
        assert await who(conn) == member.key
        await conn.execute("BEGIN")  # as SQL, and nothing else beside it
        assert await conn.fetchval(WHO) == member.key
        await conn.execute("ROLLBACK")
        for text in ("BEGIN; SELECT 1", "BEGIN --"):
            await conn.execute(text)
            assert not conn.is_clean
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.fetchval(WHO)
            await conn.execute("ROLLBACK")
    assert conn.is_clean


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("isolation", [None, "read_committed", "repeatable_read", "serializable"])
async def test_a_transaction_begins_as_it_is_asked_to(
    wall: Wall, conn: AsyncpgConnection, isolation: str | None, deferrable: bool, readonly: bool
) -> None:
    shown = {"transaction_isolation": (isolation or "read_committed").replace("_", " ")}
    shown |= {"transaction_deferrable": "on" if deferrable else "off"}
    shown |= {"transaction_read_only": "on" if readonly else "off"}
    conn.bind_to(wall.minter(wall.a, Mode.READ_ONLY if readonly else Mode.READ_WRITE))
    async with conn.transaction(isolation=isolation, deferrable=deferrable, readonly=readonly):
        assert await conn.fetchval(WHO) == wall.a.key
        assert {name: await conn.fetchval(f"SHOW {name}") for name in shown} == shown


@pytest.mark.parametrize(
    ("mint", "error"),
    [
        (lambda wall: wall.mint(wall.a, epoch=2), TenantMoved),
        (lambda wall: wall.mint(wall.a, pid=1), BindingRefused),
        (lambda wall: "1.k1.7.9999999999.0.rw.1." + "0" * 64, BindingRefused),
        (lambda wall: "", BindingRefused),
        (lambda wall: "'; SELECT 1; --", BindingRefused),
        (lambda wall: "x" * 100_000, BindingRefused),
    ],
)
async def test_a_refusal_has_a_meaning_and_leaves_nothing(
    wall: Wall, conn: AsyncpgConnection, mint: Callable[[Wall], str], error: type[Exception]
) -> None:
    conn.bind_to(lambda pid: mint(wall))
    for _ in range(2):
        with pytest.raises(error):
            await who(conn)
        assert conn.is_clean
    conn.bind_to(wall.minter(wall.a))
    assert await who(conn) == wall.a.key


async def test_a_token_that_is_no_text_of_postgresql_is_an_error_and_leaves_nothing(
    wall: Wall, conn: AsyncpgConnection
) -> None:
    conn.bind_to(lambda pid: "\0")
    with pytest.raises(asyncpg.CharacterNotInRepertoireError):
        await who(conn)
    assert conn.is_clean
    conn.bind_to(wall.minter(wall.a))
    assert await who(conn) == wall.a.key


async def test_a_suspended_tenant_is_refused(wall: Wall, conn: AsyncpgConnection) -> None:
    state = f"UPDATE tenantry.residents SET state = '{{}}' WHERE code = '{wall.a.code}'"
    with wall.scenery(state.format("suspended"), state.format("open")):
        with pytest.raises(TenantSuspended):
            await who(conn)
        assert conn.is_clean


@pytest.mark.parametrize(
    "residue", ["PREPARE x AS SELECT 1", "DECLARE x CURSOR WITH HOLD FOR SELECT 1", "DEALLOCATE ALL"]
)
async def test_a_connection_with_residue_of_sql_is_closed(conn: AsyncpgConnection, residue: str) -> None:
    async with conn.transaction():
        await conn.execute(residue)
    with pytest.raises(DirtyBackend):
        await who(conn)
    assert conn.is_closed()


async def test_a_connection_is_not_bound_anew_while_its_transaction_is_open(
    wall: Wall, conn: AsyncpgConnection
) -> None:
    async with conn.transaction():
        with pytest.raises(CrossedTenants):
            conn.bind_to(wall.minter(wall.b))
        assert await conn.fetchval(WHO) == wall.a.key


async def test_unbound_it_is_a_plain_connection_and_sees_nothing(conn: AsyncpgConnection) -> None:
    conn.unbind()
    assert await conn.fetchval("SELECT 1") == 1
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await who(conn)


async def test_a_statement_outside_of_a_transaction_has_no_tenant(conn: AsyncpgConnection) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.fetchval(WHO)


async def test_a_codec_of_the_applications_for_text_does_not_see_the_token(wall: Wall, conn: AsyncpgConnection) -> None:
    seen: list[str] = []
    conn.unbind()
    for name in ("text", "int8"):
        await conn.set_type_codec(name, schema="pg_catalog", encoder=seen.append, decoder=seen.append)
    conn.bind_to(wall.minter(wall.a))
    async with conn.transaction():
        pass
    assert not seen
    assert conn.is_clean


async def test_where_sql_can_look_names_up_the_binding_is_no_prepared_statement(wall: Wall) -> None:
    function = "EXECUTE ON FUNCTION pg_catalog.pg_prepared_statement()"
    with wall.scenery(f"GRANT {function} TO tenantry_app", f"REVOKE {function} FROM tenantry_app"):
        conn = await connect(wall)
        assert await conn.fetchval("SELECT count(*) FROM pg_prepared_statement() WHERE name LIKE '\\_tenantry%'") == 0
        for _ in range(3):
            conn.bind_to(wall.minter(wall.a))
            assert await who(conn) == wall.a.key
        await conn.close()
    conn = await connect(wall)
    assert conn.gate._binding.name.startswith("_tenantry_")
    await conn.close()


async def test_behind_a_pooler_nothing_is_prepared(wall: Wall) -> None:
    conn = await connect(wall, pooler=True, statement_cache_size=0)
    other = await connect(wall)
    for member in (wall.a, wall.b):
        conn.bind_to(wall.minter(member))
        assert await who(conn) == member.key
    assert conn.gate._binding.name == ""
    await conn.close()
    await other.close()


async def test_a_session_that_is_ended_while_it_begins_closes_the_connection(
    conn: AsyncpgConnection, door: psycopg.Connection
) -> None:
    task = asyncio.create_task(who(conn))
    await until_it_waits(door, conn)
    door.execute("SELECT pg_terminate_backend(%s)", [conn.get_server_pid()])
    with pytest.raises((asyncpg.PostgresError, ConnectionError)):
        await task
    assert conn.is_closed()


@pytest.mark.parametrize("times", [1, 2])
async def test_a_task_that_is_cancelled_while_it_begins_closes_the_connection(
    conn: AsyncpgConnection, door: psycopg.Connection, times: int
) -> None:
    task = asyncio.create_task(who(conn))
    await until_it_waits(door, conn)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert conn.is_closed()


async def test_a_begin_that_runs_out_of_time_closes_the_connection(wall: Wall, door: psycopg.Connection) -> None:
    conn = await connect(wall, command_timeout=0.05)
    conn.bind_to(wall.minter(wall.a))
    with pytest.raises(TimeoutError):
        await who(conn)
    assert conn.is_closed()


async def test_nothing_is_written_while_something_else_is_under_way(wall: Wall, conn: AsyncpgConnection) -> None:
    """The messages of BEGIN would be answered to whoever waits."""
    task = asyncio.create_task(conn.execute("SELECT pg_sleep(0.05)"))
    await asyncio.sleep(0)
    for text in ("BEGIN;", "BEGIN;"):
        with pytest.raises(asyncpg.InterfaceError, match="another operation is in progress"):
            await conn.execute(text)
    assert not conn.is_clean
    assert await task == "SELECT 1"
    assert await who(conn) == wall.a.key
    assert conn.is_clean


async def test_a_begin_after_a_cancelled_statement_waits_until_the_server_has_stopped_it(
    wall: Wall, conn: AsyncpgConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else others could write between the messages of BEGIN and those of the binding."""
    gate, held = conn.gate, []
    hold = gate.cork.hold

    def record(data: bytes) -> None:
        held.append(gate._is_cancelling())
        hold(data)

    monkeypatch.setattr(gate.cork, "hold", record)
    for _ in range(3):
        conn.bind_to(wall.minter(wall.a))
        with pytest.raises(TimeoutError):
            await conn.execute("SELECT pg_sleep(600)", timeout=0.01)
        assert gate._is_cancelling()
        assert await who(conn) == wall.a.key
    assert held == [False] * 3


async def test_whoever_is_cancelled_at_whatever_step_leaves_the_next_nothing(wall: Wall) -> None:
    """Cancel one tenant's work after 0, 1, 2... turns of the event loop: the next one never meets what it left."""

    async def work(conn: AsyncpgConnection, member: Member) -> set[object]:
        conn.bind_to(wall.minter(member))
        async with conn.transaction():
            return {row["company_id"] for row in await conn.fetch("SELECT company_id FROM orders")}

    conn = await connect(wall)
    closed = 0
    for turns in range(25):
        task = asyncio.create_task(work(conn, wall.a))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not conn.is_clean:
            closed += 1
            conn.terminate()
            conn = await connect(wall)
        assert await work(conn, wall.b) == {wall.b.key}
    assert closed
    await conn.close()
