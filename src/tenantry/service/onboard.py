"""Onboard many tenants from a CSV file: all of it is checked before the first one is created."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from tenantry.errors import (
    Conflict,
    InvalidInput,
    KeyTaken,
    NoCapacity,
    PlanNotFound,
    ShardNotFound,
    SlugTaken,
    TenantryError,
)
from tenantry.model import Isolation, ShardState, parse_key, shown
from tenantry.service.control import Control
from tenantry.service.reserve import NewTenant
from tenantry.service.tenant import create_many, parse_isolation, parse_tenant

COLUMNS = ("slug", "name", "key", "plan", "isolation", "shard")
"""The columns that a file may have; only ``slug`` must be there. An empty cell is the default."""

DEFAULT_PLAN = NewTenant("").plan

_POOLED_BATCH = 500
_OWN_BATCH = 20
_LOOKUP = 10_000
_SHOWN_FAULTS = 10


@dataclass(frozen=True, slots=True)
class Line:
    """A tenant to be created, and where the file says so."""

    number: int
    tenant: NewTenant
    isolation: Isolation | None = None
    shard: str | None = None


@dataclass(frozen=True, slots=True)
class Onboarded:
    """How many tenants were created, and how many were there already."""

    created: int
    skipped: int


async def onboard(
    control: Control,
    content: bytes,
    *,
    file: str = "the file",
    defaults: Mapping[str, str] | None = None,
    skip_existing: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Onboarded:
    """Create the tenants of a CSV file (RFC 4180, UTF-8, with a header; see :data:`COLUMNS`).

    Args:
        content: of the file.
        file: its name, for messages.
        defaults: for empty cells, by column.
        skip_existing: pass over slugs that are there already, so that an interrupted run can be repeated.
        progress: is told how many are done, and of how many.

    Raises:
        InvalidInput, Conflict, NotFound: lines are wrong; the error says which, and nothing was created.
        OperationFailed, Unavailable: a server failed in the middle; the error says how far it came.
    """
    faults = _Faults(file)
    lines = [line for row in _rows(content, file) if (line := await _parse(control, *row, defaults or {}, faults))]
    lines, skipped = await _not_taken(control, lines, skip_existing, faults)
    faults.refuse()
    created = 0
    for level, shard, batch in await _batches(control, lines):
        try:
            await create_many(control, [line.tenant for line in batch], isolation=level, shard=shard)
        except TenantryError as error:
            error.where = f"{file}:{batch[0].number}" + (f", {error.where}" if error.where else "")
            done = f"{created:,} of {len(lines):,} tenants were created; go on with --skip-existing"
            error.hint = f"{error.hint}; {done}" if error.hint else done
            raise
        created += len(batch)
        if progress is not None:
            progress(created, len(lines))
    return Onboarded(created, skipped)


class _Faults:
    """What is wrong with a file, line by line."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._found: list[tuple[int, TenantryError]] = []

    def add(self, number: int, error: TenantryError) -> None:
        self._found.append((number, error))

    def refuse(self) -> None:
        """Raise what was found; the kind of the error is that of the faults if they are all of one."""
        if not self._found:
            return
        found = sorted(self._found, key=lambda fault: fault[0])
        number, first = found[0]
        if len(found) == 1:
            hint = f"{first.hint or 'mend the line'}; nothing was created"
            raise type(first)(first.message, where=f"{self._file}:{number}", hint=hint)
        kinds = {type(error) for _, error in found}
        kind = kinds.pop() if len(kinds) == 1 else InvalidInput
        where = [f"{self._file}:{number}: {error.message}" for number, error in found[:_SHOWN_FAULTS]]
        if len(found) > _SHOWN_FAULTS:
            where.append(f"and {len(found) - _SHOWN_FAULTS:,} more")
        hint = "mend these lines and run it again; nothing was created"
        raise kind(f"{len(found):,} lines are wrong", where="\n".join(where), hint=hint)


def _rows(content: bytes, file: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The rows of the file, each with the number of its last line."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInput("the file is not UTF-8", where=f"{file}:{line}", hint="save it as UTF-8") from None
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        _check_header(header, file)
        for cells in reader:
            if len(cells) > len(header):
                hint = "put names that hold a comma into quotes"
                message = f"{len(cells)} cells where the header has {len(header)}"
                raise InvalidInput(message, where=f"{file}:{reader.line_num}", hint=hint)
            if any(cell.strip() for cell in cells):
                yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=False))
    except csv.Error as error:
        raise InvalidInput(f"not CSV: {error}", where=f"{file}:{reader.line_num}", hint="see RFC 4180") from None


