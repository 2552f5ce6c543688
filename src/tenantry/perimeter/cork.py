"""What is written to a transport together with what somebody else writes next."""

from __future__ import annotations

import asyncio


class Cork:
    """Holds bytes back until something else is written, so that both leave in one piece.

    Two pieces would be two system calls, and wake the server up twice. A transport that gathers by itself what is
    written in one step of its loop, as uvloop's, is left to do so.

    Args:
        transport: whose ``write`` is replaced.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._write = transport.write
        self._held = b""
        self._holds = True
        try:
            transport.write = self.write  # type: ignore[method-assign]
        except AttributeError:
            self._holds = False

    def hold(self, data: bytes) -> None:
        """Let something leave before what is written next."""
        if self._holds:
            self._held += data
        else:
            self._write(data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """As the transport's."""
        if self._held:
            data, self._held = self._held + data, b""
        self._write(data)
