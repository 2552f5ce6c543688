"""Every error that Tenantry raises, in one tree.

Each has a stable ``code`` (for programs), a message that says what was wrong, ``where`` (the object it is about), a
``hint`` that says what to do next, the HTTP ``status`` that a web face answers with and the ``exit_code`` of the CLI.

    TenantryError                       500  exit 1
    ├── InvalidInput                    422  exit 2
    │   ├── InvalidSlug
    │   ├── InvalidKey
    │   └── InvalidSettings
    ├── NotFound                        404  exit 3
    │   ├── TenantNotFound
    │   ├── PlanNotFound
    │   ├── ShardNotFound
    │   └── OperationNotFound
    ├── Conflict                        409  exit 4
    │   ├── SlugTaken
    │   ├── KeyTaken
    │   ├── OperationOpen
    │   └── InUse
    ├── Unresolved                      400  exit 2
    │   ├── NoTenant                    404
    │   ├── ConflictingTenants          400
    │   └── InvalidClaim                401
    ├── TenantUnavailable               503  exit 4
    │   ├── TenantSuspended             403
    │   ├── TenantDeleted               410
    │   ├── TenantNotReady              503
    │   └── TenantMoved                 503
    ├── PerimeterError                  500  exit 1
    │   ├── Unbound
    │   ├── BindingRefused
    │   ├── CrossedTenants
    │   ├── DirtyBackend
    │   └── PerimeterBroken
    ├── Unavailable                     503  exit 5
    │   ├── ServerUnreachable
    │   │   └── ServerFull
    │   ├── ServerUnsuitable
    │   ├── ReplicaBehind
    │   └── NoCapacity
    ├── OperationFailed                 500  exit 1
    │   └── StreamBroken
    └── MissingDependency               500  exit 6
"""

from __future__ import annotations

from typing import Any, ClassVar


class TenantryError(Exception):
    """The root: catch it to catch all.

    Args:
        message: what was wrong, in one sentence.
        where: the object that it is about (a tenant, a table, a server), if it is not in the message.
        hint: what to do next; each class has a default.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str | None] = None

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint if hint is not None else self.default_hint

    def as_dict(self) -> dict[str, Any]:
        """The error as JSON-ready data; keys without a value are left out."""
        parts = {"code": self.code, "message": self.message, "where": self.where, "hint": self.hint}
        return {name: value for name, value in parts.items() if value is not None}


class InvalidInput(TenantryError):
    """A value from outside has the wrong type, form or size."""

    code = "invalid-input"
    status = 422
    exit_code = 2


class InvalidSlug(InvalidInput):
    """A slug is not a DNS label."""

    code = "invalid-slug"
    default_hint = "use 1 to 63 characters of a-z, 0-9 and '-', not starting or ending with '-'"


class InvalidKey(InvalidInput):
    """A tenant key does not have the type that this house uses."""

    code = "invalid-key"


class InvalidSettings(InvalidInput):
    """tenantry.toml or the environment holds a wrong value."""

    code = "invalid-settings"


class NotFound(TenantryError):
    """The thing that was named does not exist."""

    code = "not-found"
    status = 404
    exit_code = 3


class TenantNotFound(NotFound):
    """No tenant has this slug, key or domain."""

    code = "tenant-not-found"
    default_hint = "list the tenants with 'tenantry tenant list'"


class PlanNotFound(NotFound):
    """No plan has this name."""

    code = "plan-not-found"
    default_hint = "list the plans with 'tenantry plan list'"


class ShardNotFound(NotFound):
    """No shard has this name."""

    code = "shard-not-found"
    default_hint = "list the shards with 'tenantry shard list'"


class OperationNotFound(NotFound):
    """No operation has this id."""

    code = "operation-not-found"


class Conflict(TenantryError):
    """What was asked for contradicts what is there."""

    code = "conflict"
    status = 409
    exit_code = 4


class SlugTaken(Conflict):
    """Another tenant has this slug."""

    code = "slug-taken"
    default_hint = "choose another slug; a deleted tenant's slug is free once its deletion has finished"


class KeyTaken(Conflict):
    """Another tenant has, or had, this key. Keys are never used twice."""

    code = "key-taken"


class OperationOpen(Conflict):
    """The tenant already has an operation that has not ended."""

    code = "operation-open"
    default_hint = "wait for it, or run 'tenantry worker' if the process that ran it has died"


class InUse(Conflict):
    """The thing can't be removed or changed while tenants use it."""

    code = "in-use"


class Unresolved(TenantryError):
    """It could not be decided which tenant a request belongs to."""

    code = "unresolved"
    status = 400
    exit_code = 2


class NoTenant(Unresolved):
    """Nothing names a tenant: no resolver had an answer, or code runs outside a tenant scope."""

    code = "no-tenant"
    status = 404
    default_hint = "enter one with 'with tenant_scope(tenant):', or put TenantMiddleware in front of the application"


