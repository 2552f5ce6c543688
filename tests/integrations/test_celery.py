"""What Celery's messages say about their tenants, tasks that run where they are sent, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, Task, chain, chord, group, signals
from hypothesis import given
from hypothesis import strategies as st

from tenantry import Mode, Router, Tenant, current_tenant, tenant_scope
from tenantry.context import Scope, current_scope
from tenantry.errors import CrossedTenants, InvalidInput, InvalidSettings, NoTenant, TenantNotFound, Unresolved
from tenantry.integrations.celery import Tenantry, TenantTask
from tenantry.integrations.celery.headers import MODE, TENANT, Recipient
from tenantry.model import TenantState
from tests.fixtures.house import House


@pytest.fixture
def app(sync_router: Router) -> Iterator[Celery[Any]]:
    """An application whose messages stay in this process."""
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_default_queue = uuid4().hex  # all applications of a process have the same queues
    Tenantry(app, sync_router)
    yield app
    app.close()


@pytest.fixture
def eager(app: Celery[Any]) -> Celery[Any]:
    """An application that runs tasks where they are sent."""
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    return app


def seen() -> tuple[str, str] | None:
    scope = current_scope()
    return (scope.tenant.slug, scope.mode) if scope else None


def see(*before: Any) -> tuple[str, str] | None:
    """A task that may also follow on others."""
    return seen()


def task(app: Any, function: Any = see, name: str = "see", **options: Any) -> Any:
    return app.task(name=name, shared=False, **options)(function)


def messages(app: Any) -> list[Any]:
    """All that has been sent."""
    found = []
    connection = app.connection()
    with connection, connection.SimpleQueue(app.conf.task_default_queue) as queue:
        while queue.qsize():
            message = queue.get(block=False)
            message.ack()
            found.append(message)
    return found


def whose(headers: Any) -> str:
    return str(headers[TENANT])


def embedded(message: Any, part: str) -> Any:
    return message.payload[2][part]


def test_a_message_carries_the_tenant_and_the_mode_of_its_scope(app: Celery[Any], sync_router: Router) -> None:
    see = task(app)
    with sync_router.tenant_scope("pooled-a", mode="ro") as tenant:
        see.delay()
        see.s().apply_async(headers={"color": "red"})
        app.send_task("see")
        app.send_task("somebody.elses")
    for message in messages(app):
        assert (message.headers[TENANT], message.headers[MODE]) == (f"id:{tenant.id}", "ro")


def test_a_task_that_needs_a_tenant_is_not_sent_without_one(app: Celery[Any]) -> None:
    see = task(app)
    for send in (see.delay, see.apply, see.s().delay, lambda: (see.s() | see.s()).delay()):
        with pytest.raises(NoTenant, match="see was sent outside of a tenant scope") as caught:
            send()
        assert "tenant=False" in str(caught.value.hint)
    assert messages(app) == []


def test_a_task_for_nobody_says_so_whoever_sends_it(app: Celery[Any], sync_router: Router) -> None:
    see = task(app, tenant=False)
    see.delay()
    with sync_router.tenant_scope("pooled-a"):
        see.delay()
    assert [whose(message.headers) for message in messages(app)] == ["nobody"] * 2
    assert see.apply(headers={TENANT: "slug:pooled-a"}).get() is None


def test_a_tenant_can_be_named_where_there_is_no_scope(app: Celery[Any], sync_router: Router) -> None:
    see, acme = task(app), sync_router.find("pooled-a")
    see.apply_async(tenant=acme)
    see.apply_async(tenant="pooled-b")
    see.s().set(tenant="schema-a").delay()
    with tenant_scope(acme, mode="ro"):
        see.apply_async(tenant="pooled-a")
    assert [whose(each.headers) for each in messages(app)] == [
        f"id:{acme.id}",
        "slug:pooled-b",
        "slug:schema-a",
        f"id:{acme.id}",
    ]


@pytest.mark.parametrize("wrong", ["No Slug", 7, ""])
def test_what_is_no_tenant_is_not_sent(app: Celery[Any], wrong: Any) -> None:
    with pytest.raises(InvalidInput):
        task(app).apply_async(tenant=wrong)


def test_another_tenants_task_is_not_sent_from_inside_of_a_scope(app: Celery[Any], sync_router: Router) -> None:
    see = task(app)
    with sync_router.tenant_scope("pooled-a"), pytest.raises(CrossedTenants):
        see.apply_async(tenant="pooled-b")
    assert messages(app) == []


def test_what_follows_on_a_task_is_for_the_same_tenant(app: Celery[Any], sync_router: Router) -> None:
    see = task(app)
    with sync_router.tenant_scope("pooled-a") as tenant:
        see.apply_async(link=see.s(), link_error=[see.s(), see.s()])
        chain(see.s(), see.s(), group(see.s(), chain(see.s(), see.s())), see.s()).delay()
    linked, first = messages(app)
    found = embedded(linked, "callbacks") + embedded(linked, "errbacks") + list(leaves(embedded(first, "chain")))
    assert len(found) == 3 + 5
    assert {whose(each["options"]["headers"]) for each in found} == {f"id:{tenant.id}"}


def leaves(signatures: Any) -> Iterator[Any]:
    """The tasks of a composition."""
    for each in signatures if isinstance(signatures, list) else [signatures]:
        inner = [each["kwargs"][part] for part in ("tasks", "header", "body") if part in each["kwargs"]]
        if not inner:
            yield each
        for part in inner:
            yield from leaves(part)


def test_what_follows_on_a_task_for_nobody_is_for_the_tenant_around_it(app: Celery[Any], sync_router: Router) -> None:
    see, sweep = task(app), task(app, name="sweep", tenant=False)
    with sync_router.tenant_scope("pooled-a") as tenant:
        chain(sweep.s(), see.s()).delay()
    (message,) = messages(app)
    assert whose(message.headers) == "nobody"
    assert [whose(each["options"]["headers"]) for each in embedded(message, "chain")] == [f"id:{tenant.id}"]


def test_a_chain_that_begins_with_a_named_tenant_goes_on_for_it(app: Celery[Any]) -> None:
    see = task(app)
    chain(see.s().set(tenant="pooled-a"), see.s(), see.s().set(tenant="pooled-b")).delay()
    (message,) = messages(app)
    assert whose(message.headers) == "slug:pooled-a"
    last, middle = (each["options"] for each in embedded(message, "chain"))
    assert whose(middle["headers"]) == "slug:pooled-a"
    assert (last["tenant"], last.get("headers")) == ("pooled-b", None)


def test_the_body_of_a_chord_is_not_for_whichever_tenant_ends_last(app: Celery[Any]) -> None:
    """Celery puts the body into the messages of the header's tasks; this is how Redis has it."""
    see = task(app)
    body = dict(see.s(), chord_size=2)
    see.apply_async(tenant="pooled-a", chord=body)
    see.apply_async(tenant="pooled-b", chord=body)
    assert [whose(embedded(each, "chord")["options"]["headers"]) for each in messages(app)] == ["nobody"] * 2


