"""What went wrong, as people and programs read it: every expected error in one form, and none with a traceback."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from typing import Any

import psycopg
import typer

from tenantry.cli.output import details, printable, to_json, write
from tenantry.errors import TenantryError

USAGE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141
INTERNAL = 70

# BadParameter is what typer exports of its usage errors; these are the classes above it.
UsageError: type[Any] = typer.BadParameter.__mro__[1]


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that ends a command: what, where, what next, and the exit code."""

    code: str
    message: str
    where: str | None = None
    hint: str | None = None
    exit_code: int = 1

    def show(self, *, json: bool, command: str | None = None) -> None:
        """Write it to standard error; the command is where it is, unless it says so itself."""
        where = self.where or command
        if json:
            parts = {"code": self.code, "message": self.message, "where": where, "hint": self.hint}
            found = {name: value for name, value in parts.items() if value is not None}
            write(to_json({"error": {**found, "exit_code": self.exit_code}}), err=True)
            return
        first, *rest = self.message.splitlines() or [""]
        write(f"error[{self.code}]: {printable(first)}", style="bold red", err=True)
        for line in rest:
            write(f"  {printable(line)}", err=True)
        for line in details(where, self.hint):
            write(line, err=True)


class Failed(Exception):
    """A failure that is known already."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def explain(error: BaseException) -> Failure:
    """The failure that an exception means."""
    if isinstance(error, Failed):
        return error.failure
    if isinstance(error, TenantryError):
        return Failure(error.code, error.message, error.where, error.hint, error.exit_code)
    if isinstance(error, UsageError):
        return _usage(error)
    if isinstance(error, KeyboardInterrupt):
        hint = "what had begun is durable: 'tenantry worker --once' finishes or undoes it"
        return Failure("interrupted", "interrupted", None, hint, INTERRUPTED)
    if isinstance(error, typer.Abort):
        return Failure("aborted", "nothing was done", exit_code=INTERRUPTED)
    if isinstance(error, psycopg.Error):
        return _database(error)
    if isinstance(error, OSError) and error.filename is not None:
        return Failure("file", f"{error.strerror}".lower(), str(error.filename), "name another file", USAGE)
    return _internal(error)


def _usage(error: Any) -> Failure:
    message: str = error.format_message().rstrip(".")
    command = error.ctx.command_path if error.ctx is not None else "tenantry"
    message = message[:1].lower() + message[1:]
    return Failure("usage", message, command, f"see '{command} --help'", USAGE)


def _database(error: psycopg.Error) -> Failure:
    """An error of the server that no layer below has translated."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    message = error.diag.message_primary or lines[-1]
    lost = is_lost(error)
    hint = error.diag.message_hint or ("see that the server runs, and run the command again" if lost else None)
    return Failure(code_of(error), message, error.diag.message_detail, hint, 5 if lost else 1)


def is_lost(error: psycopg.Error) -> bool:
    """Whether an error means that the connection is gone (PostgreSQL: Error Codes)."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate.startswith(("08", "57P"))


def code_of(error: psycopg.Error) -> str:
    """The server's code; where the error is the driver's, a word of ours."""
    return error.sqlstate or ("connection" if is_lost(error) else "driver")


def _internal(error: BaseException) -> Failure:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "tenantry" in frame.filename]
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None
    hint = "this is a bug: run it again as 'tenantry --debug ...', and report what it prints"
    return Failure("internal", f"{type(error).__name__}: {error}", where, hint, INTERNAL)


def show_traceback(error: BaseException) -> None:
    """For ``--debug``."""
    traceback.print_exception(error, file=sys.stderr)
