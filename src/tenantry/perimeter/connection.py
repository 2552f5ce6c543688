"""psycopg connections that bind each transaction to a tenant as they begin it.

``BEGIN`` and the binding travel together, in one libpq pipeline, so a bound transaction costs no more round trips than
a bare one. The token is a bind parameter and never part of a statement's text.

psycopg begins every transaction of its own (implicit ones, ``connection.transaction()``, two-phase) through
``_exec_command``; that is the one method replaced here. A ``BEGIN`` that the application sends as SQL binds nothing,
and the database refuses what follows.
"""

from __future__ import annotations

import secrets
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
_NAMES_ARE_OPEN = b"SELECT pg_catalog.has_function_privilege('pg_catalog.pg_prepared_statement()', 'EXECUTE')"

_IDLE = pq.TransactionStatus.IDLE
_FATAL = pq.ExecStatus.FATAL_ERROR
_PIPELINE_SYNC = pq.ExecStatus.PIPELINE_SYNC
_SQLSTATE = pq.DiagnosticField.SQLSTATE
_NO_SUCH_STATEMENT = b"26000"
_OPENNESS = 2  # the place of the answer among the results: BEGIN, the statement, the answer, the binding

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
    _bind_name: bytes | None = None
    prepare_bind = True
    """Whether the binding is a prepared statement. Behind a pooler it must not be one: the pooler may hand the
    transaction to a backend that does not have it, or have one of a name that can be guessed. Where SQL can look names
    up (a wall that no superuser made), the connection finds out by itself."""

    def bind_to(self, mint: Mint, guard: Guard | None = None) -> None:
        """Bind the transactions that follow.

        Args:
            mint: makes the token for each transaction.
            guard: is called before each statement.

        Raises:
            CrossedTenants: a transaction is open; its statements would still belong to the tenant that it is bound to.
        """
        if self.pgconn.status == pq.ConnStatus.OK and self.pgconn.transaction_status != _IDLE:
            raise CrossedTenants(
                "a connection was bound anew while its transaction is open", hint="commit or roll back first"
            )
        self._mint = mint
        self._guard = guard

    def unbind(self) -> None:
        """Bind no more; what begins now is bound to nobody."""
        self._mint = self._guard = None

    def _start_query(self) -> PQGen[None]:
        if self._guard is not None:
            self._guard()
        if self._mint is None or self._pipeline is None:
            yield from super()._start_query()
        elif not self._autocommit and self.pgconn.transaction_status == _IDLE:
            # As psycopg, without its synchronisation: _queue_bound has done that.
            yield from self._exec_command(self._get_tx_start_command())

    def _exec_command(self, command: Any, result_format: pq.Format = pq.Format.TEXT) -> PQGen[Any]:
        if self._mint is not None and isinstance(command, bytes) and command.startswith(b"BEGIN"):
            if self._guard is not None:
                self._guard()
            return (yield from self._begin_bound(command))
        return (yield from super()._exec_command(command, result_format))

    def _deallocate(self, name: bytes | None) -> PQGen[None]:
        if name is None:  # psycopg drops all prepared statements after a rollback, ours with them
            self._bind_name = None
        yield from super()._deallocate(name)

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
        if failed is not None and failed.error_field(_SQLSTATE) == _NO_SUCH_STATEMENT:
            # SQL has dropped the prepared statements behind our back: psycopg's are gone as well.
            yield from super()._exec_command(b"ROLLBACK")
            self._prepared.clear()
            yield from self._prepared.maintain_gen(self)
            self._bind_name = None
            failed = yield from self._send_bound(begin, token)
        if failed is not None:
            yield from self._refuse(failed)

    def _send_bound(self, begin: bytes, token: bytes) -> PQGen[Any]:
        """Begin and bind in one round trip; return what failed, or None."""
        pgconn, name = self.pgconn, self._bind_name
        pgconn.enter_pipeline_mode()
        try:
            pgconn.send_query_params(begin, None)
            if not self.prepare_bind:
                pgconn.send_query_params(BIND, [token])
            elif name is not None:
                pgconn.send_query_prepared(name, [token])
            else:
                name = self._send_prepared(token)
            pgconn.pipeline_sync()
            yield from generators.send(pgconn)
            done, failed = yield from _read_to_sync(pgconn)
            pgconn.exit_pipeline_mode()
        except BaseException:
            # Nobody can tell whether it is bound, and to whom: interrupted, abandoned, or the server is gone.
            pgconn.finish()
            raise
        if self.prepare_bind and self._bind_name is None:
            self._note_prepared(name, done)
        return failed

    def _send_prepared(self, token: bytes) -> bytes:
        """Prepare the binding, use it, and ask whether SQL can find out its name."""
        # SQL that knows the name can put a statement of its own in this place, and collect tokens.
        name = b"_tenantry_" + secrets.token_hex(16).encode()
        self.pgconn.send_prepare(name, BIND)
        self.pgconn.send_query_params(_NAMES_ARE_OPEN, None)
        self.pgconn.send_query_prepared(name, [token])
        return name

    def _note_prepared(self, name: bytes | None, done: list[Any]) -> None:
        if len(done) > _OPENNESS and done[_OPENNESS].get_value(0, 0) == b"t":
            self.prepare_bind = False
        elif len(done) > _OPENNESS:
            self._bind_name = name

    def _queue_bound(self, begin: bytes, token: bytes) -> PQGen[None]:
        """Inside ``connection.pipeline()``: psycopg sends and reads."""
        pipeline = self._pipeline
        assert pipeline is not None
        pipeline.command_queue.append(partial(self.pgconn.send_query_params, begin, None))
        pipeline.command_queue.append(partial(self.pgconn.send_query_params, BIND, [token]))
        pipeline.result_queue.extend((None, None))
        try:
            yield from pipeline._sync_gen()
        except psycopg.Error as error:
            if self.pgconn.transaction_status != _IDLE:
                yield from super()._exec_command(b"ROLLBACK")
                yield from pipeline._sync_gen()
            raise self._explain(error) from error

    def _refuse(self, failed: Any) -> PQGen[None]:
        error = psycopg.errors.error_from_result(failed, encoding=self.pgconn._encoding)
        if self.pgconn.transaction_status != _IDLE:
            yield from super()._exec_command(b"ROLLBACK")
        raise self._explain(error) from error

    def _explain(self, error: psycopg.Error) -> Exception:
        meaning = translate(error)
        if isinstance(meaning, DirtyBackend):
            self.pgconn.finish()
        return meaning


