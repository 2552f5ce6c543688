"""The engine: runs operations so that what a killed process leaves behind is finished or undone by another.

A step's journal row commits in the same transaction as the catalog rows that it changes. Who works on an operation
holds a lease, kept by a heartbeat (Gray & Cheriton, "Leases", 1989). Each claim raises the fence, and a step commits
only under the fence that it was claimed with: a process that was thought dead can't finish a step behind its
successor's back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pluggy
import psycopg
from psycopg.types.json import Jsonb

from tenantry import hookspecs
from tenantry.catalog.store import CatalogStore, Conn
from tenantry.errors import OperationFailed, OperationNotFound, OperationOpen, TenantryError, Unavailable
from tenantry.operations.steps import Kind, Step, Wait, Work
from tenantry.placements.estate import Estate
from tenantry.postgres import sqlfile

log = logging.getLogger("tenantry.operations")

_SQL = sqlfile.load("tenantry.operations", "operations.sql")

LEASE_SECONDS = 15.0
_ATTEMPTS = 5
_BACKOFF_SECONDS = (1, 5, 15, 60)


class Fenced(Exception):
    """Another process has taken the operation over."""


class Engine:
    """Runs operations of the kinds that it is given.

    Args:
        store: the catalog.
        estate: the way to the shards.
        kinds: all kinds of operations.
        lease_seconds: how long an operation is safe from other workers after the last heartbeat.
    """

    def __init__(
        self, store: CatalogStore, estate: Estate, kinds: Sequence[Kind], *, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self._store = store
        self._estate = estate
        self._kinds = {kind.name: kind for kind in kinds}
        self._lease = lease_seconds
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self.hooks = pluggy.PluginManager("tenantry")
        self.hooks.add_hookspecs(hookspecs)

    async def start(
        self, conn: Conn, kind: str, args: Mapping[str, Any], tenants: Sequence[UUID], actor: str
    ) -> Mapping[str, Any]:
        """Put an operation down, claimed by this process, in the caller's transaction; :meth:`run` it afterwards.

        Raises:
            OperationOpen: one of the tenants has an operation that has not ended.
        """
        full = {**args, "tenants": [str(tenant) for tenant in tenants]}
        parameters = {"kind": kind, "args": Jsonb(full), "actor": actor, "owner": self._owner, "lease": self._lease}
        row = await (await conn.execute(_SQL["new"], parameters)).fetchone()
        assert row is not None
        try:
            await conn.execute(_SQL["new_tenants"], (list(tenants), row["id"]))
        except psycopg.errors.UniqueViolation:
            raise OperationOpen("the tenant has another operation that has not ended") from None
        return row

    async def run(self, claimed: Mapping[str, Any]) -> str:
        """Run an operation that this process has claimed, and return its state: done, waiting, pending or undone.

        Raises:
            OperationFailed: it could not be finished and has been undone, or it needs a worker to finish its undoing.
        """
        try:
            async with self._heartbeat(claimed):
                if claimed["state"] == "undoing":
                    await self._undo(claimed)
                    return "undone"
                return await self._forward(claimed)
        except Fenced:
            log.warning("operation %s goes on in another process", claimed["id"])
            return "running"

    async def work(self, operation: int | None = None) -> str | None:
        """Take over one operation that nobody works on, and run it.

        Args:
            operation: only this one.

        Returns:
            Its state afterwards; None if there was nothing to do.
        """
        async with self._store.transaction() as conn:
            parameters = {"owner": self._owner, "lease": self._lease, "id": operation}
            claimed = await (await conn.execute(_SQL["claim"], parameters)).fetchone()
        return None if claimed is None else await self.run(claimed)

    async def recall(self, operation: int) -> None:
        """Undo an operation that waits.

        Raises:
            OperationOpen: it is at work, and can't be called back.
            OperationFailed: the undoing failed.
        """
        async with self._store.transaction() as conn:
            parameters = {"owner": self._owner, "lease": self._lease, "id": operation}
            claimed = await (await conn.execute(_SQL["recall"], parameters)).fetchone()
        if claimed is None:
            raise OperationOpen(f"operation {operation} is at work, or has ended")
        await self.run(claimed)

    async def open_operation(self, tenant: UUID) -> Mapping[str, Any] | None:
        """The tenant's operation that has not ended."""
        async with self._store.connection() as conn:
            return await (await conn.execute(_SQL["open_of_tenant"], (tenant,))).fetchone()

    async def show(self, operation: int) -> Mapping[str, Any]:
        """One operation.

        Raises:
            OperationNotFound: there is none with this id.
        """
        async with self._store.connection() as conn:
            row = await (await conn.execute(_SQL["show"], (operation,))).fetchone()
        if row is None:
            raise OperationNotFound(f"there is no operation {operation}")
        return row

    async def unfinished(self) -> list[dict[str, Any]]:
        """All operations that have not ended, with whether their worker has died."""
        async with self._store.connection() as conn:
            return await (await conn.execute(_SQL["unfinished"])).fetchall()

    def _moment(self, work: Work, step: str, moment: str) -> None:
        self.hooks.hook.operation_moment(operation=work.operation, kind=work.kind, step=step, moment=moment)

    async def _load(self, claimed: Mapping[str, Any]) -> tuple[Kind, Work]:
        kind = self._kinds.get(claimed["kind"])
        if kind is None:
            raise OperationFailed(f"operation {claimed['id']} is of the unknown kind {claimed['kind']!r}")
        async with self._store.connection() as conn:
            rows = await (await conn.execute(_SQL["steps"], (claimed["id"],))).fetchall()
        outputs = {row["step"]: row["output"] for row in rows}
        work = Work(
            self._store, self._estate, claimed["id"], kind.name, claimed["actor"], claimed["args"], outputs=outputs
        )
        return kind, work

    async def _forward(self, claimed: Mapping[str, Any]) -> str:
        kind, work = await self._load(claimed)
        final = any(step.final and step.name in work.outputs for step in kind.steps)
        for step in kind.steps:
            if step.name in work.outputs:
                continue
            final = final or step.final
            try:
                work = await self._step(claimed, work, step)
            except Wait as wait:
                await self._execute("postpone", ("waiting", wait.until, None, claimed["id"], claimed["fence"]))
                return "waiting"
            except (TenantryError, psycopg.Error, OSError) as error:
                return await self._fail(claimed, step, error, final)
        async with self._store.transaction() as conn:
            await self._hold(conn, claimed)
            await conn.execute(_SQL["release"], (claimed["id"],))
            await conn.execute(_SQL["finish"], ("done", None, claimed["id"], claimed["fence"]))
        return "done"

    async def _step(self, claimed: Mapping[str, Any], work: Work, step: Step) -> Work:
        self._moment(work, step.name, "before")
        if step.act is not None:
            await step.act(work)
        self._moment(work, step.name, "acted")
        async with self._store.transaction() as conn:
            await self._hold(conn, claimed)
            output = (await step.record(work, conn) if step.record is not None else None) or {}
            await conn.execute(_SQL["record"], (claimed["id"], step.name, Jsonb(output)))
            await conn.execute(_SQL["at_step"], (step.name, claimed["id"]))
        self._moment(work, step.name, "after")
        return replace(work, outputs={**work.outputs, step.name: output})

    async def _fail(self, claimed: Mapping[str, Any], step: Step, error: Exception, final: bool) -> str:
        """A server that does not answer is tried again later; anything else is undone, or, past the point of no return,
        left for an operator with its error."""
        note = Jsonb({"step": step.name, **_as_dict(error)})
        operation, fence = claimed["id"], claimed["fence"]
        passing = isinstance(error, (Unavailable, psycopg.OperationalError, OSError)) and claimed["attempt"] < _ATTEMPTS
        if passing or final:
            delay = _BACKOFF_SECONDS[min(claimed["attempt"], len(_BACKOFF_SECONDS) - 1)]
            again = datetime.now(UTC) + timedelta(seconds=delay)
            await self._execute("postpone", ("pending", again, note, operation, fence))
            raise OperationFailed(
                f"{claimed['kind']} stopped at the step '{step.name}': {_reason(error)}",
                where=f"operation {operation}",
                hint="it will be tried again: run 'tenantry worker'",
            ) from error
        await self._execute("undo", (note, operation, fence))
        await self._undo(claimed)
        raise OperationFailed(
            f"{claimed['kind']} failed at the step '{step.name}' and was undone: {_reason(error)}",
            where=f"operation {operation}",
            hint=getattr(error, "hint", None),
        ) from error

    async def _undo(self, claimed: Mapping[str, Any]) -> None:
        kind, work = await self._load(claimed)
        begun = [step for step in kind.steps if step.name in work.outputs]
        begun += [step for step in kind.steps if step.name not in work.outputs][:1]
        for step in reversed(begun):
            self._moment(work, step.name, "undo")
            if step.undo_act is not None:
                await step.undo_act(work)
            async with self._store.transaction() as conn:
                await self._hold(conn, claimed)
                if step.undo_record is not None:
                    await step.undo_record(work, conn)
                await conn.execute(_SQL["unrecord"], (claimed["id"], step.name))
        async with self._store.transaction() as conn:
            await self._hold(conn, claimed)
            await conn.execute(_SQL["release"], (claimed["id"],))
            await conn.execute(_SQL["finish"], ("undone", None, claimed["id"], claimed["fence"]))

    async def _execute(self, query: str, parameters: Sequence[Any]) -> None:
        async with self._store.connection() as conn:
            await conn.execute(_SQL[query], parameters)

    async def _hold(self, conn: Conn, claimed: Mapping[str, Any]) -> None:
        held = await (await conn.execute(_SQL["hold"], (claimed["id"], claimed["fence"]))).fetchone()
        if held is None:
            raise Fenced

    @asynccontextmanager
    async def _heartbeat(self, claimed: Mapping[str, Any]) -> AsyncIterator[None]:
        async def beat() -> None:
            while True:
                await asyncio.sleep(self._lease / 3)
                try:
                    await self._execute("beat", (self._lease, claimed["id"], claimed["fence"]))
                except (TenantryError, psycopg.Error) as error:
                    log.warning("operation %s: no heartbeat: %s", claimed["id"], error)

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            task.cancel()


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _as_dict(error: Exception) -> dict[str, Any]:
    if isinstance(error, TenantryError):
        return error.as_dict()
    return {"code": getattr(error, "sqlstate", None) or type(error).__name__, "message": _reason(error)}
