"""Sequences at a target must not give out what the source has given out already."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import AsyncConnection, sql

_READ = sql.SQL(
    "SELECT c.last_value, s.seqincrement, s.seqmin, s.seqmax FROM {} c, pg_catalog.pg_sequence s"
    " WHERE s.seqrelid = {}::regclass"
)


async def raise_sequences(
    here: AsyncConnection[Any],
    there: AsyncConnection[Any],
    source: str,
    target: str,
    names: Iterable[str],
    *,
    headroom: int,
) -> list[str]:
    """Raise the sequences of a target that lag behind those of the source.

    Where others use the target's sequence too, it must not fall back: so it is only set if it lags, and then further
    than they could get meanwhile.

    Args:
        here, there: sessions of the source and the target.
        source, target: the schemas.
        names: of the sequences.
        headroom: how many values the source may give out before it is looked at again.

    Returns:
        The names of those that lagged.
    """
    raised = []
    for name in names:
        value, step, low, high = await _read(here, sql.Identifier(source, name))
        (mine, *_) = await _read(there, sql.Identifier(target, name))
        if (mine - value) * step >= 0 and headroom == 0:
            continue
        wanted = min(max(value + step * headroom, low), high)
        if (mine - wanted) * step < 0:
            query = sql.SQL("SELECT setval({}::regclass, %s)").format(_literal(sql.Identifier(target, name), there))
            await there.execute(query, (wanted,))
            raised.append(name)
    return raised


async def _read(conn: AsyncConnection[Any], name: sql.Identifier) -> tuple[int, int, int, int]:
    row = await (await conn.execute(_READ.format(name, _literal(name, conn)))).fetchone()
    assert row is not None
    return row[0], row[1], row[2], row[3]


def _literal(name: sql.Identifier, conn: AsyncConnection[Any]) -> sql.Literal:
    return sql.Literal(name.as_string(conn))
