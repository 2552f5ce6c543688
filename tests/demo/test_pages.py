from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from httpx2 import AsyncClient

from demo.app import DOMAIN
from demo.front import HEADERS
from demo.pages import FORM_BYTES
from demo.vulnerable import PATH as VULNERABLE
from tests.demo.conftest import PORT, Site, host

pytestmark = pytest.mark.anyio

HOSTILE = """<script>alert("x")</script> & '"><img src=x onerror=alert(1)> {{ 7 * 7 }}"""
LEVELS = ("pooled", "schema", "database", "dedicated")
BROWSER = {"accept": "text/html,application/xhtml+xml"}


class Page(HTMLParser):
    """What a browser makes of a page: its texts, and what is active or styled in it, where nothing may be."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.active: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.active += [tag] if tag in ("script", "img", "iframe", "object", "embed", "style") else []
        self.active += [name for name, value in attrs if name.startswith("on") or name == "style"]
        self.active += [value for _, value in attrs if value and value.lower().startswith("javascript:")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


@pytest.mark.parametrize("level", LEVELS)
async def test_names_that_people_wrote_are_escaped_wherever_they_stand(
    client: AsyncClient, site: Site, level: str
) -> None:
    headers = host(site.at(level))
    created = await client.post("/api/campaigns", json={"name": HOSTILE}, headers=headers)
    number = created.json()["id"]
    for path in ("/campaigns", f"/campaigns/{number}"):
        page = Page((await client.get(path, headers=headers)).text)
        assert HOSTILE in page.texts
        assert page.active == []


async def test_the_names_of_companies_and_ads_are_escaped(client: AsyncClient, site: Site) -> None:
    [labs] = [each for each in site.residents if "<" in each.company.name]
    for headers in (host(labs), {"host": f"{DOMAIN}:{PORT}"}):
        shown = (await client.get("/", headers=headers)).text
        assert "Nimbus &lt;Labs&gt;" in shown
        assert "<Labs>" not in shown


@pytest.mark.parametrize("path", ["/", "/campaigns", "/nothing", "/static/style.css", "/api/stats"])
@pytest.mark.parametrize("name", ["meridian-coffee.localhost", "localhost", "nobody.localhost"])
async def test_every_answer_has_the_strict_policy_and_nothing_inline(client: AsyncClient, path: str, name: str) -> None:
    response = await client.get(path, headers={"host": name, **BROWSER})
    assert {key: response.headers[key] for key in HEADERS} == HEADERS
    assert "'unsafe" not in response.headers["content-security-policy"]
    assert Page(response.text).active == []


@pytest.mark.parametrize("level", LEVELS)
async def test_the_overview_shows_the_figures_of_the_data(client: AsyncClient, site: Site, level: str) -> None:
    resident = site.at(level)
    shown = (await client.get("/", headers=host(resident))).text
    counts = resident.company.counts
    assert f"<dd>{counts['impressions']:,}</dd>" in shown
    assert f"<dd>{counts['clicks']:,}</dd>" in shown
    assert shown.count('class="chart ') == 2


async def test_an_empty_campaign_has_no_chart_and_says_so(client: AsyncClient, site: Site) -> None:
    headers = host(site.at("pooled"))
    number = (await client.post("/api/campaigns", json={"name": "new"}, headers=headers)).json()["id"]
    shown = (await client.get(f"/campaigns/{number}", headers=headers)).text
    assert "Nothing has been shown yet" in shown
    assert '<svg class="chart' not in shown


async def test_the_landing_page_says_where_everybody_lives(client: AsyncClient, site: Site) -> None:
    shown = (await client.get("/")).text
    for resident in site.residents:
        at = resident.tenant.placement
        assert at is not None
        assert f'href="//{resident.tenant.slug}.{DOMAIN}:{PORT}/"' in shown
        assert f"{at.shard} / {at.database} / {at.schema}" in shown


async def test_people_get_a_page_and_programs_get_json_where_there_is_no_such_tenant(client: AsyncClient) -> None:
    page = await client.get("/", headers={"host": "nobody.localhost", **BROWSER})
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert f'href="//{DOMAIN}:{PORT}/"' in page.text
    problem = await client.get("/", headers={"host": "nobody.localhost"})
    assert (problem.status_code, problem.json()["code"]) == (404, "tenant-not-found")


@pytest.mark.parametrize("path", ["/campaigns/0", "/campaigns/x", "/campaigns/99999999999999999999", "/nothing"])
async def test_what_is_not_there_is_a_page_that_says_so(client: AsyncClient, site: Site, path: str) -> None:
    response = await client.get(path, headers=host(site.at("schema")))
    assert response.status_code == 404
    assert 'class="status">404' in response.text


async def test_a_form_creates_a_campaign_and_a_button_pauses_it(client: AsyncClient, site: Site) -> None:
    headers = host(site.at("database"))
    form = {"name": "By hand", "cost_model": "cost_per_impression", "monthly_budget": ""}
    created = await client.post("/campaigns", data=form, headers=headers)
    assert created.status_code == 303
    path = created.headers["location"]
    assert "Paid per impression." in (await client.get(path, headers=headers)).text
    assert (await client.post(path, data={"state": "paused"}, headers=headers)).status_code == 303
    assert 'class="state paused">paused' in (await client.get(path, headers=headers)).text


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ({"name": " "}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": "x", "cost_model": "free"}, "cost_model"),
        ({"name": "x", "monthly_budget": "-1"}, "monthly_budget"),
        ({"name": "x", "company_id": "2"}, "company_id"),
    ],
)
async def test_a_wrong_form_is_answered_with_what_is_wrong(
    client: AsyncClient, site: Site, form: dict[str, str], problem: str
) -> None:
    response = await client.post("/campaigns", data=form, headers=host(site.at("pooled")))
    assert response.status_code == 422
    assert f'role="alert">{problem}' in response.text


async def test_a_form_of_another_site_or_of_any_size_is_refused(client: AsyncClient, site: Site) -> None:
    headers = host(site.at("pooled"))
    foreign = await client.post("/campaigns", data={"name": "x"}, headers={**headers, "sec-fetch-site": "cross-site"})
    large = await client.post("/campaigns", data={"name": "x" * FORM_BYTES}, headers=headers)
    state = await client.post("/campaigns/1", data={"state": "gone"}, headers=headers)
    assert [foreign.status_code, large.status_code, state.status_code] == [403, 413, 422]


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/nothing", "/static/"])
async def test_only_the_static_files_are_served(client: AsyncClient, path: str) -> None:
    assert (await client.get(path, headers={"host": "localhost"})).status_code == 404


@pytest.mark.parametrize("level", LEVELS)
async def test_the_vulnerable_search_is_not_in_the_application(client: AsyncClient, site: Site, level: str) -> None:
    assert (await client.get(VULNERABLE, params={"q": "x"}, headers=host(site.at(level)))).status_code == 404


def test_the_application_nowhere_speaks_of_the_tenant_column() -> None:
    folder = Path(__file__).resolve().parents[2] / "demo"
    for name in ("queries", "commands", "pages", "database", "charts", "figures", "render"):
        assert "company_id" not in (folder / f"{name}.py").read_text("utf-8"), name
