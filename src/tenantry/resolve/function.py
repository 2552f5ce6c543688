"""The tenant is what the application's own function says: a session, an API key, a default for one host. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from tenantry.errors import InvalidInput, TenantryError
from tenantry.model import shown
from tenantry.resolve.claim import Claim, ClaimKind, parse_kind
from tenantry.resolve.request import RequestFacts


class Function:
    """Claims what a function returns: a text of ``kind``, a whole ``Claim``, or None for "no answer".

    It runs on the event loop in front of every request, so it must not wait for anything. What it raises goes up as it
    is; to refuse a request, raise ``Unresolved``.

    Args:
        function: takes the ``RequestFacts``.
        kind: what a returned text is.
        name: stands in errors; by default the function's own name.

    Raises:
        InvalidInput: not callable, or a coroutine function.
    """

    def __init__(
        self,
        function: Callable[[RequestFacts], str | Claim | None],
        *,
        kind: str = ClaimKind.SLUG,
        name: str | None = None,
    ) -> None:
        if not _is_plain(function):
            raise InvalidInput(
                f"{shown(function)} is not a plain function",
                hint="give a function that returns at once; do what has to wait before the request gets here",
            )
        self._function = function
        self._kind = parse_kind(kind)
        self.name = f"function {name or getattr(function, '__name__', type(function).__name__)}"

    def __repr__(self) -> str:
        return f"<Resolver: {self.name}>"

    def resolve(self, request: RequestFacts) -> Claim | None:
        """The claim that the function makes; see the class.

        Raises:
            TenantryError: it returned something else.
        """
        answer = self._function(request)
        if answer is None or isinstance(answer, Claim):
            return answer
        if not isinstance(answer, str):
            raise TenantryError(
                f"the {self.name} returned {shown(type(answer).__name__)}",
                hint="return a text, a Claim or None",
            )
        return Claim(self._kind, answer, self.name)


def _is_plain(function: object) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004  # of an instance, this is the method that runs
    return call is not None and not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(call)
