"""Whether a tenant's rows are the same in two places: their number, and a sum that does not depend on their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, sql

from tenantry.stream.shape import Table
from tenantry.stream.snapshot import quiet

# Two halves of 64 bits each, from hashes with different seeds. A sum in numeric does not wrap, and rows that are there
# twice do not cancel each other out, as they would by XOR.
_SUMS = sql.SQL(
    "SELECT count(*), coalesce(sum(hashtextextended(r, 0)::numeric), 0)::text,"
    " coalesce(sum(hashtextextended(r, 1)::numeric), 0)::text"
    " FROM (SELECT ROW({})::text AS r FROM {}{} WHERE {} = %s) s"
)


@dataclass(frozen=True, slots=True)
class Sums:
    """Of one table: the number of rows, and two sums over them."""

    rows: int
    first: str
    second: str


async def sums(
    conn: AsyncConnection[Any], schema: str, tables: Sequence[Table], column: str, key: Any, *, but: Sequence[str] = ()
) -> dict[str, Sums]:
    """The sums of a tenant's rows.

    Args:
        conn: a session that sees all tenants. All tables are read in its transaction, if it is in one.
        schema: where the tables are.
        tables: which, with the columns that both sides have.
        column: the tenant column.
        key: whose rows.
        but: columns that are left out.
    """
    await quiet(conn)
    found = {}
    for table in tables:
        columns = [sql.Identifier(name) for name in sorted(table.stored) if name not in but]
        only = sql.SQL("ONLY " if table.kind == "r" else "")
        query = _SUMS.format(
            sql.SQL(", ").join(columns), only, sql.Identifier(schema, table.name), sql.Identifier(column)
        )
        row = await (await conn.execute(query, (key,))).fetchone()
        assert row is not None
        found[table.name] = Sums(*row)
    return found


def differing(here: Mapping[str, Sums], there: Mapping[str, Sums]) -> list[str]:
    """The tables whose rows are not the same, with what differs, in words."""
    found = []
    for name in sorted(here.keys() | there.keys()):
        mine, theirs = here.get(name), there.get(name)
        if mine == theirs:
            continue
        if mine is None or theirs is None:
            found.append(f"{name} is only on one side")
        elif mine.rows != theirs.rows:
            found.append(f"{name} has {mine.rows} rows here and {theirs.rows} there")
        else:
            found.append(f"{name} has {mine.rows} rows on both sides, but not the same")
    return found
