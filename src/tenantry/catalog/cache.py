"""The view's memory: what was asked for, least recently used first out. No I/O, no clock but the one passed in.

An entry is good while notifications arrive and it is younger than ``fresh_seconds``; while they are lost, while it is
younger than ``stale_seconds``. Either way it can only be stale, never wrong: the database checks the epoch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from uuid import UUID

from tenantry.model import Tenant, TenantState

FRESH_SECONDS = 600.0
ABSENT_SECONDS = 2.0
ABSENT_LENGTH = 255
"""The longest name that is remembered as absent. It comes from outside, and nobody has a longer one."""

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
        self._tenants: OrderedDict[UUID, tuple[Tenant, set[Name]]] = OrderedDict()
        self._names: dict[Name, tuple[UUID, float]] = {}
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
            found = self._names.get(name)
            if found is None:
                return None
            tenant_id, since = found
            if not stale and now - since > (FRESH_SECONDS if self.listening else self._stale_seconds):
                return None
            self._tenants.move_to_end(tenant_id)
            return self._tenants[tenant_id][0]

    def is_absent(self, name: Name, now: float) -> bool:
        """Whether the catalog said a moment ago that nobody has this name."""
        with self._lock:
            since = self._absent.get(name)
            return since is not None and now - since <= ABSENT_SECONDS

    def put(self, name: Name, tenant: Tenant, now: float, mark: int) -> None:
        """Remember an answer of the catalog.

        Args:
            now: when it was asked.
            mark: :attr:`mark` from before the question. If something was forgotten since, the answer may be older than
                the news, and is not kept.
        """
        with self._lock:
            if mark != self._marks:
                return
            self._absent.pop(name, None)
            self._unname(name)
            _, names = self._tenants.setdefault(tenant.id, (tenant, set()))
            for old in [each for each in names if not _may_be_called(tenant, each)]:
                self._unname(old)
            for each in (name, ("id", tenant.id)):
                names.add(each)
                self._names[each] = tenant.id, now
            self._tenants[tenant.id] = tenant, names
            self._tenants.move_to_end(tenant.id)
            while len(self._tenants) > self._size:
                self._drop(next(iter(self._tenants)))

    def put_absent(self, name: Name, now: float, mark: int) -> None:
        """Remember for a moment that nobody has this name."""
        with self._lock:
            if mark != self._marks:
                return
            self._unname(name)
            if isinstance(name[1], str) and len(name[1]) > ABSENT_LENGTH:
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
        _, names = self._tenants.pop(tenant_id, (None, ()))
        for name in names:
            del self._names[name]

    def _unname(self, name: Name) -> None:
        """Forget who has a name: it is about to be somebody else's, or nobody's."""
        found = self._names.pop(name, None)
        if found is not None:
            self._tenants[found[0]][1].discard(name)


def _may_be_called(tenant: Tenant, name: Name) -> bool:
    """Whether what is now known of a tenant allows that it still has a name that it had before."""
    kind, value = name
    return kind != "slug" or (value == tenant.slug and tenant.state is not TenantState.DELETED)
