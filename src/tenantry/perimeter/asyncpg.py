"""asyncpg connections that bind each transaction to a tenant as they begin it.

``BEGIN`` and the binding travel together, so a bound transaction costs no more round trips than a bare one. asyncpg has
no pipeline; but PostgreSQL answers all messages up to a synchronisation point, and asyncpg, which waits for the rows of
a prepared statement, takes it in good part that another statement's completion comes before them. So the messages of
``BEGIN`` are written to the transport just before asyncpg writes its own, those of the prepared binding: the token is a
bind parameter and never part of a statement's text. What the server refuses reaches asyncpg as the binding's error.

A connection, its prepared statements and its cursors send everything through the connection's ``_protocol``. There
stands :class:`Gate`.
"""

from __future__ import annotations

import asyncio
import secrets
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from asyncpg.connection import _StatementCache, _weak_maybe_gc_stmt  # type: ignore[import-untyped]
from psycopg.sql import Literal

from tenantry.errors import CrossedTenants, DirtyBackend, ServerUnreachable
from tenantry.perimeter import wire
from tenantry.perimeter.connection import BIND, Guard, Mint, meaning, standby

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
_FIRST_OWN_TYPE = 16384  # PostgreSQL: FirstNormalObjectId


def _statement(name: str, *, guarded: bool = True) -> Callable[..., Awaitable[Any]]:
    """A method of asyncpg's protocol that talks to the server."""

    async def call(self: Gate, *arguments: Any, **options: Any) -> Any:
        if guarded and self.guard is not None:
            self.guard()
        return await self.send(name, *arguments, **options)

    return call


