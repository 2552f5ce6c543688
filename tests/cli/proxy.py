"""A server in the way: it passes bytes on between clients and a real PostgreSQL, and may change them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Change = Callable[[bytes], bytes]


@contextmanager
def proxy(port: int, change: Change) -> Iterator[int]:
    """Listen on a port of 127.0.0.1, which is yielded, for a server on another.

    Args:
        port: of the real server.
        change: is given what the server sends, piece by piece, and returns what the client gets.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ends: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    server = socket.create_connection(("127.0.0.1", port))
                    ends.extend((client, server))
                    for source, sink, what in ((client, server, bytes), (server, client, change)):
                        threading.Thread(target=_pass_on, args=(source, sink, what), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for end in ends:
                end.close()


def _pass_on(source: socket.socket, sink: socket.socket, change: Change) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(change(data))
        sink.shutdown(socket.SHUT_WR)


def as_version(version: str, real: str) -> Change:
    """Let a server say that it is of another version: a message ``ParameterStatus`` names it at the start of a session
    (PostgreSQL: Message Formats). Both texts have the same length, since messages begin with theirs."""
    old, new = (f"server_version\0{text}".encode() for text in (real, version))
    assert len(old) == len(new)
    return lambda data: data.replace(old, new)
