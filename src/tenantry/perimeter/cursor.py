"""What a psycopg cursor needs to let the first statement of a transaction travel with ``BEGIN`` and the binding."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from psycopg import errors
from psycopg._preparing import Prepare
from psycopg.abc import PQGen

if TYPE_CHECKING:
    from psycopg._cursor_base import BaseCursor

    _Base = BaseCursor[Any, Any]
else:
    _Base = object

_ALONE = re.compile(rb"\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH|VALUES|MERGE)\b[^;]*\Z", re.IGNORECASE)


class FollowingCursorMixin(_Base):
    """A cursor of a connection that may have gone on with another session since it was made."""

    def _start_query(self, query: Any = None) -> PQGen[None]:
        self._pgconn = self._conn.pgconn
        yield from super()._start_query(query)


class BoundCursorMixin(FollowingCursorMixin):
    """What the sync and the async cursor share. It does no I/O of its own."""

    def _execute_gen(
        self, query: Any, params: Any = None, *, prepare: bool | None = None, binary: bool | None = None
    ) -> PQGen[None]:
        conn: Any = self._conn
        if not conn.due or conn._pipeline is not None:
            yield from super()._execute_gen(query, params, prepare=prepare, binary=binary)
            return
        conn._joining = True
        try:
            yield from self._start_query(query)
        finally:
            conn._joining = False
        found = self._convert_query(query, params)
        if not _may_join(found) or not (yield from self._join(found, prepare, binary)):
            if conn.due:
                yield from conn.begin_due()
            yield from self._maybe_prepare_gen(found, prepare=prepare, binary=binary)
        self._last_query = query
        yield from conn._prepared.maintain_gen(conn)

    def _join(self, query: Any, prepare: bool | None, binary: bool | None) -> PQGen[bool]:
        """Begin and execute in one round trip; whether the statement was executed."""
        conn: Any = self._conn
        wanted, name = self._get_prepared(query, prepare)

        def send() -> None:
            if wanted is Prepare.NO:
                self._execute_send(query, force_extended=True, binary=binary)
                return
            if wanted is Prepare.SHOULD:
                self._send_prepare(name, query)
            self._send_query_prepared(name, query, binary=binary)

        conn.due = False
        results = yield from conn.begin_with(conn._get_tx_start_command(), send)
        if results is None:
            return False
        conn.doubt(results)
        if wanted is Prepare.SHOULD and len(results) == 1:
            raise errors.error_from_result(results[0], encoding=self._encoding)
        key = conn._prepared.maybe_add_to_cache(query, wanted, name)
        if key is not None:
            conn._prepared.validate(key, wanted, name, results[-1:])
        self._check_results(results[-1:])
        self._set_results(results[-1:])
        return True


def _may_join(query: Any) -> bool:
    """Whether it can go through the extended protocol as psycopg would send it alone: one statement, and no COPY."""
    return bool(query.params) or _ALONE.match(query.query) is not None