def test_a_signature_that_is_sent_twice_takes_nothing_along_from_the_first_time(
    app: Celery[Any], sync_router: Router
) -> None:
    see = task(app)
    follower = see.s().set(priority=1)
    whole = chain(see.s(), follower)
    for slug in ("pooled-a", "pooled-b"):
        with sync_router.tenant_scope(slug):
            whole.delay()
            see.apply_async(link=follower)
    for message in messages(app):
        for part in ("chain", "callbacks"):
            for each in embedded(message, part) or ():
                assert whose(each["options"]["headers"]) == whose(message.headers)
    assert "headers" not in follower.options


def test_an_eager_task_runs_in_a_scope_of_its_own(eager: Celery[Any], sync_router: Router) -> None:
    see = task(eager)
    with sync_router.tenant_scope("pooled-a", mode="ro"):
        assert see.delay().get() == ("pooled-a", Mode.READ_ONLY)
        assert see.apply().get() == ("pooled-a", Mode.READ_ONLY)
        assert see() == ("pooled-a", Mode.READ_ONLY)
        assert seen() == ("pooled-a", Mode.READ_ONLY)
    assert see.apply_async(tenant="pooled-b").get() == ("pooled-b", Mode.READ_WRITE)
    with pytest.raises(TenantNotFound):
        see.apply_async(tenant="nobody")
    assert seen() is None


