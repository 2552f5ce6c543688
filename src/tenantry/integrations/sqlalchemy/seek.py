"""Conditions that the planner may not use an index for behind a policy: beside them stands a seek, which does.

A column has seeks by an index in its table's metadata whose name ends in ``_seek``; by the same index the perimeter
makes the functions (:mod:`tenantry.perimeter.seek`). They are added as a statement is compiled, so a statement that is
in SQLAlchemy's cache costs nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ARRAY, Boolean, Column, Date, DateTime, Enum, Float, Index, Integer, Numeric, String, Table, Uuid
from sqlalchemy.dialects.postgresql import CITEXT, JSONB, TSVECTOR
from sqlalchemy.dialects.postgresql.ranges import AbstractRange
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BinaryExpression, BooleanClauseList, ColumnElement, Grouping
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import and_, eq
from sqlalchemy.sql.selectable import Alias
from sqlalchemy.sql.visitors import iterate

from tenantry.perimeter.seek import SUFFIX, function_name

_OPERATORS = {
    "LIKE": "like",
    "ILIKE": "ilike",
    "@@": "match",
    "@>": "contains",
    "<@": "within",
    "&&": "overlaps",
    "?": "has",
    "?|": "has_any",
    "?&": "has_all",
    "=": "equals",
}
_PLAIN = frozenset(
    {"array", "binary", "bindparam", "cast", "clauselist", "expression_clauselist", "function", "grouping", "null"}
    | {"type_coerce", "typeclause"}
)  # fmt: skip
_STABLE = frozenset({"to_tsquery", "plainto_tsquery", "phraseto_tsquery", "websearch_to_tsquery"})
_ELEMENTS = Integer, String, Uuid, Numeric, Date, DateTime, Boolean


class SeekingCompiler(SQLCompiler):
    """SQLAlchemy's compiler, which adds seeks to what stands in WHERE."""

    def _generate_delimited_and_list(self, clauses: Sequence[Any], **kw: Any) -> str:
        compiler: Any = super()
        statement: Any = self.stack[-1]["selectable"] if self.stack else None
        if statement is None or clauses is not getattr(statement, "_where_criteria", None):
            return str(compiler._generate_delimited_and_list(clauses, **kw))
        seeks = self._seeks(clauses, **kw)
        writes = self._writes()
        # What finds the same rows need not be asked of each of them once more.
        done = [seek.condition for seek in seeks if seek.exact and not writes]
        left = [clause for clause in clauses if not any(clause is each for each in done)]
        added = [_Rendered(self._lasting(seek) if writes else f"{seek.owner}{seek.place}") for seek in seeks]
        return str(compiler._generate_delimited_and_list((*left, *added), **kw))

    def _seeks(self, clauses: Sequence[ColumnElement[Any]], **kw: Any) -> list[_Seek]:
        kw = {name: value for name, value in kw.items() if name != "from_linter"}
        conditions = list(_conditions(clauses))
        found: dict[str, _Seek] = {}
        for condition in conditions:
            table = _table_of(condition.left)
            seek = self._found(condition, table, **kw) if table is not None and _is_plain(condition.right) else None
            # The planner finds rows by one of several lists, and would search the others through for each row.
            if seek is not None and (seek.owner not in found or seek.rank < found[seek.owner].rank):
                found[seek.owner] = seek
        return [seek for seek in found.values() if not _is_one_row(seek, conditions)]

    def _found(self, condition: BinaryExpression[Any], table: Table, **kw: Any) -> _Seek | None:
        left: Any = condition.left
        here, text = self.process(left, **kw), self.process(condition, **kw)
        operator, _, sought = text.removeprefix(f"{here} ").partition(" ")
        column, suffix = table.c[left.key], _OPERATORS.get(operator)
        owner = here.removesuffix(self.preparer.quote(column.name))
        tenant = _tenant_of(table, column, suffix)
        if suffix is None or tenant is None or not owner.endswith("."):
            return None
        escape = condition.modifiers.get("escape")
        if escape is not None:
            end = self.render_literal_value(escape, String())
            sought = f"pg_catalog.like_escape({sought.removesuffix(f' ESCAPE {end}')}, {end})"
        if isinstance(column.type, Enum | CITEXT):
            sought = f"CAST({sought} AS TEXT)"
        name = self.preparer.quote(function_name(table.name, column.name, suffix))
        if table.schema is not None:
            name = f"{self.preparer.quote_schema(table.schema)}.{name}"
        # Where the extension's operators are out of sight, a citext is compared as text, which finds less.
        exact = not isinstance(column.type, CITEXT)
        place = f"ctid = ANY ((SELECT {name}({sought}))::tid[])"
        return _Seek(condition, table, owner, tenant, place, rank=_rank(column, suffix), exact=exact)

    def _lasting(self, seek: _Seek) -> str:
        """A row that somebody has changed meanwhile is elsewhere; its key is the same."""
        names = [self.preparer.quote(each.name) for each in seek.table.primary_key.columns]
        keys, inner = (", ".join(f"{of}{each}" for each in names) for of in (seek.owner, "sought."))
        table = self.preparer.format_table(seek.table)
        return f"({keys}) IN (SELECT {inner} FROM {table} AS sought WHERE sought.{seek.place})"  # noqa: S608  # names

    def _writes(self) -> bool:
        """Whether the rows of the statement are locked."""
        statements: list[Any] = [entry["selectable"] for entry in self.stack]
        last = statements[-1]
        locks = any(getattr(each, "_for_update_arg", None) is not None for each in statements)
        return locks or bool(last.is_update or last.is_delete)


