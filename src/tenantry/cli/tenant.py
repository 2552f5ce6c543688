"""``tenantry tenant``: the verbs of :mod:`tenantry.service.tenant`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tenantry.cli import forms
from tenantry.cli.command import Json, ShardName, example, isolations, noun, operate, states
from tenantry.cli.output import Output, Table, printable, progress, record, to_json, write
from tenantry.errors import InvalidInput
from tenantry.model import Tenant, TenantState
from tenantry.service import onboard
from tenantry.service import tenant as tenants
from tenantry.service.control import Control

app = noun()

Slug = Annotated[str, typer.Argument(metavar="SLUG", help="The tenant's name in URLs.")]
IsolationLevel = Annotated[
    str | None,
    typer.Option(metavar="LEVEL", help="pooled, schema or database.", autocompletion=isolations),
]
Plan = Annotated[str | None, typer.Option(metavar="NAME", help="Its plan.")]


@app.command(
    epilog=example(
        "tenantry tenant create acme",
        "tenantry tenant create globex --name 'Globex AG' --plan business --isolation schema",
        "tenantry tenant create --from-file tenants.csv --skip-existing",
    )
)
def create(
    slug: Annotated[str | None, typer.Argument(metavar="SLUG", help="The tenant's name in URLs.")] = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="The organisation's name, if not the slug.")] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="What its rows carry, if not the next number or a random UUID.")
    ] = None,
    plan: Plan = None,
    isolation: IsolationLevel = None,
    shard: Annotated[str | None, typer.Option(metavar="NAME", help="Its shard, if not the emptiest.")] = None,
    from_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Create all tenants of a CSV file; '-' is standard input."),
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="With --from-file: pass over slugs that are there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Create a tenant, ready to work, or all tenants of a file.

    The file has a header with the column slug and any of name, key, plan, isolation and shard; the options are the
    defaults of empty cells. All of it is checked before the first tenant is created.
    """
    if (slug is None) == (from_file is None):
        raise InvalidInput("name one tenant, or a file of them", hint="give a SLUG, or --from-file FILE")
    if from_file is not None:
        if name is not None or key is not None:
            raise InvalidInput("--name and --key are one tenant's", hint="put them into the file, as columns")
        _create_all(from_file, {"plan": plan, "isolation": isolation, "shard": shard}, skip_existing, Output(as_json))
        return
    assert slug is not None
    made = operate(
        lambda control: tenants.create(
            control, slug, name=name, key=key, plan=plan or onboard.DEFAULT_PLAN, isolation=isolation, shard=shard
        ),
        f"creating {slug[:63]}",
    )
    _say("created", made, as_json)


def _create_all(file: str, defaults: dict[str, str | None], skip_existing: bool, out: Output) -> None:
    content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    name = "standard input" if file == "-" else file
    given = {column: value for column, value in defaults.items() if value is not None}

    async def run(control: Control) -> onboard.Onboarded:
        with progress("creating tenants") as tell:
            return await onboard.onboard(
                control, content, file=name, defaults=given, skip_existing=skip_existing, progress=tell
            )

    done = operate(run)
    skipped = f", passed over {done.skipped:,} that were there" if done.skipped else ""
    form = {"created": done.created, "skipped": done.skipped}
    out.result(form, f"created {done.created:,} tenant{'' if done.created == 1 else 's'}{skipped}")


@app.command("list", epilog=example("tenantry tenant list --plan free --state active", "tenantry tenant list --json"))
def list_(
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help=f"{', '.join(TenantState)}.", autocompletion=states)
    ] = None,
    plan: Annotated[str | None, typer.Option(metavar="NAME", help="Only this plan.")] = None,
    shard: ShardName = None,
    isolation: IsolationLevel = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line, each a tenant.")] = False,
) -> None:
    """List tenants by slug; deleted ones only with --state deleted."""

    async def run(control: Control) -> None:
        found = tenants.iterate(control, state=state, plan=plan, shard=shard, isolation=isolation)
        if as_json:
            async for tenant in found:
                write(to_json(forms.tenant(tenant)))
            return
        with Table(("SLUG", "KEY", "NAME", "PLAN", "STATE", "ISOLATION", "PLACEMENT")) as table:
            async for tenant in found:
                level = tenant.placement and tenant.placement.isolation
                table.add(tenant.slug, tenant.key, tenant.name, tenant.plan, tenant.state, level, forms.place(tenant))

    operate(run, "reading the catalog")


