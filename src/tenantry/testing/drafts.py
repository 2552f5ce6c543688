"""A row that a table may take, guessed from its columns and mended by what the database refuses. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Final

from tenantry.testing.facts import Check, Column, Relation

_COMBINATIONS = 200

_SAMPLES: Mapping[str, str] = {
    "date": "now",
    "timestamp": "now",
    "timestamptz": "now",
    "time": "now",
    "timetz": "now",
    "interval": "1 hour",
    "inet": "192.0.2.1",
    "cidr": "192.0.2.0/24",
    "macaddr": "02:00:5e:10:00:00",
    "macaddr8": "02:00:5e:ff:fe:10:00:00",
    "point": "(0,0)",
    "box": "(1,1),(0,0)",
    "circle": "<(0,0),1>",
    "money": "1",
    "tsquery": "a",
}


class _Default:
    """Leave the column out."""


DEFAULT: Final = _Default()

Choice = str | None | _Default
Plant = Callable[[str, int | None], str]
"""Makes a value that only this tenant has, given a column's name and the most characters that fit."""


class Draft:
    """The values of a row.

    Args:
        table: the table.
        fixed: what columns must hold: the tenant, and the keys that others have.
        plant: makes the values of columns that can hold any text.
        number: of the row, not used before.
        uuid: makes UUIDs.
    """

    def __init__(
        self, table: Relation, fixed: Mapping[str, Choice], plant: Plant, *, number: int, uuid: Callable[[str], str]
    ) -> None:
        self._table = table
        self._fixed = fixed
        self._choices: dict[str, list[Choice]] = {}
        for column in table.columns:
            if column.name not in fixed and not column.identity and not column.generated:
                self._choices[column.name] = list(_choices(column, plant, number, uuid))
        self._chosen: dict[str, Choice] = {name: choices[0] for name, choices in self._choices.items()}
        self._mending: dict[str, Iterator[Mapping[str, Choice]]] = {}
        self._simpler = self._simplifications()

    def values(self) -> dict[str, str | None]:
        """What to insert."""
        both = {**self._fixed, **self._chosen}
        return {name: value for name, value in both.items() if not isinstance(value, _Default)}

    def mend(self, constraint: str | None, column: str | None) -> bool:
        """Change what the database has refused; whether there is another way.

        Args:
            constraint: the check that failed, if it was one.
            column: the column that must not be NULL, if that was it.
        """
        if column is not None:
            return self._next(column)
        check = next((each for each in self._table.checks if each.name == constraint), None)
        if check is not None:
            ways = self._mending.setdefault(check.name, self._combinations(check))
            if (way := next(ways, None)) is not None:
                self._chosen.update(way)
                return True
        if (simpler := next(self._simpler, None)) is not None:
            self._chosen.update(simpler)
            return True
        return False

    def _next(self, column: str) -> bool:
        left = [choice for choice in self._choices.get(column, []) if isinstance(choice, str)]
        if not left or self._chosen[column] in left:
            return False
        self._chosen[column] = left[0]
        return True

    def _combinations(self, check: Check) -> Iterator[Mapping[str, Choice]]:
        names = [
            column.name
            for column in self._table.columns
            if column.name in self._choices
            and (column.name in check.columns or column.domain == check.domain is not None)
        ]
        literals = _literals(check.definition)
        ways = product(*([*literals, *self._choices[name]] for name in names))
        for count, way in enumerate(ways):
            if not names or count == _COMBINATIONS:
                return
            yield dict(zip(names, way, strict=True))

    def _simplifications(self) -> Iterator[Mapping[str, Choice]]:
        numbers = {c.name: "1" for c in self._table.columns if c.category == "N" and c.name in self._choices}
        yield numbers
        exotic = [c for c in self._table.columns if c.category not in "SNDB" and self._may_leave_out(c)]
        yield {column.name: DEFAULT for column in exotic}
        yield {column.name: DEFAULT for column in self._table.columns if self._may_leave_out(column)}

    def _may_leave_out(self, column: Column) -> bool:
        return column.name in self._choices and (not column.not_null or column.has_default)


def _choices(column: Column, plant: Plant, number: int, uuid: Callable[[str], str]) -> Iterable[Choice]:
    """What a column may hold, the best first."""
    if column.has_default and column.category not in "S":
        yield DEFAULT
    yield from _values(column, plant, number, uuid)
    if not column.not_null:
        yield None
    yield DEFAULT


def _values(column: Column, plant: Plant, number: int, uuid: Callable[[str], str]) -> Sequence[str]:
    if column.kind == "e":
        return column.labels
    if column.category == "S" and column.base != "char":
        value = plant(column.name, column.length)
        forms = (value, f"{value}@example.com", f"https://{value}.example.com/", value.upper(), str(number), "a")
        return [form for form in forms if column.length is None or len(form) <= column.length]
    if column.category == "N":
        return [str(number), "1", "0"]
    if column.category == "B":
        return ["false", "true"]
    if column.category == "A":
        return [f"{{{plant(column.name, None)}}}"] if column.element == "S" else ["{}"]
    if column.category == "R":
        return ["empty"]
    match column.base:
        case "uuid":
            return [uuid(column.name)]
        case "json" | "jsonb":
            return [f'{{"{column.name}": "{plant(column.name, None)}"}}']
        case "bytea" | "tsvector":
            return [plant(column.name, None)]
        case "xml":
            return [f"<x>{plant(column.name, None)}</x>"]
    return [_SAMPLES[column.base]] if column.base in _SAMPLES else []


def _literals(definition: str) -> list[Choice]:
    """The values that a condition names, and their neighbours."""
    words: list[Choice] = [word.replace("''", "'") for word in re.findall(r"'((?:[^']|'')*)'", definition)]
    numbers = [int(word) for word in re.findall(r"(?<![\w.'])-?\d+(?![\w.])", definition)]
    return words + [str(each) for number in numbers for each in (number, number + 1, number - 1)]
