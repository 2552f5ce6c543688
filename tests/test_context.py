"""The tenant of the code that runs: nested, copied to tasks and threads, and gone when its scope has ended."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import pickle
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry import Mode, Tenant, carry_scope, current_tenant, tenant_scope
from tenantry.context import current_scope, no_tenant_scope
from tenantry.errors import InvalidInput, NoTenant
from tenantry.model import TenantState

A, B, C = (Tenant(uuid4(), n, slug, slug, "free", TenantState.ACTIVE) for n, slug in enumerate("abc", 1))


def slug() -> str | None:
    scope = current_scope()
    return scope.tenant.slug if scope else None


def test_outside_of_a_scope_there_is_no_tenant() -> None:
    with pytest.raises(NoTenant, match="outside a tenant scope") as caught:
        current_tenant()
    assert "tenant_scope" in str(caught.value.hint)


def test_the_tenant_is_there_in_the_scope_and_gone_afterwards() -> None:
    with tenant_scope(A) as tenant:
        assert current_tenant() is tenant is A
    assert slug() is None


def test_nested_scopes_come_back_one_by_one() -> None:
    with tenant_scope(A):
        with tenant_scope(B):
            with tenant_scope(A, mode="ro"):
                assert slug() == "a"
            assert slug() == "b"
        assert slug() == "a"


def test_an_error_ends_the_scope() -> None:
    with suppress(ZeroDivisionError), tenant_scope(A):
        raise ZeroDivisionError
    assert slug() is None


@pytest.mark.parametrize("wrong", ["acme", None, 7, object()])
def test_something_else_than_a_tenant_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="takes a Tenant"), tenant_scope(wrong):
        pass
    assert slug() is None


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="admin"), tenant_scope(A, mode="admin"):
        pass
    assert slug() is None


def test_the_mode_is_kept() -> None:
    with tenant_scope(A, mode="ro"):
        scope = current_scope()
        assert scope
        assert scope.mode is Mode.READ_ONLY


@pytest.mark.anyio
async def test_tasks_keep_the_tenant_that_they_began_with() -> None:
    go = asyncio.Event()

    async def later() -> str | None:
        await go.wait()
        return slug()

    with tenant_scope(A):
        first = asyncio.create_task(later())
    with tenant_scope(B):
        second = asyncio.create_task(later())
    third = asyncio.create_task(later())
    go.set()
    assert list(await asyncio.gather(first, second, third)) == ["a", "b", None]


@pytest.mark.anyio
async def test_what_a_task_enters_its_parent_does_not_see() -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    async def inner() -> None:
        with tenant_scope(B):
            entered.set()
            await go.wait()

    with tenant_scope(A):
        task = asyncio.create_task(inner())
        await entered.wait()
        assert slug() == "a"
        go.set()
        await task
        assert slug() == "a"


@pytest.mark.anyio
async def test_a_cancelled_task_leaves_nothing_behind() -> None:
    entered = asyncio.Event()
    context = contextvars.copy_context()

    async def work() -> None:
        with tenant_scope(A):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.get_running_loop().create_task(work(), context=context)
    await entered.wait()
    assert context.run(slug) == "a"
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert context.run(slug) is None


def test_a_thread_of_an_executor_has_no_tenant_and_keeps_none() -> None:
    def job(tenant: Tenant | None) -> str | None:
        if tenant is None:
            return slug()
        with tenant_scope(tenant):
            return slug()

    with ThreadPoolExecutor(1) as executor, tenant_scope(A):
        seen = [executor.submit(job, each).result() for each in (None, B, None, C, None)]
    assert seen == [None, "b", None, "c", None]


@pytest.mark.anyio
async def test_to_thread_has_the_tenant() -> None:
    with tenant_scope(A):
        assert await asyncio.to_thread(slug) == "a"


def scoped(tenant: Tenant) -> Iterator[str | None]:
    with tenant_scope(tenant):
        while True:
            yield slug()


def test_generators_that_end_in_another_order_leave_no_tenant_behind() -> None:
    first, second = scoped(A), scoped(B)
    next(first)
    next(second)
    first.close()  # type: ignore[attr-defined]
    assert slug() == "b"
    second.close()  # type: ignore[attr-defined]
    assert slug() is None


@given(st.lists(st.integers(0, 5), max_size=40))
def test_generators_that_take_turns_in_any_order_leave_no_tenant_behind(steps: list[int]) -> None:
    """Each step enters a scope, or leaves it; the tenant is always one whose scope is open."""
    tenants = [Tenant(uuid4(), n, str(n), "", "free", TenantState.ACTIVE) for n in range(6)]
    running: dict[int, Any] = {}
    with tenant_scope(A):
        for step in steps:
            if step in running:
                running.pop(step).close()
            else:
                running[step] = scoped(tenants[step])
                next(running[step])
            assert slug() in {"a", *map(str, running)}
            if not running:
                assert slug() == "a"
        for each in running.values():
            each.close()
        assert slug() == "a"
    assert slug() is None


@pytest.mark.anyio
async def test_a_scope_that_ends_in_another_context_does_not_disturb_that_one() -> None:
    async def lines() -> AsyncIterator[str | None]:
        with tenant_scope(A):
            yield slug()

    generator = lines()
    assert await anext(generator) == "a"

    async def close_elsewhere() -> str | None:
        with tenant_scope(B):
            await generator.aclose()  # type: ignore[attr-defined]
            return slug()

    assert await contextvars.Context().run(asyncio.create_task, close_elsewhere()) == "b"


@pytest.mark.anyio
async def test_a_job_that_starts_its_successor_does_not_grow_for_ever() -> None:
    gc.collect()
    before = sum(type(each).__name__ == "_Open" for each in gc.get_objects())
    done = asyncio.Event()

    async def job(left: int) -> None:
        with tenant_scope((A, B)[left % 2]):
            assert slug() == "ab"[left % 2]
            if left:
                asyncio.create_task(job(left - 1))  # noqa: RUF006  # the next one runs while this one ends
            else:
                done.set()

    await job(3000)
    await done.wait()
    gc.collect()
    assert sum(type(each).__name__ == "_Open" for each in gc.get_objects()) - before <= 1001


def test_nobody_works_inside_of_a_scope_for_nobody() -> None:
    with tenant_scope(A):
        with no_tenant_scope():
            assert slug() is None
            with pytest.raises(NoTenant):
                current_tenant()
            with tenant_scope(B):
                assert slug() == "b"
            assert slug() is None
        assert slug() == "a"
    assert slug() is None


def test_a_carried_function_runs_in_its_scope_in_a_thread_that_has_none() -> None:
    with ThreadPoolExecutor(1) as executor:
        with tenant_scope(A):
            carried = carry_scope(slug)
            assert executor.submit(slug).result() is None
        assert executor.submit(carried).result() == "a"
        assert executor.submit(slug).result() is None


def test_a_carried_function_keeps_its_mode_arguments_name_and_errors() -> None:
    def divide(dividend: int, *, by: int) -> tuple[float, Mode | None]:
        scope = current_scope()
        return dividend / by, scope.mode if scope else None

    with tenant_scope(A, mode="ro"):
        carried = carry_scope(divide)
    assert carried(6, by=3) == (2, Mode.READ_ONLY)
    assert carried.__name__ == "divide"
    with pytest.raises(ZeroDivisionError):
        carried(6, by=0)
    assert slug() is None


def test_one_carried_function_runs_in_many_threads_at_once() -> None:
    everybody = Barrier(4, timeout=30)

    def meet(number: int) -> str | None:
        everybody.wait()
        return slug()

    with ThreadPoolExecutor(4) as executor, tenant_scope(A):
        assert list(executor.map(carry_scope(meet), range(4))) == ["a"] * 4


async def _coroutine() -> None: ...
def _generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("wrong", [_coroutine, _generator, "work", None])
def test_what_would_run_later_is_not_carried(wrong: Any) -> None:
    with tenant_scope(A), pytest.raises(InvalidInput, match="not a plain function"):
        carry_scope(wrong)


def test_without_a_scope_there_is_nothing_to_carry() -> None:
    with pytest.raises(NoTenant, match="no tenant scope to carry"):
        carry_scope(slug)


def test_a_carried_function_stays_in_its_process_and_says_what_goes_to_another() -> None:
    with tenant_scope(A), pytest.raises(InvalidInput) as caught:
        pickle.dumps(carry_scope(slug))
    assert "carry_to_process" in str(caught.value.hint)
