"""The engine: runs operations so that what a killed process leaves behind is finished or undone by another.

A step's journal row commits in the same transaction as the catalog rows that it changes, under the claim's fence.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pluggy
import psycopg
from psycopg.types.json import Jsonb

from tenantry import hookspecs
from tenantry.catalog.store import CatalogStore, Conn
from tenantry.errors import OperationFailed, OperationNotFound, OperationOpen, ServerUnreachable, TenantryError
from tenantry.operations.claim import SQL, Claim, Fenced, later
from tenantry.operations.steps import Kind, Step, Wait, Work
from tenantry.placements.estate import Estate

log = logging.getLogger("tenantry.operations")

LEASE_SECONDS = 15.0
_ATTEMPTS = 5
_BACKOFF_SECONDS = (1, 5, 15, 60)


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
        self._running: set[int] = set()
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
        parameters = {"kind": kind, "args": Jsonb(full), "actor": actor, **self._me()}
        row = await (await conn.execute(SQL["new"], parameters)).fetchone()
        assert row is not None
        try:
            await conn.execute(SQL["new_tenants"], (list(tenants), row["id"]))
        except psycopg.errors.UniqueViolation:
            raise OperationOpen("the tenant has another operation that has not ended") from None
        return row

    async def run(self, claimed: Mapping[str, Any]) -> str:
        """Run an operation that this process has claimed, and return its state: done, waiting, running or undone.

        Raises:
            OperationFailed: a step failed, and a worker tries again later; or a server refused it, and it was undone.
            TenantryError: a step said why it can't be done; it was undone.
        """
        claim = Claim(self._store, claimed, self._lease, me=self._estate.name)
        self._running.add(claim.operation)
        try:
            async with claim.kept():
                with self._estate.acting_for(claim):
                    if claim.is_undoing:
                        await self._undo(claim)
                        return "undone"
                    return await self._forward(claim)
        except Fenced:
            log.warning("operation %s goes on in another process", claim.operation)
            return "running"
        finally:
            self._running.discard(claim.operation)

    async def work(self, operation: int | None = None) -> str | None:
        """Take over one operation that nobody works on, and run it.

        Args:
            operation: only this one.

        Returns:
            Its state afterwards; None if there was nothing to do.

        Raises:
            As :meth:`run`.
        """
        # What this process is at work on it does not take from itself, however late its heartbeat is.
        parameters = {"id": operation, "kinds": list(self._kinds), "running": list(self._running), **self._me()}
        async with self._store.transaction() as conn:
            claimed = await (await conn.execute(SQL["claim"], parameters)).fetchone()
        return None if claimed is None else await self.run(claimed)

    async def recall(self, operation: int) -> None:
        """Undo an operation that nobody works on now.

        Raises:
            OperationOpen: it is at work, has come to the point of no return, or has ended.
            OperationFailed: the undoing failed; a worker tries again later.
        """
        async with self._store.transaction() as conn:
            idle = await (await conn.execute(SQL["idle"], (operation,))).fetchone()
            if idle is None or await self._is_final(conn, operation, idle["kind"]):
                raise OperationOpen(f"operation {operation} is at work, or can't be called back any more")
            claimed = await (await conn.execute(SQL["recall"], {"id": operation, **self._me()})).fetchone()
            assert claimed is not None
        await self.run(claimed)

    async def open_operation(self, tenant: UUID) -> Mapping[str, Any] | None:
        """The tenant's operation that has not ended."""
        async with self._store.connection() as conn:
            return await (await conn.execute(SQL["open_of_tenant"], (tenant,))).fetchone()

    async def show(self, operation: int) -> Mapping[str, Any]:
        """One operation.

        Raises:
            OperationNotFound: there is none with this id.
        """
        async with self._store.connection() as conn:
            row = await (await conn.execute(SQL["show"], (operation,))).fetchone()
        if row is None:
            raise OperationNotFound(f"there is no operation {operation}")
        return row

    async def unfinished(self) -> list[dict[str, Any]]:
        """All operations that have not ended, with whether their worker has died."""
        async with self._store.connection() as conn:
            return await (await conn.execute(SQL["unfinished"])).fetchall()

    def _me(self) -> dict[str, Any]:
        return {"owner": self._estate.name, "lease": self._lease}

    def _moment(self, claim: Claim, step: Step, moment: str) -> None:
        self.hooks.hook.operation_moment(operation=claim.operation, kind=claim.kind, step=step.name, moment=moment)

    async def _is_final(self, conn: Conn, operation: int, kind: str) -> bool:
        """Whether the next step, which may have begun, is one from which there is no way back."""
        rows = await (await conn.execute(SQL["steps"], (operation,))).fetchall()
        done = {row["step"] for row in rows}
        steps = self._kinds[kind].steps if kind in self._kinds else ()
        left = [step for step in steps if step.name not in done]
        return any(step.final for step in [*steps[: len(steps) - len(left)], *left[:1]])

    async def _load(self, claim: Claim) -> tuple[Kind, Work]:
        kind = self._kinds[claim.kind]
        outputs = {} if claim.is_new and not claim.is_undoing else await self._outputs(claim)
        return kind, Work(
            self._store, self._estate, claim.operation, kind.name, claim.actor, claim.args, outputs=outputs
        )

    async def _outputs(self, claim: Claim) -> dict[str, Any]:
        async with self._store.connection() as conn:
            rows = await (await conn.execute(SQL["steps"], (claim.operation,))).fetchall()
        return {row["step"]: row["output"] for row in rows}

    async def _forward(self, claim: Claim) -> str:
        kind, work = await self._load(claim)
        final = False
        for step in kind.steps:
            final = final or step.final
            if step.name in work.outputs:
                continue
            try:
                work = await self._step(claim, work, step, is_last=step is kind.steps[-1])
                claim.attempt = 0
            except Wait as wait:
                await claim.postpone("waiting", wait.until)
                return "waiting"
            except Fenced:
                raise
            except Exception as error:  # whatever it is, the operation must not hang
                if claim.is_over:
                    raise
                return await self._fail(claim, step, error, final)
        return "done"

    async def _step(self, claim: Claim, work: Work, step: Step, *, is_last: bool) -> Work:
        self._moment(claim, step, "before")
        if step.act is not None:
            await step.act(work)
        self._moment(claim, step, "acted")
        async with claim.transaction() as conn:
            output = (await step.record(work, conn) if step.record is not None else None) or {}
            await conn.execute(SQL["record"], {"id": claim.operation, "step": step.name, "output": Jsonb(output)})
            if is_last:
                await claim.finish(conn, "done")
        self._moment(claim, step, "after")
        return replace(work, outputs={**work.outputs, step.name: output})

    async def _fail(self, claim: Claim, step: Step, error: Exception, final: bool) -> str:
        """A server that does not answer is tried again later; anything else is undone, or, past the point of no return,
        left for an operator with its error."""
        note = {"step": step.name, **_as_dict(error)}
        if final or (is_passing(error) and claim.attempt < _ATTEMPTS):
            raise await self._postponed(claim, "pending", step, error, note) from error
        await claim.turn(note)
        await self._undo(claim)
        if isinstance(error, TenantryError):
            error.where = error.where or f"operation {claim.operation}"
            raise error
        raise OperationFailed(
            f"{claim.kind} failed at the step '{step.name}' and was undone: {_reason(error)}",
            where=f"operation {claim.operation}",
        ) from error

    async def _postponed(
        self, claim: Claim, state: str, step: Step, error: Exception, note: Mapping[str, Any]
    ) -> OperationFailed:
        delay = _BACKOFF_SECONDS[min(claim.attempt, len(_BACKOFF_SECONDS) - 1)]
        try:
            await claim.postpone(state, later(delay), note)
        except (TenantryError, psycopg.Error) as lost:
            log.warning("operation %s: the lease has to run out: %s", claim.operation, lost)
        what = f"undoing {claim.kind}" if state == "undoing" else claim.kind
        return OperationFailed(
            f"{what} stopped at the step '{step.name}': {_reason(error)}",
            where=getattr(error, "where", None) or f"operation {claim.operation}",
            hint="it will be tried again: run 'tenantry worker'",
        )

    async def _undo(self, claim: Claim) -> None:
        kind, work = await self._load(claim)
        begun = [step for step in kind.steps if step.name in work.outputs]
        begun += [step for step in kind.steps if step.name not in work.outputs][:1]
        for step in reversed(begun):
            try:
                await self._undo_step(claim, work, step)
            except Fenced:
                raise
            except Exception as error:
                note = {"step": step.name, **_as_dict(error)}
                raise await self._postponed(claim, "undoing", step, error, note) from error
        async with claim.transaction() as conn:
            await claim.finish(conn, "undone")

    async def _undo_step(self, claim: Claim, work: Work, step: Step) -> None:
        self._moment(claim, step, "undo")
        if step.undo_act is not None:
            await step.undo_act(work)
        self._moment(claim, step, "undo acted")
        async with claim.transaction() as conn:
            if step.undo_record is not None:
                await step.undo_record(work, conn)
            await conn.execute(SQL["unrecord"], (claim.operation, step.name))
        self._moment(claim, step, "undone")


def is_passing(error: BaseException) -> bool:
    """Whether the same may succeed later though nobody mends anything: a server is down, busy or was restarted."""
    cause = error.__cause__
    passing = (ServerUnreachable, psycopg.OperationalError, ConnectionError, TimeoutError)
    return isinstance(error, passing) or (cause is not None and is_passing(cause))


def _reason(error: Exception) -> str:
    """In one line; an error that nobody foresaw says little without its name."""
    text = str(error).strip().partition("\n")[0]
    if text and isinstance(error, (TenantryError, psycopg.Error, OSError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _as_dict(error: Exception) -> dict[str, Any]:
    if isinstance(error, TenantryError):
        return error.as_dict()
    return {"code": getattr(error, "sqlstate", None) or type(error).__name__, "message": _reason(error)}
