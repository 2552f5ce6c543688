"""A Celery application as a user of Tenantry writes it; workers of the tests import it.

The broker is a folder and so is the place of the results: nothing has to be installed or started.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_init

from tenantry import Router, Settings, current_tenant
from tenantry.context import current_scope
from tenantry.integrations.celery import Tenantry

FOLDER = Path(os.environ["TENANTRY_TEST_QUEUE"])
for name in ("messages", "control", "results", "marks"):
    (FOLDER / name).mkdir(parents=True, exist_ok=True)

app = Celery("shop")
app.conf.update(
    broker_url="filesystem://",
    broker_transport="tests.integrations.broker:Transport",
    broker_transport_options={
        "data_folder_in": str(FOLDER / "messages"),
        "data_folder_out": str(FOLDER / "messages"),
        "control_folder": str(FOLDER / "control"),
        "polling_interval": 0.02,
    },
    result_backend=f"tests.integrations.broker:Results+file://{FOLDER / 'results'}",
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
    worker_lost_wait=0.2,
    worker_prefetch_multiplier=32,
    broker_connection_retry_on_startup=True,
)
router = Router(Settings(catalog=os.environ["TENANTRY_TEST_CATALOG"]))
Tenantry(app, router)

parents: list[int] = []
"""The backends that the worker's main process has used before it forked."""


@worker_init.connect
def use_the_router_before_the_fork(**_: Any) -> None:
    with router.tenant_scope("pooled-a"), router.transaction() as conn:
        parents.append(conn.info.backend_pid)


def write(note: str) -> str:
    """An order of the current tenant; what its note says is who wrote it."""
    slug = current_tenant().slug
    with router.transaction() as conn:
        conn.execute("INSERT INTO orders (note) VALUES (%s)", (f"{slug}: {note}",))
    return slug


@app.task
def order(note: str) -> str:
    return write(note)


@app.task
def where(note: str) -> tuple[str, int, int, list[int]]:
    """As ``order``; the process, its backend, and those of its parent."""
    write(note)
    with router.transaction() as conn:
        return current_tenant().slug, os.getpid(), conn.info.backend_pid, parents


@app.task
def add(before: str | list[str], note: str) -> str:
    """One that follows on others, with their results."""
    return f"{before}+{write(note)}"


@app.task(bind=True, default_retry_delay=0)
def stubborn(self: Any, note: str) -> str:
    """Succeeds when it is tried for the third time."""
    slug = write(f"{note} {self.request.retries}")
    if self.request.retries < 2:
        raise self.retry()
    return slug


@app.task
def delegate(note: str) -> str:
    """Sends a task from inside of a task."""
    return str(order.delay(note).id)


@app.task(tenant=False)
def sweep() -> str | None:
    """For nobody, whoever sends it."""
    scope = current_scope()
    return scope.tenant.slug if scope else None


@app.task(tenant="optional")
def greet() -> str:
    scope = current_scope()
    return f"hello {scope.tenant.slug if scope else 'everybody'}"


@app.task
def fail(note: str) -> None:
    write(note)
    raise ZeroDivisionError(current_tenant().slug)


@app.task
def note_failure(task_id: str) -> None:
    """An errback that Celery sends as a task."""
    write(f"{task_id} sent")


@app.task
def note_failure_here(request: Any, error: Exception, traceback: Any) -> None:
    """An errback that Celery calls where the task has failed."""
    write(f"{request.id} called")


@app.task(acks_late=True, reject_on_worker_lost=True)
def die_once(mark: str) -> str:
    """The first time it takes its process with it."""
    file = FOLDER / "marks" / mark
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return write(mark)
    os._exit(1)


@app.task(refused="retry", default_retry_delay=1, max_retries=120)
def patient(note: str) -> str:
    return write(note)


@app.task(refused="retry", default_retry_delay=0, max_retries=1)
def impatient(note: str) -> str:
    return write(note)


@app.task(refused="reject", acks_late=True)
def picky(note: str) -> str:
    return write(note)
