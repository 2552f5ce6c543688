"""Waiting for a place in the ledger and for a server, for tasks and for threads."""

from __future__ import annotations

import asyncio
import time
from threading import Event
from typing import Any

from tenantry.errors import NoCapacity
from tenantry.perimeter.bound import BoundConnection
from tenantry.perimeter.bound_async import AsyncBoundConnection
from tenantry.routing.ledger import Drop, Key, Ledger, Place

_AGAIN_SECONDS = 2.0


async def take_async(ledger: Ledger, key: Key, size: int, drop: Drop, seconds: float, home: str | None = None) -> Place:
    """A place for a connection; see :meth:`Ledger.take`.

    Args:
        seconds: how long to wait for one.

    Raises:
        NoCapacity: none became free in time.
    """
    place = ledger.take(key, size, drop, home)
    if place is not None:
        return place
    loop = asyncio.get_running_loop()
    served: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(_resolve, served)
        except RuntimeError:  # the loop has ended, and with it who waited
            ledger.leave(waiter)

    waiter = ledger.queue(key, size, drop, wake, home)
    again = waiter.patience or _AGAIN_SECONDS
    try:
        until = time.monotonic() + seconds
        while waiter.place is None and (left := until - time.monotonic()) > 0:
            await asyncio.wait([served], timeout=min(left, again))
            ledger.retry(waiter)
            again = _AGAIN_SECONDS
    except BaseException:
        ledger.leave(waiter)
        raise
    return ledger.collect(waiter) or _refuse(ledger, key, size, seconds)


def take(ledger: Ledger, key: Key, size: int, drop: Drop, seconds: float, home: str | None = None) -> Place:
    """The same for threads."""
    place = ledger.take(key, size, drop, home)
    if place is not None:
        return place
    served = Event()
    waiter = ledger.queue(key, size, drop, served.set, home)
    again = waiter.patience or _AGAIN_SECONDS
    try:
        until = time.monotonic() + seconds
        while waiter.place is None and (left := until - time.monotonic()) > 0:
            served.wait(min(left, again))
            ledger.retry(waiter)
            again = _AGAIN_SECONDS
    except BaseException:
        ledger.leave(waiter)
        raise
    return ledger.collect(waiter) or _refuse(ledger, key, size, seconds)


async def pause_async(seconds: float) -> None:
    """Let time pass."""
    await asyncio.sleep(seconds)


def pause(seconds: float) -> None:
    """The same for threads."""
    time.sleep(seconds)


async def connect_async(dsn: str, **options: Any) -> AsyncBoundConnection:
    """Connect. Who is cancelled meanwhile does not leave half a login behind, for which a server waits a minute."""
    connecting = asyncio.ensure_future(AsyncBoundConnection.connect(dsn, **options))
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        connecting.add_done_callback(_close)
        raise


def connect(dsn: str, **options: Any) -> BoundConnection:
    """The same for threads."""
    return BoundConnection.connect(dsn, **options)


def _close(connecting: asyncio.Future[AsyncBoundConnection]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().pgconn.finish()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _refuse(ledger: Ledger, key: Key, size: int, seconds: float) -> Place:
    if ledger.count(key) >= size:
        raise NoCapacity(
            f"no connection became free in {seconds:g} s: all {size} to this database are in use",
            where=key.target.name,
            hint="raise the setting pool_size, or find what holds transactions open",
        )
    raise NoCapacity(
        f"no connection became free in {seconds:g} s: all {ledger.budget} of this process are in use",
        where=key.target.name,
        hint="raise the setting pool_budget, or find what holds transactions open",
    )
