"""One thread per process that hears what changes in the catalog (PostgreSQL: NOTIFY), for sync and async views."""

from __future__ import annotations

import asyncio
import logging
import selectors
import socket
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from threading import Event, Thread

import psycopg

from tenantry.catalog.reach import answers_within
from tenantry.postgres.connect import merge_dsn

log = logging.getLogger("tenantry.catalog")

CHANNEL = "tenantry"
_RETRY_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)
_BEAT_SECONDS = 1.0
_WORDS = 100


class Listener:
    """Calls ``heard(payload)`` for each notification and ``changed(listening)`` when the connection comes or goes.

    Both run in the listener's thread and must not block. After a gap the caller can't know what it missed:
    ``changed(True)`` means "forget everything".
    """

    def __init__(
        self, dsn: str, *, seconds: float, heard: Callable[[str], None], changed: Callable[[bool], None]
    ) -> None:
        self._dsn = merge_dsn(
            dsn,
            application_name="tenantry listen",
            connect_timeout=max(2, round(seconds)),
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=10_000,
        )
        self._seconds = seconds
        self._heard = heard
        self._changed = changed
        self._words: deque[str] = deque(maxlen=_WORDS)
        self._stop = Event()
        self._listening = Event()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._thread = Thread(target=self._run, name="tenantry-listen", daemon=True)

    def start(self) -> None:
        """Begin to listen, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns when it has ended, or after 10 seconds while it waits for a server to let it in."""
        self._stop.set()
        self._waker.close()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        if not self._thread.is_alive():
            self._wake.close()

    async def stop_async(self) -> None:
        """The same for tasks."""
        await asyncio.to_thread(self.stop)

    def say(self, payload: str) -> None:
        """Tell all who listen, in the background; nobody hears it while the connection is lost."""
        if self._listening.is_set() and payload not in self._words:
            self._words.append(payload)
            with suppress(OSError):
                self._waker.send(b"!")

    def wait(self, seconds: float) -> bool:
        """Wait until the connection listens; False if it does not within ``seconds``."""
        return self._listening.wait(seconds)

    def _run(self) -> None:
        attempt = 0
        while not self._stop.is_set():
            try:
                with closing(psycopg.connect(self._dsn, autocommit=True)) as conn:  # psycopg's own block would commit
                    self._listen(conn)
            except psycopg.Error as error:
                log.warning("catalog notifications are lost: %s", str(error).strip().splitlines()[:1])
            finally:
                if self._listening.is_set():
                    attempt = 0
                    self._listening.clear()
                    self._changed(False)
            self._stop.wait(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
            attempt += 1

    def _listen(self, conn: psycopg.Connection) -> None:
        with answers_within(conn, self._seconds):
            conn.execute(f"LISTEN {CHANNEL}")
        if self._stop.is_set():
            return
        self._changed(True)
        self._listening.set()
        asked = False
        with selectors.DefaultSelector() as selector:
            selector.register(conn, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while not self._stop.is_set():
                if self._words and not asked:
                    _tell(conn, self._words.popleft())
                    asked = True
                if selector.select(self._seconds if asked else _BEAT_SECONDS):
                    asked = self._hear(conn, asked)
                elif asked:
                    raise psycopg.OperationalError(f"the catalog has said nothing for {self._seconds:g} s")
                else:
                    _ask(conn)
                    asked = True

    def _hear(self, conn: psycopg.Connection, asked: bool) -> bool:
        """Take what has come; whether the last question is still open."""
        with suppress(BlockingIOError):
            self._wake.recv(_WORDS)
        conn.pgconn.consume_input()
        while asked and not conn.pgconn.is_busy():
            asked = conn.pgconn.get_result() is not None
        while notify := conn.pgconn.notifies():
            self._heard(notify.extra.decode(errors="replace"))
        return asked


def _tell(conn: psycopg.Connection, payload: str) -> None:
    conn.pgconn.send_query_params(b"SELECT pg_catalog.pg_notify($1, $2)", [CHANNEL.encode(), payload.encode()])
    conn.pgconn.flush()


def _ask(conn: psycopg.Connection) -> None:
    """Send a question without waiting: on a connection that was lost without a word no answer comes."""
    conn.pgconn.send_query(b"SELECT")
    conn.pgconn.flush()