def test_an_eager_task_for_nobody_hides_the_scope_around_it(eager: Celery[Any], sync_router: Router) -> None:
    see, sweep = task(eager), task(eager, name="sweep", tenant=False)
    found: list[Any] = []

    def append(before: Any) -> None:
        found.append((before, seen()))

    note = task(eager, append, name="note")
    with sync_router.tenant_scope("pooled-a"):
        assert sweep.apply_async(link=note.s()).get() is None
        assert seen() == ("pooled-a", "rw")
        assert (sweep.s() | see.s()).delay().get() == ("pooled-a", "rw")
    assert found == [(None, ("pooled-a", "rw"))]


def test_eager_compositions_run_for_the_tenant(eager: Celery[Any], sync_router: Router) -> None:
    see = task(eager)

    def join(results: Any) -> list[Any]:
        return [*results, current_tenant().slug]

    collect = task(eager, join, name="collect")
    with sync_router.tenant_scope("schema-a"):
        assert (see.s() | see.s()).delay().get() == ("schema-a", "rw")
        assert group(see.s(), see.s()).delay().get() == [("schema-a", "rw")] * 2
        assert see.map([1, 2]).apply_async().get() == [("schema-a", "rw")] * 2
        assert chord([see.s(), see.s()], collect.s()).delay().get() == [*[("schema-a", "rw")] * 2, "schema-a"]


def test_the_scope_ends_with_a_task_that_fails_and_with_each_try(app: Celery[Any]) -> None:
    tried: list[Any] = []

    def stubborn(self: Any) -> None:
        tried.append(seen())
        raise self.retry(countdown=0, exc=ZeroDivisionError()) if len(tried) < 3 else ZeroDivisionError()

    with pytest.raises(ZeroDivisionError):
        task(app, stubborn, bind=True).apply(tenant="pooled-a").get()
    assert tried == [("pooled-a", "rw")] * 3
    assert seen() is None


def test_hooks_of_the_task_run_in_the_scope(sync_router: Router) -> None:
    found: list[tuple[str, Any]] = []

    class Watched(TenantTask):
        abstract = True

        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            super().before_start(task_id, args, kwargs)
            found.append(("before", seen()))

        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            found.append(("success", seen()))

        def after_return(self, *_: Any) -> None:
            found.append(("after", seen()))

    own: Celery[Any]
    for own in (
        Celery("a", broker="memory://", task_cls=Watched, set_as_current=False),
        Celery("b", broker="memory://", set_as_current=False),
    ):
        Tenantry(own, sync_router)
        task(own, base=None if own.main == "a" else Watched).apply(tenant="pooled-b")
        assert found == [(name, ("pooled-b", "rw")) for name in ("before", "success", "after")]
        found.clear()


def test_the_class_that_an_application_has_chosen_for_its_tasks_stays(sync_router: Router) -> None:
    class Own(Task):  # type: ignore[type-arg]
        abstract = True
        mark = "own"

    app: Celery[Any] = Celery("shop", broker="memory://", task_cls=Own, set_as_current=False)
    Tenantry(app, sync_router)
    see = task(app)
    assert see.mark == "own"
    assert see.apply(tenant="pooled-a").get() == ("pooled-a", "rw")