def _read_to_sync(pgconn: Any) -> PQGen[tuple[list[Any], Any]]:
    """Read the results up to the synchronisation point; return the good ones, and the first that failed."""
    done: list[Any] = []
    failed = None
    while True:
        result = yield from generators.fetch(pgconn)
        if result is None:
            if pgconn.status != pq.ConnStatus.OK:
                raise psycopg.OperationalError("the connection was lost while the transaction began")
        elif result.status == _PIPELINE_SYNC:
            return done, failed
        elif failed is None and result.status == _FATAL:
            failed = result
        elif failed is None:
            done.append(result)


def translate(error: psycopg.Error) -> Exception:
    """What an error of the binder means, as one of ours; any other error as it is."""
    return meaning(error.sqlstate, error.diag.message_primary) or error


def meaning(sqlstate: str | None, text: str | None) -> TenantryError | None:
    """What an answer of the server means, as one of ours; None if the binder did not say it."""
    kind = _MEANING.get(sqlstate or "")
    if kind is None or text is None or not text.startswith("tenantry: "):
        return None
    return kind(text.removeprefix("tenantry: "))


def is_fatal(error: BaseException) -> bool:
    """Whether the connection that raised this must not be used again."""
    return isinstance(error, DirtyBackend) or (
        isinstance(error, PerimeterError) and not isinstance(error, (BindingRefused, CrossedTenants))
    )


class BoundConnection(BoundConnectionMixin, Connection[TupleRow]):
    """A sync psycopg connection whose transactions are bound to a tenant."""


class AsyncBoundConnection(BoundConnectionMixin, AsyncConnection[TupleRow]):
    """An async psycopg connection whose transactions are bound to a tenant."""
