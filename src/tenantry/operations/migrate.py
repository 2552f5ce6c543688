"""Migrate: bring every space to the template's version, with the wall closed again after each."""

from __future__ import annotations

import logging

from tenantry.errors import OperationFailed, TenantryError
from tenantry.operations.steps import Kind, Step, Work
from tenantry.placements import database
from tenantry.placements.space import Space

log = logging.getLogger("tenantry.operations")


async def _template(work: Work) -> None:
    """The template databases first, so that what is made from now on is new."""
    for row in await work.store.fetch("shards"):
        await database.build_template(work.estate, row["name"])


async def _spaces(work: Work) -> None:
    """Each space notes its version when it is done, so a second run goes on where the first one stopped. One that fails
    does not keep the others from it."""
    version = work.estate.template.version()
    failed: list[TenantryError] = []
    for row in await work.store.fetch("spaces"):
        space = Space.of(row)
        if space.template == version or space.state == "template":
            continue
        try:
            await work.estate.bring_up(space)
        except TenantryError as error:
            log.error("%s: %s", space.name, error)
            failed.append(error)
        else:
            await work.store.fetch("space_template", (version, [space.id]))
    if failed:
        raise _summary(failed) from failed[0]


def _summary(failed: list[TenantryError]) -> OperationFailed:
    places = ", ".join(str(error.where) for error in failed[:5])
    return OperationFailed(
        f"{len(failed)} spaces could not be migrated, the others were: {failed[0]}",
        where=places + (", ..." if len(failed) > 5 else ""),
        hint="mend what the message says, then run 'tenantry migrate' again: it goes on with those that are left",
    )


MIGRATE = Kind("migrate", (Step("template", act=_template), Step("spaces", act=_spaces)))
