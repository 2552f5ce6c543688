"""What an operation is made of: steps with an outside effect and a record of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from tenantry.catalog.store import CatalogStore, Conn
from tenantry.placements.estate import Estate


@dataclass(frozen=True, slots=True)
class Work:
    """What a step may look at: the operation, its arguments and what earlier steps put down.

    ``outputs`` maps each finished step to its output.
    """

    store: CatalogStore
    estate: Estate
    operation: int
    kind: str
    actor: str
    args: Mapping[str, Any]
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def tenants(self) -> list[UUID]:
        """The tenants that the operation is about."""
        return [UUID(each) for each in self.args.get("tenants", ())]


Act = Callable[[Work], Awaitable[None]]
Record = Callable[[Work, Conn], Awaitable[Mapping[str, Any] | None]]


@dataclass(frozen=True, slots=True)
class Step:
    """One step. ``act`` has effects outside the catalog and must do no harm when it runs again; ``record`` changes the
    catalog, in the transaction that notes the step as done. ``undo_act`` and ``undo_record`` likewise, in this order;
    they also run for the step that failed or was interrupted, and may find nothing to undo."""

    name: str
    act: Act | None = None
    record: Record | None = None
    undo_act: Act | None = None
    undo_record: Record | None = None
    final: bool = False
    """From here on there is no way back, only forward."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of operation: its name and its steps in order."""

    name: str
    steps: Sequence[Step]


class Wait(Exception):
    """Raised by a step whose time has not come.

    Args:
        until: when to try again.
    """

    def __init__(self, until: datetime) -> None:
        super().__init__(until.isoformat())
        self.until = until
