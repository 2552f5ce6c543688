"""Applies changes to a target: whole transactions, in their order, each exactly once.

How far it has come is stored at the target in the transaction that applies the changes, so whoever goes on after a
crash knows what is there (as PostgreSQL's own Replication Progress Tracking, whose origins only a superuser may use).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import AsyncConnection, AsyncCursor, sql
from psycopg.adapt import Dumper
from psycopg.pq import Format

from tenantry.errors import StreamBroken
from tenantry.stream.lsn import parse_lsn, shown_lsn
from tenantry.stream.path import Path, delete, insert, update
from tenantry.stream.pgoutput import UNCHANGED, Change, Delete, Insert, Relation, Row, Truncate, Update, Value
from tenantry.stream.shape import Shape, Table
from tenantry.stream.snapshot import replicate

Conn = AsyncConnection[Any]

_PIPELINE = 500


class _Text(bytes):
    """A value in the text format of whatever type the server finds it to be."""


class _TextDumper(Dumper):
    format = Format.TEXT
    oid = 0

    def dump(self, obj: _Text) -> bytes:
        return obj


class Applier:
    """Writes one tenant's changes to a target.

    Args:
        conn: a session (autocommit) of this object's own, which sees all tenants and may set
            ``session_replication_role``. It is closed after an error.
        name: under which the target remembers how far it has come.
        path: whose rows, and from where to where.
        shape: the tables of the source, as they stand.
    """

    def __init__(self, conn: Conn, name: str, path: Path, shape: Shape) -> None:
        self._conn = conn
        self._name = name
        self._path = path
        self._shape = shape
        self._tables = {table.name: table for table in shape.walled}
        self._always = {
            table.name: {column.name for column in table.columns if column.always} for table in shape.walled
        }
        self._checked: dict[int, Relation] = {}
        self._is_open = False
        self.applied = 0
        self.changes = 0

    async def begin(self) -> int:
        """Make the session ready, and say from where on changes are wanted.

        Raises:
            StreamBroken: the target has no note of this stream, or the tables have changed since it began.
        """
        self._conn.adapters.register_dumper(_Text, _TextDumper)
        await replicate(self._conn)
        query = "SELECT lsn::text, shape FROM tenantry.streams WHERE name = %s"
        row = await (await self._conn.execute(query, (self._name,))).fetchone()
        if row is None:
            raise StreamBroken("the target knows nothing of this stream", where=self._name)
        if row[1] != self._shape.fingerprint:
            raise StreamBroken("the tables have changed since the stream began", where=self._shape.schema)
        self.applied = parse_lsn(row[0])
        return self.applied

    async def apply(self, changes: Iterable[Change], end_lsn: int | None) -> None:
        """Apply changes, and commit them with the place that they reach.

        Args:
            changes: in order.
            end_lsn: behind the last of the transactions that they belong to; None: more of the last one is to come.

        Raises:
            StreamBroken: a row that was changed is not there, or a table is not what it was.
            psycopg.Error: the target refused a row.
        """
        try:
            await self._apply(changes, end_lsn)
        except BaseException:
            await self._conn.close()  # whoever leaves a session's block in peace would commit the half of it
            raise

    async def _apply(self, changes: Iterable[Change], end_lsn: int | None) -> None:
        async with self._conn.pipeline() as pipeline:
            if not self._is_open:
                await self._conn.execute("BEGIN")
                await self._conn.execute("SET CONSTRAINTS ALL DEFERRED")
                self._is_open = True
            written: list[tuple[AsyncCursor[Any], Change]] = []
            for change in changes:
                written.append((await self._write(change), change))
                if len(written) == _PIPELINE:
                    await pipeline.sync()
                    self._check(written)
            if end_lsn is not None:
                query = "UPDATE tenantry.streams SET lsn = %s WHERE name = %s"
                await self._conn.execute(query, (shown_lsn(end_lsn), self._name))
            await pipeline.sync()
            self._check(written)
            if end_lsn is None:
                return
            await self._conn.execute("COMMIT")
        self._is_open = False
        self.applied = end_lsn

    def _check(self, written: list[tuple[AsyncCursor[Any], Change]]) -> None:
        """Each change must have met one row, or the two sides have not been the same."""
        for cursor, change in written:
            if not isinstance(change, Truncate) and cursor.rowcount != 1:
                what = type(change).__name__.upper()
                raise StreamBroken(f"an {what} met {cursor.rowcount} rows", where=_shown(change.relation))
        self.changes += len(written)
        written.clear()

    async def _write(self, change: Change) -> AsyncCursor[Any]:
        match change:
            case Insert(relation, new):
                names = self._names(relation)
                values = self._values(relation, new)
                return await self._run(insert(self._target(relation), names), values)
            case Update():
                return await self._update(change)
            case Delete(relation, old):
                key = self._key(relation)
                return await self._run(delete(self._target(relation), key), self._pick(relation, old, key))
            case Truncate(relations):
                cursors = [await self._empty(relation) for relation in relations]
                return cursors[-1]

    async def _update(self, change: Update) -> AsyncCursor[Any]:
        relation, key = change.relation, self._key(change.relation)
        # Who is found by the new values of its key has kept it. The system gives out some identities itself, and lets
        # nobody write them; one that changes without being the key is seen when both sides are compared.
        kept = set(key) if change.old is None else set()
        kept |= self._always[relation.name]
        names = [column.name for column in relation.columns]
        changed: dict[str, Value] = {
            name: value
            for name, value in zip(names, self._values(relation, change.new), strict=True)
            if value is not UNCHANGED and name not in kept
        }
        where = self._pick(relation, change.new if change.old is None else change.old, key)
        if not changed:  # it must be there all the same
            changed = {key[0]: where[0]}
        statement = update(self._target(relation), list(changed), key)
        return await self._run(statement, [*changed.values(), *where])

    async def _empty(self, relation: Relation) -> AsyncCursor[Any]:
        """The whole table is empty at the source; at the target, others may live in it."""
        self._known(relation)
        return await self._conn.execute(self._path.delete(relation.name), (self._path.new_key,))

    async def _run(self, statement: sql.Composed, values: Sequence[Value]) -> AsyncCursor[Any]:
        return await self._conn.execute(statement, [_text(value) for value in values], prepare=True)

    def _target(self, relation: Relation) -> sql.Identifier:
        return self._path.at_target(self._known(relation).name)

    def _known(self, relation: Relation) -> Table:
        """The table that a relation is; compared once with what it was when the stream began."""
        table = self._tables.get(relation.name)
        if self._checked.get(relation.oid) is relation and table is not None:
            return table
        if table is None or relation.schema != self._path.source:
            raise StreamBroken("a table came that was not there when the stream began", where=_shown(relation))
        if set(self._names(relation)) != set(table.stored):
            raise StreamBroken("its columns are not the same as when the stream began", where=_shown(relation))
        self._checked[relation.oid] = relation
        return table

    def _key(self, relation: Relation) -> list[str]:
        if relation.identity == "f":
            return list(self._known(relation).key)
        return [column.name for column in relation.columns if column.key]

    def _pick(self, relation: Relation, row: Row, key: Sequence[str]) -> list[Value]:
        values = dict(zip(self._names(relation), self._values(relation, row), strict=True))
        return [values[name] for name in key]

    def _values(self, relation: Relation, row: Row) -> Sequence[Value]:
        if not self._path.renames:
            return row
        new = str(self._path.new_key).encode()
        return [
            new if name == self._path.column else value for name, value in zip(self._names(relation), row, strict=True)
        ]

    @staticmethod
    def _names(relation: Relation) -> list[str]:
        return [column.name for column in relation.columns]


def _text(value: Value) -> _Text | None:
    if value is None:
        return None
    assert value is not UNCHANGED
    return _Text(value)


def _shown(relation: Relation) -> str:
    return f"{relation.schema}.{relation.name}"
