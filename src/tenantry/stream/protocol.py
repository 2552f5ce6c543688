"""What a replication connection carries (PostgreSQL: Streaming Replication Protocol). Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tenantry.errors import StreamBroken

EPOCH = 946_684_800
"""The server counts time from 2000-01-01; in seconds since 1970."""

_DATA = struct.Struct("!QQq")
_ALIVE = struct.Struct("!QqB")
_STATUS = struct.Struct("!cQQQqB")


@dataclass(frozen=True, slots=True)
class WalData:
    """One message of the output plugin, which stands at ``lsn`` in the log."""

    lsn: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Keepalive:
    """The server has nothing more before ``lsn``. ``reply``: it wants to hear from us at once."""

    lsn: int
    reply: bool


def parse_frame(frame: bytes) -> WalData | Keepalive:
    """One frame from the server.

    Raises:
        StreamBroken: it is neither.
    """
    kind = frame[:1]
    try:
        if kind == b"w":
            return WalData(_DATA.unpack_from(frame, 1)[0], frame[1 + _DATA.size :])
        if kind == b"k":
            lsn, _, reply = _ALIVE.unpack(frame[1:])
            return Keepalive(lsn, bool(reply))
    except struct.error as error:
        raise StreamBroken(f"a replication message is malformed: {error}") from error
    raise StreamBroken(f"a replication message of the kind {kind!r} came")


def status(received: int, flushed: int, now: float) -> bytes:
    """What we tell the server: it may forget what is before ``flushed``.

    Args:
        received: up to where the log has come here.
        flushed: up to where it is safe at its destination.
        now: seconds since 1970.
    """
    return _STATUS.pack(b"r", max(received, flushed), flushed, flushed, int((now - EPOCH) * 1_000_000), 0)
