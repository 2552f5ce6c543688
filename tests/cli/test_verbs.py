"""A verb of the services is a command, and a command is a verb of the services (DESIGN.md, law 8)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module

import pytest

from tenantry.cli.app import commands

COMMANDS = dict(commands())
NOUNS = ("tenant", "plan", "shard", "replica", "perimeter", "op", "key", "local")

NAMES = {"open_": "open", "listing": "list", "iterate": "list"}
"""Functions whose verb is a word of Python, or of two kinds."""

COMMAND_OF: Mapping[str, str] = {
    "house.init": "init",
    "house.migrate": "migrate",
    "move.move": "move",
    "house.refill": "refill",
    "house.work": "worker",
    "doctor.examine": "doctor",
    "access.all_tenants": "sql",
    "onboard.onboard": "tenant create",
}
"""Functions whose command has another name."""

WITHOUT_COMMAND: Mapping[str, str] = {
    "doctor.examine_shard": "a part of examine, for a shard that has just been added",
    "doctor.judge_key": "a decision of examine",
    "doctor.judge_logging": "a decision of examine",
    "doctor.judge_migrations": "a decision of examine",
    "house.behind": "what 'migrate' brings up to date, and the doctor counts",
    "house.create_database": "a part of 'init'",
    "house.missing_homes": "what 'refill' builds, and the doctor counts",
    "house.renew_login": "'init --new-password'",
    "key.renew": "'worker' does it in time",
    "shard.can_seal": "a question of 'shard add' and the doctor",
    "tenant.create_many": "the batches of 'tenant create --from-file'",
}
"""Functions that no command runs by itself, each with the reason."""

WITHOUT_FUNCTION: Mapping[str, str] = {
    "version": "it is about the installation, not about a house",
}
"""Commands that run no function of a service, each with the reason."""


def functions() -> Iterator[str]:
    for name in (*NOUNS, "house", "move", "doctor", "access", "onboard"):
        module = import_module(f"tenantry.service.{name}")
        for each, value in inspect.getmembers(module, inspect.isfunction):
            own = value.__module__ == module.__name__ and not each.startswith(("_", "parse_"))
            if own:
                yield f"{name}.{each}"


def command_of(function: str) -> str:
    noun, _, name = function.partition(".")
    return COMMAND_OF.get(function, f"{noun} {NAMES.get(name, name)}")


@pytest.mark.parametrize("function", list(functions()))
def test_a_verb_of_the_services_is_a_command_or_says_why_not(function: str) -> None:
    assert (command_of(function) in COMMANDS) is (function not in WITHOUT_COMMAND)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_command_is_a_verb_of_the_services_or_says_why_not(command: str) -> None:
    verbs = {command_of(function) for function in functions()}
    assert (command in verbs) is (command not in WITHOUT_FUNCTION)


def test_no_reason_is_given_for_what_is_not_there() -> None:
    known = set(functions())
    assert {*COMMAND_OF, *WITHOUT_COMMAND} - known == set()
    assert set(WITHOUT_FUNCTION) - set(COMMANDS) == set()
