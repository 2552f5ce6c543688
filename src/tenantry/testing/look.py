"""Look from one tenant's place: what of another can be read, counted, changed, referred to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from tenantry.testing.facts import Function, Relation
from tenantry.testing.fill import Home
from tenantry.testing.inspect import identifier
from tenantry.testing.report import Leak, Report, Unchecked, counted
from tenantry.testing.secrets import Secret, Secrets, texts

_ROWS = 10_000
_CALLS = 12
_SHOWN = 3

Conn = psycopg.Connection[Any]


@dataclass(frozen=True)
class Outcome:
    """What came of a statement: rows or a count, or an error."""

    rows: Sequence[Sequence[Any]] = ()
    names: Sequence[str] = ()
    count: int = 0
    error: psycopg.Error | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the wall has refused it: row security, or a right that is missing."""
        return isinstance(self.error, psycopg.errors.InsufficientPrivilege)

    @property
    def came_through(self) -> bool:
        """Whether a write was let through: also where only a constraint stopped it: those are asked later."""
        return isinstance(self.error, psycopg.IntegrityError) or (self.error is None and self.count > 0)

    @property
    def reason(self) -> str:
        """Why it failed."""
        error = self.error
        return "" if error is None else error.diag.message_primary or str(error).strip().partition("\n")[0]


