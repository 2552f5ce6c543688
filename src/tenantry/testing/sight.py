"""The place from which one tenant looks at another, and what came of its attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from tenantry.testing.facts import Relation
from tenantry.testing.fill import Home
from tenantry.testing.report import Leak, Report, Unchecked
from tenantry.testing.secrets import Secret, Secrets

MOST_ROWS = 10_000
_SHOWN = 3

Conn = psycopg.Connection[Any]


@dataclass(frozen=True)
class Outcome:
    """What came of a statement: rows or a count, or an error."""

    rows: Sequence[Sequence[Any]] = ()
    names: Sequence[str] = ()
    count: int = 0
    error: psycopg.Error | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the wall has refused it: row security, or a right that is missing."""
        return isinstance(self.error, psycopg.errors.InsufficientPrivilege)

    @property
    def came_through(self) -> bool:
        """Whether a write was let through: also where only a constraint stopped it: those are asked later."""
        return isinstance(self.error, psycopg.IntegrityError) or (self.error is None and self.count > 0)

    @property
    def reason(self) -> str:
        """Why it failed."""
        error = self.error
        return "" if error is None else error.diag.message_primary or str(error).strip().partition("\n")[0]


@dataclass
class Sight:
    """A transaction of one tenant that looks at another.

    Args:
        viewer: whose transaction it is.
        other: whose rows must not be seen.
        conn: bound to the viewer, in a transaction.
        column: the tenant column.
        shared: the tables that all may read.
        known: the values that belong to one tenant alone.
        report: where to write what is found.
    """

    viewer: Home
    other: Home
    conn: Conn
    column: str
    shared: Sequence[str]
    known: Secrets
    report: Report
    who: str = field(init=False)
    whose: str = field(init=False)

    def __post_init__(self) -> None:
        self.who, self.whose = self.viewer.tenant.slug, self.other.tenant.slug
        self.conn.execute("SAVEPOINT look")

    def attempt(
        self, query: sql.Composable | str, parameters: Sequence[Any] | None = None, *, undo: bool = True
    ) -> Outcome:
        """Run a statement.

        Args:
            undo: whether it may have changed something; that is undone.
        """
        self.report.attempts += 1
        try:
            with self.conn.cursor(row_factory=tuple_row) as cursor:
                cursor.execute(query, parameters)  # type: ignore[arg-type]
                rows = cursor.fetchall() if cursor.description else ()
                found = Outcome(rows, [each.name for each in cursor.description or ()], cursor.rowcount)
        except psycopg.Error as error:
            if self.conn.closed:
                raise
            found, undo = Outcome(error=error), True
        if undo:
            self.conn.execute("ROLLBACK TO SAVEPOINT look")
        return found

    def leak(self, place: Relation | str, what: str) -> None:
        """Note what the viewer could do when bound."""
        self.fault(place, f"bound to {self.who}, {what}")

    def fault(self, place: Relation | str, what: str, *, fix: str | None = None) -> None:
        """Note what is wrong with a place for everybody."""
        self.report.leaks.append(Leak(self.shown(place), what, None, fix))

    def unchecked(self, place: Relation | str, why: str) -> None:
        """Note that something could not be looked at."""
        self.report.unchecked.append(Unchecked(self.shown(place), why))

    def shown(self, place: Relation | str) -> str:
        """The name of a place; without the schema if it is the viewer's own."""
        if isinstance(place, str):
            return place
        return place.name if place.schema == self.viewer.schema else f"{place.schema}.{place.name}"

    def values(self, found: Sequence[Secret]) -> str:
        """Some values, for the end of a sentence."""
        return f": {', '.join(map(str, found[:_SHOWN]))}" if found else ""


def same(value: Any, key: Any) -> bool:
    """Whether a value is a tenant's key."""
    return value == key or str(value) == str(key)
