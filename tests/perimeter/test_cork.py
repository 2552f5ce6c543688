"""What is held back leaves in one piece with what is written next."""

from __future__ import annotations

from typing import Any

from tenantry.perimeter.cork import Cork


class Pieces:
    """In the place of a transport."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write(self, data: Any) -> None:
        self.sent.append(bytes(data))


class Gathering(Pieces):
    """A transport of which nothing can be replaced, as uvloop's."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "write":
            raise AttributeError(name)
        super().__setattr__(name, value)


def test_both_leave_in_one_piece() -> None:
    transport: Any = Pieces()
    cork = Cork(transport)
    transport.write(b"a")
    cork.hold(b"b")
    cork.hold(b"c")
    assert transport.sent == [b"a"]
    transport.write(memoryview(b"d"))
    transport.write(bytearray(b"e"))
    assert transport.sent == [b"a", b"bcd", b"e"]


def test_a_transport_that_can_not_be_changed_gets_them_one_by_one() -> None:
    transport: Any = Gathering()
    cork = Cork(transport)
    cork.hold(b"b")
    transport.write(b"d")
    assert transport.sent == [b"b", b"d"]
