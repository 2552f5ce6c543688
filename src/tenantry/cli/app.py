"""The command ``tenantry``: one module per noun, imported when one of its commands runs; ``--help`` stays quick."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from itertools import takewhile
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from tenantry.cli import failures, log

PROGRAM = "tenantry"


@dataclass(frozen=True, slots=True)
class Entry:
    """A command or a noun of the top level: where it is and its line in the list of commands."""

    module: str
    help: str
    panel: str


HOUSE, NOUNS = "The house", "Nouns"

ENTRIES = {
    "init": Entry("init", "Create a house: its catalog and the file tenantry.toml.", HOUSE),
    "doctor": Entry("doctor", "Check everything, change nothing, and say what to do about what is wrong.", HOUSE),
    "worker": Entry("house", "Finish or undo what was left open, and keep the warm pools full.", HOUSE),
    "move": Entry("move", "Move a tenant to another level or shard while it works.", HOUSE),
    "migrate": Entry("house", "Bring every space to the template's version.", HOUSE),
    "refill": Entry("house", "Build what is missing from the warm pools.", HOUSE),
    "sql": Entry("sql", "Run SQL as one tenant, inside its wall.", HOUSE),
    "version": Entry("version", "Show the versions of Tenantry and of what it stands on.", HOUSE),
    "tenant": Entry("tenant", "Tenants: create, list, show, suspend, resume, delete.", NOUNS),
    "plan": Entry("plan", "Plans: create, list, show, change, delete.", NOUNS),
    "shard": Entry("shard", "Shards: add, list, show, change, open, close.", NOUNS),
    "replica": Entry("replica", "Replicas of shards, for reads: add, list, remove.", NOUNS),
    "perimeter": Entry("perimeter", "The perimeter: plan, apply, check.", NOUNS),
    "op": Entry("op", "Operations: list, show, undo.", NOUNS),
    "key": Entry("key", "Signing keys: list, rotate.", NOUNS),
    "local": Entry("local", "A local PostgreSQL server: start, stop, status.", NOUNS),
}
"""Everything at the top level, in the order of the help."""


class Root(TyperGroup):
    """The top level. The list of commands needs no command's module; running one imports its own."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order of the help."""
        return list(ENTRIES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in that has the name and the help."""
        entry = ENTRIES.get(cmd_name)
        return entry and TyperCommand(cmd_name, help=entry.help, rich_help_panel=entry.panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command itself."""
        name = args[0]
        if name not in ENTRIES:
            close = get_close_matches(name, ENTRIES, n=1)
            ctx.fail(f"there is no command {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        return name, load(name), args[1:]


def load(name: str) -> Any:
    """A command, or the group of a noun, with everything that it imports."""
    entry = ENTRIES[name]
    command: Any = get_command(import_module(f"tenantry.cli.{entry.module}").app)
    if entry.panel == NOUNS:
        command.help = entry.help
    elif isinstance(command, TyperGroup):
        command = command.commands[name]
    command.name = name
    for each in [command, *getattr(command, "commands", {}).values()]:
        each.help = "\n\n".join(" ".join(part.split()) for part in (each.help or "").split("\n\n"))
    return command


def commands() -> Iterator[tuple[str, Any]]:
    """Every command, with the words that call it."""
    for name in ENTRIES:
        command = load(name)
        for below, each in getattr(command, "commands", {"": command}).items():
            yield f"{name} {below}".strip(), each


app = typer.Typer(name=PROGRAM, cls=Root, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback(epilog="[bold]Examples[/bold]\n$ tenantry init --local .tenantry\n$ tenantry tenant create acme")
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The settings' file, if not tenantry.toml."),
    ] = None,
) -> None:
    """Many tenants in one house, each with their own privacy."""
    if config is not None:
        os.environ["TENANTRY_CONFIG"] = config


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors are shown and not raised."""
    command: Any = get_command(app)
    log.quiet()
    if f"_{PROGRAM.upper()}_COMPLETE" in os.environ:
        return int(command.main(list(arguments), prog_name=PROGRAM, standalone_mode=False) or 0)
    flags = set(takewhile(lambda argument: argument != "--", arguments))
    try:
        with command.make_context(PROGRAM, list(arguments)) as ctx:
            command.invoke(ctx)
        return 0
    except typer.Exit as ending:
        return ending.exit_code
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help has been shown
            return failures.USAGE
        if "--debug" in flags:
            failures.show_traceback(error)
        failure = failures.explain(error)
        failure.show(json="--json" in flags, command=_command(arguments))
        return failure.exit_code


def _command(arguments: Sequence[str]) -> str:
    """The command that was meant, as far as it can be told: where an error is if it does not say so itself."""
    words = [argument for argument in arguments if not argument.startswith("-")]
    known = bool(words) and words[0] in ENTRIES
    return " ".join([PROGRAM, *words[: 1 + (ENTRIES[words[0]].panel == NOUNS) if known else 0]])
