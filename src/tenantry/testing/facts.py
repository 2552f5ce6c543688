"""The relations, columns and functions that an application's role can reach, as data. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """A column; ``base``, ``kind`` and ``category`` are those of the type below a domain (PostgreSQL: pg_type)."""

    name: str
    type: str
    base: str
    kind: str
    category: str
    element: str
    length: int | None
    not_null: bool
    has_default: bool
    identity: bool
    generated: bool
    labels: tuple[str, ...]
    domain: str | None


@dataclass(frozen=True, slots=True)
class Check:
    """A condition on the values of some columns, of a table or of a domain."""

    name: str
    definition: str
    columns: tuple[str, ...]
    domain: str | None


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key."""

    name: str
    target: int
    columns: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or a view."""

    oid: int
    schema: str
    name: str
    kind: str
    child: bool
    has_tenant: bool
    readable: bool
    writable: bool
    primary_key: tuple[str, ...]
    columns: tuple[Column, ...]
    checks: tuple[Check, ...]
    references: tuple[Reference, ...]

    @property
    def is_table(self) -> bool:
        """Whether it holds rows of its own, or has partitions that do."""
        return self.kind in "rp"


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the application's role may execute."""

    schema: str
    name: str
    signature: str
    definer: bool
    owner: str
    bypasses: bool
    required: int
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What can be reached in one database."""

    relations: tuple[Relation, ...]
    functions: tuple[Function, ...]
    open_sequences: tuple[str, ...]
