"""Give a tenant a row in each table of the application, with values that nobody else has."""

from __future__ import annotations

import secrets as random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

from tenantry.model import Tenant
from tenantry.routing.router import Router
from tenantry.testing.drafts import DEFAULT, Choice, Draft
from tenantry.testing.facts import Facts, Reference, Relation
from tenantry.testing.inspect import identifier
from tenantry.testing.secrets import DIGITS, TAKEN, Secrets

_ATTEMPTS = 300
_READ = 1000

Conn = psycopg.Connection[Any]

Unfilled = dict[tuple[str, str], str]
"""Why a table has no row of a tenant: by the tenant's slug and the table's name."""


@dataclass(frozen=True)
class Home:
    """Where a tenant lives, and what can be reached there.

    Attributes:
        root: a superuser's connection to its database.
    """

    tenant: Tenant
    root: Conn = field(repr=False)
    facts: Facts = field(repr=False)

    @property
    def schema(self) -> str:
        """The schema of its tables."""
        assert self.tenant.placement is not None
        return self.tenant.placement.schema

    @property
    def database(self) -> str:
        """The database of its tables."""
        assert self.tenant.placement is not None
        return self.tenant.placement.database

    def tables(self) -> list[Relation]:
        """The tenant tables of the application, without partitions."""
        return [
            each
            for each in self.facts.relations
            if each.schema == self.schema and each.is_table and each.has_tenant and not each.child
        ]


class Filler:
    """Fills the tables of one tenant, as its application would: bound to it.

    Args:
        home: of the tenant.
        column: the tenant column.
        known: where to note the values that only this tenant has.
    """

    def __init__(self, home: Home, column: str, known: Secrets) -> None:
        self._home = home
        self._column = column
        self._known = known
        self._key = str(home.tenant.key)
        self._tables = {each.oid: each for each in home.facts.relations}

    def fill(self, router: Router) -> Unfilled:
        """Insert a row into each table.

        Returns:
            For this tenant and each table that took none, why.
        """
        failed: Unfilled = {}
        with router.transaction(self._home.tenant) as conn:
            conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
            for table in _parents_first(self._home.tables()):
                if why := self._plant(conn, table):
                    failed[self._home.tenant.slug, table.name] = why
        return failed

    def take(self) -> None:
        """Note the values of rows that the test has written itself."""
        for table in self._home.tables():
            texts = [column for column in table.columns if column.category == "S" or column.base == "uuid"]
            own = {name for each in table.references for name in each.columns} | {self._column}
            names = [column.name for column in texts if column.name not in own]
            if not names:
                continue
            query = sql.SQL("SELECT {} FROM {} WHERE {} = %s LIMIT {}").format(
                sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names),
                identifier(table),
                sql.Identifier(self._column),
                sql.Literal(_READ),
            )
            for row in self._home.root.execute(query, (self._home.tenant.key,)).fetchall():
                for name, value in zip(names, row, strict=True):
                    if value is not None and len(value) >= TAKEN:
                        self._known.add(value, self._home.tenant.slug, f"{table.name}.{name}")

    def _plant(self, conn: Conn, table: Relation) -> str | None:
        fixed: dict[str, Choice] = {self._column: self._key}
        for reference in table.references:
            values = self._referred(conn, table, reference)
            if isinstance(values, str):
                return values
            fixed.update({name: value for name, value in values.items() if name not in fixed})
        draft = self._draft(table, fixed)
        why = ""
        for _ in range(_ATTEMPTS):
            try:
                with conn.transaction():
                    conn.execute(*_insert(table, draft.values()))
                return None
            except psycopg.errors.UniqueViolation as error:
                why, draft = _reason(error), self._draft(table, fixed)
            except psycopg.Error as error:
                if conn.closed:
                    raise
                why = _reason(error)
                column = error.diag.column_name if isinstance(error, psycopg.errors.NotNullViolation) else None
                if not draft.mend(error.diag.constraint_name, column):
                    break
        return f"no row can be made up for {self._home.tenant.slug}: {why}"

    def _draft(self, table: Relation, fixed: dict[str, Choice]) -> Draft:
        slug = self._home.tenant.slug

        def plant(column: str, length: int | None) -> str:
            return self._known.plant(slug, f"{table.name}.{column}", random.token_hex(DIGITS), length)

        def uuid(column: str) -> str:
            value = str(uuid4())
            self._known.add(value, slug, f"{table.name}.{column}")
            return value

        return Draft(table, fixed, plant, number=2 + random.randbelow(30_000), uuid=uuid)

    def _referred(self, conn: Conn, table: Relation, reference: Reference) -> dict[str, Choice] | str:
        """The key of a row that may be referred to; a text says that one is needed and not there."""
        wanted = [pair for pair in zip(reference.columns, reference.targets, strict=True) if pair[0] != self._column]
        target = self._tables.get(reference.target)
        row = self._row_of(conn, target, [there for _, there in wanted]) if target is not None else None
        if row is not None:
            return {here: value for (here, _), value in zip(wanted, row, strict=True)}
        by_name = {column.name: column for column in table.columns}
        if any(by_name[here].not_null and not by_name[here].has_default for here, _ in wanted):
            missing = target.name if target is not None else f"the target of {reference.name}"
            return f"it needs a row of {missing}, and {self._home.tenant.slug} has none"
        return {here: DEFAULT for here, _ in wanted}

    def _row_of(self, conn: Conn, target: Relation, columns: Sequence[str]) -> Sequence[str] | None:
        mine = sql.SQL("WHERE {} = {}").format(sql.Identifier(self._column), sql.Literal(self._home.tenant.key))
        query = sql.SQL("SELECT {} FROM {} {} LIMIT 1").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in columns),
            identifier(target),
            mine if target.has_tenant else sql.SQL(""),
        )
        try:
            with conn.transaction():
                return conn.execute(query).fetchone()
        except psycopg.errors.InsufficientPrivilege:
            return self._home.root.execute(query).fetchone()


def _insert(table: Relation, values: dict[str, str | None]) -> tuple[sql.Composed, list[str | None]]:
    query = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join([sql.Placeholder()] * len(values)),
    )
    return query, list(values.values())


def _reason(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error).strip().partition("\n")[0]


def _parents_first(tables: Sequence[Relation]) -> list[Relation]:
    """In such an order that tables come after those that they refer to, where they don't refer to each other."""
    left = {table.oid: table for table in tables}
    ordered: list[Relation] = []
    while left:
        free = [t for t in left.values() if not any(r.target in left and r.target != t.oid for r in t.references)]
        for table in free or [next(iter(left.values()))]:
            ordered.append(left.pop(table.oid))
    return ordered
