"""SQLAlchemy's dialect for psycopg, with connections that know their tenant."""

from __future__ import annotations

from typing import Any

import psycopg
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg, PGDialectAsync_psycopg
from sqlalchemy.engine import URL
from sqlalchemy.exc import ResourceClosedError

from tenantry.errors import InvalidInput
from tenantry.integrations.sqlalchemy.pool import Record, destination
from tenantry.perimeter.connection import AsyncBoundConnection, BoundConnection
from tenantry.routing.core import unreachable

DRIVER = "tenantry"


class TenantDialect(PGDialect_psycopg):
    """Connects to where the pool is going, and begins bound transactions."""

    supports_statement_cache = True
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
        try:
            return self._open(destination().dsn, options)
        except psycopg.OperationalError as error:
            raise unreachable(destination(), error) from error

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin and bind."""
        record = dbapi_connection._connection_record
        if isinstance(record, Record):
            record.pool.begin(dbapi_connection, record)
        elif not dbapi_connection.is_valid:
            raise ResourceClosedError("this connection was lost, and could not be replaced")

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        """As psycopg's, without AUTOCOMMIT.

        Raises:
            InvalidInput: AUTOCOMMIT.
        """
        if level == "AUTOCOMMIT":
            raise InvalidInput(
                "the isolation level AUTOCOMMIT is not possible: a statement outside of a transaction has no tenant",
                hint="leave it out; 'with engine.begin()' commits a transaction of one statement",
            )
        super().set_isolation_level(dbapi_connection, level)  # type: ignore[no-untyped-call]

    def _open(self, dsn: str, options: dict[str, Any]) -> Any:
        conn = BoundConnection.connect(dsn, **options)
        conn.prepare_bind = not self.pooler
        return conn


class AsyncTenantDialect(TenantDialect, PGDialectAsync_psycopg):
    """The same for tasks."""

    supports_statement_cache = True

    def _open(self, dsn: str, options: dict[str, Any]) -> Any:
        conn = self.loaded_dbapi.connect(dsn, async_creator_fn=AsyncBoundConnection.connect, **options)
        conn.driver_connection.prepare_bind = not self.pooler
        return conn


registry.register(f"postgresql.{DRIVER}", __name__, TenantDialect.__name__)
