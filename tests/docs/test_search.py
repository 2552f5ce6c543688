"""The page about search: its index, its mapping and its statements."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest

from tenantry.service import perimeter
from tests.fixtures.house import MakeHouse

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "search.md").read_text("utf-8")
BLOCK = re.compile(r"^```(python|sql)(?: title=\"(.*?)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_works(make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house()
    house.create("acme", key=3)
    blocks = BLOCK.findall(PAGE)
    (server,) = house.servers
    with psycopg.connect(server.dsn()) as conn:
        found = conn.execute("SELECT datname FROM pg_database WHERE datname LIKE 'app\\_%'")
        ((database,),) = found.fetchall()
    with psycopg.connect(server.dsn(database), autocommit=True) as conn:
        for kind, _, text in blocks:
            for statement in text.split(";\n") if kind == "sql" else ():
                conn.execute(statement.encode())

    async def apply() -> None:
        async with house.control() as control:
            await perimeter.apply(control)

    asyncio.run(apply())
    monkeypatch.setenv("TENANTRY_CATALOG", house.settings.catalog_dsn)
    shop = ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", shop)
    names: dict[str, Any] = {}
    for number, (kind, title, text) in enumerate(blocks):
        if kind == "python":
            code = compile(text, f"search.md, block {number}", "exec", dont_inherit=True)
            exec(code, vars(shop) if title == "shop.py" else names)
    with names["router"].tenant_scope("acme"), names["router"].transaction() as conn:
        conn.execute("INSERT INTO orders (note, amount) VALUES ('is urgent', 5), ('is not', 5)")
        assert len(conn.execute(names["query"], {"sought": "%urgent%"}).fetchall()) == 1
        assert conn.execute(names["change"], {"sought": "%urgent%"}).rowcount == 1
    names["engine"].dispose()
    names["router"].close()
