"""The messages that begin a transaction: exactly those, and nothing that somebody else's text could make of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.perimeter.wire import begin_message, begins, ends, message

LEVELS = [
    "",
    *(f" ISOLATION LEVEL {each}" for each in ("READ COMMITTED", "READ UNCOMMITTED", "REPEATABLE READ", "SERIALIZABLE")),
]
BEGINS = [f"BEGIN{level}{ro}{late};" for level in LEVELS for ro in ("", " READ ONLY") for late in ("", " DEFERRABLE")]
ENDS = ["COMMIT;", "ROLLBACK;", "ROLLBACK", "ROLLBACK TO __asyncpg_savepoint_0f_1;", "RELEASE SAVEPOINT x1;"]


def parts(stream: bytes) -> list[tuple[bytes, bytes]]:
    """The messages in a stream, as a server reads them."""
    found = []
    while stream:
        length = int.from_bytes(stream[1:5], "big")
        assert 4 <= length <= len(stream) - 1
        found.append((stream[:1], stream[5 : 1 + length]))
        stream = stream[1 + length :]
    return found


@pytest.mark.parametrize("statement", BEGINS)
def test_what_asyncpg_begins_with_is_known_and_reads_and_writes_unless_it_says_otherwise(statement: str) -> None:
    assert begins(statement)
    assert not ends(statement)
    (kind, parse), bind, execute = parts(begin_message(statement))
    name, text, types = parse.split(b"\0", 2)
    suffix = "" if "READ ONLY" in statement else " READ WRITE"
    assert (kind, name, text.decode(), types) == (b"P", b"", statement[:-1] + suffix, b"\0\0")
    assert bind == (b"B", b"\0\0" + b"\0\0" * 3)
    assert execute == (b"E", b"\0" + b"\0\0\0\0")


@pytest.mark.parametrize("statement", ENDS)
def test_what_ends_a_transaction_is_known(statement: str) -> None:
    assert ends(statement)
    assert not begins(statement)


@pytest.mark.parametrize("statement", [*BEGINS, *ENDS])
@pytest.mark.parametrize("more", ["SELECT 1", " ; SELECT 1", "\0", "\n", " ", ";", "--", "/**/", "\u0130"])
def test_nothing_may_follow(statement: str, more: str) -> None:
    for text in (statement + more, more + statement, statement.replace(" ", more + " ", 1)):
        if text not in (*BEGINS, *ENDS, *(f"{each};" for each in ENDS)):
            assert not begins(text), text
            assert not ends(text), text


@given(st.text())
def test_other_text_is_neither(text: str) -> None:
    known = {*BEGINS, *(each[:-1] for each in BEGINS)}
    assert begins(text) == (text in known)
    assert not ends(text) or text.rstrip(";").split()[0] in ("COMMIT", "ROLLBACK", "RELEASE")


@given(st.binary(min_size=1, max_size=1), st.binary(max_size=300))
def test_a_message_is_read_as_it_was_written(kind: bytes, body: bytes) -> None:
    assert parts(message(kind, body) * 2) == [(kind, body)] * 2
