"""The tables that a stream goes through, as they stand in one schema. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """A column. ``always``: an identity that only the system gives. ``binary``: its binary form means the same in every
    database."""

    name: str
    type: str
    generated: bool
    always: bool
    binary: bool


@dataclass(frozen=True, slots=True)
class Identity:
    """How a changed row of a table that stores rows is recognised; ``columns`` is empty if it can't be."""

    table: str
    identity: str
    index: str | None
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A topmost table: ``kind`` is ``r``\\ elation, ``p``\\ artitioned or ``f``\\ oreign. ``walled``: it has the tenant
    column. ``identities``: of the table, or of its partitions."""

    oid: int
    name: str
    kind: str
    persistence: str
    walled: bool
    columns: tuple[Column, ...]
    identities: tuple[Identity, ...]

    @property
    def stored(self) -> tuple[str, ...]:
        """The columns whose values are not computed from others."""
        return tuple(column.name for column in self.columns if not column.generated)

    @property
    def key(self) -> tuple[str, ...]:
        """What tells one row from all others, in every partition."""
        keys = {identity.columns for identity in self.identities}
        return keys.pop() if len(keys) == 1 else ()

    @property
    def is_binary(self) -> bool:
        """Whether its rows can be copied in binary form."""
        return all(column.binary for column in self.columns if not column.generated)


@dataclass(frozen=True, slots=True)
class Shape:
    """All tables of a schema, and what else a stream has to know of it."""

    schema: str
    column: str
    tables: Mapping[str, Table]
    sequences: tuple[str, ...]
    triggers: tuple[tuple[str, str], ...]

    @property
    def fingerprint(self) -> str:
        """Changes when tables with tenants' rows come, go, or get other columns or keys."""
        parts = [(table.name, table.kind, table.columns, table.identities) for table in self.walled]
        return hashlib.sha256(repr(sorted(parts, key=lambda part: part[0])).encode()).hexdigest()

    @property
    def walled(self) -> list[Table]:
        """The tables that hold tenants' rows."""
        return [table for table in self.tables.values() if table.walled]
