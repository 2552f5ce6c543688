"""psycopg connections that bind each transaction to a tenant as they begin it.

``BEGIN`` and the binding travel together, in one libpq pipeline, so a bound transaction costs no more round trips than
a bare one. The token is a bind parameter and never part of a statement's text.

psycopg begins every transaction of its own (implicit ones, ``connection.transaction()``, two-phase) through
``_exec_command``; that is the one method replaced here. A ``BEGIN`` that the application sends as SQL binds nothing,
and the database refuses what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection, Connection, generators, pq
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

from tenantry.errors import (
    BindingRefused,
    CrossedTenants,
    DirtyBackend,
    PerimeterError,
    TenantMoved,
    TenantryError,
    TenantSuspended,
)

if TYPE_CHECKING:
    from psycopg._connection_base import BaseConnection

    _Base = BaseConnection[Any]
else:
    _Base = object

BIND = b"SELECT tenantry.bind_v1($1)"
_BIND_NAME = b"_tenantry_bind"

_IDLE = pq.TransactionStatus.IDLE
_FATAL = pq.ExecStatus.FATAL_ERROR
_PIPELINE_SYNC = pq.ExecStatus.PIPELINE_SYNC

_SQLSTATE = pq.DiagnosticField.SQLSTATE
_DUPLICATE = b"42P05"
_PREPARED_OTHERWISE = (b"26000", _DUPLICATE)

_MEANING: dict[str, type[TenantryError]] = {
    "42501": BindingRefused,
    "25001": CrossedTenants,
    "TN001": TenantMoved,
    "TN002": TenantSuspended,
    "TN003": DirtyBackend,
}

Mint = Callable[[int], str]
"""Makes a token, given the backend's process id."""

Guard = Callable[[], None]
"""Raises :class:`CrossedTenants` when the caller's scope is not the one that the connection was taken for."""


class BoundConnectionMixin(_Base):
    """What the sync and the async connection share. It does no I/O of its own."""

    _mint: Mint | None = None
    _guard: Guard | None = None
    _bind_prepared = False
    prepare_bind = True

    def bind_to(self, mint: Mint, guard: Guard | None = None) -> None:
        """Bind the transactions that follow.

        Args:
            mint: makes the token for each transaction.
            guard: is called before each statement.
        """
        self._mint = mint
        self._guard = guard

    def unbind(self) -> None:
        """Bind no more; what begins now is bound to nobody."""
        self._mint = self._guard = None

    def _start_query(self) -> PQGen[None]:
        if self._guard is not None:
            self._guard()
        yield from super()._start_query()

    def _exec_command(self, command: Any, result_format: pq.Format = pq.Format.TEXT) -> PQGen[Any]:
        if self._mint is not None and isinstance(command, bytes) and command.startswith(b"BEGIN"):
            if self._guard is not None:
                self._guard()
            return (yield from self._begin_bound(command))
        return (yield from super()._exec_command(command, result_format))

    def _get_tx_start_command(self) -> bytes:
        command = super()._get_tx_start_command()
        # A default_transaction_read_only that injected SQL has left behind can't be undone from inside.
        return command if self.read_only is not None else command + b" READ WRITE"

    def _begin_bound(self, begin: bytes) -> PQGen[None]:
        assert self._mint is not None
        self._check_connection_ok()
        token = self._mint(self.pgconn.backend_pid).encode()
        if self._pipeline is not None:
            yield from self._queue_bound(begin, token)
            return
        failed = yield from self._send_bound(begin, token)
        if failed is not None and failed.error_field(_SQLSTATE) in _PREPARED_OTHERWISE:
            # The statement was dropped behind our back (DEALLOCATE ALL), or is there from a failed attempt.
            self._bind_prepared = failed.error_field(_SQLSTATE) == _DUPLICATE
            yield from self._rollback_begun()
            failed = yield from self._send_bound(begin, token)
        if failed is not None:
            yield from self._rollback_begun()
            error = psycopg.errors.error_from_result(failed, encoding=self.pgconn._encoding)
            raise translate(error) from error
        self._bind_prepared = self.prepare_bind

    def _send_bound(self, begin: bytes, token: bytes) -> PQGen[Any]:
        """Send both in one message; return the first result that failed, or None."""
        pgconn = self.pgconn
        pgconn.enter_pipeline_mode()
        try:
            pgconn.send_query_params(begin, None)
            if not self.prepare_bind:
                pgconn.send_query_params(BIND, [token])
            else:
                if not self._bind_prepared:
                    pgconn.send_prepare(_BIND_NAME, BIND)
                pgconn.send_query_prepared(_BIND_NAME, [token])
            pgconn.pipeline_sync()
            yield from generators.send(pgconn)
            return (yield from _first_failure(pgconn))
        finally:
            if pgconn.status == pq.ConnStatus.OK:
                pgconn.exit_pipeline_mode()

    def _rollback_begun(self) -> PQGen[None]:
        if self.pgconn.transaction_status != _IDLE:
            yield from super()._exec_command(b"ROLLBACK")

    def _queue_bound(self, begin: bytes, token: bytes) -> PQGen[None]:
        """Inside ``connection.pipeline()``: psycopg sends and reads; errors appear at its next synchronisation."""
        pipeline = self._pipeline
        assert pipeline is not None
        pipeline.command_queue.append(partial(self.pgconn.send_query_params, begin, None))
        pipeline.command_queue.append(partial(self.pgconn.send_query_params, BIND, [token]))
        pipeline.result_queue.extend((None, None))
        yield from pipeline._communicate_gen()


def _first_failure(pgconn: Any) -> PQGen[Any]:
    """Read the results up to the synchronisation point; return the first that failed."""
    failed = None
    while True:
        result = yield from generators.fetch(pgconn)
        if result is None:
            if pgconn.status != pq.ConnStatus.OK:
                raise psycopg.OperationalError("the connection was lost while the transaction began")
            continue
        if result.status == _PIPELINE_SYNC:
            return failed
        if result.status == _FATAL and failed is None:
            failed = result


def translate(error: psycopg.Error) -> Exception:
    """What an error of the binder means, as one of ours; any other error as it is."""
    meaning = _MEANING.get(error.sqlstate or "")
    text = error.diag.message_primary or ""
    if meaning is None or not text.startswith("tenantry: "):
        return error
    return meaning(text.removeprefix("tenantry: "))


def is_fatal(error: BaseException) -> bool:
    """Whether the connection that raised this must not be used again."""
    return isinstance(error, DirtyBackend) or (
        isinstance(error, PerimeterError) and not isinstance(error, (BindingRefused, CrossedTenants))
    )


class BoundConnection(BoundConnectionMixin, Connection[TupleRow]):
    """A sync psycopg connection whose transactions are bound to a tenant."""


class AsyncBoundConnection(BoundConnectionMixin, AsyncConnection[TupleRow]):
    """An async psycopg connection whose transactions are bound to a tenant."""
