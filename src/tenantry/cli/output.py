"""The two forms of output: text for people, JSON for programs.

Results go to standard output, all else to standard error.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from rich.cells import cell_len

if TYPE_CHECKING:
    from rich.console import Console

_PATIENCE = 1.0
"""Seconds after which somebody at a terminal is told what takes so long."""

_MEASURED = 500
"""Rows of a streamed table that decide its widths."""


def printable(text: object) -> str:
    """One line without characters that would steer a terminal: they are escaped, line breaks too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def to_json(value: object, *, indent: int | None = None) -> str:
    """JSON of our data: dates in ISO 8601, everything else that JSON does not know as text."""
    return json.dumps(value, ensure_ascii=False, indent=indent, default=_plain)


def _plain(value: Any) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def console(*, err: bool = False) -> Console:
    """Rich's console for standard output or standard error; it knows about terminals and NO_COLOR."""
    from rich.console import Console

    return Console(stderr=err, highlight=False, soft_wrap=True)


def write(text: str = "", *, style: str = "", err: bool = False, end: str = "\n") -> None:
    """Write text that is already fit for a terminal, styled if one reads it."""
    stream = sys.stderr if err else sys.stdout
    if style and stream.isatty():
        from rich.text import Text

        console(err=err).print(Text(text, style=style), end=end)
    else:
        print(text, file=stream, end=end, flush=not end)


def warn(what: str, *, where: str | None = None, next_step: str | None = None) -> None:
    """A warning on standard error, in the form of an error."""
    write(f"warning: {printable(what)}", style="yellow", err=True)
    for line in details(where, next_step):
        write(line, err=True)


def details(where: str | None, next_step: str | None) -> Iterator[str]:
    """The lines below an error, a warning or a finding: where it is, and what to do next."""
    for name, text in (("where", where), ("next", next_step)):
        head = f"  {name}:".ljust(10)
        for line in (text or "").splitlines():
            yield head + printable(line)
            head = " " * 10


class Output:
    """How one command answers.

    Args:
        as_json: as JSON.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, data: object, text: str | Iterable[str]) -> None:
        """One JSON document, or lines of text."""
        if self.as_json:
            write(to_json(data, indent=2))
            return
        for line in text.splitlines() if isinstance(text, str) else text:
            write(line)

    def table(self, data: object, headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """One JSON document, or a table."""
        if self.as_json:
            write(to_json(data, indent=2))
            return
        with Table(headers) as table:
            for row in rows:
                table.add(*row)


class Table:
    """A table that is streamed: its first rows decide how wide the columns are. Use it in a ``with``."""

    def __init__(self, headers: Sequence[str]) -> None:
        self._waiting = [list(headers)]
        self._widths: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._flush()

    def add(self, *values: object) -> None:
        """One row; None is an empty cell."""
        self._waiting.append(["" if value is None else printable(value) for value in values])
        if self._widths or len(self._waiting) > _MEASURED:
            self._flush()

    def _flush(self) -> None:
        is_head = not self._widths
        self._widths = self._widths or [max(map(cell_len, column)) for column in zip(*self._waiting, strict=True)]
        for row in self._waiting:
            cells = (text + " " * (width - cell_len(text)) for text, width in zip(row, self._widths, strict=True))
            write("  ".join(cells).rstrip(), style="bold" if is_head else "")
            is_head = False
        self._waiting = []


def record(title: str, fields: Mapping[str, object]) -> Iterator[str]:
    """The lines of one thing: its title, then a name and a value a line."""
    yield printable(title)
    width = max(map(len, fields)) + 2
    for name, value in fields.items():
        yield f"  {name.ljust(width)}{'' if value is None else printable(value)}".rstrip()


@contextmanager
def busy(text: str) -> Iterator[Callable[[str], None]]:
    """Show at a terminal what is being done, once it has taken longer than a second; yields a way to say more of it."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.text import Text

    status = console(err=True).status(Text(printable(text)))
    timer = threading.Timer(_PATIENCE, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda more: status.update(Text(f"{printable(text)} {printable(more)}"))
    finally:
        timer.cancel()
        timer.join()
        status.stop()


@contextmanager
def progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar at a terminal; yields a way to say how much is done, and of how much."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich import progress as bars

    columns = (bars.TextColumn("{task.description}", markup=False), bars.BarColumn(), bars.MofNCompleteColumn())
    with bars.Progress(*columns, bars.TimeRemainingColumn(), console=console(err=True), transient=True) as bar:
        task = bar.add_task(printable(text), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
