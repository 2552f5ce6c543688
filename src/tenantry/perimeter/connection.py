"""What a psycopg connection needs to bind each transaction to a tenant as it begins it.

``BEGIN`` and the binding travel together, in one libpq pipeline, so a bound transaction costs no more round trips than
a bare one; where the connection may begin late, the first statement travels with them, and it is one less. The token is
a bind parameter and never part of a statement's text.

psycopg begins every transaction of its own (implicit ones, ``connection.transaction()``, two-phase) through
``_exec_command``; that is the one method replaced here. A ``BEGIN`` that the application sends as SQL binds nothing,
and the database refuses what follows.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self
from weakref import ref

import psycopg
from psycopg import generators, pq
from psycopg._preparing import Prepare, PrepareManager
from psycopg.abc import PQGen

from tenantry.errors import (
    BindingRefused,
    CrossedTenants,
    DirtyBackend,
    PerimeterError,
    ReplicaBehind,
    ServerUnreachable,
    TenantMoved,
    TenantryError,
    TenantSuspended,
)
from tenantry.perimeter.replica import Ended, Floor, end_and_tell, on_replica, read_to_sync

if TYPE_CHECKING:
    from psycopg._connection_base import BaseConnection

    _Base = BaseConnection[Any]
else:
    _Base = object

BIND = b"SELECT tenantry.bind_v1($1)"
_BIND_SAME = b"SELECT tenantry.bind_v1($1, $2)"
_NAMES_ARE_OPEN = b"SELECT pg_catalog.has_function_privilege('pg_catalog.pg_prepared_statement()', 'EXECUTE')"

_IDLE = pq.TransactionStatus.IDLE
_FATAL = pq.ExecStatus.FATAL_ERROR
_SQLSTATE = pq.DiagnosticField.SQLSTATE
_NO_SUCH_STATEMENT = b"26000"
_CANCELLED = b"57014"  # by a timeout of the plan, or by the caller
_OPENNESS = 2  # the place of the answer among the results: BEGIN, the statement, the answer, the binding

_MEANING: dict[str, type[TenantryError]] = {
    "42501": BindingRefused,
    "25001": CrossedTenants,
    "TN001": TenantMoved,
    "TN002": TenantSuspended,
    "TN003": DirtyBackend,
    "TN004": ReplicaBehind,
    "TN005": ServerUnreachable,
}

Mint = Callable[[int], str]
"""Makes a token, given the backend's process id."""

Guard = Callable[[], None]
"""Raises :class:`CrossedTenants` when the caller's scope is not the one that the connection was taken for."""


class PreparedAtHome(PrepareManager):
    """psycopg's prepared statements, each for the schema that it was prepared in.

    Elsewhere the same text means other tables and types; where it means the like, PostgreSQL plans it anew. Their names
    can't be guessed: SQL that knew one could put a statement of its own in its place, for who uses the connection next.
    """

    home = ""

    def __init__(self) -> None:
        super().__init__()
        self._secret = secrets.token_hex(8)

    def key(self, query: Any) -> Any:  # type: ignore[override]
        """What stands for a statement."""
        return query.query, query.types, self.home

    def get(self, query: Any, prepare: bool | None = None) -> tuple[Prepare, bytes]:
        """As psycopg's, with another name."""
        wanted, name = super().get(query, prepare)
        if wanted is Prepare.SHOULD:
            name = f"_tenantry_{self._secret}_{self._prepared_idx}".encode()
        return wanted, name


