"""Messages of PostgreSQL's protocol, version 3 (PostgreSQL: Message Formats), as bytes to be sent. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_BEGIN = re.compile(
    r"BEGIN(?: ISOLATION LEVEL (?:READ COMMITTED|READ UNCOMMITTED|REPEATABLE READ|SERIALIZABLE))?"
    r"(?: READ ONLY)?(?: DEFERRABLE)?;?"
)
_END = re.compile(r"(?:COMMIT|ROLLBACK(?: TO \w+)?|RELEASE SAVEPOINT \w+);?")

_ERROR, _COMPLETE = b"E", b"C"
_NOTHING_BOUND = b"\0\0" * 3  # no formats of parameters, no parameters, no formats of results


def begins(statement: str) -> bool:
    """Whether it begins a transaction, and does nothing else."""
    return statement == "BEGIN;" or (statement.startswith("BEGIN") and _BEGIN.fullmatch(statement) is not None)


def ends(statement: str) -> bool:
    """Whether it ends a transaction or a savepoint, and does nothing else."""
    if statement == "COMMIT;":
        return True
    return statement.startswith(("COMMIT", "ROLLBACK", "RELEASE")) and _END.fullmatch(statement) is not None


@lru_cache(maxsize=32)
def begin_message(statement: str, *, replica: bool = False) -> bytes:
    """Parse, Bind and Execute of a statement for which :func:`begins` is true, without a synchronisation point.

    It reads and writes unless it says READ ONLY: a ``default_transaction_read_only`` that injected SQL has left behind
    can't be undone from inside the transaction. On a replica it only reads.
    """
    text = statement.rstrip(";")
    if " READ ONLY" not in text:
        text += " READ ONLY" if replica else " READ WRITE"
    return _execution(text)


COMMIT, ROLLBACK = "COMMIT", "ROLLBACK"


@lru_cache(maxsize=2)
def end_message(command: str) -> bytes:
    """Parse, Bind and Execute of a commit or a rollback, without a synchronisation point."""
    return _execution(command)


def _execution(text: str) -> bytes:
    parse = b"\0" + text.encode("ascii") + b"\0" + b"\0\0"  # no name; no types of parameters
    bind = b"\0" + b"\0" + _NOTHING_BOUND  # no name of the portal, nor of the statement
    return message(b"P", parse) + message(b"B", bind) + _EXECUTE


def message(kind: bytes, body: bytes) -> bytes:
    """A message: its kind, its length without the kind, its body."""
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def bind_message(name: str, statement: str, token: str, *, same: bool, more: Sequence[str] = ()) -> bytes:
    """Bind and Execute of the binding, without a synchronisation point.

    Args:
        name: of the prepared statement; ``""``: it is parsed first.
        statement: its text, with these parameters and no result.
        token: the first parameter.
        same: the second one.
        more: the others.
    """
    values = _parameter(token) + (b"\0\0\0\1t" if same else b"\0\0\0\1f") + b"".join(map(_parameter, more))
    # No name of the portal; no formats: text; the parameters; no formats of results.
    count = (2 + len(more)).to_bytes(2, "big")
    bind = b"\0" + name.encode("ascii") + b"\0" + b"\0\0" + count + values + b"\0\0"
    parse = b"" if name else message(b"P", b"\0" + statement.encode("ascii") + b"\0" + b"\0\0")
    return parse + message(b"B", bind) + _EXECUTE


def _parameter(text: str) -> bytes:
    value = text.encode()
    return len(value).to_bytes(4, "big") + value


_EXECUTE = message(b"E", bytes(5))  # the portal without a name; no limit of rows


@lru_cache(maxsize=2)
def bound_answer(*, parsed: bool) -> bytes:
    """What a server answers first where BEGIN and the binding went well and nothing else was to be said."""
    parsing, binding = message(b"1", b""), message(b"2", b"")
    begun = parsing + binding + message(_COMPLETE, b"BEGIN\0")
    return begun + (parsing if parsed else b"") + binding + message(_COMPLETE, b"SELECT 0\0")


def was_bound(answer: bytes) -> bool | None:
    """Whether two statements have been completed, BEGIN and the binding, before one has failed; None: not known yet.

    Args:
        answer: what the server has sent so far; its end may be missing.
    """
    place, completed = 0, 0
    while completed < 2:
        if place + 5 > len(answer):
            return None
        kind, length = answer[place : place + 1], int.from_bytes(answer[place + 1 : place + 5], "big")
        if kind == _ERROR:
            return False
        place += 1 + length
        if place > len(answer):
            return None
        completed += kind == _COMPLETE
    return True