class Gate:
    """asyncpg's protocol as its connection sees it: it looks at the scope before each statement, and binds what begins.

    Attributes:
        pending: how many operations have been started and not ended.
        altered: whether something was changed that the connection's next user must not inherit.
    """

    mint: Mint | None = None
    guard: Guard | None = None
    pending = 0
    altered = False
    _binding: Any = None

    def __init__(self, protocol: Any, transport: asyncio.Transport, owner: AsyncpgConnection) -> None:
        self._protocol = protocol
        self._transport = transport
        self._owner = weakref.ref(owner)
        self.is_connected = protocol.is_connected
        self.is_in_transaction = protocol.is_in_transaction
        self.get_record_class = protocol.get_record_class
        self.get_settings = protocol.get_settings
        self._get_timeout = protocol._get_timeout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol, name)

    prepare = _statement("prepare")
    bind_execute = _statement("bind_execute")
    bind_execute_many = _statement("bind_execute_many")
    bind = _statement("bind")
    execute = _statement("execute")
    copy_in = _statement("copy_in")
    copy_out = _statement("copy_out")
    close_portal = _statement("close_portal", guarded=False)
    close_statement = _statement("close_statement", guarded=False)

    async def query(self, query: str, timeout: Any) -> str:
        """Send a statement without parameters: as asyncpg begins, ends and nests transactions."""
        if wire.begins(query) and not self.is_in_transaction():
            return await self._begin(query, timeout)
        if self.guard is not None and not wire.ends(query):
            self.guard()
        status: str = await self.send("query", query, timeout)
        return status

    async def send(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the protocol that talks to the server."""
        self.pending += 1
        try:
            return await getattr(self._protocol, name)(*arguments, **options)
        except asyncpg.InvalidSQLStatementNameError:
            self.altered = True  # SQL has dropped what asyncpg has prepared
            raise
        finally:
            self.pending -= 1

    async def ready(self, *, pooler: bool, home: str) -> bool:
        """Prepare the binding, before the connection is anybody's.

        Args:
            pooler: it must not be a prepared statement: the pooler may hand the transaction to a backend that does not
                have it. Where SQL can look names up (a wall that no superuser made), it is none either: SQL that knows
                the name can put a statement of its own in this place, and collect tokens.
            home: a tenant's schema.

        Returns:
            Whether there are domains in the schema.
        """
        self._binding = await self._describe("" if pooler else "_tenantry_" + secrets.token_hex(16))
        facts = await self._ask(home)
        if self._binding.name and facts & _NAMES_ARE_OPEN:
            await self.send("close_statement", self._binding, None)
            self._binding = await self._describe("")
            await self._ask(home)  # asyncpg's prepare() does not synchronise
        if not self._binding.name:
            self._binding.mark_unprepared()
        return bool(facts & _DOMAINS)

    async def _ask(self, home: str) -> int:
        tag: str = await self.send("query", _FACTS.format(home=Literal(home).as_string(None)), None)
        return int(tag.removeprefix("SELECT "))

    async def _describe(self, name: str) -> Any:
        state = await self.send("prepare", name, BIND.decode(), None, record_class=asyncpg.Record)
        state._init_codecs()
        return state

    async def _begin(self, query: str, timeout: Any) -> str:
        try:
            if self.guard is not None:
                self.guard()
            if self.mint is not None:
                timeout = await self._protocol._wait_for_cancellation(self._get_timeout(timeout))
                if self.is_connected() and not self.pending:  # else asyncpg refuses, and says why
                    return await self._bind(query, timeout, self.mint)
            status: str = await self.send("query", query, timeout)
            return status
        except BaseException:
            owner = self._owner()
            if owner is not None:
                owner._top_xact = None  # asyncpg leaves a transaction there that it could not begin
            raise

    async def _bind(self, query: str, timeout: Any, mint: Mint) -> str:
        binding = self._binding, (mint(self._protocol.backend_pid),), "", 0, False, timeout
        try:
            # From here on nobody else may write: bind_execute() does so before it waits for anything.
            self._transport.write(wire.begin_message(query))
            await self.send("bind_execute", *binding)
        except asyncpg.PostgresError as error:
            del binding
            await self._refuse(error.with_traceback(None))  # its frames hold the token
        except BaseException:
            # Nobody can tell whether it is bound: interrupted, out of time, or the server is gone.
            self._terminate()
            raise
        return "BEGIN"

    async def _refuse(self, error: asyncpg.PostgresError) -> None:
        """Leave the transaction that was not bound, and raise what its refusal means."""
        explained: Exception | None = meaning(error.sqlstate, str(error.args[0]))
        if error.sqlstate == _NO_SUCH_STATEMENT:
            explained = DirtyBackend("SQL has dropped the prepared statements of a connection")
        elif error.sqlstate == _NOT_SUPPORTED:
            explained = standby()
        if isinstance(explained, (DirtyBackend, ServerUnreachable)):
            # Without ROLLBACK: a pooler discards the server's side too if its client leaves inside a transaction.
            self._terminate()
        else:
            await self._leave()
        raise explained or error from error

    async def _leave(self) -> None:
        try:
            if self.is_connected() and self.is_in_transaction():
                await self.send("query", "ROLLBACK", None)
        except BaseException:
            self._terminate()
            raise

    def _terminate(self) -> None:
        owner = self._owner()
        if owner is not None:
            owner.terminate()


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


class AsyncpgConnection(asyncpg.Connection):  # type: ignore[misc]
    """An asyncpg connection whose transactions are bound to a tenant."""

    def __init__(self, protocol: Any, transport: asyncio.Transport, *arguments: Any) -> None:
        self.gate = Gate(protocol, transport, self)
        self._names = secrets.token_hex(12)
        self._named = 0
        self._hooks_before: tuple[Any, ...] = ()
        super().__init__(self.gate, transport, *arguments)
        config = self._config
        self._stmt_cache: HomeCache = HomeCache(
            loop=self._loop,
            max_size=config.statement_cache_size,
            on_remove=partial(_weak_maybe_gc_stmt, weakref.ref(self)),
            max_lifetime=config.max_cached_statement_lifetime,
        )

    async def ready(self, *, pooler: bool = False, home: str = "") -> None:
        """Prepare the binding; see :meth:`Gate.ready`."""
        self._stmt_cache.apart = await self.gate.ready(pooler=pooler, home=home)

    def bind_to(self, mint: Mint, guard: Guard | None = None, home: str = "") -> None:
        """Bind the transactions that follow.

        Args:
            mint: makes the token for each transaction.
            guard: is called before each statement.
            home: the schema of the tenant.

        Raises:
            CrossedTenants: a transaction is open; its statements would still belong to the tenant that it is bound to.
        """
        if self.gate.is_in_transaction():
            raise CrossedTenants(
                "a connection was bound anew while its transaction is open", hint="commit or roll back first"
            )
        self._hooks_before = self._hooks()
        self.gate.mint = mint
        self.gate.guard = guard
        self._stmt_cache.home = home

    def unbind(self) -> None:
        """Bind no more; what begins now is bound to nobody."""
        self.gate.mint = self.gate.guard = None

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
