"""A check of the doctor: what was looked at, how it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from tenantry.errors import TenantryError


class Status(StrEnum):
    """How a thing is. ``skipped`` says that nobody looked, and ``what`` says why."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's answer."""

    name: str
    status: Status
    what: str
    where: str | None = None
    next: str | None = None


def ok(name: str, what: str, where: str | None = None) -> Check:
    """All is well."""
    return Check(name, Status.OK, what, where)


def warning(name: str, what: str, next_step: str, where: str | None = None) -> Check:
    """It works, but."""
    return Check(name, Status.WARNING, what, where, next_step)


def failed(name: str, what: str, next_step: str, where: str | None = None) -> Check:
    """Something does not work, or a wall is open."""
    return Check(name, Status.FAILED, what, where, next_step)


def skipped(because: str, *names: str) -> list[Check]:
    """Nobody could look."""
    return [Check(name, Status.SKIPPED, because) for name in names]


def failure(name: str, error: Exception) -> Check:
    """What an error means for a check."""
    if isinstance(error, TenantryError):
        return Check(name, Status.FAILED, error.message, error.where, error.hint)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return failed(name, lines[0], "mend that, and run the doctor again")


def counted(number: int, noun: str) -> str:
    """``1 schema``, ``2 schemas``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


async def attempt(name: str, look: Awaitable[Iterable[Check]]) -> list[Check]:
    """The checks that a look yields; one that failed if it could not be done."""
    try:
        return list(await look)
    except Exception as error:  # also what an application's own template raises
        return [failure(name, error)]
