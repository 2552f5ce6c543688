"""The base class of tasks that run for tenants."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Any, Literal, NoReturn, get_args

from celery import Celery, Task
from celery.exceptions import Reject

from tenantry.context import current_scope, no_tenant_scope
from tenantry.errors import (
    CrossedTenants,
    InvalidInput,
    InvalidSettings,
    NoTenant,
    TenantDeleted,
    TenantryError,
    TenantUnavailable,
    Unavailable,
)
from tenantry.integrations.celery.canvas import pinned
from tenantry.integrations.celery.headers import Recipient, without
from tenantry.model import Tenant, shown
from tenantry.routing.router import Router

log = logging.getLogger("tenantry.celery")

WhenRefused = Literal["fail", "retry", "reject"]
"""What becomes of a task whose tenant may not work now: see :attr:`TenantTask.refused`."""

_SCOPE = "tenantry_scope"


class TenantTask(Task):  # type: ignore[type-arg]
    """A task that runs in the scope of the tenant that it was sent for.

    ``Tenantry(app, router)`` makes it the base of all tasks; a base class of your own derives from it, and calls
    ``super()`` in ``before_start``, ``apply`` and ``apply_async``.

    Attributes:
        tenant: ``True``: the task needs a tenant; ``False``: it runs for nobody, whoever sends it; ``"optional"``: it
            runs for the tenant of the scope in which it is sent, or for nobody outside of one.
        refused: if the tenant may not work when the task is about to run: ``"fail"``; ``"retry"`` as often and as late
            as the task's own ``max_retries`` and ``default_retry_delay`` say, if it may change (suspended, not ready,
            catalog out of reach); ``"reject"`` the message, which needs ``acks_late``: brokers with a dead-letter queue
            keep it there. None: as the application says.
    """

    abstract = True
    tenant: bool | Literal["optional"] = True
    refused: WhenRefused | None = None

    @classmethod
    def bind(cls, app: Celery[Any]) -> Celery[Any]:
        """Called by Celery when the task is registered.

        Raises:
            InvalidInput: ``tenant`` or ``refused`` has another value, or messages can't be rejected.
        """
        bound = super().bind(app)
        check_refused(cls.refused)
        if cls.tenant not in (True, False, "optional"):
            raise InvalidInput(
                f"tenant is {shown(cls.tenant)}",
                where=cls.name,
                hint="use True, False or 'optional': what the task needs",
            )
        if cls.refused == "reject" and not cls.acks_late:
            raise InvalidInput(
                "a message can't be rejected when its task begins: it was acknowledged before",
                where=cls.name,
                hint="add acks_late=True to the task",
            )
        return bound

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        *more: Any,
        tenant: Tenant | str | None = None,
        headers: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Send the task, for the tenant of the scope.

        Args:
            tenant: for this one (a tenant or its slug) where there is no scope, as in a beat schedule.

        Raises:
            NoTenant: the task needs a tenant, and there is none.
            CrossedTenants: ``tenant`` is not that of the scope.
        """
        addressed = self._addressed(headers, tenant)
        return super().apply_async(args, kwargs, *more, headers=addressed, **options)

    def apply(  # type: ignore[override]
        self,
        args: Any = None,
        kwargs: Any = None,
        link: Any = None,
        link_error: Any = None,
        *more: Any,
        tenant: Tenant | str | None = None,
        headers: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Run the task here, in a scope of its own; as ``apply_async`` otherwise."""
        addressed = self._addressed(headers, tenant)
        recipient = Recipient.read(addressed) or Recipient()
        after = Recipient.of(current_scope()) if recipient.is_nobody else recipient
        link, link_error = pinned(link, after), pinned(link_error, after)
        return super().apply(args, kwargs, link, link_error, *more, headers=addressed, **options)  # type: ignore[misc]

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called by Celery where the task begins: enter the tenant's scope, which lasts until its callbacks are sent.

        Raises:
            TenantNotFound, TenantSuspended, TenantDeleted, TenantNotReady: the tenant may not work now.
            NoTenant, Unresolved: the message names nobody, or nothing that could be a tenant.
            ServerUnreachable: the catalog does not answer.
        """
        scope = vars(self.request)[_SCOPE] = ExitStack()
        try:
            self._enter(scope)
        except TenantryError as error:
            self._refuse(error)
        super().before_start(task_id, args, kwargs)

    def _addressed(self, headers: dict[str, Any] | None, tenant: Tenant | str | None) -> dict[str, Any]:
        """Headers that say for whom the task runs."""
        if self.tenant is False:
            return without(headers) | Recipient().headers
        recipient = self._named(tenant) or Recipient.read(headers) or Recipient.of(current_scope())
        if recipient.is_nobody and self._needs_tenant:
            raise NoTenant(
                f"the task {self.name} was sent outside of a tenant scope",
                hint="send it inside of one, or with apply_async(tenant='acme'); declare it with tenant=False if it is"
                " for nobody",
            )
        return without(headers) | recipient.headers

    def _named(self, tenant: Tenant | str | None) -> Recipient | None:
        """The tenant that was given, unless the scope says the same."""
        if tenant is None:
            return None
        recipient, scope = Recipient.named(tenant), current_scope()
        if scope is None:
            return recipient
        if recipient.tenant not in (scope.tenant.id, scope.tenant.slug):
            raise CrossedTenants(
                "a task for one tenant was sent in the scope of another",
                where=self.name,
                hint="enter the other tenant's scope, and send it there",
            )
        return None

    @property
    def _needs_tenant(self) -> bool:
        """Celery's own tasks, such as ``celery.chord_unlock``, go along with the application's."""
        return self.tenant is True and not self.name.startswith("celery.")

    def _enter(self, scope: ExitStack) -> None:
        recipient = Recipient.read(self.request.headers) or Recipient()
        if self.tenant is False or (recipient.is_nobody and not self._needs_tenant):
            scope.enter_context(no_tenant_scope())
            return
        if recipient.is_nobody:
            raise NoTenant(
                f"a message for the task {self.name} names no tenant",
                hint="send it inside of a tenant scope; declare it with tenant=False if it is for nobody",
            )
        router: Router = _extension(self.app).router
        tenant = recipient.tenant
        found = router.find(tenant) if isinstance(tenant, str) else router.find(tenant_id=tenant)
        scope.enter_context(router.tenant_scope(found, mode=recipient.mode, after=recipient.after))

    def _refuse(self, error: TenantryError) -> NoReturn:
        passing = isinstance(error, TenantUnavailable | Unavailable) and not isinstance(error, TenantDeleted)
        match self.refused or _extension(self.app).refused:
            case "retry" if passing:
                raise self.retry(exc=error)
            case "reject":
                log.warning("the task %s is rejected: %s", self.name, error.message, extra={"hint": error.hint})
                raise Reject(error, requeue=False) from error
            case _:
                raise error


def leave(task: TenantTask) -> None:
    """End the scope of the task that has run."""
    scope: ExitStack | None = vars(task.request).pop(_SCOPE, None)
    if scope is not None:
        scope.close()


def check_refused(value: object) -> None:
    """Raise InvalidInput if a task can't be refused in this way."""
    if value is not None and value not in get_args(WhenRefused):
        raise InvalidInput(f"refused is {shown(value)}", hint=f"use one of {', '.join(get_args(WhenRefused))}")


def _extension(app: Any) -> Any:
    try:
        return app.tenantry
    except AttributeError:
        raise InvalidSettings(
            f"the Celery application {app.main!r} has no router", hint="call Tenantry(app, router) after making it"
        ) from None
