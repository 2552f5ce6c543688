"""A small application as people write them: a router made at import, sessions, and no tenant in sight."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker

from tenantry import AsyncRouter
from tenantry.integrations.asgi import TenantMiddleware
from tenantry.integrations.sqlalchemy import create_async_engine
from tenantry.resolve import Header

log = logging.getLogger("shop")
router = AsyncRouter()
Session = async_sessionmaker(create_async_engine(router))
cached: list[dict[str, Any]] = []


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with router:
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(TenantMiddleware, router=router, resolver=Header("X-Tenant"))


@app.get("/orders")
async def orders() -> list[dict[str, Any]]:
    async with Session() as session:
        return [dict(row) for row in (await session.execute(text("SELECT * FROM orders"))).mappings()]


@app.get("/orders/cached")
async def cached_orders() -> list[dict[str, Any]]:
    if not cached:
        cached.extend(await orders())
    return cached


@app.get("/orders/count")
async def count() -> int:
    async with Session() as session:
        return int((await session.execute(text("SELECT count(*) FROM orders"))).scalar_one())
