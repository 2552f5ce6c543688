"""The tenant of the code that runs now: a context variable, so that each task and thread has its own (PEP 567).

Copies of a context carry it along: tasks, ``asyncio.to_thread``, Starlette's thread pool. A thread or an executor that
starts with an empty context has no tenant, and what it does is refused, unless :func:`carry_scope` brings one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

from tenantry.errors import InvalidInput, NoTenant
from tenantry.model import Mode, Tenant, shown

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Scope:
    """A tenant, what may be done in its name, and which write its reads must see, if that is known."""

    tenant: Tenant
    mode: Mode = Mode.READ_WRITE
    after: str | None = None


@dataclass(slots=True, eq=False)
class _Open:
    """A scope that has been entered, and the one around it. Without a tenant it hides the one around it. It is never
    changed; to freeze it would make each request slower."""

    scope: Scope | None
    around: _Open | None
    depth: int = 0


_DEEPEST = 1000
"""A job that starts its own successor from inside of its scope would nest for ever; there the chain is cut."""

_innermost: ContextVar[_Open | None] = ContextVar("tenantry_scope", default=None)
_left: ContextVar[tuple[_Open, ...]] = ContextVar("tenantry_left", default=())


def tenant_scope(
    tenant: Tenant, *, mode: Mode | str = Mode.READ_WRITE, after: str | None = None
) -> AbstractContextManager[Tenant]:
    """Work for a tenant until the block ends; then for the one before.

    Args:
        tenant: from a router's ``find``; a router's own ``tenant_scope`` takes a slug.
        mode: ``ro`` to refuse writes.
        after: what a router's ``last_write`` has returned, here or elsewhere: replicas that have not replayed that
            write are not read.

    Raises:
        InvalidInput: something else than a tenant.
    """
    if not isinstance(tenant, Tenant):
        raise InvalidInput(
            f"tenant_scope() takes a Tenant, not {type(tenant).__name__}",
            hint="look it up with router.find(slug), or use router.tenant_scope(slug)",
        )
    return _Block(Scope(tenant, mode if isinstance(mode, Mode) else Mode(mode), after))


class _Block(AbstractContextManager[Tenant]):
    """A block of :func:`tenant_scope`. Each request has at least one, and a generator would cost it more."""

    __slots__ = ("_entered", "_scope")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._entered: list[_Open] = []

    def __enter__(self) -> Tenant:
        self._entered.append(_enter(self._scope))
        return self._scope.tenant

    def __exit__(self, *error: object) -> None:
        _leave(self._entered.pop())


@contextmanager
def no_tenant_scope() -> Iterator[None]:
    """Work for nobody until the block ends, whatever scope is around it; then for the tenant before."""
    entered = _enter(None)
    try:
        yield
    finally:
        _leave(entered)


def _enter(scope: Scope | None) -> _Open:
    around = _innermost.get()
    depth = 0 if around is None else around.depth + 1
    if depth == _DEEPEST:
        around, depth = None, 0
    entered = _Open(scope, around, depth)
    _innermost.set(entered)
    return entered


def _leave(entered: _Open) -> None:
    """End a scope. Generators that take turns may end theirs in any order; the tenant of one that has ended must not
    come back when another ends."""
    innermost, left = _innermost.get(), _left.get()
    if innermost is not entered:
        if entered in _chain(innermost):
            _left.set((*left, entered))
        return
    still_open = entered.around
    if left:
        still_open = next((each for each in _chain(still_open) if each not in left), None)
        _left.set(tuple(each for each in _chain(still_open) if each in left))
    _innermost.set(still_open)


def _chain(innermost: _Open | None) -> Iterator[_Open]:
    while innermost is not None:
        yield innermost
        innermost = innermost.around


def current_scope() -> Scope | None:
    """The scope that the code runs in, or None."""
    innermost = _innermost.get()
    return None if innermost is None else innermost.scope


def current_tenant() -> Tenant:
    """The tenant that the code runs for.

    Raises:
        NoTenant: it runs outside a tenant scope.
    """
    scope = current_scope()
    if scope is None:
        raise NoTenant("this code runs outside a tenant scope")
    return scope.tenant


def carry_scope(function: Callable[P, R]) -> Callable[P, R]:
    """A function that runs in the present scope, in whatever thread it is called, however often, also at once.

        executor.submit(carry_scope(work), 1, 2)

    Args:
        function: what to run. An async function or a generator is refused: it would run after the scope has ended.

    Raises:
        NoTenant: there is no scope to carry.
        InvalidInput: ``function`` can't be carried.
    """
    return Carried(function, present_scope(function))


def present_scope(function: Any) -> Scope:
    """The scope that is to be carried to where ``function`` will run.

    Raises:
        NoTenant: there is none.
        InvalidInput: ``function`` can't be carried.
    """
    if not callable(function) or _runs_later(function):
        raise InvalidInput(
            f"{shown(function)} can't be carried: it is not a plain function",
            hint="a task keeps its scope by itself; for a generator, carry a function that goes through it",
        )
    scope = current_scope()
    if scope is None:
        raise NoTenant("there is no tenant scope to carry")
    return scope


def _runs_later(function: Any) -> bool:
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(kind(function) for kind in kinds)


class Carried(Generic[P, R]):
    """A function with the scope that it runs in. It stays in this process."""

    def __init__(self, function: Callable[P, R], scope: Scope) -> None:
        self._function = function
        self._scope = scope
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns or raises."""
        entered = _enter(self._scope)
        try:
            return self._function(*args, **kwargs)
        finally:
            _leave(entered)

    def __reduce__(self) -> NoReturn:
        raise InvalidInput(
            "a scope can't travel to another process: what is known of its tenant may be old there",
            hint="use tenantry.carry_to_process(function, get_router)",
        )
