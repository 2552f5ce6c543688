"""Plan, check and apply the perimeter of a database over a connection that may change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, sql

from tenantry.errors import PerimeterBroken
from tenantry.model import BindingMode, House
from tenantry.perimeter.binder import APP
from tenantry.perimeter.inspect import read_database, read_schemas, read_server
from tenantry.perimeter.plan import Change, Finding, find_open, plan_database, plan_server
from tenantry.perimeter.tables import find_holes, plan_tables

_RETRIES = 20
_ROUNDS = 5  # one is enough unless others change the same things


@dataclass(frozen=True, slots=True)
class PerimeterPlan:
    """What is missing from the wall of one database."""

    database: str
    changes: Sequence[Change] = field(default_factory=tuple)
    findings: Sequence[Finding] = field(default_factory=tuple)

    @property
    def closed(self) -> bool:
        """Whether nothing is missing."""
        return not self.changes and not self.findings

    def as_sql(self) -> str:
        """The changes as a script to review and run."""
        parts = [f"-- {change.object}: {change.why}\n{change.sql}" for change in self.changes]
        return "\n\n".join([f"-- Perimeter of the database {self.database}", *parts]) + "\n"


async def plan_perimeter(
    conn: AsyncConnection[Any],
    house: House,
    mode: BindingMode,
    schemas: Sequence[str],
    shared: Sequence[str] = (),
    *,
    server: bool = True,
) -> PerimeterPlan:
    """Compare a database with the wall that it should have.

    Args:
        conn: a connection to the database, of a superuser or of the owner of all that is inspected.
        schemas: the schemas that hold the application's tables.
        shared: tables without the tenant column that all tenants may read.
        server: whether the roles of the server are compared too.
    """
    changes: list[Change] = []
    if server:
        changes += plan_server(await read_server(conn), mode)
    database = await read_database(conn, schemas)
    changes += plan_database(database, house, mode, schemas)
    facts = await read_schemas(conn, schemas, house.tenant_column)
    changes += plan_tables(facts, house, shared, superuser=database.superuser)
    findings = (*find_open(database), *find_holes(facts, house, shared))
    return PerimeterPlan(conn.info.dbname, tuple(changes), findings)


async def apply_perimeter(
    conn: AsyncConnection[Any],
    house: House,
    mode: BindingMode,
    schemas: Sequence[str],
    shared: Sequence[str] = (),
    *,
    server: bool = True,
) -> PerimeterPlan:
    """Close the wall, in one transaction per change, and return what was changed and what is left to find.

    Raises:
        PerimeterBroken: a change was refused, or something is still missing afterwards.
    """
    done: list[Change] = []
    left: PerimeterPlan | None = None
    for _ in range(_ROUNDS):
        left = await plan_perimeter(conn, house, mode, schemas, shared, server=server)
        if not left.changes:
            return PerimeterPlan(left.database, tuple(done), left.findings)
        for change in left.changes:
            await _run(conn, change)
            done.append(change)
    assert left is not None
    raise PerimeterBroken(f"{left.changes[0].object}: {left.changes[0].why}", where=f"database {left.database}")


_HOUSE = "the house "


async def apply_server(conn: AsyncConnection[Any], mode: BindingMode, house_id: UUID) -> None:
    """Bring the roles of a server into their right state, and note to which house it belongs.

    Raises:
        PerimeterBroken: a change was refused.
    """
    for change in plan_server(await read_server(conn), mode):
        await _run(conn, change)
    query = sql.SQL("COMMENT ON ROLE {} IS {}").format(sql.Identifier(APP), sql.Literal(f"{_HOUSE}{house_id}"))
    await conn.execute(query)


async def house_of(conn: AsyncConnection[Any]) -> str | None:
    """The id of the house that a server belongs to; None: nobody's."""
    query = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s"
    row = await (await conn.execute(query, (APP,))).fetchone()
    return None if row is None or row[0] is None else str(row[0]).removeprefix(_HOUSE)


async def _run(conn: AsyncConnection[Any], change: Change) -> None:
    for attempt in range(_RETRIES):
        try:
            async with conn.transaction():
                await conn.execute("SET LOCAL search_path = pg_catalog, pg_temp")
                await conn.execute(change.sql)
            return
        except (psycopg.errors.DuplicateObject, psycopg.errors.DuplicateFunction):
            return  # Somebody else was faster; what it has made, the next plan compares.
        except psycopg.Error as error:
            # Roles and parameters belong to the whole server: somebody else may be changing the same row.
            busy = "tuple concurrently" in str(error) or error.sqlstate in ("23505", "40P01", "40001")
            if not busy or attempt == _RETRIES - 1:
                reason = str(error).strip().splitlines()[0]
                raise PerimeterBroken(
                    f"{change.object} can't be changed: {reason}",
                    where=f"database {conn.info.dbname}",
                    hint=f"run this as a superuser: {change.sql.splitlines()[0]}",
                ) from error
