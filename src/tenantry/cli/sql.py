"""``tenantry sql``: SQL as one tenant, or as an operator with all tenants."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer

from tenantry.cli import failures
from tenantry.cli.command import Json, example, noun
from tenantry.cli.output import Table, to_json, write
from tenantry.cli.sql_session import AllTenantsSession, Result, Session, TenantSession
from tenantry.cli.sql_text import is_complete
from tenantry.errors import InvalidInput, TenantryError
from tenantry.model import Mode
from tenantry.routing.router import Router

app = noun()

_HELP = """\
  ;         ends a statement
  BEGIN;    keeps a transaction open until COMMIT; or ROLLBACK;
  \\q        leaves, as does Ctrl-D"""


@app.command(
    "sql",
    epilog=example(
        "tenantry sql acme",
        "tenantry sql acme --read-only -c 'SELECT count(*) FROM orders'",
        "tenantry sql acme --csv -c 'TABLE orders' > orders.csv",
        "tenantry sql --all-tenants --shard main --reason 'ticket 4711: whose rows are broken?' -c 'TABLE orders'",
    ),
)
def sql_(
    slug: Annotated[str | None, typer.Argument(metavar="SLUG", help="The tenant's name in URLs.")] = None,
    command: Annotated[
        list[str] | None,
        typer.Option("-c", "--command", metavar="SQL", help="Run this; may be repeated, each its own transaction."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse writes.")] = False,
    all_tenants: Annotated[
        bool, typer.Option("--all-tenants", help="As an operator, past the wall; read-only, and on record.")
    ] = False,
    shard: Annotated[str | None, typer.Option(metavar="NAME", help="With --all-tenants: whose tenants.")] = None,
    database: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --all-tenants: if not the shard's pooled database.")
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="With --all-tenants: why, for the record.")] = None,
    write_: Annotated[bool, typer.Option("--write", help="With --all-tenants: allow writes.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print rows as CSV with a header.")] = False,
    as_json: Json = False,
) -> None:
    """Run SQL as one tenant, inside its wall.

    It runs as the application's role. Without -c it asks at a terminal; elsewhere it runs standard input as one
    transaction.
    """
    if as_csv and as_json:
        raise InvalidInput("rows are printed in one form", hint="give --json or --csv")
    form = "csv" if as_csv else "json" if as_json else "table"
    options = {"--shard": shard, "--database": database, "--reason": reason, "--write": write_}
    if all_tenants:
        if slug is not None or read_only or shard is None or reason is None:
            hint = "give --shard and --reason, and neither a SLUG nor --read-only; it is read-only without --write"
            raise InvalidInput("--all-tenants needs to know where and why", hint=hint)
        with AllTenantsSession(shard, database, reason=reason, write=write_) as everybody:
            _run(everybody, command, form)
        return
    if given := [name for name, value in options.items() if value]:
        raise InvalidInput(f"{given[0]} is for --all-tenants", hint="a tenant's session knows where it has to go")
    if slug is None:
        raise InvalidInput("which tenant?", hint="give its SLUG, or --all-tenants")
    with Router() as router, TenantSession(router, slug, Mode("ro" if read_only else "rw")) as session:
        _run(session, command, form)


def _run(session: Session, commands: Sequence[str] | None, form: str) -> None:
    if commands is None and sys.stdin.isatty():
        _converse(session, form)
        return
    texts = commands if commands is not None else [sys.stdin.read()]
    found: list[dict[str, Any]] = []
    for text in texts:
        for result in session.run(text):
            if form == "json":
                found.append({"status": result.status, "columns": result.columns, "rows": result.as_objects()})
            else:
                _show(result, form)
    if form == "json":
        write(to_json({"results": found}, indent=2))


def _show(result: Result, form: str) -> None:
    if form == "json":
        write(to_json({"status": result.status, "columns": result.columns, "rows": result.as_objects()}))
    elif not result.columns:
        write(result.status, err=form == "csv")
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(result.columns)
        writer.writerows(result.rows)
    else:
        with Table(result.columns) as table:
            for row in result.rows:
                table.add(*row)
        write(f"({len(result.rows):,} row{'' if len(result.rows) == 1 else 's'})")


def _converse(session: Session, form: str) -> None:
    """Read statements from a terminal until its end. An error ends a statement, not the conversation."""
    with _history():
        write("SQL ends with ';', and \\? helps.", err=True)
        text = ""
        while True:
            try:
                line = _ask(f"{session.prompt}{'->' if text else '=>'} ")
            except EOFError:
                write(err=True)
                return
            except KeyboardInterrupt:
                text = ""
                write(err=True)
                continue
            if not text and line.strip() in ("\\q", "quit", "exit"):
                return
            if not text and line.strip() in ("\\?", "help"):
                write(_HELP, err=True)
                continue
            text += f"{line}\n"
            if is_complete(text):
                _answer(session, text, form)
                text = ""
            elif not text.strip():
                text = ""


def _answer(session: Session, text: str, form: str) -> None:
    try:
        for result in session.run(text):
            _show(result, form)
    except KeyboardInterrupt:
        write("cancelled", err=True)
    except (failures.Failed, TenantryError, psycopg.Error) as error:
        failures.explain(error).show(json=form == "json")


def _ask(prompt: str) -> str:
    """Standard output may be a file, and must not hold the prompt then."""
    if sys.stdout.isatty():
        return input(prompt)
    write(prompt, err=True, end="")
    return input()


@contextmanager
def _history() -> Iterator[None]:
    """The lines of earlier conversations, for the arrow keys; in a file for nobody's eyes but ours."""
    try:
        import readline
    except ImportError:  # a Python without it still converses
        yield
        return
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    file = Path(state) / "tenantry" / "sql_history"
    with suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        readline.set_history_length(1000)
        with suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.touch(mode=0o600)
            readline.write_history_file(file)
