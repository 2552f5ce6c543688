"""Which paths need no tenant. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from tenantry.errors import InvalidInput
from tenantry.model import shown


class Exempt:
    """Paths that need no tenant, such as health checks.

    Args:
        paths: exact ones, or beginnings that end with ``*``.

    Raises:
        InvalidInput: one text in place of a list, or a path that does not begin with ``/``.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        checked = _checked(paths)
        self._exact = frozenset(path for path in checked if not path.endswith("*"))
        self._below = tuple(path[:-1] for path in checked if path.endswith("*"))

    def __contains__(self, path: str) -> bool:
        return path in self._exact or path.startswith(self._below)


def _checked(paths: Iterable[str]) -> tuple[str, ...]:
    if isinstance(paths, str):
        raise InvalidInput(f"exempt is one text, {shown(paths)}", hint=f"give a list: [{paths!r}]")
    for path in (paths := tuple(paths)):
        if not str(path).startswith("/") or "*" in path[:-1]:
            raise InvalidInput(
                f"{shown(path)} is not a path", hint="write an exact path, '/healthz', or a beginning, '/static/*'"
            )
    return paths
