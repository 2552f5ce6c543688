"""A stream that is cut off goes on: nothing is lost, and nothing is applied twice."""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
import pytest

from tenantry.errors import ServerUnreachable, StreamBroken
from tenantry.stream.path import Path
from tenantry.stream.slots import drop_slot, slot_state
from tenantry.stream.source import Source
from tests.fixtures.servers import Database, MakeDatabase
from tests.stream.rig import NAME, Rig, Stream, execute

pytestmark = pytest.mark.anyio

BANK = """
CREATE SCHEMA {0};
CREATE TABLE {0}.accounts (tenant_id int NOT NULL, id int NOT NULL, balance int NOT NULL, PRIMARY KEY (tenant_id, id));
CREATE TABLE {0}.ledger (tenant_id int NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY, debit int NOT NULL,
  credit int NOT NULL, amount int NOT NULL, PRIMARY KEY (tenant_id, id));
"""
ACCOUNTS = 10
END_WALSENDERS = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s AND active"
END_APPLIERS = """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
 WHERE datname = %s AND pid <> pg_backend_pid()"""


@pytest.fixture
def bank(make_database: MakeDatabase) -> Rig:
    """A bank of two tenants, the second of which moves."""
    here, there = make_database(), make_database()
    fill = f"INSERT INTO app.accounts SELECT t, n, 100 FROM generate_series(1, 2) t, generate_series(1, {ACCOUNTS}) n"
    execute(here, BANK.format("app"), fill)
    execute(there, BANK.format("t_2"))
    return Rig(here, there, Path("app", "t_2", "tenant_id", 2, 2))


@contextmanager
def transfers(database: Database, dice: random.Random) -> Iterator[None]:
    """Somebody moves money between accounts all the time; now and then nothing comes of it."""
    over = threading.Event()

    def work() -> None:
        with database.connect(autocommit=False) as conn:
            while not over.is_set():
                tenant, amount = dice.choice([1, 2]), dice.randrange(50)
                debit, credit = dice.sample(range(1, ACCOUNTS + 1), 2)
                move = "UPDATE app.accounts SET balance = balance + %s WHERE tenant_id = %s AND id = %s"
                conn.execute(move, (-amount, tenant, debit))
                conn.execute(move, (amount, tenant, credit))
                conn.execute(
                    "INSERT INTO app.ledger (tenant_id, debit, credit, amount) VALUES (%s, %s, %s, %s)",
                    (tenant, debit, credit, amount),
                )
                if dice.random() < 0.1:
                    conn.rollback()
                else:
                    conn.commit()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@asynccontextmanager
async def again(stream: Stream) -> AsyncIterator[Stream]:
    """Go on with new connections, as another process would."""
    while (state := await slot_state(stream.control, NAME)) is not None and state.active:
        await stream.control.execute(END_WALSENDERS, (NAME,))
    async with stream.rig.transfer.following() as following:
        yield Stream(stream.rig, following, stream.control, stream.copied)


@pytest.mark.parametrize("end", ["source", "target"])
async def test_a_lost_connection_loses_nothing_and_doubles_nothing(bank: Rig, end: str) -> None:
    dice, cut = random.Random(7), 0
    async with bank.streamed() as stream:
        with transfers(bank.here, dice), bank.there.connect() as there:
            for _ in range(12):
                try:
                    async with again(stream) as goes_on:
                        for _ in range(dice.randrange(1, 8)):
                            await goes_on.following.follower.pump(0.02)
                        if end == "source":
                            await stream.control.execute(END_WALSENDERS, (NAME,))
                        else:
                            there.execute(END_APPLIERS, (bank.there.name,))
                        for _ in range(50):
                            await goes_on.following.follower.pump(0.02)
                except (ServerUnreachable, StreamBroken, psycopg.OperationalError):
                    cut += 1
        async with again(stream) as goes_on:
            await goes_on.same()
            assert goes_on.following.follower.reached > 0
    assert cut == 12
    with bank.there.connect() as conn:
        assert conn.execute("SELECT sum(balance) FROM t_2.accounts").fetchone() == (ACCOUNTS * 100,)
        assert conn.execute("SELECT count(*) > 50, count(DISTINCT id) = count(*) FROM t_2.ledger").fetchone() == (
            True,
            True,
        )


async def test_what_was_applied_is_not_sent_again(bank: Rig) -> None:
    async with bank.streamed() as stream:
        await stream.write("UPDATE app.accounts SET balance = balance + 1")
        await stream.same()
        async with again(stream) as goes_on:
            await goes_on.write("UPDATE app.accounts SET balance = balance - 1")
            await goes_on.same()
            assert goes_on.following.follower.changes == ACCOUNTS


async def test_a_slot_is_dropped_though_somebody_reads_it(bank: Rig) -> None:
    async with bank.streamed() as stream:
        state = await slot_state(stream.control, NAME)
        assert state is not None
        assert state.active
        assert not state.lost
        await drop_slot(stream.control, NAME)
        assert await slot_state(stream.control, NAME) is None
        await drop_slot(stream.control, NAME)
        with pytest.raises((StreamBroken, ServerUnreachable)):
            await stream.catch_up()


async def test_a_slot_that_is_gone_is_said_so(bank: Rig) -> None:
    async with Source(bank.here.dsn()) as source:
        with pytest.raises(StreamBroken, match="does not exist"):
            await source.start("tenantry_nowhere", NAME, 0)
