"""Publish the plans: every database knows every plan's limits, because the binding reads them there."""

from __future__ import annotations

from tenantry.operations.steps import Kind, Step, Work


async def _tell(work: Work) -> None:
    await work.estate.inform_all()


PUBLISH = Kind("publish", (Step("tell", act=_tell, final=True),))
