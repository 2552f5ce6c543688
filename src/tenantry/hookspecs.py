"""Everything that a plugin can change. Built-in behaviour registers through the same hooks."""

from __future__ import annotations

import pluggy

hookspec = pluggy.HookspecMarker("tenantry")
hookimpl = pluggy.HookimplMarker("tenantry")


@hookspec
def operation_moment(operation: int, kind: str, step: str, moment: str) -> None:
    """An operation has come to a named moment.

    Args:
        operation: the operation's id.
        kind: ``provision``, ``delete``...
        step: the step that runs.
        moment: ``before`` the step, ``acted`` (its outside effect is done, its journal row is not) or ``after`` it;
            when it is undone, ``undo``, ``undo acted`` and ``undone``.
    """
