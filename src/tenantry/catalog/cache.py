"""The view's memory: what was asked for, least recently used first out. No I/O, no clock but the one passed in.

An entry is good while notifications arrive and it is younger than ``fresh_seconds``; while they are lost, while it is
younger than ``stale_seconds``. Either way it can only be stale, never wrong: the database checks the epoch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from uuid import UUID

from tenantry.model import Tenant

FRESH_SECONDS = 600.0
ABSENT_SECONDS = 2.0

Name = tuple[str, Hashable]
"""How a tenant was asked for: ``("slug", "acme")``, ``("key", 7)``, ``("domain", "a.example")``, ``("id", uuid)``."""


class TenantCache:
    """Tenants by the names they were asked by. Safe for threads.

    Args:
        size: how many tenants, and how many names of absent ones, are kept.
        stale_seconds: how old an entry may be while notifications are lost, seconds.
    """

    def __init__(self, size: int, stale_seconds: float) -> None:
        self._size = size
        self._stale_seconds = stale_seconds
        self._lock = Lock()
        self._tenants: OrderedDict[UUID, tuple[Tenant, float, set[Name]]] = OrderedDict()
        self._names: dict[Name, UUID] = {}
        self._absent: OrderedDict[Name, float] = OrderedDict()
        self._marks = 0
        self.listening = False

    def __len__(self) -> int:
        return len(self._tenants)

    @property
    def mark(self) -> int:
        """A number that grows whenever something is forgotten; see :meth:`put`."""
        return self._marks

    def get(self, name: Name, now: float, *, stale: bool = False) -> Tenant | None:
        """The tenant of this name, if it is known and fresh, or if ``stale`` will do."""
        with self._lock:
            tenant_id = self._names.get(name)
            if tenant_id is None:
                return None
            tenant, since, _ = self._tenants[tenant_id]
            if not stale and now - since > (FRESH_SECONDS if self.listening else self._stale_seconds):
                return None
            self._tenants.move_to_end(tenant_id)
            return tenant

    def is_absent(self, name: Name, now: float) -> bool:
        """Whether the catalog said a moment ago that nobody has this name."""
        with self._lock:
            since = self._absent.get(name)
            return since is not None and now - since <= ABSENT_SECONDS

    def put(self, name: Name, tenant: Tenant, now: float, mark: int) -> None:
        """Remember an answer of the catalog.

        Args:
            mark: :attr:`mark` from before the question. If something was forgotten since, the answer may be older than
                the news, and is not kept.
        """
        with self._lock:
            if mark != self._marks:
                return
            self._absent.pop(name, None)
            old = self._tenants.pop(tenant.id, None)
            names = old[2] if old else set()
            names |= {name, ("id", tenant.id)}
            self._tenants[tenant.id] = (tenant, now, names)
            for each in names:
                self._names[each] = tenant.id
            while len(self._tenants) > self._size:
                self._drop(next(iter(self._tenants)))

    def put_absent(self, name: Name, now: float, mark: int) -> None:
        """Remember for a moment that nobody has this name."""
        with self._lock:
            if mark != self._marks:
                return
            self._absent[name] = now
            self._absent.move_to_end(name)
            while len(self._absent) > self._size:
                self._absent.popitem(last=False)

    def forget(self, tenant_id: UUID) -> None:
        """Drop one tenant under all its names."""
        with self._lock:
            self._marks += 1
            self._drop(tenant_id)

    def forget_absent(self) -> None:
        """Drop what is known of absent names: somebody new has come."""
        with self._lock:
            self._marks += 1
            self._absent.clear()

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._marks += 1
            self._tenants.clear()
            self._names.clear()
            self._absent.clear()

    def start_over(self) -> None:
        """In the child of a fork: as new. The lock may have been held when the process was copied."""
        self._lock = Lock()
        self.listening = False
        self.clear()

    def _drop(self, tenant_id: UUID) -> None:
        old = self._tenants.pop(tenant_id, None)
        for name in old[2] if old else ():
            self._names.pop(name, None)
