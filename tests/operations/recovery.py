"""What a worker does after another process has died."""

from __future__ import annotations

import asyncio

import pytest

from tenantry.service import house as houses
from tests.fixtures.house import House
from tests.operations.invariants import catalog, violations

_ROUNDS = 20


def expire(house: House) -> None:
    """Let time pass: leases run out, what was postponed comes up again. Grace periods stay.

    The catalog ends sessions that are idle in a transaction for long, as those of a process that was stopped.
    """
    with catalog(house) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
        )
        conn.execute(
            "UPDATE operations SET lease_until = least(lease_until, now()), resume_at = least(resume_at, now())"
            " WHERE state IN ('running', 'undoing', 'pending')"
        )
        conn.execute("UPDATE reserved SET until = now() - interval '1 second' WHERE until > now()")


def end_waiting(house: House) -> None:
    """Let grace periods and overlaps end."""
    with catalog(house) as conn:
        conn.execute("UPDATE tenants SET delete_after = now() WHERE delete_after IS NOT NULL")
        conn.execute(
            "UPDATE operation_steps s SET output = s.output || jsonb_build_object('retire_at', now())"
            " FROM operations o WHERE o.id = s.operation AND o.state = 'waiting' AND s.step = 'activate'"
        )
        conn.execute(
            "UPDATE operation_steps s SET output = s.output || jsonb_build_object('until', now())"
            " FROM operations o WHERE o.id = s.operation AND o.state = 'waiting' AND s.step = 'switch'"
        )
        conn.execute("UPDATE operations SET resume_at = now() WHERE state = 'waiting'")


def work(house: House) -> None:
    """One round of a worker in this process."""

    async def run() -> None:
        async with house.control() as control:
            await houses.work(control)

    asyncio.run(run())


def recover(house: House) -> None:
    """Work until nothing is left to do, and check that all is as it must be."""
    for _ in range(_ROUNDS):
        expire(house)
        work(house)
        with catalog(house) as conn:
            if not conn.execute("SELECT FROM operations WHERE state NOT IN ('done', 'undone', 'waiting')").fetchall():
                break
    else:
        pytest.fail("a worker does not come to an end")
    end_waiting(house)
    work(house)
    found = violations(house)
    assert not found, "\n".join(found)


def states(house: House, kind: str) -> list[str]:
    """The states of all operations of a kind, oldest first."""
    with catalog(house) as conn:
        found = conn.execute("SELECT state FROM operations WHERE kind = %s ORDER BY id", (kind,)).fetchall()
    return [row["state"] for row in found]


def last_error(house: House) -> dict[str, object] | None:
    """The error that the newest operation has kept."""
    with catalog(house) as conn:
        row = conn.execute("SELECT error FROM operations ORDER BY id DESC LIMIT 1").fetchone()
    assert row is not None
    error: dict[str, object] | None = row["error"]
    return error
