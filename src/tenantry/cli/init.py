"""``tenantry init``: a house from nothing, or from what an interrupted run has left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tenantry.cli import config_file, forms
from tenantry.cli.command import Json, Steps, example, noun, read_secret, tell
from tenantry.cli.output import Output, busy, record
from tenantry.errors import Conflict, InvalidInput, NotFound
from tenantry.model import KeyType, Shard
from tenantry.operations.engine import LEASE_SECONDS
from tenantry.placements.template import parse_template
from tenantry.postgres.connect import parse_dsn, shown_dsn
from tenantry.service import doctor, local
from tenantry.service import house as houses
from tenantry.service import shard as shards
from tenantry.service.check import Check
from tenantry.service.control import Control
from tenantry.settings import load

app = noun()

FIRST_SHARD = "main"
_PATIENCE = 15.0
_LOOK_SECONDS = 0.5


def _types() -> list[str]:
    return list(KeyType)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the options say; what is not given is left as it stands."""

    local: str | None
    catalog: str | None
    house: Mapping[str, str]
    settings: Mapping[str, Any]
    new_password: bool


@dataclass(frozen=True, slots=True)
class Done:
    """What stands now."""

    catalog: str
    file: Path
    wrote: bool
    template: str | None
    migrations: Sequence[str]
    shards: Sequence[Shard]
    checks: Sequence[Check]


