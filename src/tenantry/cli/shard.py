"""``tenantry shard``: the verbs of :mod:`tenantry.service.shard`."""

from __future__ import annotations

from typing import Annotated

import typer

from tenantry.cli import forms
from tenantry.cli.command import Json, bindings, example, noun, operate, read_secret, tell
from tenantry.cli.output import Output, record
from tenantry.model import Shard
from tenantry.service import doctor
from tenantry.service import shard as shards
from tenantry.service.check import Check
from tenantry.service.control import Control

app = noun()

Name = Annotated[str, typer.Argument(metavar="NAME", help="The shard's name.")]
Address = Annotated[
    str | None,
    typer.Option(metavar="DSN", help="Where applications connect, if elsewhere (a pooler): 'host=HOST port=PORT'."),
]


@app.command(
    epilog=example(
        "tenantry shard add eu-1 postgresql://postgres:secret@db1.example.com",
        "tenantry shard add eu-2 - --dedicated < dsn.txt",
    )
)
def add(
    name: Name,
    dsn: Annotated[
        str, typer.Argument(metavar="DSN", help="A superuser's login to any database there; '-' reads it from input.")
    ],
    address: Address = None,
    database: Annotated[
        str, typer.Option(metavar="NAME", help="The database of its pooled tenants; made if it is not there.")
    ] = shards.DATABASE,
    binding: Annotated[
        str | None,
        typer.Option(metavar="MODE", help="sealed or signed, if not what the server allows.", autocompletion=bindings),
    ] = None,
    dedicated: Annotated[
        bool, typer.Option("--dedicated", help="Take only tenants that are sent here by name.")
    ] = False,
    closed: Annotated[bool, typer.Option("--closed", help="Take no tenants until it is opened.")] = False,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Take the server from another house, whose applications are locked out."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Take a PostgreSQL server in as a shard: roles, logins, databases and their walls."""
    where = read_secret(dsn, "DSN")

    async def run(control: Control) -> tuple[Shard, list[Check]]:
        made = await shards.add(
            control,
            name,
            where,
            address=address,
            database=database,
            binding=binding,
            dedicated=dedicated,
            closed=closed,
            take_over=take_over,
        )
        return made, await doctor.examine_shard(control, name)

    made, checks = operate(run, f"equipping {name[:63]}")
    form = {**forms.shard(made), "warnings": tell(checks, as_json)}
    Output(as_json).result(form, f"added shard {made.name}: {made.binding}, {made.state}, at {made.dsn}")


@app.command("list", epilog=example("tenantry shard list"))
def list_(as_json: Json = False) -> None:
    """List all shards, with the numbers of their tenants and ready homes."""
    found = operate(shards.listing, "reading the catalog")
    Output(as_json).table(
        [forms.shard(*each) for each in found],
        ("SHARD", "STATE", "BINDING", "TENANTS", "WARM", "FOR", "WHERE"),
        ((s.name, s.state, s.binding, n, w, _for(s), s.dsn) for s, n, w in found),
    )


@app.command(epilog=example("tenantry shard show main"))
def show(name: Name, as_json: Json = False) -> None:
    """Show one shard."""
    _show(operate(lambda control: shards.show(control, name), "reading the catalog"), as_json)


@app.command(
    epilog=example(
        "tenantry shard change main --address 'host=pgbouncer.example.com port=6432'",
        "tenantry shard change main --dsn - < new-dsn.txt",
    )
)
def change(
    name: Name,
    dsn: Annotated[
        str | None,
        typer.Option(metavar="DSN", help="A superuser's login to where the server is now; '-' reads it from input."),
    ] = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Say where a shard is now: after a failover to another host, or when a pooler is put before it."""
    where = None if dsn is None else read_secret(dsn, "DSN")
    _show(
        operate(lambda control: shards.change(control, name, dsn=where, address=address), "changing the shard"), as_json
    )


@app.command("open", epilog=example("tenantry shard open main"))
def open_(name: Name, as_json: Json = False) -> None:
    """Let new tenants onto a shard. Twice does no harm."""
    _show(operate(lambda control: shards.open_(control, name), "opening the shard"), as_json)


@app.command(epilog=example("tenantry shard close main"))
def close(name: Name, as_json: Json = False) -> None:
    """Let no new tenants onto a shard; those that are there stay. Twice does no harm."""
    _show(operate(lambda control: shards.close(control, name), "closing the shard"), as_json)


def _for(shard: Shard) -> str:
    return "tenants by name" if shard.dedicated else "all"


def _show(shard: Shard, as_json: bool) -> None:
    fields = {
        "state": shard.state,
        "binding": shard.binding,
        "for": _for(shard),
        "where": shard.dsn,
        "added": shard.created_at and shard.created_at.isoformat(" ", "seconds"),
    }
    Output(as_json).result(forms.shard(shard), record(f"shard {shard.name}", fields))
