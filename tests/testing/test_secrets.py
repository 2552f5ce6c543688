"""Values of one tenant are found wherever they hide."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import InvalidInput
from tenantry.testing.secrets import SHORTEST, Secrets, texts

VALUE = "globex0123456789"


class Slotted:
    __slots__ = ("note",)

    def __init__(self, note: str) -> None:
        self.note = note

    def __str__(self) -> str:
        return f"Slotted({self.note})"


@dataclass(frozen=True, slots=True)
class Row:
    note: str


def failed() -> BaseException:
    try:
        try:
            raise KeyError(VALUE)
        except KeyError as error:
            raise RuntimeError("no word of it") from error
    except RuntimeError as error:
        return error


def noted() -> BaseException:
    error = ValueError("no word of it")
    error.add_note(VALUE)
    return error


@pytest.mark.parametrize(
    "holder",
    [
        VALUE,
        VALUE.upper(),
        f"mailto:{VALUE}@example.com",
        VALUE.encode(),
        memoryview(VALUE.encode()),
        [{"a": ({"b": [VALUE]},)}],
        {VALUE: 1},
        {VALUE},
        SimpleNamespace(content=f"<p>{VALUE}</p>".encode(), headers={}),
        SimpleNamespace(content=b"", headers={"X-Next": VALUE}),
        SimpleNamespace(data=VALUE.encode(), headers={}),
        SimpleNamespace(order=SimpleNamespace(note=VALUE)),
        Row(VALUE),
        Slotted(VALUE),
        failed(),
        noted(),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_a_value_is_found_in(holder: Any) -> None:
    known = Secrets()
    known.add(VALUE, "globex", "orders.note")
    [found] = known.found_in(texts([1, holder, None]), "globex")
    assert str(found) == f"{VALUE!r} of globex (orders.note)"
    assert known.found_in(texts(holder), "acme") == []


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@given(nested, nested)
def test_whatever_stands_beside_it(first: Any, second: Any) -> None:
    known = Secrets()
    value = known.plant("globex", "orders.note", "0123456789abcdef")
    assert known.found_in(texts({"x": [first, {"y": f"<{value}>"}, second]}), "globex")


@given(nested)
def test_nothing_is_found_where_nothing_is(value: Any) -> None:
    known = Secrets()
    known.add("a value that nobody would guess", "globex", "orders.note")
    assert known.found_in(texts(value), "globex") == []


def test_objects_that_refer_to_each_other_are_looked_at_once() -> None:
    """As those of an ORM do."""
    customer = SimpleNamespace(orders=[])
    customer.orders = [SimpleNamespace(customer=customer, note=str(n)) for n in range(1000)]
    found = [text for text in texts(customer.orders) if text.isdigit()]
    assert sorted(found, key=int) == [str(n) for n in range(1000)]


@pytest.mark.parametrize("once", [iter([VALUE]), (each for each in [VALUE]), map(str, [VALUE])])
def test_what_can_be_read_only_once_is_refused(once: Any) -> None:
    with pytest.raises(InvalidInput, match="only once") as caught:
        list(texts([once]))
    assert caught.value.hint == "give what it yields: list(...)"


@pytest.mark.parametrize("length", [1, SHORTEST - 1, SHORTEST, 9, 16, None])
def test_a_value_fits_its_column_and_is_known_if_it_is_long_enough(length: int | None) -> None:
    known = Secrets()
    value = known.plant("Globex-Europe", "orders.note", "0123456789abcdef", length)
    assert value.isalnum()
    assert length is None or len(value) <= length
    assert bool(known.of("Globex-Europe")) is (len(value) >= SHORTEST)
