"""The how-to pages about integrations: their code runs, against a house with the tenants that they speak of."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
from litestar.testing import TestClient
from werkzeug.test import Client

from tenantry import Router
from tenantry.errors import TenantryError
from tenantry.resolve.problem import as_problem
from tests.fixtures.house import House, MakeHouse

DOCS = Path(__file__).resolve().parents[2] / "docs" / "howto"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^```python title=\"jobs.py\"\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def furnished(make_house: MakeHouse) -> House:
    house = make_house()
    for slug in ("acme", "globex"):
        house.tenants[slug] = house.create(slug)
    return house


@pytest.fixture
def settings(furnished: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[House]:
    """As on a developer's machine: the catalog is in the environment, and the tables are empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "page", ModuleType("page"))
    monkeypatch.setenv("TENANTRY_CATALOG", furnished.settings.catalog_dsn)
    yield furnished
    with Router(furnished.settings) as router:
        for slug in furnished.tenants:
            with router.tenant_scope(slug), router.transaction() as conn:
                conn.execute("DELETE FROM orders")


async def run(page: str) -> dict[str, Any]:
    names = vars(sys.modules["page"])
    blocks = BLOCK.findall((DOCS / page).read_text("utf-8"))
    assert blocks
    for number, block in enumerate(blocks, 1):
        where = f"{page}, block {number}"
        code = compile(block, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        running = eval(code, names)
        if inspect.iscoroutine(running):
            await running
    return names


@pytest.mark.parametrize(
    "page", ["sqlalchemy.md", "psycopg.md", "scripts-and-jobs.md", "celery.md", "threads-and-processes.md"]
)
async def test_the_code_of_a_page_runs_from_top_to_bottom(settings: House, page: str) -> None:
    names = await run(page)
    if "engine" in names:
        names["engine"].dispose()
    names["router"].close()


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_the_script_on_the_page_about_processes_works_for_both_tenants(
    settings: House, tmp_path: Path, method: str
) -> None:
    (script,) = FILE.findall((DOCS / "threads-and-processes.md").read_text("utf-8"))
    (tmp_path / "jobs.py").write_text(script, "utf-8")
    done = subprocess.run([sys.executable, "jobs.py", method], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "acme globex\n"), done.stderr


async def test_the_code_of_the_page_about_asyncpg_runs_from_top_to_bottom(settings: House) -> None:
    names = await run("asyncpg.md")
    async with names["router"].tenant_scope("acme"), names["router"].transaction() as conn:
        await conn.execute("DELETE FROM orders")
    await names["router"].close()


@pytest.mark.parametrize("which", ["app", "wrapped"])
async def test_the_application_on_the_page_about_fastapi_serves_its_tenants(settings: House, which: str) -> None:
    names = await run("fastapi.md")
    app = names["app"]
    transport = httpx2.ASGITransport(app=names[which])
    async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport) as client:
        assert (await client.post("http://acme.example.com/orders/chairs")).status_code == 200
        assert (await client.get("http://acme.example.com/orders")).json() == ["chairs"]
        assert (await client.get("http://globex.example.com/orders")).json() == []
        assert (await client.get("http://acme.example.com/")).json() == "acme is on the plan free"
        assert (await client.get("http://nobody.example.com/")).status_code == 404
        await names["Session"].kw["bind"].dispose()


async def test_the_application_on_the_page_about_flask_serves_its_tenants(settings: House) -> None:
    names = await run("flask.md")
    client = names["app"].test_client()

    def get(path: str, host: str = "acme.example.com") -> str:
        return str(client.get(path, base_url=f"http://{host}").text)

    assert client.post("/orders/chairs", base_url="http://acme.example.com").text == "thank you"
    assert (get("/orders"), get("/orders", "globex.example.com")) == ('["chairs"]\n', "[]\n")
    assert (get("/"), get("/title")) == ("acme is on the plan free", "<title>acme</title>")
    assert (get("/export"), get("/pricing", "example.com")) == ("acme,chairs\n", "free")
    assert get("/", "nobody.example.com") == "<h1>Nobody of that name</h1>"
    assert Client(names["application"]).get("/", base_url="http://globex.example.com").text == "globex"
    names["Session"].kw["bind"].dispose()
    names["router"].close()


def test_the_application_on_the_page_about_litestar_serves_its_tenants(settings: House) -> None:
    names = asyncio.run(run("litestar.md"))
    with TestClient(names["app"], base_url="http://acme.example.com") as client:
        assert client.post("/orders/chairs").status_code == 201
        assert client.get("/orders").json() == ["chairs"]
        assert client.get("/orders", headers={"host": "globex.example.com"}).json() == []
        assert client.get("/").text == "acme is on the plan free"
        assert client.get("/pricing", headers={"host": "example.com"}).text == "free"
        assert client.get("/", headers={"host": "nobody.example.com"}).status_code == 404
        assert client.portal is not None
        with client.portal() as portal:
            portal.call(names["Session"].kw["bind"].dispose)


async def test_the_table_of_answers_is_true() -> None:
    """Each code that is named is answered with the status beside it."""
    rows = re.findall(r"^\| .* \| (\d+)[^|]* \| (`.*`) \|$", (DOCS / "fastapi.md").read_text("utf-8"), re.MULTILINE)
    told = {code: int(status) for status, codes in rows for code in re.findall(r"`([\w-]+)`", codes)}
    assert len(told) == 10
    for error in _all(TenantryError):
        if error.code in told and error.__name__ not in ("MissingDependency",):
            problem = as_problem(error("x"))
            assert problem
            assert (problem.status, problem.retry_after is not None) == (told[error.code], told[error.code] == 503)


def _all(kind: type[TenantryError]) -> list[type[TenantryError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in _all(below))]
