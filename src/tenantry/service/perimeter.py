"""The perimeter: plan, apply, check, for one database or all."""

from __future__ import annotations

from dataclasses import dataclass

from tenantry.errors import NotFound
from tenantry.perimeter.apply import PerimeterPlan, plan_perimeter
from tenantry.placements.space import Space
from tenantry.service.control import Control

_SCHEMAS = 200


@dataclass(frozen=True, slots=True)
class Section:
    """Some schemas of one database of a shard, with what is missing there."""

    shard: str
    database: str
    schemas: tuple[str, ...]
    plan: PerimeterPlan


async def plan(control: Control, *, shard: str | None = None, database: str | None = None) -> list[Section]:
    """Compare databases with the wall that they should have; nothing is changed.

    Args:
        shard: only this one's.
        database: only this one.

    Raises:
        NotFound: there is no such database.
    """
    house = await control.estate.house()
    sections = []
    for (name, db), schemas in (await _databases(control, shard, database)).items():
        mode = (await control.estate.shard(name)).binding
        async with control.estate.root(name, db) as conn:
            for start in range(0, len(schemas), _SCHEMAS):
                some = schemas[start : start + _SCHEMAS]
                found = await plan_perimeter(conn, house, mode, some, control.estate.shared)
                sections.append(Section(name, db, tuple(some), found))
    return sections


async def check(control: Control, *, shard: str | None = None, database: str | None = None) -> list[Section]:
    """The sections whose wall is not closed: a change to apply, or a finding to mend."""
    return [section for section in await plan(control, shard=shard, database=database) if not section.plan.closed]


async def apply(control: Control, *, shard: str | None = None, database: str | None = None) -> list[Section]:
    """Close the wall; what comes back was changed, with the findings that are left.

    Raises:
        PerimeterBroken: a change was refused.
    """
    sections = []
    for (name, db), schemas in (await _databases(control, shard, database)).items():
        for start in range(0, len(schemas), _SCHEMAS):
            some = schemas[start : start + _SCHEMAS]
            done = await control.estate.wall(name, db, some, server=start == 0)
            sections.append(Section(name, db, tuple(some), done))
    await control.audit("perimeter apply", f"{len(sections)} databases")
    return sections


async def _databases(control: Control, shard: str | None, database: str | None) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for row in await control.store.fetch("spaces"):
        space = Space.of(row)
        if space.state != "template" and shard in (None, space.shard) and database in (None, space.database):
            found.setdefault((space.shard, space.database), []).append(space.schema)
    if not found and (shard or database):
        raise NotFound(f"there is no database {database or 'at all'} on {shard or 'any shard'}")
    return found
