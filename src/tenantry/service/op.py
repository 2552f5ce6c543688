"""Operations: what runs for long, as somebody sees it from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tenantry.service.control import Control


async def listing(control: Control) -> Sequence[Mapping[str, Any]]:
    """The operations that have not ended, oldest first."""
    return await control.engine.unfinished()


async def show(control: Control, operation: int) -> Mapping[str, Any]:
    """One operation: what kind, in which state, at which step, and the error if it has failed.

    Raises:
        OperationNotFound: there is none with this id.
    """
    return await control.engine.show(operation)


async def undo(control: Control, operation: int) -> Mapping[str, Any]:
    """Undo an operation that waits: a tenant that was moved comes back, with what it has written since.

    Raises:
        OperationNotFound: there is none with this id.
        OperationOpen: it is at work, has come to the point of no return, or has ended.
        OperationFailed: a server failed; a worker goes on with it.
    """
    await control.engine.show(operation)
    await control.engine.recall(operation)
    return await control.engine.show(operation)
