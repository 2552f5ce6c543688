"""The listener: it hears, and it ends when it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event

import psycopg
import pytest

from tenantry.catalog import listen
from tenantry.catalog.listen import CHANNEL, Listener
from tests.fixtures.servers import Database


@pytest.fixture
def heard() -> SimpleQueue[str]:
    return SimpleQueue()


@pytest.fixture
def listener(database: Database, heard: SimpleQueue[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """One that would look up from its waiting once an hour."""
    monkeypatch.setattr(listen, "_BEAT_SECONDS", 3600.0)
    made = Listener(database.dsn(), seconds=5, heard=heard.put, changed=lambda listening: None)
    made.start()
    assert made.wait(10)
    yield made
    made.stop()


def test_it_hears_at_once(listener: Listener, heard: SimpleQueue[str], database: Database) -> None:
    with database.connect() as conn:
        for n in range(3):
            conn.execute("SELECT pg_notify(%s, %s)", (CHANNEL, f"tenant {n}"))
    assert [heard.get(timeout=10) for _ in range(3)] == ["tenant 0", "tenant 1", "tenant 2"]


def test_it_ends_when_told_so_also_while_nothing_happens(listener: Listener) -> None:
    listener.stop()
    assert not listener._thread.is_alive()


def test_stopping_twice_is_stopping_once(listener: Listener) -> None:
    listener.stop()
    listener.stop()


def test_it_ends_in_peace_while_it_waits_for_an_answer(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Event()

    def ask_for_long(conn: psycopg.Connection) -> None:
        conn.pgconn.send_query(b"SELECT pg_catalog.pg_sleep(600)")
        conn.pgconn.flush()
        asked.set()

    monkeypatch.setattr(listen, "_BEAT_SECONDS", 0.01)
    monkeypatch.setattr(listen, "_ask", ask_for_long)
    made = Listener(database.dsn(), seconds=60, heard=lambda payload: None, changed=lambda listening: None)
    made.start()
    assert asked.wait(10)
    made.stop()
    assert not made._thread.is_alive()
    assert caplog.messages == []
