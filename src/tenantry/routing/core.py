"""What the sync and the async router share. It does no I/O: it turns a tenant and the view's data into a way to go."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import psycopg

from tenantry.catalog.fleet_view import ActiveKey, FleetView
from tenantry.context import Scope, current_scope, current_tenant
from tenantry.errors import (
    BindingRefused,
    CrossedTenants,
    DirtyBackend,
    InvalidSettings,
    ReplicaBehind,
    ServerFull,
    ServerUnreachable,
    ShardNotFound,
    TenantDeleted,
    TenantMoved,
    TenantNotReady,
    TenantSuspended,
)
from tenantry.model import Isolation, Mode, Placement, Replica, Tenant, TenantState
from tenantry.perimeter.connection import BoundConnectionMixin, Guard, Mint
from tenantry.perimeter.replica import Ended, Floor, Log
from tenantry.perimeter.token import Signer
from tenantry.postgres.connect import merge_dsn
from tenantry.postgres.discretion import hushed
from tenantry.postgres.forks import in_child
from tenantry.routing.parameters import checked
from tenantry.routing.replicas import Replicas, text
from tenantry.routing.sessions import as_options
from tenantry.settings import Settings, load

STARTUP_OPTIONS = " ".join(
    f"-c {setting}"
    for setting in (
        "statement_timeout=0",
        "lock_timeout=0",
        "idle_in_transaction_session_timeout=0",
        "local_preload_libraries=",
    )
)
"""A role may change its own defaults (``ALTER ROLE ... SET``), so injected SQL could stop every connection of the
application. What stands in the startup packet wins; the plan's limits come with the binding."""

OWN_DATABASE_CONNECTIONS = 4
"""The most connections of one process to a database that a tenant has for itself."""

GROW_SECONDS = 0.1
"""How often a process asks for one more connection of a server that had none left. Who was refused waits longer than
that: so the last one who was refused is always one who tries again."""

POOLER_SESSIONS = 200
"""How many sessions a pooler may have to one database; a dirty one is discarded by who meets it."""

_PAUSES = 2 * GROW_SECONDS, 1.0
_MOVE_PAUSES = 0.0005, 0.05

_ROUTES = 2_000  # that are kept; about a kilobyte each
_BACKENDS = 16  # of one database whose tokens are kept
_SPARING = 6  # a token is given again for this part of its life


@dataclass(frozen=True, slots=True)
class Target:
    """A database that an application's process connects to."""

    shard: str
    database: str
    role: str
    dsn: str = field(repr=False)
    size: int
    replica: str | None = None

    def __hash__(self) -> int:
        return hash(self.dsn)  # which a string keeps; all fields would be gone through each time

    @property
    def server(self) -> tuple[str, str | None]:
        """Which server it is on."""
        return self.shard, self.replica

    @property
    def name(self) -> str:
        """For messages: ``shard/database``, or ``shard:replica/database``."""
        return f"{self.shard}{f':{self.replica}' if self.replica else ''}/{self.database}"


@dataclass(frozen=True, slots=True)
class Route:
    """The way of one tenant's transactions: where to, and with what a connection is bound to the tenant.

    Args:
        code: of the tenant, as it stands in the token.
        schema: where its tables are.
        home: the same, if it is the tenant's own in a database that it shares.
    """

    tenant: Tenant
    mode: Mode
    target: Target
    code: str
    schema: str
    home: str | None
    key: ActiveKey
    mint: Mint = field(repr=False)
    guard: Guard = field(repr=False)
    ended: Ended | None = None
    floor: Floor | None = None
    """Of a way to a replica: what it must have replayed."""
    age: float = 0.0
    parameters: Mapping[str, str] | None = None
    """Of sessions: those that travel with the binding."""

    def bind(self, conn: BoundConnectionMixin) -> None:
        """Let a connection's next transactions be the tenant's."""
        conn.bind_to(self.mint, self.guard, self.code, self.schema, self.floor, self.ended, self.parameters)


