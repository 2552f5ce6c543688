"""``tenantry replica``: the verbs of :mod:`tenantry.service.replica`."""

from __future__ import annotations

from typing import Annotated

import typer

from tenantry.cli import forms
from tenantry.cli.command import Json, example, noun, operate
from tenantry.cli.output import Output
from tenantry.service import replica as replicas

app = noun()

Shard = Annotated[str, typer.Argument(metavar="SHARD", help="The shard's name.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The replica's name.")]


@app.command(epilog=example("tenantry replica add main r1 'host=10.0.0.2 port=5432'"))
def add(
    shard: Shard,
    name: Name,
    address: Annotated[
        str, typer.Argument(metavar="DSN", help="Where applications connect to it: 'host=HOST port=PORT'.")
    ],
    as_json: Json = False,
) -> None:
    """Let ro transactions go to a physical standby of a shard, for tenants whose plan says so (--replica-seconds)."""
    made = operate(lambda control: replicas.add(control, shard, name, address), "adding the replica")
    Output(as_json).result(forms.replica(made), f"added replica {made.name} of {made.shard}, at {made.dsn}")


@app.command("list", epilog=example("tenantry replica list", "tenantry replica list main"))
def list_(
    shard: Annotated[str | None, typer.Argument(metavar="[SHARD]", help="Only this shard's.")] = None,
    as_json: Json = False,
) -> None:
    """List the replicas of all shards, or of one; the doctor says how they are."""
    found = operate(lambda control: replicas.listing(control, shard), "reading the catalog")
    Output(as_json).table(
        [forms.replica(each) for each in found],
        ("SHARD", "REPLICA", "WHERE"),
        ((each.shard, each.name, each.dsn) for each in found),
    )


@app.command(epilog=example("tenantry replica remove main r1"))
def remove(shard: Shard, name: Name, as_json: Json = False) -> None:
    """Let no more reads go to a replica; the server itself is not touched."""
    gone = operate(lambda control: replicas.remove(control, shard, name), "removing the replica")
    Output(as_json).result(forms.replica(gone), f"removed replica {gone.name} of {gone.shard}")
