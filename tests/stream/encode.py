"""Messages of pgoutput as a server would write them: the opposite of what is tested."""

from __future__ import annotations

import struct

from tenantry.stream.pgoutput import (
    UNCHANGED,
    Begin,
    Commit,
    Delete,
    Insert,
    Message,
    Note,
    Origin,
    Relation,
    Row,
    Truncate,
    Type,
    Update,
)


def encode(message: Message) -> bytes:
    """One message."""
    match message:
        case Begin(lsn, at, xid):
            return b"B" + struct.pack("!QqI", lsn, at, xid)
        case Commit(lsn, end, at):
            return b"C" + struct.pack("!BQQq", 0, lsn, end, at)
        case Relation(oid, schema, name, identity, columns):
            head = b"R" + struct.pack("!I", oid) + _text(schema) + _text(name) + identity.encode()
            parts = [
                struct.pack("!B", column.key) + _text(column.name) + struct.pack("!Ii", column.type, column.modifier)
                for column in columns
            ]
            return head + struct.pack("!H", len(columns)) + b"".join(parts)
        case Type(oid, schema, name):
            return b"Y" + struct.pack("!I", oid) + _text(schema) + _text(name)
        case Origin(lsn, name):
            return b"O" + struct.pack("!Q", lsn) + _text(name)
        case Insert(relation, new):
            return b"I" + struct.pack("!I", relation.oid) + b"N" + _row(new)
        case Update(relation, old, new, whole):
            before = b"" if old is None else (b"O" if whole else b"K") + _row(old)
            return b"U" + struct.pack("!I", relation.oid) + before + b"N" + _row(new)
        case Delete(relation, old, whole):
            return b"D" + struct.pack("!I", relation.oid) + (b"O" if whole else b"K") + _row(old)
        case Truncate(relations, cascade, restart):
            flags = cascade | restart << 1
            return b"T" + struct.pack(f"!IB{len(relations)}I", len(relations), flags, *(each.oid for each in relations))
        case Note(transactional, lsn, prefix, content):
            return (
                b"M"
                + struct.pack("!BQ", transactional, lsn)
                + _text(prefix)
                + struct.pack("!I", len(content))
                + content
            )


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _row(row: Row) -> bytes:
    parts = [struct.pack("!H", len(row))]
    for value in row:
        if value is None:
            parts.append(b"n")
        elif value is UNCHANGED:
            parts.append(b"u")
        else:
            assert isinstance(value, bytes)
            parts.append(b"t" + struct.pack("!I", len(value)) + value)
    return b"".join(parts)
