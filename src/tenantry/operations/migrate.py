"""Migrate: bring every space to the template's version, with the wall closed again after each."""

from __future__ import annotations

from tenantry.catalog.store import fetch
from tenantry.operations.steps import Kind, Step, Work
from tenantry.placements import database
from tenantry.placements.pooled import database_dsn
from tenantry.placements.space import Space


async def _template(work: Work) -> None:
    """The template databases first, so that what is made from now on is new."""
    for row in await work.store.fetch("shards"):
        await database.build_template(work.estate, row["name"])


async def _spaces(work: Work) -> None:
    """Each space notes its version when it is done, so a second run goes on where the first one stopped."""
    version = work.estate.template.version()
    for row in await work.store.fetch("spaces"):
        space = Space.of(row)
        if space.template == version or space.state == "template":
            continue
        await work.estate.template.apply(await database_dsn(work.estate, space), space.schema)
        await work.estate.wall(space.shard, space.database, [space.schema])
        async with work.store.transaction() as conn:
            await fetch(conn, "space_state", (space.state, version, [space.id]))


MIGRATE = Kind("migrate", (Step("template", act=_template), Step("spaces", act=_spaces)))