def test_a_task_of_another_base_has_no_tenant_and_that_is_said(
    app: Celery[Any], sync_router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    see = task(app, base=Task)
    with caplog.at_level(logging.ERROR, "tenantry.celery"):
        app.finalize()
    assert "the task see runs without a tenant" in caplog.text
    assert see.apply(headers={TENANT: "slug:pooled-a"}).get() is None


def test_two_applications_in_one_process_each_find_their_tenants(app: Celery[Any], sync_router: Router) -> None:
    other = Celery("other", broker="memory://", set_as_current=False)
    other.conf.task_default_queue = uuid4().hex
    Tenantry(other, sync_router)
    for each in (app, other):
        task(each).apply_async(tenant="pooled-a")
        with sync_router.tenant_scope("pooled-a"):
            each.send_task("see")
            assert task(each).apply().get() == ("pooled-a", "rw")
        assert seen() is None
        assert len([whose(message.headers) for message in messages(each)]) == 2


@pytest.mark.parametrize("signal", [signals.worker_process_shutdown, signals.worker_shutdown])
def test_a_process_of_a_worker_closes_its_connections_at_its_end(
    app: Celery[Any], sync_router: Router, signal: Any
) -> None:
    with sync_router.tenant_scope("pooled-a"), sync_router.transaction():
        pass
    assert len(sync_router.pools) == 1
    signal.send(sender=app)
    assert len(sync_router.pools) == 0


def test_celerys_own_tasks_need_no_tenant(app: Celery[Any]) -> None:
    app.tasks["celery.backend_cleanup"].delay()
    assert [whose(each.headers) for each in messages(app)] == ["nobody"]


def test_an_application_that_nobody_has_given_a_router_is_refused() -> None:
    app = Celery("bare", broker="memory://", set_as_current=False)
    with pytest.raises(InvalidSettings, match="'bare' has no router"):
        task(app, base=TenantTask).apply(tenant="pooled-a", throw=True)


@pytest.mark.parametrize("options", [{"tenant": "maybe"}, {"refused": "ignore"}, {"refused": "reject"}])
def test_a_wrong_declaration_of_a_task_is_refused_when_the_task_is_made(app: Celery[Any], options: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        assert task(app, **options).name
    assert caught.value.hint


def test_a_wrong_router_a_wrong_choice_and_a_late_call_are_refused(sync_router: Router) -> None:
    app = Celery("late", broker="memory://", set_as_current=False)
    with pytest.raises(InvalidInput, match="is not a Router"):
        Tenantry(app, object())  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="refused is 'ignore'"):
        Tenantry(app, sync_router, refused="ignore")  # type: ignore[arg-type]
    app.finalize()
    with pytest.raises(InvalidInput, match="are made already"):
        Tenantry(app, sync_router)


tenants = st.none() | st.uuids() | st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,20}[a-wyz0-9])?\Z")


@given(tenants, st.sampled_from(Mode))
def test_headers_say_what_they_were_made_of(tenant: Any, mode: Mode) -> None:
    recipient = Recipient(tenant, mode if tenant else Mode.READ_WRITE)
    assert Recipient.read(recipient.headers) == recipient
    assert all(isinstance(value, str) for value in recipient.headers.values())


@given(st.text() | st.integers() | st.binary() | st.lists(st.text()), st.text() | st.none())
def test_other_headers_are_refused_and_nothing_else_happens(value: Any, mode: Any) -> None:
    with suppress(Unresolved):
        Recipient.read({TENANT: value, MODE: mode})


def test_a_scope_becomes_headers(house: House) -> None:
    tenant: Tenant = house.tenants["pooled-a"]
    assert tenant.state is TenantState.ACTIVE
    assert Recipient.of(Scope(tenant, Mode.READ_ONLY)).headers == {TENANT: f"id:{tenant.id}", MODE: "ro"}
    assert Recipient.read(None) is Recipient.read({}) is None
