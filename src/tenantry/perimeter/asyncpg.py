"""asyncpg connections that bind each transaction to a tenant as they begin it.

``BEGIN`` and the binding travel together, so a bound transaction costs no more round trips than a bare one; where the
connection may begin late, the first statement travels with them, and it is one less. asyncpg has no pipeline; but
PostgreSQL answers all messages up to a synchronisation point, and asyncpg, which waits for the rows of a prepared
statement, takes it in good part that other statements' completions come before them. So the messages of ``BEGIN`` and
of the binding are written to the transport together with asyncpg's own: the token is a bind parameter and never
part of a statement's text. What the server refuses reaches asyncpg as the error of its statement; a witness has seen
how far the answers went.

A connection, its prepared statements and its cursors send everything through the connection's ``_protocol``. There
stands :class:`Gate`.
"""

from __future__ import annotations

import asyncio
import secrets
import weakref
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from asyncpg.connection import _StatementCache, _weak_maybe_gc_stmt  # type: ignore[import-untyped]
from psycopg.sql import Literal

from tenantry.errors import CrossedTenants, DirtyBackend, ServerUnreachable, TenantryError
from tenantry.perimeter import wire
from tenantry.perimeter.connection import Guard, Mint, meaning, standby
from tenantry.perimeter.cork import Cork
from tenantry.perimeter.replica import BIND_ON_REPLICA, Ended, Floor
from tenantry.perimeter.replica_asyncpg import end_and_tell, is_doubtful, try_here
from tenantry.perimeter.witness import Witness

_BIND = "SELECT WHERE tenantry.bind_v1($1, $2) IS NULL"
"""The binding as a statement that gives no row, which asyncpg would take for one of its own statement's."""

_FACTS = """
SELECT FROM pg_catalog.generate_series(1,
  CASE WHEN pg_catalog.has_function_privilege('pg_catalog.pg_prepared_statement()', 'EXECUTE') THEN 1 ELSE 0 END
  + CASE WHEN EXISTS (
      SELECT FROM pg_catalog.pg_namespace n
        JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
                                   AND d.refobjid = n.oid AND d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
        JOIN pg_catalog.pg_type t ON t.oid = d.objid AND t.typtype = 'd'
       WHERE n.nspname = {home}) THEN 2 ELSE 0 END)
"""
"""Whether SQL can look up the names of prepared statements (1), and whether a schema has domains (2). Of a statement
without parameters asyncpg tells no more than how many rows it found."""
_NAMES_ARE_OPEN, _DOMAINS = 1, 2
_NO_SUCH_STATEMENT = "26000"
_NOT_SUPPORTED = "0A000"  # of all that is sent to begin a transaction, only READ WRITE may not be supported
_MAY_BE_LOST = OSError, TenantryError, asyncpg.PostgresError, asyncpg.InterfaceError
_FIRST_OWN_TYPE = 16384  # PostgreSQL: FirstNormalObjectId


def _statement(name: str, *names: str) -> Callable[..., Awaitable[Any]]:
    """A method of asyncpg's protocol that has the server do something.

    Args:
        names: of its first parameters, which asyncpg sometimes gives by name and sometimes not.
    """

    def call(self: Gate, *arguments: Any, **options: Any) -> Awaitable[Any]:
        if self.guard is not None:
            self.guard()
        if self.due is not None:
            given = dict(zip(names, arguments, strict=False))
            return self._first(name, *arguments[len(given) :], **given, **options)
        if self.untried and name == "bind_execute":
            return try_here(self, **dict(zip(names, arguments, strict=False)), **options)
        return self.send(name, *arguments, **options)

    return call


def _ending(name: str) -> Callable[..., Awaitable[Any]]:
    """A method of asyncpg's protocol that puts something away, whoever's scope it is."""

    def call(self: Gate, *arguments: Any, **options: Any) -> Awaitable[Any]:
        return self.send(name, *arguments, **options)

    return call