@app.command(epilog=example("tenantry tenant show acme"))
def show(slug: Slug, as_json: Json = False) -> None:
    """Show one tenant: its key, plan, state and placement."""
    found = operate(lambda control: tenants.show(control, slug), "reading the catalog")
    Output(as_json).result(forms.tenant(found), record(f"tenant {found.slug}", _fields(found)))


@app.command(epilog=example("tenantry tenant suspend acme"))
def suspend(slug: Slug, as_json: Json = False) -> None:
    """Refuse the tenant's requests from now on; running transactions end in peace. Twice does no harm."""
    _say("suspended", operate(lambda control: tenants.suspend(control, slug), f"suspending {slug[:63]}"), as_json)


@app.command(epilog=example("tenantry tenant resume acme"))
def resume(slug: Slug, as_json: Json = False) -> None:
    """Let a suspended tenant work again, or bring back a deleted one in its grace period. Twice does no harm."""
    _say("resumed", operate(lambda control: tenants.resume(control, slug), f"resuming {slug[:63]}"), as_json)


@app.command(epilog=example("tenantry tenant delete acme", "tenantry tenant delete acme --confirm acme --grace 0"))
def delete(
    slug: Slug,
    confirm: Annotated[
        str | None, typer.Option(metavar="SLUG", help="The slug once more; a terminal is asked for it.")
    ] = None,
    grace: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="How long it can be resumed, if not as its plan says.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Shut a tenant now, and leave nothing of it behind when its grace period ends."""
    typed = confirm
    if typed is None:
        typed = _ask(operate(lambda control: tenants.show(control, slug), "reading the catalog"))
    state = operate(lambda control: tenants.delete(control, slug, confirm=typed, grace=grace), f"deleting {slug[:63]}")
    text = f"deleted tenant {slug}: nothing of it is left"
    if state == "waiting":
        text = f"shut tenant {slug}; a worker deletes it when its grace period has ended"
    Output(as_json).result({"slug": slug, "state": state}, text)


def _ask(tenant: Tenant) -> str:
    """The slug, as somebody at a terminal types it once more."""
    if not sys.stdin.isatty():
        hint = f"in a script, confirm with '--confirm {tenant.slug}'"
        raise InvalidInput("deleting a tenant must be confirmed, and nobody is at a terminal", hint=hint)
    for line in record(f"tenant {tenant.slug}", _fields(tenant)):
        write(line, err=True)
    write("All its data will be deleted. Type its slug to go on: ", err=True, end="")
    typed = sys.stdin.readline().strip()
    if typed != tenant.slug:
        raise typer.Abort
    return typed


def _fields(tenant: Tenant) -> dict[str, object]:
    placement = tenant.placement
    where = None if placement is None else f"{forms.place(tenant)} ({placement.isolation}, epoch {placement.epoch})"
    return {
        "name": tenant.name,
        "key": tenant.key,
        "plan": tenant.plan,
        "state": tenant.state,
        "placement": where,
        "created": tenant.created_at and tenant.created_at.isoformat(" ", "seconds"),
        "id": tenant.id,
    }


def _say(done: str, tenant: Tenant, as_json: bool) -> None:
    placement = tenant.placement
    home = f", {placement.isolation} at {forms.place(tenant)}" if placement is not None else ""
    text = f"{done} tenant {tenant.slug}: key {printable(tenant.key)}, plan {tenant.plan}{home}"
    Output(as_json).result(forms.tenant(tenant), text)
