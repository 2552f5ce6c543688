"""``tenantry key``: the verbs of :mod:`tenantry.service.key`."""

from __future__ import annotations

from typing import Annotated

import typer

from tenantry.cli.command import Json, example, noun, operate
from tenantry.cli.output import Output
from tenantry.service import key as keys

app = noun()


@app.command("list", epilog=example("tenantry key list"))
def list_(as_json: Json = False) -> None:
    """List the signing keys; never the keys themselves."""
    found = operate(keys.listing, "reading the catalog")
    Output(as_json).table(
        found,
        ("KEY", "STATE", "CREATED", "EXPIRES"),
        (
            (row["kid"], row["state"], *(row[name].isoformat(" ", "seconds") for name in ("created_at", "not_after")))
            for row in found
        ),
    )


@app.command(epilog=example("tenantry key rotate"))
def rotate(
    overlap: Annotated[
        int | None,
        typer.Option(metavar="SECONDS", help="How long the old key stays good; 0 at once."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a new signing key, give it to every database, then sign with it. No request fails meanwhile."""
    state = operate(lambda control: keys.rotate(control, overlap=overlap), "rotating the key")
    text = "rotated: the new key signs" if state == "done" else "the new key signs; a worker retires the old one"
    Output(as_json).result({"state": state}, text)
