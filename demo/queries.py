"""What the pages and the API ask the database. No statement names a tenant: the rows of others are not there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from demo.figures import ZERO, Line, Totals, Week
from demo.models import Ad, Base, Campaign, Click, Impression


async def row_counts(session: AsyncSession) -> dict[str, int]:
    """How many rows each table shows."""
    counts = {}
    for table in Base.metadata.sorted_tables:
        counts[table.name] = await session.scalar(select(func.count()).select_from(table)) or 0
    return counts


async def weekly(session: AsyncSession, campaign: int | None = None) -> list[Week]:
    """The sums of each week in which anything happened, also of one campaign alone."""
    seen = await _by_week(session, _impressions(func.date_trunc("week", Impression.seen_at, "UTC"), campaign))
    clicked = await _by_week(session, _clicks(func.date_trunc("week", Click.clicked_at, "UTC"), campaign))
    nothing = 0, ZERO
    return [
        Week(begins, _totals(seen.get(begins, nothing), clicked.get(begins, nothing)))
        for begins in sorted({*seen, *clicked})
    ]


async def countries(session: AsyncSession, limit: int = 8) -> list[Line]:
    """The countries with the most clicks."""
    clicks, seen = (
        _clicks(Click.user_data["location"].astext).subquery(),
        _impressions(Impression.user_data["location"].astext).subquery(),
    )
    query = (
        select(
            seen.c.what, func.coalesce(clicks.c.many, 0), seen.c.many, func.coalesce(clicks.c.spend, 0) + seen.c.spend
        )
        .outerjoin_from(seen, clicks, seen.c.what == clicks.c.what)
        .order_by(func.coalesce(clicks.c.many, 0).desc(), seen.c.many.desc(), seen.c.what)
        .limit(limit)
    )
    found = await session.execute(query)
    return [Line(None, name or "?", Totals(many, clicked, spend)) for name, clicked, many, spend in found]


async def ads(session: AsyncSession, campaign: int | None = None, limit: int = 8) -> list[Line]:
    """The ads with the most clicks; ``more`` is the name of the campaign."""
    clicks, seen = _clicks(Click.ad_id, campaign).subquery(), _impressions(Impression.ad_id, campaign).subquery()
    query = (
        select(Ad.id, Ad.name, *_sums(clicks, seen), Campaign.name)
        .join(Ad.campaign)
        .outerjoin(clicks, clicks.c.what == Ad.id)
        .outerjoin(seen, seen.c.what == Ad.id)
        .order_by(func.coalesce(clicks.c.many, 0).desc(), func.coalesce(seen.c.many, 0).desc(), Ad.id)
        .limit(limit)
    )
    return _lines((await session.execute(query)).all() if campaign is None else await _of(session, query, campaign))


async def campaigns(session: AsyncSession, campaign: int | None = None) -> list[Line]:
    """All campaigns, the newest first, or only one; ``more`` is the :class:`Campaign`."""
    clicks, seen = (_clicks(Ad.campaign_id, campaign).subquery(), _impressions(Ad.campaign_id, campaign).subquery())
    query = (
        select(Campaign.id, Campaign.name, *_sums(clicks, seen), Campaign)
        .outerjoin(clicks, clicks.c.what == Campaign.id)
        .outerjoin(seen, seen.c.what == Campaign.id)
        .order_by(Campaign.id.desc())
    )
    return _lines((await session.execute(query)).all() if campaign is None else await _of(session, query, campaign))


async def _of(session: AsyncSession, query: Select[Any], campaign: int) -> Sequence[Any]:
    found: Sequence[Any] = (await session.execute(query.where(Campaign.id == campaign))).all()
    return found


def _clicks(by: ColumnElement[Any] | Any, campaign: int | None = None) -> Select[Any]:
    return _grouped(Click, by, Click.cost_per_click_usd, campaign)


def _impressions(by: ColumnElement[Any] | Any, campaign: int | None = None) -> Select[Any]:
    return _grouped(Impression, by, Impression.cost_per_impression_usd, campaign)


def _grouped(
    model: type[Click] | type[Impression], by: ColumnElement[Any], cost: Any, campaign: int | None
) -> Select[Any]:
    query = select(by.label("what"), func.count().label("many"), func.coalesce(func.sum(cost), 0).label("spend"))
    query = query.select_from(model).join(model.ad).group_by("what")
    return query if campaign is None else query.where(Ad.campaign_id == campaign)


def _sums(clicks: Subquery, seen: Subquery) -> tuple[ColumnElement[Any], ...]:
    spend = func.coalesce(clicks.c.spend, 0) + func.coalesce(seen.c.spend, 0)
    return func.coalesce(seen.c.many, 0), func.coalesce(clicks.c.many, 0), spend


def _lines(found: Sequence[Any]) -> list[Line]:
    return [
        Line(number, name, Totals(seen, clicked, spend), more) for number, name, seen, clicked, spend, more in found
    ]


async def _by_week(session: AsyncSession, query: Select[Any]) -> dict[date, tuple[int, Decimal]]:
    return {when.date(): (many, spend) for when, many, spend in await session.execute(query)}


def _totals(seen: tuple[int, Decimal], clicked: tuple[int, Decimal]) -> Totals:
    return Totals(seen[0], clicked[0], seen[1] + clicked[1])