class BoundConnectionMixin(_Base):
    """What the sync and the async connection share. It does no I/O of its own."""

    _mint: Mint | None = None
    _guard: Guard | None = None
    _bind_name: bytes | None = None
    _tenant: str | None = None
    _last_tenant: str | None = None
    _floor: Floor | None = None
    _parameters: Mapping[str, str] = MappingProxyType({})
    _ended: Ended | None = None
    _late = False
    _joining = False
    due = False
    """Whether a transaction has been begun of which the server has not been told: it goes with the first statement."""
    unproven = False
    """Whether the transaction that has begun may still turn out to be impossible here, because the tenant has moved or
    the connection is lost. Nothing of it has taken effect then, so it may begin elsewhere."""
    prepare_bind = True
    """Whether the binding is a prepared statement. Behind a pooler it must not be one: the pooler may hand the
    transaction to a backend that does not have it, or have one of a name that can be guessed. Where SQL can look names
    up (a wall that no superuser made), the connection finds out by itself."""

    def bind_to(
        self,
        mint: Mint,
        guard: Guard | None = None,
        tenant: str | None = None,
        home: str | None = None,
        floor: Floor | None = None,
        ended: Ended | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        """Bind the transactions that follow.

        Args:
            mint: makes the token for each transaction.
            guard: is called before each statement.
            tenant: whose the transactions are, as it stands in the token. If the last ones were as well, nothing that
                the backend could carry over is looked for. None: it is always looked for.
            home: the schema that the tenant lives in, if others of the database live in others.
            floor: the server is a replica, and must have replayed this.
            ended: is called after each transaction.
            parameters: of the session, for each transaction; always the same names.

        Raises:
            CrossedTenants: a transaction is open; its statements would still belong to the tenant that it is bound to.
        """
        if self.due or (self.pgconn.status == pq.ConnStatus.OK and self.pgconn.transaction_status != _IDLE):
            raise CrossedTenants(
                "a connection was bound anew while its transaction is open", hint="commit or roll back first"
            )
        self._mint = mint
        self._guard = guard
        self._tenant = tenant
        self._floor = floor
        self._parameters = parameters or self._parameters
        self._ended = ended
        if isinstance(self._prepared, PreparedAtHome):
            self._prepared.home = home or ""

    def unbind(self) -> None:
        """Bind no more; what begins now is bound to nobody."""
        self._mint = self._guard = self._tenant = self._floor = self._ended = None
        self._late = self.due = self.unproven = False

    def begin_late(self) -> None:
        """Let the next transaction begin with its first statement; without one, the server does not hear of it."""
        self._late = True

    def defer(self) -> bool:
        """Begin a transaction with its first statement; whether that is possible."""
        if self._mint is None or self._pipeline is not None or self.pgconn.transaction_status != _IDLE:
            return False
        if self._guard is not None:
            self._guard()
        self.due = self.unproven = True
        return True

    def may_begin_anew(self) -> bool:
        """Whether a transaction has failed before it was known to be bound."""
        return self.unproven and not self.due

    def doubt(self, results: list[Any]) -> None:
        """Let a transaction begin elsewhere whose first statement has failed on a replica: it may have been cancelled
        there for the sake of replay, or need what only a primary can do or has by now."""
        if self._floor is not None and results[-1].status == _FATAL:
            self.unproven = results[-1].error_field(_SQLSTATE) != _CANCELLED

    def adopt(self, other: Self) -> None:
        """Go on with another's session with the server. The own one has been closed; the other object is at its end."""
        for name in ("pgconn", "_prepared", "_bind_name", "_last_tenant", "prepare_bind"):
            setattr(self, name, getattr(other, name))
        del other.pgconn
        self.pgconn.notice_handler = partial(type(self)._notice_handler, ref(self))
        self.pgconn.notify_handler = partial(type(self)._notify_handler, ref(self))

    def begin_due(self) -> PQGen[None]:
        """Begin now what is due."""
        self.due = False
        yield from self._begin_bound(self._get_tx_start_command())

    def _start_query(self) -> PQGen[None]:
        if self._guard is not None:
            self._guard()
        if self._mint is None:
            self._last_tenant = None
        if self.due:
            if not self._joining:
                yield from self.begin_due()
        elif self._mint is None or self._pipeline is None:
            yield from super()._start_query()
        elif not self._autocommit and self.pgconn.transaction_status == _IDLE:
            # As psycopg, without its synchronisation: _queue_bound has done that.
            yield from self._exec_command(self._get_tx_start_command())

    def _exec_command(self, command: Any, result_format: pq.Format = pq.Format.TEXT) -> PQGen[Any]:
        if self._mint is not None and isinstance(command, bytes) and command.startswith(b"BEGIN"):
            if self._guard is not None:
                self._guard()
            if self._late and self._pipeline is None:
                self._late, self.due, self.unproven = False, True, True
                return None
            self.due = False
            return (yield from self._begin_bound(command))
        if self.due:
            if command in (b"COMMIT", b"ROLLBACK"):
                self.due = self.unproven = False
                return None
            yield from self.begin_due()
        if self._ended is not None and command in (b"COMMIT", b"ROLLBACK"):
            plain = super()._exec_command(command)
            return (yield from end_and_tell(self, command, plain, self._ended))
        try:
            return (yield from super()._exec_command(command, result_format))
        except psycopg.errors.FeatureNotSupported as error:
            if command == self._get_tx_start_command():
                raise standby() from error
            raise

    def _commit_gen(self) -> PQGen[None]:
        if self.due and not self._num_transactions:
            self.due = self.unproven = False
        yield from super()._commit_gen()

    def _rollback_gen(self) -> PQGen[None]:
        if self.due and not self._num_transactions:
            self.due = self.unproven = False
        yield from super()._rollback_gen()

    def _deallocate(self, name: bytes | None) -> PQGen[None]:
        if name is None:  # psycopg drops all prepared statements after a rollback, ours with them
            self._bind_name = None
        yield from super()._deallocate(name)

    def _get_tx_start_command(self) -> bytes:
        command = super()._get_tx_start_command()
        # A default_transaction_read_only that injected SQL has left behind can't be undone from inside.
        if self.read_only is not None:
            return command
        return command + (b" READ ONLY" if self._only_reads() else b" READ WRITE")

    def _only_reads(self) -> bool:
        """Whether it is a replica's, or a standby's that is only being looked at: bound to nobody."""
        return self._floor is not None or (
            self._mint is None and self.pgconn.parameter_status(b"in_hot_standby") == b"on"
        )

    def _begin_bound(self, begin: bytes) -> PQGen[None]:
        if self._pipeline is not None:
            yield from self._queue_bound(begin)
        else:
            yield from self.begin_with(begin, _nothing)

    def begin_with(self, begin: bytes, send: Callable[[], None]) -> PQGen[list[Any] | None]:
        """Begin, bind and do what ``send`` sends, in one round trip.

        Args:
            send: is called when it is its turn, perhaps not at all.

        Returns:
            The results of what ``send`` has sent, of which the last one may be an error. None: it was not sent.
        """
        self._check_connection_ok()
        self.unproven = True
        results, failed = yield from self._send_bound(begin, send)
        if failed is not None and failed.error_field(_SQLSTATE) == _NO_SUCH_STATEMENT:
            # SQL has dropped the prepared statements behind our back: psycopg's are gone as well.
            yield from super()._exec_command(b"ROLLBACK")
            self._prepared.clear()
            yield from self._prepared.maintain_gen(self)
            self._bind_name = None
            _, failed = yield from self._send_bound(begin, _nothing)
            results = None
        if failed is not None:
            yield from self._refuse(failed)
        self.unproven = False
        self._last_tenant = self._tenant
        return results

    def _send_bound(self, begin: bytes, send: Callable[[], None]) -> PQGen[tuple[list[Any] | None, Any]]:
        """One round trip; return the results of what ``send`` sent, or what kept the transaction from being bound."""
        pgconn, name = self.pgconn, self._bind_name
        token, same = self._proof()
        results: list[Any] = []
        before = 2  # the results of BEGIN and of the binding
        pgconn.enter_pipeline_mode()
        try:
            pgconn.send_query_params(begin, None)
            if not self.prepare_bind:
                pgconn.send_query_params(*self._bind(BIND, [token]))
            elif name is not None:
                pgconn.send_query_prepared(name, self._bind(b"", [token, same])[1])
            else:
                name, before = self._send_prepared(token, same), 4
            send()
            pgconn.pipeline_sync()
            yield from generators.send(pgconn)
            yield from read_to_sync(pgconn, results)
            pgconn.exit_pipeline_mode()
        except BaseException:
            # Nobody can tell whether it is bound, and to whom: interrupted, abandoned, or the server is gone.
            pgconn.finish()
            self.unproven = not _is_bound(results, before)
            raise
        if before > 2:
            self._note_prepared(name, results)
        return (results[before:], None) if _is_bound(results, before) else (None, results[-1])

    def _proof(self) -> tuple[bytes, bytes]:
        """The token, and whether the backend has served nobody but its tenant since the last transaction."""
        assert self._mint is not None
        same = self._tenant is not None and self._tenant == self._last_tenant
        self._last_tenant = None  # until it is bound, and so looked through
        return self._mint(self.pgconn.backend_pid).encode(), b"t" if same else b"f"

    def _send_prepared(self, token: bytes, same: bytes) -> bytes:
        """Prepare the binding, use it, and ask whether SQL can find out its name."""
        # SQL that knows the name can put a statement of its own in this place, and collect tokens.
        name = b"_tenantry_" + secrets.token_hex(16).encode()
        statement, arguments = self._bind(_BIND_SAME, [token, same])
        self.pgconn.send_prepare(name, statement)
        self.pgconn.send_query_params(_NAMES_ARE_OPEN, None)
        self.pgconn.send_query_prepared(name, arguments)
        return name

    def _bind(self, statement: bytes, arguments: list[bytes]) -> tuple[bytes, list[bytes]]:
        """The binding and its parameters, for this server."""
        for pair in self._parameters.items():
            statement += b", pg_catalog.set_config($%d, $%d, true)" % (len(arguments) + 1, len(arguments) + 2)
            arguments = [*arguments, *map(str.encode, pair)]
        if self._floor is None:
            return statement, arguments
        return (statement and on_replica(statement, len(arguments) + 1)), arguments + self._floor.arguments

    def _note_prepared(self, name: bytes | None, done: list[Any]) -> None:
        if len(done) <= _OPENNESS or done[_OPENNESS].status == _FATAL:
            return
        if done[_OPENNESS].get_value(0, 0) == b"t":
            self.prepare_bind = False
        else:
            self._bind_name = name

    def _queue_bound(self, begin: bytes) -> PQGen[None]:
        """Inside ``connection.pipeline()``: psycopg sends and reads."""
        pipeline = self._pipeline
        assert pipeline is not None
        self._check_connection_ok()
        self.unproven = True
        token, _ = self._proof()
        pipeline.command_queue.append(partial(self.pgconn.send_query_params, begin, None))
        pipeline.command_queue.append(partial(self.pgconn.send_query_params, *self._bind(BIND, [token])))
        pipeline.result_queue.extend((None, None))
        try:
            yield from pipeline._sync_gen()
        except psycopg.Error as error:
            meaning = self._meaning(error)
            if self.pgconn.transaction_status != _IDLE and not self.closed:
                yield from super()._exec_command(b"ROLLBACK")
                yield from pipeline._sync_gen()
            raise meaning from error

    def _refuse(self, failed: Any) -> PQGen[None]:
        error = psycopg.errors.error_from_result(failed, encoding=self.pgconn._encoding)
        meaning = self._meaning(error)
        if self.pgconn.transaction_status != _IDLE and not self.closed:
            yield from super()._exec_command(b"ROLLBACK")
        raise meaning from error

    def _meaning(self, error: psycopg.Error) -> Exception:
        """What it means that the transaction did not begin; the connection is closed if it is of no use any more."""
        meaning = translate(error)
        if isinstance(error, psycopg.errors.FeatureNotSupported):  # of all this only READ WRITE may not be supported
            meaning = standby()
        if self._floor is not None and not isinstance(meaning, TenantryError):
            meaning = ServerUnreachable(f"a replica could not bind: {meaning}")
        if isinstance(meaning, (DirtyBackend, ServerUnreachable)):
            # Without ROLLBACK: a pooler discards the server's side too if its client leaves inside a transaction.
            self.pgconn.finish()
        return meaning


def _is_bound(results: list[Any], before: int) -> bool:
    """Whether the binding, whose result is the last of so many, was done."""
    return len(results) >= before and results[before - 1].status != _FATAL


def _nothing() -> None:
    """Begin only."""


def translate(error: psycopg.Error) -> Exception:
    """What an error of the binder means, as one of ours; any other error as it is."""
    return meaning(error.sqlstate, error.diag.message_primary) or error


def standby() -> ServerUnreachable:
    """What it means that a transaction can't be begun as READ WRITE."""
    return ServerUnreachable(
        "the server is a standby: it takes no writes",
        hint="name all hosts of the shard in its address, with target_session_attrs=read-write",
    )


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
