"""What a view knows of the whole fleet: the house, all plans and shards, the key that signs. Few rows, kept whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tenantry.errors import NotFound, PlanNotFound, ShardNotFound
from tenantry.model import House, Plan, Replica, Shard, shown


@dataclass(frozen=True, slots=True)
class ActiveKey:
    """The key that signs tokens now."""

    kid: str
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Login:
    """How the application logs in at a shard."""

    role: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FleetView:
    """One reading of the fleet's tables."""

    house: House
    plans: Mapping[str, Plan]
    shards: Mapping[str, Shard]
    logins: Mapping[str, Login] = field(default_factory=lambda: MappingProxyType({}))
    active_key: ActiveKey | None = None
    replicas: Mapping[str, tuple[Replica, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def plan(self, name: str) -> Plan:
        """The plan of this name.

        Raises:
            PlanNotFound: there is none.
        """
        if name not in self.plans:
            raise PlanNotFound(f"there is no plan {shown(name)}")
        return self.plans[name]

    def shard(self, name: str) -> Shard:
        """The shard of this name.

        Raises:
            ShardNotFound: there is none.
        """
        if name not in self.shards:
            raise ShardNotFound(f"there is no shard {shown(name)}")
        return self.shards[name]

    def signing_key(self) -> ActiveKey:
        """The key that signs now.

        Raises:
            NotFound: the catalog has none.
        """
        if self.active_key is None:
            raise NotFound("the catalog has no active signing key", hint="make one with 'tenantry key rotate'")
        return self.active_key
