"""What Tenantry and its drivers log, on standard error."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from tenantry.cli.output import printable, to_json, write


class _Lines(logging.Handler):
    """A line for people: a warning like any other, or in a worker's log one with its time."""

    def __init__(self, with_time: bool) -> None:
        super().__init__()
        self._with_time = with_time

    def emit(self, record: logging.LogRecord) -> None:
        level, text = record.levelname.lower(), printable(record.getMessage())
        write(f"{_time(record)} {level:7} {text}" if self._with_time else f"{level}: {text}", err=True)


class _JsonLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        form = {"at": _time(record), "level": record.levelname.lower(), "message": record.getMessage()}
        write(to_json(form), err=True)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def quiet() -> None:
    """A command says its errors itself; of what is logged only Tenantry's own warnings are shown."""
    _set("tenantry", _Lines(with_time=False), logging.WARNING)
    _set("psycopg", logging.NullHandler(), logging.WARNING)


def journal(*, as_json: bool) -> None:
    """All that is logged, with its time: for a worker."""
    handler = _JsonLines() if as_json else _Lines(with_time=True)
    _set("tenantry", handler, logging.INFO)
    _set("psycopg", handler, logging.ERROR)


def _set(name: str, handler: logging.Handler, level: int) -> None:
    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)
