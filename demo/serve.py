"""A web server inside this process, on the loopback address alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp

from tenantry.errors import InUse

ADDRESS = "127.0.0.1"
FIRST_PORT = 8000


class _Server(uvicorn.Server):
    """Says when it is ready, and leaves signals to the program that it is a part of."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: ASGIApp, sock: socket.socket) -> AsyncIterator[int]:
    """Serve an application for the length of the block; gives the port."""
    config = uvicorn.Config(
        app, log_level="error", access_log=False, lifespan="on", server_header=False, timeout_graceful_shutdown=3
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve([sock]))
    ready = asyncio.create_task(server.ready.wait())
    try:
        await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        yield sock.getsockname()[1]
    finally:
        ready.cancel()
        server.should_exit = True
        await running
        sock.close()


def bind(port: int | None) -> socket.socket:
    """A socket to serve on.

    Args:
        port: None: :data:`FIRST_PORT` if it is free, else any; 0: any.

    Raises:
        InUse: the port can't be had.
    """
    # Named as TCP: asyncio turns Nagle's algorithm off only for sockets that say so, and else each answer waits 40 ms.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((ADDRESS, FIRST_PORT if port is None else port))
        sock.listen()
        return sock
    except OSError as error:
        sock.close()
        if port is None:
            return bind(0)
        hint = "name another with --port, or leave the option out"
        raise InUse(f"port {port} can't be had: {error.strerror}", where=ADDRESS, hint=hint) from None
