"""Seeks: functions that find a tenant's rows by an index that policies keep a condition from using. Pure.

Behind a policy PostgreSQL uses an index only for conditions whose operators are leakproof; LIKE, full text, JSON,
arrays, enums and citext are not. A seek runs such a condition as a fixed statement that names the bound tenant
itself, and returns where the rows are. The caller's statement stays behind the policies, with its own condition: a seek
makes it quick and decides nothing. ``docs/decisions/0016-seeks.md`` says what an operator has to be for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from tenantry.model import House
from tenantry.perimeter.binder import APP, CHEAP, FREE, SEEK, BinderFunction
from tenantry.perimeter.facts import Row, SchemaFacts
from tenantry.perimeter.names import quoted
from tenantry.perimeter.plan import Change, Finding, plan_function
from tenantry.postgres import sqlfile

SUFFIX = "_seek"
"""An index whose name ends so asks for seeks on its columns."""

_SECOND = 2  # the column after the tenant's, by which a B-tree finds rows
_LONGEST = 63  # PostgreSQL: NAMEDATALEN
_COLUMN, _LABEL = "the column's type", "text that is read as the column's type"

# No operator here can fail because of what is stored: no error ever tells of another's row. That leaves out regular
# expressions (they may need too much memory), JSON paths, and all that users have made.
_OPERATORS: Mapping[tuple[str | None, str], tuple[str, str]] = {
    (None, "textlike"): ("like", "text"),
    (None, "texticlike"): ("ilike", "text"),
    (None, "ts_match_vq"): ("match", "tsquery"),
    (None, "jsonb_contains"): ("contains", "jsonb"),
    (None, "jsonb_exists"): ("has", "text"),
    (None, "jsonb_exists_any"): ("has_any", "text[]"),
    (None, "jsonb_exists_all"): ("has_all", "text[]"),
    (None, "arraycontains"): ("contains", _COLUMN),
    (None, "arraycontained"): ("within", _COLUMN),
    (None, "arrayoverlap"): ("overlaps", _COLUMN),
    (None, "range_contains"): ("contains", _COLUMN),
    (None, "range_contained_by"): ("within", _COLUMN),
    (None, "range_overlaps"): ("overlaps", _COLUMN),
    (None, "enum_eq"): ("equals", _LABEL),
    ("citext", "citext_eq"): ("equals", _LABEL),
}
"""The operators' functions, by the extension that they belong to: what a seek by them is called, and what it takes."""

_TEXTS = frozenset({"text", "character varying"})
_TYPES: Mapping[str, frozenset[str]] = {
    "like": _TEXTS,  # not citext: for it LIKE is another operator, which finds more
    "ilike": _TEXTS,
    "match": frozenset({"tsvector"}),
    "equals": frozenset({"citext"}),
}
_RANGES = frozenset({"int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"})
_ELEMENTS = frozenset(
    {"smallint", "integer", "bigint", "text", "character varying", "uuid", "numeric", "date", "boolean"}
) | {"timestamp with time zone", "timestamp without time zone"}

_OWN = re.compile(
    r"\(\(?(?P<column>\w+|\"(?:[^\"]|\"\")+\")\)?(?:::[a-z ]+)? = "
    r"(?P<key>\(-\d+\)|\d+|'-?\d+'::(?:bigint|integer|smallint)|E?'(?:[^'\\]|''|\\\\)*'::(?:text|uuid))\)"
)
"""The condition of an index that holds one tenant's rows, as PostgreSQL writes it."""


