"""Somebody who runs whatever SQL they like as the application's role."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus

from tests.fixtures.walls import Wall


@dataclass
class Loot:
    """All that came back: rows, the error with all its fields, notices."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    error: psycopg.Error | None = None
    notices: list[str] = field(default_factory=list)

    @property
    def sqlstate(self) -> str | None:
        """The error's code; None: it worked."""
        return self.error.sqlstate if self.error is not None else None

    @property
    def text(self) -> str:
        """Everything that an attacker can read."""
        said = "" if self.error is None else f"{self.error} {_fields(self.error.diag)}"
        return f"{self.rows} {said} {self.notices}"


class Attacker:
    """Runs SQL on a connection, each piece in a savepoint of its own, and keeps what comes back.

    Args:
        conn: the application's connection; bound or not.
    """

    def __init__(self, wall: Wall, conn: psycopg.Connection) -> None:
        self.wall = wall
        self.conn = conn
        self._notices: list[str] = []
        conn.add_notice_handler(lambda diag: self._notices.append(_fields(diag)))

    def run(self, statement: str, parameters: list[Any] | None = None) -> Loot:
        """Run in a savepoint; what worked stays."""
        if self.conn.info.transaction_status == TransactionStatus.IDLE:
            self.conn.execute("SELECT 1")
        return self._collect(lambda loot: self._in_savepoint(loot, self.wall.fill(statement), parameters))

    def raw(self, statement: str) -> Loot:
        """Run as one message of the simple protocol, whatever becomes of the transaction."""
        return self._collect(lambda loot: self._execute(loot, self.wall.fill(statement), None))

    def _collect(self, work: Callable[[Loot], None]) -> Loot:
        loot = Loot()
        self._notices = loot.notices
        try:
            work(loot)
        except psycopg.Error as error:
            loot.error = error
        return loot

    def _in_savepoint(self, loot: Loot, statement: str, parameters: list[Any] | None) -> None:
        with self.conn.transaction():
            self._execute(loot, statement, parameters)

    def _execute(self, loot: Loot, statement: str, parameters: list[Any] | None) -> None:
        if statement.lower().startswith("copy"):
            with self.conn.cursor().copy(statement) as copy:
                loot.rows += [(bytes(chunk),) for chunk in copy] if "to stdout" in statement.lower() else []
            return
        cursor = self.conn.execute(statement, parameters)
        while True:
            if cursor.pgresult is not None and cursor.pgresult.status == ExecStatus.TUPLES_OK:
                loot.rows += cursor.fetchall()
            if not cursor.nextset():
                return


def _fields(diag: psycopg.errors.Diagnostic) -> str:
    return " ".join(str(getattr(diag, name)) for name in dir(diag) if not name.startswith("_"))


def refused(loot: Loot, *sqlstates: str) -> None:
    """It did not work, and told nothing of B."""
    assert loot.sqlstate in (sqlstates or ("42501",)), loot


def blind(loot: Loot, wall: Wall) -> None:
    """Whether it worked or not: it told nothing of B."""
    assert wall.b.word not in loot.text, loot.text


def only_a(loot: Loot, wall: Wall) -> None:
    """It worked, told of A, and nothing of B."""
    assert loot.error is None, loot.error
    assert wall.a.word in loot.text
    blind(loot, wall)