def _check_header(header: Sequence[str], file: str) -> None:
    where, hint = f"{file}:1", f"the first line names the columns: slug, and any of {', '.join(COLUMNS[1:])}"
    unknown = [name for name in header if name not in COLUMNS]
    if "slug" not in header or unknown:
        what = f"has the unknown column {shown(unknown[0])}" if unknown else "has no column 'slug'"
        raise InvalidInput(f"the header {what}", where=where, hint=hint)
    if len(set(header)) < len(header):
        raise InvalidInput("the header names a column twice", where=where, hint=hint)


async def _parse(
    control: Control, number: int, cells: Mapping[str, str], defaults: Mapping[str, str], faults: _Faults
) -> Line | None:
    cell = {name: cells.get(name) or defaults.get(name) for name in COLUMNS}
    tenant = NewTenant(cell["slug"] or "", cell["name"], cell["key"], cell["plan"] or DEFAULT_PLAN)
    try:
        return Line(number, await parse_tenant(control, tenant), parse_isolation(cell["isolation"]), cell["shard"])
    except TenantryError as error:
        faults.add(number, error)
        return None


async def _not_taken(
    control: Control, lines: Sequence[Line], skip_existing: bool, faults: _Faults
) -> tuple[list[Line], int]:
    """The lines of tenants that are not there yet, and how many are."""
    plans = {row["name"] for row in await control.store.fetch("plans")}
    shards = {row["name"]: row["state"] for row in await control.store.fetch("shards")}
    key_type = (await control.store.house()).key_type
    slugs, keys = await _taken(control, lines)
    seen: dict[tuple[str, Any], int] = {}
    kept, skipped = [], 0
    for line in lines:
        tenant = line.tenant
        there = slugs.get(tenant.slug)
        if skip_existing and there is not None and tenant.key in (None, parse_key(there, key_type)):
            skipped += 1
            continue
        if error := _fault(line, plans, shards, slugs, keys) or _twice(line, seen):
            faults.add(line.number, error)
        kept.append(line)
    return kept, skipped


async def _taken(control: Control, lines: Sequence[Line]) -> tuple[dict[str, str], set[str]]:
    """The slugs in use, each with its key, and the keys that are or were in use."""
    slugs: dict[str, str] = {}
    keys: set[str] = set()
    for start in range(0, len(lines), _LOOKUP):
        some = [line.tenant for line in lines[start : start + _LOOKUP]]
        wanted = [str(tenant.key) for tenant in some if tenant.key is not None]
        for row in await control.store.fetch("taken", {"slugs": [tenant.slug for tenant in some], "keys": wanted}):
            keys.add(row["key"])
            if row["slug"] is not None:
                slugs[row["slug"]] = row["key"]
    return slugs, keys


def _fault(
    line: Line, plans: set[str], shards: Mapping[str, str], slugs: Mapping[str, str], keys: set[str]
) -> TenantryError | None:
    tenant = line.tenant
    if tenant.plan not in plans:
        return PlanNotFound(f"there is no plan {shown(tenant.plan)}")
    if line.shard is not None and line.shard not in shards:
        return ShardNotFound(f"there is no shard {shown(line.shard)}")
    if line.shard is not None and shards[line.shard] != ShardState.OPEN:
        return NoCapacity(f"the shard {line.shard!r} is closed", hint=f"'tenantry shard open {line.shard}'")
    if tenant.slug in slugs:
        return SlugTaken(f"the slug {tenant.slug!r} is taken", hint="pass over what is there with --skip-existing")
    if tenant.key is not None and str(tenant.key) in keys:
        return KeyTaken(f"the key {str(tenant.key)!r} is taken", hint="a deleted tenant's key is never used again")
    return None


def _twice(line: Line, seen: dict[tuple[str, Any], int]) -> Conflict | None:
    for what, value in (("slug", line.tenant.slug), ("key", line.tenant.key)):
        first = seen.setdefault((what, value), line.number) if value is not None else line.number
        if first != line.number:
            return Conflict(f"the {what} {shown(str(value))} stands on line {first} already", hint="remove one of them")
    return None


async def _batches(control: Control, lines: Sequence[Line]) -> list[tuple[Isolation, str | None, list[Line]]]:
    """Lines that can be created together: one level, one shard, few enough to show progress.

    Those with a key come first, so that no number that is drawn for another is one of theirs.
    """
    plans = {row["name"]: Isolation(row["isolation"]) for row in await control.store.fetch("plans")}
    groups: dict[tuple[Isolation, str | None], list[Line]] = defaultdict(list)
    batches = []
    for keyless in (False, True):
        groups.clear()
        for line in lines:
            if (line.tenant.key is None) is keyless:
                groups[line.isolation or plans[line.tenant.plan], line.shard].append(line)
        for (level, shard), group in groups.items():
            size = _POOLED_BATCH if level is Isolation.POOLED else _OWN_BATCH
            batches += [(level, shard, group[start : start + size]) for start in range(0, len(group), size)]
    return batches
