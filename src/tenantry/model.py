"""The vocabulary as frozen data: tenants, plans, shards and placements, and the forms of their names. Pure.

A tenant *key* is what the application stores in its tenant column. Its *code* is the same value in the alphabet that
tokens and the seal allow (``[0-9a-z]``): decimal digits for ``bigint`` (``m`` for minus), 32 hex digits for ``uuid``,
the hex digits of the UTF-8 bytes for ``text``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID

from tenantry.errors import InvalidInput, InvalidKey, InvalidSlug

TenantKey = int | str | UUID

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}", re.ASCII)
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}", re.ASCII)
_DIGITS = re.compile(r"-?(?:0|[1-9][0-9]{0,18})", re.ASCII)

TEXT_KEY_BYTES = 200
"""The longest ``text`` key, in bytes of UTF-8: the seal that carries it stays short."""


class Isolation(StrEnum):
    """How much a tenant shares with others: tables, a database, or a server only."""

    POOLED = "pooled"
    SCHEMA = "schema"
    DATABASE = "database"


class KeyType(StrEnum):
    """The type of the tenant column; one for the whole house."""

    BIGINT = "bigint"
    UUID = "uuid"
    TEXT = "text"


class Mode(StrEnum):
    """What a binding allows: reading and writing, or reading only."""

    READ_WRITE = "rw"
    READ_ONLY = "ro"


class TenantState(StrEnum):
    """Where a tenant is in its life."""

    PROVISIONING = "provisioning"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETING = "deleting"
    DELETED = "deleted"


class ShardState(StrEnum):
    """Whether a shard takes new tenants."""

    OPEN = "open"
    CLOSED = "closed"


class BindingMode(StrEnum):
    """How a database proves the binding: a parameter that only the binder may set, or a signature checked by each
    statement."""

    SEALED = "sealed"
    SIGNED = "signed"


@dataclass(frozen=True, slots=True)
class House:
    """What holds for all tenants: the type of their keys, the name of the tenant column, and the schema in which the
    application's tables stand at the pooled level."""

    key_type: KeyType = KeyType.BIGINT
    tenant_column: str = "tenant_id"
    app_schema: str = "public"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a tenant lives. ``epoch`` grows at every change."""

    shard: str
    database: str
    schema: str
    isolation: Isolation
    epoch: int


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer organisation. ``id`` is the catalog's own and never changes; ``slug`` may."""

    id: UUID
    key: TenantKey
    slug: str
    name: str
    plan: str
    state: TenantState
    placement: Placement | None = None
    created_at: datetime | None = None

    @property
    def code(self) -> str:
        """The key in the alphabet of tokens."""
        return encode_key(self.key)


@dataclass(frozen=True, slots=True)
class Plan:
    """A named bundle of default isolation, weight, limits and features.

    ``limits`` are PostgreSQL settings that the binding sets for each transaction (``statement_timeout``,
    ``lock_timeout``, ``idle_in_transaction_session_timeout``...). ``warm`` is how many empty homes of this plan's
    isolation are kept ready. ``grace`` is how many seconds a deleted tenant can be brought back. ``replica_seconds``
    is how old what its tenants read may be, where they only read: replicas may answer then. 0: the primary answers all.
    """

    name: str
    isolation: Isolation = Isolation.POOLED
    weight: int = 1
    limits: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    features: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    warm: int = 0
    grace: int = 7 * 24 * 3600
    replica_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Shard:
    """A PostgreSQL server that holds tenants. ``dsn`` says where applications connect, without a user."""

    name: str
    dsn: str
    state: ShardState = ShardState.OPEN
    binding: BindingMode = BindingMode.SEALED
    dedicated: bool = False
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Replica:
    """A physical standby of a shard, for reads. ``dsn`` says where applications connect, without a user."""

    shard: str
    name: str
    dsn: str
    created_at: datetime | None = None


def parse_key(value: object, key_type: KeyType) -> TenantKey:
    """A tenant key from outside, checked and brought to the Python type of ``key_type``.

    Raises:
        InvalidKey: wrong type, out of range, empty, too long or with a NUL character.
    """
    match key_type:
        case KeyType.BIGINT:
            return _parse_bigint(value)
        case KeyType.UUID:
            return _parse_uuid(value)
        case KeyType.TEXT:
            return _parse_text(value)


def _parse_bigint(value: object) -> int:
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if not _DIGITS.fullmatch(text) or not -(2**63) <= int(text) < 2**63:
        raise InvalidKey(f"tenant key {shown(value)} is not a bigint", hint="use a whole number of 64 bits")
    return int(text)


def _parse_uuid(value: object) -> UUID:
    try:
        return value if isinstance(value, UUID) else UUID(str(value))
    except ValueError:
        raise InvalidKey(f"tenant key {shown(value)} is not a uuid", hint="use the form 8-4-4-4-12") from None


def _parse_text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value or not _is_utf8(value):
        raise InvalidKey(f"tenant key {shown(value)} is not a text", hint="use a non-empty text without NUL")
    if len(value.encode()) > TEXT_KEY_BYTES:
        raise InvalidKey(f"tenant key {shown(value)} is too long", hint=f"use at most {TEXT_KEY_BYTES} bytes of UTF-8")
    return value


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def encode_key(key: TenantKey) -> str:
    """The code of a key: ``-7`` -> ``m7``, a UUID -> 32 hex digits, a text -> the hex digits of its UTF-8 bytes."""
    if isinstance(key, int):
        return f"m{-key}" if key < 0 else str(key)
    return key.hex if isinstance(key, UUID) else key.encode().hex()


def decode_key(code: str, key_type: KeyType) -> TenantKey:
    """The key of a code: the inverse of :func:`encode_key`.

    Raises:
        InvalidKey: ``code`` is not the code of a key of this type.
    """
    try:
        match key_type:
            case KeyType.BIGINT:
                return _parse_bigint(code.replace("m", "-", 1))
            case KeyType.UUID:
                return UUID(hex=code)
            case KeyType.TEXT:
                return _parse_text(bytes.fromhex(code).decode())
    except ValueError:
        raise InvalidKey(f"{shown(code)} is not the code of a {key_type} key") from None


def parse_slug(value: object) -> str:
    """A slug from outside, checked: one DNS label in lower case (RFC 1123), so that it can be a subdomain.

    Raises:
        InvalidSlug: anything else; letters that only look like a-z are not folded but refused.
    """
    if not isinstance(value, str) or not _SLUG.fullmatch(value) or value.startswith("xn--"):
        raise InvalidSlug(f"{shown(value)} is not a slug")
    return value


def parse_identifier(value: object, what: str) -> str:
    """A plain SQL identifier from outside, checked: one that needs no quotes.

    Raises:
        InvalidInput: not 1 to 63 of ``a-z 0-9 _``, starting with a letter or ``_``.
    """
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise InvalidInput(
            f"{shown(value)} is not a plain identifier for a {what}",
            hint="use 1 to 63 characters of a-z, 0-9 and '_', not starting with a digit",
        )
    return value


def parse_name(value: object, what: str) -> str:
    """The name of a plan or shard, checked.

    Raises:
        InvalidInput: not 1 to 63 of ``a-z 0-9 _ -``, starting with a letter.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidInput(
            f"{shown(value)} is not a name for a {what}",
            hint="use 1 to 63 characters of a-z, 0-9, '_' and '-', starting with a letter",
        )
    return value


def shown(value: object, limit: int = 60) -> str:
    """A value from outside as it may stand in a message: quoted, escaped and cut."""
    text = ascii(value)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"
