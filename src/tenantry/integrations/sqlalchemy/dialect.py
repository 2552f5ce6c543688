"""SQLAlchemy's dialect for psycopg, with connections that know their tenant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import psycopg
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import (
    PGDialect_psycopg,
    PGDialectAsync_psycopg,
    PGExecutionContext_psycopg,
)
from sqlalchemy.engine import URL, Engine
from sqlalchemy.engine.default import DefaultDialect, DefaultExecutionContext
from sqlalchemy.exc import ResourceClosedError

from tenantry.errors import InvalidInput
from tenantry.integrations.sqlalchemy.pool import Record, destination, learned
from tenantry.routing.core import unreachable
from tenantry.routing.sessions import start_options
from tenantry.routing.waiting import connect, connect_async

DRIVER = "tenantry"
_REFUSED = "tenantry_refused"


class RoutedExecution(DefaultExecutionContext):
    """One execution of a statement, for any driver."""

    def create_cursor(self) -> Any:
        """A cursor, in a transaction.

        SQLAlchemy makes the cursor first and then begins by itself; but beginning may exchange the connection.
        """
        fairy: Any = self._dbapi_connection
        record = fairy._connection_record
        if isinstance(record, Record) and self.root_connection.get_transaction() is None:
            try:
                record.begin(fairy)
            except record.pool.errors as error:
                # Raised here, it would be taken for an error of the statement. SQLAlchemy begins next: see do_begin().
                fairy.__dict__[_REFUSED] = error
                return None
        return super().create_cursor()


class RoutedDialect(DefaultDialect):
    """Begins bound transactions, for any driver."""

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin and bind, if that has not been done already."""
        refused = dbapi_connection.__dict__.pop(_REFUSED, None)
        if refused is not None:
            raise refused
        record = dbapi_connection._connection_record
        if isinstance(record, Record):
            record.begin(dbapi_connection)
        elif not dbapi_connection.is_valid:
            raise ResourceClosedError("this connection was lost, and could not be replaced")

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        """As SQLAlchemy's, without AUTOCOMMIT.

        Raises:
            InvalidInput: AUTOCOMMIT.
        """
        _refuse_autocommit(level)
        super().set_isolation_level(dbapi_connection, level)

    def set_engine_execution_options(self, engine: Engine, opts: Mapping[str, Any]) -> None:
        """As SQLAlchemy's, without AUTOCOMMIT.

        Raises:
            InvalidInput: AUTOCOMMIT.
        """
        _refuse_autocommit(opts.get("isolation_level"))
        super().set_engine_execution_options(engine, opts)

    def do_execute(self, cursor: Any, statement: Any, parameters: Any, context: Any = None) -> None:
        """As SQLAlchemy's; a transaction that can't begin here begins elsewhere."""
        self._execute(super().do_execute, cursor, statement, parameters, context)

    def do_execute_no_params(self, cursor: Any, statement: Any, context: Any = None) -> None:
        """As SQLAlchemy's; a transaction that can't begin here begins elsewhere."""
        self._execute(super().do_execute_no_params, cursor, statement, context)

    def do_executemany(self, cursor: Any, statement: Any, parameters: Any, context: Any = None) -> None:
        """As SQLAlchemy's; a transaction that can't begin here begins elsewhere."""
        self._execute(super().do_executemany, cursor, statement, parameters, context)

    def _execute(self, execute: Callable[..., None], cursor: Any, *args: Any) -> None:
        try:
            execute(cursor, *args)
            return
        except Exception as error:
            context = args[-1]
            fairy = context._dbapi_connection if context is not None else None
            record = getattr(fairy, "_connection_record", None)
            if fairy is None or not isinstance(record, Record) or not record.may_begin_anew(error):
                raise
            failed = error
        with suppress(*record.pool.errors):
            cursor.close()
        record.begin(fairy, failed)
        context.cursor = context.create_cursor()
        execute(context.cursor, *args)


class TenantExecutionContext(RoutedExecution, PGExecutionContext_psycopg):
    """One execution of a statement."""


class TenantDialect(RoutedDialect, PGDialect_psycopg):
    """Connects to where the pool is going, and begins bound transactions."""

    supports_statement_cache = True
    execution_ctx_cls = TenantExecutionContext
    pooler = False

    @classmethod
    def get_async_dialect_cls(cls, url: URL) -> type[Any]:
        """The dialect for tasks."""
        return AsyncTenantDialect

    def connect(self, *args: Any, **options: Any) -> Any:
        """A connection, not bound yet.

        Raises:
            ServerUnreachable: the server does not answer.
        """
        dsn = destination().dsn
        try:
            return self._open(dsn, start_options(dsn, options, learned()))
        except psycopg.OperationalError as error:
            raise unreachable(destination(), error) from error

    def _open(self, dsn: str, options: dict[str, Any]) -> Any:
        conn = connect(dsn, **options)
        conn.prepare_bind = not self.pooler
        return conn


class AsyncTenantDialect(TenantDialect, PGDialectAsync_psycopg):
    """The same for tasks."""

    supports_statement_cache = True

    def _open(self, dsn: str, options: dict[str, Any]) -> Any:
        conn = self.loaded_dbapi.connect(dsn, async_creator_fn=connect_async, **options)
        conn.driver_connection.prepare_bind = not self.pooler
        return conn


def _refuse_autocommit(level: object) -> None:
    if level == "AUTOCOMMIT":
        raise InvalidInput(
            "the isolation level AUTOCOMMIT is not possible: a statement outside of a transaction has no tenant",
            hint="leave it out; 'with engine.begin()' commits a transaction of one statement",
        )


registry.register(f"postgresql.{DRIVER}", __name__, TenantDialect.__name__)
