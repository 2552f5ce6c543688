"""The figures of advertising: sums, by week and by thing. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

ZERO = Decimal(0)


@dataclass(frozen=True)
class Totals:
    """Sums over a time; money is in US dollars."""

    impressions: int = 0
    clicks: int = 0
    spend: Decimal = ZERO

    @property
    def rate(self) -> float:
        """Clicks per impression; 0 where there are none."""
        return self.clicks / self.impressions if self.impressions else 0.0


@dataclass(frozen=True)
class Week:
    """Sums of the week that begins on a Monday (UTC)."""

    begins: date
    totals: Totals


@dataclass(frozen=True)
class Line:
    """Sums of one thing with a name: an ad, a campaign, a country."""

    id: int | None
    name: str
    totals: Totals
    more: Any = None


def total(weeks: Sequence[Week]) -> Totals:
    """The sums over all weeks."""
    each = [week.totals for week in weeks]
    return Totals(sum(t.impressions for t in each), sum(t.clicks for t in each), sum((t.spend for t in each), ZERO))


def every_week(weeks: Sequence[Week]) -> list[Week]:
    """The same weeks in their order, with those in which nothing happened put in between."""
    if not weeks:
        return []
    known = {week.begins: week for week in weeks}
    first, last = min(known), max(known)
    begins = [first + timedelta(weeks=n) for n in range((last - first).days // 7 + 1)]
    return [known.get(day, Week(day, Totals())) for day in begins]