class RouterCore:
    """The decisions of a router.

    Args:
        settings: of this process; None: ``tenantry.toml`` and the environment.
        parameters: of sessions, besides those of the settings; the same name wins over them.

    Raises:
        InvalidSettings: a setting is missing or wrong, or a parameter is not taken.

    Attributes:
        parameters: of sessions.
    """

    _routes: tuple[FleetView | None, dict[tuple[int, bool], Route]]

    def __init__(self, settings: Settings | None = None, *, parameters: Mapping[str, str] | None = None) -> None:
        self.settings = settings or load()
        _check_prepares(self.settings)
        wanted = {**self.settings.parameters, **(parameters or {})}
        self.parameters = checked(wanted, pooler=self.settings.pooler)
        self._signers: tuple[ActiveKey, Signer] | None = None
        self._targets: tuple[FleetView | None, dict[tuple[str, str, bool, str | None], Target]] = None, {}
        self._forget_routes()
        in_child(self._forget_routes)  # they know the process that they were made in
        self.replicas = Replicas()

    def way(self, scope: Scope, tenant: Tenant, fleet: FleetView) -> Route:
        """The way of a scope's transaction: to a replica if it only reads and one will do, else to the primary.

        Args:
            tenant: that of the scope, as the view knows it.

        Raises:
            TenantNotReady, TenantSuspended, TenantDeleted: it may not work now.
            ShardNotFound: the view does not know the shard, or its login.
            InvalidInput: the scope's ``after`` is not what ``last_write`` has returned.
        """
        route = self.route(tenant, scope.mode, fleet)
        if route.ended is None or scope.mode is not Mode.READ_ONLY:
            return route
        shard, seconds = route.target.shard, fleet.plan(tenant.plan).replica_seconds
        found = self.replicas.floor(tenant.id, shard, seconds, scope.after)
        if found is None:
            return route
        replica = self.replicas.choose(tenant.id, fleet.replicas[shard], found[1])
        if replica is None:
            return route
        floor = Floor(text(found[0]), round(self.settings.replica_wait * 1000))
        target = self.target(tenant, fleet, replica)
        return replace(route, target=target, ended=None, floor=floor, age=found[1])

    def back(self, error: Exception, route: Route, fleet: FleetView) -> Route:
        """The way to the primary, after a replica did not answer a read.

        Args:
            error: why.
        """
        shard, replica = route.target.server
        assert replica is not None
        if isinstance(error, ReplicaBehind):
            self.replicas.behind(shard, replica, route.age, fleet.plan(route.tenant.plan).replica_seconds)
        elif isinstance(error, (ServerUnreachable, BindingRefused)):
            self.replicas.away(shard, replica)
        return self.route(route.tenant, route.mode, fleet)

    def last_write(self, tenant: Tenant | None = None) -> str | None:
        """What reads elsewhere must see to see what a tenant has written in this process: a text to be kept, in the
        session of who has written for instance, and given to ``tenant_scope(..., after=...)``.

        Args:
            tenant: the tenant; None: that of the current scope.

        Returns:
            None: it has written nothing lately that replicas might not have replayed, or does not read from replicas.

        Raises:
            NoTenant: there is no scope, and no tenant is given.
        """
        return self.replicas.last_write((current_tenant() if tenant is None else tenant).id)

    def route(self, tenant: Tenant, mode: Mode, fleet: FleetView) -> Route:
        """The way to a tenant. As long as the view knows nothing new, it is the same one.

        Raises:
            TenantNotReady, TenantSuspended, TenantDeleted: it may not work now.
            ShardNotFound: the view does not know the shard, or its login.
        """
        known, routes = self._routes
        if known is not fleet or len(routes) >= _ROUTES:
            self._routes = fleet, (routes := {})
        key = id(tenant), mode is Mode.READ_ONLY  # a route keeps its tenant, so nobody else gets its id
        found = routes.get(key)
        if found is None:
            found = routes[key] = self._route(tenant, mode, fleet)
        return found

    def _forget_routes(self) -> None:
        self._routes = None, {}

    def _route(self, tenant: Tenant, mode: Mode, fleet: FleetView) -> Route:
        target = self.target(tenant, fleet)
        mint = self.mint(tenant, target, mode, fleet)
        placement = admitted(tenant)
        return Route(
            tenant,
            mode,
            target,
            code=tenant.code,
            schema=placement.schema,
            home=placement.schema if placement.isolation is Isolation.SCHEMA else None,
            key=fleet.signing_key(),
            mint=mint,
            guard=guard(tenant),
            ended=self._teller(tenant, mode, fleet),
            parameters=self.bound_parameters(),
        )

    def _teller(self, tenant: Tenant, mode: Mode, fleet: FleetView) -> Ended | None:
        """What learns from a commit on the primary what reads from replicas need to know; None: there are none."""
        shard, plan = admitted(tenant).shard, fleet.plans.get(tenant.plan)
        if plan is None or not plan.replica_seconds or not fleet.replicas.get(shard):
            return None
        return Teller(self, tenant.id, shard, plan.replica_seconds, wrote=mode is Mode.READ_WRITE)

    def target(self, tenant: Tenant, fleet: FleetView, replica: Replica | None = None) -> Target:
        """The database where a tenant lives, with the application's login.

        Args:
            replica: on this replica of the shard; None: on the primary.

        Raises:
            TenantNotReady, TenantSuspended, TenantDeleted: it may not work now.
            ShardNotFound: the view does not know the shard, or its login.
        """
        placement = admitted(tenant)
        own = placement.isolation is Isolation.DATABASE
        known = self._targets
        if known[0] is not fleet:
            known = self._targets = fleet, {}
        place = placement.shard, placement.database, own, None if replica is None else replica.name
        found = known[1].get(place)
        if found is None:
            found = known[1][place] = self._target(placement, own, fleet, replica)
        return found

    def _target(self, placement: Placement, own: bool, fleet: FleetView, replica: Replica | None) -> Target:
        shard = fleet.shard(placement.shard)
        login = fleet.logins.get(shard.name)
        if login is None:
            raise ShardNotFound(
                f"the shard {shard.name!r} has no login for the application", hint="run 'tenantry perimeter apply'"
            )
        seconds = self.settings.connect_seconds if replica is None else 0  # the primary can answer, too
        dsn = merge_dsn(
            shard.dsn if replica is None else replica.dsn,
            dbname=placement.database,
            user=login.role,
            password=login.password,
            application_name=self.parameters.get("application_name", "tenantry"),
            connect_timeout=max(2, round(seconds)),
            # A pooler between would refuse them.
            options=None if self.settings.pooler else f"{STARTUP_OPTIONS} {as_options(self._others())}".rstrip(),
        )
        size = min(OWN_DATABASE_CONNECTIONS, self.settings.pool_size) if own else self.settings.pool_size
        return Target(shard.name, placement.database, login.role, dsn, size, None if replica is None else replica.name)

    def bound_parameters(self) -> Mapping[str, str] | None:
        """The session parameters that travel with each binding, because no startup packet has them."""
        return self._others() if self.settings.pooler else None

    def _others(self) -> Mapping[str, str]:
        return {name: value for name, value in self.parameters.items() if name != "application_name"}

    def mint(self, tenant: Tenant, target: Target, mode: Mode, fleet: FleetView) -> Callable[[int], str]:
        """What makes a token for each transaction, given the backend's process id."""
        key = fleet.signing_key()
        if self._signers is None or self._signers[0] != key:
            self._signers = key, Signer(key.kid, key.key, self.settings.token_seconds)
        signer = self._signers[1]
        code, epoch = tenant.code, admitted(tenant).epoch
        database, role, pooler = target.database, target.role, self.settings.pooler

        def mint(pid: int) -> str:
            return signer.mint(code, database, role, mode=mode, epoch=epoch, pid=0 if pooler else pid)

        return sparing(mint, self.settings.token_seconds / _SPARING)

    def attempts(self, route: Route) -> Attempts:
        """For one transaction that has not begun yet."""
        sessions = POOLER_SESSIONS if self.settings.pooler else route.target.size
        return Attempts(sessions, self.settings.connect_seconds)

    def scope(self, tenant: Tenant | None, mode: Mode | None) -> Scope:
        """The scope that a transaction is for: the one given, or the current one.

        Raises:
            NoTenant: neither is there.
            CrossedTenants: a tenant is given inside the scope of another.
        """
        current = current_scope()
        if tenant is None and mode is None and current is not None:
            return current
        if tenant is None:
            tenant = current_tenant()
        elif current is not None and current.tenant.id != tenant.id:
            raise CrossedTenants("a transaction of one tenant was asked for in the scope of another")
        wanted = mode or (current.mode if current is not None else Mode.READ_WRITE)
        if current is not None and current.mode is Mode.READ_ONLY:
            wanted = Mode.READ_ONLY
        return Scope(tenant, wanted, current.after if current is not None else None)


