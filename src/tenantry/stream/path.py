"""From where to where a tenant's rows go, and the statements that take them there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from tenantry.stream.shape import Table


@dataclass(frozen=True, slots=True)
class Path:
    """One tenant's way.

    Attributes:
        source: the schema where the rows are.
        target: the schema where they go.
        column: the tenant column.
        key: the tenant's key at the source.
        new_key: at the target; the same but for a clone.
    """

    source: str
    target: str
    column: str
    key: Any
    new_key: Any

    @property
    def renames(self) -> bool:
        """Whether the tenant has another key at the target."""
        return bool(self.key != self.new_key)

    def at_source(self, table: Table) -> sql.Identifier:
        """A table's name where the rows are."""
        return sql.Identifier(self.source, table.name)

    def at_target(self, name: str) -> sql.Identifier:
        """A table's name where they go."""
        return sql.Identifier(self.target, name)

    def copy_out(self, table: Table) -> sql.Composed:
        """The statement that reads the tenant's rows of one table. Values can't be bound to a COPY."""
        columns = [self._selected(name, table) for name in table.stored]
        only = "ONLY " if table.kind == "r" else ""
        return sql.SQL("COPY (SELECT {} FROM {}{} WHERE {} = {}) TO STDOUT {}").format(
            sql.SQL(", ").join(columns),
            sql.SQL(only),
            self.at_source(table),
            sql.Identifier(self.column),
            sql.Literal(self.key),
            _format(table),
        )

    def copy_in(self, table: Table) -> sql.Composed:
        """The statement that takes them in."""
        columns = sql.SQL(", ").join(map(sql.Identifier, table.stored))
        return sql.SQL("COPY {} ({}) FROM STDIN {}").format(self.at_target(table.name), columns, _format(table))

    def delete(self, name: str) -> sql.Composed:
        """The statement that deletes the tenant's rows of a table at the target; it takes the key."""
        return sql.SQL("DELETE FROM {} WHERE {} = %s").format(self.at_target(name), sql.Identifier(self.column))

    def _selected(self, name: str, table: Table) -> sql.Composable:
        if name != self.column or not self.renames:
            return sql.Identifier(name)
        kind = next(column.type for column in table.columns if column.name == name)
        return sql.SQL("CAST({} AS {})").format(sql.Literal(self.new_key), sql.SQL(kind))


def insert(table: sql.Identifier, columns: Sequence[str]) -> sql.Composed:
    """The statement that inserts a row."""
    return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
        table, _joined(columns), sql.SQL(", ").join([sql.Placeholder()] * len(columns))
    )


def update(table: sql.Identifier, columns: Sequence[str], key: Sequence[str]) -> sql.Composed:
    """The statement that changes some columns of the row with a key."""
    return sql.SQL("UPDATE {} SET {} WHERE {}").format(table, _equal(columns, ", "), _equal(key, " AND "))


def delete(table: sql.Identifier, key: Sequence[str]) -> sql.Composed:
    """The statement that deletes the row with a key."""
    return sql.SQL("DELETE FROM {} WHERE {}").format(table, _equal(key, " AND "))


def _joined(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _equal(columns: Sequence[str], between: str) -> sql.Composed:
    parts = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name in columns]
    return sql.SQL(between).join(parts)


def _format(table: Table) -> sql.SQL:
    return sql.SQL("(FORMAT binary)") if table.is_binary else sql.SQL("(FORMAT text)")
