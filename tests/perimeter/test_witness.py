"""Who reads along sees whether a binding was done, however the answer is cut into pieces, and passes every byte on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.perimeter.wire import bind_message, bound_answer, message, was_bound
from tenantry.perimeter.witness import Witness
from tests.perimeter.test_wire import parts

PARSED, BINDING, ERROR = message(b"1", b""), message(b"2", b""), message(b"E", b"SERROR\0C42501\0\0")
BEGIN, BOUND, ROWS = (message(b"C", tag) for tag in (b"BEGIN\0", b"SELECT 0\0", b"SELECT 1\0"))
NOTICE = message(b"N", b"MC does not complete\0\0")
READY = message(b"Z", b"T")
ROW = message(b"D", b"\0\1\0\0\0\1C")

GOOD = PARSED + BINDING + BEGIN + BINDING + BOUND
ANSWERS = [
    (GOOD + BINDING + ROW + ROWS + READY, True),
    (GOOD + ERROR + READY, True),
    (PARSED + BINDING + BEGIN + PARSED + BINDING + BOUND + BINDING + ROWS + READY, True),
    (NOTICE + PARSED + BINDING + NOTICE + BEGIN + NOTICE + BINDING + NOTICE + BOUND + READY, True),
    (ERROR + READY, False),
    (PARSED + BINDING + ERROR + READY, False),
    (PARSED + BINDING + BEGIN + ERROR + READY, False),
    (PARSED + BINDING + BEGIN + BINDING + ERROR + READY, False),
    (PARSED + BINDING + BEGIN + BINDING, None),
    (b"", None),
]


class Receiver:
    """In the place of asyncpg's protocol."""

    def __init__(self) -> None:
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data

    connection_lost = eof_received = pause_writing = resume_writing = data_received


@pytest.mark.parametrize(("answer", "bound"), ANSWERS)
def test_each_answer_has_one_meaning_however_it_is_cut(answer: bytes, bound: bool | None) -> None:
    assert was_bound(answer) is bound
    for first in range(len(answer) + 1):
        for second in range(first, len(answer) + 1):
            receiver = Receiver()
            witness = Witness(receiver)
            witness.watch(parsed=False)
            for piece in (answer[:first], answer[first:second], answer[second:]):
                witness.data_received(piece)
            assert witness.bound is bound
            assert receiver.received == answer


def test_what_is_not_watched_is_passed_on() -> None:
    receiver = Receiver()
    witness = Witness(receiver)
    witness.data_received(GOOD)
    assert witness.bound is False
    assert receiver.received == GOOD


def test_the_usual_answer_is_that_of_a_binding_with_and_without_a_name() -> None:
    assert bound_answer(parsed=False) == GOOD
    assert bound_answer(parsed=True) == PARSED + BINDING + BEGIN + PARSED + BINDING + BOUND


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.booleans())
def test_the_token_is_a_parameter_and_nothing_else(token: str, same: bool) -> None:
    named, unnamed = (parts(bind_message(name, "SELECT 1", token, same=same)) for name in ("b1", ""))
    assert [kind for kind, _ in named] == [b"B", b"E"]
    assert [kind for kind, _ in unnamed] == [b"P", b"B", b"E"]
    assert unnamed[0][1] == b"\0SELECT 1\0\0\0"
    portal, name, rest = named[0][1].split(b"\0", 2)
    secret = token.encode()
    values = len(secret).to_bytes(4, "big") + secret + b"\0\0\0\1" + (b"t" if same else b"f")
    assert (portal, name, rest) == (b"", b"b1", b"\0\0" + b"\0\2" + values + b"\0\0")