def _check_prepares(settings: Settings) -> None:
    if settings.pooler_prepares and not settings.pooler:
        raise InvalidSettings("setting 'pooler_prepares' is for a pooler", hint="set pooler = true as well, or neither")
    if settings.pooler_prepares and not psycopg.capabilities.has_send_close_prepared():
        raise InvalidSettings(
            "this libpq can't free prepared statements through a pooler",
            hint="use libpq 17 or later: pip install 'psycopg[binary]'; or leave out pooler_prepares",
        )


class Attempts:
    """How often a transaction is begun anew before its error becomes the caller's.

    Args:
        sessions: how many sessions of the server may be met; each may have been left dirty.
        seconds: how long to wait for a server that has no connection left.
    """

    def __init__(self, sessions: int, seconds: float) -> None:
        self._sessions = sessions
        self._until = time.monotonic() + seconds
        self._pause = _PAUSES[0]
        self._move_pause = _MOVE_PAUSES[0]
        self._made: Counter[type[Exception]] = Counter()

    def allow(self, error: Exception, *, lost: bool) -> bool:
        """Whether another attempt makes sense.

        Args:
            error: why the transaction did not begin.
            lost: whether the connection has ended.
        """
        match error:
            case DirtyBackend():
                most = self._sessions + 1
            case TenantMoved():
                return time.monotonic() < self._until
            case BindingRefused() | ServerUnreachable():
                most = 1
            case _:
                most = 3 if lost else 0
        self._made[type(error)] += 1
        return self._made[type(error)] <= most

    def pause_for_move(self) -> float:
        """How long to wait for the catalog to say where a tenant is that has just left, seconds. It soon does."""
        self._move_pause = min(self._move_pause * 2, _MOVE_PAUSES[1])
        return self._move_pause

    def pause(self) -> float | None:
        """How long to wait before the next attempt to connect, seconds; None: no longer.

        It grows, and is never the same twice: processes that were refused at one moment come back at different ones.
        """
        now = time.monotonic()
        if now >= self._until:
            return None
        pause = self._pause * (0.75 + random.random() / 2)  # noqa: S311 - no secret
        self._pause = min(self._pause * 2, _PAUSES[1])
        return min(pause, self._until - now)