class _Rendered(ColumnElement[bool]):
    """SQL that is ready."""

    __visit_name__ = "tenantry_rendered"
    inherit_cache = False

    def __init__(self, text: str) -> None:
        self.text = text
        self.type = Boolean()

    def _compiler_dispatch(self, visitor: Any, **kw: Any) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class _Seek:
    """What stands beside a condition, or in its stead.

    Attributes:
        owner: the table as it stands before a column's name.
        tenant: the tenant's column.
        place: the condition on where rows are.
        rank: which of several seeks of a table probably finds the fewest rows: the least.
        exact: whether it finds no more than the condition.
    """

    condition: BinaryExpression[Any]
    table: Table
    owner: str
    tenant: str
    place: str
    rank: int
    exact: bool


def seeking(compiler: type[SQLCompiler]) -> type[SQLCompiler]:
    """A dialect's compiler that adds seeks."""
    return type(f"Seeking{compiler.__name__}", (SeekingCompiler, compiler), {})


def _conditions(clauses: Sequence[Any]) -> Iterator[BinaryExpression[Any]]:
    """What must hold of each row, without what is only one of several ways."""
    for clause in clauses:
        if isinstance(clause, BooleanClauseList) and clause.operator is and_:
            yield from _conditions(clause.clauses)
        elif isinstance(clause, Grouping):
            yield from _conditions([clause.element])
        elif isinstance(clause, BinaryExpression):
            yield clause


def _table_of(left: Any) -> Table | None:
    """The table of a column for which an index asks for seeks."""
    table = getattr(left, "table", None)
    if isinstance(table, Alias):
        table = table.element
    if not isinstance(table, Table) or left.key not in table.c:
        return None
    column = table.c[left.key]
    asked = (index for index in table.indexes if str(index.name or "").endswith(SUFFIX))
    return table if any(column is each for index in asked for each in index.columns) else None


def _is_plain(right: Any) -> bool:
    """Whether an operand is the same for all rows and for both times that it is evaluated."""
    return all(
        each.__visit_name__ in _PLAIN
        and (not isinstance(each, FunctionElement) or getattr(each, "name", "").lower() in _STABLE)
        for each in iterate(right)
    )


def _is_one_row(seek: _Seek, conditions: Sequence[BinaryExpression[Any]]) -> bool:
    """Whether the statement gives the key of one row, or the table has none."""
    keys = {each.key for each in seek.table.primary_key.columns if each.name != seek.tenant}
    here = getattr(seek.condition.left, "table", None)
    equal = [each.left for each in conditions if each.operator is eq]
    return keys <= {each.key for each in equal if getattr(each, "table", None) is here}


def _rank(column: Column[Any], suffix: str) -> int:
    if suffix != "equals":
        return 1
    return 0 if isinstance(column.type, CITEXT) else 2


def _tenant_of(table: Table, column: Column[Any], suffix: str | None) -> str | None:
    """The tenant's column of an index that asks for this seek; None: none does."""
    for index in table.indexes:
        if str(index.name or "").endswith(SUFFIX) and suffix in _suffixes_by(index, column):
            return str(next(iter(index.columns)).name)
    return None


def _suffixes_by(index: Index, column: Column[Any]) -> set[str]:
    options = index.dialect_options["postgresql"]
    inverted = (options["using"] or "btree") != "btree"
    columns = list(index.columns)[1:] if inverted else list(index.columns)[1:2]
    if not any(each is column for each in columns):
        return set()
    kind = column.type
    operators = str((options["ops"] or {}).get(column.key, ""))
    match kind:
        case CITEXT() | Enum():
            return {"equals"} if isinstance(kind, CITEXT) or kind.native_enum else set()
        case _ if not inverted:
            return set()
        case String():
            return {"like", "ilike"} if operators.endswith("trgm_ops") else set()
        case TSVECTOR():
            return {"match"}
        case JSONB():
            return {"contains"} if operators.endswith("path_ops") else {"contains", "has", "has_any", "has_all"}
        case ARRAY():
            safe = isinstance(kind.item_type, _ELEMENTS) and not isinstance(kind.item_type, Enum | CITEXT | Float)
            return {"contains", "within", "overlaps"} if safe else set()
        case AbstractRange():
            return {"contains", "within", "overlaps"}
        case _:
            return set()
