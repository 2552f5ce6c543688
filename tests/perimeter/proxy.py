"""A proxy in front of a server: counts round trips and keeps what the client sent."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from types import TracebackType
from typing import Self


class Proxy:
    """Relays one connection from a free port of 127.0.0.1 to a server's socket.

    Args:
        target: the path of the server's Unix socket.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent = bytearray()
        self.trips = 0
        self._client_spoke = False
        self._thread = threading.Thread(target=self._relay, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # if nobody ever came, this ends the waiting
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        self._thread.join(10)
        self._listener.close()

    def forget(self) -> None:
        """Count from here."""
        self.sent.clear()
        self.trips = 0

    def _relay(self) -> None:
        client, _ = self._listener.accept()
        with client, socket.socket(socket.AF_UNIX) as server, selectors.DefaultSelector() as ready:
            server.connect(self._target)
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in ready.select():
                    assert isinstance(key.fileobj, socket.socket)
                    data = key.fileobj.recv(65536)
                    if not data:
                        return
                    self._note(data, from_client=key.fileobj is client)
                    key.data.sendall(data)

    def _note(self, data: bytes, *, from_client: bool) -> None:
        if from_client:
            self.sent += data
            self._client_spoke = True
        elif self._client_spoke:
            self.trips += 1
            self._client_spoke = False