class Teller:
    """Tells what is known of a shard's replicas of one transaction on the primary; see :meth:`Replicas.ended`."""

    __slots__ = ("_router", "_seconds", "_shard", "_tenant", "_wrote")

    def __init__(self, router: RouterCore, tenant: UUID, shard: str, seconds: int, *, wrote: bool) -> None:
        self._router = router
        self._tenant = tenant
        self._shard = shard
        self._seconds = seconds
        self._wrote = wrote

    def __call__(self, asked: float, log: Log | None, committed: bool) -> None:
        wrote = committed and self._wrote
        self._router.replicas.ended(self._tenant, self._shard, self._seconds, asked, log, wrote=wrote)


def sparing(mint: Mint, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> Mint:
    """Mints no other token for a backend until the last one is so old.

    A token is good for many transactions anyway, for as long as it is good at all.

    Args:
        mint: makes a new one.
        seconds: how long the last one is given again. What is left of its life is enough for a transaction to begin.
        clock: seconds, for tests.
    """
    minted: dict[int, tuple[float, str]] = {}

    def again(pid: int) -> str:
        now = clock()
        until, token = minted.get(pid, (0.0, ""))
        if now >= until:
            if len(minted) >= _BACKENDS:
                minted.clear()
            token = mint(pid)
            minted[pid] = now + seconds, token
        return token

    return again


def admitted(tenant: Tenant) -> Placement:
    """The placement of a tenant that may work now.

    Raises:
        TenantNotReady, TenantSuspended, TenantDeleted: it may not.
    """
    if tenant.state is TenantState.SUSPENDED:
        raise TenantSuspended(f"the tenant {tenant.slug!r} is suspended")
    if tenant.state in (TenantState.DELETING, TenantState.DELETED):
        raise TenantDeleted(f"the tenant {tenant.slug!r} is deleted")
    if tenant.placement is None or tenant.state is TenantState.PROVISIONING:
        raise TenantNotReady(f"the tenant {tenant.slug!r} is still being provisioned")
    return tenant.placement


def guard(tenant: Tenant) -> Guard:
    """What refuses a statement of this tenant's connection in the scope of another tenant, and in another process."""
    pid, own = os.getpid(), tenant.id

    def check() -> None:
        if os.getpid() != pid:
            raise CrossedTenants(
                "a connection was used in a child of the process that opened it",
                hint="fork outside of transactions; the child then opens its own connections",
            )
        scope = current_scope()
        if scope is not None and scope.tenant is not tenant and scope.tenant.id != own:
            raise CrossedTenants("a connection of one tenant was used in the scope of another")

    return check


def is_reusable(conn: BoundConnectionMixin) -> bool:
    """Whether a connection that comes back may serve somebody else: in doubt it may not.

    This is about the driver's side; what SQL may have left on the server, the binder sees.
    """
    if conn.closed or conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE or conn.autocommit:
        return False
    options: tuple[Any, ...] = conn.isolation_level, conn.read_only, conn.deferrable
    return all(option is None for option in options)


def unreachable(target: Target, error: Exception) -> ServerUnreachable:
    """What it means that no connection could be made. The error becomes its cause."""
    hushed(error)
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("Is the server running")]
    reason = said[-1] if said else "no reason"
    if any(words in reason for words in _FULL):
        return ServerFull(f"the shard has no connection left: {reason}", where=target.name)
    hint = _POOLER if "unsupported startup parameter" in reason else None
    if "for parameter" in reason:
        hint = _PARAMETER
    return ServerUnreachable(f"the shard does not answer: {reason}", where=target.name, hint=hint)


_PARAMETER = "correct 'parameters' in tenantry.toml, or TENANTRY_PARAMETERS"
_FULL = ("too many clients", "too many connections", "connection slots are reserved", "no more connections allowed")
"""The server's and PgBouncer's words; a client is not told the code of an error that ends its login."""

_POOLER = "a pooler stands before the shard: set pooler = true in tenantry.toml, or TENANTRY_POOLER=true"
