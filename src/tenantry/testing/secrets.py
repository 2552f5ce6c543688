"""Values that only one tenant has, and where they turn up. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from tenantry.errors import InvalidInput

DIGITS = 10
SHORTEST = 6
"""A value with fewer characters turns up by chance."""

TAKEN = 16
"""Of the values that a test has written itself, those with so many characters are taken to be one tenant's alone."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that only one tenant has: its slug, and the table and column where it stands."""

    value: str
    tenant: str
    place: str

    def __str__(self) -> str:
        return f"{self.value!r} of {self.tenant} ({self.place})"


class Secrets:
    """The values that are known to belong to one tenant."""

    def __init__(self) -> None:
        self._known: dict[str, Secret] = {}

    def plant(self, tenant: str, place: str, digits: str, length: int | None = None) -> str:
        """A new value for a column, of letters and digits, so that no encoding changes it.

        Args:
            digits: random hexadecimal ones, at least :data:`DIGITS`.
            length: the most characters that fit.
        """
        word = re.sub(r"[^a-z0-9]", "", tenant)[:8] or "t"
        value = f"{word}{digits[:DIGITS]}"
        if length is not None and len(value) > length:
            value = f"q{digits}"[:length]
        if len(value) >= SHORTEST:
            self.add(value, tenant, place)
        return value

    def add(self, value: str, tenant: str, place: str) -> None:
        """Note that a value is a tenant's alone; what is known of it already stays."""
        self._known.setdefault(value.casefold(), Secret(value, tenant, place))

    def of(self, tenant: str) -> list[Secret]:
        """All of one tenant's."""
        return [each for each in self._known.values() if each.tenant == tenant]

    def found_in(self, texts: Iterable[str], tenant: str, *, without: Set[str] = frozenset()) -> list[Secret]:
        """Those of a tenant that stand in some texts, each once.

        Args:
            without: values that do not count.
        """
        searched = [(each.value.casefold(), each) for each in self.of(tenant) if each.value not in without]
        found: dict[str, Secret] = {}
        for text in texts:
            folded = text.casefold()
            found.update({value: each for value, each in searched if value in folded})
        return list(found.values())


def texts(value: object) -> Iterator[str]:
    """Every text in a value: in responses, rows, objects, and what they hold. Each object is looked at once.

    Raises:
        InvalidInput: an iterator, which can be read only once.
    """
    seen: dict[int, object] = {}  # with the objects: an id is used again when its object is gone
    todo = [value]
    while todo:
        each = todo.pop()
        if each is None or isinstance(each, (bool, float)) or id(each) in seen:
            continue
        seen[id(each)] = each
        if isinstance(each, str):
            yield each
        elif isinstance(each, (bytes, bytearray, memoryview)):
            yield bytes(each).decode(errors="replace")
        elif isinstance(each, Mapping):
            todo += [*each.keys(), *each.values()]
        elif isinstance(each, Iterator):
            what = f"{type(each).__name__} can be read only once"
            raise InvalidInput(what, hint="give what it yields: list(...)")
        elif (parts := _parts(each)) is not None:
            todo += parts
        else:
            yield str(each)


def _parts(value: object) -> Iterable[Any] | None:
    """What an object is made of; None: it has no parts."""
    if isinstance(value, BaseException):
        return (
            str(value),
            repr(value),
            value.args,
            getattr(value, "__notes__", ()),
            value.__cause__,
            value.__context__,
        )
    content = getattr(value, "content", None)
    if isinstance(content, bytes) and hasattr(value, "headers"):  # a response of httpx, requests, Starlette, Django
        return (content, dict(value.headers))
    data = getattr(value, "data", None)
    if isinstance(data, bytes) and hasattr(value, "headers"):  # Flask
        return (data, dict(value.headers))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, each.name) for each in dataclasses.fields(value)]
    if isinstance(value, Iterable):
        return value
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return [*(each for name, each in vars(value).items() if not name.startswith("_")), repr(value)]
    return None
