"""Changes as PostgreSQL's output plugin ``pgoutput`` sends them. Pure.

What is decoded: version 1 of the protocol with values as text (PostgreSQL: Logical Replication Message Formats). The
values of a row stay as they came, as bytes in the text format of their types: nobody looks at them on their way.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tenantry.errors import StreamBroken


class Unchanged(enum.Enum):
    """Stands for a large value that an UPDATE left alone: it is stored out of line, and was not sent (TOAST)."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED

Value = bytes | None | Unchanged
Row = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction begins; all until its :class:`Commit` belongs to it. ``at`` is in microseconds since 2000."""

    commit_lsn: int
    at: int
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The transaction has been committed at ``lsn``; ``end_lsn`` is where the log goes on behind it."""

    lsn: int
    end_lsn: int
    at: int


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a relation. ``key``: it belongs to the replica identity."""

    name: str
    type: int
    modifier: int
    key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """What the rows that follow look like. ``identity`` is how their key is found: by the primary key (``d``), another
    index (``i``), the whole row (``f``), or not at all (``n``)."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Type:
    """The name of a type that is not built in."""

    oid: int
    schema: str
    name: str


@dataclass(frozen=True, slots=True)
class Origin:
    """The transaction came from another server."""

    lsn: int
    name: str


@dataclass(frozen=True, slots=True)
class Insert:
    """A new row."""

    relation: Relation
    new: Row


@dataclass(frozen=True, slots=True)
class Update:
    """A changed row. ``old`` is there if the key changed (only the key's columns have values then), or all of the old
    row if the replica identity is full (``whole``)."""

    relation: Relation
    old: Row | None
    new: Row
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """A deleted row: its key, or all of it (``whole``)."""

    relation: Relation
    old: Row
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Truncate:
    """All rows of some relations are gone."""

    relations: tuple[Relation, ...]
    cascade: bool
    restart_sequences: bool


@dataclass(frozen=True, slots=True)
class Note:
    """What somebody wrote with ``pg_logical_emit_message``."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


Message = Begin | Commit | Relation | Type | Origin | Insert | Update | Delete | Truncate | Note
Change = Insert | Update | Delete | Truncate

_OLD_KEY, _OLD_ROW, _NEW = b"K", b"O", b"N"
_TEXT, _NULL, _TOAST = b"tnu"


class Decoder:
    """Decodes one message after the other, and remembers the relations that they are about.

    A new connection needs a new decoder: the server describes each relation again.
    """

    def __init__(self) -> None:
        self._relations: dict[int, Relation] = {}

    def decode(self, data: bytes) -> Message:
        """One message: the content of one WAL data message, or one row of ``pg_logical_slot_get_binary_changes``.

        Raises:
            StreamBroken: it is cut short, too long, of a kind that was not asked for, or about an unknown relation.
        """
        decode = _KINDS.get(data[:1])
        if decode is None:
            raise StreamBroken(f"a message of the kind {data[:1]!r} came, which was not asked for")
        reader = _Reader(data)
        try:
            message = decode(reader, self._relations)
        except (struct.error, UnicodeDecodeError) as error:
            raise StreamBroken(f"a message of the kind {data[:1]!r} is malformed: {error}") from error
        if reader.at != len(data):
            raise StreamBroken(f"a message of the kind {data[:1]!r} is {len(data) - reader.at} bytes too long")
        if isinstance(message, Relation):
            self._relations[message.oid] = message
        return message


class _Reader:
    """Reads a message from left to right."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 1

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        values = form.unpack_from(self.data, self.at)
        self.at += form.size
        return values

    def bytes(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self.data):
            raise struct.error(f"{end - len(self.data)} bytes are missing")
        found = self.data[self.at : end]
        self.at = end
        return found

    def text(self) -> str:
        end = self.data.find(0, self.at)
        if end < 0:
            raise struct.error("a name does not end")
        found = self.data[self.at : end].decode()
        self.at = end + 1
        return found

    def row(self, relation: Relation) -> Row:
        (count,) = self.unpack(_U16)
        if count != len(relation.columns):
            raise struct.error(f"{count} values for the {len(relation.columns)} columns of {relation.name}")
        data = self.data
        values: list[Value] = []
        for _ in range(count):
            kind = self.bytes(1)[0]
            if kind == _TEXT:
                values.append(self.bytes(self.unpack(_U32)[0]))
            elif kind == _NULL:
                values.append(None)
            elif kind == _TOAST:
                values.append(UNCHANGED)
            else:
                raise struct.error(f"a value of the kind {data[self.at - 1 : self.at]!r}")
        return tuple(values)

    def relation(self, relations: Mapping[int, Relation]) -> Relation:
        (oid,) = self.unpack(_U32)
        found = relations.get(oid)
        if found is None:
            raise struct.error(f"the relation {oid} was not described")
        return found


