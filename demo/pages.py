"""The pages of a company: overview, campaigns, one campaign."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import ValidationError

from demo import commands, queries
from demo.database import Database, OneCampaign
from demo.figures import every_week, total
from demo.render import charts, page
from tenantry import current_tenant

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)

FORM_BYTES = 10_000


def _page(template: str, heading: str, here: str, **context: Any) -> HTMLResponse:
    return page(template, tenant=current_tenant(), heading=heading, here=here, **context)


@router.get("/")
async def overview(db: Database) -> HTMLResponse:
    """Everything at a glance."""
    weeks = every_week(await queries.weekly(db))
    return _page(
        *("overview.html", "Overview", "overview"),
        totals=total(weeks),
        weeks=weeks,
        charts=charts(weeks),
        ads=await queries.ads(db),
        countries=await queries.countries(db),
    )


@router.get("/campaigns")
async def campaigns(db: Database) -> HTMLResponse:
    """All campaigns, and a form for a new one."""
    return await _campaigns(db)


async def _campaigns(db: Database, problem: str | None = None) -> HTMLResponse:
    shown = _page("campaigns.html", "Campaigns", "campaigns", campaigns=await queries.campaigns(db), problem=problem)
    shown.status_code = 422 if problem else 200
    return shown


@router.post("/campaigns")
async def create(db: Database, request: Request) -> Response:
    """The form for a new campaign."""
    form = {name: value for name, value in (await _form(request)).items() if value}
    try:
        new = commands.NewCampaign.model_validate(form)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return await _campaigns(db, f"{' '.join(map(str, first['loc']))}: {first['msg']}")
    campaign = await commands.create(db, new)
    return RedirectResponse(f"/campaigns/{campaign.id}", 303)


@router.get("/campaigns/{number}")
async def campaign(db: Database, found: OneCampaign) -> HTMLResponse:
    """One campaign."""
    weeks = every_week(await queries.weekly(db, found.id))
    return _page(
        *("campaign.html", found.name, "campaigns"),
        campaign=found.more,
        states=commands.STATES,
        totals=total(weeks),
        weeks=weeks,
        charts=charts(weeks),
        ads=await queries.ads(db, found.id, limit=100),
    )


@router.post("/campaigns/{number}")
async def change(db: Database, found: OneCampaign, request: Request) -> Response:
    """The buttons for a campaign's state."""
    try:
        wanted = commands.Change.model_validate(await _form(request))
    except ValidationError:
        raise HTTPException(422, "this is not a state of a campaign") from None
    await commands.change(db, found.more, wanted)
    return RedirectResponse(f"/campaigns/{found.id}", 303)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form that this site has sent: a page of another site can't make a visitor's browser post."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, "this form was sent by another site")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES:
            raise HTTPException(413, "the form is too large")
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20)
    return {name: values[-1] for name, values in fields.items()}
