"""A model of the door, and every order in which things can happen: nobody is inside once the tenant has left (law 1).

The model is the protocol of ``door.py`` and ``bind_v1`` without PostgreSQL: transactions that look at the resident at
one moment and act on it at another, movers that die anywhere, and the lock between them. All reachable states are
visited.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

TRANSACTIONS = 3
MOVERS = 2


@dataclass(frozen=True)
class Transaction:
    """``phase``: new, running (it has begun), looked (its snapshot is taken), inside, over. ``gate``: which one it has
    read, if the door was closing. ``lock``: whether it holds the shared lock."""

    phase: str = "new"
    state: str = ""
    gate: int = -1
    lock: bool = False


@dataclass(frozen=True)
class Mover:
    """``phase``: new, begun, shut (``closing`` is committed), waiting (for those inside), asking (for the lock),
    closed, left, dead. ``wait``: the transactions that it still waits for."""

    phase: str = "new"
    wait: frozenset[int] = frozenset()


@dataclass(frozen=True)
class World:
    """``gates``: what became of each mover's transaction."""

    state: str = "open"
    gate: int = -1
    gates: tuple[str, ...] = ("",) * MOVERS
    transactions: tuple[Transaction, ...] = (Transaction(),) * TRANSACTIONS
    movers: tuple[Mover, ...] = (Mover(),) * MOVERS


@dataclass(frozen=True)
class Rules:
    """What the protocol consists of, to be left out."""

    waits_inside: bool = True
    asks_the_gate: bool = True
    waits_for_each_gate: bool = True


def put(world: World, number: int, transaction: Transaction) -> World:
    """The world with another transaction in its place."""
    rest = list(world.transactions)
    rest[number] = transaction
    return replace(world, transactions=tuple(rest))


def steps(world: World, rules: Rules) -> Iterator[World]:
    """All worlds that may come next."""
    for number, transaction in enumerate(world.transactions):
        yield from of_transaction(world, number, transaction, rules)
    for number, mover in enumerate(world.movers):
        yield from of_mover(world, number, mover, rules)


def of_transaction(world: World, number: int, now: Transaction, rules: Rules) -> Iterator[World]:
    match now.phase:
        case "new":
            yield put(world, number, replace(now, phase="running"))
        case "running":
            yield put(world, number, Transaction("looked", world.state, world.gate))
        case "looked" if now.state == "open":
            yield put(world, number, replace(now, phase="inside"))
        case "looked" if now.state == "moved":
            yield put(world, number, replace(now, phase="over"))
        case "looked":
            # Who asks for the lock exclusively is before who comes later.
            if not any(mover.phase in ("asking", "closed") for mover in world.movers):
                gone = rules.asks_the_gate and world.gates[now.gate] == "committed"
                yield put(world, number, replace(now, phase="over" if gone else "inside", lock=not gone))
        case "inside":
            yield put(world, number, replace(now, phase="over", lock=False))


def of_mover(world: World, number: int, now: Mover, rules: Rules) -> Iterator[World]:
    def to(phase: str, wait: frozenset[int] = frozenset(), status: str = "", **changes: object) -> World:
        movers, gates = list(world.movers), list(world.gates)
        movers[number], gates[number] = Mover(phase, wait), status or gates[number]
        return replace(world, movers=tuple(movers), gates=tuple(gates), **changes)  # type: ignore[arg-type]

    if now.phase not in ("new", "left", "dead"):
        yield to("dead", status="aborted")  # at any moment: its lock goes, and the row stays as it is
    match now.phase:
        case "new":
            # A second mover begins when the first one is dead, as the fence of the operation has it.
            if all(each.phase == "dead" for each in world.movers[:number]) and world.state != "moved":
                yield to("begun", status="in progress")
        case "begun":
            yield to("shut", state="closing", gate=number)
        case "shut":
            running = {
                each
                for each, transaction in enumerate(world.transactions)
                if transaction.phase not in ("new", "over") and not transaction.lock
            }
            waits = rules.waits_inside and (rules.waits_for_each_gate or number == 0)
            yield to("waiting", frozenset(running) if waits else frozenset())
        case "waiting":
            left = {each for each in now.wait if still_waited_for(world.transactions[each])}
            if not left:
                yield to("asking")
            elif left != now.wait:
                yield to("waiting", frozenset(left))
        case "asking":
            if not any(transaction.lock for transaction in world.transactions):
                yield to("closed")
        case "closed":
            yield to("left", status="committed", state="moved")


def still_waited_for(transaction: Transaction) -> bool:
    return transaction.phase != "over" and not transaction.lock


def violation(rules: Rules) -> World | None:
    """A reachable world in which somebody is inside though the tenant has left; None if there is none."""
    seen = {World()}
    todo = [World()]
    while todo:
        world = todo.pop()
        if world.state == "moved" and any(each.phase == "inside" for each in world.transactions):
            return world
        for following in steps(world, rules):
            if following not in seen:
                seen.add(following)
                todo.append(following)
    assert any(world.state == "moved" for world in seen), "nobody ever leaves"
    assert any(
        world.state == "closing" and any(each.phase == "inside" and each.lock for each in world.transactions)
        for world in seen
    ), "nobody comes in while the door is closing"
    return None


def test_nobody_is_inside_once_the_tenant_has_left() -> None:
    assert violation(Rules()) is None


@pytest.mark.parametrize(
    "rules", [Rules(waits_inside=False), Rules(asks_the_gate=False), Rules(waits_for_each_gate=False)], ids=str
)
def test_nothing_of_the_protocol_can_be_left_out(rules: Rules) -> None:
    assert violation(rules) is not None
