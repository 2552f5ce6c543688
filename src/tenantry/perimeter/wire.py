"""Messages of PostgreSQL's protocol, version 3 (PostgreSQL: Message Formats), as bytes to be sent. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

_BEGIN = re.compile(
    r"BEGIN(?: ISOLATION LEVEL (?:READ COMMITTED|READ UNCOMMITTED|REPEATABLE READ|SERIALIZABLE))?"
    r"(?: READ ONLY)?(?: DEFERRABLE)?;?"
)
_END = re.compile(r"(?:COMMIT|ROLLBACK(?: TO \w+)?|RELEASE SAVEPOINT \w+);?")

_NOTHING_BOUND = b"\0\0" * 3  # no formats of parameters, no parameters, no formats of results


def begins(statement: str) -> bool:
    """Whether it begins a transaction, and does nothing else."""
    return statement.startswith("BEGIN") and _BEGIN.fullmatch(statement) is not None


def ends(statement: str) -> bool:
    """Whether it ends a transaction or a savepoint, and does nothing else."""
    return statement.startswith(("COMMIT", "ROLLBACK", "RELEASE")) and _END.fullmatch(statement) is not None


@lru_cache(maxsize=32)
def begin_message(statement: str) -> bytes:
    """Parse, Bind and Execute of a statement for which :func:`begins` is true, without a synchronisation point.

    It reads and writes unless it says READ ONLY: a ``default_transaction_read_only`` that injected SQL has left behind
    can't be undone from inside the transaction.
    """
    text = statement.rstrip(";")
    if " READ ONLY" not in text:
        text += " READ WRITE"
    parse = b"\0" + text.encode("ascii") + b"\0" + b"\0\0"  # no name; no types of parameters
    bind = b"\0" + b"\0" + _NOTHING_BOUND  # no name of the portal, nor of the statement
    execute = b"\0" + bytes(4)  # the portal without a name; no limit of rows
    return message(b"P", parse) + message(b"B", bind) + message(b"E", execute)


def message(kind: bytes, body: bytes) -> bytes:
    """A message: its kind, its length without the kind, its body."""
    return kind + (len(body) + 4).to_bytes(4, "big") + body
