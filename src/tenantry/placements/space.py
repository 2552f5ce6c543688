"""A space: a place that holds, or can hold, the application's tables. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tenantry.model import Isolation


@dataclass(frozen=True, slots=True)
class Space:
    """A row of the catalog's ``spaces``."""

    id: int
    shard: str
    database: str
    schema: str
    isolation: Isolation
    state: str
    template: str | None = None

    @property
    def name(self) -> str:
        """For messages: ``shard/database/schema``."""
        return f"{self.shard}/{self.database}/{self.schema}"

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Space:
        """From a row."""
        return cls(
            id=row["id"],
            shard=row["shard"],
            database=row["database"],
            schema=row["schema"],
            isolation=Isolation(row["isolation"]),
            state=row["state"],
            template=row["template"],
        )


@dataclass(frozen=True, slots=True)
class Home:
    """A tenant with the space that it lives in."""

    code: str
    key: Any
    epoch: int
    plan: str
    space: Space
