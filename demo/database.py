"""What an endpoint asks for: a session of the tenant whose request it is, and a campaign of that tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, HTTPException, Path, Request
from sqlalchemy.ext.asyncio import AsyncSession

from demo import queries
from demo.figures import Line


async def session(request: Request) -> AsyncIterator[AsyncSession]:
    """A session for the length of a request; what it has changed is kept if it commits."""
    async with request.app.state.sessions() as opened:
        yield opened


Database = Annotated[AsyncSession, Depends(session)]


async def campaign(db: Database, number: Annotated[int, Path(ge=1, le=2**63 - 1)]) -> Line:
    """The campaign that the path names. Another company's is not there, so there is nothing to forbid."""
    found = await queries.campaigns(db, number)
    if not found:
        raise HTTPException(404, "there is no such campaign")
    return found[0]


OneCampaign = Annotated[Line, Depends(campaign)]
