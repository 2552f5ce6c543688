"""Session parameters that an application wants in all its transactions, as a time zone. Pure.

A binding clears what was set with ``SET``, so these stand in the startup packet, or travel with each binding where a
pooler stands between. Only what can neither open the wall nor undo what a binding sets is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tenantry.errors import InvalidSettings
from tenantry.model import shown

_TAKEN = (
    "application_name bytea_output DateStyle default_text_search_config default_toast_compression"
    " default_transaction_isolation extra_float_digits from_collapse_limit hash_mem_multiplier IntervalStyle jit"
    " join_collapse_limit lc_monetary lc_numeric lc_time plan_cache_mode random_page_cost TimeZone work_mem xmlbinary"
    " xmloption"
).split()
TAKEN: Mapping[str, str] = {name.lower(): name for name in _TAKEN}
"""The names as PostgreSQL writes them, by the name in small letters."""

_BEFORE_THE_BINDING = frozenset(("default_transaction_isolation",))
"""What counts when a transaction begins; behind a pooler that is before the binding can set it."""

_PLAN = "set a limit of the plan: tenantry plan change PLAN --limit NAME=VALUE"
_BINDING = "each binding sets its own"
_WHY: Mapping[str, str] = {
    "search_path": "each binding sets it to where the tenant's tables are; name other schemas in statements",
    "role": _BINDING,
    "session_authorization": _BINDING,
    "backtrace_functions": _BINDING,
    "row_security": "the wall is always on",
    "client_encoding": "the drivers set it",
    "options": "name the parameters one by one",
    "default_transaction_read_only": "open the scope or the transaction with mode='ro'",
    "transaction_read_only": "open the scope or the transaction with mode='ro'",
    **dict.fromkeys(("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"), _PLAN),
    **dict.fromkeys(("transaction_timeout", "idle_session_timeout"), _PLAN),
}


def checked(parameters: Mapping[Any, Any], *, pooler: bool) -> dict[str, str]:
    """The parameters by their names in PostgreSQL's writing; of names that differ in case only the last one counts.

    Raises:
        InvalidSettings: a parameter is not taken, or its value is no text that a parameter can have.
    """
    found: dict[str, str] = {}
    for name, value in parameters.items():
        known = TAKEN.get(name.lower()) if isinstance(name, str) else None
        if known is None or (pooler and known in _BEFORE_THE_BINDING):
            raise InvalidSettings(f"the session parameter {shown(name)} is not taken", hint=_hint(name, known))
        if not isinstance(value, str) or not value.isprintable():
            raise InvalidSettings(
                f"the session parameter {known!r} can't be {shown(value)}",
                hint="give a text without control characters",
            )
        found[known] = value
    return found


def _hint(name: object, known: str | None) -> str:
    if known is not None:
        return "behind a pooler a transaction begins before it could be set; name the level where it begins"
    if str(name).lower().startswith("tenantry."):
        return _BINDING
    return _WHY.get(str(name).lower()) or f"one of {', '.join(TAKEN.values())}"