def function_name(table: str, column: str, suffix: str) -> str:
    """What the seek of a column is called.

    Args:
        suffix: of the operator: ``like``, ``match``...
    """
    name = f"seek_{table}__{column}__{suffix}"
    clear = all("__" not in part and part.strip("_") == part for part in (table, column))
    if clear and len(name.encode()) <= _LONGEST:
        return name
    return "seek_" + sha256("\0".join((table, column, suffix)).encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Seek:
    """One function: the rows of the bound tenant whose column meets an operator."""

    row: Row = field(hash=False)
    owns: tuple[str, ...] = ()
    """The conditions of the indexes that hold one tenant's rows only."""

    @property
    def table(self) -> str:
        """Its table's name in SQL."""
        return quoted(self.row["schema"], self.row["table"])

    @property
    def argument(self) -> str:
        """The type of what is sought."""
        kind = _OPERATORS[self.row["extension"], self.row["function"]][1]
        return "text" if self._labels else str(self.row["type_name"]) if kind == _COLUMN else kind

    @property
    def _labels(self) -> bool:
        return _OPERATORS[self.row["extension"], self.row["function"]][1] == _LABEL

    @property
    def name(self) -> str:
        """The function's name in SQL."""
        suffix = _OPERATORS[self.row["extension"], self.row["function"]][0]
        return quoted(self.row["schema"], function_name(self.row["table"], self.row["column"], suffix))

    def function(self, house: House, *, superuser: bool) -> BinderFunction:
        """The function; ``superuser``: whether a superuser makes it."""
        text = sqlfile.load("tenantry.perimeter", "sql/seek.sql")
        branches = [
            _fill(text["own"], key=_key(own, house) or "", select=self._select(text, house, own, superuser))
            for own in self.owns
        ]
        suffix = _OPERATORS[self.row["extension"], self.row["function"]][0]
        made = _fill(
            text["seek"],
            name=self.name,
            argument=self.argument,
            key_type=house.key_type.value,
            type=quoted(self.row["type_schema"], self.row["type"]) if self._labels else self.argument,
            # The plan of a partitioned table is made for the tenant each time, and knows its partition.
            plan="auto" if self.row["kind"] == "p" else "force_generic_plan",
            check=text["pattern"] if suffix in ("like", "ilike") else "",
            own="\n".join(branches),
            select=self._select(text, house, f"r.{quoted(house.tenant_column)} = bound", superuser),
        )
        tag = sha256(made.encode()).hexdigest()[:8]
        return BinderFunction(self.name, self.argument, made.replace("$seek$", f"$seek_{tag}$"), (APP,), SEEK)

    def _select(self, text: Mapping[str, str], house: House, mine: str, superuser: bool) -> str:
        row = self.row
        return _fill(
            text["select"],
            table=self.table,
            guard=f"r.{quoted(house.tenant_column)} OPERATOR(tenantry.{FREE if superuser else CHEAP}) bound",
            mine=mine,
            column=f"r.{quoted(row['column'])}",
            operator=f"OPERATOR({quoted(row['operator_schema'])}.{row['operator']})",
        ).strip()


def _fill(text: str, **values: str) -> str:
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def _key(predicate: str, house: House) -> str | None:
    """Whose rows an index holds, by its condition; None: not one tenant's."""
    match = _OWN.fullmatch(predicate)
    ours = match is not None and match["column"] in (house.tenant_column, quoted(house.tenant_column))
    return match["key"] if match is not None and ours else None


def seeks(facts: SchemaFacts, house: House) -> list[Seek]:
    """What the indexes of some schemas ask for."""
    found: dict[str, Seek] = {}
    for row in facts.searches:
        if not _is_possible(row, house) or row["policies"]:
            continue
        seek = Seek(row)
        owns = found[seek.name].owns if seek.name in found else ()
        own = row["predicate"]
        found[seek.name] = Seek(row, owns if own is None or own in owns else (*owns, own))
    return list(found.values())


def _is_possible(row: Row, house: House) -> bool:
    if (row["extension"], row["function"]) not in _OPERATORS or not row["leads"]:
        return False
    if row["method"] == "btree" and row["nth"] != _SECOND:
        return False
    if row["predicate"] is not None and _key(row["predicate"], house) is None:
        return False
    if row["element"] is not None:
        return row["element"] in _ELEMENTS
    suffix = _OPERATORS[row["extension"], row["function"]][0]
    types = _TYPES.get(suffix, _RANGES | {"jsonb"})
    return bool(row["enum"]) or row["type_name"].rpartition(".")[2] in types


def readers(facts: SchemaFacts, house: House) -> set[tuple[str, str]]:
    """The tables (schema, name) that seeks read."""
    return {(seek.row["schema"], seek.row["table"]) for seek in seeks(facts, house)}


def plan_seeks(facts: SchemaFacts, house: House, *, superuser: bool = True) -> Iterable[Change]:
    """The functions that are missing, differ or are no longer asked for."""
    wanted = {seek.name: seek for seek in seeks(facts, house)}
    for schema in sorted({name for seek in wanted.values() for name in _schemas(seek)} - set(facts.seek_schemas)):
        sql = f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {SEEK};"
        yield Change(f"schema {schema}", f"{SEEK} must use it", sql)
    standing = {(quoted(row["schema"], row["name"]), row["arguments"]): row for row in facts.seeks}
    for seek in wanted.values():
        function = seek.function(house, superuser=superuser)
        for change in plan_function(function, standing.pop((function.name, function.arguments), None)):
            yield change if superuser else _with_create(change, quoted(seek.row["schema"]))
    for name, arguments in sorted(standing):
        yield Change(f"{name}({arguments})", "no index asks for it", f"DROP FUNCTION {name}({arguments});")


def _schemas(seek: Seek) -> set[str]:
    row = seek.row
    return {row["schema"], row["type_schema"], row["operator_schema"]} - {"pg_catalog"}


def _with_create(change: Change, schema: str) -> Change:
    """Who is no superuser gives a function only to a role that could have made it."""
    sql = f"GRANT CREATE ON SCHEMA {schema} TO {SEEK};\n{change.sql}\nREVOKE CREATE ON SCHEMA {schema} FROM {SEEK};"
    return Change(change.object, change.why, sql)


def find_seeks(facts: SchemaFacts, house: House) -> Iterable[Finding]:
    """Indexes that ask for a seek and get none, or one that tells a little of others."""
    seen: set[tuple[str, str]] = set()
    for row in facts.searches:
        table = quoted(row["schema"], row["table"])
        if not _is_possible(row, house) or (table, row["index"]) in seen:
            continue
        seen.add((table, row["index"]))
        if row["policies"]:
            what = f"{row['index']} asks for a seek, which would tell of rows that other policies of the table hide"
            yield Finding(table, what, f"none is made: rename the index so that it does not end in {SUFFIX}", "low")
        elif row["method"] != "btree" and row["predicate"] is None and row["residents"] > 1:
            what = f"{row['index']} has all tenants' words together: who seeks can measure whether others have a word"
            fix = f"give who needs it an index of its own (WHERE {quoted(house.tenant_column)} = ...), or a schema"
            yield Finding(table, what, fix, "low")
