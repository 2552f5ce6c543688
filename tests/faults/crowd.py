"""An application with many tasks: ``python -m tests.faults.crowd SETTINGS TASKS SLUG...``. It says what became of them
as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from tenantry import AsyncRouter
from tenantry.errors import ServerFull
from tenantry.routing.core import Attempts, Route
from tenantry.settings import Settings

_SLOW = 200
"""So many tasks work longer than it takes to connect: all are there at once."""


class Counting(AsyncRouter):
    """Counts how often the server had no connection left."""

    refused = 0

    async def recover(self, error: Exception, route: Route, attempts: Attempts, *, lost: bool) -> Route:
        self.refused += isinstance(error, ServerFull)
        return await super().recover(error, route, attempts, lost=lost)


async def main(settings: dict[str, Any], tasks: int, slugs: Sequence[str]) -> dict[str, Any]:
    async with Counting(Settings(**settings)) as router:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

        async def work(number: int) -> None:
            async with router.tenant_scope(slugs[number % len(slugs)]) as tenant, router.transaction() as conn:
                slow = 0.5 if number < _SLOW else 0
                await conn.execute("INSERT INTO orders (note) SELECT 'crowd' FROM pg_sleep(%s)", (slow,))
                cursor = await conn.execute("SELECT DISTINCT tenant_id FROM orders")
                assert await cursor.fetchall() == [(tenant.key,)]

        found = await asyncio.gather(*map(work, range(tasks)), return_exceptions=True)
        errors = [repr(each) for each in found if each is not None]
        return {"done": tasks - len(errors), "errors": errors[:5], "refused": router.refused}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))))