class ConflictingTenants(Unresolved):
    """Two resolvers named different tenants."""

    code = "conflicting-tenants"
    default_hint = "send the request to the host of the tenant that its token, header or path names"


class InvalidClaim(Unresolved):
    """A token that should name the tenant is missing, malformed, expired or has a wrong signature."""

    code = "invalid-claim"
    status = 401


class TenantUnavailable(TenantryError):
    """The tenant exists, but may not work now."""

    code = "tenant-unavailable"
    status = 503
    exit_code = 4


class TenantSuspended(TenantUnavailable):
    """An operator has suspended the tenant."""

    code = "tenant-suspended"
    status = 403
    default_hint = "resume it with 'tenantry tenant resume SLUG'"


class TenantDeleted(TenantUnavailable):
    """The tenant has been deleted, or waits for its deletion."""

    code = "tenant-deleted"
    status = 410
    default_hint = "until the grace period ends, 'tenantry tenant resume SLUG' brings it back"


class TenantNotReady(TenantUnavailable):
    """The tenant is still being provisioned."""

    code = "tenant-not-ready"
    default_hint = "try again in a moment; if it stays so, run 'tenantry worker --once' and read 'tenantry doctor'"


class TenantMoved(TenantUnavailable):
    """The database says that the tenant does not live there at this epoch. Routers refresh their view and try again."""

    code = "tenant-moved"
    default_hint = "refresh the view of the catalog and try again; a router does so by itself"


class PerimeterError(TenantryError):
    """Something would have crossed the wall around a tenant."""

    code = "perimeter"


class Unbound(PerimeterError):
    """A statement touched a tenant table in a transaction that no tenant is bound to."""

    code = "unbound"
    default_hint = "run it inside a tenant scope, through a router or an engine of Tenantry"


class BindingRefused(PerimeterError):
    """The database refused the token: malformed, expired, for another session, or signed with an unknown key."""

    code = "binding-refused"
    default_hint = "compare the clocks of the application and the database, and run 'tenantry doctor'"


class CrossedTenants(PerimeterError):
    """A connection or transaction of one tenant was used in the scope of another."""

    code = "crossed-tenants"
    default_hint = "close the session of the outer scope before entering another tenant's, or open a second session"


class DirtyBackend(PerimeterError):
    """A pooled server process carries prepared statements, cursors or temporary objects that SQL made in an earlier
    transaction."""

    code = "dirty-backend"
    default_hint = (
        "the connection is discarded; find the statement that made them (PREPARE, DECLARE ... WITH HOLD, TEMP)"
    )


class PerimeterBroken(PerimeterError):
    """The wall has a hole: see the findings."""

    code = "perimeter-broken"
    default_hint = "read 'tenantry perimeter check' and close it with 'tenantry perimeter apply'"


class Unavailable(TenantryError):
    """A server that is needed can't serve."""

    code = "unavailable"
    status = 503
    exit_code = 5


class ServerUnreachable(Unavailable):
    """A PostgreSQL server doesn't answer, or refuses the login."""

    code = "server-unreachable"
    default_hint = "check host, port, user and password of the DSN, and that the server listens there"


class ServerFull(ServerUnreachable):
    """A PostgreSQL server, or a pooler, has no connection left. Routers wait for one before they say so."""

    code = "server-full"
    default_hint = "raise max_connections of the server, lower the setting pool_budget, or put a pooler between"


class ServerUnsuitable(Unavailable):
    """A PostgreSQL server is too old, or lacks what is needed."""

    code = "server-unsuitable"


class ReplicaBehind(Unavailable):
    """A replica has not replayed what a read must see, or is none any more. Routers read from the primary instead."""

    code = "replica-behind"
    default_hint = "read from the primary; 'tenantry doctor' shows how far behind each replica is"


class NoCapacity(Unavailable):
    """No open shard takes another tenant of this isolation, or a pool's bound is reached."""

    code = "no-capacity"
    default_hint = "add a shard with 'tenantry shard add', or open one with 'tenantry shard open'"


class OperationFailed(TenantryError):
    """A step of an operation failed; the operation has stopped and can be run again."""

    code = "operation-failed"


class StreamBroken(OperationFailed):
    """The changes that came from a source are not what a source sends, or do not fit their destination."""

    code = "stream-broken"
    default_hint = "the stream has to begin again with a new snapshot"


class MissingDependency(TenantryError):
    """An optional package is not installed.

    Args:
        package: what can't be imported.
        extra: the extra of Tenantry that brings it.
    """

    code = "missing-dependency"
    exit_code = 6

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed", hint=f"pip install 'tenantry[{extra}]'")
        self.package = package
        self.extra = extra

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.package, self.extra)
