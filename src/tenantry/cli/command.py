"""What the modules of the commands share: how a noun is made, options that come again, the way to the services."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict
from getpass import getpass
from typing import Annotated, Any, TypeVar

import typer

from tenantry.cli.output import busy, warn
from tenantry.errors import InvalidInput
from tenantry.hookspecs import hookimpl
from tenantry.model import BindingMode, Isolation, TenantState
from tenantry.service.check import Check, Status
from tenantry.service.control import Control

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ShardName = Annotated[str | None, typer.Option("--shard", metavar="NAME", help="Only this shard.")]


def noun() -> typer.Typer:
    """The commands of a noun, or of a module that has only one."""
    return typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def example(*lines: str) -> str:
    """The end of a command's help."""
    return "\n".join([f"[bold]Example{'s' if len(lines) > 1 else ''}[/bold]", *(f"$ {line}" for line in lines)])


def isolations() -> list[str]:
    """For the completion of a shell."""
    return list(Isolation)


def states() -> list[str]:
    """For the completion of a shell."""
    return list(TenantState)


def bindings() -> list[str]:
    """For the completion of a shell."""
    return list(BindingMode)


def operate(verb: Callable[[Control], Awaitable[T]], doing: str | None = None) -> T:
    """Run a verb of the services with the control plane of this process.

    Args:
        verb: what to run.
        doing: what somebody at a terminal reads when it takes longer than a second, with the step of the operation;
            None: the verb shows its own progress.
    """

    async def run() -> T:
        async with Control() as control:
            with busy(doing) if doing is not None else nullcontext(_unsaid) as say:
                control.engine.hooks.register(Steps(say))
                return await verb(control)

    return asyncio.run(run())


def _unsaid(more: str) -> None:
    """Nobody is told."""


class Steps:
    """Shows at which step an operation is."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    @hookimpl
    def operation_moment(self, step: str, moment: str) -> None:
        """As the hook says."""
        if moment in ("before", "undo"):
            self._say(f"({'undoing ' if moment == 'undo' else ''}{step})")


def tell(checks: Iterable[Check], as_json: bool) -> list[dict[str, Any]]:
    """Say on standard error what is not well; as JSON it is only returned, to stand in the answer."""
    found = [check for check in checks if check.status is not Status.OK]
    for check in found if not as_json else ():
        warn(check.what, where=check.where or check.name, next_step=check.next)
    return [asdict(check) for check in found]


def read_secret(value: str, what: str) -> str:
    """A DSN from the command line, or with ``-`` from standard input, so that its password is in no list of processes.

    Raises:
        InvalidInput: standard input is empty.
    """
    if value != "-":
        return value
    line = (getpass(f"{what}: ", stream=sys.stderr) if sys.stdin.isatty() else sys.stdin.readline()).strip()
    if not line:
        raise InvalidInput(
            f"there is no {what} on standard input", hint=f"pipe the {what} in, or give it as an argument"
        )
    return line
