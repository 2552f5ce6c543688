"""Jupyter and IPython: cells that run for a tenant.

    %load_ext tenantry

    %tenant acme          from here on, cells run for Acme
    %%tenant acme --ro    this cell does, and may only read; it may await
    %tenant               says for whom
    %tenant --nobody      ends it

A kernel keeps a context variable that a plain cell has set, and loses what a cell with ``await`` has set. So the scope
is entered anew for each cell, and left behind it.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tenantry.context import current_scope, no_tenant_scope
from tenantry.errors import MissingDependency, TenantryError
from tenantry.model import Mode
from tenantry.routing.router import Router
from tenantry.routing.router_async import AsyncRouter

try:
    from IPython.core.error import UsageError
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.core.magic import Magics, line_cell_magic, magics_class
except ImportError:
    raise MissingDependency("ipython", "jupyter") from None

_FOR_CELL = "--cell"
_CELL = re.compile(r"%%tenant\b(?P<options>[^\n]*)\n?")


@dataclass(frozen=True)
class Choice:
    """For whom cells run: a tenant's slug, or None for nobody."""

    slug: str | None
    mode: Mode = Mode.READ_WRITE


def parse(line: str) -> Choice | None:
    """The choice that a line makes; None if it makes none.

    Raises:
        UsageError: it is something else.
    """
    words = line.split()
    flags = {word for word in words if word.startswith("-")}
    slugs = [word for word in words if word not in flags]
    nobody = "--nobody" in flags
    if flags - {"--ro", "--nobody", _FOR_CELL} or len(slugs) + nobody > 1:
        raise UsageError("%tenant [SLUG] [--ro], or %tenant --nobody")
    if not slugs and not nobody:
        return None
    mode = Mode.READ_ONLY if "--ro" in flags else Mode.READ_WRITE
    return Choice(None if nobody else slugs[0], mode)


@magics_class
class TenantMagics(Magics):
    """The magic ``tenant``, for a line and for a cell.

    Tenants are looked up with the notebook's variable ``router``, or as ``tenantry.toml`` and the environment say.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._shell: Any = shell
        self._choice = Choice(None)
        self._scopes: list[list[AbstractContextManager[Any]]] = [[]]  # of each cell that runs; the first is of none
        self._routers: dict[int, Router] = {}

    @line_cell_magic
    def tenant(self, line: str, cell: str | None = None) -> str | None:
        """Run cells for a tenant: ``%tenant [SLUG] [--ro] [--nobody]``; ``%%tenant SLUG [--ro]`` for one cell."""
        for_cell = cell is not None or _FOR_CELL in line.split()
        try:
            choice = parse(line)
            if choice is None and for_cell:
                raise UsageError("name the tenant: %%tenant acme")
            if choice is not None:
                self.enter(choice)
        except UsageError:
            # Whoever has mistyped a name must not go on in the house of the tenant before.
            self._choice = self._choice if for_cell else Choice(None)
            self.enter(Choice(None))
            raise
        if cell is not None and choice is not None:
            self._run(cell, choice)
        if for_cell:
            return None
        self._choice = choice or self._choice
        return self._told()

    def _run(self, cell: str, choice: Choice) -> None:
        """A cell inside of a cell: ``run_cell_magic`` in code. What is typed comes as lines, see :func:`as_line`."""
        before, self._choice = self._choice, choice
        try:
            self._shell.run_cell(cell)
        finally:
            self._choice = before
            self._leave(self._scopes[-1].pop())

    def enter(self, choice: Choice) -> None:
        """Enter a scope for the rest of the cell.

        Raises:
            UsageError: there is no such tenant, or it may not work now.
        """
        try:
            scope = self._scope(choice)
            scope.__enter__()
        except TenantryError as error:
            raise UsageError(f"{error.message}{f'; {error.hint}' if error.hint else ''}") from None
        self._scopes[-1].append(scope)

    def before_cell(self, info: Any) -> None:
        """Called by IPython before each cell. If the tenant may not work any more, the cell runs for nobody."""
        self._scopes.append([])
        if self._choice.slug is None:
            return
        try:
            self.enter(self._choice)
        except UsageError as error:
            self.enter(Choice(None))
            print(f"This cell has no tenant: {error}")

    def after_cell(self, result: Any) -> None:
        """Called by IPython after each cell."""
        for scope in reversed(self._scopes.pop() if len(self._scopes) > 1 else []):
            self._leave(scope)

    def _leave(self, scope: AbstractContextManager[Any]) -> None:
        scope.__exit__(None, None, None)

    def close(self) -> None:
        """Close the routers that were made here."""
        for router in self._routers.values():
            router.close()

    def _told(self) -> str:
        scope = current_scope()
        if scope is None:
            return "no tenant; choose one with %tenant SLUG"
        return f"{scope.tenant.slug} ({scope.mode})"

    def _scope(self, choice: Choice) -> AbstractContextManager[Any]:
        return no_tenant_scope() if choice.slug is None else self._router().tenant_scope(choice.slug, mode=choice.mode)

    def _router(self) -> Router:
        """A sync router, since a magic can't wait."""
        found = self._shell.user_ns.get("router")
        if isinstance(found, Router):
            return found
        settings = found.settings if isinstance(found, AsyncRouter) else None
        key = id(settings)
        if key not in self._routers:
            self._routers[key] = Router(settings)
        return self._routers[key]


def as_line(lines: list[str]) -> list[str]:
    """Turn ``%%tenant`` into a line, so that the rest of the cell stays what it is: with ``await`` and with a value."""
    found = _CELL.match(lines[0]) if lines else None
    if found is None:
        return lines
    return [f"%tenant {_FOR_CELL}{found['options']}\n", *lines[1:]]


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Called by ``%load_ext``."""
    shell_: Any = shell
    magics = TenantMagics(shell)
    shell_.register_magics(magics)
    shell_.events.register("pre_run_cell", magics.before_cell)
    shell_.events.register("post_run_cell", magics.after_cell)
    shell_.input_transformers_cleanup.append(as_line)
    shell_.tenantry = magics


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Called by ``%unload_ext``."""
    shell_: Any = shell
    magics: TenantMagics = shell_.tenantry
    shell_.events.unregister("pre_run_cell", magics.before_cell)
    shell_.events.unregister("post_run_cell", magics.after_cell)
    shell_.input_transformers_cleanup.remove(as_line)
    for kind in ("line", "cell"):
        shell_.magics_manager.magics[kind].pop("tenant", None)
    magics.close()
