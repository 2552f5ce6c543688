"""The application's tables. The tenant column is ``company_id``, and every key begins with it.

No code ever fills ``company_id``: the perimeter gives the column a default, which is the tenant that the transaction is
bound to. The ids of rows that the application makes begin at a million; below are those of the imported data.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from sqlalchemy import BigInteger, DateTime, FetchedValue, ForeignKeyConstraint, Identity, Index, Numeric, Text, func
from sqlalchemy.dialects.postgresql import ARRAY, INET, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

Company = Annotated[int, mapped_column(BigInteger, FetchedValue(), primary_key=True)]
Id = Annotated[int, mapped_column(BigInteger, Identity(start=1_000_000), primary_key=True)]
Ref = Annotated[int, mapped_column(BigInteger)]
Moment = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=func.now())]
Money = Annotated[Decimal, mapped_column(Numeric(20, 10))]


class Base(DeclarativeBase):
    """All tables of the application; ``Base.metadata`` is the template of every tenant's home."""

    type_annotation_map = {str: Text(), dict[str, Any]: JSONB(), list[str]: ARRAY(Text())}  # noqa: RUF012


class Campaign(Base):
    """What an advertiser pays for, by click or by impression."""

    __tablename__ = "campaigns"

    company_id: Mapped[Company]
    id: Mapped[Id]
    name: Mapped[str]
    cost_model: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="running")
    monthly_budget: Mapped[int | None] = mapped_column(BigInteger)
    blocked_site_urls: Mapped[list[str] | None]
    created_at: Mapped[Moment]
    updated_at: Mapped[Moment]


class Ad(Base):
    """One advertisement of a campaign."""

    __tablename__ = "ads"
    __table_args__ = (
        ForeignKeyConstraint(["company_id", "campaign_id"], ["campaigns.company_id", "campaigns.id"]),
        Index("ads_by_campaign", "company_id", "campaign_id"),
    )

    company_id: Mapped[Company]
    id: Mapped[Id]
    campaign_id: Mapped[Ref]
    name: Mapped[str]
    image_url: Mapped[str | None]
    target_url: Mapped[str | None]
    impressions_count: Mapped[Ref] = mapped_column(server_default="0")
    clicks_count: Mapped[Ref] = mapped_column(server_default="0")
    created_at: Mapped[Moment]
    updated_at: Mapped[Moment]

    campaign: Mapped[Campaign] = relationship(viewonly=True)


class Click(Base):
    """Somebody clicked on an ad."""

    __tablename__ = "clicks"
    __table_args__ = (
        ForeignKeyConstraint(["company_id", "ad_id"], ["ads.company_id", "ads.id"]),
        Index("clicks_by_ad", "company_id", "ad_id", "clicked_at"),
    )

    company_id: Mapped[Company]
    id: Mapped[Id]
    ad_id: Mapped[Ref]
    clicked_at: Mapped[Moment]
    site_url: Mapped[str]
    cost_per_click_usd: Mapped[Money | None]
    user_ip: Mapped[str] = mapped_column(INET)
    user_data: Mapped[dict[str, Any]]

    ad: Mapped[Ad] = relationship(viewonly=True)


class Impression(Base):
    """Somebody saw an ad."""

    __tablename__ = "impressions"
    __table_args__ = (
        ForeignKeyConstraint(["company_id", "ad_id"], ["ads.company_id", "ads.id"]),
        Index("impressions_by_ad", "company_id", "ad_id", "seen_at"),
    )

    company_id: Mapped[Company]
    id: Mapped[Id]
    ad_id: Mapped[Ref]
    seen_at: Mapped[Moment]
    site_url: Mapped[str]
    cost_per_impression_usd: Mapped[Money | None]
    user_ip: Mapped[str] = mapped_column(INET)
    user_data: Mapped[dict[str, Any]]

    ad: Mapped[Ad] = relationship(viewonly=True)


MODELS: tuple[type[Campaign] | type[Ad] | type[Click] | type[Impression], ...] = (Campaign, Ad, Click, Impression)
"""In the order in which foreign keys let them be filled."""