@dataclass
class Look:
    """One tenant's look at another.

    Args:
        viewer: whose transactions look.
        other: whose rows must not be seen.
        conn: bound to the viewer, in a transaction.
        column: the tenant column.
        shared: the tables that all may read.
        known: the values that belong to one tenant alone.
        report: where to write what is found.
    """

    viewer: Home
    other: Home
    conn: Conn
    column: str
    shared: Sequence[str]
    known: Secrets
    report: Report
    _who: str = field(init=False)
    _whose: str = field(init=False)

    def __post_init__(self) -> None:
        self._who, self._whose = self.viewer.tenant.slug, self.other.tenant.slug

    def all(self) -> None:
        """Look at everything that the application's role can reach where the viewer lives."""
        for relation in self.viewer.facts.relations:
            self._reads(relation)
            if relation.is_table and not relation.has_tenant:
                self._openness(relation)
            elif relation.has_tenant and relation.kind in "rpv":
                self._writes(relation)
        for function in self.viewer.facts.functions:
            self._calls(function)
        for name in self.viewer.facts.open_sequences:
            self._leak(name, "everybody may turn the sequence back", fix=f"REVOKE UPDATE ON SEQUENCE {name}")

    def attempt(self, query: sql.Composable | str, parameters: Sequence[Any] | None = None) -> Outcome:
        """Run a statement and undo it."""
        self.report.attempts += 1
        try:
            with self.conn.transaction(force_rollback=True), self.conn.cursor(row_factory=tuple_row) as cursor:
                cursor.execute(query, parameters)  # type: ignore[arg-type]
                rows = cursor.fetchmany(_ROWS) if cursor.description else ()
                names = [each.name for each in cursor.description or ()]
                return Outcome(rows, names, cursor.rowcount)
        except psycopg.Error as error:
            if self.conn.closed:
                raise
            return Outcome(error=error)

    def _reads(self, relation: Relation) -> None:
        if relation.kind == "m" and relation.readable:
            self.viewer.root.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(identifier(relation)))
        seen = self.attempt(sql.SQL("SELECT * FROM {}").format(identifier(relation)))
        if seen.is_refused:
            return
        if seen.error is not None:
            self._unchecked(relation, f"{self._who} can't read it: {seen.reason}")
            return
        own = self._own_rows(relation, seen)
        foreign = len(seen.rows) - len(own)
        if foreign:
            values = self._values(self.known.found_in(texts(seen.rows), self._whose))
            self._leak(
                relation, f"bound to {self._who}, SELECT reads {counted(foreign, 'row')} of other tenants{values}"
            )
        elif found := self.known.found_in(texts(own), self._whose):
            where = self._columns(seen, found)
            self._leak(
                relation, f"bound to {self._who}, SELECT reads values of {self._whose}{where}{self._values(found)}"
            )
        elif relation.kind == "v":
            self._compare_view(relation)
        if relation.has_tenant:
            self._count(relation, foreign)

    def _own_rows(self, relation: Relation, seen: Outcome) -> list[Sequence[Any]]:
        if not relation.has_tenant or self.column not in seen.names:
            return list(seen.rows)
        place = seen.names.index(self.column)
        return [row for row in seen.rows if _same(row[place], self.viewer.tenant.key)]

    def _count(self, relation: Relation, foreign: int) -> None:
        total = self.attempt(sql.SQL("SELECT count(*) FROM {}").format(identifier(relation)))
        if total.error is not None or not relation.is_table:
            return
        query = sql.SQL("SELECT count(*) FROM {} WHERE {} = {}").format(
            identifier(relation), sql.Identifier(self.column), sql.Literal(self.viewer.tenant.key)
        )
        there = (self.viewer.root.execute(query).fetchone() or (0,))[0]
        count = total.rows[0][0]
        if count > there and not foreign:
            self._leak(
                relation, f"bound to {self._who}, count(*) counts {counted(count - there, 'row')} of other tenants"
            )
        elif count < there:
            self._unchecked(relation, f"{self._who} sees {count:,} of its own {counted(there, 'row')} there")

    def _compare_view(self, view: Relation) -> None:
        """A view that reads with its owner's rights may show sums over all tenants, in which no value stands out."""
        row = self.viewer.root.execute(
            "SELECT pg_get_viewdef(oid), coalesce(reloptions::text ~* 'security_invoker=(true|on|1|yes)', false)"
            " FROM pg_class WHERE oid = %s",
            (view.oid,),
        ).fetchone()
        if row is None or row[1]:
            return
        definition = sql.SQL(row[0].rstrip("; \n"))
        mine = self.attempt(definition)
        if mine.error is not None:
            self._unchecked(
                view, f"it reads with its owner's rights, and {self._who} has not all of them: {mine.reason}"
            )
            return
        query = sql.SQL("SELECT count(*) FROM (TABLE {} EXCEPT ALL ({})) AS more").format(identifier(view), definition)
        more = self.attempt(query)
        if more.error is not None or more.rows[0][0]:
            what = (
                f"bound to {self._who}, it shows other rows than its definition does, which {self._who} may run itself"
            )
            self._leak(view, what)

    def _openness(self, table: Relation) -> None:
        """A table without the tenant column is everybody's: to be read if that is meant, and never to be written."""
        shared = table.name in self.shared
        if table.writable:
            self._leak(table, f"it has no column {self.column}, and every tenant may write it", fix="REVOKE the right")
        elif table.readable and not shared:
            fix = "name it in the setting shared_tables if that is meant"
            self._leak(table, f"it has no column {self.column}, and every tenant reads it", fix=fix)

    def _writes(self, relation: Relation) -> None:
        name, column = identifier(relation), sql.Identifier(self.column)
        own, others = sql.Literal(self.viewer.tenant.key), sql.Literal(self.other.tenant.key)
        theirs = self._their_row(relation)
        change = sql.SQL("UPDATE {} SET {} = {} WHERE {}").format(name, column, column, theirs)
        if self.attempt(change).came_through:
            self._leak(
                relation, f"bound to {self._who}, UPDATE changes a row of {self._whose} that it names by its key"
            )
        if self.attempt(sql.SQL("DELETE FROM {} WHERE {}").format(name, theirs)).came_through:
            self._leak(
                relation, f"bound to {self._who}, DELETE deletes a row of {self._whose} that it names by its key"
            )
        give = sql.SQL("UPDATE {} SET {} = {} WHERE {} = {}").format(name, column, others, column, own)
        if self.attempt(give).came_through:
            self._leak(relation, f"bound to {self._who}, UPDATE gives a row to {self._whose}")
        self._insert(relation)
        if relation.is_table:
            emptied = self.attempt(sql.SQL("TRUNCATE {} CASCADE").format(name))
            if emptied.error is None:
                self._leak(relation, f"{self._who} may TRUNCATE it: the rows of all tenants go")
            self._refers(relation)

    def _their_row(self, relation: Relation) -> sql.Composed:
        """A condition that names one row of the other tenant, by the primary key if there is one."""
        column, key = sql.Identifier(self.column), sql.Literal(self.other.tenant.key)
        theirs = sql.SQL("{} = {}").format(column, key)
        names = [name for name in relation.primary_key if name != self.column]
        if not names or self.other.database != self.viewer.database:
            return theirs
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        query = sql.SQL("SELECT {} FROM {} WHERE {} LIMIT 1").format(columns, identifier(relation), theirs)
        row = self.viewer.root.execute(query).fetchone()
        if row is None:
            return theirs
        named = (sql.SQL("{} = {}").format(sql.Identifier(n), sql.Literal(v)) for n, v in zip(names, row, strict=True))
        condition = sql.SQL(" AND ").join(named)
        return condition if self.column not in relation.primary_key else sql.SQL("{} AND {}").format(theirs, condition)

    def _insert(self, relation: Relation) -> None:
        """A copy of an own row, in the other's name."""
        source = self._own_table(relation)
        if source is None:
            return
        names = [c.name for c in relation.columns if not c.generated and not c.identity]
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        column, key = sql.Identifier(self.column), sql.Literal(self.other.tenant.key)
        # Through JSON: in another schema, types of the same name are other types.
        query = sql.SQL(
            "INSERT INTO {} ({}) SELECT {} FROM {} AS own, jsonb_populate_record(NULL::{}, to_jsonb(own)"
            " || jsonb_build_object({}, {})) AS copy WHERE own.{} = {} LIMIT 1"
        ).format(
            identifier(relation),
            columns,
            sql.SQL(", ").join(sql.SQL("copy.{}").format(sql.Identifier(name)) for name in names),
            identifier(source),
            identifier(relation),
            sql.Literal(self.column),
            key,
            column,
            sql.Literal(self.viewer.tenant.key),
        )
        done = self.attempt(query)
        if done.came_through:
            self._leak(relation, f"bound to {self._who}, INSERT writes a row in the name of {self._whose}")
        elif done.error is not None and not done.is_refused:
            self._unchecked(relation, f"INSERT in the name of {self._whose} could not be tried: {done.reason}")

    def _own_table(self, relation: Relation) -> Relation | None:
        same = (each for each in self.viewer.tables() if each.name == relation.name)
        return next(same, None)

    def _refers(self, table: Relation) -> None:
        """Let an own row refer to one of the other tenant's."""
        targets = {each.oid: each for each in self.viewer.facts.relations}
        for reference in table.references:
            target = targets.get(reference.target)
            pairs = [p for p in zip(reference.columns, reference.targets, strict=True) if p[0] != self.column]
            if target is None or not target.has_tenant or not pairs or table.schema != self.viewer.schema:
                continue
            there = sql.SQL(", ").join(sql.Identifier(name) for _, name in pairs)
            column = sql.Identifier(self.column)
            own, others = sql.Literal(self.viewer.tenant.key), sql.Literal(self.other.tenant.key)
            query = sql.SQL("SELECT {} FROM {} WHERE {} = {} EXCEPT SELECT {} FROM {} WHERE {} = {} LIMIT 1").format(
                there, identifier(target), column, others, there, identifier(target), column, own
            )
            row = self.viewer.root.execute(query).fetchone()
            if row is None:
                continue
            sets = sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(here), sql.Literal(value))
                for (here, _), value in zip(pairs, row, strict=True)
            )
            change = sql.SQL("SET CONSTRAINTS ALL IMMEDIATE; UPDATE {} SET {} WHERE {} = {}")
            done = self.attempt(change.format(identifier(table), sets, column, own))
            if done.error is None:
                what = f"bound to {self._who}, a row refers to a row of {self._whose} by {reference.name}"
                self._leak(table, what, fix=f"let the foreign key contain {self.column}")

    def _calls(self, function: Function) -> None:
        name = sql.Identifier(function.schema, function.name)
        answered = False
        for arguments in islice(self._arguments(function), _CALLS):
            marks = (sql.SQL("%s::{}").format(sql.SQL(each)) for each in function.arguments[: len(arguments)])
            query = sql.SQL("SELECT * FROM {}({})").format(name, sql.SQL(", ").join(marks))
            got = self.attempt(query, [str(each) for each in arguments] or None)
            answered = answered or any(value is not None for row in got.rows for value in row)
            told = {str(each) for each in arguments}
            found = self.known.found_in(texts(got.rows), self._whose, without=told)
            if self.column in got.names:
                place = got.names.index(self.column)
                found += [
                    Secret(str(r[place]), self._whose, self.column)
                    for r in got.rows
                    if _same(r[place], self.other.tenant.key)
                ]
            if found:
                how = f" with {', '.join(map(repr, told))}" if told else ""
                what = f"bound to {self._who}, a call{how} returns values of {self._whose}{self._values(found)}"
                self._leak(function.signature, what)
                return
        if function.bypasses and function.definer:
            told_nothing = "what it returned names nobody, but may be made of all tenants' rows"
            why = told_nothing if answered else "no call that could be made up returned anything"
            self._unchecked(function.signature, f"it runs as {function.owner}, who sees all tenants; {why}")

    def _arguments(self, function: Function) -> Iterator[tuple[Any, ...]]:
        """What to call a function with: nothing if it may be, and what names something of the other tenant."""
        if function.required == 0:
            yield ()
        wanted = function.arguments[: max(function.required, 1)]
        choices = [self._argument(kind) for kind in wanted]
        if wanted and all(choices):
            yield from product(*choices)

    def _argument(self, kind: str) -> list[Any]:
        key = self.other.tenant.key
        values = [each.value for each in self.known.of(self._whose)]
        match kind:
            case "text" | "character varying":
                return [*values, self._whose]
            case "uuid":
                return [*([key] if isinstance(key, UUID) else []), *filter(_is_uuid, values)]
            case "bigint" | "integer" | "numeric":
                return [*([key] if isinstance(key, int) else []), *range(1, 9)]
        return []

    def _leak(self, place: Relation | str, what: str, *, fix: str | None = None) -> None:
        self.report.leaks.append(Leak(self.shown(place), what, None, fix))

    def _unchecked(self, place: Relation | str, why: str) -> None:
        self.report.unchecked.append(Unchecked(self.shown(place), why))

    def shown(self, place: Relation | str) -> str:
        """The name of a place; without the schema if it is the viewer's own."""
        if isinstance(place, str):
            return place
        return place.name if place.schema == self.viewer.schema else f"{place.schema}.{place.name}"

    def _values(self, found: Sequence[Secret]) -> str:
        return f": {', '.join(map(str, found[:_SHOWN]))}" if found else ""

    def _columns(self, seen: Outcome, found: Sequence[Secret]) -> str:
        words = [each.value.casefold() for each in found]
        names = [
            name
            for place, name in enumerate(seen.names)
            if any(word in text.casefold() for row in seen.rows for text in texts(row[place]) for word in words)
        ]
        return f" in {', '.join(names)}" if names else ""


def _same(value: Any, key: Any) -> bool:
    return value == key or str(value) == str(key)


def _is_uuid(value: str) -> bool:
    try:
        UUID(value)
    except ValueError:
        return False
    return True
