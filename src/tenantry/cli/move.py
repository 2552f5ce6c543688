"""``tenantry move``: the verb of :mod:`tenantry.service.move`."""

from __future__ import annotations

from typing import Annotated

import typer

from tenantry.cli import forms
from tenantry.cli.command import Json, example, isolations, noun, operate
from tenantry.cli.output import Output
from tenantry.model import Tenant
from tenantry.service import move as moves
from tenantry.service import tenant as tenants
from tenantry.service.control import Control

app = noun()


@app.command(
    epilog=example("tenantry move acme --to schema", "tenantry move acme --to database --shard berlin --grace 86400")
)
def move(
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="The tenant's name in URLs.")],
    to: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="pooled, schema or database, if not as it is.", autocompletion=isolations),
    ] = None,
    shard: Annotated[str | None, typer.Option(metavar="NAME", help="Its shard from now on, if not its own.")] = None,
    grace: Annotated[
        int, typer.Option(metavar="SECONDS", help="How long the old place follows, for the way back.")
    ] = moves.GRACE_SECONDS,
    as_json: Json = False,
) -> None:
    """Move a tenant to another level or shard while it works.

    Its requests go on: for a moment they wait, and none fails. Until the grace period ends, 'tenantry op undo' brings
    the tenant back with what it has written since; a worker then clears the old place.
    """

    async def run(control: Control) -> tuple[Tenant, dict[str, object]]:
        operation = await moves.move(control, slug, to=to, shard=shard, grace=grace)
        return await tenants.show(control, slug), dict(operation)

    tenant, operation = operate(run, f"moving {slug[:63]}")
    if tenant.placement is not None and operation["step"] not in ("follow", "copy"):
        text = f"moved {tenant.slug} to {forms.place(tenant)} ({tenant.placement.isolation})"
        if operation["state"] == "waiting":
            text += f"; 'tenantry op undo {operation['id']}' brings it back"
    else:
        text = f"{tenant.slug} is ready to move, but is busy: a worker tries again (operation {operation['id']})"
    Output(as_json).result({"tenant": forms.tenant(tenant), "operation": operation}, text)
