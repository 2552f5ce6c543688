"""SQL as text: where a statement ends, and where in it an error is. Pure."""

from __future__ import annotations

import re

_SPECIAL = re.compile(r"--|/\*|[eE]?'|\"|\$(?:[^\W\d]\w*)?\$|;|\S")
_COMMENT = re.compile(r"/\*|\*/")
_CLOSING = {
    "'": re.compile(r"(?:[^']|'')*'"),
    "e'": re.compile(r"(?:[^'\\]|''|\\.)*'", re.DOTALL),
    '"': re.compile(r'(?:[^"]|"")*"'),
    "--": re.compile(r"[^\n]*"),
}
_NOTHING = re.compile("")
_BEGIN = re.compile(r"\s*(?:begin(?:\s+(?:work|transaction))?|start\s+transaction)\s*;?\s*", re.IGNORECASE)
_END = re.compile(r"\s*(?:commit|end|rollback|abort)(?:\s+(?:work|transaction))?\s*;?\s*", re.IGNORECASE)

_AROUND = 60


def is_complete(text: str) -> bool:
    """Whether text ends with a ``;`` that is outside of quotes and comments (PostgreSQL: Lexical Structure).

    Nothing but white space and comments is not complete.
    """
    position, ended = 0, False
    while match := _SPECIAL.search(text, position):
        mark = match[0]
        end = _after_comment(text, match.end()) if mark == "/*" else _after(_closing(mark), text, match.end())
        if end is None:
            return False
        position = end
        if mark not in ("--", "/*"):
            ended = mark == ";"
    return ended


def _closing(mark: str) -> re.Pattern[str]:
    """What stands between an opening mark and the end of what it opens."""
    if mark.startswith("$"):
        return re.compile(rf".*?{re.escape(mark)}", re.DOTALL)
    return _CLOSING.get(mark.lower(), _NOTHING)


def _after(pattern: re.Pattern[str], text: str, position: int) -> int | None:
    match = pattern.match(text, position)
    return match.end() if match else None


def _after_comment(text: str, position: int) -> int | None:
    """Behind the comment, which may hold others."""
    depth = 1
    while depth:
        match = _COMMENT.search(text, position)
        if match is None:
            return None
        depth += 1 if match[0] == "/*" else -1
        position = match.end()
    return position


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
