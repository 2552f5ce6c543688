"""What makes a Celery application carry tenants."""

from __future__ import annotations

import logging
from typing import Any, cast
from uuid import UUID

from celery import Celery, signals

from tenantry.context import current_scope
from tenantry.errors import InvalidInput
from tenantry.integrations.celery.canvas import pin_embedded
from tenantry.integrations.celery.headers import AFTER, Recipient
from tenantry.integrations.celery.task import TenantTask, WhenRefused, check_refused, leave
from tenantry.model import shown
from tenantry.routing.router import Router

log = logging.getLogger("tenantry.celery")


class Tenantry:
    """Gives every task of an application the tenant that it was sent for. It is ``app.tenantry`` from then on.

    Call it where the application is made, in the processes that send tasks as well as in workers. The router opens at
    its first use, so that a process that only sends needs no connection. Each process of a worker has its own
    connections, also where it was forked, and closes them when it ends.

    Args:
        app: the application; none of its tasks has been used yet.
        router: looks tenants up in the worker, and is there for the tasks themselves.
        refused: what becomes of a task whose tenant may not work now, unless the task says otherwise.

    Raises:
        InvalidInput: one of them is something else, or tasks were made already.
    """

    def __init__(self, app: Celery[Any], router: Router, *, refused: WhenRefused = "fail") -> None:
        if not isinstance(router, Router):
            raise InvalidInput(f"{shown(router)} is not a Router", hint="Tenantry(app, Router()): tasks are not async")
        if cast("Any", app).finalized:
            raise InvalidInput(
                f"tasks of the Celery application {app.main!r} are made already",
                hint="call Tenantry(app, router) in the line after app = Celery(...)",
            )
        check_refused(refused)
        self.app = app
        self.router = router
        self.refused = refused
        cast("Any", app).tenantry = self
        _rebase(app)
        # Signals hold on to methods weakly, so that all of it ends with the application. Without an id of its own, the
        # method of a second application would be taken for the first one's, and left out.
        mine = f"tenantry {id(self)}"
        signals.before_task_publish.connect(self._address, dispatch_uid=mine)
        signals.task_postrun.connect(self._leave, dispatch_uid=mine)
        signals.worker_process_shutdown.connect(self._close, dispatch_uid=mine)
        signals.worker_shutdown.connect(self._close, dispatch_uid=mine)
        app.on_after_finalize.connect(self._look_over)

    def _address(self, headers: dict[str, Any], body: Any, **_: Any) -> None:
        """Say for whom a message is: also one that was sent by the task's name, with ``send_task``."""
        starter = Recipient.of(current_scope())
        recipient = Recipient.read(headers)
        if recipient is None:
            recipient = starter
            headers.update(recipient.headers)
        if isinstance(recipient.tenant, UUID) and (after := self.router.replicas.last_write(recipient.tenant)):
            headers[AFTER] = after
        if isinstance(body, tuple):  # version 2 of Celery's protocol
            pin_embedded(body[2], recipient, starter)

    def _leave(self, task: Any, **_: Any) -> None:
        if task.app is self.app:
            leave(task)

    def _close(self, **_: Any) -> None:
        self.router.close()

    def _look_over(self, **_: Any) -> None:
        """Celery swallows errors here. Such tasks have no tenant, so that nothing is open to them."""
        for task in self.app.tasks.values():
            if not isinstance(task, TenantTask):
                log.error(
                    "the task %s runs without a tenant: derive its base class from "
                    "tenantry.integrations.celery.TenantTask",
                    task.name,
                )


def _rebase(app: Celery[Any]) -> None:
    """Make TenantTask a base of all tasks, beside the class that the application has chosen."""
    chosen = app.Task
    bases = (chosen,) if issubclass(chosen, TenantTask) else (TenantTask, chosen)
    cast("Any", app).Task = type("Task", bases, {"abstract": True, "__module__": chosen.__module__})
