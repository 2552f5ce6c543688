"""What a look at the tenants has found, as people read it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Leak:
    """Something of one tenant that another could see or change.

    Args:
        place: a table, a view, a function, or what the test has given.
        what: who could do what.
        why: what is wrong with the place, if that is known.
        fix: what to do.
    """

    place: str
    what: str
    why: str | None = None
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Unchecked:
    """Something that could not be looked at, and why."""

    place: str
    why: str


@dataclass
class Report:
    """The result of a look. It is true if nothing was found and everything was looked at."""

    leaks: list[Leak] = field(default_factory=list)
    unchecked: list[Unchecked] = field(default_factory=list)
    looked_at: Counter[str] = field(default_factory=Counter)
    attempts: int = 0

    def __bool__(self) -> bool:
        return not self.leaks and not self.unchecked

    def without(self, allowed: Iterable[str]) -> list[Unchecked]:
        """What could not be looked at, apart from what is allowed. A name matches with or without its schema."""
        names = set(allowed)
        return [each for each in self.unchecked if not names & {each.place, each.place.rpartition(".")[2]}]

    def text(self, who: str, allowed: Iterable[str] = ()) -> str:
        """The report.

        Args:
            who: between whom was looked.
            allowed: what need not be looked at.
        """
        unchecked = self.without(allowed)
        lines = []
        if self.leaks:
            lines += [f"{counted(len(self.leaks), 'leak')} {who}", "", *_leaks(self.leaks)]
        if unchecked:
            lines += [f"{counted(len(unchecked), 'place')} {who} could not be looked at", ""]
            lines += [f"  {each.place}: {each.why}" for each in unchecked]
            names = ", ".join(sorted({repr(each.place.rpartition(".")[2]) for each in unchecked}))
            lines += [f"  do: give both tenants a row there first, or say that it is meant: allow=[{names}]", ""]
        looked = ", ".join(counted(count, kind) for kind, count in sorted(self.looked_at.items()) if count)
        return "\n".join([*lines, f"looked at {looked or 'nothing'}, in {self.attempts:,} attempts"])


def _leaks(leaks: list[Leak]) -> Iterable[str]:
    for leak in leaks[:_SHOWN]:
        yield f"  {leak.place}: {leak.what}"
        if leak.why:
            yield f"    why: {leak.why}"
        if leak.fix:
            yield f"    do: {leak.fix}"
    if len(leaks) > _SHOWN:
        yield f"  and {len(leaks) - _SHOWN:,} more"
    yield ""


def counted(count: int, word: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
