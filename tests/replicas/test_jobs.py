"""What was written before a job was sent, the job sees, also where it reads from a replica."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from tenantry import Router, carry_to_process
from tenantry.integrations.celery import Tenantry
from tenantry.integrations.celery.headers import AFTER, TENANT
from tests.replicas.conftest import Replicated, notes, write


def application(router: Router, queue: str) -> Celery[Any]:
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_default_queue = queue
    Tenantry(app, router)

    def read() -> list[str]:
        with router.transaction(mode="ro") as conn:
            return [note for (note,) in conn.execute("SELECT note FROM orders")]

    app.task(name="read", shared=False)(read)
    return app


@pytest.fixture
def elsewhere(replicated: Replicated) -> Iterator[Router]:
    """Another process's, as far as its router is concerned."""
    with Router(replicated.settings) as made:
        notes(made, "reader")
        yield made


def test_a_task_sees_what_was_written_before_it_was_sent(
    replicated: Replicated, router: Router, elsewhere: Router
) -> None:
    queue = uuid4().hex
    sender, worker = application(router, queue), application(elsewhere, queue)
    with replicated.paused():
        write(router, "reader", "for the task")
        with router.tenant_scope("reader"):
            sender.tasks["read"].delay()
        with sender.connection() as connection, connection.SimpleQueue(queue) as messages:
            headers = messages.get(block=False).headers
        assert headers[AFTER] == router.last_write(router.find("reader"))
        assert "for the task" not in worker.tasks["read"].apply(headers={TENANT: headers[TENANT]}).get()
        assert "for the task" in worker.tasks["read"].apply(headers=headers).get()


def test_a_function_in_another_process_sees_what_its_scope_must_see(
    replicated: Replicated, router: Router, elsewhere: Router
) -> None:
    def read() -> list[str]:
        with elsewhere.transaction(mode="ro") as conn:
            return [note for (note,) in conn.execute("SELECT note FROM orders")]

    with replicated.paused():
        write(router, "reader", "for the process")
        with router.tenant_scope("reader", after=router.last_write(router.find("reader"))):
            job = carry_to_process(read, lambda: elsewhere)
        assert "for the process" in job()
