"""Sessions of ``tenantry sql``: one tenant's, through the library's router, or an operator's with all tenants."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, Self

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.pq import TransactionStatus

from tenantry.cli import sql_text
from tenantry.cli.failures import Failed, Failure, code_of, is_lost
from tenantry.cli.output import write
from tenantry.model import Mode, Tenant
from tenantry.perimeter.connection import translate
from tenantry.routing.router import Router
from tenantry.service.access import all_tenants
from tenantry.service.control import Control

_INTEGERS = (20, 21, 23, 26)
_FLOATS = (700, 701)
_BOOL = 16
_JSON = (114, 3802)


@dataclass(frozen=True, slots=True)
class Result:
    """What one statement has answered; values are as PostgreSQL writes them, None for NULL."""

    status: str
    columns: tuple[str, ...]
    types: tuple[int, ...]
    rows: tuple[tuple[str | None, ...], ...]

    def as_objects(self) -> list[dict[str, Any]]:
        """The rows for JSON; a name that comes again gets a number."""
        names: list[str] = []
        for name in self.columns:
            again = sum(each == name or each.startswith(f"{name}_") for each in names) if name in names else 0
            names.append(f"{name}_{again + 1}" if again else name)
        return [dict(zip(names, map(_value, row, self.types), strict=True)) for row in self.rows]


def _value(text: str | None, kind: int) -> Any:
    """A value as JSON has it; what would lose digits stays a text."""
    if text is None:
        return None
    if kind in _INTEGERS:
        return int(text)
    if kind in _FLOATS:
        number = float(text)
        return number if math.isfinite(number) else text
    if kind == _BOOL:
        return text == "t"
    return json.loads(text) if kind in _JSON else text


class Session(Protocol):
    """Runs SQL, each text in a transaction of its own unless one is open."""

    @property
    def prompt(self) -> str:
        """Who one is, for the prompt."""
        ...

    def run(self, text: str) -> list[Result]:
        """Run one text, which may hold several statements.

        Raises:
            Failed: the server refuses it.
        """
        ...


class TenantSession:
    """SQL of one tenant, as the application's role and inside the tenant's wall.

    Args:
        router: the library's.
        slug: of the tenant.
        mode: ``ro`` to refuse writes.
    """

    def __init__(self, router: Router, slug: str, mode: Mode) -> None:
        self._router = router
        self._tenant: Tenant = router.find(slug)
        self._mode = mode
        self._open: ExitStack | None = None
        self._conn: Connection[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._end(commit=False)

    @property
    def prompt(self) -> str:
        """The slug, with what is special about this moment."""
        return f"{self._tenant.slug}{' (read-only)' if self._mode is Mode.READ_ONLY else ''}{'*' if self._open else ''}"

    def run(self, text: str) -> list[Result]:
        """As :meth:`Session.run`. ``BEGIN`` opens a transaction that is bound as well."""
        ending = sql_text.ends(text)
        if ending is not None and self._open is not None:
            return [_said(self._end(commit=ending == "commit"))]
        if sql_text.begins(text) and self._open is None:
            self._begin()
            return [_said("BEGIN")]
        if self._conn is not None:
            return _execute(self._conn, text)
        with self._router.transaction(self._tenant, mode=self._mode) as conn:
            return _execute(conn, text)

    def _begin(self) -> None:
        with ExitStack() as stack:
            self._conn = stack.enter_context(self._router.transaction(self._tenant, mode=self._mode))
            self._open = stack.pop_all()

    def _end(self, *, commit: bool) -> str:
        stack, conn = self._open, self._conn
        self._open = self._conn = None
        if stack is None or conn is None:
            return "ROLLBACK"
        if commit and conn.info.transaction_status != TransactionStatus.INERROR:
            stack.close()
            return "COMMIT"
        stack.__exit__(psycopg.Rollback, psycopg.Rollback(), None)
        return "ROLLBACK"


class AllTenantsSession:
    """SQL of an operator, to whom row security does not apply; on record with its reason.

    Args:
        shard: whose tenants.
        database: None: the shard's pooled one.
        reason: why.
        write: may change rows.
    """

    def __init__(self, shard: str, database: str | None, *, reason: str, write: bool) -> None:
        self._shard, self._database = shard, database
        self._reason = reason
        self._write = write
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._conn: AsyncConnection[Any] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self._close)
            self._conn = self._runner.run(self._connect())
            undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def _close(self) -> None:
        with self._runner:
            self._runner.run(self._stack.aclose())

    async def _connect(self) -> AsyncConnection[Any]:
        control = await self._stack.enter_async_context(Control())
        access = all_tenants(control, self._shard, self._database, reason=self._reason, write=self._write)
        return await self._stack.enter_async_context(access)

    @property
    def prompt(self) -> str:
        """The shard, and that everybody's rows are open here."""
        return f"ALL TENANTS of {self._shard}{'' if self._write else ' (read-only)'}"

    def run(self, text: str) -> list[Result]:
        """As :meth:`Session.run`."""
        return self._runner.run(self._execute(text))

    async def _execute(self, text: str) -> list[Result]:
        assert self._conn is not None, "the session is not open"
        try:
            return list(_results(await self._conn.execute(_bytes(text))))
        except psycopg.Error as error:
            raise Failed(explained(error, text)) from error


def _execute(conn: Connection[Any], text: str) -> list[Result]:
    conn.add_notice_handler(_tell)
    try:
        return list(_results(conn.execute(_bytes(text), prepare=False)))
    except psycopg.Error as error:
        raise Failed(explained(error, text)) from error
    finally:
        conn.remove_notice_handler(_tell)


def _bytes(text: str) -> bytes:
    """What came as bytes that are not UTF-8 goes to the server as it came; the server says what it thinks of it."""
    return text.encode("utf-8", "surrogateescape")


def _tell(notice: psycopg.errors.Diagnostic) -> None:
    write(f"{(notice.severity or 'notice').lower()}: {notice.message_primary}", err=True)


def _results(cursor: Any) -> Iterator[Result]:
    more = True
    while more:
        found = cursor.pgresult
        columns = range(found.nfields)
        yield Result(
            (found.command_status or b"").decode(),
            tuple(found.fname(column).decode() for column in columns),
            tuple(found.ftype(column) for column in columns),
            tuple(tuple(_text(found.get_value(row, column)) for column in columns) for row in range(found.ntuples)),
        )
        more = cursor.nextset()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def _said(status: str) -> Result:
    return Result(status, (), (), ())


def explained(error: psycopg.Error, text: str) -> Failure:
    """The server's message, with the place in the statement."""
    meaning = translate(error)
    position = error.diag.statement_position
    where = sql_text.pointed(text, int(position)) if position and position.isdigit() else None
    lines = [error.diag.message_primary or str(error).strip().splitlines()[0], error.diag.message_detail]
    hint = error.diag.message_hint or getattr(meaning, "hint", None)
    message = "\n".join(line for line in lines if line)
    return Failure(code_of(error), message, where, hint, 5 if is_lost(error) else 1)
