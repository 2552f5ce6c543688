"""The worst endpoint that one can write, for the attacks to come in by. It is served in the attack step alone."""

from __future__ import annotations

from typing import Any

import psycopg
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from demo.app import resolver
from tenantry import AsyncRouter
from tenantry.errors import TenantryError
from tenantry.integrations.asgi import TenantMiddleware

PATH = "/deliberately-vulnerable-search"


def create_vulnerable_app(router: AsyncRouter, secret: str) -> FastAPI:
    """An application with a search that pastes what it is sent into a statement, runs all that comes out of it, and
    answers with every row and every error of the database."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get(PATH)
    async def search(q: str) -> JSONResponse:
        try:
            async with router.transaction() as conn:
                cursor = await conn.execute(
                    f"SELECT company_id, id, name FROM campaigns WHERE name ILIKE '%{q}%' ORDER BY id"
                )
                return JSONResponse({"rows": await _everything(cursor)})
        except psycopg.Error as error:
            return JSONResponse({"sqlstate": error.sqlstate, "message": error.diag.message_primary or str(error)}, 400)
        except TenantryError as error:
            return JSONResponse(error.as_dict(), error.status)

    app.add_middleware(TenantMiddleware, router=router, resolver=resolver(secret))
    return app


async def _everything(cursor: psycopg.AsyncCursor[Any]) -> list[dict[str, Any]]:
    """The rows of all statements that were run, not only of the first."""
    rows: list[dict[str, Any]] = []
    while True:
        if cursor.description is not None:
            names = [column.name for column in cursor.description]
            rows += [dict(zip(names, map(_plain, row), strict=True)) for row in await cursor.fetchall()]
        if not cursor.nextset():
            return rows


def _plain(value: object) -> object:
    return value if isinstance(value, int | str | None) else str(value)