_U8, _U16, _U32, _U64 = (struct.Struct(f"!{form}") for form in "BHIQ")
_BEGIN, _COMMIT, _COLUMN, _TRUNCATE, _NOTE = (struct.Struct(f"!{form}") for form in ("QqI", "BQQq", "Ii", "IB", "BQ"))


def _begin(reader: _Reader, relations: Mapping[int, Relation]) -> Begin:
    return Begin(*reader.unpack(_BEGIN))


def _commit(reader: _Reader, relations: Mapping[int, Relation]) -> Commit:
    return Commit(*reader.unpack(_COMMIT)[1:])


def _relation(reader: _Reader, relations: Mapping[int, Relation]) -> Relation:
    (oid,) = reader.unpack(_U32)
    schema, name, identity = reader.text(), reader.text(), reader.bytes(1).decode()
    columns = []
    for _ in range(reader.unpack(_U16)[0]):
        (flags,) = reader.unpack(_U8)
        column = reader.text()
        kind, modifier = reader.unpack(_COLUMN)
        columns.append(Column(column, kind, modifier, bool(flags & 1)))
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns))


def _type(reader: _Reader, relations: Mapping[int, Relation]) -> Type:
    return Type(reader.unpack(_U32)[0], reader.text() or "pg_catalog", reader.text())


def _origin(reader: _Reader, relations: Mapping[int, Relation]) -> Origin:
    return Origin(reader.unpack(_U64)[0], reader.text())


def _insert(reader: _Reader, relations: Mapping[int, Relation]) -> Insert:
    relation = reader.relation(relations)
    _expect(reader.bytes(1), _NEW)
    return Insert(relation, reader.row(relation))


def _update(reader: _Reader, relations: Mapping[int, Relation]) -> Update:
    relation = reader.relation(relations)
    mark, old = reader.bytes(1), None
    whole = mark == _OLD_ROW
    if whole or mark == _OLD_KEY:
        old = reader.row(relation)
        mark = reader.bytes(1)
    _expect(mark, _NEW)
    return Update(relation, old, reader.row(relation), whole)


def _delete(reader: _Reader, relations: Mapping[int, Relation]) -> Delete:
    relation = reader.relation(relations)
    mark = reader.bytes(1)
    _expect(mark, _OLD_KEY, _OLD_ROW)
    return Delete(relation, reader.row(relation), mark == _OLD_ROW)


def _truncate(reader: _Reader, relations: Mapping[int, Relation]) -> Truncate:
    count, flags = reader.unpack(_TRUNCATE)
    # A count that is a lie ends at the first relation that is not there, before anything is made of it.
    found = tuple(reader.relation(relations) for _ in range(count))
    return Truncate(found, bool(flags & 1), bool(flags & 2))


def _note(reader: _Reader, relations: Mapping[int, Relation]) -> Note:
    flags, lsn = reader.unpack(_NOTE)
    prefix = reader.text()
    return Note(bool(flags & 1), lsn, prefix, reader.bytes(reader.unpack(_U32)[0]))


def _expect(mark: bytes, *wanted: bytes) -> None:
    if mark not in wanted:
        raise struct.error(f"{mark!r} where {b' or '.join(wanted)!r} belongs")


_KINDS: Mapping[bytes, Callable[[_Reader, Mapping[int, Relation]], Message]] = {
    b"B": _begin,
    b"C": _commit,
    b"R": _relation,
    b"Y": _type,
    b"O": _origin,
    b"I": _insert,
    b"U": _update,
    b"D": _delete,
    b"T": _truncate,
    b"M": _note,
}
