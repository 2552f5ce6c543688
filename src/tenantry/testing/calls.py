"""Look from one tenant's place: what functions tell of another."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from typing import Any
from uuid import UUID

from psycopg import sql

from tenantry.testing.facts import Function
from tenantry.testing.secrets import Secret, texts
from tenantry.testing.sight import Sight, same

_CALLS = 12


class Calls:
    """One tenant's calls, with arguments that name something of the other."""

    def __init__(self, sight: Sight) -> None:
        self.sight = sight

    def all(self, function: Function) -> None:
        """Every call of one function."""
        name = sql.Identifier(function.schema, function.name)
        answered = False
        for arguments in islice(self._arguments(function), _CALLS):
            marks = (sql.SQL("%s::{}").format(sql.SQL(each)) for each in function.arguments[: len(arguments)])
            query = sql.SQL("SELECT * FROM {}({})").format(name, sql.SQL(", ").join(marks))
            got = self.sight.attempt(query, [str(each) for each in arguments] or None)
            answered = answered or any(value is not None for row in got.rows for value in row)
            told = {str(each) for each in arguments}
            found = self.sight.known.found_in(texts(got.rows), self.sight.whose, without=told)
            if self.sight.column in got.names:
                place = got.names.index(self.sight.column)
                found += [
                    Secret(str(r[place]), self.sight.whose, self.sight.column)
                    for r in got.rows
                    if same(r[place], self.sight.other.tenant.key)
                ]
            if found:
                how = f" with {', '.join(map(repr, told))}" if told else ""
                what = f"a call{how} returns values of {self.sight.whose}{self.sight.values(found)}"
                self.sight.leak(function.signature, what)
                return
        if function.bypasses and function.definer:
            told_nothing = "what it returned names nobody, but may be made of all tenants' rows"
            why = told_nothing if answered else "no call that could be made up returned anything"
            self.sight.unchecked(function.signature, f"it runs as {function.owner}, who sees all tenants; {why}")

    def _arguments(self, function: Function) -> Iterator[tuple[Any, ...]]:
        """What to call a function with: nothing if it may be, and what names something of the other tenant."""
        if function.required == 0:
            yield ()
        wanted = function.arguments[: max(function.required, 1)]
        choices = [self._argument(kind) for kind in wanted]
        if wanted and all(choices):
            yield from product(*choices)

    def _argument(self, kind: str) -> list[Any]:
        key = self.sight.other.tenant.key
        values = [each.value for each in self.sight.known.of(self.sight.whose)]
        match kind:
            case "text" | "character varying":
                return [*values, self.sight.whose]
            case "uuid":
                return [*([key] if isinstance(key, UUID) else []), *filter(_is_uuid, values)]
            case "bigint" | "integer" | "numeric":
                return [*([key] if isinstance(key, int) else []), *range(1, 9)]
        return []


def _is_uuid(value: str) -> bool:
    try:
        UUID(value)
    except ValueError:
        return False
    return True
