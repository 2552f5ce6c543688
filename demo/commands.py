"""What a company can change: its campaigns. Forms and the API share it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from demo.models import Campaign

State = Literal["running", "paused", "archived"]
STATES: tuple[State, ...] = ("running", "paused", "archived")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds characters that can't be shown")
    return text


class NewCampaign(BaseModel):
    """A campaign to be created. Fields that are not here, such as a company, are refused."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_printable)
    ]
    cost_model: Literal["cost_per_click", "cost_per_impression"] = "cost_per_click"
    monthly_budget: int | None = Field(default=None, ge=0, le=1_000_000_000, description="US dollars")


class Change(BaseModel):
    """What may change of a campaign."""

    model_config = ConfigDict(extra="forbid")

    state: State


async def create(session: AsyncSession, new: NewCampaign) -> Campaign:
    """Create a campaign and commit it."""
    campaign = Campaign(**new.model_dump())
    session.add(campaign)
    await session.commit()
    await session.refresh(campaign)
    return campaign


async def change(session: AsyncSession, campaign: Campaign, wanted: Change) -> None:
    """Change a campaign and commit it."""
    campaign.state = wanted.state
    campaign.updated_at = func.now()
    await session.commit()
