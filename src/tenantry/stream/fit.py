"""Whether a tenant's rows can be streamed out of one schema into another, and what to do if not. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tenantry.perimeter.names import quoted
from tenantry.stream.shape import Column, Identity, Shape, Table

_BRING = "run 'tenantry migrate': both places need the same version of the application's tables"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something that a stream can't pass. ``fix``: SQL, or a sentence."""

    what: str
    fix: str


def obstacles(source: Shape, target: Shape, *, filtered: bool) -> list[Obstacle]:
    """All that is in the way.

    Args:
        source: where the rows are.
        target: where they go.
        filtered: the source's tables hold other tenants' rows too.
    """
    found = [each for table in source.walled for each in _source(source, table, filtered=filtered)]
    return [*found, *_differences(source, target), *_triggers(target)]


def differences(source: Shape, target: Shape) -> list[Obstacle]:
    """In what two schemas differ that has to be the same: the tables with the tenant column, and their columns."""
    return list(_differences(source, target))


def _source(shape: Shape, table: Table, *, filtered: bool) -> Iterator[Obstacle]:
    name = quoted(shape.schema, table.name)
    if table.kind == "f":
        yield Obstacle(f"{name} is a foreign table: its rows are on another server", "move its rows into a table")
        return
    if table.persistence == "u":
        yield Obstacle(f"{name} is unlogged: nobody can follow its changes", f"ALTER TABLE {name} SET LOGGED;")
    for identity in table.identities:
        yield from _identity(shape, table, identity, filtered=filtered)
    if table.identities and not table.key and all(identity.columns for identity in table.identities):
        yield Obstacle(
            f"the partitions of {name} have different keys", f"give {name} a primary key that contains {shape.column}"
        )


def _identity(shape: Shape, table: Table, identity: Identity, *, filtered: bool) -> Iterator[Obstacle]:
    column = quoted(shape.column)
    fix = f"ALTER TABLE {identity.table} ADD PRIMARY KEY ({column}, ...);"
    if not identity.columns:
        why = "its REPLICA IDENTITY is NOTHING" if identity.identity == "n" else "it has no primary key"
        if identity.identity == "f":
            why = "its REPLICA IDENTITY is FULL, and no unique key of columns that are NOT NULL tells its rows apart"
        yield Obstacle(f"{identity.table} can't be followed: {why}", fix)
    elif filtered and identity.identity != "f" and shape.column not in identity.columns:
        yield Obstacle(
            f"{identity.table} can't be followed: its key {identity.index} does not contain {column}",
            f"ALTER TABLE {identity.table} REPLICA IDENTITY USING INDEX a unique index that does;",
        )


def _differences(source: Shape, target: Shape) -> Iterator[Obstacle]:
    here = {table.name: table for table in source.walled}
    there = {table.name: table for table in target.walled}
    for name in sorted(set(source.sequences) - set(target.sequences)):
        yield Obstacle(f"the sequence {quoted(target.schema, name)} is missing where the tenant is to go", _BRING)
    for name in sorted(here.keys() - there.keys()):
        yield Obstacle(f"{quoted(target.schema, name)} is missing where the tenant is to go", _BRING)
    for name in sorted(there.keys() - here.keys()):
        yield Obstacle(f"{quoted(source.schema, name)} is missing where the tenant is", _BRING)
    for name in sorted(here.keys() & there.keys()):
        mine, theirs = _columns(here[name]), _columns(there[name])
        for column in sorted(mine.keys() | theirs.keys()):
            if mine.get(column) != theirs.get(column):
                what = f"the column {column} is {_shown(mine.get(column))} there and {_shown(theirs.get(column))} in"
                yield Obstacle(f"{quoted(source.schema, name)}: {what} {quoted(target.schema, name)}", _BRING)


def _columns(table: Table) -> dict[str, tuple[str, bool]]:
    return {column.name: _kind(column) for column in table.columns}


def _kind(column: Column) -> tuple[str, bool]:
    return column.type, column.generated


def _shown(kind: tuple[str, bool] | None) -> str:
    if kind is None:
        return "missing"
    return f"{kind[0]} (generated)" if kind[1] else kind[0]


def _triggers(target: Shape) -> Iterator[Obstacle]:
    for table, name in target.triggers:
        where = quoted(target.schema, table)
        yield Obstacle(
            f"the trigger {quoted(name)} of {where} fires even for rows that are streamed",
            f"ALTER TABLE {where} ENABLE TRIGGER {quoted(name)};",
        )
