"""SQL as text: its marks, and the statements that it is made of (PostgreSQL: Lexical Structure). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_MARK = re.compile(r"--|/\*|[eE]?'|\"|\$(?:[^\W\d]\w*)?\$|[^\W\d][\w$]*|\S")
_COMMENT = re.compile(r"/\*|\*/")
_CLOSING = {
    "'": re.compile(r"(?:[^']|'')*'"),
    "e'": re.compile(r"(?:[^'\\]|''|\\.)*'", re.DOTALL),
    '"': re.compile(r'(?:[^"]|"")*"'),
    "--": re.compile(r"[^\n]*"),
}
_NOTHING = re.compile("")

_COMMENTS = ("--", "/*")


@dataclass(frozen=True, slots=True)
class Mark:
    """A word, a sign, or the opening of a comment or of something quoted.

    ``start`` and ``end`` are offsets; what is quoted or commented out belongs to the mark. ``end`` is None where the
    text ends before the quote or the comment does; nothing follows then.
    """

    text: str
    start: int
    end: int | None

    @property
    def is_comment(self) -> bool:
        """Whether it opens a comment."""
        return self.text in _COMMENTS


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement without the semicolon and the comments around it. ``start`` is the offset where it begins, ``line``
    counts from 1."""

    text: str
    start: int
    line: int


def marks(text: str) -> Iterator[Mark]:
    """The marks of a text in order."""
    position = 0
    while match := _MARK.search(text, position):
        opening = match[0]
        end = _after_comment(text, match.end()) if opening == "/*" else _after(_closing(opening), text, match.end())
        yield Mark(opening, match.start(), end)
        if end is None:
            return
        position = end


def _closing(opening: str) -> re.Pattern[str]:
    """What stands between an opening mark and the end of what it opens."""
    if opening.startswith("$"):
        return re.compile(rf".*?{re.escape(opening)}", re.DOTALL) if len(opening) > 1 else _NOTHING
    return _CLOSING.get(opening.lower(), _NOTHING)


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


def split(text: str) -> list[Statement]:
    """The statements of a text. What has only comments is none."""
    found: list[Statement] = []
    start: int | None = None
    depth, before, last = 0, "", 0
    for mark in marks(text):
        if mark.is_comment:
            continue
        word = mark.text.lower()
        depth, before = max(0, depth + _deeper(word, before, depth)), word
        if word == ";" and not depth:
            found += _statement(text, start, last)
            start = None
        elif start is None:
            start = mark.start
        last = len(text) if mark.end is None else mark.end
    return found + _statement(text, start, last)


def _deeper(word: str, before: str, depth: int) -> int:
    """The body of a function in standard SQL, ``BEGIN ATOMIC ... END``, has semicolons of its own."""
    if not depth:
        return 1 if (before, word) == ("begin", "atomic") else 0
    return {"case": 1, "begin": 1, "end": -1}.get(word, 0)


def _statement(text: str, start: int | None, end: int) -> list[Statement]:
    if start is None:
        return []
    return [Statement(text[start:end], start, text.count("\n", 0, start) + 1)]
