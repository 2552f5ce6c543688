"""What a forked process inherits: sockets that belong to its parent. The child neither uses nor closes them.

A server that loads the application and then forks its workers (``gunicorn --preload``) makes this everyday life.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

_methods: list[WeakMethod[Callable[[], None]]] = []
_parents: list[Any] = []


def in_child(method: Callable[[], None]) -> None:
    """Call a bound method in each child that is forked from here on, before anything else runs there.

    Its object is not kept alive.
    """
    _methods[:] = [each for each in _methods if each() is not None]
    _methods.append(WeakMethod(method))


def leave_to_parent(*objects: Any) -> None:
    """Keep objects for ever, so that no destructor of theirs speaks on the parent's sockets."""
    _parents.extend(objects)


def _after_fork() -> None:
    for each in _methods:
        method = each()
        if method is not None:
            method()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
