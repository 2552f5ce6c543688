"""``tenantry local``: the verbs of :mod:`tenantry.service.local`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tenantry.cli.command import Json, example, noun
from tenantry.cli.output import Output, busy
from tenantry.service import local
from tenantry.service.local import Local

app = noun()

Directory = Annotated[str, typer.Argument(metavar="DIR", help="Where its data is kept.")]
DIRECTORY = ".tenantry"


@app.command(epilog=example("tenantry local start", "tenantry local start /srv/tenantry"))
def start(directory: Directory = DIRECTORY, as_json: Json = False) -> None:
    """Start a server and leave it running; its data stays in DIR. Twice does no harm."""
    with busy("starting the server"):
        found = local.start(directory)
    _show(found, as_json)


@app.command(epilog=example("tenantry local stop"))
def stop(directory: Directory = DIRECTORY, as_json: Json = False) -> None:
    """Stop a server; its data stays. Twice does no harm."""
    with busy("stopping the server"):
        found = local.stop(directory)
    _show(found, as_json)


@app.command(epilog=example("tenantry local status"))
def status(directory: Directory = DIRECTORY, as_json: Json = False) -> None:
    """Say whether a server runs in DIR. Exit 1 if not."""
    found = local.status(directory)
    _show(found, as_json)
    if not found.running:
        raise typer.Exit(1)


def _show(found: Local, as_json: bool) -> None:
    form = {name: value for name, value in asdict(found).items() if name != "dsn"}  # it holds a password
    at = f" on 127.0.0.1:{found.port}" if found.running else ""
    Output(as_json).result(form, f"{'running' if found.running else 'stopped'}: {found.directory}{at}")
