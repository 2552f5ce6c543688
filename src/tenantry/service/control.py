"""What every verb needs: the catalog, the way to the shards, the engine."""

from __future__ import annotations

import getpass
import os
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from psycopg.types.json import Jsonb

from tenantry.catalog.store import CatalogStore
from tenantry.operations.engine import LEASE_SECONDS, Engine
from tenantry.operations.kinds import KINDS
from tenantry.placements.estate import Estate
from tenantry.placements.warm import Reserve
from tenantry.settings import Settings, load


class Control:
    """The control plane of one process.

    Args:
        settings: with ``control``, the control plane's DSN of the catalog; None: ``tenantry.toml`` and the environment.
        actor: who acts, for the audit log; None: the operating system's user.
        lease_seconds: how long an operation is safe from other workers after the last heartbeat.
    """

    def __init__(
        self, settings: Settings | None = None, *, actor: str | None = None, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self.settings = settings or load()
        self.actor = actor or _user()
        self.store = CatalogStore(self.settings.control_dsn, seconds=self.settings.connect_seconds)
        self.estate = Estate(self.store, self.settings)
        self.reserve = Reserve(self.estate)
        self.engine = Engine(self.store, self.estate, KINDS, lease_seconds=lease_seconds)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.store)
        await self._stack.enter_async_context(self.estate)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.reserve.close()
        await self._stack.aclose()

    async def audit(self, action: str, subject: str, reason: str | None = None, **detail: Any) -> None:
        """Write a line of the audit log."""
        await self.store.fetch("audit", (self.actor, action, subject, reason, Jsonb(detail)))


def _user() -> str:
    """The operating system's user; by number where it has no name, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
