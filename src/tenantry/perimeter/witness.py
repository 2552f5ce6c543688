"""Who reads along what a server answers to a transaction that begins, and changes nothing of it."""

from __future__ import annotations

import asyncio
from typing import Any

from tenantry.perimeter import wire


class Witness(asyncio.Protocol):
    """Stands before asyncpg's protocol and sees whether a binding has been done.

    ``BEGIN``, the binding and a statement are answered in one go, and asyncpg tells no more than that one of them has
    failed. Every byte goes on to asyncpg as it came.

    Args:
        protocol: asyncpg's.

    Attributes:
        bound: whether the binding that was watched last was done; None: the server has not said yet.
    """

    bound: bool | None = False

    def __init__(self, protocol: Any) -> None:
        self._receive = protocol.data_received
        self._good = b""
        self._heard = b""
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def watch(self, *, parsed: bool) -> None:
        """Look at the answers that come now.

        Args:
            parsed: whether the binding is parsed before it is executed.
        """
        self.bound = None
        self._good = wire.bound_answer(parsed=parsed)
        self._heard = b""

    def data_received(self, data: bytes) -> None:
        """What the server has sent."""
        if self.bound is None:
            if not self._heard and data.startswith(self._good):
                self.bound = True
            else:
                self._heard += data
                self.bound = wire.was_bound(self._heard)
        self._receive(data)
