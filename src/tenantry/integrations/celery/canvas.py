"""Tasks that a message brings along: callbacks, the rest of a chain, the body of a chord. Pure.

They are sent later, by a worker, which need not be in the scope of the tenant that the whole was started for: a task
for nobody may stand before them, or the last of a chord's tasks may be another tenant's. So they get their headers when
the first message is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tenantry.integrations.celery.headers import TENANT, Recipient

Signature = Mapping[str, Any]

_INNER = {"chain": ("tasks",), "group": ("tasks",), "chord": ("header", "body")}
"""Where the parts of a composed signature stand."""


def pinned(signature: Any, recipient: Recipient) -> Any:
    """A copy of a signature, or of several, whose tasks run for ``recipient``, if they don't say for whom already."""
    if signature is None:
        return None
    if not isinstance(signature, Mapping):
        return [pinned(each, recipient) for each in signature]
    parts = _INNER.get(signature.get("subtask_type") or "")
    options = _pinned_options(signature.get("options") or {}, recipient, headers=parts is None)
    copy = {**signature, "options": options}
    if parts is not None:
        kwargs = dict(signature.get("kwargs") or {})
        copy["kwargs"] = kwargs | {part: pinned(kwargs[part], recipient) for part in parts if part in kwargs}
    return copy


def pin_embedded(embedded: dict[str, Any], recipient: Recipient, starter: Recipient) -> None:
    """Pin what stands in a message beside the task's arguments.

    Args:
        embedded: callbacks, errbacks, chain and chord.
        recipient: for whom the message's task runs; what follows on it runs for the same tenant.
        starter: in whose scope the whole was started. A chord's body follows on all of its tasks, which may be
            different tenants'.
    """
    for part in ("callbacks", "errbacks", "chain"):
        if embedded.get(part):
            embedded[part] = pinned(embedded[part], starter if recipient.is_nobody else recipient)
    if embedded.get("chord"):
        embedded["chord"] = pinned(embedded["chord"], starter)


def _pinned_options(options: Mapping[str, Any], recipient: Recipient, *, headers: bool) -> dict[str, Any]:
    copy = dict(options)
    for part in ("link", "link_error", "chord"):
        if copy.get(part):
            copy[part] = pinned(copy[part], recipient)
    known = copy.get("headers") or {}
    if headers and TENANT not in known and "tenant" not in copy:
        copy["headers"] = {**known, **recipient.headers}
    return copy
