"""SQL as text: where a statement ends, and where in it an error is. Pure."""

from __future__ import annotations

import re

from tenantry.postgres.statements import marks

_BEGIN = re.compile(r"\s*(?:begin(?:\s+(?:work|transaction))?|start\s+transaction)\s*;?\s*", re.IGNORECASE)
_END = re.compile(r"\s*(?:commit|end|rollback|abort)(?:\s+(?:work|transaction))?\s*;?\s*", re.IGNORECASE)

_AROUND = 60


def is_complete(text: str) -> bool:
    """Whether text ends with a ``;`` that is outside of quotes and comments (PostgreSQL: Lexical Structure).

    Nothing but white space and comments is not complete.
    """
    ended = False
    for mark in marks(text):
        if mark.end is None:
            return False
        if not mark.is_comment:
            ended = mark.text == ";"
    return ended


def begins(text: str) -> bool:
    """Whether it is a plain ``BEGIN``."""
    return _BEGIN.fullmatch(text) is not None


def ends(text: str) -> str | None:
    """``commit`` or ``rollback`` if it is one of them in a plain form."""
    if _END.fullmatch(text) is None:
        return None
    return "commit" if text.split()[0].lower().rstrip(";") in ("commit", "end") else "rollback"


def pointed(text: str, position: int) -> str:
    """Where in a statement its 1-based ``position`` is: line and column, the line, a mark below it."""
    before = text[: position - 1]
    line, column = before.count("\n") + 1, position - 1 - (before.rfind("\n") + 1)
    source = text.split("\n")[line - 1]
    start = max(0, column - _AROUND)
    shown = "".join(c if c.isprintable() else " " for c in source[start : column + _AROUND])
    return f"line {line}, column {column + 1}\n{shown}\n{' ' * (column - start)}^"
