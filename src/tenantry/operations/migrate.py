"""Migrate: bring every space to the template's version, with the wall closed again after each."""

from __future__ import annotations

import logging

from tenantry.errors import OperationFailed, TenantryError
from tenantry.operations.engine import is_passing
from tenantry.operations.steps import Kind, Step, Work
from tenantry.placements import database
from tenantry.placements.space import Space

log = logging.getLogger("tenantry.operations")


async def _template(work: Work) -> None:
    """The template databases first: what is made from now on is new, and what fails in an empty home is not tried on a
    tenant. A shard that is away does not keep the others from it."""
    for space in await _behind(work):
        if space.state == "template":
            try:
                await database.build_template(work.estate, space.shard)
            except TenantryError as error:
                if not is_passing(error):
                    raise
                log.error("%s: %s", space.name, error)


async def _spaces(work: Work) -> None:
    """Each space notes its version when it is done, so a second run goes on where the first one stopped. One that fails
    does not keep the others from it."""
    failed: list[TenantryError] = []
    for space in await _behind(work):
        try:
            if space.state == "template":
                await database.build_template(work.estate, space.shard)
            else:
                await work.estate.bring_up(space)
        except TenantryError as error:
            if await work.store.fetch("space", (space.id,)):  # else its tenant has been deleted meanwhile
                log.error("%s: %s", space.name, error)
                failed.append(error)
    if failed:
        raise _summary(failed) from next((error for error in failed if not is_passing(error)), failed[0])


async def _behind(work: Work) -> list[Space]:
    version = work.estate.template.version()
    spaces = [Space.of(row) for row in await work.store.fetch("spaces")]
    return [space for space in spaces if space.template != version]


def _summary(failed: list[TenantryError]) -> OperationFailed:
    count = "1 space" if len(failed) == 1 else f"{len(failed)} spaces"
    places = ", ".join(str(error.where) for error in failed[:5])
    return OperationFailed(
        f"{count} could not be migrated, the others were: {failed[0]}",
        where=places + (", ..." if len(failed) > 5 else ""),
        hint="mend what the message says, then run 'tenantry migrate' again: it goes on with those that are left",
    )


MIGRATE = Kind("migrate", (Step("template", act=_template), Step("spaces", act=_spaces)))
