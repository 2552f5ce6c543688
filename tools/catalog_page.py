"""The tables in ``docs/reference/catalog.md``: their form comes from the database, the words are people's. Pure.

Between two marks the page has a section for each table and view, with what it is for and a row for each column. The
names, types and keys there are rewritten; the sentences are kept. Whatever stands outside of the marks is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

BEGIN = "<!-- Tables: names, types and keys are written by tools/catalog_schema.py, the sentences are yours. -->\n"
END = "<!-- End of tables -->\n"
SILENT = "?"

_SECTION = re.compile(r"^### `(\w+)`\n\n(.*?)\n\n(\| column .*?)(?=^### |\Z)", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| `(\w+)` \| [^|]* \| (.*) \|$", re.MULTILINE)


class AnyColumn(Protocol):
    """What is said of a column."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def required(self) -> bool: ...
    @property
    def is_identity(self) -> bool: ...
    @property
    def default(self) -> str | None: ...


class AnyTable(Protocol):
    """What is said of a table; of a view if it has a definition."""

    @property
    def name(self) -> str: ...
    @property
    def definition(self) -> str | None: ...
    @property
    def columns(self) -> Sequence[AnyColumn]: ...
    @property
    def constraints(self) -> Mapping[str, str]: ...
    @property
    def indexes(self) -> Sequence[str]: ...


def render_page(tables: Sequence[AnyTable], page: str) -> tuple[str, list[str]]:
    """The page with these tables, and the names of what it says nothing about.

    Raises:
        ValueError: the page has not the two marks.
    """
    before, begin, rest = page.partition(BEGIN)
    between, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the marks {BEGIN.strip()} and {END.strip()}")
    words = dict(_words(between))
    sections = "".join(_section(table, words) for table in tables)
    names = [name for table in tables for name in (table.name, *(f"{table.name}.{c.name}" for c in table.columns))]
    return f"{before}{begin}\n{sections}{end}{after}", [name for name in names if words.get(name, SILENT) == SILENT]


def _words(text: str) -> Iterator[tuple[str, str]]:
    for table, purpose, rest in _SECTION.findall(text):
        yield table, purpose
        for column, meaning in _ROW.findall(rest):
            yield f"{table}.{column}", meaning


def _section(table: AnyTable, words: Mapping[str, str]) -> str:
    is_view = table.definition is not None
    rows = "".join(
        f"| `{column.name}` | {_type(column, is_view=is_view)} | {words.get(f'{table.name}.{column.name}', SILENT)} |\n"
        for column in table.columns
    )
    facts = [*table.constraints.values(), *(index.removeprefix("CREATE ") for index in table.indexes)]
    keys = "".join(f"- `{fact}`\n" for fact in facts)
    return (
        f"### `{table.name}`\n\n{words.get(table.name, SILENT)}\n\n"
        f"| column | type | meaning |\n|---|---|---|\n{rows}\n{f'{keys}{chr(10)}' if keys else ''}"
    )


def _type(column: AnyColumn, *, is_view: bool) -> str:
    if column.is_identity:
        return f"`{column.type}`, numbered"
    if column.default is not None:
        return f"`{column.type}`, default `{column.default}`"
    return f"`{column.type}`" if column.required or is_view else f"`{column.type}`, may be null"
