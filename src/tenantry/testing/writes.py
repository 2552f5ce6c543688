"""Look from one tenant's place: what of another can be changed, deleted, written, referred to."""

from __future__ import annotations

from psycopg import sql

from tenantry.testing.facts import Relation
from tenantry.testing.inspect import identifier
from tenantry.testing.sight import Sight


class Writes:
    """One tenant's attempts to write what is another's. All of it is undone."""

    def __init__(self, sight: Sight) -> None:
        self.sight = sight

    def all(self, relation: Relation) -> None:
        """Every attempt on one relation."""
        name, column = identifier(relation), sql.Identifier(self.sight.column)
        own, others = sql.Literal(self.sight.viewer.tenant.key), sql.Literal(self.sight.other.tenant.key)
        theirs = self._their_row(relation)
        change = sql.SQL("UPDATE {} SET {} = {} WHERE {}").format(name, column, column, theirs)
        if self.sight.attempt(change).came_through:
            self.sight.leak(relation, f"UPDATE changes a row of {self.sight.whose} that it names by its key")
        if self.sight.attempt(sql.SQL("DELETE FROM {} WHERE {}").format(name, theirs)).came_through:
            self.sight.leak(relation, f"DELETE deletes a row of {self.sight.whose} that it names by its key")
        give = sql.SQL("UPDATE {} SET {} = {} WHERE {} = {}").format(name, column, others, column, own)
        if self.sight.attempt(give).came_through:
            self.sight.leak(relation, f"UPDATE gives a row to {self.sight.whose}")
        self._insert(relation)
        if relation.is_table:
            emptied = self.sight.attempt(sql.SQL("TRUNCATE {} CASCADE").format(name))
            if emptied.error is None:
                self.sight.leak(relation, "TRUNCATE deletes the rows of all tenants")
            self._refers(relation)

    def _their_row(self, relation: Relation) -> sql.Composed:
        """A condition that names one row of the other tenant, by the primary key if there is one."""
        column, key = sql.Identifier(self.sight.column), sql.Literal(self.sight.other.tenant.key)
        theirs = sql.SQL("{} = {}").format(column, key)
        names = [name for name in relation.primary_key if name != self.sight.column]
        if not names or self.sight.other.database != self.sight.viewer.database:
            return theirs
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        query = sql.SQL("SELECT {} FROM {} WHERE {} LIMIT 1").format(columns, identifier(relation), theirs)
        row = self.sight.viewer.root.execute(query).fetchone()
        if row is None:
            return theirs
        named = (sql.SQL("{} = {}").format(sql.Identifier(n), sql.Literal(v)) for n, v in zip(names, row, strict=True))
        condition = sql.SQL(" AND ").join(named)
        return (
            condition
            if self.sight.column not in relation.primary_key
            else sql.SQL("{} AND {}").format(theirs, condition)
        )

    def _insert(self, relation: Relation) -> None:
        """A copy of an own row, in the other's name."""
        source = self._own_table(relation)
        if source is None:
            return
        names = [c.name for c in relation.columns if not c.generated and not c.identity]
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        column, key = sql.Identifier(self.sight.column), sql.Literal(self.sight.other.tenant.key)
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
            sql.Literal(self.sight.column),
            key,
            column,
            sql.Literal(self.sight.viewer.tenant.key),
        )
        done = self.sight.attempt(query)
        if done.came_through:
            self.sight.leak(relation, f"INSERT writes a row in the name of {self.sight.whose}")
        elif done.error is not None and not done.is_refused:
            self.sight.unchecked(
                relation, f"INSERT in the name of {self.sight.whose} could not be tried: {done.reason}"
            )

    def _own_table(self, relation: Relation) -> Relation | None:
        same = (each for each in self.sight.viewer.tables() if each.name == relation.name)
        return next(same, None)

    def _refers(self, table: Relation) -> None:
        """Let an own row refer to one of the other tenant's."""
        targets = {each.oid: each for each in self.sight.viewer.facts.relations}
        for reference in table.references:
            target = targets.get(reference.target)
            pairs = [p for p in zip(reference.columns, reference.targets, strict=True) if p[0] != self.sight.column]
            if target is None or not target.has_tenant or not pairs or table.schema != self.sight.viewer.schema:
                continue
            there = sql.SQL(", ").join(sql.Identifier(name) for _, name in pairs)
            column = sql.Identifier(self.sight.column)
            own, others = sql.Literal(self.sight.viewer.tenant.key), sql.Literal(self.sight.other.tenant.key)
            query = sql.SQL("SELECT {} FROM {} WHERE {} = {} EXCEPT SELECT {} FROM {} WHERE {} = {} LIMIT 1").format(
                there, identifier(target), column, others, there, identifier(target), column, own
            )
            row = self.sight.viewer.root.execute(query).fetchone()
            if row is None:
                continue
            sets = sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(here), sql.Literal(value))
                for (here, _), value in zip(pairs, row, strict=True)
            )
            change = sql.SQL("SET CONSTRAINTS ALL IMMEDIATE; UPDATE {} SET {} WHERE {} = {}")
            done = self.sight.attempt(change.format(identifier(table), sets, column, own))
            if done.error is None:
                what = f"a row refers to a row of {self.sight.whose} by {reference.name}"
                self.sight.fault(table, what, fix=f"let the foreign key contain {self.sight.column}")
