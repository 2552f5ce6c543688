"""How many connections a process may ask a server for, after it has refused one or others need some. It does no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from tenantry.routing.core import GROW_SECONDS, Target

_SHARE_SECONDS = 1.0


@dataclass(slots=True)
class _Cap:
    """It grows by half each time that ``grow_at`` has come, until it is of no effect. ``shares``: what is more is
    closed."""

    limit: int
    grow_at: float
    shares: bool = False


class Caps:
    """Caps by database. ``total`` is how many connections the process has to it."""

    def __init__(self) -> None:
        self._of: dict[Target, _Cap] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def hold_back(self, target: Target, good: int, now: float) -> None:
        """Ask for no more than have served."""
        self._of[target] = _Cap(good, now + GROW_SECONDS)

    def share(self, target: Target, total: int, now: float) -> None:
        """Keep three quarters for a while."""
        self._of[target] = _Cap(max(1, total * 3 // 4), now + _SHARE_SECONDS, True)

    def lift(self, target: Target) -> bool:
        """No cap any more; whether there was one."""
        return self._of.pop(target, None) is not None

    def holds(self, target: Target, total: int) -> bool:
        """Whether no more may be asked for."""
        cap = self._of.get(target)
        return cap is not None and total >= cap.limit

    def is_surplus(self, target: Target, total: int) -> bool:
        """Whether others need one of them."""
        cap = self._of.get(target)
        return cap is not None and cap.shares and total > cap.limit

    def may_grow(self, target: Target, now: float, budget: int) -> bool:
        """Whether the time has come to ask the server for one more connection."""
        cap = self._of[target]
        if now < cap.grow_at:
            return False
        cap.limit += max(1, cap.limit // 2)
        cap.grow_at = now + GROW_SECONDS
        if cap.limit >= budget:
            del self._of[target]
        return True
