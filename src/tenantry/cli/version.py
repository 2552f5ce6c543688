"""``tenantry version``."""

from __future__ import annotations

import platform
from importlib.metadata import version as installed

from tenantry.cli.command import Json, example, noun
from tenantry.cli.output import Output
from tenantry.postgres.versions import OLDEST_MAJOR

app = noun()


@app.command(epilog=example("tenantry version"))
def version(as_json: Json = False) -> None:
    """Show the versions of Tenantry and of what it stands on."""
    found = {name: installed(name) for name in ("tenantry", "psycopg", "psycopg-pool", "pydantic", "typer")}
    form = {**found, "python": platform.python_version(), "oldest-postgresql": str(OLDEST_MAJOR)}
    Output(as_json).result(form, (f"{name} {text}" for name, text in form.items()))
