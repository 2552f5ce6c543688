"""The JSON API of a company."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Self

from fastapi import APIRouter
from pydantic import BaseModel

from demo import commands, queries
from demo.database import Database, OneCampaign
from demo.figures import Line, Totals, total
from demo.models import Campaign
from tenantry import current_tenant

router = APIRouter(prefix="/api")


class Sums(BaseModel):
    """Sums over a time; money is a decimal number in a string."""

    impressions: int
    clicks: int
    spend_usd: Decimal

    @classmethod
    def of(cls, totals: Totals) -> Self:
        """As JSON."""
        return cls(impressions=totals.impressions, clicks=totals.clicks, spend_usd=round(totals.spend, 2))


class CampaignOut(BaseModel):
    """A campaign with its sums."""

    id: int
    company_id: int
    name: str
    cost_model: str
    state: str
    monthly_budget: int | None
    created_at: datetime
    totals: Sums

    @classmethod
    def of(cls, campaign: Campaign, totals: Totals) -> Self:
        """As JSON."""
        return cls(
            id=campaign.id,
            company_id=campaign.company_id,
            name=campaign.name,
            cost_model=campaign.cost_model,
            state=campaign.state,
            monthly_budget=campaign.monthly_budget,
            created_at=campaign.created_at,
            totals=Sums.of(totals),
        )


class Named(BaseModel):
    """Sums of a week, an ad or a country."""

    name: str
    totals: Sums


class Stats(BaseModel):
    """Everything about a company in figures."""

    company: str
    rows: dict[str, int]
    totals: Sums
    weeks: dict[date, Sums]
    ads: list[Named]
    countries: list[Named]


@router.get("/stats")
async def stats(db: Database) -> Stats:
    """The figures of the overview, and the number of rows in each table."""
    weeks = await queries.weekly(db)
    return Stats(
        company=current_tenant().slug,
        rows=await queries.row_counts(db),
        totals=Sums.of(total(weeks)),
        weeks={week.begins: Sums.of(week.totals) for week in weeks},
        ads=[_named(line) for line in await queries.ads(db)],
        countries=[_named(line) for line in await queries.countries(db)],
    )


@router.get("/campaigns")
async def campaigns(db: Database) -> list[CampaignOut]:
    """All campaigns, the newest first."""
    return [CampaignOut.of(line.more, line.totals) for line in await queries.campaigns(db)]


@router.post("/campaigns", status_code=201)
async def create(db: Database, new: commands.NewCampaign) -> CampaignOut:
    """Create a campaign."""
    return CampaignOut.of(await commands.create(db, new), Totals())


@router.get("/campaigns/{number}")
async def campaign(found: OneCampaign) -> CampaignOut:
    """One campaign."""
    return CampaignOut.of(found.more, found.totals)


@router.patch("/campaigns/{number}")
async def change(db: Database, found: OneCampaign, wanted: commands.Change) -> CampaignOut:
    """Change the state of a campaign."""
    await commands.change(db, found.more, wanted)
    return CampaignOut.of(found.more, found.totals)


def _named(line: Line) -> Named:
    return Named(name=line.name, totals=Sums.of(line.totals))
