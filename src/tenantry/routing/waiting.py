"""Waiting on a condition for a bounded time, for tasks and for threads."""

from __future__ import annotations

import asyncio
import threading


async def wait_async(condition: asyncio.Condition, seconds: float) -> None:
    """Wait until the condition, which the caller holds, is notified; at most ``seconds``."""
    try:
        await asyncio.wait_for(condition.wait(), max(0.0, seconds))
    except TimeoutError:
        return


def wait(condition: threading.Condition, seconds: float) -> None:
    """The same for threads."""
    condition.wait(max(0.0, seconds))