@app.command(
    epilog=example(
        "tenantry init --local .tenantry --template sql:migrations",
        "tenantry init --catalog postgresql://postgres:secret@db.example.com/tenantry_catalog --key-type uuid",
    )
)
def init(
    local_: Annotated[
        str | None,
        typer.Option("--local", metavar="DIR", help="Start a PostgreSQL server, keep its data in DIR, and use it."),
    ] = None,
    catalog: Annotated[
        str | None,
        typer.Option(metavar="DSN", help="The catalog's database on a server that runs; '-' reads it from input."),
    ] = None,
    key_type: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="Of the tenant column: bigint, uuid or text.", autocompletion=_types),
    ] = None,
    tenant_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The tenant column's name, if not tenant_id.")
    ] = None,
    app_schema: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where tenants share the application's tables, if not public.")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Of the tables: sql:FOLDER, sqlalchemy:MODULE:METADATA or alembic:FILE."),
    ] = None,
    shared_table: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A table of reference data that all tenants may read; may be repeated."),
    ] = None,
    new_password: Annotated[
        bool, typer.Option("--new-password", help="Give the application's login to the catalog a new password.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Create a house: its catalog and the file tenantry.toml.

    With --local it starts a server of its own, which goes on running, and makes it the shard 'main'.

    Run again, it brings the catalog up to date and does what an interrupted run has left undone.
    """
    if (local_ is None) == (catalog is None):
        hint = "give --local DIR for a server of your own, or --catalog DSN for one that runs"
        raise InvalidInput("the catalog needs one place", hint=hint)
    house = {"key_type": key_type, "tenant_column": tenant_column, "app_schema": app_schema}
    settings = {"template": template, "shared_tables": tuple(shared_table or ())}
    wishes = Wishes(
        local=local_,
        catalog=None if catalog is None else read_secret(catalog, "DSN"),
        house={name: value for name, value in house.items() if value is not None},
        settings={name: value for name, value in settings.items() if value},
        new_password=new_password,
    )
    with busy("building the house") as say:
        done = asyncio.run(_init(wishes, Steps(say)))
    warnings = tell(done.checks, as_json)
    Output(as_json).result(_form(done, warnings), _text(done, wishes))


async def _init(wishes: Wishes, steps: Steps) -> Done:
    file = config_file.path()
    standing = config_file.read(file)
    wanted = {**(standing or {}), **wishes.settings}
    parse_template(wanted.get("template"))
    dsn = wishes.catalog if wishes.local is None else (await asyncio.to_thread(local.start, wishes.local)).dsn
    assert dsn is not None
    if standing is not None:
        _refuse_other(file, standing, dsn, wishes)
    else:
        config_file.refuse_unwritable(file)
    await houses.create_database(dsn)
    settings = load(**{**wanted, "catalog": dsn, "control": dsn})
    async with Control(settings) as control:
        control.engine.hooks.register(steps)
        made = await houses.init(control, **{**await _standing_house(control), **wishes.house})
        if standing is None:
            library = made.catalog_dsn or await _library_dsn(control, wishes)
            config_file.write(file, {**wanted, "catalog": library, "control": dsn})
        if wishes.local is not None:
            await _first_shard(control, dsn)
        listed = [shard for shard, _, _ in await shards.listing(control)]
        checks = [check for shard in listed for check in await doctor.examine_shard(control, shard.name)]
    return Done(dsn, file, standing is None, settings.template, made.migrations, listed, checks)


def _refuse_other(file: Path, standing: Mapping[str, Any], dsn: str, wishes: Wishes) -> None:
    """The file that is there must say what we would write; it is never overwritten."""
    there = str(standing.get("control") or standing.get("catalog") or "")
    if _place(there) != _place(dsn):
        hint = "work in another folder, or move the file away to begin afresh"
        raise Conflict(f"{file} belongs to another house, at {shown_dsn(there)}", where=shown_dsn(dsn), hint=hint)
    for name, value in wishes.settings.items():
        said = standing.get(name)
        if (tuple(said or ()) if name == "shared_tables" else said) != value:
            raise Conflict(f"{file} says something else of {name}", where=str(said), hint="change it in the file")
    if wishes.new_password:
        hint = "move the file away, and run it again"
        raise Conflict("a new password means a new file, and this one is there", where=str(file), hint=hint)


def _place(dsn: str) -> tuple[object, ...]:
    parameters = parse_dsn(dsn)
    return tuple(parameters.get(name) for name in ("host", "port", "dbname"))


async def _standing_house(control: Control) -> dict[str, Any]:
    """What holds in the catalog if it is there: it can't be changed any more."""
    try:
        house = await control.store.house()
    except NotFound:
        return {}
    return {"key_type": house.key_type, "tenant_column": house.tenant_column, "app_schema": house.app_schema}


async def _library_dsn(control: Control, wishes: Wishes) -> str:
    if not wishes.new_password:
        hint = (
            "copy tenantry.toml from where it was made, or run it again with --new-password: applications that use the"
            " old one then can't reach the catalog any more"
        )
        message = f"the application's login {houses.LOGIN} is there, and its password is not known here"
        raise Conflict(message, where=shown_dsn(control.store.dsn), hint=hint)
    return await houses.renew_login(control)


async def _first_shard(control: Control, dsn: str) -> None:
    """Add the shard, or wait until what an interrupted run has begun is free to be taken over, and finish that."""
    until = time.monotonic() + LEASE_SECONDS + _PATIENCE
    while time.monotonic() < until and any(row["kind"] == "equip" for row in await control.engine.unfinished()):
        await houses.work(control)
        await asyncio.sleep(_LOOK_SECONDS)
    if FIRST_SHARD not in {shard.name for shard, _, _ in await shards.listing(control)}:
        await shards.add(control, FIRST_SHARD, dsn)


def _form(done: Done, warnings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "catalog": shown_dsn(done.catalog),
        "migrations": done.migrations,
        "settings": str(done.file),
        "wrote": done.wrote,
        "template": done.template,
        "shards": [forms.shard(shard) for shard in done.shards],
        "warnings": warnings,
    }


def _text(done: Done, wishes: Wishes) -> Iterator[str]:
    fields = {
        "catalog": f"{shown_dsn(done.catalog)} ({len(done.migrations)} migrations applied now)",
        "shards": ", ".join(f"{shard.name} ({shard.binding}, {shard.state})" for shard in done.shards) or "none yet",
        "tables": done.template or "none yet",
        "settings": f"{done.file} {'(written; it holds passwords)' if done.wrote else '(was there)'}",
    }
    if wishes.local is not None:
        fields["server"] = f"{wishes.local} (it goes on running: 'tenantry local stop {wishes.local}')"
    yield from record("The house stands.", fields)
    yield "Next:"
    if not done.template:
        yield f"  say where your application's tables come from: 'template' in {done.file}; then 'tenantry migrate'"
    if not done.shards:
        yield "  tenantry shard add main postgresql://USER:PASSWORD@HOST"
    yield "  tenantry tenant create acme"
    yield "  tenantry sql acme"
    yield "  tenantry doctor"
