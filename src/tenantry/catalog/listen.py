"""One thread per process that hears what changes in the catalog (PostgreSQL: NOTIFY), for sync and async views."""

from __future__ import annotations

import logging
import selectors
import socket
from collections.abc import Callable
from threading import Event, Thread

import psycopg

from tenantry.postgres.connect import merge_dsn

log = logging.getLogger("tenantry.catalog")

CHANNEL = "tenantry"
_RETRY_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)
_BEAT_SECONDS = 1.0


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
        self._heard = heard
        self._changed = changed
        self._stop = Event()
        self._listening = Event()
        self._wake, self._waker = socket.socketpair()
        self._thread = Thread(target=self._run, name="tenantry-listen", daemon=True)

    def start(self) -> None:
        """Begin to listen, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns when it has ended."""
        self._stop.set()
        self._waker.close()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._wake.close()

    def wait(self, seconds: float) -> bool:
        """Wait until the connection listens; False if it does not within ``seconds``."""
        return self._listening.wait(seconds)

    def _run(self) -> None:
        attempt = 0
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True) as conn:
                    attempt = 0
                    self._listen(conn)
            except psycopg.Error as error:
                log.warning("catalog notifications are lost: %s", str(error).strip().splitlines()[:1])
            finally:
                if self._listening.is_set():
                    self._listening.clear()
                    self._changed(False)
            self._stop.wait(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
            attempt += 1

    def _listen(self, conn: psycopg.Connection) -> None:
        conn.execute(f"LISTEN {CHANNEL}")
        self._changed(True)
        self._listening.set()
        with selectors.DefaultSelector() as selector:
            selector.register(conn, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while not self._stop.is_set():
                if not selector.select(_BEAT_SECONDS):
                    conn.execute("SELECT")  # a connection that was lost without a word shows itself
                for notify in conn.notifies(timeout=0):
                    self._heard(notify.payload)