class Gate:
    """asyncpg's protocol as its connection sees it: it looks at the scope before each statement, and binds what begins.

    Attributes:
        tenant: whose the transactions are, as it stands in the token; None: whoever used the backend last is unknown.
        late: whether the next transaction begins with its first statement.
        due: the statement that begins the transaction of which the server has not been told yet.
        begun: the statement that has begun the last one that began late.
        unproven: whether the transaction that has begun may still turn out to be impossible here. Nothing of it has
            taken effect then, so it may begin elsewhere.
        pending: how many operations have been started and not ended.
        altered: whether something was changed that the connection's next user must not inherit.
        floor: what the server must have replayed if it is a replica.
        ended: is called after each transaction.
        untried: whether the transaction has begun on a replica and no statement has been answered yet.
    """

    mint: Mint | None = None
    guard: Guard | None = None
    tenant: str | None = None
    late = False
    due: str | None = None
    begun = ""
    unproven = False
    pending = 0
    altered = False
    floor: Floor | None = None
    ended: Ended | None = None
    untried = False
    _last_tenant: str | None = None
    _binding: Any = None
    _parameters: tuple[str, ...] = ()
    _last_head: tuple[object, bytes] = None, b""
    wal: Any = None

    def __init__(self, protocol: Any, transport: asyncio.Transport, owner: AsyncpgConnection) -> None:
        self._protocol = protocol
        self.cork = Cork(transport)
        self._witness = Witness(protocol)
        transport.set_protocol(self._witness)
        self.owner = weakref.ref(owner)
        self.is_connected = protocol.is_connected
        self.get_record_class = protocol.get_record_class
        self._get_timeout = protocol._get_timeout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol, name)

    prepare = _statement("prepare")
    bind_execute = _statement("bind_execute", "state", "args", "portal_name", "limit", "return_extra", "timeout")
    bind_execute_many = _statement("bind_execute_many", "state", "args", "portal_name", "timeout")
    bind = _statement("bind", "state", "args", "portal_name", "timeout")
    execute = _statement("execute")
    copy_in = _statement("copy_in")
    copy_out = _statement("copy_out")
    close_portal = _ending("close_portal")
    close_statement = _ending("close_statement")

    def is_in_transaction(self) -> bool:
        """As asyncpg's; a transaction that is due has begun."""
        return self.due is not None or bool(self._protocol.is_in_transaction())

    async def query(self, query: str, timeout: Any) -> str:
        """Send a statement without parameters: as asyncpg begins, ends and nests transactions."""
        if wire.begins(query) and not self.is_in_transaction():
            return await self._begin(query, timeout)
        ends = wire.ends(query)
        if self.guard is not None and not ends:
            self.guard()
        status: str
        command = query.rstrip(";")
        if self.ended is not None and self.due is None and command in (wire.COMMIT, wire.ROLLBACK):
            return await end_and_tell(self, command, timeout, self.ended)
        if self.due is None:
            status = await self.send("query", query, timeout)
        elif ends:  # a transaction of which the server has never heard
            self.due, self.unproven = None, False
            status = command
        else:
            status = await self._first("query", query, timeout)
        return status

    async def send(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the protocol that talks to the server."""
        self.pending += 1
        if self.mint is None:
            self._last_tenant = None
        try:
            return await getattr(self._protocol, name)(*arguments, **options)
        except asyncpg.InvalidSQLStatementNameError:
            self.altered = True  # SQL has dropped what asyncpg has prepared
            raise
        finally:
            self.pending -= 1

    async def ready(
        self, *, pooler: bool, home: str, replica: bool = False, parameters: Mapping[str, str] | None = None
    ) -> bool:
        """Prepare the binding, before the connection is anybody's.

        Args:
            pooler: it must not be a prepared statement: the pooler may hand the transaction to a backend that does not
                have it. Where SQL can look names up (a wall that no superuser made), it is none either: SQL that knows
                the name can put a statement of its own in this place, and collect tokens.
            home: a tenant's schema.
            replica: the server is one.
            parameters: of the session, for each transaction.

        Returns:
            Whether there are domains in the schema.
        """
        self._parameters = tuple(text for pair in (parameters or {}).items() for text in pair)
        statement = _binding(replica, len(self._parameters))
        self._binding = await self.describe("" if pooler else "_tenantry_" + secrets.token_hex(16), statement)
        facts = await self._ask(home)
        if self._binding.name and facts & _NAMES_ARE_OPEN:
            await self.send("close_statement", self._binding, None)
            self._binding = await self.describe("", statement)
            await self._ask(home)  # asyncpg's prepare() does not synchronise
        if not self._binding.name:
            self._binding.mark_unprepared()
        return bool(facts & _DOMAINS)

    async def _ask(self, home: str) -> int:
        tag: str = await self.send("query", _FACTS.format(home=Literal(home).as_string(None)), None)
        return int(tag.removeprefix("SELECT "))

    async def describe(self, name: str, statement: str) -> Any:
        """A statement that is prepared under a name of our own."""
        state = await self.send("prepare", name, statement, None, record_class=asyncpg.Record)
        state._init_codecs()
        return state

    async def _begin(self, query: str, timeout: Any) -> str:
        try:
            if self.guard is not None:
                self.guard()
            if self.mint is not None and self.late and self.is_connected() and not self.pending:
                self.late, self.due, self.begun, self.unproven = False, query, query, True
                return "BEGIN"
            return await self._begin_now(query, timeout)
        except BaseException:
            owner = self.owner()
            if owner is not None:
                owner._top_xact = None  # asyncpg leaves a transaction there that it could not begin
            raise

    async def begin_due(self) -> None:
        """Begin now what is due."""
        due, self.due = self.due, None
        if due is not None:
            await self._begin_now(due, None)

    async def _begin_now(self, query: str, timeout: Any) -> str:
        if self.mint is not None:
            timeout = await self.until_free(timeout)
            if self.is_connected() and not self.pending:  # else asyncpg refuses, and says why
                return await self._bind(query, timeout, self.mint)
        status: str = await self.send("query", query, timeout)
        return status

    async def until_free(self, timeout: Any) -> Any:
        """Wait for what is being cancelled; what is left of the time."""
        return await self._protocol._wait_for_cancellation(self._get_timeout(timeout))

    async def _bind(self, query: str, timeout: Any, mint: Mint) -> str:
        binding = self._binding, (*self._proof(mint), *self._must()), "", 0, False, timeout
        self.unproven = True
        count = self._protocol.queries_count
        try:
            # From here on nobody else may write: bind_execute() does so before it waits for anything.
            self.cork.hold(wire.begin_message(query, replica=self.floor is not None))
            await self.send("bind_execute", *binding)
        except asyncpg.PostgresError as error:
            del binding
            if count == self._protocol.queries_count:  # asyncpg has refused the token
                self._terminate()
                raise
            await self._refuse(error.with_traceback(None))  # its frames hold the token
        except BaseException:
            # Nobody can tell whether it is bound: interrupted, out of time, or the server is gone.
            self._terminate()
            raise
        self._note_bound()
        return "BEGIN"

    def _proof(self, mint: Mint) -> tuple[str, bool]:
        """The token, and whether the backend has served nobody but its tenant since the last transaction."""
        same = bool(self._binding.name) and self.tenant is not None and self.tenant == self._last_tenant
        self._last_tenant = None  # until it is bound
        return mint(self._protocol.backend_pid), same

    def _must(self) -> tuple[str, ...]:
        """What a replica must have replayed, and the parameters of the session, as parameters of the binding."""
        return (() if self.floor is None else (self.floor.lsn, str(self.floor.patience))) + self._parameters

    def _note_bound(self) -> None:
        self.unproven = False
        self.untried = self.floor is not None
        self._last_tenant = self.tenant

    async def begin_now(self) -> None:
        """Begin what is due, here or elsewhere."""
        try:
            await self.begin_due()
        except _MAY_BE_LOST as error:
            await self.elsewhere(error)

    async def _first(self, name: str, *arguments: Any, **options: Any) -> Any:
        """The first statement of a transaction that is due: in one trip with BEGIN where it can be, or right after."""
        gate = self
        try:
            if name == "bind_execute" and not options["portal_name"]:  # of a portal asyncpg asks if it is at its end
                return await self._join(**options)
            await self.begin_due()
        except _MAY_BE_LOST as error:
            gate = await self.elsewhere(error)
            if "state" in options:
                options["state"] = await gate.prepared_anew(options["state"])
        return await gate.send(name, *arguments, **options)

    async def elsewhere(self, error: Exception) -> Gate:
        """Begin elsewhere, if that makes sense; else the error is raised again."""
        owner = self.owner()
        if owner is None or owner.again is None or self.pending or not owner.may_begin_anew():
            raise error
        await owner.again(error)
        return owner.gate

    async def prepared_anew(self, state: Any) -> Any:
        """A statement that was prepared in another session, prepared in this one."""
        owner: Any = self.owner()
        return await owner._get_statement(
            state.query, None, record_class=state.record_class, ignore_custom_codec=state.ignore_custom_codec
        )

    async def _join(self, timeout: Any, **statement: Any) -> Any:
        """Begin, bind and execute in one round trip."""
        statement["timeout"] = await self.until_free(timeout)
        mint = self.mint
        if self.due is None or mint is None or self.pending or not self.is_connected():
            return await self.send("bind_execute", **statement)  # asyncpg refuses it, and says why
        self.cork.hold(self._head(self.due, *self._proof(mint)))
        self.due = None
        count, witness, doubtful = self._protocol.queries_count, self._witness, False
        try:
            return await self.send("bind_execute", **statement)
        except BaseException as error:
            if count == self._protocol.queries_count and self.is_connected():
                # asyncpg has refused a parameter, and what is to go before it waits for a synchronisation point.
                await self._bind_again(mint)
            elif witness.bound is not True and isinstance(error, asyncpg.PostgresError):
                await self._refuse(error.with_traceback(None))
            elif isinstance(error, TimeoutError) or not isinstance(error, OSError):
                self.unproven = False  # interrupted: it is not for us to do it anyway
            doubtful = self.floor is not None and is_doubtful(error)
            raise
        finally:
            if witness.bound:
                self._note_bound()
                self.unproven, self.untried = doubtful, False

    async def _bind_again(self, mint: Mint) -> None:
        try:
            proof = *self._proof(mint), *self._must()
            await self.send("bind_execute", self._binding, proof, "", 0, False, None)
        except asyncpg.PostgresError as error:
            await self._refuse(error.with_traceback(None))

    def _head(self, begin: str, token: str, same: bool) -> bytes:
        name = self._binding.name
        self._witness.watch(parsed=not name)
        asked = begin, token, same, self._must()
        if self._last_head[0] != asked:
            bind = wire.bind_message(name, self._binding.query, token, same=same, more=asked[3])
            self._last_head = asked, wire.begin_message(begin, replica=self.floor is not None) + bind
        return self._last_head[1]

    async def _refuse(self, error: asyncpg.PostgresError) -> None:
        """Leave the transaction that was not bound, and raise what its refusal means."""
        explained = _explained(error, replica=self.floor is not None)
        if isinstance(explained, (DirtyBackend, ServerUnreachable)):
            # Without ROLLBACK: a pooler discards the server's side too if its client leaves inside a transaction.
            self._terminate()
        else:
            await self._leave()
        raise explained or error from error

    async def _leave(self) -> None:
        try:
            if self.is_connected() and self._protocol.is_in_transaction():
                await self.send("query", "ROLLBACK", None)
        except BaseException:
            self._terminate()
            raise

    def _terminate(self) -> None:
        owner = self.owner()
        if owner is not None and owner.gate is self:
            owner.terminate()


def _binding(replica: bool, parameters: int) -> str:
    """The binding's text, with so many texts for session parameters: names and values by turns."""
    statement, first = (BIND_ON_REPLICA, 5) if replica else (_BIND, 3)
    for name in range(first, first + parameters, 2):
        statement += f" OR pg_catalog.set_config(${name}, ${name + 1}, true) IS NULL"
    return statement


def _explained(error: asyncpg.PostgresError, *, replica: bool) -> Exception | None:
    """What it means that a transaction was not bound, if it is known."""
    explained: Exception | None = meaning(error.sqlstate, str(error.args[0]))
    if error.sqlstate == _NO_SUCH_STATEMENT:
        explained = DirtyBackend("SQL has dropped the prepared statements of a connection")
    elif error.sqlstate == _NOT_SUPPORTED:
        explained = standby()
    if replica and explained is None:
        explained = ServerUnreachable(f"a replica could not bind: {error}")
    return explained


def is_local(state: Any) -> bool:
    """Whether a prepared statement has parameters or columns of a type that a database does not have by itself."""
    types = [each.oid for each in state._get_parameters()] + [each.type.oid for each in state._get_attributes()]
    return any(oid >= _FIRST_OWN_TYPE for oid in types)


class HomeCache(_StatementCache):  # type: ignore[misc]
    """asyncpg's prepared statements of a connection, for tenants with different schemas.

    PostgreSQL finds the tables of a statement anew under another search path, but not its types: what was prepared with
    a type of one tenant's schema is wrong in another's. So such a statement is for one schema alone. In the description
    of a statement a column of a domain looks like one of the type below it; where there are domains, all are so.
    """

    home = ""
    apart = False

    def get(self, query: Any, *, promote: bool = True) -> Any:
        """As asyncpg's."""
        shared = super().get(query, promote=promote)
        return shared if shared is not None else super().get((self.home, query), promote=promote)

    def put(self, query: Any, statement: Any) -> None:
        """As asyncpg's."""
        super().put((self.home, query) if self.apart or is_local(statement) else query, statement)


_SESSION = (
    "gate _protocol _transport _aborted _stmts_to_close _listeners _log_listeners _termination_listeners _query_loggers"
    " _server_version _server_caps _reset_query _config _params _addr _names _named"
).split()
"""What of a connection object belongs to its session with the server."""


class AsyncpgConnection(asyncpg.Connection):  # type: ignore[misc]
    """An asyncpg connection whose transactions are bound to a tenant.

    Attributes:
        again: begins elsewhere what could not begin here, given the reason. The first statement is sent again then.
    """

    again: Callable[[Exception], Awaitable[None]] | None = None

    def __init__(self, protocol: Any, transport: asyncio.Transport, *arguments: Any) -> None:
        self.gate = Gate(protocol, transport, self)
        self._names = secrets.token_hex(12)
        self._named = 0
        self._hooks_before: tuple[Any, ...] = ()
        super().__init__(self.gate, transport, *arguments)
        self._stmt_cache: HomeCache = self._new_cache()

    async def ready(self, *, pooler: bool = False, home: str = "", **options: Any) -> None:
        """Prepare the binding; see :meth:`Gate.ready`."""
        self._stmt_cache.apart = await self.gate.ready(pooler=pooler, home=home, **options)

    def bind_to(
        self,
        mint: Mint,
        guard: Guard | None = None,
        tenant: str | None = None,
        home: str = "",
        floor: Floor | None = None,
        ended: Ended | None = None,
    ) -> None:
        """Bind the transactions that follow.

        Args:
            mint: makes the token for each transaction.
            guard: is called before each statement.
            tenant: whose the transactions are, as it stands in the token. If the last ones were as well, nothing that
                the backend could carry over is looked for. None: it is always looked for.
            home: the schema of the tenant.
            floor: the server is a replica, and must have replayed this.
            ended: is called after each transaction.

        Raises:
            CrossedTenants: a transaction is open; its statements would still belong to the tenant that it is bound to.
        """
        gate = self.gate
        if gate.is_in_transaction():
            raise CrossedTenants(
                "a connection was bound anew while its transaction is open", hint="commit or roll back first"
            )
        self._hooks_before = self._hooks()
        gate.mint, gate.guard, gate.tenant = mint, guard, tenant
        gate.floor, gate.ended = floor, ended
        self._stmt_cache.home = home

    def unbind(self) -> None:
        """Bind no more; what begins now is bound to nobody."""
        gate = self.gate
        gate.mint = gate.guard = gate.tenant = gate.due = gate.floor = gate.ended = self.again = None
        gate.late = gate.unproven = False

    def begin_late(self) -> None:
        """Let the next transaction begin with its first statement; without one, the server does not hear of it."""
        self.gate.late = True

    def may_begin_anew(self) -> bool:
        """Whether a transaction has failed before it was known to be bound."""
        return self.gate.unproven and self.gate.due is None

    def adopt(self, other: AsyncpgConnection) -> None:
        """Go on with another's session with the server. The own one has ended; the other object is at its end."""
        for name in _SESSION:
            setattr(self, name, getattr(other, name))
        self.gate.owner = weakref.ref(self)
        self.gate.set_connection(self)
        self._stmt_cache = self._new_cache(other._stmt_cache.apart)
        other._aborted = True  # the object; its session goes on
        self._hooks_before = other._hooks()

    async def _get_statement(self, query: Any, timeout: Any, *, named: Any = False, **options: Any) -> Any:
        if named:  # it goes into an object of the caller's, which is of no use in another session
            await self.gate.begin_now()
        return await super()._get_statement(query, timeout, named=named, **options)

    def is_closed(self) -> bool:
        """As asyncpg's; a transaction of which the server has not heard yet can begin elsewhere."""
        closed = self._aborted or not self.gate.is_connected()
        return closed and (self.gate.due is None or self.again is None)

    @property
    def is_clean(self) -> bool:
        """Whether somebody else may use it: in doubt nobody may.

        This is about the driver's side; what SQL may have left on the server, the binder sees.
        """
        gate = self.gate
        return not (
            self.is_closed()
            or gate.is_in_transaction()
            or gate.pending
            or gate.altered
            or gate._is_cancelling()
            or self._top_xact is not None
            or self._hooks() != self._hooks_before
        )

    def _new_cache(self, apart: bool = False) -> HomeCache:
        config = self._config
        made = HomeCache(
            loop=self._loop,
            max_size=config.statement_cache_size,
            on_remove=partial(_weak_maybe_gc_stmt, weakref.ref(self)),
            max_lifetime=config.max_cached_statement_lifetime,
        )
        made.apart = apart
        return made

    def terminate(self) -> None:
        """As asyncpg's, but what has been asked of the server on another connection, to stop a statement, goes on."""
        self._cancellations.clear()
        super().terminate()

    async def set_type_codec(self, *arguments: Any, **options: Any) -> None:
        """As asyncpg's. Set while the connection serves a tenant, it does not reach the next user."""
        self._alter()
        await super().set_type_codec(*arguments, **options)

    async def reset_type_codec(self, *arguments: Any, **options: Any) -> None:
        """As asyncpg's; see :meth:`set_type_codec`."""
        self._alter()
        await super().reset_type_codec(*arguments, **options)

    async def set_builtin_type_codec(self, *arguments: Any, **options: Any) -> None:
        """As asyncpg's; see :meth:`set_type_codec`."""
        self._alter()
        await super().set_builtin_type_codec(*arguments, **options)

    def _alter(self) -> None:
        self.gate.altered = self.gate.altered or self.gate.mint is not None

    def _hooks(self) -> tuple[Any, ...]:
        """What listens to the connection."""
        hooks = self._listeners, self._log_listeners, self._query_loggers, self._termination_listeners
        return tuple(frozenset(each) for each in hooks) if any(hooks) else ()

    def _get_unique_id(self, prefix: str) -> str:
        """asyncpg counts its statements. SQL that can guess the name of one could drop it under another tenant."""
        self._named += 1
        return f"__asyncpg_{prefix}_{self._names}_{self._named:x}"

    def _drop_global_statement_cache(self) -> None:
        self._drop_local_statement_cache()

    def _drop_global_type_cache(self) -> None:
        self._drop_local_type_cache()
