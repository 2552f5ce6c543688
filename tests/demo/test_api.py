from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import pytest
from httpx2 import AsyncClient
from joserfc import jwt
from joserfc.jwk import OctKey

from demo.app import AUDIENCE, ISSUER
from tests.demo.conftest import SECRET, Site, host

pytestmark = pytest.mark.anyio

LEVELS = ("pooled", "schema", "database", "dedicated")
NEW = {"name": "Summer", "cost_model": "cost_per_click", "monthly_budget": 500}


@pytest.mark.parametrize("level", LEVELS)
async def test_figures_are_the_sums_of_the_companys_own_rows(client: AsyncClient, site: Site, level: str) -> None:
    resident = site.at(level)
    rows = resident.company.rows
    stats = (await client.get("/api/stats", headers=host(resident))).json()
    spend = sum(row["cost_per_click_usd"] or 0 for row in rows["clicks"])
    spend += sum(row["cost_per_impression_usd"] or 0 for row in rows["impressions"])
    assert stats["company"] == resident.tenant.slug
    assert stats["totals"]["clicks"] == len(rows["clicks"])
    assert stats["totals"]["impressions"] == len(rows["impressions"])
    assert abs(Decimal(stats["totals"]["spend_usd"]) - spend) < Decimal("0.01")
    assert sum(week["impressions"] for week in stats["weeks"].values()) == len(rows["impressions"])
    best = max(sum(row["ad_id"] == ad["id"] for row in rows["clicks"]) for ad in rows["ads"])
    assert stats["ads"][0]["totals"]["clicks"] == best
    home = [row for row in rows["clicks"] if row["user_data"]["location"] == stats["countries"][0]["name"]]
    assert stats["countries"][0]["totals"]["clicks"] == len(home)


@pytest.mark.parametrize("level", LEVELS)
async def test_a_campaign_is_created_read_and_changed(client: AsyncClient, site: Site, level: str) -> None:
    resident = site.at(level)
    headers = host(resident)
    created = await client.post("/api/campaigns", json=NEW, headers=headers)
    campaign = created.json()
    assert (created.status_code, campaign["company_id"]) == (201, resident.tenant.key)
    assert campaign["id"] >= 1_000_000
    path = f"/api/campaigns/{campaign['id']}"
    paused = await client.patch(path, json={"state": "paused"}, headers=headers)
    assert (paused.status_code, paused.json()["state"]) == (200, "paused")
    assert (await client.get(path, headers=headers)).json() == paused.json()
    assert (await client.get("/api/campaigns", headers=headers)).json()[0] == paused.json()


async def test_a_campaign_of_another_company_is_not_there(client: AsyncClient, site: Site) -> None:
    one, other = [each for each in site.residents if each.level == "pooled"][:2]
    path = f"/api/campaigns/{other.company.rows['campaigns'][0]['id']}"
    for request in (
        client.get(path, headers=host(one)),
        client.patch(path, json={"state": "paused"}, headers=host(one)),
    ):
        assert (await request).status_code == 404
    assert (await client.get(path, headers=host(other))).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "\u0000"},
        {"name": "x" * 201},
        {"name": ["x"]},
        {"name": "x", "company_id": 2},
        {"name": "x", "id": 1},
        {"name": "x", "cost_model": "'; DROP TABLE campaigns --"},
        {"name": "x", "monthly_budget": -1},
        {"name": "x", "monthly_budget": 10**30},
        [],
        None,
    ],
)
async def test_a_wrong_campaign_is_refused(client: AsyncClient, site: Site, body: Any) -> None:
    response = await client.post("/api/campaigns", json=body, headers=host(site.at("pooled")))
    assert response.status_code == 422


@pytest.mark.parametrize("name", ["株式会社", "🦊 & co", "'; DROP TABLE campaigns --", "%s %(x)s {} \\"])
async def test_any_printable_name_comes_back_as_it_was_sent(client: AsyncClient, site: Site, name: str) -> None:
    headers = host(site.at("schema"))
    created = (await client.post("/api/campaigns", json={"name": name}, headers=headers)).json()
    assert (await client.get(f"/api/campaigns/{created['id']}", headers=headers)).json()["name"] == name


@pytest.mark.parametrize("number", ["0", "-1", "x", str(2**63), "1;"])
async def test_a_wrong_number_is_refused(client: AsyncClient, site: Site, number: str) -> None:
    response = await client.get(f"/api/campaigns/{number}", headers=host(site.at("pooled")))
    assert response.status_code == 422


async def test_a_header_leads_to_the_company_where_the_host_names_none(client: AsyncClient, site: Site) -> None:
    slug = site.at("dedicated").tenant.slug
    assert (await client.get("/api/stats", headers={"x-tenant": slug})).json()["company"] == slug


async def test_a_token_leads_to_its_company_and_to_no_other(client: AsyncClient, site: Site) -> None:
    mine, other = site.at("schema"), site.at("pooled")
    bearer = {"authorization": f"Bearer {token(mine.tenant.slug)}"}
    assert (await client.get("/api/stats", headers=bearer)).json()["company"] == mine.tenant.slug
    assert (await client.get("/api/stats", headers=host(mine, **bearer))).status_code == 200
    refused = await client.get("/api/stats", headers=host(other, **bearer))
    assert (refused.status_code, refused.json()["code"]) == (400, "conflicting-tenants")


def token(slug: str) -> str:
    claims = {"tenant": slug, "iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 60}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))
