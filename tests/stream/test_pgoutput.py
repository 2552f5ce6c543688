from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import InvalidInput, StreamBroken
from tenantry.stream.lsn import parse_lsn, shown_lsn
from tenantry.stream.pgoutput import (
    UNCHANGED,
    Begin,
    Column,
    Commit,
    Decoder,
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
from tests.stream.encode import encode

lsns = st.integers(0, 2**64 - 1)
oids = st.integers(0, 2**32 - 1)
times = st.integers(-(2**63), 2**63 - 1)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=63)
columns = st.builds(Column, names, oids, st.integers(-(2**31), 2**31 - 1), st.booleans())
relations = st.builds(
    Relation, oids, names, names, st.sampled_from("dnfi"), st.lists(columns, min_size=1, max_size=8).map(tuple)
)
values = st.one_of(st.binary(max_size=200), st.none(), st.just(UNCHANGED))


def rows(relation: Relation) -> st.SearchStrategy[Row]:
    """Rows of a relation."""
    return st.tuples(*[values] * len(relation.columns))


def changes(relation: Relation) -> st.SearchStrategy[Message]:
    """Changes of a relation."""
    row = rows(relation)
    return st.one_of(
        st.builds(Insert, st.just(relation), row),
        st.builds(Update, st.just(relation), st.none(), row),
        st.builds(Update, st.just(relation), row, row, st.booleans()),
        st.builds(Delete, st.just(relation), row, st.booleans()),
        st.builds(Truncate, st.just((relation,)), st.booleans(), st.booleans()),
    )


others: st.SearchStrategy[Message] = st.one_of(
    st.builds(Begin, lsns, times, oids),
    st.builds(Commit, lsns, lsns, times),
    st.builds(Origin, lsns, names),
    st.builds(Type, oids, names, names),
    st.builds(Note, st.booleans(), lsns, names, st.binary(max_size=200)),
)


@given(relations.flatmap(lambda relation: st.tuples(st.just(relation), st.lists(st.one_of(others, changes(relation))))))
def test_what_a_server_writes_is_read(told: tuple[Relation, list[Message]]) -> None:
    decoder = Decoder()
    relation, messages = told
    assert decoder.decode(encode(relation)) == relation
    for message in messages:
        assert decoder.decode(encode(message)) == message


@given(
    relations.flatmap(lambda relation: st.tuples(st.just(relation), st.one_of(others, changes(relation)))),
    st.data(),
)
def test_a_message_that_is_cut_short_or_too_long_is_refused(
    told: tuple[Relation, Message], data: st.DataObject
) -> None:
    decoder = Decoder()
    relation, message = told
    decoder.decode(encode(relation))
    whole = encode(message)
    with pytest.raises(StreamBroken):
        decoder.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(StreamBroken, match="too long"):
        decoder.decode(whole + b"\0")


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_read_but_never_breaks(garbage: bytes) -> None:
    with suppress(StreamBroken):
        Decoder().decode(garbage)


@given(relations, st.data())
def test_a_flipped_byte_never_breaks(relation: Relation, data: st.DataObject) -> None:
    decoder = Decoder()
    decoder.decode(encode(relation))
    whole = bytearray(encode(data.draw(changes(relation))))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(StreamBroken):
        decoder.decode(bytes(whole))


def test_a_relation_that_was_not_described_is_refused() -> None:
    relation = Relation(7, "public", "orders", "d", (Column("id", 20, -1, True),))
    with pytest.raises(StreamBroken, match="relation 7 was not described"):
        Decoder().decode(encode(Insert(relation, (b"1",))))


def test_a_relation_that_is_described_again_replaces_the_first() -> None:
    decoder = Decoder()
    first = Relation(7, "public", "orders", "d", (Column("id", 20, -1, True),))
    second = Relation(7, "public", "orders", "d", (Column("id", 20, -1, True), Column("note", 25, -1, False)))
    decoder.decode(encode(first))
    decoder.decode(encode(second))
    assert decoder.decode(encode(Insert(second, (b"1", b"x")))) == Insert(second, (b"1", b"x"))
    with pytest.raises(StreamBroken, match="1 values for the 2 columns of orders"):
        decoder.decode(encode(Insert(first, (b"1",))))


@given(lsns)
def test_a_position_is_read_as_it_is_shown(lsn: int) -> None:
    assert parse_lsn(shown_lsn(lsn)) == lsn


@pytest.mark.parametrize(
    "text", ["", "/", "16", "16/", "16/B374D848 ", "G/0", "123456789/0", "1/1/1", "-1/0", "16/B374D848\n"]
)
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="no position"):
        parse_lsn(text)
