"""Look from one tenant's place: what of another can be read and counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from tenantry.testing.calls import Calls
from tenantry.testing.facts import Relation
from tenantry.testing.inspect import identifier
from tenantry.testing.report import counted
from tenantry.testing.secrets import Secret, texts
from tenantry.testing.sight import MOST_ROWS, Outcome, Sight, same
from tenantry.testing.writes import Writes


class Look:
    """One tenant's look at everything that the application's role can reach where that tenant lives."""

    def __init__(self, sight: Sight) -> None:
        self.sight = sight

    def all(self) -> None:
        """Look at everything that the application's role can reach where the viewer lives."""
        for relation in self.sight.viewer.facts.relations:
            self._reads(relation)
            if relation.is_table and not relation.has_tenant:
                self._openness(relation)
            elif relation.has_tenant and relation.kind in "rpv":
                Writes(self.sight).all(relation)
        for function in self.sight.viewer.facts.functions:
            Calls(self.sight).all(function)
        for name in self.sight.viewer.facts.open_sequences:
            self.sight.fault(name, "everybody may turn the sequence back", fix=f"REVOKE UPDATE ON SEQUENCE {name}")

    def _reads(self, relation: Relation) -> None:
        if relation.kind == "m" and relation.readable:
            self.sight.viewer.root.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(identifier(relation)))
        query = sql.SQL("SELECT * FROM {} LIMIT {}").format(identifier(relation), sql.Literal(MOST_ROWS))
        seen = self.sight.attempt(query, undo=False)
        if seen.is_refused:
            return
        if seen.error is not None:
            self.sight.unchecked(relation, f"{self.sight.who} can't read it: {seen.reason}")
            return
        if len(seen.rows) == MOST_ROWS:
            self.sight.unchecked(relation, f"only its first {MOST_ROWS:,} rows were read")
        own = self._own_rows(relation, seen)
        foreign = len(seen.rows) - len(own)
        if foreign:
            values = self.sight.values(self.sight.known.found_in(texts(seen.rows), self.sight.whose))
            self.sight.leak(relation, f"SELECT reads {counted(foreign, 'row')} of other tenants{values}")
        elif found := self.sight.known.found_in(texts(own), self.sight.whose):
            where = self._columns(seen, found)
            what = f"SELECT reads values of {self.sight.whose}{where}{self.sight.values(found)}"
            self.sight.leak(relation, what)
        elif relation.kind == "v":
            self._compare_view(relation)
        if relation.has_tenant:
            self._count(relation, foreign)

    def _own_rows(self, relation: Relation, seen: Outcome) -> list[Sequence[Any]]:
        if not relation.has_tenant or self.sight.column not in seen.names:
            return list(seen.rows)
        place = seen.names.index(self.sight.column)
        return [row for row in seen.rows if same(row[place], self.sight.viewer.tenant.key)]

    def _count(self, relation: Relation, foreign: int) -> None:
        total = self.sight.attempt(sql.SQL("SELECT count(*) FROM {}").format(identifier(relation)), undo=False)
        if total.error is not None or not relation.is_table:
            return
        query = sql.SQL("SELECT count(*) FROM {} WHERE {} = {}").format(
            identifier(relation), sql.Identifier(self.sight.column), sql.Literal(self.sight.viewer.tenant.key)
        )
        there = (self.sight.viewer.root.execute(query).fetchone() or (0,))[0]
        count = total.rows[0][0]
        if count > there and not foreign:
            self.sight.leak(relation, f"count(*) counts {counted(count - there, 'row')} of other tenants")
        elif count < there:
            self.sight.unchecked(relation, f"{self.sight.who} sees {count:,} of its own {counted(there, 'row')} there")

    def _compare_view(self, view: Relation) -> None:
        """A view that reads with its owner's rights may show sums over all tenants, in which no value stands out."""
        row = self.sight.viewer.root.execute(
            "SELECT pg_get_viewdef(oid), coalesce(reloptions::text ~* 'security_invoker=(true|on|1|yes)', false)"
            " FROM pg_class WHERE oid = %s",
            (view.oid,),
        ).fetchone()
        if row is None or row[1]:
            return
        definition = sql.SQL(row[0].rstrip("; \n"))
        mine = self.sight.attempt(definition)
        if mine.error is not None:
            self.sight.unchecked(
                view, f"it reads with its owner's rights, and {self.sight.who} has not all of them: {mine.reason}"
            )
            return
        query = sql.SQL("SELECT count(*) FROM (TABLE {} EXCEPT ALL ({})) AS more").format(identifier(view), definition)
        more = self.sight.attempt(query)
        if more.error is not None or more.rows[0][0]:
            what = f"it shows other rows than its definition does, which {self.sight.who} may run itself"
            self.sight.leak(view, what)

    def _openness(self, table: Relation) -> None:
        """A table without the tenant column is everybody's: to be read if that is meant, and never to be written."""
        shared = table.name in self.sight.shared
        if table.writable:
            fix = "REVOKE the right"
            self.sight.fault(table, f"it has no column {self.sight.column}, and every tenant may write it", fix=fix)
        elif table.readable and not shared:
            fix = "name it in the setting shared_tables if that is meant"
            self.sight.fault(table, f"it has no column {self.sight.column}, and every tenant reads it", fix=fix)

    def _columns(self, seen: Outcome, found: Sequence[Secret]) -> str:
        words = [each.value.casefold() for each in found]
        names = [
            name
            for place, name in enumerate(seen.names)
            if any(word in text.casefold() for row in seen.rows for text in texts(row[place]) for word in words)
        ]
        return f" in {', '.join(names)}" if names else ""
