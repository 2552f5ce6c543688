"""A visit to every company over HTTP: its pages, its figures, and that it has its own rows and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from httpx2 import AsyncClient, Response

from demo.app import DOMAIN
from demo.front import HEADERS
from demo.report import NotHeld
from demo.stage import Resident

FIRST_MADE = 1_000_000
"""Rows that the application has made have ids from here on; see ``demo.models``."""


class Visitor:
    """Visits one company.

    Args:
        client: of the address that the demo is served at.
        resident: the company.
    """

    def __init__(self, client: AsyncClient, resident: Resident) -> None:
        self._client = client
        self._resident = resident
        self.requests = 0

    async def visit(self) -> None:
        """Look at everything.

        Raises:
            NotHeld: something is not as the data says.
        """
        rows = self._resident.company.rows
        campaigns = await self.json("GET", "/api/campaigns")
        stats = await self.json("GET", "/api/stats")
        made = [each["id"] for each in campaigns if each["id"] >= FIRST_MADE]
        counts = self._resident.company.counts
        counts["campaigns"] += len(made)
        self._same("its rows", stats["rows"], counts)
        self._same(
            "the owner",
            {each["company_id"] for each in campaigns} or {self._resident.tenant.key},
            {self._resident.tenant.key},
        )
        expected = {row["id"]: row["name"] for row in rows["campaigns"]}
        self._same(
            "its campaigns", {each["id"]: each["name"] for each in campaigns if each["id"] not in made}, expected
        )
        self._same("its clicks by week", sum(week["clicks"] for week in stats["weeks"].values()), counts["clicks"])
        self._same("impressions in all", stats["totals"]["impressions"], counts["impressions"])
        await self._pages(campaigns[0]["id"] if campaigns else None)

    async def change(self) -> None:
        """Create a campaign and pause it, as this company.

        Raises:
            NotHeld: it can't, or the change is not there afterwards.
        """
        before = (await self.json("GET", "/api/stats"))["rows"]["campaigns"]
        new = {"name": "Summer <of> love", "cost_model": "cost_per_click", "monthly_budget": 500}
        campaign = await self.json("POST", "/api/campaigns", json=new, status=201)
        path = f"/api/campaigns/{campaign['id']}"
        await self.json("PATCH", path, json={"state": "paused"})
        self._same("the new campaign's state", (await self.json("GET", path))["state"], "paused")
        self._same("campaigns", (await self.json("GET", "/api/stats"))["rows"]["campaigns"], before + 1)
        refused = {**new, "company_id": self._resident.tenant.key}
        await self.json("POST", "/api/campaigns", json=refused, status=422)

    async def json(self, method: str, path: str, *, status: int = 200, json: Any = None) -> Any:
        """The answer of the API.

        Raises:
            NotHeld: it has another status.
        """
        return (await self._ask(method, path, status, json)).json()

    async def _pages(self, campaign: int | None) -> None:
        for path in ("/", "/campaigns", *([f"/campaigns/{campaign}"] if campaign is not None else [])):
            response = await self._ask("GET", path, 200)
            self._same(
                f"the policy of {path}",
                response.headers.get("content-security-policy"),
                HEADERS["content-security-policy"],
            )
            if "</html>" not in response.text or "<script" in response.text:
                raise NotHeld(f"{path} is not a whole page without scripts", where=self._host)

    async def _ask(self, method: str, path: str, status: int, json: Any = None) -> Response:
        self.requests += 1
        response = await self._client.request(method, path, json=json, headers={"host": self._host})
        if response.status_code != status:
            raise NotHeld(
                f"{method} {path} answered {response.status_code}, not {status}: {response.text[:200]}",
                where=self._host,
            )
        return response

    @property
    def _host(self) -> str:
        return f"{self._resident.tenant.slug}.{DOMAIN}:{self._client.base_url.port}"

    def _same(self, what: str, seen: object, expected: object) -> None:
        if seen != expected:
            raise NotHeld(f"{what}: {str(seen)[:200]}, expected {str(expected)[:200]}", where=self._host)


async def visit_all(client: AsyncClient, residents: Sequence[Resident]) -> int:
    """Visit every company, all at the same time, and the landing page; the number of requests.

    Raises:
        NotHeld: something is not as the data says.
    """
    visitors = [Visitor(client, resident) for resident in residents]
    async with asyncio.TaskGroup() as group:
        for visitor in visitors:
            group.create_task(visitor.visit())
    landing = await client.get("/", headers={"host": f"{DOMAIN}:{client.base_url.port}"})
    for resident in residents:
        if f"//{resident.tenant.slug}.{DOMAIN}:" not in landing.text:
            raise NotHeld(f"the landing page has no link to {resident.tenant.slug}", where=str(client.base_url))
    return sum(visitor.requests for visitor in visitors) + 1


async def change_all(client: AsyncClient, residents: Sequence[Resident]) -> int:
    """Let every company create and change a campaign, and look at all again; the number of requests.

    Raises:
        NotHeld: it can't, or somebody else's rows have changed with it.
    """
    visitors = [Visitor(client, resident) for resident in residents]
    for visitor in visitors:
        await visitor.change()
    return sum(visitor.requests for visitor in visitors) + await visit_all(client, residents)
